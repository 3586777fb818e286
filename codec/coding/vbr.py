"""Variable bitrate (VBR): which bytes each frame of a signal gets.

The demand of a frame is the geometric mean of two rules, better together than either. First, the
bits that its envelope needs at a step of constant distance to its level to the power
``LEVEL_POWER``: with 0 the noise would have one level in the whole file, and pauses no bits; with 1
every frame would have the same signal-to-noise ratio. Second, the level itself: energy to the power
``ENERGY_EXPONENT``. Both were chosen on validation clips.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from codec.coding.allocation import allocate, interpolate
from codec.coding.detail import bits_of, stages_of
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


@entry
def laplace_bits(model, envelopes, steps, nominal_bits, previous, bits):
    """Write the Laplace bits of consecutive frames at their steps to ``bits``.

    Parameters
    ----------
    model : record                    coding model of predicted frames
    envelopes : float32 [P, >= bands] proposed, Q8: the first NUM_BANDS of what the analysis says
    steps : float64 [P]               Q8 octaves
    nominal_bits : int                of a frame
    previous : int32 [bands]          envelope before the first frame; becomes that of the last one
    bits : float64 [P]                result
    """
    envelope = np.empty(NUM_BANDS, np.int32)
    offset = np.empty(NUM_BANDS, np.int32)
    relative = np.empty(HOP_LENGTH, np.int32)
    scale = np.empty(HOP_LENGTH, np.int32)
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
def wanted_bytes(laplace, kind):
    """Return the bytes that a frame of so many Laplace bits needs with envelope and detail.

    ``kind`` is (nominal bits of a frame, bits of its envelope's indices).
    """
    nominal_bits, envelope_bits = kind
    side_bits = envelope_bits + bits_of(stages_of(nominal_bits))
    return (CODED_SHARE * laplace + side_bits) / 8


@entry
def total_bytes_of(bits, kind, total):
    """Write the bytes of all frames within the limits of a frame to ``total``, float64 [1]."""
    total[0] = 0.0
    for p in range(bits.size):
        total[0] += min(max(wanted_bytes(bits[p], kind), MIN_FRAME_BYTES), MAX_FRAME_BYTES)


@entry
def combine_rules(bits, levels, kind, demand):
    """Write the geometric mean of both rules to ``demand`` float64 [P].

    Parameters
    ----------
    bits : float64 [P]     Laplace bits
    levels : float32 [P]   log2 of the energy; used up
    kind : (nominal bits, envelope bits)   see ``wanted_bytes``
    """
    count = bits.size
    loud = np.sort(levels)[int(LOUD_QUANTILE * (count - 1))]
    for p in range(count):
        levels[p] = ENERGY_EXPONENT * max(levels[p] - loud, np.float32(-9.9657843))
    share = np.empty(count, np.float32)
    exp2(levels, share)
    for p in range(count):
        wanted = max(wanted_bytes(bits[p], kind), 1.0)
        demand[p] = np.sqrt(wanted * share[p])


@entry
def find_levels(energy, levels):
    """Write log2 of ``energy`` [P] to ``levels`` [P]."""
    log2(energy, levels)


def find_demand(
    model: Any,
    envelopes: Iterable[np.ndarray],
    energy: np.ndarray,
    total_bytes: int,
    envelope_bits: int,
) -> np.ndarray:
    """Return what share of the bits each frame wants, float64 [P].

    Parameters
    ----------
    model : record                             coding model of predicted frames
    envelopes : float32 arrays [any, >= bands] proposed, Q8, of all frames in their order; no
                                               iterator, they are gone through again and again
    energy : float32 [P]                       see ``frame_energy``
    total_bytes : int                          of all frames
    envelope_bits : int                        of the envelope's indices of a frame
    """
    count = len(energy)
    levels, bits, demand = np.empty(count, np.float32), np.empty(count), np.empty(count)
    find_levels(energy, levels)
    nominal = min(max(8 * total_bytes // count, 64), MAX_FRAME_BITS)
    kind = (nominal, envelope_bits)
    first = model["envelope"]["initial"] + np.int32(INITIAL_LEVEL * LEVEL_RESOLUTION)
    total = np.zeros(1)
    low, high = -20.0 * LOG_ONE, 20.0 * LOG_ONE
    for _ in range(SEARCH_ROUNDS):
        step = 0.5 * (low + high)
        previous, start = first.astype(np.int32), 0
        for block in envelopes:
            end = start + len(block)
            steps = step + 0.5 * LOG_ONE * LEVEL_POWER * levels[start:end].astype(np.float64)
            laplace_bits(model, block, steps, nominal, previous, bits[start:end])
            start = end
        total_bytes_of(bits, kind, total)
        if total[0] > total_bytes:
            low = step
        else:
            high = step
    combine_rules(bits, levels, kind, demand)
    return demand


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
    model: Any,
    envelopes: Iterable[np.ndarray],
    energy: np.ndarray,
    total_bytes: int,
    envelope_bits: int,
) -> np.ndarray:
    """Return the bytes of every frame of a signal, int64 [P]; for parameters see `find_demand`."""
    sizes = np.zeros(len(energy), np.int64)
    if len(energy):
        demand = find_demand(model, envelopes, energy, total_bytes, envelope_bits)
        share_bytes(demand, total_bytes, sizes)
    return sizes


def frame_energies(spectra: np.ndarray) -> np.ndarray:
    """Return the mean square of every frame's coefficients, float32 [P], of float32 [P, 2, N]."""
    energy = np.empty(len(spectra), np.float32)
    frame_energy(spectra, energy)
    return energy
