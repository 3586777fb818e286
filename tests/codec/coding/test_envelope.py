"""The envelope: its level; predictive MSVQ of its shape, on a small random model."""

from typing import Any

import numpy as np
import pytest

from codec import Codec
from codec.coding.envelope import (
    BEAM,
    RATE_WEIGHT,
    find_level,
    get,
    get_level,
    level_context,
    level_cost,
    predict,
    price,
    put,
    put_level,
    reconstruct,
    search,
    search_best,
)
from codec.coding.range_coder import STATE_SIZE, dec_init, enc_finish, enc_init, enc_tell_bits
from codec.config import (
    LEVEL_RESOLUTION,
    MAX_LEVEL,
    MAX_LEVEL_DELTA,
    MIN_LEVEL,
    NUM_BANDS,
    NUM_LEVEL_CONTEXTS,
    CodecConfig,
)
from codec.model import COST_ONE, ENVELOPE_LIMIT, TOTAL, code_lengths, coding_dtype
from codec.records import fill, new

STAGES, SIZE = 3, BEAM
DTYPE = coding_dtype(CodecConfig(num_stages=STAGES, codebook_bits=3))["envelope"]


def make_model(seed: int = 0, twice: bool = False) -> Any:
    """Return random codebooks and probabilities; ``twice``: codewords come in equal pairs."""
    rng = np.random.default_rng(seed)
    scale = 400.0 * 0.5 ** np.arange(STAGES)[:, None, None]
    codebooks = np.round(scale * rng.standard_normal((STAGES, SIZE, NUM_BANDS))).astype(np.int16)
    counts = rng.integers(1, 4000, (STAGES, SIZE))
    counts[:, 0] += TOTAL - counts.sum(1)
    if twice:
        codebooks[:, 1::2], counts[:, :] = codebooks[:, 0::2], TOTAL // SIZE
    cdf = np.zeros((STAGES, SIZE + 1), np.int32)
    cdf[:, 1:] = counts.cumsum(1)
    predictor = 2800 * np.eye(NUM_BANDS) + 100 * rng.standard_normal((NUM_BANDS, NUM_BANDS))
    bias = rng.integers(-500, 500, NUM_BANDS)
    model = new(DTYPE)
    values = {
        "codebooks": codebooks, "predictor": predictor.astype(np.int32), "bias": bias,
        "initial": bias, "index_cdf": cdf, "index_cost": code_lengths(cdf),
        "columns": codebooks.transpose(0, 2, 1),
    }  # fmt: skip
    fill(model, values)
    return model


def case(model: Any, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return previous envelope, its prediction, and a target; whole, so that float32 is exact."""
    rng = np.random.default_rng(seed)
    previous = rng.integers(-3000, 0, NUM_BANDS).astype(np.int32)
    predicted = np.zeros(NUM_BANDS, np.int64)
    predict(model, previous, predicted)
    target = np.round(predicted + 300 * rng.standard_normal(NUM_BANDS)).astype(np.float32)
    return previous, predicted, target


def chosen(model: Any, previous: np.ndarray, target: np.ndarray, stages: int) -> list:
    indices = np.zeros(8, np.int64)
    search(model, previous, target, stages, indices)
    assert not indices[stages:].any()
    return indices[:stages].tolist()


def test_prediction_is_rounded() -> None:
    model = make_model()
    previous, predicted, _ = case(model, 1)
    wanted = ((model["predictor"].astype(np.int64) @ previous + 2048) >> 12) + model["bias"]
    assert predicted.tolist() == wanted.tolist()


@pytest.mark.parametrize("count", [1, 3, BEAM])
def test_the_best_choices_in_order(count: int) -> None:
    """Of two stages, which are searched in full: the smallest sums of error and rate."""
    model = make_model()
    books, cost = model["codebooks"].astype(np.int64), model["index_cost"]
    sums, bits = books[0][:, None] + books[1], cost[0][:, None] + cost[1]
    for seed in range(10):
        previous, predicted, target = case(model, seed)
        choices, costs = np.zeros((count, 8), np.int64), np.zeros(count, np.float32)
        assert search_best(model, previous, target, 2, (choices, costs)) == count
        total = np.square(target - predicted - sums).sum(-1) + float(RATE_WEIGHT) * bits
        np.testing.assert_allclose(costs, np.sort(total.ravel())[:count], rtol=1e-5)
        np.testing.assert_allclose(total[choices[:, 0], choices[:, 1]], costs, rtol=1e-5)
        assert choices[0, :2].tolist() == chosen(model, previous, target, 2)


@pytest.mark.parametrize("stages", [1, 2])
def test_few_stages_are_searched_in_full(stages: int) -> None:
    """With as many paths as codewords, one or two stages are searched in full."""
    model = make_model()
    books, cost = model["codebooks"].astype(np.int64), model["index_cost"]
    for seed in range(40):
        previous, predicted, target = case(model, seed)
        sums, bits = books[0], cost[0]
        if stages == 2:
            sums, bits = sums[:, None] + books[1], bits[:, None] + cost[1]
        total = np.square(target - predicted - sums).sum(-1) + float(RATE_WEIGHT) * bits
        assert total[tuple(chosen(model, previous, target, stages))] == total.min()


def test_the_beam_is_better_than_greed() -> None:
    model = make_model()
    found = greedy = 0.0
    for seed in range(40):
        previous, predicted, target = case(model, seed)
        residual = target - predicted
        for s in range(STAGES):
            errors = np.square(residual - model["codebooks"][s].astype(np.int64)).sum(-1)
            errors = errors + float(RATE_WEIGHT) * model["index_cost"][s]
            residual = residual - model["codebooks"][s, errors.argmin()]
            greedy += float(RATE_WEIGHT) * model["index_cost"][s, errors.argmin()]
        greedy += np.square(residual).sum()
        indices = chosen(model, previous, target, STAGES)
        words = sum(model["codebooks"][s, i].astype(np.int64) for s, i in enumerate(indices))
        found += np.square(target - predicted - words).sum()
        found += float(RATE_WEIGHT) * sum(model["index_cost"][s, i] for s, i in enumerate(indices))
    assert found < greedy


def test_equal_codewords_give_the_lowest_index() -> None:
    model = make_model(twice=True)
    for seed in range(20):
        previous, _, target = case(model, seed)
        assert not any(i & 1 for i in chosen(model, previous, target, STAGES))


def test_reconstruction_is_prediction_and_codewords_within_the_limits() -> None:
    model, out = make_model(), np.zeros(NUM_BANDS, np.int32)
    rng = np.random.default_rng(0)
    for seed in range(20):
        previous, predicted, _ = case(model, seed)
        indices = rng.integers(0, SIZE, STAGES)
        reconstruct(model, previous, indices, STAGES, out)
        words = sum(model["codebooks"][s, i].astype(np.int64) for s, i in enumerate(indices))
        assert out.tolist() == (predicted + words).tolist()
    for level in (-ENVELOPE_LIMIT, ENVELOPE_LIMIT - 1):
        model["bias"] = 100 * level
        reconstruct(model, previous, indices, STAGES, out)
        assert (out == level).all()


def test_indices_come_back_and_cost_what_is_said() -> None:
    model, rng = make_model(), np.random.default_rng(1)
    coder, data = np.zeros(STATE_SIZE, np.int64), np.zeros(1024, np.uint8)
    messages = rng.integers(0, SIZE, (50, STAGES))
    enc_init(coder)
    for indices in messages:
        put(model, indices, STAGES, coder, data)
    said = sum(price(model, indices, STAGES) for indices in messages) / COST_ONE
    assert enc_tell_bits(coder) / 8 == pytest.approx(said, abs=1)
    assert enc_finish(coder, data, data.size)
    dec_init(coder, data, 0, data.size)
    got = np.zeros(STAGES, np.int64)
    for indices in messages:
        get(model, STAGES, coder, data, got)
        assert got.tolist() == indices.tolist()


# --------------------------------------------------------------------------------------------------
# Level


def test_the_level_is_the_mean_to_the_nearest_step() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        proposed = rng.uniform(-4608, 1500, NUM_BANDS).astype(np.float32)
        error = proposed.mean() - find_level(proposed) * LEVEL_RESOLUTION
        assert abs(error) <= LEVEL_RESOLUTION / 2 + 0.01
        # A gain of whole steps moves the level by as many.
        assert find_level(proposed + np.float32(5 * LEVEL_RESOLUTION)) == find_level(proposed) + 5
    for value, level in ((-1e9, MIN_LEVEL), (1e9, MAX_LEVEL)):
        assert find_level(np.full(NUM_BANDS, value, np.float32)) == level


def test_level_contexts() -> None:
    contexts = [level_context(d) for d in range(-MAX_LEVEL_DELTA, MAX_LEVEL_DELTA + 1)]
    assert contexts == sorted(contexts) and set(contexts) == set(range(NUM_LEVEL_CONTEXTS))
    middle = NUM_LEVEL_CONTEXTS // 2
    assert [level_context(d) for d in (-2, -1, 0, 1, 2)] == [2, 3, 3, 4, 4]
    assert level_context(0) == middle


@pytest.mark.parametrize("kind", ["coding", "intra"])
def test_level_deltas_come_back_and_cost_what_is_said(codec: Codec, kind: str) -> None:
    model = codec._encoder[kind]["level"]
    deltas = np.arange(-MAX_LEVEL_DELTA, MAX_LEVEL_DELTA + 1)
    np.random.default_rng(0).shuffle(deltas)
    past = [0, *deltas[:-1].tolist()]
    coder, data = np.zeros(STATE_SIZE, np.int64), np.zeros(2048, np.uint8)
    enc_init(coder)
    said = 0.0
    for last, delta in zip(past, deltas.tolist(), strict=True):
        put_level(model, last, delta, coder, data)
        said += level_cost(model, last, delta) / COST_ONE
    assert enc_tell_bits(coder) / 8 == pytest.approx(said, rel=0.01)
    assert enc_finish(coder, data, data.size)
    dec_init(coder, data, 0, data.size)
    got = [get_level(model, last, coder, data) for last in past]
    assert got == deltas.tolist()
    # A predicted level stays, or nearly so; an intra frame has any. Jumps are dear, not impossible.
    costs = [level_cost(model, 0, d) / COST_ONE for d in range(MAX_LEVEL_DELTA + 1)]
    assert costs[0] < (8 if kind == "intra" else 5) and costs[0] < costs[30] <= 15
