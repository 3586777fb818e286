"""Envelope front end: LPC envelope and band powers in, proposed log envelope out.

::

    waveform ─► 480 samples per frame ─► LPC (order 16) ─► log2 envelope per band ──────┐
    MDCT² + MDST² ─► log2 power per band and block ──────────────────────────────────┐  │
              └► log2 power per band and frame ──► + ◄── small correction ◄── MLP ◄──┴──┘
                                                   ▼
                                        proposed envelope [B, F, bands], octaves

The power of both transforms does not depend on the phase, as that of the MDCT alone does: it is
what a listener hears as the level of a band, and what the decoder gives back where bits were few.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.analysis import RELATIVE_FLOOR
from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH, LOG_FLOOR, LOG_ONE, NUM_BANDS, CodecConfig
from models.dsp import band_matrix, lpc_envelope, mdst_matrix


class EnvelopeAnalysis(nn.Module):
    """Propose the log envelope of each frame (the encoder's side only; float).

    The correction starts at zero, so that an untrained codec already codes band powers.
    """

    bands: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.register_buffer("bands", band_matrix(), persistent=False)
        hidden = config.analysis_hidden
        features = NUM_BANDS * (BLOCKS_PER_FRAME + 1)
        self.network = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, NUM_BANDS)
        )
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, waveform: Tensor, spectrum: Tensor) -> Tensor:
        """Return the proposed envelope.

        Parameters
        ----------
        waveform : float Tensor, shape [B, T]          T = (2F - 1) * N samples
        spectrum : float Tensor, shape [B, F, 2, N]    its MDCT

        Returns
        -------
        float Tensor, shape [B, F, bands]   log2 rms amplitude, at least the floor
        """
        padded = torch.nn.functional.pad(waveform, (HOP_LENGTH, HOP_LENGTH))
        segments = padded.unfold(-1, 3 * HOP_LENGTH, 2 * HOP_LENGTH)  # [B, F, 3N]: both blocks
        return self.propose(segments, spectrum)

    def propose(self, segments: Tensor, spectrum: Tensor) -> Tensor:
        """Return the proposed envelope of frames that are already cut out.

        Parameters
        ----------
        segments : float Tensor, shape [B, F, 3N]      samples under a frame's two windows
        spectrum : float Tensor, shape [B, F, 2, N]

        Returns
        -------
        float Tensor, shape [B, F, bands]
        """
        blocks = segments.unfold(-1, 2 * HOP_LENGTH, HOP_LENGTH)  # [B, F, 2, 2N]
        quadrature = blocks @ mdst_matrix().to(segments)
        power = 0.5 * (spectrum.square() + quadrature.square()) @ self.bands.T  # [B, F, 2, bands]
        floor = 2.0 ** (2 * LOG_FLOOR / LOG_ONE)
        top = power.mean(2).amax(-1, keepdim=True)
        floor = floor + float(RELATIVE_FLOOR) * top  # [B, F, 1]
        energy = 0.5 * torch.log2(power.mean(2) + floor)  # [B, F, bands]
        per_block = 0.5 * torch.log2(power + floor[:, :, None])  # [B, F, 2, bands]

        lpc_bands = lpc_envelope(segments) @ self.bands.T  # [B, F, bands]
        lpc_bands = torch.maximum(lpc_bands, 0.5 * torch.log2(floor))

        mean = energy.mean(-1, keepdim=True)
        features = torch.cat(
            [(per_block - mean[:, :, None]).flatten(2), lpc_bands - energy], dim=-1
        )
        correction = self.network(0.25 * features)
        return (energy + correction).clamp_min(LOG_FLOOR / LOG_ONE)
