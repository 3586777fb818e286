"""Damaged streams, full disks, kills: what was there stays, or what is intact is saved."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_helpers import OLD, run, run_process, shared_stream, start, voice


def limit_files(num_bytes: int) -> None:
    """Let a process that begins write no larger file, as if the disk were full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of write(), not a signal
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    # Else Python keeps the beginning of a .pyc file, and nobody can import that module again.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.mark.parametrize("suffix", [".bin", ".wav", ".flac", ".ogg", ".mp3"])
def test_full_disk(suffix: str, tmp_path: Path) -> None:
    """Of encode and of each way to write audio."""
    folder = tmp_path / "full"
    folder.mkdir()
    source, command = shared_stream(), "decode"
    if suffix == ".bin":
        source, command = tmp_path / "long.wav", "encode"
        soundfile.write(source, np.tile(voice(16000), 3), 16000)
    target = folder / f"old{suffix}"
    target.write_bytes(OLD)
    result = run_process(command, source, target, preexec_fn=partial(limit_files, 1024), text=True)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("codec: error: ")
    assert "cannot be written (" in result.stderr
    assert str(target) in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {target.name: OLD}


@pytest.mark.parametrize("vbr", [(), ("--vbr",)])
def test_a_live_recording_that_fills_the_disk_is_kept(tmp_path: Path, vbr: tuple) -> None:
    """The seconds that fit into 4 kB, in a file and on standard output."""
    limit = partial(limit_files, 4000)
    pcm = (np.tile(voice(16000), 4) * 30000).astype("<i2").tobytes()
    command = ("encode", "--bitrate", "13.2", *vbr, "-")
    file = run_process(*command, tmp_path / "a.bin", input=pcm, preexec_fn=limit)
    with (tmp_path / "b.bin").open("wb") as out:
        redirected = run_process(
            *command, "-", input=pcm, preexec_fn=limit,
            capture_output=False, stdout=out, stderr=subprocess.PIPE,
        )  # fmt: skip
    for result, name in ((file, str(tmp_path / "a.bin")), (redirected, "the output")):
        assert result.returncode == 2
        lines = result.stderr.decode().splitlines()
        assert f"codec: note: {name} holds the 1.99 s before that" in lines
        assert lines[-1].startswith("codec: error: ") and "cannot be written (" in lines[-1]
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert run("decode", tmp_path / "a.bin", tmp_path / "a.wav").exit_code == 0
    assert soundfile.info(tmp_path / "a.wav").duration == pytest.approx(1.99)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.wav", "b.bin"]


def test_full_disk_in_a_directory_run(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    soundfile.write(tmp_path / "short.wav", voice(200), 16000)
    assert run("encode", tmp_path / "short.wav", source / "b.bin").exit_code == 0
    for name in ("a.bin", "c.bin"):
        (source / name).write_bytes(shared_stream().read_bytes())
    result = run_process("decode", source, target, preexec_fn=partial(limit_files, 1024), text=True)
    assert result.returncode == 1, result.stderr
    assert result.stdout.startswith(f"decoded 1 of 3 files into {target}: ")
    lines = result.stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == [str(target / n) for n in ("a.wav", "c.wav")]
    assert sorted(path.name for path in target.iterdir()) == ["b.wav", "failures.csv"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_while_coding(tmp_path: Path, number: signal.Signals) -> None:
    """The old output stays; only SIGKILL may leave a hidden temporary file."""
    folder = tmp_path / "out"
    folder.mkdir()
    soundfile.write(tmp_path / "long.wav", np.tile(voice(16000), 600), 16000)
    target = folder / "out.bin"
    target.write_bytes(OLD)
    process = start("encode", tmp_path / "long.wav", target, start_new_session=True, text=True)
    deadline = time.monotonic() + 120
    while not list(folder.glob(".codec-*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), errors
    assert errors.splitlines() == (["codec: interrupted"] if number == signal.SIGINT else [])
    assert target.read_bytes() == OLD
    rest = [path.name for path in folder.iterdir() if path != target]
    assert all(name.startswith(".codec-") for name in rest)
    assert number == signal.SIGKILL or not rest


def test_skip_existing_does_not_skip_a_device() -> None:
    result = run_process("decode", shared_stream(), "/dev/stdout", "--skip-existing")
    assert result.stdout.startswith(b"RIFF")
    assert len(result.stdout) == 44 + 2 * 16123


# --- --salvage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A sound stream of 5 s, the same with a damaged group, and with a damaged header."""
    folder = tmp_path_factory.mktemp("damaged")
    soundfile.write(folder / "long.wav", np.tile(voice(16123), 5), 16000)
    (folder / "in").mkdir()
    sound, group, header = (folder / "in" / f"{name}.bin" for name in ("sound", "group", "header"))
    assert run("encode", folder / "long.wav", sound).exit_code == 0
    data = sound.read_bytes()
    for path, position in ((group, len(data) // 2), (header, 12)):
        changed = bytearray(data)
        changed[position] ^= 0x55
        path.write_bytes(changed)
    return sound, group, header


def test_salvage(damaged: tuple[Path, Path, Path], tmp_path: Path) -> None:
    sound, group, header = damaged
    assert run("decode", sound, tmp_path / "plain.wav").exit_code == 0
    result = run("decode", sound, tmp_path / "sound.wav", "--salvage")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "salvaged" not in result.stdout
    assert (tmp_path / "sound.wav").read_bytes() == (tmp_path / "plain.wav").read_bytes()

    assert run("decode", group, tmp_path / "group.wav").exit_code == 2
    assert not (tmp_path / "group.wav").exists()
    result = run("decode", group, tmp_path / "group.wav", "--salvage")
    assert result.exit_code == 0, result.output
    notes = result.stderr.splitlines()
    assert len(notes) == 1
    assert notes[0].startswith(f"codec: note: {group}: ")
    assert "salvaged (1 problem)" in result.stdout
    whole, _ = soundfile.read(tmp_path / "plain.wav")
    saved, _ = soundfile.read(tmp_path / "group.wav")
    assert len(saved) == len(whole)
    np.testing.assert_array_equal(saved[:16000], whole[:16000])
    np.testing.assert_allclose(saved[-8000:], whole[-8000:], atol=0.02)

    result = run("decode", header, tmp_path / "header.wav", "--salvage")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "header.wav").exists()


def test_salvage_of_a_directory(damaged: tuple[Path, Path, Path], tmp_path: Path) -> None:
    sound, group, header = damaged
    result = run("decode", sound.parent, tmp_path / "out", "--salvage", "--rate", "source")
    assert result.exit_code == 1  # because of the header
    assert "decoded 2 of 3 files" in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("codec: ")]
    assert len(lines) == 2
    assert lines[0].startswith(f"codec: note: {group}: ")
    assert lines[1].startswith(f"codec: error: {header}: ")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["failures.csv", "group.wav", "sound.wav"]


def test_a_cut_stream_on_standard_input(damaged: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data = damaged[0].read_bytes()
    cut, out = data[: len(data) // 2], tmp_path / "out.wav"
    assert run("decode", damaged[0], tmp_path / "plain.wav").exit_code == 0
    result = run_process("decode", "-", out, input=cut)
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1 and b"--salvage" in result.stderr
    assert not out.exists()
    for target in (str(out), "-"):
        result = run_process("decode", "-", target, "--salvage", input=cut)
        assert result.returncode == 0, result.stderr
        if target == "-":
            out.write_bytes(result.stdout)
        saved, _ = soundfile.read(out, dtype="int16")
        whole, _ = soundfile.read(tmp_path / "plain.wav", dtype="int16")
        assert 2.3 * 16000 < len(saved) < 2.7 * 16000
        np.testing.assert_array_equal(saved[:32000], whole[:32000])
    assert int.from_bytes(result.stdout[40:44], "little") == len(result.stdout) - 44
