"""Detail of the envelope in the training graph: its levels, and their quantization by NSVQ.

::

    waveform ─► shorter window ─► MDCT² + MDST² ─► levels of narrow bands, per block ─┐
    decoded envelope ─► at these bands ────────────────────────────────────────────► (-) ─► detail
    shapes of this frame and the last, last detail ─► prediction ─► stages of codewords, as many as
                                                                    the frame's size allows
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
    DETAIL_KNOWN,
    DETAIL_SIZE,
    HOP_LENGTH,
    NUM_BANDS,
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


def with_last(shape: Tensor, first: Tensor) -> Tensor:
    """Return the shapes [B, F, 2 bands] of frames and of those before, of [B, F, bands]."""
    last = torch.cat([first.expand(len(shape), 1, -1), shape[:, :-1]], 1)
    return torch.cat([shape, last], -1)


class DetailMSVQ(PredictiveMSVQ):
    """Quantize the detail of frames, predicted from decoded shapes and the detail before.

    Parameters
    ----------
    estimator : str     one of ``models.quantizers.ESTIMATORS``
    predictive : bool   False: as in intra frames, from the shape of the same frame alone

    Attributes
    ----------
    predictor : Parameter, shape [2 detail bands, DETAIL_KNOWN]   columns: shape of this frame, of
                                                                  the last, detail of the last
    """

    bands: Tensor
    from_envelope: Tensor
    windowed: Tensor

    def __init__(self, estimator: str = "nsvq", predictive: bool = True) -> None:
        super().__init__(NUM_DETAIL_STAGES, 1 << DETAIL_BITS, DETAIL_SIZE, estimator, predictive)
        self.predictor = nn.Parameter(torch.zeros(DETAIL_SIZE, DETAIL_KNOWN))
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

    def known(self, shapes: Tensor, detail: Tensor) -> Tensor:
        """Return what a frame is predicted from, of [..., 2 bands] and [..., 2 detail bands]."""
        known = torch.cat([shapes, detail], -1)
        if self.predictive:
            return known
        return torch.cat([known[..., :NUM_BANDS], torch.zeros_like(known[..., NUM_BANDS:])], -1)

    @torch.no_grad()
    def search_after(
        self, wanted: Tensor, shapes: Tensor, num_stages: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Quantize closed-loop; the first frame follows a detail of zeros.

        Parameters
        ----------
        wanted : float Tensor, shape [B, F, 2 detail bands]
        shapes : float Tensor, shape [B, F, 2 bands]   of each frame and the one before
        num_stages : int64 Tensor, shape [B, F]

        Returns
        -------
        indices : int64 Tensor, shape [B, F, S]
        known : float Tensor, shape [B, F, DETAIL_KNOWN]
        """
        decoded, indices, known = torch.zeros_like(wanted[:, 0]), [], []
        for t in range(wanted.shape[1]):
            known.append(self.known(shapes[:, t], decoded))
            predicted = self.predict(known[-1])
            chosen, decoded = self.choose(wanted[:, t], predicted, num_stages[:, t])
            indices.append(chosen)
        return torch.stack(indices, 1), torch.stack(known, 1)

    def quantize(
        self, wanted: Tensor, shapes: Tensor, frame_bits: Tensor, hard: bool
    ) -> QuantizerOutput:
        """Quantize details [B, F, 2 detail bands]; frames too small for any have what is predicted.

        Parameters
        ----------
        wanted : float Tensor
        shapes : float Tensor, shape [B, F, 2 bands]   of each frame and the one before, decoded
        frame_bits : float Tensor, shape [B, F]
        hard : bool                                    give the hard value, without gradient
        """
        stages = detail_stages(frame_bits)
        indices, known = self.search_after(wanted, shapes.detach(), stages)
        out = self.replace(wanted, indices, known, stages, hard)
        limit = float(DETAIL_LIMIT)
        return out._replace(quantized=out.quantized.clamp(-limit, limit))

    @torch.no_grad()
    def initialise_from(
        self, wanted: Tensor, shapes: Tensor, iterations: int = 12, rounds: int = 3
    ) -> list[float]:
        """Fit prediction (least squares) and codebooks (k-means) to details of frames [B, F, ...].

        The first round knows the past with noise of the expected error, the others as it is
        decoded with two stages.

        Returns
        -------
        list of float   rms error after each stage, in octaves
        """
        last = torch.cat([torch.zeros_like(wanted[:, :1]), wanted[:, :-1]], 1)
        known = self.known(shapes, last + 0.45 * torch.randn_like(last)).flatten(0, 1)
        stages = torch.full(wanted.shape[:2], 2, device=wanted.device)
        errors: list[float] = []
        for number in range(rounds):
            if number > 0:
                known = self.search_after(wanted, shapes, stages)[1].flatten(0, 1)
            solution = affine_fit(known, wanted.flatten(0, 1))
            self.predictor.copy_(solution[:-1].T)
            self.bias.copy_(solution[-1])
            errors = self._fit_codebooks(wanted.flatten(0, 1) - self.predict(known), iterations)
        return errors
