"""One frame: what it consists of, what it leaves to the next, and how it is written and read."""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.coding import allocation, detail, envelope, spectrum
from codec.coding.allocation import step_context
from codec.coding.context import NEIGHBOURS, context_dtype
from codec.coding.range_coder import (
    STATE_SIZE,
    dec_consume,
    dec_init,
    dec_target,
    enc_finish,
    enc_init,
    enc_symbol,
)
from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_KNOWN,
    DETAIL_SIZE,
    HOP_LENGTH,
    INITIAL_LEVEL,
    LEVEL_RESOLUTION,
    LOG_ONE,
    MAX_FRAME_BITS,
    MAX_LEVEL,
    MAX_STEP_DELTA,
    MIN_LEVEL,
    NUM_BANDS,
    STEP_RESOLUTION,
    CodecConfig,
)
from codec.jit import kernel
from codec.model import TOTAL_BITS
from codec.records import record

HIGHEST_ENVELOPE = 24 * LOG_ONE  # Q8 octaves; no sound is as loud as this, hostile files are
BUFFER_BYTES = 4096  # of the range encoder; a frame has at most 255


# What one frame leaves to the next; identical in encoder and decoder.
PAST = record(
    level=np.int64,  # of the last frame, in its steps,
    level_delta=np.int64,  # less that of the frame before
    shape=(np.int32, NUM_BANDS),  # decoded, Q8
    envelope=(np.int32, NUM_BANDS),  # level and shape together, Q8
    detail=(np.int32, DETAIL_SIZE),  # Q8
    long=np.int64,  # 1: it was one long block
    delta=np.int64,  # its step delta
    magnitude=(np.int32, (BLOCKS_PER_FRAME, HOP_LENGTH)),  # |level|, the last block first
    log_step=(np.int32, HOP_LENGTH),  # their steps, Q8
)
# All integers of a frame, and what follows from them.
FRAME = record(
    level=np.int64,  # of the envelope, in its steps
    level_delta=np.int64,  # less the last one: transmitted
    indices=(np.int64, envelope.MAX_STAGES),  # of the envelope's codewords
    shape=(np.int32, NUM_BANDS),  # Q8 octaves
    envelope=(np.int32, NUM_BANDS),  # level and shape together, Q8
    detail_stages=np.int64,  # by the size of the frame
    detail_indices=(np.int64, envelope.MAX_STAGES),
    detail=(np.int32, DETAIL_SIZE),  # Q8 octaves, of the first block, then of the second
    long=np.int64,  # 1: one block of 2N coefficients, 0: two of N
    offset=(np.int32, NUM_BANDS),  # step offsets, Q8,
    relative=(np.int32, HOP_LENGTH),  # and at each coefficient
    log_scale=(np.int32, HOP_LENGTH),  # log2 Laplace scale, Q8
    step=np.int64,  # before the offsets, Q8
    delta=np.int64,  # step less the expected one, in units of STEP_RESOLUTION: transmitted
    log_step=(np.int32, HOP_LENGTH),  # step size, Q8
    levels=(np.int32, (BLOCKS_PER_FRAME, HOP_LENGTH)),
)


def state_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of a coder's state: the past, and work space for a frame."""
    return record(
        past=PAST,
        frame=FRAME,
        known=NEIGHBOURS,
        context=context_dtype(config),
        positions=(np.int32, (BLOCKS_PER_FRAME, HOP_LENGTH, 3)),  # of the levels' distributions
        coder=(np.int64, STATE_SIZE),
        buffer=(np.uint8, BUFFER_BYTES),
    )


def start(model: Any, past: Any) -> None:
    """Set a past of zeros to what it is before the first frame; see :func:`reset`."""
    past["level"], past["shape"] = INITIAL_LEVEL, model["envelope"]["initial"]
    past["envelope"] = past["shape"] + INITIAL_LEVEL * LEVEL_RESOLUTION


@kernel
def reset(model, past):
    """Put the past back to what it is before the first frame."""
    past.level, past.level_delta = INITIAL_LEVEL, 0
    for j in range(NUM_BANDS):
        past.shape[j] = model.envelope.initial[j]
        past.envelope[j] = past.shape[j] + INITIAL_LEVEL * LEVEL_RESOLUTION
    for j in range(DETAIL_SIZE):
        past.detail[j] = 0
    past.delta = past.long = 0
    for k in range(HOP_LENGTH):
        past.magnitude[0, k] = past.magnitude[1, k] = past.log_step[k] = 0


@kernel
def update(state):
    """Move the past past the frame."""
    past, frame = state.past, state.frame
    past.level, past.level_delta = frame.level, frame.level_delta
    for j in range(NUM_BANDS):
        past.shape[j], past.envelope[j] = frame.shape[j], frame.envelope[j]
    for j in range(DETAIL_SIZE):
        past.detail[j] = frame.detail[j]
    past.delta, past.long = frame.delta, frame.long
    for k in range(HOP_LENGTH):
        past.magnitude[0, k] = abs(frame.levels[1, k])
        past.magnitude[1, k] = abs(frame.levels[0, k])
        past.log_step[k] = frame.log_step[k]


@kernel
def limited_bits(num_bytes):
    """Return the frame size in bits as allocation and context model know it."""
    return min(num_bytes * 8, MAX_FRAME_BITS)


@kernel
def set_envelope(model, state, intra, num_stages):
    """Decode the envelope from level delta and indices; an intra frame has itself for its past."""
    past, frame = state.past, state.frame
    # A broken packet may ask for any level.
    frame.level = min(max(past.level + frame.level_delta, MIN_LEVEL), MAX_LEVEL)
    envelope.reconstruct(model.envelope, past.shape, frame.indices, num_stages, frame.shape)
    for j in range(NUM_BANDS):
        value = frame.shape[j] + frame.level * LEVEL_RESOLUTION
        frame.envelope[j] = min(max(value, -HIGHEST_ENVELOPE), HIGHEST_ENVELOPE)
    if intra:
        for j in range(NUM_BANDS):
            past.envelope[j] = frame.envelope[j]


@kernel
def known_of_detail(state, out):
    """Write what the detail is predicted from, once shapes are decoded, to int32 [DETAIL_KNOWN]."""
    past, frame = state.past, state.frame
    for b in range(NUM_BANDS):
        out[b], out[NUM_BANDS + b] = frame.shape[b], past.shape[b]
    for j in range(DETAIL_SIZE):
        out[2 * NUM_BANDS + j] = past.detail[j]


@kernel
def set_detail(model, state):
    """Decode the detail from its indices; in a frame without stages of it, what is predicted."""
    frame = state.frame
    known = np.empty(DETAIL_KNOWN, np.int32)
    known_of_detail(state, known)
    envelope.reconstruct(
        model.detail, known, frame.detail_indices, frame.detail_stages, frame.detail
    )


@kernel
def shape_steps(model, state, frame_bits, num_stages):
    """Compute what the envelope alone decides; returns the expected step (Q8).

    The frame's ``envelope`` is read; ``offset``, ``relative`` and ``log_scale`` are written.
    """
    shaping, frame = model.allocation, state.frame
    allocation.allocate(shaping, frame.envelope, state.past.envelope, frame_bits, frame.offset)
    allocation.interpolate(shaping, frame.offset, frame.relative)
    allocation.log_scale(shaping, frame.envelope, frame.log_scale)
    stage_bits = 0
    while 1 << stage_bits < model.envelope.codebooks.shape[1]:
        stage_bits += 1
    budget = allocation.budget_bits(frame_bits, num_stages * stage_bits)
    return allocation.expected_step(shaping, frame.log_scale, frame.relative, budget)


@kernel
def set_step(frame, expected, delta):
    """Set the step of every coefficient, ``delta`` above the expected one."""
    frame.delta = delta
    frame.step = expected + delta * STEP_RESOLUTION
    for k in range(HOP_LENGTH):
        frame.log_step[k] = frame.step + frame.relative[k]


@kernel
def look_around(model, state, frame_bits):
    """Note what the context model knows before the frame's first level."""
    last_scale = np.empty(HOP_LENGTH, np.int32)
    allocation.log_scale(model.allocation, state.past.envelope, last_scale)
    log_bits = np.int64(model.allocation.log2_bits[frame_bits])
    spectrum.look_around(model.context, state, log_bits, last_scale)


@kernel
def put_frame(model, state, num_stages, data):
    """Encode the frame into all of ``data``; False if it does not fit.

    Parameters
    ----------
    model : record       coding model of its kind, predicted or intra
    state : record       with frame and positions, as ``rate_control`` leaves them
    num_stages : int     of the envelope
    data : uint8 array   result
    """
    coder, buffer, frame = state.coder, state.buffer, state.frame
    enc_init(coder)
    envelope.put_level(model.level, state.past.level_delta, frame.level_delta, coder, buffer)
    envelope.put(model.envelope, frame.indices, num_stages, coder, buffer)
    envelope.put(model.detail, frame.detail_indices, frame.detail_stages, coder, buffer)
    cdf = model.blocks.cdf[state.past.long]
    low, high = np.int64(cdf[frame.long]), np.int64(cdf[frame.long + 1])
    enc_symbol(coder, buffer, low, high, TOTAL_BITS)
    cdf, symbol = model.step.cdf[step_context(state.past.delta)], frame.delta + MAX_STEP_DELTA
    enc_symbol(coder, buffer, np.int64(cdf[symbol]), np.int64(cdf[symbol + 1]), TOTAL_BITS)
    spectrum.put(model.context, state, coder, buffer)
    fits = enc_finish(coder, buffer, data.size)
    if fits:
        for i in range(data.size):
            data[i] = buffer[i]
    return fits


@kernel
def get_blocks(model, past, coder, data):
    """Decode whether a frame is one long block: 1 or 0."""
    cdf = model.blocks.cdf[past.long]
    long = 1 if dec_target(coder, TOTAL_BITS) >= cdf[1] else 0
    dec_consume(coder, data, np.int64(cdf[long]), np.int64(cdf[long + 1]), TOTAL_BITS)
    return long


@kernel
def get_step(model, past, coder, data):
    """Decode the step delta."""
    cdf = model.step.cdf[step_context(past.delta)]
    target = dec_target(coder, TOTAL_BITS)
    symbol = 0
    while cdf[symbol + 1] <= target:
        symbol += 1
    dec_consume(coder, data, np.int64(cdf[symbol]), np.int64(cdf[symbol + 1]), TOTAL_BITS)
    return symbol - MAX_STEP_DELTA


@kernel
def get_frame(model, state, intra, num_stages, data):
    """Decode a frame to ``state.frame`` and move the past past it.

    Parameters
    ----------
    model : record       coding model of its kind, predicted or intra
    state : record
    intra : bool         the frame needs no other
    num_stages : int     of the envelope
    data : uint8 array   its packet
    """
    past, frame, coder = state.past, state.frame, state.coder
    if intra:
        reset(model, past)
    dec_init(coder, data, 0, data.size)
    frame.level_delta = envelope.get_level(model.level, past.level_delta, coder, data)
    envelope.get(model.envelope, num_stages, coder, data, frame.indices)
    frame_bits = limited_bits(data.size)
    frame.detail_stages = detail.stages_of(frame_bits)
    envelope.get(model.detail, frame.detail_stages, coder, data, frame.detail_indices)
    frame.long = get_blocks(model, past, coder, data)
    delta = get_step(model, past, coder, data)
    set_envelope(model, state, intra, num_stages)
    set_detail(model, state)
    frame_bits -= detail.bits_of(frame.detail_stages)  # the rest is coded like a smaller frame
    expected = shape_steps(model, state, frame_bits, num_stages)
    set_step(frame, expected, delta)
    look_around(model, state, frame_bits)
    spectrum.get(model.context, state, coder, data)
    update(state)
