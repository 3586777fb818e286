"""Every input of `experiments.field` that can be made here, by path and by pipe."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from codec import Codec
from experiments.field import __main__ as field
from experiments.field.check import check
from experiments.field.commands import COMMANDS, Command, try_command
from experiments.field.inputs import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_inputs(codec: Codec, case: Case, tmp_path: Path) -> None:
    wrong = check(codec, case, tmp_path)
    if wrong is None:
        pytest.skip("the program that makes it is not installed")
    assert wrong == ""


def test_what_is_wrong_is_said(codec: Codec, tmp_path: Path) -> None:
    """Else all would be right whatever happens."""
    case = next(case for case in CASES if case.name == "cut WAV")
    for other, words in (
        (case._replace(samples=None), "not refused"),
        (case._replace(samples=5001), "5000 samples at 16000 Hz, not 5001"),
        (case._replace(word="nonsense"), "nothing is said of 'nonsense'"),
        (case._replace(make=lambda: b"RIFF" + bytes(100)), "refused"),
        (case._replace(make=lambda: case.make()[:44] + bytes(10_000)), "samples are off"),
    ):
        assert words in (check(codec, other, tmp_path) or "")


def test_the_command_prints_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert field.main(["--only", "data size"]) == 0
    lines = capsys.readouterr().out.splitlines()
    count = sum("data size" in case.name for case in CASES)
    assert [line.split()[-1] for line in lines] == ["right"] * (count + 1)


def test_a_command_that_goes_wrong_is_said(tmp_path: Path) -> None:
    script = "same a.wav a.bin; code 3 codec info a.bin; says nonsense codec info missing.bin"
    wrong = try_command(Command(0, "", script), tmp_path) or ""
    for words in ("a.bin differ", "exit 0, not 3", "not said: nonsense"):
        assert words in wrong


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_commands(command: Command, tmp_path: Path) -> None:
    try:
        wrong = try_command(command, tmp_path)
    except subprocess.TimeoutExpired:
        wrong = "does not end"
    if wrong is None:
        pytest.skip("bash is not installed")
    assert wrong == ""
