"""Mistakes with `codec train`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import ROOT, assert_user_error, run


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


def test_torchaudio_of_another_torch_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torchaudio.py").write_text("raise OSError('Could not load this library: x.so')\n")
    (tmp_path / "in").mkdir()
    script = "import cli; cli.app(prog_name='codec')"
    command = [
        sys.executable,
        "-c",
        script,
        "train",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "run"),
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "do not fit together (Could not load this library: x.so): pip" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_pytorch_one_line_says_what_brings_it(tmp_path: Path) -> None:
    script = "import sys; sys.modules['torch'] = None; import cli; cli.app(prog_name='codec')"
    command = [sys.executable, "-c", script, "train", str(tmp_path), "--out", str(tmp_path / "run")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "codec: error: torch is not installed: pip install '.[train]'\n"
    assert not (tmp_path / "run").exists()
