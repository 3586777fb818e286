"""Pitch tracking and comb filter of the decoder: noise between the harmonics is turned down.

::

    dequantized bins ─► inverse MDCT ─► correlation ─► lag, periodicity ─► enhancer
                                                         │                   │ gain per band
                                                         ▼                   ▼
    enhanced spectrum / (1 + gain) ─► inverse MDCT ─► x ─(+)─► y
                                                      └► band filters ─► x[n - lag] * gain ─┘

The lag is found in what both the trainer and the decoder have before the enhancer: the dequantized
bins. It costs no bits. The filter looks back only, so it adds no delay.

A segment is one hop of finished samples: segment j is [(j-1)N, jN), complete as soon as MDCT blocks
j-1 and j are there. Segment 0 lies before the signal.

References
----------
Chen & Gersho, "Adaptive postfiltering for quality enhancement of coded speech", IEEE Trans. SAP
3(1), 1995 (the long-term postfilter).
Büthe et al., "LACE: A light-weight, causal model for enhancing coded speech through adaptive
convolutions", WASPAA 2023 (a network that sets the gains of a comb filter).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.signal import firwin
from torch import Tensor

MIN_LAG, MAX_LAG = 32, 320  # samples: 500 Hz to 50 Hz
WINDOW = 320  # samples that are compared with those one lag before
FRAME = WINDOW + MAX_LAG
FFT_SIZE = 1024
# Bands of the comb filter, Hz. Above, speech is not periodic enough for lags of whole samples.
BAND_LIMITS = (0, 1000, 2400, 4500)
NUM_COMB_BANDS = len(BAND_LIMITS) - 1
TAPS = 33  # a half length of 16 samples stays below the smallest lag
FADE = 64  # samples over which one segment's filter goes over to the next
HISTORY = MAX_LAG + TAPS // 2  # samples of the past that a segment looks at
# A lag twice as long matches as well; the shorter one is meant.
LAG_BIAS = 1.0 / 4000


@lru_cache(maxsize=1)
def band_filters() -> Tensor:
    """Return the linear-phase filters of the comb's bands, float32, shape [bands, TAPS]."""
    with torch.inference_mode(False):
        filters = []
        for low, high in zip(BAND_LIMITS[:-1], BAND_LIMITS[1:], strict=True):
            edges = [low, high] if low else high
            filters.append(firwin(TAPS, edges, fs=16000, pass_zero=low == 0, scale=True))
        return torch.from_numpy(np.stack(filters).astype(np.float32))


def band_response(hop_length: int) -> Tensor:
    """Return the gain of each band's filter at the centres of the MDCT bins, [bands, N]."""
    n = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    k = (torch.arange(hop_length, dtype=torch.float64) + 0.5) / hop_length
    cosines = torch.cos(torch.pi * n[:, None] * k)
    return (band_filters().double() @ cosines).float().clamp_min(0.0)


@torch.no_grad()
def track_pitch(waveform: Tensor, hop_length: int) -> tuple[Tensor, Tensor]:
    """Find the lag at which the last 20 ms before each segment's end resemble the past most.

    Parameters
    ----------
    waveform : float Tensor, shape [B, FRAME - N + S * N]   S segments and what lies before them
    hop_length : int

    Returns
    -------
    lag : int64 Tensor, shape [B, S]           samples, MIN_LAG..MAX_LAG - 1
    periodicity : float Tensor, shape [B, S]   normalised correlation there, 0..1
    """
    frames = waveform.unfold(-1, FRAME, hop_length)  # [B, S, FRAME]
    target = frames[..., MAX_LAG:]
    spectrum = torch.fft.rfft(frames, FFT_SIZE)
    other = torch.fft.rfft(torch.nn.functional.pad(target, (MAX_LAG, 0)), FFT_SIZE)
    correlation = torch.fft.irfft(spectrum.conj() * other, FFT_SIZE)[..., MIN_LAG:MAX_LAG]
    total = torch.nn.functional.pad(frames.square().cumsum(-1), (1, 0))  # [..., FRAME + 1]
    energy = total[..., WINDOW + 1 :] - total[..., 1 : MAX_LAG + 1]  # of lags MAX_LAG - 1 .. 0
    energy = energy.flip(-1)[..., MIN_LAG:MAX_LAG]
    own = target.square().sum(-1, keepdim=True)
    similarity = correlation / (own * energy).clamp_min(1e-24).sqrt()
    lags = torch.arange(MIN_LAG, MAX_LAG, device=waveform.device)
    # Rounded, so that machines agree on which of two equally good lags is the first.
    biased = torch.round(similarity * (1.0 - LAG_BIAS * lags) * 1e6)
    best = biased.argmax(-1, keepdim=True)
    periodicity = similarity.gather(-1, best)[..., 0].clamp(0.0, 1.0)
    return best[..., 0] + MIN_LAG, periodicity


def comb_filter(waveform: Tensor, lag: Tensor, gain: Tensor, hop_length: int) -> Tensor:
    """Add the past, one lag before, band by band.

    ``y[n] = x[n] + sum over bands of gain_b (h_b * x)[n - lag]``; lag and gain fade over from those
    of the segment before within the first 64 samples of each.

    Parameters
    ----------
    waveform : float Tensor, shape [B, HISTORY + S * N]   S segments and their history
    lag : int64 Tensor, shape [B, S + 1]                  of the segment before them, and of each
    gain : float Tensor, shape [B, S + 1, bands]
    hop_length : int

    Returns
    -------
    float Tensor, shape [B, S * N]
    """
    batch, length = waveform.shape
    segments = (length - HISTORY) // hop_length
    bands = torch.nn.functional.conv1d(
        waveform[:, None], band_filters().to(waveform)[:, None], padding=TAPS // 2
    )  # [B, bands, HISTORY + S * N]
    start = HISTORY + hop_length * torch.arange(segments, device=waveform.device)

    def past(lags: Tensor, gains: Tensor, count: int) -> Tensor:
        """Return the first ``count`` samples of what every segment's filter adds, [B, S, count]."""
        first = start - lags  # [B, S]
        index = first[..., None] + torch.arange(count, device=waveform.device)
        index = index.flatten(1)[:, None].expand(-1, bands.shape[1], -1)
        taken = bands.gather(-1, index).view(batch, -1, segments, count)
        return torch.einsum("bkst,bsk->bst", taken, gains)

    fade = (torch.arange(FADE, device=waveform.device).to(waveform) + 0.5) / FADE
    added = past(lag[:, 1:], gain[:, 1:], hop_length)
    before = past(lag[:, :-1], gain[:, :-1], FADE)
    begun = added[..., :FADE] * fade + before * (1.0 - fade)
    added = torch.cat([begun, added[..., FADE:]], -1)
    return waveform[:, HISTORY:] + added.flatten(1)
