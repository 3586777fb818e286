"""Variable bitrate (VBR): which bytes each frame of a signal gets.

The demand of a frame is the geometric mean of two rules, better together than either. First, the
bits that its envelope needs at a step of constant distance to its level to the power
``LEVEL_POWER``: with 0 the noise would have one level in the whole file, and pauses no bits; with 1
every frame would have the same signal-to-noise ratio. Second, the level itself: energy to the power
``ENERGY_EXPONENT``. Both were chosen on validation clips.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.coding.allocation import allocate, interpolate
from codec.config import (
    HOP_LENGTH,
    INITIAL_LEVEL,
    LEVEL_RESOLUTION,
    LOG_ONE,
    MAX_FRAME_BITS,
    MAX_FRAME_BYTES,
    NUM_BANDS,
)
from codec.dsp.fixed import exp2, log2
from codec.jit import entry, kernel
from codec.model import COST_ONE

MIN_FRAME_BYTES = 12
LEVEL_POWER = 0.5
ENERGY_EXPONENT = np.float32(0.12)
CODED_SHARE = 0.9  # of the Laplace bits
LOUD_QUANTILE = 0.95
SMALLEST_SHARE = np.float32(1e-3)
SEARCH_ROUNDS, SHARE_ROUNDS = 24, 60
_FLOOR = 1e-9  # energy of silence


@entry
def frame_energy(spectra, energy):
    """Write the mean square of every frame's coefficients, float32 [P, 2, N], to ``energy`` [P]."""
    for p in range(spectra.shape[0]):
        total = 0.0
        for block in range(spectra.shape[1]):
            for k in range(spectra.shape[2]):
                total += np.float64(spectra[p, block, k]) * np.float64(spectra[p, block, k])
        energy[p] = np.float32(total / (spectra.shape[1] * spectra.shape[2]) + _FLOOR)


@kernel
def _laplace_bits(model, envelopes, steps, nominal_bits, bits):
    """Write the Laplace bits of every frame at its step, float64 [P], Q8, to ``bits`` [P]."""
    envelope = np.empty(NUM_BANDS, np.int32)
    previous = np.empty(NUM_BANDS, np.int32)
    offset = np.empty(NUM_BANDS, np.int32)
    relative = np.empty(HOP_LENGTH, np.int32)
    scale = np.empty(HOP_LENGTH, np.int32)
    for b in range(NUM_BANDS):
        previous[b] = model.envelope.initial[b] + INITIAL_LEVEL * LEVEL_RESOLUTION
    shaping = model.allocation
    last = shaping.expected_bits.size - 1
    for p in range(envelopes.shape[0]):
        for b in range(NUM_BANDS):
            envelope[b] = np.int32(envelopes[p, b])
        allocate(shaping, envelope, previous, nominal_bits, offset)
        interpolate(shaping, offset, relative)
        interpolate(shaping, envelope, scale)
        total = np.int64(0)
        for k in range(HOP_LENGTH):
            ratio = np.int64(np.floor(scale[k] - relative[k] - steps[p]))
            total += shaping.expected_bits[min(max((ratio >> 4) + 128, 0), last)]
        bits[p] = 2.0 * total / COST_ONE
        for b in range(NUM_BANDS):
            previous[b] = envelope[b]


@kernel
def _total_bytes(bits, envelope_bits):
    """Return the bytes of all frames within the limits of a frame."""
    total = 0.0
    for p in range(bits.size):
        size = (CODED_SHARE * bits[p] + envelope_bits) / 8
        total += min(max(size, MIN_FRAME_BYTES), MAX_FRAME_BYTES)
    return total


@entry
def find_demand(model, envelopes, energy, total_bytes, envelope_bits, demand):
    """Write what share of the bits each frame wants to ``demand`` float64 [P].

    Parameters
    ----------
    model : record                    coding model of predicted frames
    envelopes : float32 [P, bands]    proposed, Q8
    energy : float32 [P]              see ``frame_energy``
    total_bytes : int                 of all frames
    envelope_bits : int               of the indices of a frame
    """
    count = energy.size
    levels = np.empty(count, np.float32)
    log2(energy, levels)
    steps = np.empty(count)
    bits = np.zeros(count)
    nominal = min(max(8 * total_bytes // count, 64), MAX_FRAME_BITS)
    low, high = -20.0 * LOG_ONE, 20.0 * LOG_ONE
    for _ in range(SEARCH_ROUNDS):
        step = 0.5 * (low + high)
        for p in range(count):
            steps[p] = step + 0.5 * LOG_ONE * LEVEL_POWER * levels[p]
        _laplace_bits(model, envelopes, steps, nominal, bits)
        if _total_bytes(bits, envelope_bits) > total_bytes:
            low = step
        else:
            high = step
    loud = np.sort(levels)[int(LOUD_QUANTILE * (count - 1))]
    for p in range(count):
        levels[p] = ENERGY_EXPONENT * max(levels[p] - loud, np.float32(-9.9657843))
    share = np.empty(count, np.float32)
    exp2(levels, share)
    for p in range(count):
        wanted = max((CODED_SHARE * bits[p] + envelope_bits) / 8, 1.0)
        demand[p] = np.sqrt(wanted * share[p])


@entry
def share_bytes(demand, total_bytes, sizes):
    """Share ``total_bytes`` among frames in proportion to their demand, within a frame's limits.

    Parameters
    ----------
    demand : float64 [P]   positive
    total_bytes : int      sum of the result, as far as the limits allow
    sizes : int64 [P]      result
    """
    count = demand.size
    total_bytes = min(max(total_bytes, MIN_FRAME_BYTES * count), MAX_FRAME_BYTES * count)
    smallest = demand[0]
    for p in range(count):
        smallest = min(smallest, demand[p])
    low, high = 0.0, MAX_FRAME_BYTES / max(smallest, 1e-9)
    for _ in range(SHARE_ROUNDS):
        factor = 0.5 * (low + high)
        total = 0.0
        for p in range(count):
            total += min(max(demand[p] * factor, MIN_FRAME_BYTES), MAX_FRAME_BYTES)
        if total < total_bytes:
            low = factor
        else:
            high = factor
    total = 0.0
    for p in range(count):
        total += min(max(demand[p] * high, MIN_FRAME_BYTES), MAX_FRAME_BYTES)
    # Round the running sum, so that the total is met to the byte.
    running, edge = 0.0, np.int64(0)
    for p in range(count):
        running += min(max(demand[p] * high, MIN_FRAME_BYTES), MAX_FRAME_BYTES)
        end = np.int64(np.floor(running * (total_bytes / total) + 0.5))
        sizes[p] = min(max(end - edge, MIN_FRAME_BYTES), MAX_FRAME_BYTES)
        edge = end


def vbr_sizes(
    model: Any, envelopes: np.ndarray, spectra: np.ndarray, total_bytes: int, envelope_bits: int
) -> np.ndarray:
    """Return the bytes of every frame of a signal, int64 [P].

    Parameters
    ----------
    model : record                    coding model of predicted frames
    envelopes : float32 [P, bands]    proposed, Q8
    spectra : float32 [P, 2, N]
    total_bytes : int                 of all frames together
    envelope_bits : int               of the indices of a frame
    """
    count = len(spectra)
    sizes = np.zeros(count, np.int64)
    if count:
        energy, demand = np.empty(count, np.float32), np.empty(count)
        frame_energy(spectra, energy)
        find_demand(model, envelopes, energy, total_bytes, envelope_bits, demand)
        share_bytes(demand, total_bytes, sizes)
    return sizes
