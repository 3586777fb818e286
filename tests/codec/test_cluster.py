"""The runner on a Dask cluster: a real scheduler and two worker processes on 127.0.0.1."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pieces_of_work import Squares, tries

pytest.importorskip("distributed", reason="needs the extra 'cluster'")

from cluster import ROOT, Cluster, cluster
from distributed import KilledWorker

from codec import Codec, runner
from codec.errors import WeightsError
from codec.pieces import EncodeOptions
from codec.runner import Place, run
from codec.transcode import Coder
from codec.trees import Pair, PairWork

CLI = [sys.executable, str(ROOT / "cli.py")]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    """Forty files in folders, and one that is no audio."""
    root = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        path = root / f"{number % 4}" / f"{number:02}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.roll(speech, 100 * number), 16000)
    (root / "bad.wav").write_bytes(b"RIFF, or so it says")
    return root


def test_every_item_is_done_once(here: Cluster, tmp_path: Path) -> None:
    done = list(run(Squares(tmp_path), range(60), Place(1, here.address), lambda _: 10.0))
    assert sorted(came.result for came in done) == [n * n for n in range(60)]
    assert all(tries(tmp_path, number) == 1 for number in range(60))
    loaded = {int(path.suffix[1:]) for path in tmp_path.glob("loaded.*")}
    assert loaded == set(here.worker_pids())  # each once, and nothing here


def test_a_worker_that_is_killed_costs_nothing(here: Cluster, tmp_path: Path) -> None:
    place = Place(1, here.address)
    results = run(Squares(tmp_path, seconds=0.03), range(200), place, lambda _: 10.0)
    done = [next(results) for _ in range(20)]
    os.kill(here.worker_pids()[0], signal.SIGKILL)
    done += results
    assert sorted(came.result for came in done) == [n * n for n in range(200)]


@pytest.mark.slow
def test_what_kills_its_worker_is_set_aside(here: Cluster, tmp_path: Path) -> None:
    setup = Squares(tmp_path, deadly=(5,))
    done = {c.item: c for c in run(setup, range(12), Place(1, here.address), lambda _: 15.0)}
    assert sorted(done) == list(range(12))
    assert "its worker process died 3 times" in done[5].error
    assert tries(tmp_path, 5) == 6  # three in its batch, three alone
    assert all(done[n].result == n * n for n in done if n != 5)


def test_other_weights_or_another_version_on_a_worker(here: Cluster, corpus: Path) -> None:
    place = Place(1, here.address)
    pairs = [Pair(corpus / "0" / "00.wav", corpus / "never.bin", 96044)]
    for coder, words in (
        (Coder(EncodeOptions(), None, "0badf00d"), "has weights .*, here are 0badf00d"),
        (Coder(EncodeOptions(), None, None, "99.9"), "this package, here is 99.9"),
    ):
        with pytest.raises(WeightsError, match=words):
            list(run(PairWork(coder), pairs, place))
    assert not (corpus / "never.bin").exists()


def encode(corpus: Path, out: Path, here: Cluster, *more: str) -> subprocess.Popen[str]:
    command = [*CLI, "encode", str(corpus), str(out), "--scheduler", here.address, *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=corpus.parent
    )


def test_a_directory_with_a_worker_killed_in_the_middle(
    here: Cluster, corpus: Path, tmp_path: Path, codec: Codec
) -> None:
    out = tmp_path / "out"
    process = encode(corpus, out, here)
    deadline = time.monotonic() + 120
    while not list(out.rglob("*.bin")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(here.worker_pids()[1], signal.SIGKILL)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "encoded 40 of 41 files" in said
    (line,) = errors.splitlines()
    assert line.startswith(f"codec: error: {corpus / 'bad.wav'}: not an audio file")
    header, row = (out / "failures.csv").read_text().splitlines()
    assert header == "file,reason" and row.startswith(f"{corpus / 'bad.wav'},")
    assert len(list(out.rglob("*.bin"))) == 40
    for name in ("0/00", "3/39"):
        wave = soundfile.read(corpus / f"{name}.wav", dtype="float32")[0]
        assert (out / f"{name}.bin").read_bytes() == codec.encode(wave, 16000)

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.bin")}
    (out / "1" / "05.bin").unlink()
    again = encode(corpus, out, here, "--skip-existing")
    said, errors = again.communicate(timeout=300)
    assert "encoded 1 of 41 files" in said and "39 existing files skipped" in said
    now = {path: path.stat().st_mtime_ns for path in out.rglob("*.bin")}
    assert now.keys() == stamps.keys()
    assert sum(now[path] != stamps[path] for path in now) == 1


@pytest.mark.slow
def test_a_client_that_is_interrupted(here: Cluster, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = encode(corpus, out, here)
    deadline = time.monotonic() + 120
    while not list(out.rglob("*.bin")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "codec: interrupted\n"
    said, _ = encode(corpus, out, here, "--skip-existing").communicate(timeout=300)
    assert "existing file" in said
    assert len(list(out.rglob("*.bin"))) == 40
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_an_evaluation(here: Cluster, corpus: Path, tmp_path: Path) -> None:
    """Scores are those of this process; a worker that is killed, and a stop, cost none."""
    command = [*CLI, "eval", str(corpus / "0"), "--rates", "16.4", "--out"]
    options = ["--page-clips", "0", "--save-audio"]
    one, other = tmp_path / "one", tmp_path / "other"
    assert subprocess.run([*command, str(one), *options, "--jobs", "1"]).returncode == 0
    clustered = [*command, "other", *options, "--scheduler", here.address]  # a relative path
    process = subprocess.Popen(clustered, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (other / "clips.jsonl").exists() and (other / "clips.jsonl").stat().st_size > 600:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "continue with --resume" in errors
    os.kill(here.worker_pids()[0], signal.SIGKILL)
    result = subprocess.run([*clustered, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and "are of the run that was stopped" in result.stderr
    rows = [list(csv.DictReader((out / "scores.csv").open())) for out in (one, other)]
    for mine, theirs in zip(*rows, strict=True):
        for name in mine.keys() - {"encode_s", "decode_s"}:
            assert mine[name] == theirs[name], name
    waves = sorted(path.relative_to(other) for path in other.rglob("*.wav"))
    assert len(waves) == 10
    assert all((one / path).read_bytes() == (other / path).read_bytes() for path in waves)


def test_a_scheduler_that_goes_away_is_one_line(corpus: Path, tmp_path: Path) -> None:
    """Dask's own warnings and tracebacks are not for the user."""
    (tmp_path / "a").mkdir()
    with cluster(tmp_path / "a", 1) as first:
        process = encode(corpus, tmp_path / "out", first)
        deadline = time.monotonic() + 120
        while not list((tmp_path / "out").rglob("*.bin")) and time.monotonic() < deadline:
            time.sleep(0.02)
        first.stop_scheduler()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    *others, last = errors.splitlines()
    assert last.startswith("codec: error: the Dask scheduler is gone; what is done is kept")
    assert all(line.startswith("codec: error: ") for line in others), errors


def test_how_often_a_worker_died_is_what_the_scheduler_says() -> None:
    """Three deaths are the default of `cluster`; another scheduler allows more."""

    class Killer:
        chances = 1
        died = KilledWorker

        def submit(self, setup: object, batch: list[object]) -> Future[object]:
            future: Future[object] = Future()
            future.set_exception(KilledWorker("key", None, 4))
            return future

        def look_after(self) -> None: ...

        def restart(self) -> bool:
            return False

    assert "worker process died 5 times" in runner._alone(Killer(), None, "x").error


def test_no_scheduler_there(corpus: Path, tmp_path: Path) -> None:
    command = [*CLI, "encode", str(corpus), str(tmp_path / "out"), "--scheduler"]
    for address, words in (
        ("tcp://127.0.0.1:9", "no Dask scheduler answers there"),
        ("nonsense", "nonsense"),
    ):
        result = subprocess.run([*command, address], capture_output=True, text=True, timeout=60)
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("codec: error: --scheduler ") and words in line
    assert not (tmp_path / "out").exists()
