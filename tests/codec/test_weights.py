"""Weights files: what is accepted, and that nothing hostile is."""

import json
import os
import pickle
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "fuzz"))

import hostile  # noqa: E402
import hostile_weights  # noqa: E402
from hostile_weights import Source  # noqa: E402
from test_fuzz import extreme_integers  # noqa: E402

import codec.weights as weights_module  # noqa: E402
from codec import Codec  # noqa: E402
from codec.config import CodecConfig  # noqa: E402
from codec.decoder import synthesise  # noqa: E402
from codec.weights import (  # noqa: E402
    DEFAULT_WEIGHTS,
    NETWORK_LIMIT,
    WeightsError,
    check_config,
    load_side_tables,
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
    weights, side = load_weights(), load_side_tables()
    assert weights.config == side.config == CodecConfig.from_dict(source.config)
    assert weights.fingerprint == side.fingerprint
    assert weights.tables.index_cdf.tolist() == side.index_cdf
    assert weights.intra.index_cdf.tolist() == side.intra_index_cdf
    assert weights.tables.step_cdf.tolist() == side.step_cdf
    assert weights.intra.step_cdf.tolist() == side.intra_step_cdf
    # Nothing comes near a limit: they refuse what is hostile, not what is trained.
    largest = max(np.abs(value).max() for value in weights.networks.values())
    assert largest < NETWORK_LIMIT / 2


def test_same_values_after_writing_again(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(source.with_tensors({}))
    again, shipped = load_weights(path), load_weights()
    assert again.config == shipped.config and again.card == {}
    for name, value in shipped.tables._asdict().items():
        np.testing.assert_array_equal(getattr(again.tables, name), value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sample_rate", 48000, "sample_rate is 48000, expected 16000"),
        ("hop_length", 1 << 40, "band_edges"),
        ("num_stages", 9, "num_stages is 9, expected 1..8"),
        ("num_stages", 3, "expected"),
        ("codebook_bits", 1 << 60, "codebook_bits is"),
        ("codebook_bits", -1, "codebook_bits is -1"),
        ("max_step_delta", 65, "step deltas reach 65 x 16"),
        ("step_resolution", 0, "step_resolution is 0"),
        ("enhancer_hidden", 10**9, "enhancer_hidden is 1000000000, expected 1..1024"),
        ("enhancer_hidden", 383, "expected float16"),
        ("enhancer_hidden", 384.0, "enhancer_hidden is a float"),
        ("context_hidden", True, "context_hidden is a bool"),
        ("local_channels", None, "local_channels is a NoneType"),
        ("rounding", float("nan"), "rounding is nan"),
        ("rdo_lambda", float("inf"), "rdo_lambda is inf"),
        ("log_floor", "0", "log_floor is a str"),
        ("band_edges", [0] * 20 + [160], "band_edges do not rise"),
        ("band_edges", 7, "not iterable"),
        ("unknown", 7, "unknown config keys: unknown"),
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
    """The modules that tell the shapes are built for it: a second, and some tens of MB."""
    config = source.config | {"enhancer_hidden": 1024, "local_channels": 256}
    check_config(CodecConfig.from_dict(config))
    assert "expected float16" in error_of(tmp_path / "w.safetensors", source.with_config(config))


@pytest.mark.parametrize("config", ["", "{", "null", "[]", "5", "[[1, 2]]", "[" * 100_000])
def test_config_text(config: str, tmp_path: Path, source: Source) -> None:
    error_of(tmp_path / "w.safetensors", source.with_config(config))




@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("tables.exp2_table", (7,), -1, "exp2_table has values outside"),
        ("tables.exp2_table", (7,), 1 << 30, "exp2_table has values outside"),
        ("tables.compress_table", (2047,), -1, "compress_table has values outside"),
        ("tables.expected_bits", (0,), 1 << 30, "expected_bits has values outside"),
        ("tables.log2_bits", (9,), -1, "log2_bits has values outside"),
        ("tables.interpolation", (9, 0), 19, "interpolation points outside the bands"),
        ("tables.interpolation", (9, 0), -1, "interpolation points outside the bands"),
        ("tables.interpolation", (9, 1), 257, "interpolation has values outside"),
        ("tables.scale_offset", (3,), 1 << 20, "scale_offset has values outside"),
        ("tables.band_edges", (3,), 7, "band_edges are not those of the config"),
        ("intra.initial", (3,), -(1 << 31), "initial has values outside"),
        ("tables.allocation_rate", (0, 0), 1 << 20, "allocation_rate has values outside"),
        ("tables.context_w1", (3,), 1 << 21, "32-bit accumulators"),
        ("tables.context_band", (1, 2, 3), (1 << 31) - 1, "32-bit accumulators"),
        ("intra.context_w2", (0, 0), -(1 << 31), "32-bit accumulators"),
        ("intra.context_b2", (0,), (1 << 31) - 1, "32-bit accumulators"),
        ("intra.cdf", (5, 0), 1, "cdf is not a cumulative distribution"),
        ("tables.cdf", (5, 3), 32768, "cdf is not a cumulative distribution"),
        ("intra.index_cdf", (0, -1), 32767, "index_cdf is not a cumulative distribution"),
        ("tables.step_cdf", (0, 5), -5, "step_cdf is not a cumulative distribution"),
        ("enhancer.gru.weight_hh_l0", (5, 5), np.nan, "values beyond"),
        ("enhancer.outputs.bias", (5,), np.inf, "values beyond"),
        ("analysis.network.0.bias", (5,), -1000, "values beyond"),
    ],
)
def test_values(
    name: str, at: tuple, value: float, message: str, tmp_path: Path, source: Source
) -> None:
    changed = source.tensors[name].copy()
    changed[at] = value
    path = tmp_path / "w.safetensors"
    assert message in error_of(path, source.with_tensors({name: changed}))


def test_the_step_allocation_fits_64_bits(tmp_path: Path, source: Source) -> None:
    names = [f"tables.allocation_w{layer}" for layer in (1, 2, 3)]
    large = {name: np.full_like(source.tensors[name], (1 << 31) - 1) for name in names}
    assert "too large for 64 bits" in error_of(tmp_path / "w", source.with_tensors(large))


def test_shapes(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "w.safetensors"
    for i, (name, value) in enumerate(source.tensors.items()):
        wrong = (
            None, value.reshape(-1, 1), np.zeros((), value.dtype), value.astype(np.float32),
            value[:0], np.stack([value, value]),
        )  # fmt: skip
        error_of(path, source.with_tensors({name: wrong[i % len(wrong)]}))
    one_row = np.ascontiguousarray(source.tensors["intra.cdf"][:4])
    assert "fewer than 2 rows" in error_of(path, source.with_tensors({"intra.cdf": one_row}))
    extra = {"enhancer.more\nlines" + 300 * "x": np.zeros(3, np.float16)}
    assert "unknown tensor" in error_of(path, source.with_tensors(extra))
    assert "unknown table" in error_of(
        path, source.with_tensors({"tables.more": np.zeros(3, np.int32)})
    )


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
            kinds[hostile_weights.check(path, data, rng).kind] += 1
        except hostile.Finding as finding:
            pytest.fail(f"seed {seed}, case {case} ({done}): {finding}")
    assert kinds["refused"] > count // 2 and kinds["decoded"] > count // 20, kinds


def test_mutated_weights(tmp_path: Path, source: Source) -> None:
    run_cases(1, 100, source, tmp_path / "w.safetensors")


@pytest.mark.slow
def test_many_mutated_weights(tmp_path: Path, source: Source) -> None:
    run_cases(2, 3000, source, tmp_path / "w.safetensors")


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_largest_networks_give_finite_samples(sign: int) -> None:
    """All parameters at their limit, integers too."""
    weights = load_weights()
    rng = np.random.default_rng(0)
    for name, value in weights.networks.items():
        signs = rng.choice([-1, 1], value.shape) if sign == 0 else np.full(value.shape, sign)
        weights.networks[name] = (NETWORK_LIMIT * signs).astype(np.float16)
    codec = Codec(weights)
    for seed in range(4):
        integers = extreme_integers(seed)
        samples = synthesise(codec.enhancer, codec.config, integers, 320 * 30 - 160)
        assert np.isfinite(samples).all()
