"""Long-term postfilter (LTPF): noise between the harmonics of voiced speech is turned down.

::

    dequantized spectrum ─► inverse MDCT ─► correlation ─► lag, periodicity ─► enhancer
                                                             │                   │ gain per band
                                                             ▼                   ▼
    enhanced spectrum / (1 + gain) ─► inverse MDCT ─► x ─(+)─► y
                                                      └► band filters ─► x[n - lag] * gain ─┘

The lag is found in what both the trainer and the decoder have before the enhancer. It costs no
bits. The filter looks back only, so it adds no delay.

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

import numpy as np

from codec.config import HOP_LENGTH, NUM_LTPF_BANDS, SAMPLE_RATE
from codec.dsp.fixed import on_grid
from codec.jit import kernel
from codec.records import record

MIN_LAG, MAX_LAG = 32, 320  # samples: 500 Hz to 50 Hz
WINDOW = 320  # samples that are compared with those one lag before
FRAME = WINDOW + MAX_LAG
# Bands of the filter, Hz. Above, speech is not periodic enough for lags of whole samples.
BAND_LIMITS = (0, 1000, 2400, 4500)
TAPS = 33  # a half length of 16 samples stays below the smallest lag
REACH = TAPS // 2
FADE = 64  # samples over which one segment's filter goes over to the next
HISTORY = MAX_LAG + REACH  # samples of the past that a segment looks at
# A lag twice as long matches as well; the shorter one is meant.
LAG_BIAS = 1.0 / 4000


def band_filters() -> np.ndarray:
    """Return the linear-phase filters of the bands, float64 [bands, TAPS].

    Hamming-windowed differences of two sincs, scaled to 1 at the middle of the band (at 0 Hz for
    the lowest one).
    """
    n = np.arange(TAPS) - REACH
    window = 0.54 + 0.46 * np.cos(np.pi * n / REACH)
    edges = 2.0 * np.array(BAND_LIMITS) / SAMPLE_RATE
    low_pass = edges[:, None] * np.sinc(edges[:, None] * n)
    filters = (low_pass[1:] - low_pass[:-1]) * window
    middle = np.where(edges[:-1] == 0, 0.0, 0.5 * (edges[1:] + edges[:-1]))
    gain = (filters * np.cos(np.pi * middle[:, None] * n)).sum(1, keepdims=True)
    return on_grid(filters / gain)


def band_response() -> np.ndarray:
    """Return the gain of each band's filter at the centres of the MDCT bins, float32 [bands, N]."""
    k = (np.arange(HOP_LENGTH) + 0.5) / HOP_LENGTH
    cosine = np.cos(np.pi * (np.arange(TAPS)[:, None] - REACH) * k)
    return np.maximum(on_grid(band_filters() @ cosine), 0.0).astype(np.float32)


_FILTERS = band_filters().astype(np.float32)


# What one segment leaves to the next.
FILTER_STATE = record(
    past=(np.float32, HISTORY),  # finished samples before the filter
    bands=(np.float32, (NUM_LTPF_BANDS, HISTORY)),  # the same, filtered, REACH samples later
    lag=np.int64,  # of the last segment; 0 stands for MIN_LAG, before the first one
    gain=(np.float32, NUM_LTPF_BANDS),
)


@kernel
def track_pitch(frame):
    """Find the lag at which the last 20 ms of ``frame`` resemble the past most.

    Parameters
    ----------
    frame : float32 [FRAME]   finished samples

    Returns
    -------
    periodicity : float32   normalised correlation at the lag, 0..1
    lag : int               samples, MIN_LAG..MAX_LAG - 1; the first of several that are as good
    """
    count = MAX_LAG - MIN_LAG
    # correlation[i] belongs to the lag MAX_LAG - 1 - i, so that i and the samples run together.
    correlation = np.zeros(count, np.float32)
    for n in range(0, WINDOW, 8):  # eight samples at a time, added in their order
        x, y = frame[MAX_LAG + n : MAX_LAG + n + 8], frame[n + 1 : n + count + 8]
        a, b, c, d, e, f, g, h = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
        for i in range(count):
            total = (((correlation[i] + a * y[i]) + b * y[i + 1]) + c * y[i + 2]) + d * y[i + 3]
            total = (((total + e * y[i + 4]) + f * y[i + 5]) + g * y[i + 6]) + h * y[i + 7]
            correlation[i] = total
    own = np.float64(0.0)
    for n in range(WINDOW):
        own += np.float64(frame[MAX_LAG + n]) * np.float64(frame[MAX_LAG + n])
    energy = np.float64(0.0)
    for n in range(1, WINDOW + 1):
        energy += np.float64(frame[n]) * np.float64(frame[n])
    best, best_lag, similarity = -2.0, MIN_LAG, 0.0
    for i in range(count):
        lag = MAX_LAG - 1 - i
        if i > 0:
            gone, come = np.float64(frame[i]), np.float64(frame[i + WINDOW])
            energy = max(energy + (come * come - gone * gone), 0.0)
        value = np.float64(correlation[i]) / np.sqrt(max(own * energy, 1e-24))
        biased = value * (1.0 - LAG_BIAS * lag)
        if biased >= best:
            best, best_lag, similarity = biased, lag, value
    return np.float32(min(max(similarity, 0.0), 1.0)), best_lag


@kernel
def postfilter(state, samples, lag, gain, out):
    """Add the past, one lag before, band by band; the state moves on.

    ``y[n] = x[n] + sum over bands of gain_b (h_b * x)[n - lag]``; lag and gain fade over from those
    of the segment before within the first 64 samples.

    Parameters
    ----------
    state : FILTER_STATE
    samples : float32 [N]     the segment
    lag : int
    gain : float32 [bands]    0..1
    out : float32 [N]         result
    """
    size = samples.size
    # Samples from HISTORY - 2 REACH before the segment on, as far as the filters' new outputs need.
    x = np.empty(2 * REACH + size, np.float32)
    for n in range(2 * REACH):
        x[n] = state.past[HISTORY - 2 * REACH + n]
    for n in range(size):
        x[2 * REACH + n] = samples[n]
    before = max(state.lag, MIN_LAG)
    for n in range(size):
        out[n] = samples[n]
    filtered = np.empty(HISTORY + size, np.float32)
    for b in range(NUM_LTPF_BANDS):
        for n in range(HISTORY):
            filtered[n] = state.bands[b, n]
        fresh = filtered[HISTORY:]
        for n in range(size):
            fresh[n] = 0
        for t in range(TAPS):
            h = _FILTERS[b, t]
            for n in range(size):
                fresh[n] += h * x[n + t]
        for n in range(HISTORY):
            state.bands[b, n] = filtered[size + n]
        # filtered[HISTORY + REACH + n - lag] is the band's sample one lag before sample n.
        now, last = HISTORY + REACH - lag, HISTORY + REACH - before
        new_gain, old_gain = gain[b], state.gain[b]
        for n in range(FADE):
            fade = (np.float32(n) + np.float32(0.5)) / np.float32(FADE)
            begun = fade * new_gain * filtered[now + n]
            out[n] += begun + (np.float32(1.0) - fade) * old_gain * filtered[last + n]
        for n in range(FADE, size):
            out[n] += new_gain * filtered[now + n]
        state.gain[b] = new_gain
    state.lag = lag
    for n in range(HISTORY - size):
        state.past[n] = state.past[n + size]
    for n in range(size):
        state.past[HISTORY - size + n] = samples[n]
