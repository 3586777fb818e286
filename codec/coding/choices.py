"""What the encoder chooses for a frame: envelope, detail, block length, then step and levels.

The envelope is the one that the search likes best, the block length the one that seems to take
fewer bits. With high effort, several envelopes and both lengths are tried to the end of rate
control, since only the context model knows what levels cost, and the best result is kept.
"""

from __future__ import annotations

import numpy as np

from codec.coding import allocation, detail, envelope, rate_control
from codec.coding.frame import known_of_detail, reset, set_detail, set_envelope, shape_steps
from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_KNOWN,
    HOP_LENGTH,
    LEVEL_RESOLUTION,
    NUM_BANDS,
)
from codec.dsp import mdct
from codec.dsp.fixed import exp2_q8, log2
from codec.jit import kernel
from codec.model import COST_ONE

TRIED_ENVELOPES = 4  # with high effort; more of them are no better
CLOSE_CALL = np.float32(4.0)  # bits between the block lengths, below which both are tried
BY_ESTIMATE = -1  # a block length


@kernel
def choose_blocks(state, transform, spectrum, expected):
    """Choose two blocks or a long one by the bits that each takes, as far as these can be told.

    The bits of a coefficient are taken to be log2(1 + ratio²) / 2, of its ratio to the step that
    the envelope makes expect: none for what is far below it. Returns by how many they differ.
    """
    frame = state.coding.frame
    mdct.to_long(transform, spectrum, state.spectrum)
    sizes = np.empty((2, BLOCKS_PER_FRAME * HOP_LENGTH), np.float32)
    for k in range(HOP_LENGTH):
        inverse = exp2_q8(-(expected + frame.relative[k]))
        for block in range(BLOCKS_PER_FRAME):
            i = block * HOP_LENGTH + k
            short, long = spectrum[block, k] * inverse, state.spectrum[block, k] * inverse
            sizes[0, i] = np.float32(1.0) + short * short
            sizes[1, i] = np.float32(1.0) + long * long
    log2(sizes[0], sizes[0])
    log2(sizes[1], sizes[1])
    gain = np.float32(0.0)
    for i in range(sizes.shape[1]):
        gain += sizes[0, i] - sizes[1, i]
    frame.long = 1 if gain > 0 else 0
    return abs(gain) / np.float32(2.0)


@kernel
def choose_detail(model, state, levels):
    """Choose the detail of a frame whose envelope is decoded.

    ``levels`` float32 [2 bands] are those of its bands, Q8. Returns the bits that it takes beyond
    those that the rest of the frame does without, in 1/256.
    """
    frame, indices = state.coding.frame, state.coding.frame.detail_indices
    if frame.detail_stages > 0:
        smooth = np.empty(HOP_LENGTH, np.int32)
        known = np.empty(DETAIL_KNOWN, np.int32)
        allocation.interpolate(model.allocation, frame.envelope, smooth)
        detail.find(levels, smooth, state.detail)
        known_of_detail(state.coding, known)
        envelope.search(model.detail, known, state.detail, frame.detail_stages, indices)
    set_detail(model, state.coding)
    cost = envelope.price(model.detail, indices, frame.detail_stages)
    return cost - COST_ONE * detail.bits_of(frame.detail_stages)


@kernel
def take_envelope(model, state, proposed, kind, choice):
    """Take one of the envelopes found, with the detail and the steps that follow from it.

    Returns the expected step, the bits of all but the detail, and those of what stands before the
    levels, in 1/256.
    """
    frame_bits, intra, num_stages = kind
    coding, indices = state.coding, state.coding.frame.indices
    for s in range(num_stages):
        indices[s] = state.choices[choice, s]
    side = envelope.price(model.envelope, indices, num_stages)
    side += envelope.level_cost(model.level, coding.past.level_delta, coding.frame.level_delta)
    set_envelope(model, coding, intra, num_stages)
    coding.frame.detail_stages = detail.stages_of(frame_bits)
    side += choose_detail(model, state, proposed[NUM_BANDS:])
    rest = frame_bits - detail.bits_of(coding.frame.detail_stages)
    return shape_steps(model, coding, rest, num_stages), rest, side


@kernel
def take_blocks(model, transform, state, spectrum, sizes, long):
    """Take a block length (or BY_ESTIMATE), then the step and the levels that fill the frame.

    ``sizes`` are what :func:`take_envelope` returned. Returns how close a call an estimate was, and
    whether the levels fit.
    """
    expected, rest, side = sizes
    frame, close = state.coding.frame, np.float32(0.0)
    if long == BY_ESTIMATE:
        close = choose_blocks(state, transform, spectrum, expected)
    else:
        frame.long = long
        if long == 1:
            mdct.to_long(transform, spectrum, state.spectrum)
    if frame.long == 0:
        for block in range(BLOCKS_PER_FRAME):
            for k in range(HOP_LENGTH):
                state.spectrum[block, k] = spectrum[block, k]
    side += model.blocks.cost[state.coding.past.long, frame.long]
    fits = rate_control.choose_step(model, state, state.spectrum, (expected, rest, side))
    return close, fits


@kernel
def weigh_errors(state):
    """Let errors weigh more where steps are finer: by the square root of what they are there."""
    for k in range(HOP_LENGTH):
        state.weights[k] = exp2_q8(-(state.coding.frame.relative[k] // 2))


@kernel
def squared_error(state):
    """Return the weighted error of the levels, float64."""
    frame, total = state.coding.frame, 0.0
    for k in range(HOP_LENGTH):
        step = exp2_q8(frame.log_step[k])
        for block in range(BLOCKS_PER_FRAME):
            error = abs(state.spectrum[block, k]) - np.float32(abs(frame.levels[block, k])) * step
            total += np.float64(error * state.weights[k]) ** 2
    return total


@kernel
def try_choices(model, transform, state, proposed, spectrum, kind, count):
    """Return the envelope's number and the block length of the best of several results.

    The best has the smallest product of what the levels' error is and what the envelope's search
    minimised. Block lengths are compared where it is a close call.
    """
    ratio, lowest = state.ratio, np.inf
    best, best_long = 0, BY_ESTIMATE
    for choice in range(count):
        sizes = take_envelope(model, state, proposed, kind, choice)
        if choice == 0:
            weigh_errors(state)
        long = BY_ESTIMATE
        for _ in range(2):
            state.ratio = ratio
            close, fits = take_blocks(model, transform, state, spectrum, sizes, long)
            result = squared_error(state) * np.float64(state.costs[choice])
            if fits and result < lowest:
                lowest, best, best_long = result, choice, state.coding.frame.long
            if close > CLOSE_CALL:
                break
            long = 1 - state.coding.frame.long
    state.ratio = ratio
    return best, best_long


@kernel
def choose_frame(model, transform, state, proposed, spectrum, kind):
    """Choose all integers of a frame: envelope, blocks, step, levels, in ``state.coding.frame``.

    Parameters
    ----------
    model : record              coding model of the frame's kind
    transform : mdct.TRANSFORM
    state : record              of the encoder; its past is reset before an intra frame
    proposed : float32 [NUM_PROPOSED]   envelope and levels of detail, Q8
    spectrum : float32 [2, N]
    kind : (frame_bits, intra, num_stages)
    """
    past = state.coding.past
    if kind[1]:
        reset(model, past)
    level = envelope.find_level(proposed)
    state.coding.frame.level_delta = level - past.level
    for b in range(NUM_BANDS):
        state.shape[b] = proposed[b] - np.float32(level * LEVEL_RESOLUTION)
    found = (state.choices[: state.effort], state.costs[: state.effort])
    count = envelope.search_best(model.envelope, past.shape, state.shape, kind[2], found)
    best, long = 0, BY_ESTIMATE
    if count > 1:
        best, long = try_choices(model, transform, state, proposed, spectrum, kind, count)
    sizes = take_envelope(model, state, proposed, kind, best)
    take_blocks(model, transform, state, spectrum, sizes, long)
