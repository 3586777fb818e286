"""Directories: what goes where, what is listed, what is learnt of sizes, and memory."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import Codec
from codec.io.finder import Finder
from codec.pieces import EncodeOptions
from codec.runner import Place
from codec.transcode import Coder
from codec.trees import Durations, Failures, Notes, TreeRun

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".wav", ".flac"}


def test_pairs_keep_the_tree_and_name_twins(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.flac", "a.wav", "deep/b.c.wav", "deep/old.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"123")
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "old.bin").write_bytes(b"done")
    (out / "a.bin").write_bytes(b"")  # empty: not done
    tree = TreeRun(
        coder=Coder(EncodeOptions()),
        finder=Finder(root, SUFFIXES),
        target=out,
        suffix=".bin",
        skip_existing=True,
    )
    assert [(pair.source, pair.target) for pair in tree.pairs()] == [
        (root / "a.flac", out / "a.bin"), (root / "deep/b.c.wav", out / "deep/b.c.bin"),
    ]  # fmt: skip
    assert (tree.found, tree.skipped) == (4, 1)
    assert tree.failures.kept == [
        (str(root / "a.wav"),
         f"{root / 'a.wav'}: a.flac has the same output name; rename one of them")
    ]  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_make_the_same_bytes(
    codec: Codec, speech: np.ndarray, tmp_path: Path, jobs: int
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for number in range(6):
        soundfile.write(root / f"{number}.wav", np.roll(speech, number), 16000)
    (root / "bad.wav").write_bytes(b"bad")
    coder = Coder(EncodeOptions(9.6), None, codec.fingerprint)
    tree = TreeRun(
        coder=coder, finder=Finder(root, SUFFIXES), target=out, suffix=".bin", place=Place(jobs)
    )
    tried: list[int] = []
    tree.run(tried.append)
    assert tried == [1, 2, 3, 4, 5, 6, 7]
    assert (tree.found, tree.done, tree.failures.count) == (7, 6, 1)
    assert tree.seconds == pytest.approx(18.0)
    assert tree.num_bytes == sum(path.stat().st_size for path in out.glob("*.bin"))
    for number in range(6):
        wave = soundfile.read(root / f"{number}.wav", dtype="float32")[0]
        assert (out / f"{number}.bin").read_bytes() == codec.encode(wave, 16000, 9.6)
    with (out / "failures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(root / "bad.wav")]
    assert "not an audio file" in rows[0]["reason"]


def test_the_length_of_files_is_learnt() -> None:
    durations = Durations()
    assert durations.guess(Path("a.wav"), 320_000) == pytest.approx(10)
    durations.learn(Path("a.WAV"), 1_000_000, 5.0)  # 48 kHz, two channels or so
    durations.learn(Path("b.wav"), 1_000_000, 5.2)
    assert durations.guess("s3://bucket/c.wav", 2_000_000) == pytest.approx(10.2)
    assert durations.guess(Path("a.flac"), 18_000) == pytest.approx(1)


def test_failures_are_on_the_disk_at_once(tmp_path: Path) -> None:
    failures = Failures(tmp_path / "new")
    failures.add(Path("a,b\n.wav"), "a reason, with a comma")
    lines = list(csv.reader((tmp_path / "new" / "failures.csv").open(newline="")))
    assert lines == [["file", "reason"], ["a,b\n.wav", "a reason, with a comma"]]
    for number in range(2000):
        failures.add(Path(f"{number}.wav"), "bad")
    failures.close()
    assert (failures.count, len(failures.kept)) == (2001, 1000)
    assert len((tmp_path / "new" / "failures.csv").read_text().splitlines()) == 2003
    assert failures.problem == ""


def test_a_list_of_failures_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failures = Failures(tmp_path / "file")
    failures.add(Path("a.wav"), "bad")
    failures.close()
    assert failures.kept == [("a.wav", "bad")]
    assert failures.problem.startswith("failures.csv: cannot be written (")


def test_notes_of_many_files() -> None:
    notes = Notes()
    for name in ("a", "b", "c"):
        notes.add(Path(name), "downmixed")
    notes.add(Path("d.wav"), "odd")
    notes.add(Path("e"), "e: salvaged")
    for number in range(3000):
        notes.add(Path("f"), f"peak {number}")
    lines = list(notes.lines())
    assert lines[:3] == ["downmixed (3 files)", "d.wav: odd", "e: salvaged"]
    assert len(lines) == 1001 and lines[-1] == "2003 more notes of this kind"


_MEASURE = """
import sys
from pathlib import Path
from codec import trees
from codec.io import finder
from codec.io.finder import Finder
from codec.io.storage import Entry
from codec.pieces import EncodeOptions, Outcome
from codec.transcode import Coder

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

def list_directory(root, folder=""):
    if folder:
        return [Entry(f"{n:03}.wav", "file", 100_000) for n in range(1000)]
    return [Entry(f"{n:04}", "directory") for n in range(folders)]

class FakeWork:
    def __init__(self, coder): pass
    def __call__(self):
        def work(pair, stop):
            bad = pair.source.name == "999.wav"
            return Outcome(pair.source, pair.target, 16000, error="bad" if bad else "")
        return work

finder.list_directory, trees.PairWork = list_directory, FakeWork
peaks = []
for folders in (10, int(sys.argv[2])):
    out = Path(sys.argv[1]) / str(folders)
    tree = trees.TreeRun(
        coder=Coder(EncodeOptions()), finder=Finder(Path("/corpus"), {".wav"}), target=out,
        suffix=".bin",
    )
    tree.run()
    assert (tree.found, tree.done) == (1000 * folders, 999 * folders)
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.parametrize("folders", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_million_files_take_no_more_memory_than_ten_thousand(
    tmp_path: Path, folders: int
) -> None:
    command = [sys.executable, "-c", _MEASURE, str(tmp_path), str(folders)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    few, many = map(int, result.stdout.split())
    print(f"peaks in kB: {few}, {many}")
    assert many - few < 3000
    rows = (tmp_path / str(folders) / "failures.csv").read_text().splitlines()
    assert len(rows) == folders + 1
