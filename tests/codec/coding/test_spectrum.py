"""Levels: rounding, symbols, and that what is written is read and costs what was said."""

from typing import Any

import numpy as np
import pytest
from frames import chosen_frames, coding_state, get_frame, price, put_frame, rest_of, set_frame

from codec import Codec
from codec.coding import spectrum
from codec.coding.envelope import level_context
from codec.coding.range_coder import enc_tell_bits
from codec.coding.spectrum import dequantize, magnitude_symbol, quantize
from codec.config import (
    BLOCKS_PER_FRAME,
    HOP_LENGTH,
    MAGNITUDE_BASE,
    MAGNITUDE_EXTRA_BITS,
    MAX_FRAME_BITS,
    MAX_LEVEL_DELTA,
    NUM_SYMBOLS,
    ROUNDING,
)

SHAPE = (BLOCKS_PER_FRAME, HOP_LENGTH)
STAGES = 3
KIND = (MAX_FRAME_BITS, False, STAGES)


def steps(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3000, 0, HOP_LENGTH).astype(np.int32)


def test_symbols_cover_all_magnitudes() -> None:
    for magnitude in range(5000):
        symbol = magnitude_symbol(magnitude)
        base, extra = MAGNITUDE_BASE[symbol], MAGNITUDE_EXTRA_BITS[symbol]
        assert base <= magnitude
        assert magnitude < base + (1 << extra) or symbol == NUM_SYMBOLS - 1


def test_quantize_rounds_with_a_dead_zone() -> None:
    log_step = steps(0)
    width = np.exp2(log_step / 256)
    rng = np.random.default_rng(1)
    ratio = rng.laplace(0, 3, SHAPE)
    # Away from the thresholds, where float32 may fall on either side.
    ratio[np.abs((np.abs(ratio) + ROUNDING) % 1 - 0.5) > 0.499] = 0.0
    levels = np.zeros(SHAPE, np.int32)
    quantize((ratio * width).astype(np.float32), log_step, levels)
    np.testing.assert_array_equal(levels, np.sign(ratio) * np.floor(np.abs(ratio) + ROUNDING))
    assert not levels[np.abs(ratio) < 0.599].any() and np.abs(levels).max() > 5
    back = np.zeros(SHAPE, np.float32)
    dequantize(levels, log_step, back)
    np.testing.assert_allclose(back, levels * width, rtol=1e-6)
    again = np.zeros(SHAPE, np.int32)
    quantize(back, log_step, again)
    np.testing.assert_array_equal(again, levels)


@pytest.mark.parametrize("value", [1e30, np.float32(3.4e38), -1e30])
def test_levels_and_coefficients_are_bounded(value: float) -> None:
    levels, back = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, np.float32)
    quantize(np.full(SHAPE, value, np.float32), np.zeros(HOP_LENGTH, np.int32), levels)
    assert (levels == np.sign(value) * spectrum.LEVEL_LIMIT).all()
    dequantize(levels, np.full(HOP_LENGTH, 30000, np.int32), back)
    assert (np.abs(back) == spectrum.COEFFICIENT_LIMIT).all()


def test_every_magnitude_comes_back_with_its_sign(codec: Codec) -> None:
    values = np.arange(-4095, 4096)
    values = np.concatenate([values, np.zeros(-len(values) % 320, np.int64)]).astype(np.int32)
    np.random.default_rng(0).shuffle(values)
    model, sent, received = codec._encoder["coding"], coding_state(codec), coding_state(codec)
    data = np.zeros(2000, np.uint8)
    for levels in values.reshape(-1, *SHAPE):
        sent["frame"]["indices"][:STAGES] = 1, 2, 3
        set_frame(model, sent, KIND, -5, levels)
        said = price(model, sent, rest_of(MAX_FRAME_BITS))
        assert put_frame(model, sent, STAGES, data)
        side = sum(model["envelope"]["index_cost"][s, i] for s, i in enumerate((1, 2, 3)))
        side += sum(model["detail"]["index_cost"][:, 0])
        side += model["level"]["cost"][level_context(0), MAX_LEVEL_DELTA]
        side += model["blocks"]["cost"][0, 0]
        # The last symbol also owns what divisions leave over: it takes less than is said.
        used = enc_tell_bits(sent["coder"]) / 8
        assert 0.95 * (said + side) / 256 < used < (said + side) / 256 + 2
        get_frame(model, received, 0, STAGES, data)
        np.testing.assert_array_equal(received["frame"]["levels"], levels)
        sent["past"] = received["past"]


def exact_price(model: Any, coding: Any) -> float:
    """Return the bits of a frame's levels from real-valued mixtures of the tables."""
    cdf = model["context"]["cdf"].astype(np.float64)
    bits = 0.0
    magnitudes = np.abs(coding["frame"]["levels"]).ravel()
    for magnitude, position in zip(magnitudes, coding["positions"].reshape(-1, 3), strict=True):
        index, (row, column) = position[0], position[1:] / 16
        table = (1 - row) * ((1 - column) * cdf[index] + column * cdf[index + 1])
        table += row * ((1 - column) * cdf[index + 4] + column * cdf[index + 5])
        symbol = magnitude_symbol(int(magnitude))
        if symbol == NUM_SYMBOLS - 1:  # Exp-Golomb code of order 2
            bits += 2 * np.floor(np.log2(magnitude - 256 + 4)) - 1
        bits += 15 - np.log2(table[symbol + 1] - table[symbol])
        bits += MAGNITUDE_EXTRA_BITS[symbol] + (magnitude > 0)
    return float(bits)


@pytest.mark.parametrize("intra", [False, True])
def test_price_is_that_of_the_mixed_tables(codec: Codec, speech: np.ndarray, intra: bool) -> None:
    for model, state, _ in chosen_frames(codec, speech[4000:10000], 33, intra):
        coding = state["coding"]
        said = price(model, coding, 8 * 33) / 256
        delta = coding["frame"]["delta"]
        said -= model["step"]["cost"][_context(coding["past"]["delta"]), delta + 63] / 256
        assert said == pytest.approx(exact_price(model, coding), rel=0.005, abs=0.5)


def _context(delta: int) -> int:
    return min(max((int(delta) + 15) // 6, 0), 6)
