"""Hostile files: whatever the bytes, samples or a one-line error, in bounded time and memory.

The promises stand in ``hostile.py``; ``fuzz.py`` runs many more cases.
"""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import hostile
import hostile_weights
import mutate
import numpy as np
import pytest
from hostile import LIMITS

from codec import BitstreamError, Codec, StreamDecoder, enhancer_network
from codec.bitstream import (
    MAX_NUM_SAMPLES,
    Header,
    read_header,
    read_stream,
    write_header,
)
from codec.coding.spectrum import COEFFICIENT_LIMIT
from codec.config import NUM_BANDS
from codec.decoder import FrameDecoder, enhance_spectra, synthesize
from codec.dsp.ltpf import MAX_LAG, MIN_LAG
from codec.info import describe_stream, stream_info
from codec.weights import DEFAULT_WEIGHTS, load_weights

FUZZ = Path(__file__).resolve().parent
NASTY = FUZZ / "nasty"
CORPUS = [line.split(maxsplit=2) for line in (NASTY / "corpus.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def checker(codec: Codec) -> hostile.Checker:
    return hostile.Checker(codec)


@pytest.fixture(scope="module")
def seeds(codec: Codec) -> mutate.Seeds:
    return mutate.Seeds(codec.weights.fingerprint)


# --- the corpus -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "outcome", "text"), CORPUS, ids=[line[0] for line in CORPUS])
def test_corpus(name: str, outcome: str, text: str, codec: Codec, checker: hostile.Checker) -> None:
    data = mutate.stamp((NASTY / f"{name}.bin").read_bytes(), codec.weights.fingerprint)
    for memory in (False, True):
        result = checker.check(data, np.random.default_rng(0), not memory, not memory, memory)
        assert result.kind == outcome, f"{text} {result.message}"


def test_corpus_is_listed() -> None:
    assert {line[0] for line in CORPUS} == {path.stem for path in NASTY.glob("*.bin")}


def test_seeds_are_sound(checker: hostile.Checker, seeds: mutate.Seeds) -> None:
    for data in seeds.files:
        assert checker.check(data, np.random.default_rng(0)).kind == "decoded"


# --- mutations ------------------------------------------------------------------------------------


def run_cases(seed: int, count: int, seeds: mutate.Seeds, checker: hostile.Checker) -> None:
    kinds = {"decoded": 0, "salvaged": 0, "refused": 0}
    for case in range(count):
        done, data, rng = mutate.make_case(seed, case, seeds)
        try:
            outcome = checker.check(
                data, rng, synthesis=case % 40 == 0, streaming=case % 40 == 1,
                memory=case % 20 == 2, info=case % 8 == 0,
            )  # fmt: skip
        except hostile.Finding as finding:
            pytest.fail(f"seed {seed}, case {case} ({done}): {finding}")
        kinds[outcome.kind] += 1
    # All three happen, so the mutations are neither too weak nor too strong.
    assert min(kinds.values()) > count // 10, kinds


def test_mutated_files(seeds: mutate.Seeds, checker: hostile.Checker) -> None:
    run_cases(1, 1000, seeds, checker)


@pytest.mark.slow
def test_many_mutated_files(seeds: mutate.Seeds, checker: hostile.Checker) -> None:
    run_cases(2, 20_000, seeds, checker)


def test_a_case_can_be_replayed(seeds: mutate.Seeds) -> None:
    for case in range(20):
        assert mutate.make_case(5, case, seeds)[:2] == mutate.make_case(5, case, seeds)[:2]


def test_files_of_other_weights_are_refused(codec: Codec, seeds: mutate.Seeds) -> None:
    data = mutate.stamp(seeds.files[0], b"\xde\xad\xbe\xef")
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


def extreme_frames(codec: Codec, seed: int, count: int = 30) -> tuple[FrameDecoder, np.ndarray]:
    """Return a decoder behind frames at the limits of what any packets can make, and samples."""
    rng = np.random.default_rng(seed)
    octaves = LIMITS["envelope"] / 256
    parameters = np.zeros(count, enhancer_network.PARAMETERS)
    parameters["envelope"] = rng.choice([-octaves, 0, octaves], (count, NUM_BANDS))
    parameters["log_step"] = rng.choice([-octaves, 0, 2 * octaves], (count, NUM_BANDS))
    if seed < 2:
        parameters["envelope"] = parameters["log_step"] = (octaves, -octaves)[seed]
    parameters["log_bits"] = rng.choice([3, 8, 11], count)
    parameters["lag"] = rng.choice([MIN_LAG, MAX_LAG], (count, 2))
    parameters["periodicity"] = rng.choice([0, 1], (count, 2))
    lost = rng.random(count) < (0.3 if seed % 2 else 0.05)
    parameters["loss"][:, 0] = lost
    parameters["loss"][:, 1] = lost * rng.random(count)
    spectra = rng.choice([-1, 1, 0, 1e-9], (count, 2, 160)) * COEFFICIENT_LIMIT
    spectra = spectra.astype(np.float32)
    enhanced, gains = np.empty_like(spectra), np.empty((count, 2, 3), np.float32)
    samples = np.empty(320 * count, np.float32)
    frames = codec.frame_decoder(codec.header(0, 16000, 8))
    enhance_spectra(frames.model, frames.state, parameters, spectra, enhanced, gains)
    synthesize(frames.model, frames.state, parameters, enhanced, gains, samples)
    return frames, samples


@pytest.mark.parametrize("seed", range(6))
def test_samples_are_finite_whatever_the_integers(codec: Codec, seed: int) -> None:
    _, samples = extreme_frames(codec, seed)
    assert np.isfinite(samples).all() and np.abs(samples).max() > 0


@pytest.mark.parametrize("seed", range(2))
def test_extreme_frames_leave_nothing_behind(codec: Codec, seeds: mutate.Seeds, seed: int) -> None:
    """After frames at all limits, speech comes out finite and of its own loudness."""
    _, packets = read_stream(seeds.files[seeds.names.index("cbr_8")])
    frames, _ = extreme_frames(codec, seed)
    speech = packets * 20  # each time with an intra frame first
    intra = np.arange(len(speech)) % len(packets) == 0
    samples = frames.decode(speech, intra)
    assert np.isfinite(samples).all()
    assert np.abs(samples[-320 * len(packets) :]).max() < 4.0


def test_integers_stay_bounded_in_long_runs(codec: Codec) -> None:
    """Nothing drifts: 500 predicted frames in a row, each the same hostile bytes."""
    for packet in (b"\xff" * 40, bytes(40), b"\x01", b"\xff" * 255):
        frames = codec.frame_decoder(codec.header(0, 16000, 32))
        hostile.check_integers(frames.integers([packet] * 500, np.arange(500) == 0))


def test_info_reads_the_decoders_symbols(checker: hostile.Checker, seeds: mutate.Seeds) -> None:
    for data in seeds.files:
        share = describe_stream(data, checker.codec.weights)["share"]
        assert all(-1e-9 <= value <= 1 for value in share.values())


@pytest.mark.slow
def test_kernels_stay_in_bounds(tmp_path: Path) -> None:
    """The same integers, samples and bytes with and without bounds checks, hostile weights too."""
    source = hostile_weights.Source(DEFAULT_WEIGHTS)
    paths: list[str] = []
    for case in range(400):
        done, data, _ = hostile_weights.make_case(3, case, source)
        if done not in ("values", "small_changes") or len(paths) == 4:
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
        if checks == "1":
            environment["NUMBA_CACHE_DIR"] = str(tmp_path / "kernels")
        done_process = subprocess.run(
            [sys.executable, str(FUZZ / "bounds.py"), "3000", *paths],
            env=environment, capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        assert done_process.returncode == 0, done_process.stderr
        results.append(json.loads(done_process.stdout))
    assert len(paths) == 4 and results[0] == results[1]
