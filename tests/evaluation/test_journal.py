"""An evaluation that is stopped goes on; many clips take no more memory than few."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toys import RATE, ToyBaseline, ToyCodec, syllables, toy

from evaluation import bd_rate
from evaluation.clips import ClipsOfDirectory
from evaluation.journal import JOURNAL_NAME, Journal
from evaluation.metrics import METRICS, Metric
from evaluation.results import ClipScore, EvalResult, RunInfo, write_results
from evaluation.run import sum_up, write

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"encode_s", "decode_s"}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bd_rate, "RESAMPLES", 50)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four clips and one that is no audio."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"{name}.wav" for name in "abcde"]
    for seed, path in enumerate(paths):
        soundfile.write(path, syllables(0.6, seed), RATE)
    paths[3].write_bytes(b"no audio")
    return paths


def stop_after(count: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


def assert_equal(one: EvalResult, other: EvalResult) -> None:
    for table in ("clips", "scores", "failures", "comparison"):
        ours, theirs = getattr(one, table), getattr(other, table)
        assert ours.dtype == theirs.dtype
        for name in set(ours.dtype.names) - TIMES:
            np.testing.assert_array_equal(ours[name], theirs[name], f"{table}: {name}")


def test_each_score_is_on_the_disk_at_once(clips: list[Path], tmp_path: Path) -> None:
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        lines = (tmp_path / JOURNAL_NAME).read_text().splitlines()
        seen.append(sum("task" in json.loads(line) for line in lines))

    toy(clips, [8, 16], journal=tmp_path, progress=progress)
    assert seen == list(range(1, 11))
    first, *_, last = map(json.loads, (tmp_path / JOURNAL_NAME).read_text().splitlines())
    assert first["settings"]["rates"] == [8, 16] and last == {"complete": True}


def test_a_run_that_goes_on_is_the_uninterrupted_one(clips: list[Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"baselines": [ToyBaseline()], "losses": ()}
    whole = toy(clips, [8, 16], **options)
    for count in (1, 7):
        folder = tmp_path / str(count)
        with pytest.raises(KeyboardInterrupt):
            toy(clips, [8, 16], journal=folder, progress=stop_after(count), **options)
        with (folder / JOURNAL_NAME).open("ab") as file:
            file.write(b'{"task": 9, "clips": [{"file": "a.w')  # as a crash may leave it
        done: list[tuple[int, int]] = []
        result = toy(
            clips, [8, 16], journal=folder, resume=True, page_clips=1,
            progress=lambda *now, done=done: done.append(now), **options,
        )  # fmt: skip
        assert_equal(result, whole)
        assert f"{count} of 20 scores are of the run that was stopped" in result.notes
        assert done[-1] == (20, 20)
        assert len(result.heard) == 1  # the sound of what was done before is made again
        again = toy(clips, [8, 16], journal=folder, resume=True, **options)
        assert_equal(again, whole)
        assert "20 of 20 scores are of the run that was stopped" in again.notes


def test_losses_go_on_too(clips: list[Path], tmp_path: Path) -> None:
    whole = toy(clips, [8, 16], losses=[0, 20])
    with pytest.raises(KeyboardInterrupt):
        toy(clips, [8, 16], losses=[0, 20], journal=tmp_path, progress=stop_after(3))
    assert_equal(toy(clips, [8, 16], losses=[0, 20], journal=tmp_path, resume=True), whole)


def test_what_was_stopped_is_not_lost_by_mistake(clips: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy(clips, [8], journal=tmp_path, progress=stop_after(2))
    before = (tmp_path / JOURNAL_NAME).read_bytes()
    with pytest.raises(ValueError, match=r"clips\.jsonl: .* go on with --resume, or remove"):
        toy(clips, [8], journal=tmp_path)
    for change in (
        {"rates": [8, 16]},
        {"vbr": True},
        {"effort": "high"},
        {"name": "x"},
        {"files": clips[:4]},
    ):
        options = {"files": clips, "rates": [8], **change}
        with pytest.raises(ValueError, match="begun with other settings"):
            toy(journal=tmp_path, resume=True, **options)
    assert (tmp_path / JOURNAL_NAME).read_bytes() == before
    with pytest.raises(ValueError, match="--resume: of which run"):
        toy(clips, [8], resume=True)
    toy(clips, [8], journal=tmp_path, resume=True)
    toy(clips, [16], journal=tmp_path)  # what is complete may be replaced


def test_two_runs_at_once(tmp_path: Path) -> None:
    """Do not write over each other's lines."""
    first = Journal(tmp_path, {}, 3)
    first.append(0, [ClipScore("a", 8)])
    with pytest.raises(ValueError, match="another run is writing it"):
        Journal(tmp_path, {}, 3, resume=True)
    first.close()
    assert Journal(tmp_path, {}, 3, resume=True).resumed == 1


def test_of_what_was_done_twice_the_last_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {}, 3)
    for task, score in ((2, 1.0), (0, 2.0), (2, 3.0), (1, 4.0)):
        journal.append(task, [ClipScore(str(task), 8, scores={"pesq_wb": score})])
    assert journal.count == 3 and journal.read(2)[0].file == "2"
    assert [journal.read(task)[0].scores["pesq_wb"] for task in range(3)] == [2.0, 4.0, 3.0]
    journal.close()
    again = Journal(tmp_path, {}, 3, resume=True)
    assert again.resumed == 3
    assert [again.read(task)[0].scores["pesq_wb"] for task in range(3)] == [2.0, 4.0, 3.0]
    again.close()


# ---------------------------------------------------------------------------- samples


def test_a_sample_is_fair_and_repeatable(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 3}" / f"{number:02}.wav").touch()
    every = [clip.name for clip in ClipsOfDirectory(tmp_path)]
    assert len(every) == 50 == ClipsOfDirectory(tmp_path).total
    names = [clip.name for clip in ClipsOfDirectory(tmp_path, 10, 1)]
    assert names == [clip.name for clip in ClipsOfDirectory(tmp_path, 10, 1)]
    assert len(set(names)) == 10 and names == sorted(names, key=every.index)
    assert names != [clip.name for clip in ClipsOfDirectory(tmp_path, 10, 2)]
    assert len(ClipsOfDirectory(tmp_path, 99)) == 50
    drawn = np.zeros(50)
    for seed in range(400):
        for clip in ClipsOfDirectory(tmp_path, 10, seed):
            drawn[every.index(clip.name)] += 1
    # Each clip is drawn with probability 1/5: 80 times of 400, with a standard deviation of 8.
    assert drawn.min() > 80 - 5 * 8 and drawn.max() < 80 + 5 * 8


def test_a_sample_is_scored_with_its_interval(tmp_path: Path) -> None:
    for seed in range(6):
        soundfile.write(tmp_path / f"{seed}.wav", syllables(0.6, seed), RATE)
    result = toy(ClipsOfDirectory(tmp_path, 4, 3), [16])
    assert len(result.clips) == 4
    (row,) = result.means[result.means.metric == "psnr_db"]
    assert row.low < row["mean"] < row.high
    assert any(
        note.startswith("a sample of 4 of 6 clips, drawn with seed 3") for note in result.notes
    )


# ---------------------------------------------------------------------------- metrics


def test_slow_metrics_have_workers_of_their_own(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They score what the others decoded, clip by clip."""

    def peak(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.abs(y).max())

    fake = Metric("dnsmos", "DNSMOS", "", 2, peak, "speechmos", load=lambda: None)
    monkeypatch.setitem(METRICS, "dnsmos", fake)
    result = toy(clips, [8, 16], metrics=["dnsmos"], page_clips=1)
    scores = {
        (row.file, row.rate): row.value
        for row in result.scores
        if row.metric == "dnsmos" and not np.isnan(row.value)
    }
    assert len(scores) == 8 and "d.wav" not in dict(scores)
    for (file, rate), score in scores.items():
        wave = soundfile.read(clips[0].parent / file, dtype="float32")[0]
        codec = ToyCodec()
        decoded = np.rint(codec.decode(codec.encode(wave, RATE, rate)) * 32768) / 32768
        assert score == pytest.approx(np.abs(decoded).max(), abs=1 / 32768)
    assert result.heard[0].sounds[0].scores.keys() == {"pesq_wb", "psnr_db", "estoi", "dnsmos"}


def test_no_metrics(clips: list[Path], tmp_path: Path) -> None:
    result = toy(clips, [8, 16], metrics=["none"], page_clips=1)
    assert write(result, tmp_path) == ["scores.csv", "summary.json", "listen.html"]
    assert not len(result.scores) and result.info.metrics == ()
    assert result.rates.measured_kbps.tolist() == pytest.approx([8.08, 16.08], abs=0.2)
    header, *rows = csv.reader(result.to_csv().splitlines())
    assert header == ["file", "codec", "nominal_bps", "actual_bps", "payload_bps", "encode_s",
                      "decode_s", "duration_s"]  # fmt: skip
    assert len(rows) == 10
    assert json.loads(result.to_json())["summary"][0]["failures"] == 1


_MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from toys import ToyCodec, toy_packets
from evaluation.clips import ClipsOfDirectory
from evaluation.run import EvalConfig, run, write

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

peaks = []
for folder in sys.argv[2:]:
    out = folder + ".out"
    config = EvalConfig(
        ToyCodec, ClipsOfDirectory(folder), [16], packets_of=toy_packets, metrics=["none"],
        journal=out,
    )
    write(run(config), out)
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.parametrize(
    "count", [3000, *(pytest.param(n, marks=pytest.mark.slow) for n in (10_000, 100_000))]
)
def test_memory_hardly_grows_with_the_number_of_clips(tmp_path: Path, count: int) -> None:
    soundfile.write(tmp_path / "short.wav", syllables(0.02, 1), RATE)
    folders = []
    for number in (300 if count < 10_000 else 1000, count):
        folder = tmp_path / str(number)
        for clip in range(number):
            path = folder / f"{clip // 1000}" / f"{clip:06}.wav"
            if clip % 1000 == 0:
                path.parent.mkdir(parents=True)
            path.symlink_to(tmp_path / "short.wav")
        folders.append(str(folder))
    command = [sys.executable, "-c", _MEASURE, str(Path(__file__).parent), *folders]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    few, many = map(int, result.stdout.split())
    print(f"peaks in kB: {few}, {many}")
    rows = (tmp_path / f"{count}.out" / "scores.csv").read_text().splitlines()
    assert len(rows) == count + 1
    # Of a clip, a number stays: where in the journal its scores are.
    assert many - few < 3_000 + 0.03 * count


class ManyClips:
    """Scores of made-up clips in two codecs, made when they are asked for."""

    def __init__(self, count: int, metrics: Sequence[str]) -> None:
        self.count, self.metrics = count, metrics

    def __iter__(self) -> Iterator[ClipScore]:
        for codec, quality in (("nsvq", 1.0), ("toy", 0.5)):
            for number in range(self.count):
                yield ClipScore(
                    f"speaker/{number:06}.wav", 16, codec, 0.0, 1.0, 16.1, 16.0, 0.02, 0.01,
                    {metric: quality + number % 7 / 10 for metric in self.metrics}, number=number,
                )  # fmt: skip


@pytest.mark.parametrize("metrics, allowed", [((), 0.005), (("pesq_wb",), 0.04)])
def test_tables_take_the_memory_of_their_numbers(
    tmp_path: Path, metrics: tuple[str, ...], allowed: float
) -> None:
    """In kB for each clip, of which there are two scores."""
    peaks = []
    counts = (2_000, 6_000)
    for count in (counts[0], *counts):  # the first time imports and caches count, too
        tracemalloc.start()
        result = sum_up(ManyClips(count, metrics), RunInfo("nsvq", "toy", metrics))
        write_results(result, tmp_path / str(count))
        peaks.append(tracemalloc.get_traced_memory()[1] / 1000)
        tracemalloc.stop()
        assert result.rates.clips.tolist() == [count, count]
        with (tmp_path / str(count) / "scores.csv").open() as file:
            assert sum(1 for _ in file) == 2 * count + 1
    assert peaks[2] - peaks[1] < 100 + allowed * (counts[1] - counts[0])


def test_a_result_outlives_the_next_run_into_its_directory(
    clips: list[Path], tmp_path: Path
) -> None:
    first = toy(clips[:2], [8], journal=tmp_path)
    toy(clips[2:3], [16], journal=tmp_path)
    assert first.clips.file.tolist() == ["a.wav", "b.wav"]
    assert first.to_csv().count("\n") == 3
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / JOURNAL_NAME).write_text('{"clip": "mine"}\n')
    with pytest.raises(ValueError, match="holds no scores of `codec eval`; use another --out"):
        toy(clips[:1], [8], journal=folder)
    assert (folder / JOURNAL_NAME).read_text() == '{"clip": "mine"}\n'
