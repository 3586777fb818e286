"""Step allocation: the integer network, its table, and the step that a frame is expected to use."""

from typing import Any

import numpy as np
import pytest

from codec import Codec
from codec.coding.allocation import (
    OFFSET_LIMIT,
    allocate,
    budget_bits,
    expected_step,
    interpolate,
    log_scale,
    step_context,
)
from codec.config import (
    HOP_LENGTH,
    MAX_FRAME_BITS,
    MAX_STEP_DELTA,
    NUM_BANDS,
    NUM_RATE_KNOTS,
    NUM_STEP_CONTEXTS,
)
from codec.model import COST_ONE, ENVELOPE_LIMIT


@pytest.fixture(scope="module")
def model(codec: Codec) -> Any:
    return codec._encoder["coding"]["allocation"]


def plain_offsets(model: Any, envelope: list[int], previous: list[int], bits: int) -> list[int]:
    """Return the offsets in Python's integers, which have no limits."""

    def dense(x: list[int], layer: int, shift: int) -> list[int]:
        weights, bias = model[f"w{layer}"].tolist(), model[f"b{layer}"].tolist()
        totals = [b + sum(v * row[o] for v, row in zip(x, weights, strict=True))
                  for o, b in enumerate(bias)]  # fmt: skip
        return [(total + (1 << shift >> 1)) >> shift for total in totals]

    mean = sum(envelope) // NUM_BANDS
    log_bits = int(model["log2_bits"][bits])
    x = [e - mean for e in [*envelope, *previous]] + [log_bits - 8 * 1024]
    for layer in (1, 2):
        x = [max(v, 0) for v in dense(x, layer, 12)]
    out = dense(x, 3, 14)
    position = min(max(log_bits - 7498, 0), 512 * (NUM_RATE_KNOTS - 1))
    row = min(position // 512, NUM_RATE_KNOTS - 2)
    t = position - 512 * row
    table = model["rate_offsets"].tolist()
    for j in range(NUM_BANDS):
        out[j] += (table[row][j] * (512 - t) + table[row + 1][j] * t + 256) >> 9
        out[j] += (819 * (envelope[j] - mean) + 2048) >> 12
    mean = sum(out) // NUM_BANDS
    limited = [abs(v - mean) * OFFSET_LIMIT // (OFFSET_LIMIT + abs(v - mean)) for v in out]
    return [a if v >= mean else -a for a, v in zip(limited, out, strict=True)]


def envelopes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:  # as far apart as decoded envelopes can be
        return tuple(rng.choice([-ENVELOPE_LIMIT, ENVELOPE_LIMIT - 1], (2, NUM_BANDS))
                     .astype(np.int32))  # fmt: skip
    return tuple(rng.integers(-3500, 0, (2, NUM_BANDS)).astype(np.int32))


def test_offsets_are_those_of_unlimited_integers(model: Any) -> None:
    offset = np.zeros(NUM_BANDS, np.int32)
    for seed, bits in enumerate((160, 161, 264, 328, 488, 640, 0, 8, 2040, MAX_FRAME_BITS)):
        envelope, previous = envelopes(seed)
        allocate(model, envelope, previous, bits, offset)
        assert offset.tolist() == plain_offsets(model, envelope.tolist(), previous.tolist(), bits)
        assert np.abs(offset).max() < OFFSET_LIMIT


def test_interpolation(model: Any) -> None:
    bands = np.random.default_rng(0).integers(-4000, 4000, NUM_BANDS).astype(np.int32)
    out = np.zeros(HOP_LENGTH, np.int32)
    interpolate(model, bands, out)
    below, weight = model["interpolation"].T.astype(np.int64)
    exact = bands[below] + (bands[below + 1] - bands[below]) * weight / 256
    assert np.abs(out - exact).max() <= 0.5
    interpolate(model, np.full(NUM_BANDS, -77, np.int32), out)
    assert (out == -77).all()
    scale = np.zeros(HOP_LENGTH, np.int32)
    log_scale(model, bands - model["scale_offset"], scale)
    interpolate(model, bands, out)
    np.testing.assert_array_equal(scale, out)


def laplace_bits(model: Any, scale: np.ndarray, relative: np.ndarray, step: int) -> int:
    index = ((scale - relative - step) >> 4) + 128
    return 2 * int(model["expected_bits"][np.clip(index, 0, 319)].sum())


@pytest.mark.parametrize("budget", [8, 100, 250, 600, 1500])
def test_expected_step_is_the_finest_within_the_budget(model: Any, budget: int) -> None:
    rng = np.random.default_rng(budget)
    for _ in range(5):
        scale = rng.integers(-2000, 500, HOP_LENGTH).astype(np.int32)
        relative = rng.integers(-300, 300, HOP_LENGTH).astype(np.int32)
        step = expected_step(model, scale, relative, budget)
        assert laplace_bits(model, scale, relative, step) <= COST_ONE * budget
        assert laplace_bits(model, scale, relative, step - 1) > COST_ONE * budget
        # A louder frame of the same shape has a larger step, by as much.
        assert expected_step(model, scale + 512, relative, budget) == step + 512


def test_expected_step_is_not_far_below_a_peak(model: Any) -> None:
    """All of a frame's power in one coefficient: its level must have a code."""
    scale = np.full(HOP_LENGTH, -5000, np.int32)
    scale[3] = 100
    relative = np.zeros(HOP_LENGTH, np.int32)
    relative[3] = 40
    assert expected_step(model, scale, relative, 1500) == 60 - 10 * 256
    assert expected_step(model, scale, relative, 12) > 60 - 10 * 256


def test_expected_step_of_extremes_is_bounded(model: Any) -> None:
    for level in (-ENVELOPE_LIMIT, ENVELOPE_LIMIT - 1):
        for budget in (8, 2500):
            scale = np.full(HOP_LENGTH, level, np.int32)
            step = expected_step(model, scale, np.zeros(HOP_LENGTH, np.int32), budget)
            assert abs(step - level) <= 16 * 256


def test_budget_and_step_contexts() -> None:
    assert [budget_bits(bits, 27) for bits in (0, 45, 264, 2048)] == [8, 10, 259, 2287]
    contexts = [step_context(d) for d in range(-MAX_STEP_DELTA, MAX_STEP_DELTA + 1)]
    assert contexts == sorted(contexts) and set(contexts) == set(range(NUM_STEP_CONTEXTS))
