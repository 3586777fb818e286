"""Mistakes with `codec train`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import assert_user_error, run


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", ".", "--out", "x", "--estimator", "guess"],
        ["train", ".", "--out", "x", "--steps", "0"],
        ["train", "does-not-exist", "--out", "x"],
        ["train", "."],
    ],
)
def test_wrong_options(arguments: list[str]) -> None:
    assert_user_error(run(*arguments))


def test_a_directory_without_audio(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = run("train", tmp_path / "in", "--out", tmp_path / "run", "--steps", 1)
    assert_user_error(result, str(tmp_path / "in"))
