"""Context model: the distribution of each level's magnitude, from what is already decoded.

::

    32 features of a coefficient ─► ReLU layer ─► ReLU layer ─► row, column ─► table [rows, columns]
    (envelope / step, neighbours)                              (scale, shape)  of magnitudes

What the model knows of a coefficient: the ratio of envelope to step here and in the frame before,
the magnitudes below it in this block, those around it in the last two blocks (rescaled to this
frame's step), one harmonic spacing below, and how far the step lies from the expected one, which
tells how compressible the whole frame is. The network corrects a baseline: with all weights zero,
the row is that of the envelope over the step. The four tables around the position are mixed.

Most features depend on earlier blocks alone: in the decoder their share of the first layer is
computed for the whole block at once (:func:`start_block`), the rest coefficient by coefficient
(:func:`predict`, :func:`update`). The encoder knows all levels: it does all of a block at once
(:func:`predict_block`).

References
----------
Ballé, Johnston & Minnen, "Integer networks for data compression with latent-variable models",
ICLR 2019 (why the entropy model must be integer).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.config import (
    BAND_EDGES,
    BLOCKS_PER_FRAME,
    HOP_LENGTH,
    LOG_ONE,
    NUM_FEATURES,
    RECENT_FEATURES,
    TABLE_COLUMNS,
    CodecConfig,
)
from codec.jit import kernel
from codec.model import FEATURE_LIMIT, HIDDEN_LIMIT
from codec.product import multiply, multiply_row, padded
from codec.records import record

TABLE_PARTS = 16  # positions between two rows or columns
ROW_OFFSET = 24  # row of a Laplace scale of one step; rows are an eighth of an octave apart
MAGNITUDE_LIMIT = 2000  # as far as neighbours are concerned
COMPRESS_LIMIT = 2047
MAX_HARMONIC_LAG = 20  # coefficients
HARMONIC_TOP = 60  # coefficients below 3 kHz, in which the spacing of harmonics is looked for

# Columns of the features. "Below" are lower coefficients of this block; LAST and BEFORE_LAST are
# the last two blocks, with the distance in coefficients.
(
    F_RATIO, F_LAST_RATIO, F_BELOW_1, F_BELOW_2, F_BELOW_34, F_BELOW_8, F_LAST, F_LAST_DOWN_1,
    F_LAST_UP_1, F_LAST_DOWN_2, F_LAST_UP_2, F_LAST_AROUND, F_BEFORE_LAST, F_BEFORE_LAST_DOWN_1,
    F_BEFORE_LAST_UP_1, F_LAST_DOWN_34, F_LAST_UP_34, F_FRAME_BITS, F_RATIO_UP_4, F_BELOW_12,
    F_RATIO_DOWN_4, F_EXPECTED_8, F_BELOW_32, F_EXPECTED_32, F_BEFORE_LAST_DOWN_2,
    F_BEFORE_LAST_UP_2, F_HARMONIC, F_HARMONIC_DOWN_1, F_HARMONIC_UP_1, F_HARMONIC_STRENGTH,
    F_STEP_DELTA, F_LAST_STEP_DELTA,
) = range(NUM_FEATURES)  # fmt: skip
# Those that depend on levels of their own block, in the order of the packed weights.
RECENT = np.array(RECENT_FEATURES)
BAND_OF_BIN = np.repeat(np.arange(len(BAND_EDGES) - 1), np.diff(BAND_EDGES))

# Running values within a block, see update.
BELOW_1, BELOW_2, BELOW_3, BELOW_4, BELOW_8, BELOW_32, NUM_RUNNING = range(7)
_PAD = MAX_HARMONIC_LAG + 4  # zeros before the first coefficient


# What is known of a frame before its levels are.
NEIGHBOURS = record(
    ratio=(np.int32, HOP_LENGTH),  # Laplace scale over step, Q8: of this envelope,
    last_ratio=(np.int32, HOP_LENGTH),  # and of the last one
    past=(np.int32, (2, HOP_LENGTH)),  # rescaled magnitudes of the last two blocks, Q4; moves on
    frame_bits=np.int64,  # log2 of the frame's bits, Q10
    kind=np.int64,  # of the first block, above those of the last frame
    delta=np.int64,  # step delta of this frame,
    last_delta=np.int64,  # and of the last one
)


def context_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of the work space; all but the features is of one block."""
    hidden = padded(config.context_hidden)
    return record(
        features=(np.int16, (BLOCKS_PER_FRAME, HOP_LENGTH, NUM_FEATURES)),
        block=np.int64,  # 0 or 1 in the frame
        first=(np.int32, HOP_LENGTH * hidden),  # layer 1 without bias; in the decoder of the past
        # Of one coefficient: features that depend on its own block; layer 1 of it.
        recent=(np.int16, len(RECENT_FEATURES) + len(RECENT_FEATURES) % 2),
        sums=(np.int32, hidden),
        # Of one coefficient, the first, or of all: activations; layer 2.
        active=(np.int16, HOP_LENGTH * hidden),
        second=(np.int32, HOP_LENGTH * padded(config.context_hidden // 2)),
        running=(np.int64, NUM_RUNNING),  # magnitudes below, Q4, and their decaying sums
        below=(np.int32, _PAD + HOP_LENGTH),  # compressed magnitudes of this block
        lag=np.int64,  # spacing of harmonics
    )


@kernel
def _compress(model, value):
    """Return 64 log2(1 + v / 8) of a Q4 magnitude."""
    return model.compress[min(value, COMPRESS_LIMIT)]


@kernel
def rescale(model, magnitude, old_step, step, out):
    """Write magnitudes in units of another step, Q4, to ``out``; int32 [N] each, steps in Q8."""
    for k in range(HOP_LENGTH):
        m = np.int64(magnitude[k])
        if m == 0:
            out[k] = 0
        else:
            shift = min(max(old_step[k] - step[k] + 8 * LOG_ONE, 0), 16 * LOG_ONE - 1)
            # exp2 is Q10 of 2^(shift/256 - 8); Q4 of the magnitude wants >> 6.
            out[k] = min((m * model.exp2[shift]) >> 6, 32767)


@kernel
def harmonic_lag(past):
    """Estimate the spacing of harmonics from the last two blocks.

    Returns
    -------
    lag : int        coefficients, 2..20, that maximise the spectrum's autocorrelation up to 3 kHz
    strength : int   Q6, 0..64: how much of the energy repeats at that lag
    """
    top = HARMONIC_TOP
    level = np.empty(top, np.int32)  # 60 products of two fit into int32
    mean = np.int32(0)
    for k in range(top):
        level[k] = min(past[0, k] + past[1, k], 1023)
        mean += level[k]
    mean //= top
    energy = np.int32(1)
    for k in range(top):
        level[k] -= mean
        energy += level[k] * level[k]
    best, best_lag = np.int64(0), 2
    for lag in range(2, MAX_HARMONIC_LAG + 1):
        products = np.int32(0)
        for k in range(lag, top):
            products += level[k] * level[k - lag]
        total = np.int64(products) * top // (top - lag)
        if total > best:
            best, best_lag = total, lag
    return best_lag, min((best * 64) // energy, 64)


@kernel
def _clip(value):
    return min(max(value, -FEATURE_LIMIT), FEATURE_LIMIT)


@kernel
def _static_features(model, known, strength, features):
    """Fill the columns that depend on earlier blocks, envelope and step."""
    last = np.zeros(HOP_LENGTH + 8, np.int64)  # four zeros on each side
    near = np.zeros((2, HOP_LENGTH + 4), np.int16)  # both blocks, compressed; two zeros likewise
    for k in range(HOP_LENGTH):
        last[k + 4] = known.past[0, k]
        near[0, k + 2] = _compress(model, known.past[0, k])
        near[1, k + 2] = _compress(model, known.past[1, k])
    around = last[4] + last[5] + last[6] + last[7]
    # Decaying sums of what the envelope makes expect: a Laplace level's mean is about its scale.
    expected = wider = np.int64(0)
    bits = _clip((known.frame_bits - 8 * 1024) >> 4)
    delta, last_delta = _clip(known.delta * 8), _clip(known.last_delta * 8)
    for k in range(HOP_LENGTH):
        x, i = features[k], k + 4
        around += last[i + 4]
        if k >= 5:
            around -= last[i - 5]
        x[F_RATIO] = _clip(known.ratio[k] >> 2)
        x[F_LAST_RATIO] = _clip(known.last_ratio[k] >> 2)
        x[F_RATIO_UP_4] = _clip(known.ratio[min(k + 4, HOP_LENGTH - 1)] >> 2)
        x[F_RATIO_DOWN_4] = _clip(known.ratio[max(k - 4, 0)] >> 2)
        x[F_LAST] = near[0, k + 2]
        x[F_LAST_DOWN_1] = near[0, k + 1]
        x[F_LAST_UP_1] = near[0, k + 3]
        x[F_LAST_DOWN_2] = near[0, k]
        x[F_LAST_UP_2] = near[0, k + 4]
        x[F_LAST_DOWN_34] = _compress(model, last[i - 3] + last[i - 4]) if k >= 4 else 0
        x[F_LAST_UP_34] = _compress(model, last[i + 3] + last[i + 4]) if k + 4 < HOP_LENGTH else 0
        x[F_LAST_AROUND] = _compress(model, around >> 3)
        x[F_BEFORE_LAST] = near[1, k + 2]
        x[F_BEFORE_LAST_DOWN_1] = near[1, k + 1]
        x[F_BEFORE_LAST_UP_1] = near[1, k + 3]
        x[F_BEFORE_LAST_DOWN_2] = near[1, k]
        x[F_BEFORE_LAST_UP_2] = near[1, k + 4]
        x[F_FRAME_BITS], x[F_STEP_DELTA], x[F_LAST_STEP_DELTA] = bits, delta, last_delta
        x[F_HARMONIC_STRENGTH] = strength
        x[F_EXPECTED_8] = _compress(model, expected >> 3)
        x[F_EXPECTED_32] = _compress(model, wider >> 5)
        shift = min(max(known.ratio[k] + 8 * LOG_ONE, 0), 16 * LOG_ONE - 1)
        scale = model.exp2[shift] >> 6
        expected = expected - (expected >> 3) + scale
        wider = wider - (wider >> 5) + scale


@kernel
def _begin_block(model, known, block, context):
    """Fill what does not depend on the block's own levels."""
    lag, strength = harmonic_lag(known.past)
    context.lag = lag
    context.block = block
    for i in range(NUM_RUNNING):
        context.running[i] = 0
    for i in range(context.below.size):
        context.below[i] = 0
    _static_features(model, known, strength, context.features[block])


@kernel
def start_block(model, known, block, context):
    """Prepare a block whose levels are not known yet; see :func:`predict`.

    Parameters
    ----------
    model : record         stage ``context`` of the coding model
    known : NEIGHBOURS
    block : int            0 or 1 in the frame
    context : record       work space, is filled
    """
    _begin_block(model, known, block, context)
    nothing = np.zeros(context.sums.size, np.int32)
    features = context.features[block]
    multiply(features, 0, NUM_FEATURES, model.known[:], nothing, context.first[:])


@kernel
def _recent_features(model, context, k):
    """Fill the columns of a coefficient that depend on the levels below it in its block."""
    running, below, lag, x = context.running, context.below, context.lag, context.recent
    i = k + _PAD
    x[0], x[1] = below[i - 1], below[i - 2]
    x[2] = _compress(model, (running[BELOW_3] + running[BELOW_4]) >> 1)
    x[3] = _compress(model, running[BELOW_8] >> 3)
    x[4] = _compress(model, (running[BELOW_1] + running[BELOW_2]) >> 1)
    x[5] = _compress(model, running[BELOW_32] >> 5)
    # One harmonic spacing below: a voiced sound has its peaks there, too.
    x[6], x[7] = below[i - lag], below[i - lag - 1]
    x[8] = below[i - lag + 1] if k >= lag else 0
    features = context.features[context.block, k]
    for f in range(RECENT.size):
        features[RECENT[f]] = x[f]


@kernel
def _activate(sums, bias, active):
    """Write what layer 1 hands on: Q16 -> Q8."""
    for o in range(bias.size):
        v = np.int32(sums[o] + bias[o]) >> np.int32(8)
        active[o] = min(max(v, np.int32(0)), np.int32(HIDDEN_LIMIT))


@kernel
def _place(model, second, ratio):
    """Return where in the tables layer 2's sums and the envelope's ratio lead; see `predict`."""
    row, column = np.int64(model.b3[0]), np.int64(model.b3[1])
    for i in range(model.b2.size):
        v = np.int64(min(max(second[i] >> 10, 0), HIDDEN_LIMIT))  # Q18 -> Q8
        row += v * model.w3[i, 0]
        column += v * model.w3[i, 1]
    rows = model.cdf.shape[0] // TABLE_COLUMNS
    # The envelope's ratio is the baseline.
    row = ((row + (1 << 13)) >> 14) + (ratio >> 1) + ROW_OFFSET * TABLE_PARTS
    column = (column + (1 << 13)) >> 14
    row = min(max(row, 0), (rows - 1) * TABLE_PARTS)
    column = min(max(column, 0), (TABLE_COLUMNS - 1) * TABLE_PARTS)
    first_row = min(row >> 4, rows - 2)
    first_column = min(column >> 4, TABLE_COLUMNS - 2)
    return (
        first_row * TABLE_COLUMNS + first_column,
        row - first_row * TABLE_PARTS,
        column - first_column * TABLE_PARTS,
    )


@kernel
def predict(model, known, context, k):
    """Return where in the tables the distribution of coefficient ``k`` is.

    Returns
    -------
    index : int        table below in row and column
    row, column : int  position between it and the next ones, each 0..16
    """
    _recent_features(model, context, k)
    width, bias = context.sums.size, model.band[known.kind + context.block, BAND_OF_BIN[k]]
    active, second = context.active[: bias.size], context.second[: model.bias.size]
    first = context.first[:]
    multiply_row(context.recent[:], model.recent[:], first, k * width, context.sums[:])
    _activate(context.sums[:], bias, active)
    multiply_row(active, model.second[:], model.bias[:], 0, second)
    return _place(model, second, known.ratio[k])


@kernel
def predict_block(model, known, block, context, levels, positions):
    """Do all of a block at once, whose levels are known: what :func:`predict` says of each.

    Parameters
    ----------
    model, known, block, context   as in :func:`start_block`
    levels : int32 [N]
    positions : int32 [N, 3]       result
    """
    _begin_block(model, known, block, context)
    for k in range(HOP_LENGTH):
        _recent_features(model, context, k)
        update(model, context, k, np.int64(abs(levels[k])))
    first, width, half = context.first[:], context.sums.size, model.bias.size
    nothing = np.zeros(width, np.int32)
    multiply(context.features[block], 0, NUM_FEATURES, model.whole[:], nothing, first)
    for k in range(HOP_LENGTH):
        bias = model.band[known.kind + block, BAND_OF_BIN[k]]
        own = slice(k * width, (k + 1) * width)
        _activate(first[own], bias, context.active[own])
    multiply(context.active[:], 0, width, model.second[:], model.bias[:], context.second[:])
    for k in range(HOP_LENGTH):
        own = context.second[k * half : (k + 1) * half]
        index, row, column = _place(model, own, known.ratio[k])
        positions[k, 0], positions[k, 1], positions[k, 2] = index, row, column


@kernel
def update(model, context, k, magnitude):
    """Let the context know the magnitude of coefficient ``k``."""
    running = context.running
    m = min(magnitude, MAGNITUDE_LIMIT) << 4
    running[BELOW_4] = running[BELOW_3]
    running[BELOW_3] = running[BELOW_2]
    running[BELOW_2] = running[BELOW_1]
    running[BELOW_1] = m
    running[BELOW_8] += m - (running[BELOW_8] >> 3)
    running[BELOW_32] += m - (running[BELOW_32] >> 5)
    context.below[k + _PAD] = _compress(model, m)


@kernel
def mixed_cdf(cdf, index, fine_row, fine_column, symbol):
    """Return the cumulative frequency below ``symbol`` between four tables.

    Parameters
    ----------
    cdf : int32 [rows * columns, M + 1]
    index : int                           table on the lower side in row and column
    fine_row, fine_column : int           position to the next ones, 0..16

    A mixture of distributions in which every symbol has a frequency of 1 or more has that, too:
    the weights sum to 256, so neighbours differ by at least 256 before the shift.
    """
    right, left = fine_column, TABLE_PARTS - fine_column
    low = cdf[index, symbol] * left + cdf[index + 1, symbol] * right
    index += TABLE_COLUMNS
    high = cdf[index, symbol] * left + cdf[index + 1, symbol] * right
    return (low * (TABLE_PARTS - fine_row) + high * fine_row) >> 8
