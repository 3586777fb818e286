"""The differentiable graph of the whole codec: waveform in, decoded waveform at a given rate out.

::

    waveform ─► MDCT ────────────► block length ─► quantize ─► enhancer ─► inverse MDCT ─► comb
         └────► envelope analysis ─► level, MSVQ (NSVQ) ─┬─► ▲ ▲         ▲
                                                         └► allocation │ │
                          frame bits ─► step search with Laplace bits ───┘

:meth:`CodecNet.forward` is the table of contents; its stages have the names of the runtime's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.config import (
    BLOCKS_PER_FRAME,
    HOP_LENGTH,
    INITIAL_LEVEL,
    INTRA_EXTRA_STAGES,
    LEVEL_RESOLUTION,
    LOG_ONE,
    MAX_LEVEL,
    MIN_LEVEL,
    NUM_BANDS,
    NUM_DETAIL_BANDS,
    ROUNDING,
    CodecConfig,
)
from models import plc, rate_model
from models.allocation import StepAllocation
from models.analysis import EnvelopeAnalysis
from models.detail import DetailMSVQ, rest_bits, with_last
from models.dsp import (
    HISTORY,
    PITCH_FRAME,
    band_interpolation,
    comb_filter,
    hold,
    inverse_mdct,
    mdct,
    quiet_inverse_mdct,
    random_noise,
    to_long,
    to_short,
    track_pitch,
)
from models.enhancer import DecodedFrames, Enhancer
from models.msvq import PredictiveMSVQ
from models.quantizers import QuantizerOutput, either
from models.rate_model import EDGE

LEVELS_PER_OCTAVE = LOG_ONE / LEVEL_RESOLUTION


class CodecOutput(NamedTuple):
    """Result of one pass through :class:`CodecNet`.

    Attributes
    ----------
    waveform : float Tensor, shape [B, T]
    envelope : float Tensor, shape [B, F, bands]    proposed by the analysis
    vq : QuantizerOutput                            of the envelope
    detail : QuantizerOutput                        of the detail,
    wanted_detail : float Tensor, shape [B, F, 2 detail bands]   and what it should be, octaves
    levels : float Tensor, shape [B, F, 2, N]       quantized coefficients, whole numbers
    long : bool Tensor, shape [B, F]                frames that are one block of 2N
    bits : float Tensor, shape [B, F]               hard Laplace bits of the levels
    step : float Tensor, shape [B, F]               octaves
    depth : float Tensor, shape [B, F, bands]       step of each band over its envelope, octaves,
                                                    as the decoder has them
    """

    waveform: Tensor
    envelope: Tensor
    vq: QuantizerOutput
    detail: QuantizerOutput
    wanted_detail: Tensor
    levels: Tensor
    long: Tensor
    bits: Tensor
    step: Tensor
    depth: Tensor


class Quantized(NamedTuple):
    """What :meth:`CodecNet.quantize` returns, all of shape [B, F, 2, N].

    Attributes
    ----------
    levels : whole numbers
    coefficients : levels x step as two blocks, with a gradient for the step
    uncoded : 1 where no level tells anything; while training with a gradient for the step
    """

    levels: Tensor
    coefficients: Tensor
    uncoded: Tensor


def intra_stages(num_stages: Tensor, config: CodecConfig) -> Tensor:
    """Return the envelope stages of intra frames, as the decoder has them."""
    return (num_stages + INTRA_EXTRA_STAGES).clamp_max(config.num_stages)


@torch.no_grad()
def quantize_level(envelope: Tensor) -> Tensor:
    """Return the level that stands for the mean of envelopes [..., bands], octaves [..., 1]."""
    level = torch.round(envelope.mean(-1, keepdim=True) * LEVELS_PER_OCTAVE)
    return level.clamp(MIN_LEVEL, MAX_LEVEL) / LEVELS_PER_OCTAVE


class CodecNet(nn.Module):
    """Hold every network of the codec but the context model, and run them as one graph."""

    interpolation: Tensor

    def __init__(self, config: CodecConfig, estimator: str = "nsvq") -> None:
        super().__init__()
        self.config = config
        self.analysis = EnvelopeAnalysis(config)
        stages, size = config.num_stages, config.codebook_size
        self.msvq = PredictiveMSVQ(stages, size, NUM_BANDS, estimator)
        # Of intra frames; with it everything of the past stays out of the frame.
        self.intra_msvq = PredictiveMSVQ(stages, size, NUM_BANDS, estimator, predictive=False)
        self.detail = DetailMSVQ(estimator)
        self.intra_detail = DetailMSVQ(estimator, predictive=False)
        self.allocation = StepAllocation(config)
        self.enhancer = Enhancer(config)
        # log2 of Laplace scale over band rms; -1/2 is exact for a Laplace distribution.
        self.scale_offset = nn.Parameter(torch.full((NUM_BANDS,), -0.5))
        self.register_buffer("interpolation", band_interpolation(), persistent=False)

    @property
    def quantizers(self) -> tuple[PredictiveMSVQ, ...]:
        """Return every vector quantizer."""
        return self.msvq, self.intra_msvq, self.detail, self.intra_detail

    def forward(
        self,
        waveform: Tensor,
        frame_bits: Tensor,
        num_stages: Tensor,
        hard: bool = False,
        intra: Tensor | None = None,
        lost: Tensor | None = None,
        preroll: int = 0,
    ) -> CodecOutput:
        """Code and decode a batch at the given frame sizes.

        Parameters
        ----------
        waveform : float Tensor, shape [B, T]      T = (2F - 1) * N
        frame_bits : float Tensor, shape [B, F]    bits of each frame, all parts included
        num_stages : int64 Tensor, shape [B]       MSVQ stages of each sequence
        hard : bool                                hard envelope (the last part of training)
        intra : bool Tensor, shape [B]             sequences of intra frames
        lost : bool Tensor, shape [B, F]           frames that the decoder does not get; their
                                                   sequences should be intra
        preroll : int                              first frames; the enhancer learns nothing there

        Returns
        -------
        CodecOutput
        """
        spectrum, envelope = self.analyse(waveform, frame_bits.shape[1])
        vq, previous, num_stages = self.quantize_envelope(envelope, num_stages, hard, intra)
        decoded = vq.quantized
        wanted = self.detail.find(waveform, decoded.detach())
        shape = decoded - quantize_level(envelope)
        detail_vq = self.quantize_detail(wanted, shape, frame_bits, hard, intra)
        detail = detail_vq.quantized.unflatten(-1, (BLOCKS_PER_FRAME, NUM_DETAIL_BANDS))
        frame_bits = rest_bits(frame_bits)
        log_bits = torch.log2(frame_bits)
        offset, relative = self.allocate(decoded, previous, log_bits)
        budget = rate_model.coefficient_budget(frame_bits, num_stages, self.config.codebook_bits)
        coded, long = self.choose_blocks(spectrum, decoded, relative, budget)
        step, bits = self.search_step(coded.abs(), decoded, relative, budget)
        quantized = self.quantize(coded, step[..., None] + relative, long)
        band_step = step[..., None] + offset
        frames = self.conceal(quantized, detail, decoded, band_step, log_bits, long, lost)
        enhanced, comb = self.enhance(frames, random_noise(frames.periodicity), preroll)
        out = self.synthesize(enhanced, frames, comb, waveform.shape[1])
        depth = frames.band_step - frames.envelope
        return CodecOutput(
            out, envelope, vq, detail_vq, wanted, quantized.levels, long, bits, step, depth
        )

    def analyse(self, waveform: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Return spectrum [B, F, 2, N] and proposed envelope [B, F, bands] of [B, T]."""
        spectrum = mdct(waveform, frames * BLOCKS_PER_FRAME)
        spectrum = spectrum.unflatten(1, (frames, BLOCKS_PER_FRAME))
        return spectrum, self.analysis(waveform, spectrum)

    def quantize_envelope(
        self, envelope: Tensor, num_stages: Tensor, hard: bool, intra: Tensor | None
    ) -> tuple[QuantizerOutput, Tensor, Tensor]:
        """Quantize envelopes: their level, and their shape, predicted or as intra frames.

        Returns
        -------
        vq : QuantizerOutput                           of the whole envelope
        previous : float Tensor, shape [B, F, bands]   what the allocation knows of the past
        num_stages : int64 Tensor, shape [B]           stages that were used
        """
        level = quantize_level(envelope)
        shape = envelope - level
        # What is frozen has nothing to learn from noise in its place.
        vq = self.msvq(shape, num_stages, hard or not self.msvq.codebooks.requires_grad)
        if intra is not None:
            num_stages = torch.where(intra, intra_stages(num_stages, self.config), num_stages)
            frozen = not self.intra_msvq.codebooks.requires_grad
            own = self.intra_msvq(shape, num_stages, hard or frozen)
            vq = either(intra, own, vq)
        vq = vq._replace(quantized=vq.quantized + level, hard=vq.hard + level)
        first = self.msvq.initial.expand(len(envelope), 1, -1) + INITIAL_LEVEL / LEVELS_PER_OCTAVE
        previous = torch.cat([first, vq.quantized[:, :-1]], 1)
        if intra is not None:
            # Nothing of the past goes into an intra frame: its own envelope stands in.
            previous = torch.where(intra[:, None, None], vq.quantized, previous)
        return vq, previous, num_stages

    def quantize_detail(
        self, wanted: Tensor, shape: Tensor, frame_bits: Tensor, hard: bool, intra: Tensor | None
    ) -> QuantizerOutput:
        """Quantize the details [B, F, 2 detail bands] of frames with decoded shapes [B, F, bands].

        As envelopes are: predicted, or as those of intra frames.
        """
        shapes = with_last(shape, self.msvq.initial)
        frozen = not self.detail.codebooks.requires_grad
        vq = self.detail.quantize(wanted, shapes, frame_bits, hard or frozen)
        if intra is None:
            return vq
        frozen = not self.intra_detail.codebooks.requires_grad
        own = self.intra_detail.quantize(wanted, shapes, frame_bits, hard or frozen)
        return either(intra, own, vq)

    def allocate(
        self, envelope: Tensor, previous: Tensor, log_bits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return step offsets in octaves, by band [B, F, bands] and by coefficient [B, F, N]."""
        offset = self.allocation(envelope, previous, log_bits)
        return offset, offset @ self.interpolation.T

    @torch.no_grad()
    def choose_blocks(
        self, spectrum: Tensor, envelope: Tensor, relative: Tensor, budget: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what is coded of a spectrum [B, F, 2, N], and which frames are long, bool [B, F].

        A long block's even coefficients stand in place of the first block, the odd ones in place
        of the second. The rule is the encoder's: the lower cost at the step that the envelope
        makes expect.
        """
        log_scale = (envelope + self.scale_offset) @ self.interpolation.T
        step = rate_model.expected_step(log_scale, relative, budget)
        other = to_long(spectrum)
        long = rate_model.takes_fewer_bits(spectrum, other, step[..., None] + relative)
        return torch.where(long[..., None, None], other, spectrum), long

    def search_step(
        self, magnitude: Tensor, envelope: Tensor, relative: Tensor, budget: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the step of each frame, octaves, and the bits that it takes, both [B, F].

        Parameters
        ----------
        magnitude : float Tensor, shape [B, F, 2, N]   |MDCT|
        envelope : float Tensor, shape [B, F, bands]   decoded
        relative : float Tensor, shape [B, F, N]       offsets of the coefficients' steps
        budget : float Tensor, shape [B, F]            Laplace bits
        """
        log_scale = (envelope + self.scale_offset) @ self.interpolation.T
        step = rate_model.bisect_step(magnitude, log_scale, relative, budget)
        with torch.no_grad():
            bits = rate_model.hard_bits(magnitude, log_scale, step[..., None] + relative)
        if self.training:
            step = rate_model.newton_step(step, magnitude, log_scale, relative)
            step = step + rate_model.moved_steps(step)
        return step, bits

    def quantize(self, spectrum: Tensor, log_step: Tensor, long: Tensor) -> Quantized:
        """Quantize coefficients [B, F, 2, N] with steps [B, F, N] (octaves)."""
        width = torch.exp2(log_step)[:, :, None]
        with torch.no_grad():
            ratio = spectrum / width
            levels = ratio.sign() * torch.floor(ratio.abs() + ROUNDING)
            size = ratio.abs()
            # d(level * width)/d(width) = level - ratio * d(level)/d(ratio). Above one step the
            # staircase is taken as a line. Below, a coefficient counts only if it is near the
            # threshold and may change sides: a straight line would ask for finer steps where
            # nothing is ever coded.
            edge = ((size - (1.0 - ROUNDING)).abs() < EDGE).to(size) / (2 * EDGE)
            sensitivity = levels - ratio * torch.where(size < 1.0, edge, 1.0)
        coefficients = (levels * width).detach() + sensitivity * (width - width.detach())
        # What becomes coded loses its noise: the second half of what a finer step buys.
        uncoded = (levels == 0).to(size)
        if self.training:
            soft_zero = (spectrum / width).abs()
            soft_zero = ((1.0 - ROUNDING + EDGE - soft_zero) / (2 * EDGE)).clamp(0.0, 1.0)
            uncoded = uncoded + soft_zero - soft_zero.detach()
        # Both coefficients of a long block at a frequency tell of both of its halves.
        long = long[..., None, None]
        coefficients = torch.where(long, to_short(coefficients), coefficients)
        neither = uncoded[:, :, :1] * uncoded[:, :, 1:]
        uncoded = torch.where(long, neither, uncoded)
        return Quantized(levels, coefficients, uncoded)

    def conceal(
        self,
        quantized: Quantized,
        detail: Tensor,
        envelope: Tensor,
        band_step: Tensor,
        log_bits: Tensor,
        long: Tensor,
        lost: Tensor | None,
    ) -> DecodedFrames:
        """Return the frames as the decoder has them: stand-ins for lost ones, pitch of all.

        Parameters
        ----------
        detail : float Tensor, shape [B, F, 2, detail bands]      octaves; lost frames have none
        envelope, band_step : float Tensor, shape [B, F, bands]   octaves
        log_bits : float Tensor, shape [B, F]
        long : bool Tensor, shape [B, F]
        lost : bool Tensor, shape [B, F], or None
        """
        coefficients, uncoded, loss = quantized.coefficients, quantized.uncoded, None
        dequantized = coefficients.detach().flatten(1, 2)  # [B, 2F, N]
        filled = None
        if lost is not None:
            filled = plc.conceal(dequantized, lost, envelope, band_step, log_bits)
            gone = lost[..., None]
            coefficients = torch.where(
                gone[..., None], filled.coefficients.view_as(coefficients), coefficients
            )
            uncoded = torch.where(gone[..., None], 0.0, uncoded)
            detail = torch.where(gone[..., None], 0.0, detail)
            long = long & ~lost
            envelope = torch.where(gone, filled.envelope, envelope)
            band_step = torch.where(gone, filled.band_step, band_step)
            log_bits = torch.where(lost, filled.log_bits, log_bits)
            dequantized, loss = filled.coefficients, filled.features
        coded = inverse_mdct(dequantized, (dequantized.shape[1] - 1) * HOP_LENGTH)
        # Segment 0 lies before the signal.
        lag, periodicity = track_pitch(torch.nn.functional.pad(coded, (PITCH_FRAME, 0)))
        lag = lag.unflatten(1, (-1, BLOCKS_PER_FRAME))
        periodicity = periodicity.unflatten(1, (-1, BLOCKS_PER_FRAME))
        if filled is not None:
            lag = torch.where(gone, filled.lag[..., None], lag)
            periodicity = torch.where(gone, filled.periodicity[..., None], periodicity)
        return DecodedFrames(
            coefficients,
            uncoded,
            envelope,
            band_step,
            log_bits,
            long,
            lag,
            periodicity,
            detail,
            loss,
        )

    def enhance(
        self, frames: DecodedFrames, noise: Tensor, preroll: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the enhanced spectrum [B, F, 2, N] and comb gains [B, F, 2, comb bands].

        The first ``preroll`` frames have no gradient: they are there to fill the memory.
        """
        if not preroll:
            spectrum, comb, _ = self.enhancer(frames, noise)
            return spectrum, comb
        with torch.no_grad():
            before = self.enhancer(frames.cut(None, preroll), noise[:, :preroll])
        after = self.enhancer(frames.cut(preroll, None), noise[:, preroll:], before[2])
        return torch.cat([before[0], after[0]], 1), torch.cat([before[1], after[1]], 1)

    def synthesize(
        self, spectrum: Tensor, frames: DecodedFrames, comb: Tensor, length: int
    ) -> Tensor:
        """Return the waveform [B, length] of a spectrum, comb filtered."""
        lost = None
        if frames.loss is not None:
            lost = (frames.loss[..., 0] > 0.5).repeat_interleave(BLOCKS_PER_FRAME, 1)
        blocks = spectrum.flatten(1, 2)
        out, limit = quiet_inverse_mdct(blocks, length, lost)
        out = torch.nn.functional.pad(out, (HISTORY, 0))
        return hold(comb_filter(out, frames.lag.flatten(1), comb.flatten(1, 2)), limit)
