"""MDCT coefficients of a frame: quantize, price, write, read.

A frame's coefficients are those of two blocks, or the even and the odd ones of a long block: the
same code for both, with other contexts.

Decoding walks over the levels with three calls of the context model: ``start_block`` for each
block, ``predict`` before and ``update`` after each level. Encoding, which knows them all, has
``predict_block`` instead.

A level is coded as the symbol of its magnitude, raw bits where a symbol stands for several
magnitudes, an Exp-Golomb code beyond the last one, and the sign.
"""

from __future__ import annotations

import numpy as np

from codec.coding.context import (
    MAGNITUDE_LIMIT,
    mixed_cdf,
    predict,
    predict_block,
    rescale,
    start_block,
    update,
)
from codec.coding.range_coder import dec_bits, dec_consume, dec_target, enc_bits, enc_symbol
from codec.config import (
    BLOCKS_PER_FRAME,
    HOP_LENGTH,
    MAGNITUDE_BASE,
    MAGNITUDE_EXTRA_BITS,
    NUM_BLOCK_KINDS,
    NUM_SYMBOLS,
    ROUNDING,
)
from codec.dsp.fixed import exp2_q8
from codec.jit import kernel
from codec.model import COST_ONE, TOTAL_BITS

LEVEL_LIMIT = np.float32(4000.0)
# No coefficient of a sound within the reader's limits is as large as this; hostile files are.
COEFFICIENT_LIMIT = np.float32(2.0**24)
ESCAPE_ORDER, MAX_ESCAPE_BITS = 2, 12  # of the Exp-Golomb code

SYMBOL_BASE = np.array(MAGNITUDE_BASE, np.int64)
SYMBOL_BITS = np.array(MAGNITUDE_EXTRA_BITS, np.int64)
# Raw bits that follow a symbol, sign included, in 1/256 bit.
RAW_COST = COST_ONE * (SYMBOL_BITS + (SYMBOL_BASE > 0))
_ROUNDING = np.float32(ROUNDING)


@kernel
def magnitude_symbol(magnitude):
    """Return the symbol of a magnitude >= 0."""
    if magnitude < 16:
        return magnitude
    symbol = 16
    while symbol < NUM_SYMBOLS - 1 and SYMBOL_BASE[symbol + 1] <= magnitude:
        symbol += 1
    return symbol


@kernel
def _escape_length(value):
    """Return n of the Exp-Golomb code of ``value`` >= 0: 2 n - 1 bits."""
    v = value + (1 << ESCAPE_ORDER)
    n = 0
    while v >> (n + 1) > 0:
        n += 1
    return n


@kernel
def _put_escape(coder, data, value):
    """Write ``value`` >= 0 as an Exp-Golomb code of order 2: zeros, a one, and the rest."""
    n = _escape_length(value)
    for _ in range(n - ESCAPE_ORDER):
        enc_bits(coder, data, 0, 1)
    enc_bits(coder, data, 1, 1)
    enc_bits(coder, data, value + (1 << ESCAPE_ORDER) - (1 << n), n)


@kernel
def _get_escape(coder, data):
    n = ESCAPE_ORDER
    while n < MAX_ESCAPE_BITS and dec_bits(coder, data, 1) == 0:
        n += 1
    return (1 << n) + dec_bits(coder, data, n) - (1 << ESCAPE_ORDER)


@kernel
def look_around(model, state, frame_bits, last_scale):
    """Note what the context model knows before a frame's first level, in ``state.known``.

    Parameters
    ----------
    model : record           stage ``context`` of the coding model
    state : record           of ``frame.state_dtype``, its frame with scale, step and delta
    frame_bits : int         log2 of the frame's bits, Q10
    last_scale : int32 [N]   log2 Laplace scale of the last frame, Q8
    """
    known, frame, past = state.known, state.frame, state.past
    for k in range(HOP_LENGTH):
        known.ratio[k] = frame.log_scale[k] - frame.log_step[k]
        known.last_ratio[k] = last_scale[k] - frame.log_step[k]
    known.frame_bits = frame_bits
    known.kind = NUM_BLOCK_KINDS * past.long + BLOCKS_PER_FRAME * frame.long
    known.delta = frame.delta
    known.last_delta = past.delta
    for i in range(BLOCKS_PER_FRAME):
        rescale(model, past.magnitude[i], past.log_step, frame.log_step, known.past[i])


@kernel
def next_block(known, levels):
    """Move the neighbourhood past a frame's first block."""
    for k in range(HOP_LENGTH):
        known.past[1, k] = known.past[0, k]
        known.past[0, k] = min(np.int64(abs(levels[k])), MAGNITUDE_LIMIT) << 4


@kernel
def quantize(spectrum, log_step, levels):
    """Divide both blocks by their steps and round with a dead zone.

    Parameters
    ----------
    spectrum : float32 [2, N]
    log_step : int32 [N]       Q8 octaves
    levels : int32 [2, N]      result
    """
    for k in range(HOP_LENGTH):
        inverse = exp2_q8(-log_step[k])
        for block in range(BLOCKS_PER_FRAME):
            ratio = spectrum[block, k] * inverse
            level = np.int32(min(abs(ratio), LEVEL_LIMIT) + _ROUNDING)
            levels[block, k] = -level if ratio < 0 else level


@kernel
def dequantize(levels, log_step, spectrum):
    """Multiply levels by their steps; shapes as in :func:`quantize`."""
    for k in range(HOP_LENGTH):
        width = exp2_q8(log_step[k])
        for block in range(BLOCKS_PER_FRAME):
            value = np.float32(levels[block, k]) * width
            spectrum[block, k] = min(max(value, -COEFFICIENT_LIMIT), COEFFICIENT_LIMIT)


@kernel
def mark_uncoded(levels, long, uncoded):
    """Write 1 where nothing was coded, else 0, for the two blocks of a frame; float32 [2, N].

    Both coefficients of a long block at a frequency tell of both of its halves.
    """
    for k in range(HOP_LENGTH):
        first, second = levels[0, k] == 0, levels[1, k] == 0
        if long:
            first = second = first and second
        uncoded[0, k] = np.float32(1.0) if first else np.float32(0.0)
        uncoded[1, k] = np.float32(1.0) if second else np.float32(0.0)


@kernel
def level_cost(model, magnitude, index, fine_row, fine_column):
    """Return the bits x 256 of a level whose distribution lies at this position."""
    symbol = magnitude_symbol(magnitude)
    high = mixed_cdf(model.cdf, index, fine_row, fine_column, symbol + 1)
    frequency = high - mixed_cdf(model.cdf, index, fine_row, fine_column, symbol)
    cost = np.int64(model.cost[frequency]) + RAW_COST[symbol]
    if symbol == NUM_SYMBOLS - 1:
        cost += (2 * _escape_length(magnitude - SYMBOL_BASE[symbol]) - 1) * COST_ONE
    return cost


@kernel
def price(model, state):
    """Return the code length of the frame's levels in 1/256 bit.

    Notes where each level's distribution is in ``state.positions``, for :func:`put`; the features
    of all levels stay in ``state.context``.

    Parameters
    ----------
    model : record   stage ``context`` of the coding model
    state : record   of ``frame.state_dtype``; ``known`` moves on to block 1
    """
    known, context, levels = state.known, state.context, state.frame.levels
    total = np.int64(0)
    for block in range(BLOCKS_PER_FRAME):
        if block > 0:
            next_block(known, levels[block - 1])
        positions = state.positions[block]
        predict_block(model, known, block, context, levels[block], positions)
        for k in range(HOP_LENGTH):
            index, row, column = positions[k, 0], positions[k, 1], positions[k, 2]
            total += level_cost(model, np.int64(abs(levels[block, k])), index, row, column)
    return total


@kernel
def put(model, state, coder, data):
    """Code the frame's levels with the distributions that :func:`price` found."""
    levels, positions = state.frame.levels, state.positions
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            level, position = np.int64(levels[block, k]), positions[block, k]
            index, row, column = position[0], position[1], position[2]
            magnitude = abs(level)
            symbol = magnitude_symbol(magnitude)
            low = mixed_cdf(model.cdf, index, row, column, symbol)
            high = mixed_cdf(model.cdf, index, row, column, symbol + 1)
            enc_symbol(coder, data, low, high, TOTAL_BITS)
            if symbol == NUM_SYMBOLS - 1:
                _put_escape(coder, data, magnitude - SYMBOL_BASE[symbol])
            elif SYMBOL_BITS[symbol] > 0:
                enc_bits(coder, data, magnitude - SYMBOL_BASE[symbol], SYMBOL_BITS[symbol])
            if magnitude > 0:
                enc_bits(coder, data, 1 if level < 0 else 0, 1)


@kernel
def _get_level(model, position, coder, data):
    """Decode one level."""
    index, row, column = position
    target = dec_target(coder, TOTAL_BITS)
    symbol = 0
    low, high = np.int64(0), np.int64(mixed_cdf(model.cdf, index, row, column, 1))
    while high <= target:
        symbol += 1
        low = high
        high = np.int64(mixed_cdf(model.cdf, index, row, column, symbol + 1))
    dec_consume(coder, data, low, high, TOTAL_BITS)
    magnitude = SYMBOL_BASE[symbol]
    if symbol == NUM_SYMBOLS - 1:
        magnitude += _get_escape(coder, data)
    elif SYMBOL_BITS[symbol] > 0:
        magnitude += dec_bits(coder, data, SYMBOL_BITS[symbol])
    if magnitude > 0 and dec_bits(coder, data, 1) == 1:
        return -magnitude
    return magnitude


@kernel
def get(model, state, coder, data):
    """Decode the frame's levels; ``state.known`` moves on to the second block."""
    known, context, levels = state.known, state.context, state.frame.levels
    for block in range(BLOCKS_PER_FRAME):
        if block > 0:
            next_block(known, levels[block - 1])
        start_block(model, known, block, context)
        for k in range(HOP_LENGTH):
            level = _get_level(model, predict(model, known, context, k), coder, data)
            levels[block, k] = level
            update(model, context, k, abs(level))
