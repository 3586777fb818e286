"""Decoder: packets to waveform, one call per stage of the signal path.

::

    packet ─► integers ─► dequantize ─► enhancer ─► inverse MDCT ─► long-term postfilter ─► samples
              (lost: concealment)  └─► inverse MDCT ─► pitch ─┘

A frame's samples depend on the packets up to it and on nothing else: not on how many frames are
decoded in one call. The enhancer takes ``BATCH`` of them at a time only to read its weights less
often.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from codec import enhancer, enhancer_network, plc
from codec.coding import detail, envelope
from codec.coding import spectrum as coefficients
from codec.coding.allocation import step_context
from codec.coding.frame import get_blocks, get_frame, get_step, limited_bits, start
from codec.coding.frame import state_dtype as coding_state_dtype
from codec.coding.range_coder import dec_init
from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_SIZE,
    FRAME_LENGTH,
    HOP_LENGTH,
    LOG_ONE,
    MAX_STEP_DELTA,
    MIN_LEVEL,
    NUM_BANDS,
    NUM_DETAIL_BANDS,
    NUM_LTPF_BANDS,
    CodecConfig,
)
from codec.dsp import ltpf, mdct
from codec.jit import entry, kernel
from codec.model import COST_ONE, coding_dtype, coding_model
from codec.records import new, record
from codec.weights import Weights

BATCH = 8
AT_ONCE = 512  # frames between two stages: bounds the memory of long signals
_LOG_ONE = np.float32(LOG_ONE)


def model_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of what decoding takes."""
    return record(
        transform=mdct.TRANSFORM,
        coding=coding_dtype(config),  # of predicted frames,
        intra=coding_dtype(config),  # and of intra frames
        enhancer=enhancer_network.network_dtype(config),
    )


@lru_cache(maxsize=2)
def make_model(weights: Weights) -> Any:
    """Return the record (one for all uses) of trained weights for the decoder."""
    config, tensors = weights.config, weights.tensors
    model = new(model_dtype(config))
    model["transform"] = mdct.make_transform()
    model["coding"] = coding_model(weights.of_kind(intra=False), config)
    model["intra"] = coding_model(weights.of_kind(intra=True), config)
    interpolation = tensors["allocation.interpolation"]
    enhancer_network.fill_model(model["enhancer"], tensors, interpolation, config)
    return model


def state_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of what one frame leaves to the next, with work space."""
    return record(
        stages=(np.int64, 2),  # of the envelope, in predicted and in intra frames
        broken=np.int64,  # 1: a packet was lost, and no intra frame has come since
        coding=coding_state_dtype(config),
        plc=plc.STATE,
        coded_overlap=(np.float32, HOP_LENGTH),  # of the inverse MDCT before the enhancer,
        overlap=(np.float32, HOP_LENGTH),  # and after it,
        norm=np.float32,  # of the last block there
        coded=(np.float32, ltpf.FRAME),  # finished samples before the enhancer
        enhancer=enhancer_network.state_dtype(config),
        ltpf=ltpf.FILTER_STATE,
    )


class DecodedIntegers(NamedTuple):
    """All integers of some frames, exact on every machine.

    Attributes
    ----------
    envelope : int32 [P, bands]    Q8 octaves
    offset : int32 [P, bands]      step offsets, Q8
    step : int64 [P]               Q8
    detail : int32 [P, 2 bands]    Q8 octaves over the envelope
    long : int64 [P]               1: one block of 2N, even coefficients first, then the odd ones
    levels : int32 [P, 2, N]
    received : bool [P]            False: lost, or coded in terms of a lost one; all else is 0 then
    """

    envelope: np.ndarray
    offset: np.ndarray
    step: np.ndarray
    detail: np.ndarray
    long: np.ndarray
    levels: np.ndarray
    received: np.ndarray


@kernel
def receive_frame(model, state, intra, data):
    """Decode the next frame's integers to ``state.coding.frame``; False: there are none.

    After a loss nothing can be decoded before the next intra frame.

    Parameters
    ----------
    model, state : records
    intra : bool
    data : uint8 array   its packet; empty: lost
    """
    if data.size == 0:
        state.broken = 1
    elif intra:
        state.broken = 0
    if state.broken != 0:
        return False
    coding = model.intra if intra else model.coding
    get_frame(coding, state.coding, intra, state.stages[1] if intra else state.stages[0], data)
    return True


@kernel
def describe_frame(model, frame, num_bytes, parameters):
    """Tell the enhancer what it must know of a received frame."""
    for b in range(NUM_BANDS):
        parameters.envelope[b] = np.float32(frame.envelope[b]) / _LOG_ONE
        parameters.log_step[b] = np.float32(frame.step + frame.offset[b]) / _LOG_ONE
    limit = detail.DETAIL_LIMIT
    for block in range(BLOCKS_PER_FRAME):
        for j in range(NUM_DETAIL_BANDS):
            octaves = np.float32(frame.detail[block * NUM_DETAIL_BANDS + j]) / _LOG_ONE
            parameters.detail[block, j] = min(max(octaves, -limit), limit)
    parameters.long = np.float32(frame.long)
    bits = limited_bits(num_bytes) - detail.bits_of(frame.detail_stages)
    log_bits = model.coding.allocation.log2_bits[bits]
    parameters.log_bits = np.float32(log_bits) / np.float32(1024)
    parameters.silent = 1 if frame.level == MIN_LEVEL and not frame.levels.any() else 0


@kernel
def finish_samples(model, state, spectrum, parameters, track):
    """Transform a frame back before the enhancer, and find the pitch of both segments if asked."""
    samples = np.empty(FRAME_LENGTH, np.float32)
    mdct.inverse(model.transform, spectrum, state.coded_overlap, samples)
    coded = state.coded
    for block in range(BLOCKS_PER_FRAME):
        for n in range(coded.size - HOP_LENGTH):
            coded[n] = coded[n + HOP_LENGTH]
        for n in range(HOP_LENGTH):
            coded[coded.size - HOP_LENGTH + n] = samples[block * HOP_LENGTH + n]
        if track:
            periodicity, lag = ltpf.track_pitch(coded)
            parameters.periodicity[block] = periodicity
            parameters.lag[block] = lag


@entry
def decode_spectra(model, state, packets, intra, parameters, spectra):
    """Decode or conceal consecutive frames, up to their dequantized spectra.

    Parameters
    ----------
    model, state : records
    packets : (data, sizes)           uint8 array of all packets; int64 [P] bytes of each, 0: lost
    intra : bool [P]
    parameters : PARAMETERS [P]       result: what else the enhancer must know
    spectra : float32 [P, 2, N]       result
    """
    data, sizes = packets
    position = 0
    for p in range(sizes.size):
        packet = data[position : position + sizes[p]]
        position += packet.size
        received = receive_frame(model, state, intra[p], packet)
        if received:
            frame = state.coding.frame
            coefficients.dequantize(frame.levels, frame.log_step, spectra[p])
            coefficients.mark_uncoded(frame.levels, frame.long == 1, parameters[p].uncoded)
            if frame.long == 1:
                mdct.to_short(model.transform, spectra[p], spectra[p])
            describe_frame(model, frame, packet.size, parameters[p])
            plc.receive(state.plc, parameters[p])
        else:
            plc.conceal(state.plc, model.transform, state.coded, parameters[p], spectra[p])
        finish_samples(model, state, spectra[p], parameters[p], received)


@entry
def enhance_spectra(model, state, parameters, spectra, enhanced, gains):
    """Enhance consecutive frames, ``BATCH`` at a time; see ``enhancer.enhance``."""
    for first in range(0, spectra.shape[0], BATCH):
        last = min(first + BATCH, spectra.shape[0])
        enhancer.enhance(
            model.enhancer,
            state.enhancer,
            parameters[first:last],
            spectra[first:last],
            enhanced[first:last],
            gains[first:last],
        )


@entry
def synthesize(model, state, parameters, enhanced, gains, samples):
    """Transform enhanced spectra [P, 2, N] back and filter them, to ``samples`` [P * 2N]."""
    windowed = np.empty((BLOCKS_PER_FRAME, 2 * HOP_LENGTH), np.float32)
    plain = np.empty(HOP_LENGTH, np.float32)
    for p in range(enhanced.shape[0]):
        mdct.inverse_blocks(model.transform, enhanced[p], windowed)
        lost = parameters[p].loss[0] > np.float32(0.5)
        for block in range(BLOCKS_PER_FRAME):
            norm = mdct.ANY_NORM if lost else mdct.norm(enhanced[p, block])
            spreads = mdct.spreads(state.norm, norm, state.overlap, windowed[block])
            mdct.overlap_add(state.overlap, windowed[block], plain)
            if spreads:
                mdct.keep_silence(model.transform, state.norm, norm, plain)
            first = p * FRAME_LENGTH + block * HOP_LENGTH
            out = samples[first : first + HOP_LENGTH]
            ltpf.postfilter(state.ltpf, plain, parameters[p].lag[block], gains[p, block], out)
            if spreads:  # nor is the sound of the past heard in silence
                mdct.keep_silence(model.transform, state.norm, norm, out)
            state.norm = norm


@entry
def decode_integers(model, state, data, sizes, intra, out):
    """Decode the integers of consecutive frames; ``out`` are the arrays of ``DecodedIntegers``."""
    envelopes, offset, step, details, long, levels, received = out
    position = 0
    for p in range(sizes.size):
        packet = data[position : position + sizes[p]]
        position += packet.size
        received[p] = receive_frame(model, state, intra[p], packet)
        if received[p]:
            frame = state.coding.frame
            step[p], long[p] = frame.step, frame.long
            for b in range(NUM_BANDS):
                envelopes[p, b], offset[p, b] = frame.envelope[b], frame.offset[b]
            for j in range(DETAIL_SIZE):
                details[p, j] = frame.detail[j]
            for block in range(BLOCKS_PER_FRAME):
                for k in range(HOP_LENGTH):
                    levels[p, block, k] = frame.levels[block, k]


@entry
def side_costs(model, state, data, sizes, intra, costs):
    """Write the code lengths of envelope (with its detail) and step (with the block length).

    To ``costs`` [P, 2], in 1/256 bit.

    Both stand first in every packet; nothing else is decoded.
    """
    coder, position = state.coding.coder, 0
    indices = state.coding.frame.indices
    for p in range(sizes.size):
        coding = model.intra if intra[p] else model.coding
        stages = state.stages[1] if intra[p] else state.stages[0]
        past = state.coding.past
        if intra[p]:
            past.delta = past.long = past.level_delta = 0
        packet = data[position : position + sizes[p]]
        position += packet.size
        dec_init(coder, packet, 0, packet.size)
        level_delta = envelope.get_level(coding.level, past.level_delta, coder, packet)
        costs[p, 0] = envelope.level_cost(coding.level, past.level_delta, level_delta)
        past.level_delta = level_delta
        envelope.get(coding.envelope, stages, coder, packet, indices)
        costs[p, 0] += envelope.price(coding.envelope, indices, stages)
        stages = detail.stages_of(limited_bits(packet.size))
        envelope.get(coding.detail, stages, coder, packet, indices)
        costs[p, 0] += envelope.price(coding.detail, indices, stages)
        long = get_blocks(coding, past, coder, packet)
        costs[p, 1] = coding.blocks.cost[past.long, long]
        past.long = long
        context = step_context(past.delta)
        past.delta = get_step(coding, past, coder, packet)
        costs[p, 1] += coding.step.cost[context, past.delta + MAX_STEP_DELTA]


class FrameDecoder:
    """Decode frames one after the other, as many at a time as there are.

    Parameters
    ----------
    model : record       of ``model_dtype``
    config : CodecConfig
    num_stages : int     envelope stages of a predicted frame
    """

    def __init__(self, model: Any, config: CodecConfig, num_stages: int) -> None:
        self.model = model
        self.state = new(state_dtype(config))
        self.state["stages"] = num_stages, config.intra_stages(num_stages)
        start(model["coding"], self.state["coding"]["past"])
        plc.start(self.state["plc"])

    def decode(self, packets: Sequence[bytes | None], intra: np.ndarray) -> np.ndarray:
        """Return the samples that the next packets complete.

        Parameters
        ----------
        packets : P bytes or None   None is a lost packet
        intra : bool [P]

        Returns
        -------
        float32 array, shape [P * 2N]   the first N of a file's lie before its signal
        """
        pieces = [
            self._decode(packets[i : i + AT_ONCE], intra[i : i + AT_ONCE])
            for i in range(0, len(packets), AT_ONCE)
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def _decode(self, packets: Sequence[bytes | None], intra: np.ndarray) -> np.ndarray:
        model, state, count = self.model, self.state, len(packets)
        parameters = np.zeros(count, enhancer_network.PARAMETERS)
        spectra = np.empty((count, BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
        enhanced = np.empty_like(spectra)
        gains = np.empty((count, BLOCKS_PER_FRAME, NUM_LTPF_BANDS), np.float32)
        samples = np.empty(count * FRAME_LENGTH, np.float32)
        decode_spectra(model, state, _joined(packets), intra, parameters, spectra)
        enhance_spectra(model, state, parameters, spectra, enhanced, gains)
        synthesize(model, state, parameters, enhanced, gains, samples)
        return samples

    def side_costs(self, packets: Sequence[bytes], intra: np.ndarray) -> np.ndarray:
        """Return the bits of envelope and step in each packet, float64 [P, 2]; go no further."""
        costs = np.zeros((len(packets), 2), np.int64)
        side_costs(self.model, self.state, *_joined(packets), intra, costs)
        return costs / COST_ONE

    def integers(self, packets: Sequence[bytes | None], intra: np.ndarray) -> DecodedIntegers:
        """Return the integers of the next packets, and go no further; arguments as above."""
        count = len(packets)
        result = DecodedIntegers(
            np.zeros((count, NUM_BANDS), np.int32),
            np.zeros((count, NUM_BANDS), np.int32),
            np.zeros(count, np.int64),
            np.zeros((count, DETAIL_SIZE), np.int32),
            np.zeros(count, np.int64),
            np.zeros((count, BLOCKS_PER_FRAME, HOP_LENGTH), np.int32),
            np.zeros(count, np.bool_),
        )
        decode_integers(self.model, self.state, *_joined(packets), intra, tuple(result))
        return result


def _joined(packets: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return packets as one array, and their sizes; a copy, since kernels want it writable."""
    data = np.frombuffer(b"".join(p or b"" for p in packets), np.uint8).copy()
    return data, np.array([len(p or b"") for p in packets], np.int64)
