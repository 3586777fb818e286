"""Frames as the shipped codec's encoder chooses them, for tests of what happens inside one."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from compiled import direct
from compiled import frame_was_filled as fill_frame
from compiled import frame_was_put as put_frame

from codec import Codec
from codec.bitstream import cbr_packet_sizes
from codec.coding import detail, frame, rate_control
from codec.config import FRAME_LENGTH
from codec.encoder import FrameEncoder
from codec.records import new

__all__ = ["fill_frame", "put_frame"]

get_frame, update = map(direct, (frame.get_frame, frame.update))
set_envelope, set_step = map(direct, (frame.set_envelope, frame.set_step))
set_detail, stages_of = direct(frame.set_detail), direct(detail.stages_of)
shape_steps, start = map(direct, (frame.shape_steps, frame.start))
price, try_step = map(direct, (rate_control.price, rate_control.try_step))
estimate = direct(rate_control.estimate)


def frame_encoder(codec: Codec, rate: float = 13.2) -> FrameEncoder:
    return codec.frame_encoder(codec.header(0, 16000, rate))


def sizes_of(rate: float, count: int) -> np.ndarray:
    return np.array(cbr_packet_sizes(round(rate * 1000), count), np.int64)


def chosen_frames(
    codec: Codec, wave: np.ndarray, frame_bytes: int, intra: bool = False, stages: int = 3
) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Yield coding model, encoder state and coefficients of each frame when they are chosen.

    The coefficients are those of the blocks that were coded: two, or a long one. The state's past
    is the one in which they were chosen; it moves on with the next frame.
    """
    encoder = frame_encoder(codec)
    model, state = encoder.model["intra" if intra else "coding"], encoder.state
    state["stages"] = stages
    whole = np.ascontiguousarray(wave[: len(wave) // FRAME_LENGTH * FRAME_LENGTH])
    spectra, envelopes = encoder.analyse(whole)
    sizes, kinds = np.array([frame_bytes]), np.array([intra])
    for p in range(len(spectra)):
        past = state["coding"]["past"].copy()
        encoder.encode(spectra[p : p + 1], envelopes[p : p + 1], sizes, kinds)
        after = state["coding"]["past"].copy()
        if intra:  # such a frame has itself for its past
            past = coding_state(codec)["past"]
            past["envelope"] = state["coding"]["frame"]["envelope"]
        state["coding"]["past"] = past
        yield model, state, state["spectrum"].copy()
        state["coding"]["past"] = after


def coding_state(codec: Codec) -> Any:
    """Return the state of a coder before the first frame."""
    state = new(frame.state_dtype(codec.config))
    start(codec._encoder["coding"], state["past"])
    return state


def rest_of(frame_bits: int) -> int:
    """Return the bits that a frame has without its detail."""
    return frame_bits - 8 * stages_of(frame_bits)


def set_frame(model: Any, state: Any, kind: tuple, delta: int, levels: np.ndarray) -> None:
    """Make a frame of any integers; ``kind`` is (frame bits, intra, envelope stages)."""
    frame_bits, intra, stages = kind
    set_envelope(model, state, int(intra), stages)
    state["frame"]["detail_stages"] = stages_of(frame_bits)
    set_detail(model, state)
    set_step(state["frame"], shape_steps(model, state, rest_of(frame_bits), stages), delta)
    state["frame"]["levels"] = levels
