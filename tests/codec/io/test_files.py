"""Outputs are complete or not there; devices and open files are written to directly."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from codec.errors import AudioError
from codec.io import files
from codec.io.files import atomic_open, atomic_write, is_direct

ROOT = Path(files.__file__).parents[2]


@pytest.mark.parametrize("old", [None, b"old and longer than the new one" * 1000])
def test_atomic_open(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "out.bin"
    if old is not None:
        path.write_bytes(old)
    with atomic_open(path) as file:
        file.write(b"head")
        file.write(bytes(100_000))
        file.seek(0)
        file.write(b"HE")
        file.seek(0)
        assert file.read(4) == b"HEad"
        assert (path.read_bytes() if path.exists() else None) == old
    assert path.read_bytes() == b"HEad" + bytes(100_000)
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_given_up(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        with pytest.raises(error, match="^mine$"), atomic_open(tmp_path / name) as file:
            file.write(bytes(100_000))
            raise error("mine")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"old": b"old"}


def test_interrupted_at_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "kept").write_bytes(b"old")
    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "kept", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"kept": b"old"}


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "dir.bin", tmp_path):
        with pytest.raises(AudioError, match=f"^{path}: cannot be written \\("):
            atomic_write(path, b"x")
    with pytest.raises(AudioError, match="/dev/full: cannot be written"):
        atomic_write("/dev/full", b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_a_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_bytes(b"")
        atomic_write(tmp_path / "ours", b"")
        atomic_write(tmp_path / "ours again", b"1")
        atomic_write(tmp_path / "ours again", b"2")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("there", "not there"):
        (tmp_path / name).symlink_to(Path("folder") / name)
    (tmp_path / "folder" / "there").write_bytes(b"old")
    for name in ("there", "not there"):
        atomic_write(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "folder" / name).read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*"))) == 5


def test_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    for data in (b"1", b"2"):
        atomic_write(path, data)
        assert path.read_bytes() == data


def test_killed(tmp_path: Path) -> None:
    """SIGKILL leaves the old file, and at most a hidden temporary file."""
    (tmp_path / "out").write_bytes(b"old")
    code = (
        "import sys; from codec.io.files import atomic_open\n"
        "with atomic_open(sys.argv[1]) as file:\n"
        "    file.write(bytes(100_000)); print('written', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "out").read_bytes() == b"old"
    rest = [p.name for p in tmp_path.iterdir() if p.name != "out"]
    assert all(name.startswith(".codec-") and name.endswith(".tmp") for name in rest)


def test_open_files_and_pipes_are_written_to_directly(tmp_path: Path) -> None:
    """A redirected /dev/stdout must not be replaced: the link in /dev belongs to everybody."""
    code = (
        "import sys; from codec.io.files import atomic_write\n"
        "print('before', flush=True); atomic_write(sys.argv[1], b'ours\\n'); print('after')"
    )
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    for name in ("/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", str(link)):
        assert is_direct(name)
        command = [sys.executable, "-c", code, name]
        with open(tmp_path / "out", "wb") as out:
            subprocess.run(command, check=True, stdout=out, cwd=ROOT)
        assert (tmp_path / "out").read_bytes() == b"before\nours\nafter\n"
    piped = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    assert piped.stdout == b"before\nours\nafter\n"
    assert os.readlink(link) == "/dev/stdout"
    assert is_direct("/dev/null")
    for name in ("new", "out", "no/folder/here"):
        assert not is_direct(tmp_path / name)
