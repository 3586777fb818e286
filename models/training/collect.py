"""What the runtime's encoder sees while it codes: the data that context models are trained on."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codec.analysis import make_model
from codec.coding.choices import choose_frame
from codec.coding.detail import bits_of
from codec.coding.envelope import MAX_STAGES
from codec.coding.frame import limited_bits, look_around, update
from codec.coding.spectrum import price
from codec.config import BLOCKS_PER_FRAME, FRAME_LENGTH, HOP_LENGTH, NUM_FEATURES, CodecConfig
from codec.encoder import FrameEncoder, model_dtype
from codec.jit import kernel
from codec.model import coding_model
from codec.records import new
from models.runtime import Tensors


class Collected(NamedTuple):
    """What the encoder saw while it coded some frames of one kind.

    Attributes
    ----------
    features : int16 [F, 2, N, features]   of the context model
    levels : int32 [F, 2, N]
    kinds : int64 [F]                      of the first block, as the context model has it
    deltas : int64 [F, 2]                  step delta of the frame before, and of this one
    level_deltas : int64 [F, 2]            likewise, of the level
    indices : int64 [F, MAX_STAGES]        of the envelope
    detail_indices : int64 [F, MAX_STAGES]   of the detail,
    detail_stages : int64 [F]              and how many of them are in use
    costs : int64 [F]                      code length of the levels, 1/256 bit
    """

    features: np.ndarray
    levels: np.ndarray
    kinds: np.ndarray
    deltas: np.ndarray
    level_deltas: np.ndarray
    indices: np.ndarray
    detail_indices: np.ndarray
    detail_stages: np.ndarray
    costs: np.ndarray


@kernel
def _collect_frames(model, state, proposed, spectra, kind, seen):
    """Choose the integers of consecutive frames as the encoder does, and note what it sees.

    Parameters
    ----------
    model, state : records           of the encoder
    proposed : float32 [F, NUM_PROPOSED]   of the analysis
    spectra : float32 [F, 2, N]
    kind : (frame_bits, intra, num_stages)
    seen : Collected                 result
    """
    coding = state.coding
    for f in range(proposed.shape[0]):
        transform = model.analysis.transform
        choose_frame(model.coding, transform, state, proposed[f], spectra[f], kind)
        stages = coding.frame.detail_stages
        look_around(model.coding, coding, kind[0] - bits_of(stages))
        seen.costs[f] = price(model.coding.context, coding)
        seen.kinds[f] = coding.known.kind
        past, frame = coding.past, coding.frame
        seen.deltas[f, 0], seen.deltas[f, 1] = past.delta, frame.delta
        seen.level_deltas[f, 0], seen.level_deltas[f, 1] = past.level_delta, frame.level_delta
        for s in range(MAX_STAGES):
            seen.indices[f, s] = coding.frame.indices[s]
            seen.detail_indices[f, s] = coding.frame.detail_indices[s]
        seen.detail_stages[f] = stages
        for block in range(BLOCKS_PER_FRAME):
            for k in range(HOP_LENGTH):
                seen.levels[f, block, k] = coding.frame.levels[block, k]
                for i in range(NUM_FEATURES):
                    seen.features[f, block, k, i] = coding.context.features[block, k, i]
        update(coding)


def collect(
    tensors: Tensors,
    config: CodecConfig,
    waveform: np.ndarray,
    frame_bytes: int,
    num_stages: int,
    intra: bool,
) -> Collected:
    """Code a waveform with frames of one size and kind; returns what the encoder saw.

    Parameters
    ----------
    tensors : Tensors                     of that kind
    config : CodecConfig
    waveform : float32 array, shape [T]   16 kHz
    frame_bytes, num_stages : int
    intra : bool
    """
    model = new(model_dtype(config))
    model["analysis"] = make_model(tensors, config)
    model["coding"] = coding_model(tensors, config)
    encoder = FrameEncoder(model, config, num_stages)
    count = len(waveform) // FRAME_LENGTH
    samples = np.ascontiguousarray(waveform[: count * FRAME_LENGTH], np.float32)
    spectra, proposed = encoder.analyse(samples)
    seen = Collected(
        np.zeros((count, BLOCKS_PER_FRAME, HOP_LENGTH, NUM_FEATURES), np.int16),
        np.zeros((count, BLOCKS_PER_FRAME, HOP_LENGTH), np.int32),
        np.zeros(count, np.int64),
        np.zeros((count, 2), np.int64),
        np.zeros((count, 2), np.int64),
        np.zeros((count, MAX_STAGES), np.int64),
        np.zeros((count, MAX_STAGES), np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
    )
    kind = (limited_bits(frame_bytes), intra, num_stages)
    _collect_frames(model, encoder.state, proposed, spectra, kind, seen)
    return seen
