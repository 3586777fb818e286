"""Rate control of a frame: the step size whose levels fill its bytes.

The true cost of a step needs the context model, the most expensive part of the encoder. So steps
are searched with an estimate from the baseline distributions alone (envelope over step), scaled by
the ratio of true cost to estimate, which is known from the frame before and corrected at each true
cost. Two or three of these are enough.
"""

from __future__ import annotations

import numpy as np

from codec.coding import spectrum
from codec.coding.allocation import step_context
from codec.coding.context import ROW_OFFSET, TABLE_PARTS
from codec.coding.frame import look_around, set_step
from codec.coding.spectrum import LEVEL_LIMIT, RAW_COST, level_cost, magnitude_symbol
from codec.config import (
    BLOCKS_PER_FRAME,
    HOP_LENGTH,
    MAX_STEP_DELTA,
    ROUNDING,
    STEP_RESOLUTION,
)
from codec.dsp.fixed import exp2_q8
from codec.jit import kernel
from codec.model import COST_ONE
from codec.records import record

# The end of the range coder's packet may cost a fraction of a bit.
END_BITS = COST_ONE // 2
MAX_TRIALS = 12
FIRST_RATIO = 0.9  # of true cost to estimate, before the first frame
DOUBT = 0.01  # share of the cost by which a scaled estimate may be wrong
FILL_TRIALS = 3
FILL_BELOW = 240  # bits: larger frames gain nothing that can be measured
_ROUNDING = np.float32(ROUNDING)
_NEVER = np.float32(1e9)


# The finest step that fits, while others are tried.
BEST = record(
    levels=(np.int32, (BLOCKS_PER_FRAME, HOP_LENGTH)),
    positions=(np.int32, (BLOCKS_PER_FRAME, HOP_LENGTH, 3)),
)


@kernel
def step_cost(model, past, delta):
    """Return the code length of a step delta, 1/256 bit."""
    return np.int64(model.step.cost[step_context(past.delta), delta + MAX_STEP_DELTA])


@kernel
def price(model, state, frame_bits):
    """Return the true cost of step and levels in 1/256 bit; notes the levels' positions."""
    look_around(model, state, frame_bits)
    cost = spectrum.price(model.context, state)
    return cost + step_cost(model, state.past, state.frame.delta)


@kernel
def try_step(model, state, coefficients, frame_bits, choice):
    """Quantize with the step ``choice`` = (expected, delta) and return the true cost."""
    set_step(state.frame, choice[0], choice[1])
    spectrum.quantize(coefficients, state.frame.log_step, state.frame.levels)
    return price(model, state, frame_bits)


@kernel
def estimate(model, frame, coefficients, choice):
    """Return what the levels would cost at a step under the baseline distributions, 1/256 bit."""
    rows = model.laplace_cost.shape[0]
    step = choice[0] + choice[1] * STEP_RESOLUTION
    inverse = np.empty(HOP_LENGTH, np.float32)
    magnitude = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.int32)
    for k in range(HOP_LENGTH):
        inverse[k] = exp2_q8(-(step + frame.relative[k]))
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            ratio = abs(coefficients[block, k] * inverse[k])
            magnitude[block, k] = np.int32(min(ratio, LEVEL_LIMIT) + _ROUNDING)
    total = np.int64(0)
    for k in range(HOP_LENGTH):
        row = (frame.log_scale[k] - step - frame.relative[k]) // (2 * TABLE_PARTS) + ROW_OFFSET
        cost = model.laplace_cost[min(max(row, 0), rows - 1)]
        for block in range(BLOCKS_PER_FRAME):
            symbol = magnitude_symbol(magnitude[block, k])
            total += cost[symbol] + RAW_COST[symbol]
    return total


@kernel
def _estimate_once(model, frame, coefficients, choice, known):
    """Return the estimate of a step, from ``known`` if it was asked for before."""
    i = choice[1] + MAX_STEP_DELTA
    if known[i] < 0:
        known[i] = estimate(model, frame, coefficients, choice)
    return known[i]


@kernel
def _search(model, frame, coefficients, bounds, goal, known):
    """Return the finest delta whose estimate is at most ``goal``.

    ``bounds`` are (expected step, low, high); high if there is none: it is not looked at.
    """
    expected, low, high = bounds
    while high - low > 1:
        middle = (low + high) >> 1
        if _estimate_once(model, frame, coefficients, (expected, middle), known) <= goal:
            high = middle
        else:
            low = middle
    return high


@kernel
def finest_delta(frame, coefficients, expected):
    """Return the finest step delta at which no level reaches its limit.

    The peak of a tone, or of a constant, would be cut off at a finer one.
    """
    low, high = -MAX_STEP_DELTA - 1, MAX_STEP_DELTA
    while high - low > 1:
        middle = (low + high) >> 1
        step = expected + middle * STEP_RESOLUTION
        peak = np.float32(0.0)
        for k in range(HOP_LENGTH):
            inverse = exp2_q8(-(step + frame.relative[k]))
            for block in range(BLOCKS_PER_FRAME):
                peak = max(peak, abs(coefficients[block, k] * inverse))
        if peak < LEVEL_LIMIT:
            high = middle
        else:
            low = middle
    return high


@kernel
def _copy(state, best):
    """Remember levels and positions."""
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            best.levels[block, k] = state.frame.levels[block, k]
            for i in range(3):
                best.positions[block, k, i] = state.positions[block, k, i]


@kernel
def _restore(state, best):
    """Take levels and positions back."""
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            state.frame.levels[block, k] = best.levels[block, k]
            for i in range(3):
                state.positions[block, k, i] = best.positions[block, k, i]


@kernel
def choose_step(model, state, coefficients, sizes):
    """Find the step whose levels fill the frame.

    Parameters
    ----------
    model : record                  coding model
    state : record                  of the encoder: ``coding`` with the frame's envelope and shaped
                                    steps, whose step and levels are set; ``ratio`` moves on
    coefficients : float32 [2, N]
    sizes : (expected step Q8, frame_bits, envelope's code length in 1/256 bit)

    Returns
    -------
    bool   False: nothing fits (a click in a tiny frame). The step is the coarsest then, and the
           caller drops levels
    """
    coding, best, frame = state.coding, state.best, state.coding.frame
    expected, frame_bits, side = sizes
    if not coefficients.any():
        # Nothing tells of a step: the next frame finds what the last one left.
        try_step(model, coding, coefficients, frame_bits, (expected, coding.past.delta))
        return True
    budget = frame_bits * COST_ONE - side - END_BITS
    finest = finest_delta(frame, coefficients, expected)
    low, high = finest - 1, MAX_STEP_DELTA + 1  # low does not fit, high does
    goal = budget / state.ratio
    cost = np.int64(0)
    known = np.full(2 * MAX_STEP_DELTA + 1, -1, np.int64)  # estimates
    for _ in range(MAX_TRIALS):
        delta = _search(model.context, frame, coefficients, (expected, low, high), goal, known)
        if delta == high and high <= MAX_STEP_DELTA:
            # The estimate says that the next finer step does not fit. Ask only if that is close.
            choice = (expected, high - 1)
            finer = _estimate_once(model.context, frame, coefficients, choice, known)
            if finer * (1.0 - DOUBT) > goal and frame_bits >= FILL_BELOW:
                break
            delta = high - 1
        delta = min(delta, MAX_STEP_DELTA)
        cost = try_step(model, coding, coefficients, frame_bits, (expected, delta))
        guess = _estimate_once(model.context, frame, coefficients, (expected, delta), known)
        state.ratio = max(cost / max(guess, 1), 0.1)
        goal = budget / state.ratio
        if cost <= budget:
            high = delta
            _copy(coding, best)
        else:
            low = delta
        if high - low <= 1 or low == MAX_STEP_DELTA:
            break
    if low >= finest and frame_bits < FILL_BELOW:
        # The finest step that fits leaves 2 % of a frame unused.
        if frame.delta != low:
            cost = try_step(model, coding, coefficients, frame_bits, (expected, low))
        if fill_frame(model, coding, coefficients, frame_bits, (cost, budget)):
            return True
    if high > MAX_STEP_DELTA:
        try_step(model, coding, coefficients, frame_bits, (expected, MAX_STEP_DELTA))
        return False
    set_step(frame, expected, high)
    _restore(coding, best)
    return True


@kernel
def fill_frame(model, state, coefficients, frame_bits, costs):
    """Lower magnitudes of a frame that is a little too large until it fits; False if it never does.

    ``costs`` are what it takes and what it may take, 1/256 bit. Lowered are the magnitudes that
    were rounded up by most: where that costs the least quality. No other: errors stay below a step.
    """
    frame = state.frame
    excess = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    for k in range(HOP_LENGTH):
        inverse = exp2_q8(-frame.log_step[k])
        for block in range(BLOCKS_PER_FRAME):
            magnitude = abs(frame.levels[block, k])
            rest = abs(coefficients[block, k] * inverse) - np.float32(magnitude)
            excess[block, k] = rest if magnitude > 0 and rest < 0 else _NEVER
    cost, budget = costs
    for _ in range(FILL_TRIALS):
        while cost > budget:
            lowest, block, k = _NEVER, 0, 0
            for b in range(BLOCKS_PER_FRAME):
                for i in range(HOP_LENGTH):
                    if excess[b, i] < lowest:
                        lowest, block, k = excess[b, i], b, i
            if lowest == _NEVER:
                break
            excess[block, k] = _NEVER
            position, level = state.positions[block, k], frame.levels[block, k]
            magnitude = np.int64(abs(level))
            index, row, column = position[0], position[1], position[2]
            cost -= level_cost(model.context, magnitude, index, row, column)
            cost += level_cost(model.context, magnitude - 1, index, row, column)
            frame.levels[block, k] -= 1 if level > 0 else -1
        cost = price(model, state, frame_bits)
        if cost <= budget:
            return True
    return False


@kernel
def drop_top(levels, keep):
    """Zero all levels at and above ``keep``."""
    for block in range(BLOCKS_PER_FRAME):
        for k in range(max(keep, 0), HOP_LENGTH):
            levels[block, k] = 0
