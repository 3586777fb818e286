"""The differentiable graph of the whole codec: waveform in, decoded waveform at a given rate out.

::

    waveform ─► MDCT ─────────────────────────────────► quantize ─► enhancer ─► inverse MDCT
         └────► envelope analysis ─► MSVQ (NSVQ) ─┬──────► ▲ ▲          ▲
                                                  └► allocation │          │
                         packet bits ─► step search with Laplace bits ─────┘

The step search is the rate control of training: for every packet it bisects the step until the
bits meet the packet's budget, then takes one differentiable Newton step, so that the gradient
knows that bits spent in one band coarsen all others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.concealment import NUM_LOSS_FEATURES, Concealment
from codec.config import INTRA_EXTRA_STAGES, CodecConfig
from codec.mdct import inverse_mdct, mdct
from codec.noise import random_noise
from codec.postfilter import FRAME, HISTORY, comb_filter, track_pitch
from models.allocation import StepAllocation
from models.enhancer import Enhancer, bin_interpolation
from models.envelope import EnvelopeAnalysis
from models.msvq import PredictiveMSVQ
from models.quantizers import QuantizerOutput

LOG2E = 1.4426950408889634
# Bits of a packet that are neither envelope nor bins: the step's symbol and the coder's end.
SIDE_BITS = 5.0
# Share of training sequences whose steps are moved away from where the Laplace bits put them, by
# STEP_SPREAD octaves around STEP_MEAN, over runs of STEP_RUN packets: where the envelope fits
# badly, as in digital silence, the context model pays far fewer bits: the true step is octaves
# finer.
MOVED_STEPS, STEP_MEAN, STEP_SPREAD, STEP_RUN = 0.3, -0.4, 0.9, 10
# Half width, in steps, of the zone around the first threshold in which a bin may change sides.
EDGE = 0.2


class CodecOutput(NamedTuple):
    """Result of one pass through :class:`CodecNet`.

    Attributes
    ----------
    waveform : float Tensor, shape [B, T]
    envelope : float Tensor, shape [B, P, bands]    proposed by the analysis
    vq : QuantizerOutput                            of the envelope
    bins : float Tensor, shape [B, P, 2, N]         integers q
    bits : float Tensor, shape [B, P]               hard Laplace bits of the bins
    step : float Tensor, shape [B, P]               octaves
    depth : float Tensor, shape [B, P, bands]       step of each band over its envelope, octaves
    """

    waveform: Tensor
    envelope: Tensor
    vq: QuantizerOutput
    bins: Tensor
    bits: Tensor
    step: Tensor
    depth: Tensor


def laplace_code_lengths(log_scale: Tensor, rounding: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return bits of a zero, bits of a one (with sign), and bits per further unit.

    Parameters
    ----------
    log_scale : float Tensor   log2 of the Laplace scale, in quantizer steps
    rounding : float           q = floor(|x|/step + rounding)
    """
    inverse = torch.exp2(-log_scale.clamp(-3.0, 9.0))
    zero = -torch.log2(-torch.expm1(-(1.0 - rounding) * inverse))
    slope = LOG2E * inverse
    one = 1.0 + (1.0 - rounding) * slope - torch.log2(-torch.expm1(-inverse))
    return zero, one, slope


class Filled(NamedTuple):
    """What :func:`conceal` returns, for all packets; only those of lost ones are of use.

    Attributes
    ----------
    bins : float Tensor, shape [B, 2P, N]     of received packets as they were
    envelope, band_step : [B, P, bands]       octaves
    log_bits, periodicity : [B, P]
    lag : int64 Tensor, shape [B, P]
    features : float Tensor, shape [B, P, NUM_LOSS_FEATURES]
    """

    bins: Tensor
    envelope: Tensor
    band_step: Tensor
    log_bits: Tensor
    periodicity: Tensor
    lag: Tensor
    features: Tensor


@torch.no_grad()
def conceal(
    config: CodecConfig,
    bins: Tensor,
    lost: Tensor,
    envelope: Tensor,
    band_step: Tensor,
    log_bits: Tensor,
) -> Filled:
    """Stand in for lost packets as the decoder does (``codec.concealment``).

    Parameters
    ----------
    bins : float Tensor, shape [B, 2P, N]                 dequantized
    lost : bool Tensor, shape [B, P]
    envelope, band_step : float Tensor, shape [B, P, bands]
    log_bits : float Tensor, shape [B, P]
    """
    batch, packets = lost.shape
    hop = config.hop_length
    device = bins.device
    kept = bins.cpu().double() * ~lost.cpu().repeat_interleave(2, 1)[..., None]
    coded = inverse_mdct(torch.nn.functional.pad(kept, (0, 0, 1, 0)), 2 * packets * hop)
    coded = torch.nn.functional.pad(coded, (FRAME, 0))
    envelope, band_step = envelope.cpu().float().clone(), band_step.cpu().float().clone()
    log_bits = log_bits.cpu().float().clone()
    lag = torch.full((batch, packets), FRAME // 2)
    periodicity = torch.zeros(batch, packets)
    features = torch.zeros(batch, packets, NUM_LOSS_FEATURES)
    for i in range(batch):
        got = Concealment(config).fill(
            ~lost[i].cpu().numpy(), coded[i].numpy(), kept[i].numpy(), envelope[i].numpy(),
            band_step[i].numpy(), log_bits[i].numpy(),
        )  # fmt: skip
        features[i] = torch.from_numpy(got.features)
        for p, pitch in got.pitch.items():
            lag[i, p], periodicity[i, p] = pitch.lag, pitch.periodicity
    values = (kept.to(bins.dtype), envelope, band_step, log_bits, periodicity, lag, features)
    return Filled(*(v.to(device) for v in values))


def intra_stages(num_stages: Tensor, config: CodecConfig) -> Tensor:
    """Return the envelope stages of packets that need no other, as the decoder has them."""
    return (num_stages + INTRA_EXTRA_STAGES).clamp_max(config.num_stages)


def context_ratio(packet_bits: Tensor) -> Tensor:
    """Return what the context model is expected to need of the Laplace model's bits.

    0.88 at 160 bits per packet (8 kbit/s), 0.94 at 640: measured by
    ``experiments/context_saving.py``; the finer the bins, the more of them is incompressible.
    """
    return (0.88 + 0.03 * torch.log2(packet_bits / 160)).clamp(0.86, 0.96)


class CodecNet(nn.Module):
    """Hold every network of the codec but the context model, and run them as one graph."""

    interpolation: Tensor

    def __init__(self, config: CodecConfig, estimator: str = "nsvq") -> None:
        super().__init__()
        self.config = config
        self.analysis = EnvelopeAnalysis(config)
        self.msvq = PredictiveMSVQ(
            config.num_stages, config.codebook_size, config.num_bands, estimator
        )
        # Of packets that need no other; with them everything of the past stays out of the packet.
        self.intra_msvq = PredictiveMSVQ(
            config.num_stages, config.codebook_size, config.num_bands, estimator, predictive=False
        )
        self.allocation = StepAllocation(config)
        self.enhancer = Enhancer(config)
        # log2 of Laplace scale over band rms; -1/2 is exact for a Laplace distribution.
        self.scale_offset = nn.Parameter(torch.full((config.num_bands,), -0.5))
        self.register_buffer("interpolation", bin_interpolation(config), persistent=False)

    def hard_bits(self, magnitude: Tensor, log_scale: Tensor, log_step: Tensor) -> Tensor:
        """Return Laplace bits per packet [B, P] of bins quantized with ``log_step`` [B, P, N].

        ``magnitude`` is |MDCT| [B, P, 2, N], ``log_scale`` the log2 Laplace scale [B, P, N].
        """
        rounding = self.config.rounding
        zero, one, slope = laplace_code_lengths(log_scale - log_step, rounding)
        q = torch.floor(magnitude * torch.exp2(-log_step)[:, :, None] + rounding)
        further = (q - 1.0).clamp_min_(0.0).sum(2)
        count = q.clamp_(max=1.0).sum(2)  # nonzero bins of both blocks, [B, P, N]
        total = zero * (self.config.blocks_per_packet - count) + one * count + slope * further
        return total.sum(-1)

    @torch.no_grad()
    def search_step(
        self, magnitude: Tensor, log_scale: Tensor, relative: Tensor, budget: Tensor
    ) -> Tensor:
        """Return the step [B, P] (octaves) at which the hard bits meet ``budget`` [B, P]."""
        centre = (log_scale - relative).mean(-1)
        low, high = centre - 16.0, centre + 16.0
        for _ in range(12):
            step = 0.5 * (low + high)
            fits = self.hard_bits(magnitude, log_scale, step[..., None] + relative) <= budget
            high = torch.where(fits, step, high)
            low = torch.where(fits, low, step)
        return high

    def forward(
        self,
        waveform: Tensor,
        packet_bits: Tensor,
        num_stages: Tensor,
        hard: bool = False,
        intra: Tensor | None = None,
        lost: Tensor | None = None,
    ) -> CodecOutput:
        """Code and decode a batch at the given packet sizes.

        Parameters
        ----------
        waveform : float Tensor, shape [B, T]       T = (2P - 1) * N
        packet_bits : float Tensor, shape [B, P]    bits of each packet, all parts included
        num_stages : int64 Tensor, shape [B]        MSVQ stages of each sequence
        hard : bool                                 hard envelope (the last part of training)
        intra : bool Tensor, shape [B]              sequences of packets that need no other
        lost : bool Tensor, shape [B, P]            packets that the decoder does not get; their
                                                    sequences should be intra

        Returns
        -------
        CodecOutput
        """
        config = self.config
        batch, length = waveform.shape
        packets = packet_bits.shape[1]
        blocks = packets * config.blocks_per_packet
        spectrum = mdct(waveform, blocks, config.hop_length)
        spectrum = spectrum.view(batch, packets, config.blocks_per_packet, config.hop_length)

        envelope = self.analysis(waveform, spectrum)
        # What is frozen has nothing to learn from noise in its place.
        vq = self.msvq(envelope, num_stages, hard or not self.msvq.codebooks.requires_grad)
        first = self.msvq.initial.expand(batch, 1, -1)
        previous = torch.cat([first, vq.quantized[:, :-1]], 1)
        if intra is not None:
            num_stages = torch.where(intra, intra_stages(num_stages, config), num_stages)
            frozen = not self.intra_msvq.codebooks.requires_grad
            own = self.intra_msvq(envelope, num_stages, hard or frozen)
            chosen = intra[:, None, None]
            previous = torch.where(chosen, own.quantized, previous)
            vq = vq._replace(
                quantized=torch.where(chosen, own.quantized, vq.quantized),
                hard=torch.where(chosen, own.hard, vq.hard),
                auxiliary_loss=vq.auxiliary_loss + own.auxiliary_loss,
            )
        decoded = vq.quantized

        log_bits = torch.log2(packet_bits)
        offset = self.allocation(decoded, previous, log_bits)
        relative = offset @ self.interpolation.T  # [B, P, N]
        log_scale = (decoded + self.scale_offset) @ self.interpolation.T

        # Indices are entropy coded: about one bit less than their width.
        side = (config.codebook_bits - 1) * num_stages[:, None].to(packet_bits) + SIDE_BITS
        budget = ((packet_bits - side) / context_ratio(packet_bits)).clamp_min(8.0)
        magnitude = spectrum.abs()
        step = self.search_step(magnitude, log_scale, relative, budget)
        with torch.no_grad():
            wide = step[..., None] + relative
            bits = self.hard_bits(magnitude, log_scale, wide)
            slope = self.hard_bits(magnitude, log_scale, wide - 0.25)
            slope = 2.0 * (slope - self.hard_bits(magnitude, log_scale, wide + 0.25))
            slope = slope.clamp_min(10.0)
        if self.training:
            soft = self.soft_bits(magnitude, log_scale, step[..., None] + relative)
            step = step + (soft - soft.detach()) / slope
            step = step + self.moved_steps(step)

        log_step = step[..., None] + relative  # [B, P, N]
        width = torch.exp2(log_step)[:, :, None]
        with torch.no_grad():
            ratio = spectrum / width
            q = ratio.sign() * torch.floor(ratio.abs() + config.rounding)
            size = ratio.abs()
            # d(q * width)/d(width) = q - ratio * dq/d(ratio). Above one step the staircase is
            # taken as a line. Below, a bin counts only if it is near the threshold and may change
            # sides: a straight line would ask for finer steps where nothing is ever coded.
            edge = ((size - (1.0 - config.rounding)).abs() < EDGE).to(size) / (2 * EDGE)
            sensitivity = q - ratio * torch.where(size < 1.0, edge, 1.0)
        bins = (q * width).detach() + sensitivity * (width - width.detach())
        # A bin that becomes coded loses its noise: the second half of what a finer step buys.
        uncoded = (q == 0).to(size)
        if self.training:
            soft_zero = (spectrum / width).abs()
            soft_zero = ((1.0 - config.rounding + EDGE - soft_zero) / (2 * EDGE)).clamp(0.0, 1.0)
            uncoded = uncoded + soft_zero - soft_zero.detach()

        noise = random_noise(spectrum)
        band_step = step[..., None] + offset
        hop = config.hop_length
        dequantized = (q * width).detach().flatten(1, 2)
        loss = None
        if lost is not None:
            filled = conceal(config, dequantized, lost, decoded, band_step, log_bits)
            gone = lost[..., None]
            bins = torch.where(gone[..., None], filled.bins.view(bins.shape), bins)
            decoded = torch.where(gone, filled.envelope, decoded)
            band_step = torch.where(gone, filled.band_step, band_step)
            log_bits = torch.where(lost, filled.log_bits, log_bits)
            dequantized, loss = filled.bins, filled.features
        coded = inverse_mdct(dequantized, length)
        # Segment 0 lies before the signal.
        coded = torch.nn.functional.pad(coded, (FRAME, 0))
        lag, periodicity = track_pitch(coded, hop)
        shape = (batch, packets, config.blocks_per_packet)
        lag, periodicity = lag.view(shape), periodicity.view(shape)
        if loss is not None:
            lag = torch.where(gone, filled.lag[..., None], lag)
            periodicity = torch.where(gone, filled.periodicity[..., None], periodicity)
        enhanced, comb, _ = self.enhancer(
            bins, decoded, band_step, log_bits, noise, lag, periodicity, uncoded=uncoded, loss=loss
        )
        lag = lag.flatten(1)
        out = inverse_mdct(enhanced.flatten(1, 2), length)
        out = torch.nn.functional.pad(out, (HISTORY, 0))
        out = comb_filter(out, lag, comb.flatten(1, 2), hop)
        return CodecOutput(out, envelope, vq, q, bits, step, band_step - decoded)

    def moved_steps(self, step: Tensor) -> Tensor:
        """Return by how much to move the steps [B, P] of some sequences, octaves."""
        batch, packets = step.shape
        runs = -(-packets // STEP_RUN)
        move = STEP_MEAN + STEP_SPREAD * torch.randn(batch, runs, device=step.device)
        move = move * (torch.rand(batch, runs, device=step.device) < 0.5)
        move = move * (torch.rand(batch, 1, device=step.device) < MOVED_STEPS)
        return move.repeat_interleave(STEP_RUN, 1)[:, :packets]

    def soft_bits(self, magnitude: Tensor, log_scale: Tensor, log_step: Tensor) -> Tensor:
        """Return Laplace bits [B, P] without rounding: differentiable in step and scale."""
        zero, one, slope = laplace_code_lengths(log_scale - log_step, self.config.rounding)
        ratio = magnitude * torch.exp2(-log_step)[:, :, None]
        part = ratio.clamp_max(1.0).sum(2)
        further = (ratio - 1.0).clamp_min(0.0).sum(2)
        blocks = self.config.blocks_per_packet
        return (zero * (blocks - part) + one * part + slope * further).sum(-1)
