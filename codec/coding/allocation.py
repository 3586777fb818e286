"""Step allocation: which step size each band gets, and which step the whole frame is expected to.

A small integer network maps the decoded envelope and the frame's bits to an offset of each band's
step from the frame's (noise shaping). Both sides compute, too, the step at which a Laplace source
of this envelope would need the frame's bits; only the difference to the step in use is transmitted.
"""

from __future__ import annotations

import numpy as np

from codec.config import HOP_LENGTH, LOG_ONE, NUM_BANDS, NUM_RATE_KNOTS, NUM_STEP_CONTEXTS
from codec.jit import kernel
from codec.model import COST_ONE

OFFSET_LIMIT = 4 * LOG_ONE  # step offsets are limited softly to ± this
SIDE_BITS = 9  # bits kept for the symbols of step, level and blocks, and the end of the packet
# Rows of the table of step offsets: 160 bits (log2 in Q10), then every half octave.
FIRST_KNOT, KNOT_SHIFT = 7498, 9
SIZE_CENTRE = 8 * 1024  # of the network's input, log2 of the frame's bits in Q10
MAX_DEPTH = 10 * LOG_ONE  # of the expected step below the largest Laplace scale
SHAPE_SHARE = 819  # Q12: 0.2 of the envelope's shape goes into the step


@kernel
def _dense(x, weights, bias, shift, relu, out):
    """Integer layer: out = (x @ weights + bias) >> shift with rounding, ReLU if asked."""
    inputs, outputs = weights.shape
    total = np.empty(outputs, np.int64)
    half = np.int64(1) << (shift - 1)
    for o in range(outputs):
        total[o] = bias[o] + half
    for i in range(inputs):
        v = np.int64(x[i])
        if v != 0:
            for o in range(outputs):
                total[o] += v * weights[i, o]
    for o in range(outputs):
        v = total[o] >> shift
        out[o] = 0 if relu and v < 0 else v


@kernel
def allocate(model, envelope, previous, frame_bits, offset):
    """Write each band's step offset to ``offset`` int32 [bands], Q8 octaves.

    Parameters
    ----------
    model : record           stage ``allocation`` of the coding model
    envelope, previous : int32 [bands]   decoded envelopes of this frame and of the last one, Q8
    frame_bits : int                     0..MAX_FRAME_BITS
    """
    mean = np.int64(0)
    for j in range(NUM_BANDS):
        mean += envelope[j]
    mean //= NUM_BANDS
    x = np.empty(2 * NUM_BANDS + 1, np.int64)
    # A quarter of an octave in Q8 is the same integer as the feature in Q10.
    for j in range(NUM_BANDS):
        x[j] = envelope[j] - mean
        x[NUM_BANDS + j] = previous[j] - mean
    log_bits = np.int64(model.log2_bits[frame_bits])
    x[2 * NUM_BANDS] = log_bits - SIZE_CENTRE
    hidden = model.w1.shape[1]
    h1 = np.empty(hidden, np.int64)
    h2 = np.empty(hidden, np.int64)
    out = np.empty(NUM_BANDS, np.int64)
    _dense(x, model.w1[:], model.b1[:], 12, True, h1)
    _dense(h1, model.w2[:], model.b2[:], 12, True, h2)
    _dense(h2, model.w3[:], model.b3[:], 14, False, out)  # Q10 -> Q8
    size = min(max(log_bits - FIRST_KNOT, 0), (NUM_RATE_KNOTS - 1) << KNOT_SHIFT)
    row = min(size >> KNOT_SHIFT, NUM_RATE_KNOTS - 2)
    t = size - (row << KNOT_SHIFT)
    half = np.int64(1) << (KNOT_SHIFT - 1)
    total = np.int64(0)
    for j in range(NUM_BANDS):
        below = np.int64(model.rate_offsets[row, j])
        above = np.int64(model.rate_offsets[row + 1, j])
        out[j] += (below * ((1 << KNOT_SHIFT) - t) + above * t + half) >> KNOT_SHIFT
        out[j] += (SHAPE_SHARE * (envelope[j] - mean) + 2048) >> 12
        total += out[j]
    total //= NUM_BANDS
    for j in range(NUM_BANDS):
        v = out[j] - total
        limited = (abs(v) * OFFSET_LIMIT) // (OFFSET_LIMIT + abs(v))
        offset[j] = limited if v >= 0 else -limited


@kernel
def interpolate(model, bands, out):
    """Interpolate band values (Q8) linearly at each bin, to ``out`` int32 [N]."""
    for k in range(HOP_LENGTH):
        b = model.interpolation[k, 0]
        t = model.interpolation[k, 1]
        out[k] = (bands[b] * (256 - t) + bands[b + 1] * t + 128) >> 8


@kernel
def log_scale(model, envelope, out):
    """Write the log2 Laplace scale of each coefficient to ``out`` int32 [N], Q8."""
    shifted = np.empty(NUM_BANDS, np.int32)
    for j in range(NUM_BANDS):
        shifted[j] = envelope[j] + model.scale_offset[j]
    interpolate(model, shifted, out)


@kernel
def expected_step(model, scale, relative, budget):
    """Return the step (Q8) at which a Laplace source of this envelope needs ``budget`` bits.

    It lies at most ``MAX_DEPTH`` below the largest scale: where all the power is in a few
    coefficients, finer steps would have levels that no code carries.

    Parameters
    ----------
    model : record           stage ``allocation`` of the coding model
    scale : int32 [N]      log2 Laplace scale, Q8
    relative : int32 [N]   step offsets, Q8
    budget : int           bits of both blocks
    """
    difference = np.empty(HOP_LENGTH, np.int64)
    total, top = np.int64(0), np.int64(scale[0] - relative[0])
    for k in range(HOP_LENGTH):
        difference[k] = scale[k] - relative[k]
        total += difference[k]
        top = max(top, difference[k])
    low = total // HOP_LENGTH - 16 * LOG_ONE
    high = low + 32 * LOG_ONE
    last = model.expected_bits.size - 1
    goal = np.int64(budget) * COST_ONE
    while high - low > 1:
        step = (low + high) >> 1
        total = np.int64(0)
        for k in range(HOP_LENGTH):
            i = ((difference[k] - step) >> 4) + 128
            total += model.expected_bits[min(max(i, 0), last)]
        if 2 * total <= goal:
            high = step
        else:
            low = step
    return max(high, top - MAX_DEPTH)


@kernel
def budget_bits(frame_bits, envelope_bits):
    """Return the Laplace bits that the levels may take in a frame (at 0.88 of Laplace)."""
    return max((frame_bits - envelope_bits - SIDE_BITS) * 291 >> 8, 8)


@kernel
def step_context(delta):
    """Return the distribution of the step delta that follows ``delta``."""
    return min(max((delta + 15) // 6, 0), NUM_STEP_CONTEXTS - 1)
