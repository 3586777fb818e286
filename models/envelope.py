"""Envelope front end: LPC envelope and MDCT band energies in, proposed log envelope out.

::

    waveform ─► 480-sample frame per packet ─► LPC (order 16) ─► log2 envelope per band ─┐
    MDCT ─► log2 energy per band and block ───────────────────────────────────────────┐  │
         └► log2 energy per band and packet ──► + ◄── small correction ◄── MLP ◄───────┴──┘
                                               ▼
                                    proposed envelope [B, P, bands], octaves
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.config import CodecConfig
from codec.lpc import lpc_envelope


def band_matrix(config: CodecConfig) -> Tensor:
    """Return the averaging matrix [bands, N]: row b is 1/width inside band b."""
    matrix = torch.zeros(config.num_bands, config.hop_length)
    for b in range(config.num_bands):
        low, high = config.band_edges[b], config.band_edges[b + 1]
        matrix[b, low:high] = 1.0 / (high - low)
    return matrix


def band_of_bin(config: CodecConfig) -> Tensor:
    """Return the band index of each MDCT bin, int64, shape [N]."""
    widths = torch.tensor(config.band_edges).diff()
    return torch.repeat_interleave(torch.arange(config.num_bands), widths)


class EnvelopeAnalysis(nn.Module):
    """Propose the log envelope of each packet (the encoder's side only; float).

    The correction starts at zero, so that an untrained codec already codes band energies.
    """

    bands: Tensor

    def __init__(self, config: CodecConfig, hidden: int = 96) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("bands", band_matrix(config), persistent=False)
        features = config.num_bands * (config.blocks_per_packet + 1)
        self.network = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, config.num_bands)
        )
        nn.init.zeros_(self.network[2].weight)
        nn.init.zeros_(self.network[2].bias)

    def forward(self, waveform: Tensor, spectrum: Tensor) -> Tensor:
        """Return the proposed envelope.

        Parameters
        ----------
        waveform : float Tensor, shape [B, T]          T = (2P - 1) * N samples
        spectrum : float Tensor, shape [B, P, 2, N]    its MDCT

        Returns
        -------
        float Tensor, shape [B, P, bands]   log2 rms amplitude, at least the floor
        """
        hop = self.config.hop_length
        padded = torch.nn.functional.pad(waveform, (hop, hop))
        frames = padded.unfold(-1, 3 * hop, 2 * hop)  # [B, P, 480]: both blocks of a packet
        return self.propose(frames, spectrum)

    def propose(self, frames: Tensor, spectrum: Tensor) -> Tensor:
        """Return the proposed envelope of packets that are already cut.

        Parameters
        ----------
        frames : float Tensor, shape [B, P, 3N]        samples under a packet's two windows
        spectrum : float Tensor, shape [B, P, 2, N]

        Returns
        -------
        float Tensor, shape [B, P, bands]
        """
        config = self.config
        power = spectrum.square() @ self.bands.T  # [B, P, 2, bands]
        floor = 2.0 ** (2 * config.log_floor / config.log_scale)
        energy = 0.5 * torch.log2(power.mean(2) + floor)  # [B, P, bands]
        per_block = 0.5 * torch.log2(power + floor)  # [B, P, 2, bands]

        lpc = lpc_envelope(frames, config.lpc_order, config.sample_rate, config.hop_length)
        lpc_bands = lpc @ self.bands.T  # [B, P, bands]

        mean = energy.mean(-1, keepdim=True)
        features = torch.cat(
            [(per_block - mean[:, :, None]).flatten(2), lpc_bands - energy], dim=-1
        )
        correction = self.network(0.25 * features)
        return (energy + correction).clamp_min(config.log_floor / config.log_scale)
