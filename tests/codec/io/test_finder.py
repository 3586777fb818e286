"""What is found below a directory, in which order, and what is said of the rest."""

from __future__ import annotations

import os
from pathlib import Path

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
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "other")
    finder = Finder(tmp_path / "in", {".wav"})
    assert [found.name for found in finder.files()] == ["a.wav", "link.wav", "nowhere.wav"]
    assert finder.notes == [f"{tmp_path / 'in' / 'pipe.wav'}: left out, no regular file"]
