"""Hostile files: whatever the bytes, samples or a one-line error, in bounded time and memory.

The promises stand in ``tests/fuzz/hostile.py``; ``experiments/fuzz.py`` runs many more cases.
"""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import hostile  # noqa: E402
import hostile_weights  # noqa: E402

from codec import BitstreamError, Codec, StreamDecoder  # noqa: E402
from codec.bitstream import (  # noqa: E402
    MAX_NUM_SAMPLES,
    Header,
    read_header,
    read_stream,
    write_header,
)
from codec.decoder import DecodedIntegers, PacketDecoder, synthesise  # noqa: E402
from codec.info import describe_stream, stream_info  # noqa: E402
from codec.weights import DEFAULT_WEIGHTS, load_side_tables, load_weights  # noqa: E402

CORPUS = [line.split(maxsplit=2) for line in (FUZZ / "corpus.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def checker(codec: Codec) -> hostile.Checker:
    return hostile.Checker(codec, load_side_tables())


@pytest.fixture(scope="module")
def seeds(codec: Codec) -> hostile.Seeds:
    return hostile.Seeds(codec.weights.fingerprint)


# --- the corpus -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "outcome", "text"), CORPUS, ids=[line[0] for line in CORPUS])
def test_corpus(name: str, outcome: str, text: str, codec: Codec, checker: hostile.Checker) -> None:
    data = hostile.stamp((FUZZ / f"{name}.bin").read_bytes(), codec.weights.fingerprint)
    for memory in (False, True):
        result = checker.check(data, np.random.default_rng(0), not memory, not memory, memory)
        assert result.kind == outcome, f"{text} {result.message}"


def test_corpus_is_listed() -> None:
    assert {line[0] for line in CORPUS} == {path.stem for path in FUZZ.glob("*.bin")}


def test_seeds_are_sound(checker: hostile.Checker, seeds: hostile.Seeds) -> None:
    for data in seeds.files:
        assert checker.check(data, np.random.default_rng(0)).kind == "decoded"


# --- mutations ------------------------------------------------------------------------------------


def run_cases(seed: int, count: int, seeds: hostile.Seeds, checker: hostile.Checker) -> None:
    kinds = {"decoded": 0, "salvaged": 0, "refused": 0}
    for case in range(count):
        done, data, rng = hostile.make_case(seed, case, seeds)
        try:
            outcome = checker.check(
                data, rng, synthesis=case % 40 == 0, streaming=case % 40 == 1,
                memory=case % 20 == 2,
            )  # fmt: skip
        except hostile.Finding as finding:
            pytest.fail(f"seed {seed}, case {case} ({done}): {finding}")
        kinds[outcome.kind] += 1
    # All three happen, so the mutations are neither too weak nor too strong.
    assert min(kinds.values()) > count // 10, kinds


def test_mutated_files(seeds: hostile.Seeds, checker: hostile.Checker) -> None:
    run_cases(1, 2000, seeds, checker)


@pytest.mark.slow
def test_many_mutated_files(seeds: hostile.Seeds, checker: hostile.Checker) -> None:
    run_cases(2, 20_000, seeds, checker)


def test_a_case_can_be_replayed(seeds: hostile.Seeds) -> None:
    for case in range(20):
        assert hostile.make_case(5, case, seeds)[:2] == hostile.make_case(5, case, seeds)[:2]


def test_files_of_other_weights_are_refused(codec: Codec, seeds: hostile.Seeds) -> None:
    data = hostile.stamp(seeds.files[0], b"\xde\xad\xbe\xef")
    header, _ = read_header(data)
    calls = (
        lambda: codec.decode(data),
        lambda: codec.decode_integers(data),
        lambda: codec.salvage(data),
        lambda: StreamDecoder(codec, header),
        lambda: stream_info(data),
    )
    for call in calls:
        with pytest.raises(BitstreamError, match="weights deadbeef, but those loaded are"):
            call()


# --- claims and sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize("vbr", [False, True])
@pytest.mark.parametrize("rate", [1000, 16000, 768000])
def test_a_claimed_length_takes_no_memory(codec: Codec, rate: int, vbr: bool) -> None:
    header = Header(codec.weights.fingerprint, 8000, MAX_NUM_SAMPLES, rate, 3, vbr=vbr)
    data = write_header(header) + b"\x14" * 500
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError):
            codec.decode(data)
        wave, _, problems = codec.salvage(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert len(wave) <= 320 * hostile.max_packets(data) and problems


# --- integers and samples -------------------------------------------------------------------------


def extreme_integers(seed: int, count: int = 30) -> DecodedIntegers:
    """Return integers at the limits of what any packets can make, some packets lost."""
    rng = np.random.default_rng(seed)
    received = rng.random(count) > (0.3 if seed % 2 else 0.05)
    envelope = rng.choice([-8192, 0, 8191], (count, 20))
    envelope = np.full_like(envelope, (8191, -8192)[seed]) if seed < 2 else envelope
    # The expected step lies within 16 octaves of the mean of envelope, scale offset and step
    # offset; the transmitted delta is at most 4 octaves.
    step = envelope.mean(1).astype(np.int64) + rng.choice([-8192, 0, 8192], count)
    step = envelope.mean(1).astype(np.int64) + 8192 if seed < 2 else step
    offset = rng.choice([-1023, 0, 1023], (count, 20))
    bins = rng.choice([-8443, 8443, 0, 1], (count, 2, 160))
    bits = rng.choice([8, 160, 2040], count)
    for values in (envelope, step, offset, bins, bits):
        values[~received] = 0
    return DecodedIntegers(
        envelope.astype(np.int32), offset.astype(np.int32), step, bins.astype(np.int32), bits,
        received,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_samples_are_finite_whatever_the_integers(codec: Codec, seed: int) -> None:
    integers = extreme_integers(seed)
    samples = synthesise(codec.enhancer, codec.config, integers, 320 * 30 - 160)
    assert samples.dtype == np.float32 and np.isfinite(samples).all()


def test_extreme_packets_leave_nothing_behind(codec: Codec, seeds: hostile.Seeds) -> None:
    """After packets at all limits, speech comes out finite and of its own loudness."""
    _, packets = read_stream(seeds.files[seeds.names.index("cbr_13")])
    decoder = PacketDecoder(codec.weights.tables, codec.config, 3, codec.weights.intra)
    intra = np.arange(len(packets)) == 0
    speech = decoder.decode(packets, intra)
    extreme = extreme_integers(0)
    pieces = [extreme] + 12 * [speech]
    joined = DecodedIntegers(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))
    count = len(joined.step)
    samples = synthesise(codec.enhancer, codec.config, joined, 320 * count - 160)
    assert np.isfinite(samples).all()
    assert np.abs(samples[-320 * len(packets) :]).max() < 4.0


def test_integers_stay_bounded_in_long_runs(codec: Codec) -> None:
    """Nothing drifts: 2,000 predicted packets in a row, each the same hostile bytes."""
    for packet in (b"\xff" * 40, bytes(40), b"\x01", b"\xff" * 255):
        decoder = PacketDecoder(codec.weights.tables, codec.config, 4, codec.weights.intra)
        integers = decoder.decode([packet] * 500, np.arange(500) == 0)
        assert np.abs(integers.envelope).max() <= 8192
        assert np.abs(integers.offset).max() <= 1024
        assert np.abs(integers.step).max() < 1 << 14
        assert np.abs(integers.bins).max() <= 8443


def test_info_reads_the_decoders_symbols(checker: hostile.Checker, seeds: hostile.Seeds) -> None:
    for data in seeds.files:
        share = describe_stream(data, checker.side)["share"]
        assert all(-1e-9 <= value <= 1 for value in share.values())


@pytest.mark.slow
def test_compiled_loops_stay_in_bounds(tmp_path: Path) -> None:
    """The same integers with and without bounds checks, also with hostile weights."""
    source = hostile_weights.Source(DEFAULT_WEIGHTS)
    paths: list[str] = []
    for case in range(400):
        done, data, _ = hostile_weights.make_case(3, case, source)
        if done not in ("values", "small_changes") or len(paths) == 8:
            continue
        path = tmp_path / f"{case}.safetensors"
        path.write_bytes(data)
        try:
            load_weights(path)
        except ValueError:
            path.unlink()
        else:
            paths.append(str(path))
    results = []
    for checks in ("0", "1"):
        environment = dict(os.environ, NUMBA_BOUNDSCHECK=checks)
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / f"cache{checks}")
        done_process = subprocess.run(
            [sys.executable, str(FUZZ / "bounds.py"), "3000", *paths],
            env=environment, capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        assert done_process.returncode == 0, done_process.stderr
        results.append(json.loads(done_process.stdout))
    assert len(paths) == 8 and results[0] == results[1]
