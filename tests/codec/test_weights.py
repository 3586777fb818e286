"""Weights files: what is accepted, and that nothing hostile is."""

import copy
import json
import os
import pickle
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))

import hostile_weights  # noqa: E402
from hostile_weights import Source  # noqa: E402

import codec.weights as weights_module  # noqa: E402
from codec.config import NUM_BANDS, CodecConfig  # noqa: E402
from codec.errors import WeightsError  # noqa: E402
from codec.model import ENVELOPE_LIMIT, FIELDS, NETWORK_LIMIT, field_shape  # noqa: E402
from codec.weights import (  # noqa: E402
    DEFAULT_WEIGHTS,
    INTRA_PREFIX,
    check_config,
    load_weights,
)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(DEFAULT_WEIGHTS)


def error_of(path: Path, data: bytes | None = None) -> str:
    """Return the message of load_weights, after checking that it is one line."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_shipped_weights_are_accepted(source: Source) -> None:
    weights = load_weights()
    assert weights.config == CodecConfig.from_dict(source.config)
    assert len(weights.fingerprint) == 4
    # Nothing comes near a limit: they refuse what is hostile, not what is trained.
    networks = [value for value in weights.tensors.values() if value.dtype == np.float16]
    assert len(networks) > 20
    assert max(float(np.abs(value).max()) for value in networks) < NETWORK_LIMIT / 2


def test_same_values_after_writing_again(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(source.with_tensors({}))
    again, shipped = load_weights(path), load_weights()
    assert again.config == shipped.config and again.card == {}
    assert again.tensors.keys() == shipped.tensors.keys()
    for name, value in shipped.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], value)


def test_an_intra_frame_has_tensors_of_its_own() -> None:
    weights = load_weights()
    predicted, intra = weights.of_kind(False), weights.of_kind(True)
    for field in FIELDS:
        shape = field_shape(field, weights.config)
        assert predicted[field.name].shape == intra[field.name].shape == shape
        assert (predicted[field.name] is intra[field.name]) == (not field.own)
    assert intra["step.cdf"] is weights.tensors[f"{INTRA_PREFIX}step.cdf"]


def test_every_file_has_its_own_fingerprint(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(source.data)
    assert load_weights(path).fingerprint == load_weights().fingerprint
    bias = source.tensors["enhancer.outputs.bias"] + np.float16(0.5)
    path.write_bytes(source.with_tensors({"enhancer.outputs.bias": bias}))
    assert load_weights(path).fingerprint != load_weights().fingerprint


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_stages", 9, "num_stages is 9, expected 1..8"),
        ("num_stages", 3, "expected int16"),
        ("codebook_bits", 1 << 60, "codebook_bits is"),
        ("codebook_bits", -1, "codebook_bits is -1"),
        ("table_rows", 1, "table_rows is 1, expected 2..512"),
        ("context_hidden", 12, "no multiple of 8"),
        ("context_hidden", 0, "context_hidden is 0"),
        ("context_hidden", True, "context_hidden is a bool"),
        ("enhancer_hidden", 10**9, "enhancer_hidden is 1000000000, expected 1..1024"),
        ("enhancer_hidden", 383, "expected float16"),
        ("enhancer_hidden", 384.0, "enhancer_hidden is a float"),
        ("enhancer_hidden", float("nan"), "enhancer_hidden is a float"),
        ("local_channels", None, "local_channels is a NoneType"),
        ("allocation_hidden", "96", "allocation_hidden is a str"),
        ("analysis_hidden", [96], "analysis_hidden is a list"),
        ("sample_rate", 48000, "unknown config keys: sample_rate"),
    ],
)
def test_configs(name: str, value: object, message: str, tmp_path: Path, source: Source) -> None:
    data = source.with_config(source.config | {name: value})
    tracemalloc.start()
    try:
        assert message in error_of(tmp_path / "w.safetensors", data)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data)
    finally:
        tracemalloc.stop()


def test_the_largest_config_that_is_allowed_is_small(tmp_path: Path, source: Source) -> None:
    """Nothing is built for it before its shapes are seen to be wrong."""
    config = source.config | {"enhancer_hidden": 1024, "local_channels": 256}
    check_config(CodecConfig.from_dict(config))
    assert "expected float16" in error_of(tmp_path / "w.safetensors", source.with_config(config))


@pytest.mark.parametrize("config", ["", "{", "null", "[]", "5", "[[1, 2]]", "[" * 100_000])
def test_config_text(config: str, tmp_path: Path, source: Source) -> None:
    error_of(tmp_path / "w.safetensors", source.with_config(config))


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("context.exp2", (7,), -1, "context.exp2 has values outside"),
        ("context.exp2", (7,), 1 << 30, "context.exp2 has values outside"),
        ("context.compress", (2047,), -1, "context.compress has values outside"),
        ("allocation.expected_bits", (0,), 1 << 30, "expected_bits has values outside"),
        ("allocation.log2_bits", (9,), -1, "log2_bits has values outside"),
        ("allocation.interpolation", (9, 0), 25, "interpolation points outside the bands"),
        ("allocation.interpolation", (9, 0), -1, "interpolation has values outside"),
        ("allocation.interpolation", (9, 1), 257, "interpolation has values outside"),
        ("allocation.scale_offset", (3,), 1 << 20, "scale_offset has values outside"),
        ("allocation.rate_offsets", (0, 0), 1 << 20, "rate_offsets has values outside"),
        ("intra.envelope.initial", (3,), -(1 << 31), "initial has values outside"),
        ("context.w1", (3,), 1 << 21, "w1 has values outside -32768..32767"),
        ("context.band", (1, 2, 3), (1 << 31) - 1, "32-bit accumulators"),
        ("intra.context.w2", (0, 0), -(1 << 31), "w2 has values outside"),
        ("intra.context.b2", (0,), (1 << 31) - 1, "32-bit accumulators"),
        ("intra.context.cdf", (5, 0), 1, "cdf is not a cumulative distribution"),
        ("context.cdf", (5, 3), 32768, "cdf is not a cumulative distribution"),
        ("intra.envelope.index_cdf", (0, -1), 32767, "not a cumulative distribution"),
        ("step.cdf", (0, 5), 65531, "step.cdf is not a cumulative distribution"),
        ("enhancer.gru.weight_hh_l0", (5, 5), np.nan, "has values outside -16..16"),
        ("enhancer.outputs.bias", (5,), np.inf, "has values outside -16..16"),
        ("analysis.network.0.bias", (5,), -1000, "has values outside -16..16"),
    ],
)
def test_values(
    name: str, at: tuple, value: float, message: str, tmp_path: Path, source: Source
) -> None:
    changed = source.tensors[name].copy()
    changed[at] = value
    path = tmp_path / "w.safetensors"
    assert message in error_of(path, source.with_tensors({name: changed}))


def test_the_step_allocation_fits_64_bits() -> None:
    """Whatever the weights of the widest network, so that loading need not check it."""
    width = weights_module._RANGES["allocation_hidden"][1]
    fields = {field.name: field for field in FIELDS}
    largest = 2 * ENVELOPE_LIMIT  # differences of two envelopes, or a rate or a level
    for layer, inputs, shift in ((1, 2 * NUM_BANDS + 1, 12), (2, width, 12), (3, width, 14)):
        weight = 1 << (8 * np.dtype(fields[f"allocation.w{layer}"].dtype).itemsize - 1)
        total = inputs * weight * largest + int(-fields[f"allocation.b{layer}"].low)
        assert total < 1 << 62
        largest = (total >> shift) + 1
    assert largest < 1 << 48  # what multiplies it has 15 bits


def test_shapes(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "w.safetensors"
    for i, (name, value) in enumerate(source.tensors.items()):
        wrong = (
            None, value.reshape(-1, 1), np.zeros((), value.dtype), value.astype(np.float32),
            value[:0], np.stack([value, value]),
        )  # fmt: skip
        error_of(path, source.with_tensors({name: wrong[i % len(wrong)]}))
    for name in ("enhancer.more\nlines" + 300 * "x", "intra.allocation.w1", "more"):
        extra = {name: np.zeros(3, np.float16)}
        assert "unknown tensor" in error_of(path, source.with_tensors(extra))


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    for protocol in range(6):
        error_of(tmp_path / "w.safetensors", pickle.dumps(_Harmful(harm), protocol))
        assert not harm.exists()


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot read" in error_of(tmp_path / "missing.safetensors")
    assert "cannot read" in error_of(tmp_path)
    with pytest.raises(WeightsError, match="cannot read"):
        load_weights(Path("a\0b"))
    monkeypatch.setattr(weights_module, "MAX_WEIGHTS_BYTES", 1 << 20)
    with pytest.raises(WeightsError, match="more than 1 MiB"):
        load_weights()


@pytest.mark.parametrize("card", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20)])
def test_a_broken_card(card: bytes, tmp_path: Path, source: Source) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(source.data)
    path.with_suffix(".json").write_bytes(card)
    with pytest.raises(WeightsError, match="the card .* cannot be read"):
        load_weights(path)
    path.with_suffix(".json").write_text(json.dumps({"name": "x"}))
    assert load_weights(path).card == {"name": "x"}


def run_cases(seed: int, count: int, source: Source, path: Path) -> None:
    kinds = {"decoded": 0, "refused": 0}
    for case in range(count):
        done, data, rng = hostile_weights.make_case(seed, case, source)
        try:
            kinds[hostile_weights.check(path, data, rng)] += 1
        except hostile_weights.Finding as finding:
            pytest.fail(f"seed {seed}, case {case} ({done}): {finding}")
    assert kinds["refused"] > count // 2 and kinds["decoded"] > count // 20, kinds


def test_mutated_weights(tmp_path: Path, source: Source) -> None:
    run_cases(1, 80, source, tmp_path / "w.safetensors")


@pytest.mark.slow
def test_many_mutated_weights(tmp_path: Path, source: Source) -> None:
    run_cases(2, 3000, source, tmp_path / "w.safetensors")


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_largest_networks_give_finite_samples(sign: int) -> None:
    """All parameters of the float networks at their limit."""
    weights = copy.copy(load_weights())
    rng = np.random.default_rng(0)
    for name, value in weights.tensors.items():
        if value.dtype == np.float16:
            signs = rng.choice([-1, 1], value.shape) if sign == 0 else np.full(value.shape, sign)
            weights.tensors[name] = (NETWORK_LIMIT * signs).astype(np.float16)
    for seed in range(4):
        hostile_weights.decode_anything(weights, np.random.default_rng(seed))
