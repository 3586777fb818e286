"""Whole directories: bad files do not stop the others, and a run that was ended goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_helpers import assert_user_error, run, shared_stream, start, voice


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with two good files, a bad one, and some that are not audio."""
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    soundfile.write(root / "a.wav", voice(5000), 16000)
    soundfile.write(root / "deep" / "er" / "b.c.flac", voice(7001), 16000)
    (root / "bad.wav").write_bytes(b"RIFF, or so it says")
    (root / "notes.txt").write_text("not audio")
    (root / "deep" / "x.mid").write_text("not audio")
    (root / ".hidden.wav").write_text("not audio")
    return root


@pytest.mark.parametrize("jobs", [1, 2])
def test_directory_with_a_bad_file(tree: Path, tmp_path: Path, jobs: int) -> None:
    coded, decoded = tmp_path / "coded", tmp_path / "decoded"
    result = run("encode", tree, coded, "--jobs", jobs)
    assert result.exit_code == 1, result.output
    assert "encoded 2 of 3 files" in result.stdout
    notes = [line for line in result.stderr.splitlines() if "note: " in line]
    assert notes == [f"codec: note: {tree}: left out, by their names: 1 .mid, 1 .txt"]
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("codec: error: ")
    assert str(tree / "bad.wav") in errors[0]
    outputs = sorted(str(p.relative_to(coded)) for p in coded.rglob("*") if p.is_file())
    assert outputs == ["a.bin", "deep/er/b.c.bin", "failures.csv"]
    rows = (coded / "failures.csv").read_text().splitlines()
    assert rows[0] == "file,reason" and len(rows) == 2
    assert rows[1].startswith(f"{tree / 'bad.wav'},")

    result = run("decode", coded, decoded, "--jobs", jobs)
    assert result.exit_code == 0, result.output
    assert "decoded 2 of 2 files" in result.stdout
    assert not (decoded / "failures.csv").exists()
    assert soundfile.info(decoded / "a.wav").frames == 5000
    assert soundfile.info(decoded / "deep" / "er" / "b.c.wav").frames == 7001

    single = tmp_path / "single.bin"
    assert run("encode", tree / "a.wav", single).exit_code == 0
    assert (coded / "a.bin").read_bytes() == single.read_bytes()


def test_totals(tree: Path, tmp_path: Path) -> None:
    (tree / "bad.wav").unlink()
    result = run("encode", tree, tmp_path / "out")
    assert result.exit_code == 0, result.output
    sizes = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.bin"))
    rate = 8e-3 * sizes / (12001 / 16000)
    last = result.stdout.splitlines()[-1]
    head = f"encoded 2 of 2 files into {tmp_path / 'out'}: 0.00 h, {sizes} bytes, {rate:.2f} kbit/s"
    assert last.startswith(head)
    assert last.endswith("times real time")


def test_what_is_no_regular_file_is_left_out(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "pipe.wav")
    result = run("encode", tree, tmp_path / "out")
    assert f"{tree / 'pipe.wav'}: left out, no regular file" in result.stderr
    assert "encoded 2 of 3 files" in result.stdout


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "A.BIN").write_bytes(shared_stream().read_bytes())
    result = run("decode", tmp_path / "in", tmp_path / "out", "--format", "flac")
    assert result.exit_code == 0, result.output
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["A.flac"]
    assert soundfile.info(tmp_path / "out" / "A.flac").format == "FLAC"


def test_directory_with_a_cut_stream(tmp_path: Path) -> None:
    stream = shared_stream()
    source = tmp_path / "in"
    source.mkdir()
    (source / "good.bin").write_bytes(stream.read_bytes())
    (source / "cut.bin").write_bytes(stream.read_bytes()[:-9])
    result = run("decode", source, tmp_path / "out")
    assert result.exit_code == 1
    assert str(source / "cut.bin") in result.stderr
    assert [p.name for p in (tmp_path / "out").glob("*.wav")] == ["good.wav"]


def test_two_files_of_one_output_name(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.flac", "a.wav"):
        soundfile.write(source / name, voice(1000), 16000)
    result = run("encode", source, tmp_path / "out")
    assert result.exit_code == 1
    assert "a.wav" in result.stderr
    assert "encoded 1 of 2 files" in result.stdout


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """And tells what would fail."""
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.flac", "a.wav"):
        soundfile.write(source / name, voice(1000), 16000)
    result = run("encode", source, tmp_path / "out", "--dry-run")
    assert result.exit_code == 1
    assert "a.wav: a.flac has the same output name" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [b"file,reason\ncaf\xe9.wav,bad\n", b"\0\xff of something else"])
def test_a_table_of_failures_that_is_something_else(
    tree: Path, tmp_path: Path, text: bytes
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "failures.csv").write_bytes(text)
    result = run("encode", tree, out)
    assert result.exit_code == 1 and "encoded 2 of 3 files" in result.stdout
    kept = (out / "failures.csv").read_bytes()
    assert kept == text if b"else" in text else b"bad.wav" in kept
    assert ("of something else" in result.stderr) == (b"else" in text)


def test_directory_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert_user_error(run("encode", tmp_path / "in", tmp_path / "out"), "no audio files")
    assert_user_error(run("decode", tmp_path / "in", tmp_path / "out"), "no .bin files")
    assert_user_error(run("encode", tmp_path / "in", tmp_path / "in"), "is the input")
    assert not (tmp_path / "out").exists()


def test_skip_existing_goes_on(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert run("encode", tree, target).exit_code == 1
    whole = {path: path.read_bytes() for path in target.rglob("*.bin")}
    (target / "a.bin").write_bytes(b"")  # an empty file is no output
    stamp = (target / "deep/er/b.c.bin").stat().st_mtime_ns
    result = run("encode", tree, target, "--skip-existing")
    assert result.exit_code == 1
    wanted = f"encoded 1 of 3 files into {target}, 1 existing file skipped: "
    assert result.stdout.splitlines()[-1].startswith(wanted)
    assert {path: path.read_bytes() for path in target.rglob("*.bin")} == whole
    assert (target / "deep/er/b.c.bin").stat().st_mtime_ns == stamp


def test_failures_of_an_earlier_run_are_forgotten(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert run("encode", tree, target).exit_code == 1
    assert (target / "failures.csv").exists()
    (tree / "bad.wav").unlink()
    assert run("encode", tree, target, "--skip-existing").exit_code == 0
    assert not (target / "failures.csv").exists()


def test_info_of_a_directory(tree: Path, tmp_path: Path) -> None:
    coded = tmp_path / "coded"
    run("encode", tree, coded)
    (coded / "cut.bin").write_bytes((coded / "a.bin").read_bytes()[:-5])
    result = run("info", coded)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == [
        str(coded / name) for name in ("a.bin", "deep/er/b.c.bin")
    ]
    assert lines[2].startswith("2 of 3 streams: ")
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(errors) == 1 and str(coded / "cut.bin") in errors[0]
    (coded / "cut.bin").unlink()
    rows = [json.loads(line) for line in run("info", coded, "--json").stdout.splitlines()]
    assert [row["num_samples"] for row in rows] == [5000, 7001]
    assert_user_error(run("info", tree), "no .bin files")


def test_here_or_on_a_cluster(tree: Path, tmp_path: Path) -> None:
    both = ["--jobs", "2", "--scheduler", "tcp://127.0.0.1:1"]
    assert_user_error(run("encode", tree, tmp_path / "out", *both), "--jobs, --scheduler")


@pytest.mark.parametrize(
    "jobs, number",
    [
        (2, signal.SIGINT),
        (1, signal.SIGTERM),
        pytest.param(1, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_ended_by_a_signal(tmp_path: Path, jobs: int, number: signal.Signals) -> None:
    """What is done stays, what is half done goes."""
    source = tmp_path / "in"
    source.mkdir()
    long = np.tile(voice(16000), 20)
    for name in range(40):
        soundfile.write(source / f"{name:02}.wav", long, 16000)
    process = start(
        "encode", source, tmp_path / "out", "--jobs", str(jobs), start_new_session=True, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.bin")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    said = ["codec: interrupted"] if number == signal.SIGINT else []
    assert errors.splitlines() == said
    assert not list(tmp_path.rglob("*.tmp"))
    assert 1 <= len(list(tmp_path.glob("out/*.bin"))) < 40
