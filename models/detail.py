"""Detail of the envelope in the training graph: its levels, and their quantization by NSVQ.

::

    waveform ─► shorter window ─► MDCT² + MDST² ─► levels of narrow bands, per block ─┐
    decoded envelope ─► at these bands ────────────────────────────────────────────► (-) ─► detail
    shape of the envelope ─► prediction ─► stages of codewords, as many as the frame's size allows
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.analysis import detail_taper
from codec.coding.detail import DETAIL_LIMIT, SMALLEST_POWER
from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_BITS,
    DETAIL_EDGES,
    DETAIL_FROM_BITS,
    DETAIL_SIZE,
    HOP_LENGTH,
    NUM_BANDS,
    NUM_DETAIL_BANDS,
    NUM_DETAIL_STAGES,
)
from models.dsp import band_interpolation, band_matrix, mdct_matrix, mdst_matrix
from models.msvq import PredictiveMSVQ, affine_fit
from models.quantizers import QuantizerOutput


def detail_stages(frame_bits: Tensor) -> Tensor:
    """Return how many stages describe the detail of frames of so many bits, int64 [...]."""
    return (frame_bits[..., None] >= torch.tensor(DETAIL_FROM_BITS).to(frame_bits)).sum(-1)


def rest_bits(frame_bits: Tensor) -> Tensor:
    """Return the bits that detail leaves to the rest of frames."""
    return frame_bits - DETAIL_BITS * detail_stages(frame_bits)


class DetailMSVQ(PredictiveMSVQ):
    """Quantize the detail of frames, predicted from the decoded shape of their envelope.

    Nothing goes from frame to frame. ``predictor`` is [2 detail bands, bands].
    """

    bands: Tensor
    from_envelope: Tensor
    windowed: Tensor

    def __init__(self, estimator: str = "nsvq") -> None:
        super().__init__(NUM_DETAIL_STAGES, 1 << DETAIL_BITS, DETAIL_SIZE, estimator)
        self.predictor = nn.Parameter(torch.zeros(DETAIL_SIZE, NUM_BANDS))
        self.register_buffer("bands", band_matrix(DETAIL_EDGES), persistent=False)
        expected = self.bands @ band_interpolation()
        self.register_buffer("from_envelope", expected, persistent=False)
        taper = torch.from_numpy(detail_taper()).float()[:, None]
        both = torch.cat([mdct_matrix(), mdst_matrix()], 1)
        self.register_buffer("windowed", taper * both, persistent=False)

    def find(
        self, waveform: Tensor, envelope: Tensor, limit: float = float(DETAIL_LIMIT)
    ) -> Tensor:
        """Return the detail [B, F, 2 detail bands] of waveforms [B, T].

        It is relative to envelopes [B, F, bands], in octaves within ±``limit``.
        """
        batch, frames = envelope.shape[:2]
        length = (frames * BLOCKS_PER_FRAME + 1) * HOP_LENGTH
        padded = waveform.new_zeros(batch, length)
        count = min(waveform.shape[1], length - HOP_LENGTH)
        padded[:, HOP_LENGTH : HOP_LENGTH + count] = waveform[:, :count]
        blocks = padded.unfold(1, 2 * HOP_LENGTH, HOP_LENGTH) @ self.windowed
        power = 0.5 * blocks.square().unflatten(-1, (2, HOP_LENGTH)).sum(-2)  # [B, 2F, N]
        level = 0.5 * torch.log2(power @ self.bands.T + float(SMALLEST_POWER))
        level = level.unflatten(1, (frames, BLOCKS_PER_FRAME))
        detail = level - (envelope @ self.from_envelope.T)[:, :, None]
        return detail.flatten(2).clamp(-limit, limit)

    def quantize(
        self, waveform: Tensor, envelope: Tensor, shape: Tensor, frame_bits: Tensor, hard: bool
    ) -> tuple[Tensor, QuantizerOutput, Tensor]:
        """Return detail as the decoder has it, and what quantization says, and the wanted detail.

        Parameters
        ----------
        waveform : float Tensor, shape [B, T]
        envelope, shape : float Tensor, shape [B, F, bands]   decoded; without its level
        frame_bits : float Tensor, shape [B, F]
        hard : bool

        Returns
        -------
        float Tensor, shape [B, F, 2, detail bands]   0 where frames are too small for any
        QuantizerOutput
        float Tensor, shape [B, F, 2 detail bands]
        """
        stages = detail_stages(frame_bits)
        with torch.no_grad():
            wanted = self.find(waveform, envelope)
            predicted = self.predict(shape)
            indices, _ = self.choose(wanted, predicted, stages)
        out = self.replace(wanted, indices, shape.detach(), stages, hard)
        some, limit = (stages > 0)[..., None], float(DETAIL_LIMIT)
        sent = torch.where(some, out.quantized, 0.0).clamp(-limit, limit)
        # No error where nothing is sent.
        out = out._replace(quantized=sent, hard=torch.where(some, out.hard, wanted))
        return sent.unflatten(-1, (BLOCKS_PER_FRAME, NUM_DETAIL_BANDS)), out, wanted

    @torch.no_grad()
    def initialise_from(self, detail: Tensor, shape: Tensor, iterations: int = 12) -> list[float]:
        """Fit prediction (least squares) and codebooks (k-means) to details of frames [B, F, ...].

        Returns
        -------
        list of float   rms error after each stage, in octaves
        """
        known, wanted = shape.flatten(0, 1), detail.flatten(0, 1)
        solution = affine_fit(known, wanted)
        self.predictor.copy_(solution[:-1].T)
        self.bias.copy_(solution[-1])
        return self._fit_codebooks(wanted - self.predict(known), iterations)
