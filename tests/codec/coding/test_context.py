"""Context model: features and positions against NumPy, mixed tables, spacing of harmonics."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from compiled import block_was_predicted, direct
from frames import chosen_frames

from codec import Codec
from codec.coding import context as c
from codec.coding.context import harmonic_lag, mixed_cdf, rescale
from codec.coding.frame import look_around
from codec.coding.spectrum import price
from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH, NUM_SYMBOLS, TABLE_COLUMNS, CodecConfig
from codec.model import FEATURE_LIMIT, FIELDS, HIDDEN_LIMIT, TOTAL, coding_model, field_shape
from codec.records import new

BYTES = 33
predict_block = direct(c.predict_block)


class Seen(NamedTuple):
    """What the coder knew of one frame, and what it made of it."""

    model: Any
    neighbours: np.ndarray  # before the first block
    levels: np.ndarray
    features: np.ndarray
    positions: np.ndarray


@pytest.fixture(scope="module", params=[False, True], ids=["predicted", "intra"])
def seen(request: pytest.FixtureRequest, codec: Codec, speech: np.ndarray) -> list[Seen]:
    """Frames of speech at 13.2 kbit/s."""
    found = []
    for model, state, _spectrum in chosen_frames(codec, speech[:16000], BYTES, request.param):
        coding = state["coding"]
        look_around(model, coding, 8 * BYTES)
        known = coding["known"].copy()
        price(model["context"], coding)
        found.append(
            Seen(model, known, coding["frame"]["levels"].copy(),
                 coding["context"]["features"].astype(np.int64), coding["positions"].copy())
        )  # fmt: skip
    return found


@pytest.mark.parametrize("hidden", [24, 40])
def test_a_block_at_once_is_what_its_coefficients_are(codec: Codec, hidden: int) -> None:
    """Of networks of any width, whole tiles or not, with random weights."""
    rng, config = np.random.default_rng(hidden), CodecConfig(context_hidden=hidden)
    tensors = dict(codec.weights.of_kind(intra=False))
    for name, limit in (("w1", 200), ("band", 2**18), ("w2", 200), ("b2", 2**18), ("w3", 2000)):
        field = next(field for field in FIELDS if field.name == f"context.{name}")
        values = rng.integers(-limit, limit, field_shape(field, config))
        tensors[field.name] = values.astype(field.dtype)
    model = coding_model(tensors, replace(codec.config, context_hidden=hidden))["context"]
    known, context = new(c.NEIGHBOURS), new(c.context_dtype(config))
    known["ratio"] = rng.integers(-1500, 800, HOP_LENGTH)
    known["last_ratio"], known["past"] = known["ratio"], rng.integers(0, 90, (2, HOP_LENGTH))
    levels = rng.integers(-4, 5, HOP_LENGTH).astype(np.int32)
    positions = np.zeros((HOP_LENGTH, 3), np.int32)
    predict_block(model, known, 1, context, levels, positions)
    one_by_one = np.zeros_like(positions)
    block_was_predicted(model, known, context, levels, one_by_one)
    np.testing.assert_array_equal(positions, one_by_one)
    assert len(np.unique(positions[:, 0])) > 20  # it is not all the same


# --------------------------------------------------------------------------------------------------
# Features


def shifted(x: np.ndarray, by: int) -> np.ndarray:
    """Return x[k + by], zeros beyond the ends."""
    out = np.zeros_like(x)
    if by >= 0:
        out[: len(x) - by] = x[by:]
    else:
        out[-by:] = x[:by]
    return out


def decaying(x: np.ndarray, shift: int) -> np.ndarray:
    """Return what a sum that loses 2^-shift of itself per coefficient knows below each of them."""
    out, total = np.zeros_like(x), 0
    for k, value in enumerate(x.tolist()):
        out[k] = total
        total += value - (total >> shift)
    return out


def wanted_features(frame: Seen, block: int) -> np.ndarray:
    """Return all features of a block, [N, features], by their definitions."""
    known, table = frame.neighbours, frame.model["context"]["compress"].astype(np.int64)
    magnitude = np.minimum(np.abs(frame.levels.astype(np.int64)), c.MAGNITUDE_LIMIT) << 4
    last, before = known["past"].astype(np.int64)
    if block:
        last, before = magnitude[0], last
    own = magnitude[block]
    ratio, last_ratio = known["ratio"].astype(np.int64), known["last_ratio"].astype(np.int64)
    lag, strength = harmonic_lag(np.stack([last, before]).astype(np.int32))

    def clip(x: np.ndarray) -> np.ndarray:
        return np.clip(x, -FEATURE_LIMIT, FEATURE_LIMIT)

    def compress(x: np.ndarray) -> np.ndarray:
        return table[np.minimum(x, len(table) - 1)]

    index = np.arange(HOP_LENGTH)
    expected = frame.model["context"]["exp2"].astype(np.int64)
    expected = expected[np.clip(ratio + 2048, 0, 4095)] >> 6
    x = np.zeros((HOP_LENGTH, 32), np.int64)
    x[:, c.F_RATIO], x[:, c.F_LAST_RATIO] = clip(ratio >> 2), clip(last_ratio >> 2)
    x[:, c.F_RATIO_UP_4] = clip(ratio[np.minimum(index + 4, HOP_LENGTH - 1)] >> 2)
    x[:, c.F_RATIO_DOWN_4] = clip(ratio[np.maximum(index - 4, 0)] >> 2)
    for column, values, by in (
        (c.F_BELOW_1, own, -1), (c.F_BELOW_2, own, -2), (c.F_LAST, last, 0),
        (c.F_LAST_DOWN_1, last, -1), (c.F_LAST_UP_1, last, 1), (c.F_LAST_DOWN_2, last, -2),
        (c.F_LAST_UP_2, last, 2), (c.F_BEFORE_LAST, before, 0),
        (c.F_BEFORE_LAST_DOWN_1, before, -1), (c.F_BEFORE_LAST_UP_1, before, 1),
        (c.F_BEFORE_LAST_DOWN_2, before, -2), (c.F_BEFORE_LAST_UP_2, before, 2),
        (c.F_HARMONIC, own, -lag), (c.F_HARMONIC_DOWN_1, own, -lag - 1),
    ):  # fmt: skip
        x[:, column] = compress(shifted(values, by))
    up = compress(shifted(own, 1 - lag))
    x[:, c.F_HARMONIC_UP_1] = np.where(index >= lag, up, 0)
    pair = shifted(own, -1) + shifted(own, -2)
    x[:, c.F_BELOW_12] = compress(pair >> 1)
    x[:, c.F_BELOW_34] = compress((shifted(own, -3) + shifted(own, -4)) >> 1)
    x[:, c.F_BELOW_8] = compress(decaying(own, 3) >> 3)
    x[:, c.F_BELOW_32] = compress(decaying(own, 5) >> 5)
    x[:, c.F_EXPECTED_8] = compress(decaying(expected, 3) >> 3)
    x[:, c.F_EXPECTED_32] = compress(decaying(expected, 5) >> 5)
    down = compress(shifted(last, -3) + shifted(last, -4))
    x[:, c.F_LAST_DOWN_34] = np.where(index >= 4, down, 0)
    above = compress(shifted(last, 3) + shifted(last, 4))
    x[:, c.F_LAST_UP_34] = np.where(index + 4 < HOP_LENGTH, above, 0)
    around = sum(shifted(last, by) for by in range(-4, 5))
    x[:, c.F_LAST_AROUND] = compress(around >> 3)
    x[:, c.F_FRAME_BITS] = clip((known["frame_bits"] - 8192) >> 4)
    x[:, c.F_STEP_DELTA] = clip(8 * known["delta"])
    x[:, c.F_LAST_STEP_DELTA] = clip(8 * known["last_delta"])
    x[:, c.F_HARMONIC_STRENGTH] = strength
    return x


def test_features_are_what_they_are_called(seen: list[Seen]) -> None:
    for frame in seen:
        for block in range(BLOCKS_PER_FRAME):
            wanted, got = wanted_features(frame, block), frame.features[block]
            for column in range(got.shape[1]):
                np.testing.assert_array_equal(got[:, column], wanted[:, column], f"{column}")
    assert np.abs(np.concatenate([f.features for f in seen])).max() <= FEATURE_LIMIT


# --------------------------------------------------------------------------------------------------
# Positions


def wanted_positions(frame: Seen, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column between the tables, in sixteenths."""
    m, x = frame.model["context"], frame.features[block]
    bias = m["band"][frame.neighbours["kind"] + block, c.BAND_OF_BIN].astype(np.int64)
    first = np.clip((bias + x @ m["w1"].astype(np.int64)) >> 8, 0, HIDDEN_LIMIT)
    second = np.clip((first @ m["w2"].astype(np.int64) + m["b2"]) >> 10, 0, HIDDEN_LIMIT)
    out = (second @ m["w3"].astype(np.int64) + m["b3"] + (1 << 13)) >> 14
    row = out[:, 0] + (frame.neighbours["ratio"] >> 1) + c.ROW_OFFSET * c.TABLE_PARTS
    rows = len(m["cdf"]) // TABLE_COLUMNS
    return (
        np.clip(row, 0, (rows - 1) * c.TABLE_PARTS),
        np.clip(out[:, 1], 0, (TABLE_COLUMNS - 1) * c.TABLE_PARTS),
    )


def test_positions_are_those_of_the_whole_network(seen: list[Seen]) -> None:
    """The first layer is split between block and coefficient; the sum is the same."""
    rows = set()
    for frame in seen:
        for block in range(BLOCKS_PER_FRAME):
            index, fine_row, fine_column = frame.positions[block].T
            row = index // TABLE_COLUMNS * c.TABLE_PARTS + fine_row
            column = index % TABLE_COLUMNS * c.TABLE_PARTS + fine_column
            wanted = wanted_positions(frame, block)
            np.testing.assert_array_equal(row, wanted[0])
            np.testing.assert_array_equal(column, wanted[1])
            assert fine_row.min() >= 0 and fine_row.max() <= c.TABLE_PARTS
            rows.update(row.tolist())
    assert len(rows) > 100


@pytest.mark.parametrize("kind", ["coding", "intra"])
def test_mixed_tables_are_distributions(codec: Codec, kind: str) -> None:
    cdf = codec._encoder[kind]["context"]["cdf"]
    rng = np.random.default_rng(0)
    rows = len(cdf) // TABLE_COLUMNS
    for _ in range(300):
        index = int(rng.integers(rows - 1)) * TABLE_COLUMNS + int(rng.integers(TABLE_COLUMNS - 1))
        fine = [int(x) for x in rng.integers(0, c.TABLE_PARTS + 1, 2)]
        mixed = [mixed_cdf(cdf, index, fine[0], fine[1], s) for s in range(NUM_SYMBOLS + 1)]
        assert mixed[0] == 0 and mixed[-1] == TOTAL
        assert np.diff(mixed).min() >= 1
        if fine == [0, 0]:
            assert mixed == cdf[index].tolist()


# --------------------------------------------------------------------------------------------------
# Neighbours


@pytest.mark.parametrize("spacing", [2, 3, 5, 8, 13, 20])
def test_spacing_of_harmonics(spacing: int) -> None:
    past = np.zeros((2, HOP_LENGTH), np.int32)
    past[:, ::spacing] = 100
    lag, strength = harmonic_lag(past)
    assert lag % spacing == 0 and lag < 4 * spacing and strength > 40


def test_no_harmonics_in_silence_and_bounded_strength() -> None:
    assert harmonic_lag(np.zeros((2, HOP_LENGTH), np.int32)) == (2, 0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        lag, strength = harmonic_lag(rng.integers(0, 32768, (2, HOP_LENGTH)).astype(np.int32))
        assert 2 <= lag <= c.MAX_HARMONIC_LAG and 0 <= strength <= 64


def test_magnitudes_in_another_step(codec: Codec) -> None:
    model = codec._encoder["coding"]["context"]
    rng = np.random.default_rng(0)
    magnitude = rng.integers(0, 40, HOP_LENGTH).astype(np.int32)
    old, new = (rng.integers(-900, 900, HOP_LENGTH).astype(np.int32) for _ in range(2))
    out = np.zeros(HOP_LENGTH, np.int32)
    rescale(model, magnitude, old, new, out)
    exact = 16 * magnitude * np.exp2((old - new) / 256)
    np.testing.assert_allclose(out, np.minimum(exact, 32767), rtol=2e-3, atol=1.0)
    rescale(model, magnitude, old, old, out)
    np.testing.assert_array_equal(out, magnitude << 4)
    rescale(model, np.full(HOP_LENGTH, 4095, np.int32), old + 8192, old - 8192, out)
    assert (out == 32767).all()
