"""What training uses of the runtime's insides, in one place: weights files, and the encoder.

Training knows tensors by the names of ``codec.model.FIELDS``. This module turns them into weights
files and back, and lets the runtime's encoder collect what the context models are trained on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codec.analysis import make_model
from codec.coding.allocation import step_context
from codec.coding.frame import limited_bits, neighbourhood, new_frame, update
from codec.coding.rate_control import new_trial
from codec.coding.spectrum import price
from codec.config import FRAME_LENGTH, HOP_LENGTH, NUM_FEATURES, CodecConfig
from codec.encoder import EncoderModel, FrameEncoder, choose_frame, default_stages
from codec.jit import kernel
from codec.model import FIELDS, coding_model
from codec.weights import Weights, load_weights

__all__ = [
    "INTRA_PREFIX", "Collected", "Tensors", "Weights", "collect", "file_tensors", "load_weights",
    "stages_at", "step_context", "tensors_of",
]  # fmt: skip

# Tensors of one kind of frames, by the names of FIELDS.
Tensors = dict[str, np.ndarray]
INTRA_PREFIX = "intra."
NETWORKS = ("analysis.", "enhancer.")


def stages_at(rate_kbps: float, config: CodecConfig) -> int:
    """Return the envelope stages that the encoder uses at a rate."""
    return min(default_stages(round(rate_kbps * 1000)), config.num_stages)


# --- weights files --------------------------------------------------------------------------------


def tensors_of(weights: Weights, intra: bool = False) -> Tensors:
    """Return all tensors of one kind of frames of a weights file."""
    tensors = {f.name: weights.tensors[f.name] for f in FIELDS}
    if intra:
        tensors |= {f.name: weights.tensors[INTRA_PREFIX + f.name] for f in FIELDS if f.own}
    return tensors


def file_tensors(predicted: Tensors, intra: Tensors) -> Tensors:
    """Return the tensors of a weights file by their names there."""
    own = {INTRA_PREFIX + f.name: intra[f.name] for f in FIELDS if f.own}
    return {f.name: predicted[f.name] for f in FIELDS} | own


# --- the encoder ----------------------------------------------------------------------------------


class Collected(NamedTuple):
    """What the encoder saw while it coded some frames of one kind.

    Attributes
    ----------
    features : int16 [F, 2, N, features]   of the context model
    levels : int32 [F, 2, N]
    deltas : int64 [F, 2]                  step delta of the frame before, and of this one
    indices : int64 [F, stages]            of the envelope
    costs : int64 [F]                      code length of the levels, 1/256 bit
    """

    features: np.ndarray
    levels: np.ndarray
    deltas: np.ndarray
    indices: np.ndarray
    costs: np.ndarray


@kernel
def _collect_frames(model, state, envelopes, spectra, kind, seen):
    """Choose the integers of consecutive frames as the encoder does, and note what it sees.

    Parameters
    ----------
    model : CodingModel
    state : EncoderState
    envelopes : float32 [F, bands]
    spectra : float32 [F, 2, N]
    kind : (frame_bits, intra, num_stages)
    seen : Collected   result
    """
    for f in range(envelopes.shape[0]):
        frame = new_frame()
        trial = new_trial(spectra[f])
        choose_frame(model, state, envelopes[f], trial, kind, frame)
        known = neighbourhood(model, state.coding, frame, kind[0])
        seen.costs[f] = price(model.context, known, frame.levels, trial.positions, seen.features[f])
        seen.levels[f] = frame.levels
        seen.deltas[f, 0], seen.deltas[f, 1] = state.coding.delta[0], frame.step[1]
        seen.indices[f] = frame.indices
        update(state.coding, frame)


def collect(
    tensors: Tensors,
    waveform: np.ndarray,
    frame_bytes: int,
    num_stages: int,
    intra: bool,
) -> Collected:
    """Code a waveform with frames of one size and kind; returns what the encoder saw.

    Parameters
    ----------
    tensors : Tensors                  of that kind
    waveform : float32 array, shape [T]
    frame_bytes, num_stages : int
    intra : bool
    """
    network = {
        name.removeprefix("analysis."): value
        for name, value in tensors.items()
        if name.startswith("analysis.")
    }
    coding = coding_model({n: v for n, v in tensors.items() if not n.startswith(NETWORKS)})
    stages = np.full(2, num_stages, np.int64)
    encoder = FrameEncoder(EncoderModel(make_model(network), coding, coding, stages))
    count = len(waveform) // FRAME_LENGTH
    samples = np.ascontiguousarray(waveform[: count * FRAME_LENGTH], np.float32)
    spectra, envelopes = encoder.analyse(samples)
    seen = Collected(
        np.zeros((count, 2, HOP_LENGTH, NUM_FEATURES), np.int16),
        np.zeros((count, 2, HOP_LENGTH), np.int32),
        np.zeros((count, 2), np.int64),
        np.zeros((count, len(new_frame().indices)), np.int64),
        np.zeros(count, np.int64),
    )
    kind = (limited_bits(frame_bytes), intra, num_stages)
    _collect_frames(coding, encoder.state, envelopes, spectra, kind, seen)
    return seen
