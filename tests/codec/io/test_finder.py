"""What is found below a directory, in which order, and what is said of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codec.errors import AudioError
from codec.io.finder import Finder, Found


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12345")


def test_names_in_order_and_what_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "b.wav", "a/c.WAV", "a/b.flac", "a.txt", ".x.wav", ".d/x.wav", "e/Makefile")
    finder = Finder(tmp_path, {".wav", ".flac"})
    assert list(finder.files()) == [
        Found("a/b.flac", 5, ""), Found("a/c.WAV", 5, ""), Found("b.wav", 5, ""),
    ]  # fmt: skip
    assert finder.notes == [f"{tmp_path}: left out, by their names: 1 .txt, 1 no suffix"]


def test_the_order_is_that_of_paths(tmp_path: Path) -> None:
    names = ["a-b/x.wav", "a.wav", "a/x.wav", "a/b/c.wav", "ab.wav", "B.wav", "a b.wav"]
    make(tmp_path, *names)
    found = [tmp_path / found.name for found in Finder(tmp_path, {".wav"}).files()]
    assert found == sorted(tmp_path / name for name in names)


def test_twins_differ_in_their_suffix_only(tmp_path: Path) -> None:
    make(tmp_path, "a.flac", "a.wav", "a-b/x.wav", "a.b/y.wav", "sub/a.wav")
    found = {found.name: found.twin for found in Finder(tmp_path, {".wav", ".flac"}).files()}
    assert found == {
        "a.flac": "", "a.wav": "a.flac", "a-b/x.wav": "", "a.b/y.wav": "", "sub/a.wav": "",
    }  # fmt: skip


def test_pipes_and_links(tmp_path: Path) -> None:
    make(tmp_path, "in/a.wav", "other/b.wav")
    os.mkfifo(tmp_path / "in" / "pipe.wav")
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "other" / "b.wav")
    (tmp_path / "in" / "nowhere.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "in" / "self.wav").symlink_to("self.wav")
    (tmp_path / "in" / "self").symlink_to("self")
    finder = Finder(tmp_path / "in", {".wav"})
    names = [found.name for found in finder.files()]
    assert names == ["a.wav", "link.wav", "nowhere.wav", "self.wav"]
    assert finder.notes == [
        f"{tmp_path / 'in' / 'pipe.wav'}: left out, no regular file",
        f"{tmp_path / 'in'}: left out, by their names: 1 no suffix",
    ]


def test_links_to_directories_are_followed_once(tmp_path: Path) -> None:
    """What is there twice goes by its own name, or else by the first one."""
    root = tmp_path / "in"
    make(tmp_path, "in/s/c.wav", "in/.hidden/d.wav", "other/b.wav", "other/deep/e.wav")
    (root / "aa").symlink_to(root / "s")
    (root / "ab").symlink_to(tmp_path / "other" / "deep")
    (root / "ac").symlink_to(tmp_path / "other")
    (root / "ad").symlink_to(tmp_path / "other")
    (root / "h").symlink_to(root / ".hidden")
    (root / "s" / "up").symlink_to(root)
    (tmp_path / "other" / "around").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(root)
    finder = Finder(root, {".wav"})
    assert [found.name for found in finder.files()] == [
        "ab/e.wav", "ac/b.wav", "h/d.wav", "s/c.wav",
    ]  # fmt: skip
    twice = ["aa", "ac/around", "ac/back", "ac/deep", "ad", "s/up"]
    assert finder.notes == [
        f"{root / name}: left out, a link to a directory that is read already" for name in twice
    ]


def test_a_directory_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and the others are read; the root itself is an error."""
    make(tmp_path, "a/x.wav", "b/y.wav")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed = tmp_path / "a"
    finder = Finder(tmp_path, {".wav"})
    assert [found.name for found in finder.files()] == ["b/y.wav"]
    assert finder.notes == [f"left out: {closed}: cannot be listed (Permission denied)"]
    closed = tmp_path
    with pytest.raises(AudioError, match="cannot be listed"):
        list(Finder(tmp_path, {".wav"}).files())
