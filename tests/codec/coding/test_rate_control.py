"""Rate control: what a frame is said to cost is what it takes, and frames are full."""

from typing import Any

import numpy as np
import pytest
from frames import (
    chosen_frames,
    estimate,
    fill_frame,
    price,
    put_frame,
    rest_of,
    shape_steps,
    try_step,
)

from codec import Codec
from codec.coding import envelope
from codec.coding.range_coder import enc_tell_bits
from codec.coding.rate_control import (
    drop_top,
    finest_delta,
)
from codec.coding.spectrum import LEVEL_LIMIT
from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH, MAX_STEP_DELTA, STEP_RESOLUTION
from codec.model import COST_ONE

SHAPE = (BLOCKS_PER_FRAME, HOP_LENGTH)


def side_cost(model: Any, coding: Any, stages: int) -> int:
    """Return the code length of level, shape, detail and block length, 1/256 bit."""
    past, frame = coding["past"], coding["frame"]
    cost = envelope.price(model["envelope"], frame["indices"], stages)
    cost += envelope.price(model["detail"], frame["detail_indices"], frame["detail_stages"])
    cost += envelope.level_cost(model["level"], past["level_delta"], frame["level_delta"])
    return int(cost + model["blocks"]["cost"][past["long"], frame["long"]])


@pytest.mark.parametrize("intra", [False, True])
@pytest.mark.parametrize("rate", [8.0, 13.2, 32.0])
def test_estimated_bits_are_the_bits_used(
    codec: Codec, speech: np.ndarray, rate: float, intra: bool
) -> None:
    size = round(2.5 * rate)
    stages = 4 if intra else 3
    said, used, data = [], [], np.zeros(2000, np.uint8)
    for model, state, _ in chosen_frames(codec, speech[:24000], size, intra, stages):
        coding = state["coding"]
        side = side_cost(model, coding, stages)
        said.append((price(model, coding, rest_of(8 * size)) + side) / COST_ONE)
        assert put_frame(model, coding, stages, data)
        used.append(enc_tell_bits(coding["coder"]) / 8)
    assert np.sum(said) == pytest.approx(np.sum(used), rel=0.005)
    assert np.abs(np.subtract(said, used)).max() < 1.0
    # Frames are used, and what was planned for them fits.
    loud = np.array(used)[5:]
    assert (np.array(used) <= 8 * size).mean() > 0.97
    assert np.median(loud) > 0.975 * 8 * size


@pytest.mark.parametrize("size", [40, 80])
def test_the_step_is_the_finest_that_fits(codec: Codec, speech: np.ndarray, size: int) -> None:
    """The next finer one does not fit; seldom the estimate stops one step too early."""
    finest = []
    for model, state, spectrum in chosen_frames(codec, speech[4000:10000], size, stages=3):
        coding = state["coding"]
        frame = coding["frame"]
        side = side_cost(model, coding, 3)
        expected = int(frame["step"]) - int(frame["delta"]) * STEP_RESOLUTION
        budget = 8 * size * COST_ONE - side
        cost = price(model, coding, rest_of(8 * size))
        assert cost <= budget
        finer = int(frame["delta"]) - 1
        if finer >= -MAX_STEP_DELTA:
            finest.append(
                try_step(model, coding, spectrum, rest_of(8 * size), (expected, finer))
                > budget - 128
            )
    assert len(finest) > 10 and np.mean(finest) > 0.85


@pytest.mark.parametrize("size", [20, 31])
def test_small_frames_are_filled(codec: Codec, speech: np.ndarray, size: int) -> None:
    """To the last bits, by lowering single magnitudes of a step that is a little too fine."""
    unused, lowered = [], 0
    for model, state, spectrum in chosen_frames(codec, speech[4000:16000], size, stages=3):
        coding = state["coding"]
        frame = coding["frame"]
        side = side_cost(model, coding, 3)
        unused.append(8 * size - (price(model, coding, rest_of(8 * size)) + side) / COST_ONE)
        ratio = np.abs(spectrum) / np.exp2(frame["log_step"] / 256)
        full = np.floor(ratio + 0.4)
        assert (np.abs(frame["levels"]) <= full + (np.abs((ratio + 0.4) % 1) < 1e-4)).all()
        lowered += int((np.abs(frame["levels"]) < full - 0.5).any())
    assert np.mean(unused) < 3.0 and min(unused) > 0.0 and lowered > 10


def test_filling_takes_nothing_but_magnitudes(codec: Codec, speech: np.ndarray) -> None:
    for model, state, spectrum in chosen_frames(codec, speech[6000:9000], 20, stages=3):
        coding = state["coding"]
        frame = coding["frame"]
        expected = int(frame["step"]) - int(frame["delta"]) * STEP_RESOLUTION
        cost = try_step(model, coding, spectrum, 160, (expected, int(frame["delta"]) - 1))
        before = frame["levels"].copy()
        budget = int(0.97 * cost)
        if fill_frame(model, coding, spectrum, 160, (cost, budget)):
            assert price(model, coding, 160) <= budget
        after = frame["levels"]
        assert (np.abs(after) <= np.abs(before)).all() and (after * before >= 0).all()
        assert not fill_frame(model, coding, spectrum, 160, (price(model, coding, 160), 0))


def test_estimate_falls_with_the_step(codec: Codec, speech: np.ndarray) -> None:
    for model, state, spectrum in chosen_frames(codec, speech[6000:8000], 33):
        coding = state["coding"]
        expected = shape_steps(model, coding, rest_of(264), 3)
        costs = [
            estimate(model["context"], coding["frame"], spectrum, (expected, delta))
            for delta in range(-MAX_STEP_DELTA, MAX_STEP_DELTA + 1, 7)
        ]
        assert costs[0] > costs[-1] and np.mean(np.diff(costs) <= 0) > 0.9


def test_dropping_the_top() -> None:
    rng = np.random.default_rng(0)
    for keep in (160, 159, 4, 0, -3):
        levels = rng.integers(-3, 4, SHAPE).astype(np.int32)
        before = levels.copy()
        drop_top(levels, keep)
        np.testing.assert_array_equal(levels[:, : max(keep, 0)], before[:, : max(keep, 0)])
        assert not levels[:, max(keep, 0) :].any()


def test_nothing_fits_a_click_in_a_tiny_frame(codec: Codec) -> None:
    """Then the top is dropped until it does; the encoder never fails from 12 bytes on."""
    wave = np.zeros(20 * 320, np.float32)
    wave[3000:3010] = [1, -1, 1, -1, 1, 1, -1, -1, 1, 1]
    encoder = codec.frame_encoder(codec.header(0, 16000, 32.0))
    for intra in (False, True):
        packets = encoder.encode(*encoder.analyse(wave), np.full(20, 12), np.full(20, intra))
        assert [len(packet) for packet in packets] == 20 * [12]


def steady(name: str) -> np.ndarray:
    """Return half a second of a signal that a few coefficients hold, at full scale."""
    n = np.arange(25 * 320)
    signals = {
        "tone": np.sin(0.7 * n),
        "hum": np.sin(2 * np.pi * 50 * n / 16000),
        "constant": np.ones(len(n)),
        "square": np.where(n // 40 % 2 == 0, 1.0, -1.0),
    }
    return signals[name].astype(np.float32)


@pytest.mark.parametrize("name", ["tone", "hum", "constant", "square"])
@pytest.mark.parametrize("size", [20, 80, 255])
def test_no_level_is_cut_off(codec: Codec, name: str, size: int) -> None:
    """However many bits there are, the step is never so fine that a peak would be lost."""
    largest = 0
    for _, state, spectrum in chosen_frames(codec, steady(name), size, stages=4):
        frame = state["coding"]["frame"]
        width = np.exp2(frame["log_step"] / 256)
        error = np.abs(spectrum - frame["levels"] * width)
        # Rounding leaves at most 0.6 steps; lowering what was rounded up, to fit, less than one.
        assert (error <= 1.01 * width + (frame["levels"] == 0) * np.abs(spectrum)).all()
        largest = max(largest, int(np.abs(frame["levels"]).max()))
    assert largest <= LEVEL_LIMIT


def test_the_finest_step_is_the_last_that_holds_the_peak(codec: Codec) -> None:
    rng = np.random.default_rng(0)
    for model, state, spectrum in chosen_frames(codec, steady("tone"), 80):
        frame = state["coding"]["frame"]
        expected = shape_steps(model, state["coding"], rest_of(640), 3)
        coefficients = spectrum * np.float32(10.0 ** rng.uniform(-3, 3))
        delta = finest_delta(frame, coefficients, expected)

        def peak(delta: int, coefficients=coefficients, frame=frame, expected=expected) -> float:
            log_step = expected + delta * STEP_RESOLUTION + frame["relative"]
            return float(np.abs(coefficients / np.exp2(log_step / 256)).max())

        assert -MAX_STEP_DELTA <= delta <= MAX_STEP_DELTA
        assert peak(delta) < LEVEL_LIMIT * 1.001 or delta == MAX_STEP_DELTA
        assert delta == -MAX_STEP_DELTA or peak(delta - 1) > LEVEL_LIMIT * 0.999
