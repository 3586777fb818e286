"""Encoder: waveform to packets, one call per stage of the signal path.

::

    waveform ─► MDCT, envelope analysis ─► envelope search ─► step allocation ─► block length ─┐
                                                                                               │
                packet ◄─ range coder ◄─ levels and their distributions ◄─ rate control ◄──────┘

With high effort, several envelopes and both block lengths are tried to the end of rate control, and
the best result is kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from codec.analysis import analyse, analysis_dtype
from codec.analysis import make_model as make_analysis
from codec.coding import detail, envelope, rate_control
from codec.coding.choices import TRIED_ENVELOPES, choose_frame
from codec.coding.frame import (
    limited_bits,
    put_frame,
    start,
    update,
)
from codec.coding.frame import state_dtype as coding_state_dtype
from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_SIZE,
    FRAME_LENGTH,
    HOP_LENGTH,
    NUM_BANDS,
    NUM_PROPOSED,
    CodecConfig,
    Effort,
)
from codec.jit import entry, kernel
from codec.model import coding_dtype, coding_model
from codec.records import new, record
from codec.weights import Weights

# Frames whose mean is taken for an offset (-3 dB at 0.25 Hz). A filter at 20 Hz, even at 3 Hz,
# would turn the phase of what is above it, which is more noise than is coded at the upper rates.
MEAN_FRAMES = 32
SILENT_RUN = 32  # zeros at either end of a frame, from which on they are digital silence
DROPPED_AT_ONCE = 4  # coefficients from the top, where nothing else makes a frame fit


def model_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of what encoding a signal takes."""
    return record(
        analysis=analysis_dtype(config),
        coding=coding_dtype(config),  # of predicted frames,
        intra=coding_dtype(config),  # and of intra frames
    )


@lru_cache(maxsize=2)
def make_model(weights: Weights) -> Any:
    """Return the record (one for all uses) of trained weights for the encoder."""
    config = weights.config
    model = new(model_dtype(config))
    model["analysis"] = make_analysis(weights.tensors, config)
    model["coding"] = coding_model(weights.of_kind(intra=False), config)
    model["intra"] = coding_model(weights.of_kind(intra=True), config)
    return model


def state_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of what one frame leaves to the next, with work space."""
    return record(
        past=(np.float32, HOP_LENGTH),  # last samples of the frame
        keep_offset=np.int64,  # 0 or 1: the signal's mean is taken off, or coded with it
        mean=np.float64,  # of the signal's last frames,
        frames=np.int64,  # and how many they are
        coding=coding_state_dtype(config),
        ratio=np.float64,  # true cost of levels over its estimate
        shape=(np.float32, NUM_BANDS),  # of the proposed envelope, Q8
        detail=(np.float32, DETAIL_SIZE),  # wanted, Q8
        spectrum=(np.float32, (BLOCKS_PER_FRAME, HOP_LENGTH)),  # of the blocks that are coded
        best=rate_control.BEST,
        effort=np.int64,  # envelopes that are tried; 1: neither they nor block lengths are
        choices=(np.int64, (TRIED_ENVELOPES, envelope.MAX_STAGES)),  # their indices,
        costs=(np.float32, TRIED_ENVELOPES),  # and what their search minimised
        weights=(np.float32, HOP_LENGTH),  # of errors, where results are compared
        stages=(np.int64, 2),  # of the envelope, in predicted and in intra frames
    )


@kernel
def silent_ends(samples):
    """Return how many samples at the beginning and at the end of a frame are digital silence."""
    first = last = 0
    while first < samples.size and samples[first] == 0:
        first += 1
    while last < samples.size - first and samples[samples.size - 1 - last] == 0:
        last += 1
    return first if first >= SILENT_RUN else 0, last if last >= SILENT_RUN else 0


@kernel
def block_dc(state, samples, out):
    """Take the mean of the last frames off a frame; from the old mean to the new one in a line.

    Beyond the end of the signal there is silence, without a step from the offset to it, and what is
    digital silence stays it. What is in a frame that is not full, or not heard all through, is no
    offset yet.
    """
    for n in range(samples.size, out.size):
        out[n] = 0.0
    if state.keep_offset:
        for n in range(samples.size):
            out[n] = samples[n]
        return
    before = state.mean
    first, last = silent_ends(samples)
    if samples.size == out.size and first + last == 0:
        total = 0.0
        for n in range(samples.size):
            total += np.float64(samples[n])
        state.frames = min(state.frames + 1, MEAN_FRAMES)
        state.mean += (total / samples.size - before) / state.frames
        if state.frames == 1:
            before = state.mean
    for n in range(samples.size):
        mean = before + (state.mean - before) * (n / samples.size)
        silent = n < first or n >= samples.size - last
        out[n] = 0.0 if silent else np.float32(np.float64(samples[n]) - mean)


@entry
def analyse_frames(model, state, samples, spectra, proposed):
    """Analyse consecutive frames.

    Parameters
    ----------
    model, state : records          ``past`` of the state moves on
    samples : float32 [T]           frames; beyond T <= 2NP there is silence
    spectra : float32 [P, 2, N]     result: MDCT
    proposed : float32 [P, NUM_PROPOSED]   result: envelope and levels of detail, Q8 octaves
    """
    seen = np.empty(HOP_LENGTH + FRAME_LENGTH, np.float32)
    for p in range(spectra.shape[0]):
        for n in range(HOP_LENGTH):
            seen[n] = state.past[n]
        begin = min(p * FRAME_LENGTH, samples.size)
        end = min(begin + FRAME_LENGTH, samples.size)
        block_dc(state, samples[begin:end], seen[HOP_LENGTH:])
        analyse(model.analysis, seen, spectra[p], proposed[p])
        for n in range(HOP_LENGTH):
            state.past[n] = seen[FRAME_LENGTH + n]


@kernel
def encode_frame(model, transform, state, proposed, spectrum, kind, data):
    """Encode one frame into all of ``data`` and move the state past it; see ``choose_frame``.

    Returns
    -------
    bool   False: not even the envelope fits
    """
    choose_frame(model, transform, state, proposed, spectrum, kind)
    coding = state.coding
    rest = kind[0] - detail.bits_of(coding.frame.detail_stages)
    keep = HOP_LENGTH
    while not put_frame(model, coding, kind[2], data):
        keep -= DROPPED_AT_ONCE
        if keep < -2 * DROPPED_AT_ONCE:
            return False
        rate_control.drop_top(coding.frame.levels, keep)
        rate_control.price(model, coding, rest)
    update(coding)
    return True


@entry
def encode_frames(model, state, proposed, spectra, sizes, intra, data):
    """Encode consecutive frames and move the state past them.

    Parameters
    ----------
    model, state : records
    proposed : float32 [P, NUM_PROPOSED]   as the analysis gives it
    spectra : float32 [P, 2, N]
    sizes : int64 [P]                bytes of each packet
    intra : bool [P]
    data : uint8 [sum of sizes]      result: the packets one after the other

    Returns
    -------
    int   -1, or the number of a frame whose packet is too small for its envelope
    """
    position = 0
    for p in range(proposed.shape[0]):
        end = position + sizes[p]
        coding = model.intra if intra[p] else model.coding
        stages = state.stages[1] if intra[p] else state.stages[0]
        kind = (limited_bits(sizes[p]), intra[p], stages)
        packet = data[position:end]
        transform = model.analysis.transform
        if not encode_frame(coding, transform, state, proposed[p], spectra[p], kind, packet):
            return p
        position = end
    return -1


class FrameEncoder:
    """Encode frames one after the other, as many at a time as there are.

    Parameters
    ----------
    model : record       of ``model_dtype``
    config : CodecConfig
    num_stages : int     envelope stages of a predicted frame
    keep_offset : bool   code the mean of the signal (DC) as well
    effort : Effort, or its text

    Raises
    ------
    ValueError   an unknown effort
    """

    def __init__(
        self,
        model: Any,
        config: CodecConfig,
        num_stages: int,
        keep_offset: bool = False,
        effort: str = "normal",
    ) -> None:
        self.model = model
        self.state = new(state_dtype(config))
        start(model["coding"], self.state["coding"]["past"])
        self.state["keep_offset"] = keep_offset
        self.state["effort"] = TRIED_ENVELOPES if Effort(effort) == Effort.high else 1
        self.state["ratio"] = rate_control.FIRST_RATIO
        self.state["stages"] = num_stages, config.intra_stages(num_stages)

    def analyse(
        self, samples: np.ndarray, count: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return spectra [P, 2, N] and what is proposed [P, NUM_PROPOSED] of frames.

        Parameters
        ----------
        samples : float32 [T]   fewer than the frames hold only at the end of the signal
        count : int, optional   P; by default as many as the samples fill
        """
        samples = np.require(samples, np.float32, ["C", "W"])
        if count is None:
            count = len(samples) // FRAME_LENGTH
        spectra = np.empty((count, BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
        proposed = np.empty((count, NUM_PROPOSED), np.float32)
        analyse_frames(self.model, self.state, samples, spectra, proposed)
        return spectra, proposed

    def encode(
        self, spectra: np.ndarray, proposed: np.ndarray, sizes: np.ndarray, intra: np.ndarray
    ) -> list[bytes]:
        """Return the packets of analysed frames.

        Parameters
        ----------
        spectra, proposed : as :meth:`analyse` returns them
        sizes : int64 [P]    bytes of each packet
        intra : bool [P]

        Raises
        ------
        ValueError   a packet is too small for its envelope
        """
        data = np.zeros(int(sizes.sum()), np.uint8)
        failed = encode_frames(self.model, self.state, proposed, spectra, sizes, intra, data)
        if failed >= 0:
            raise ValueError(
                f"packet {failed} of {sizes[failed]} bytes is too small: use 12 or more"
            )
        whole, edges = data.tobytes(), np.concatenate([[0], np.cumsum(sizes)])
        return [whole[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
