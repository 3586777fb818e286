"""Packet-loss concealment in the training graph: the torch twin of the decoder's.

::

    samples before the loss ─► lag ─► last period repeated ─► MDCT ─► coefficients of the lost frame
    last envelope ─► held, then fading; last step ─► held ──────────► its envelope, step
    lost, length of the gap, time since ────────────────────────────► enhancer, which knows

References
----------
ITU-T G.711 Appendix I, 1999 (pitch waveform repetition).
Lecomte et al., "Packet-loss concealment technology advances in EVS", ICASSP 2015 (concealment in
the MDCT domain of a codec with both).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from codec.config import (
    BLOCKS_PER_FRAME,
    FRAME_LENGTH,
    HOP_LENGTH,
    NUM_LOSS_FEATURES,
)
from codec.plc import FADE, FIRST_LOG_BITS, LONGEST_GAP, RECOVERY, SILENCE
from models.dsp import MIN_LAG, PITCH_FRAME, inverse_mdct, mdct_matrix, track_pitch

FADE_OCTAVES, FLOOR = float(FADE), float(SILENCE)


class Concealed(NamedTuple):
    """What :func:`conceal` returns for all frames; the pitch only means something of lost ones.

    Attributes
    ----------
    coefficients : float Tensor, shape [B, 2F, N]     of received frames as they were
    envelope, band_step : [B, F, bands]               octaves
    log_bits, periodicity : [B, F]
    lag : int64 Tensor, shape [B, F]                  samples
    features : float Tensor, shape [B, F, NUM_LOSS_FEATURES]
        lost (0, 1); length of the gap so far, 0..1; 1 in the first frame after it, then halved
    """

    coefficients: Tensor
    envelope: Tensor
    band_step: Tensor
    log_bits: Tensor
    periodicity: Tensor
    lag: Tensor
    features: Tensor


def repeat_period(history: Tensor, lag: Tensor) -> Tensor:
    """Return the MDCT of the two blocks that follow ``history`` if its last period goes on.

    Parameters
    ----------
    history : float64 Tensor, shape [B, L]   finished samples, L >= lag
    lag : int64 Tensor, shape [B]

    Returns
    -------
    float64 Tensor, shape [B, 2, N]
    """
    index = torch.arange(3 * HOP_LENGTH, device=lag.device) % lag[:, None]
    ahead = history.gather(1, history.shape[1] - lag[:, None] + index)  # [B, 3N]
    return ahead.unfold(1, 2 * HOP_LENGTH, HOP_LENGTH) @ mdct_matrix().to(history)


def _overlap_add(signal: Tensor, start: int, windowed: Tensor) -> None:
    """Add a frame's windowed blocks [B, 2, 2N] to signals [B, T], the first one at ``start``."""
    for block in range(BLOCKS_PER_FRAME):
        first = start + block * HOP_LENGTH
        signal[:, first : first + FRAME_LENGTH] += windowed[:, block]


@torch.no_grad()
def conceal(
    coefficients: Tensor, lost: Tensor, envelope: Tensor, band_step: Tensor, log_bits: Tensor
) -> Concealed:
    """Stand in for lost frames as the decoder does.

    Parameters
    ----------
    coefficients : float Tensor, shape [B, 2F, N]   dequantized
    lost : bool Tensor, shape [B, F]
    envelope, band_step : float Tensor, shape [B, F, bands]
    log_bits : float Tensor, shape [B, F]
    """
    batch, frames = lost.shape
    basis = mdct_matrix().to(coefficients.device).double()
    gone = lost.repeat_interleave(BLOCKS_PER_FRAME, 1)[..., None]
    spectrum = coefficients.double().masked_fill(gone, 0.0)
    # Finished samples: before frame f they end at PITCH_FRAME + f * FRAME_LENGTH; one hop more, so
    # that the last frame's blocks find room.
    padded = torch.nn.functional.pad(spectrum, (0, 0, 1, 0))
    coded = inverse_mdct(padded, frames * FRAME_LENGTH)
    coded = torch.nn.functional.pad(coded, (PITCH_FRAME, HOP_LENGTH))
    envelope, band_step, log_bits = envelope.clone(), band_step.clone(), log_bits.clone()
    features = envelope.new_zeros(batch, frames, NUM_LOSS_FEATURES)
    lags = lost.new_full((batch, frames), MIN_LAG, dtype=torch.int64)
    periodicities = log_bits.new_zeros(batch, frames)

    gap = lags.new_zeros(batch)  # frames lost in a row, up to now
    since = lags.new_full((batch,), RECOVERY)  # frames received in a row
    lag, periodicity = lags[:, 0], periodicities[:, 0]
    held_envelope = torch.full_like(envelope[:, 0], FLOOR)
    held_step, held_bits = held_envelope, torch.full_like(log_bits[:, 0], float(FIRST_LOG_BITS))
    for f, some in enumerate(lost.any(0).tolist()):
        away = lost[:, f]
        recovering = ~away & (since < RECOVERY)
        features[:, f, 2] = torch.where(recovering, torch.exp2(-since.to(features)), 0.0)
        if some:
            start = PITCH_FRAME + f * FRAME_LENGTH
            history = coded[:, start - PITCH_FRAME : start]
            first = gap == 0
            found, similarity = track_pitch(history)
            lag = torch.where(first, found[:, 0], lag)
            periodicity = torch.where(first, similarity[:, 0].to(periodicity), periodicity)
            faded = (held_envelope - FADE_OCTAVES).clamp_min(FLOOR)
            held_envelope = torch.where(first[:, None], held_envelope, faded)
            blocks = repeat_period(history, lag)
            blocks = torch.where(first[:, None, None], blocks, blocks * 2.0**-FADE_OCTAVES)
            blocks = blocks * away[:, None, None]
            spectrum[:, 2 * f : 2 * f + 2] += blocks
            _overlap_add(coded, start, blocks @ basis.T)
            features[:, f, 0] = away.to(features)
            features[:, f, 1] = gap.clamp_max(LONGEST_GAP).to(features) / LONGEST_GAP * away
            lags[:, f], periodicities[:, f] = lag, periodicity
        held_envelope = torch.where(away[:, None], held_envelope, envelope[:, f])
        held_step = torch.where(away[:, None], held_step, band_step[:, f])
        held_bits = torch.where(away, held_bits, log_bits[:, f])
        envelope[:, f], band_step[:, f], log_bits[:, f] = held_envelope, held_step, held_bits
        gap = torch.where(away, gap + 1, 0)
        since = torch.where(away, 0, (since + 1).clamp_max(RECOVERY))
    return Concealed(
        spectrum.to(coefficients), envelope, band_step, log_bits, periodicities, lags, features
    )
