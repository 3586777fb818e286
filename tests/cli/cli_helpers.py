"""What the tests of the command line share."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from typer.testing import CliRunner, Result

import cli

ROOT = Path(cli.__file__).resolve().parent
CLI = [sys.executable, str(ROOT / "cli.py")]
NUM_SAMPLES = 16123  # 1 s and a bit: neither whole packets nor whole hops
OLD = b"the old output\n" * 7


def run(*arguments: object, data: bytes | None = None) -> Result:
    """Run a command in this process."""
    arguments_ = [str(a) for a in arguments]
    return CliRunner().invoke(cli.app, arguments_, prog_name="codec", input=data)


def run_process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command in a process of its own, as a user does."""
    options = {"capture_output": True, "timeout": 300, **options}
    return subprocess.run([*CLI, *map(str, arguments)], **options)


def start(*arguments: object, **options: Any) -> subprocess.Popen[Any]:
    """Start a command in a process of its own."""
    pipe = subprocess.PIPE
    options = {"stdin": pipe, "stdout": pipe, "stderr": pipe, **options}
    return subprocess.Popen([*CLI, *map(os.fspath, arguments)], **options)


def assert_user_error(result: Result, *words: str) -> None:
    """Assert exit code 2 and one error line that has all `words`; stdout stays empty."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("codec: error: ")
    for word in words:
        assert word in lines[0]


def voice(num_samples: int, rate: int = 16000) -> np.ndarray:
    """Return a buzz with two formants that moves like speech, float32 [T]."""
    t = np.arange(num_samples) / rate
    phase = 2 * np.pi * (120 * t + 5 * np.sin(2 * np.pi * 2 * t))
    wave = sum(
        np.cos(k * phase) / (1 + ((k * 120 - 600) / 250) ** 2)
        + 0.3 * np.cos(k * phase) / (1 + ((k * 120 - 1800) / 300) ** 2)
        for k in range(1, 25)
    )
    wave = wave * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    wave += 0.01 * np.random.default_rng(0).standard_normal(num_samples)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


@functools.cache
def _shared() -> tuple[tempfile.TemporaryDirectory[str], Path, Path]:
    folder = tempfile.TemporaryDirectory()
    wav, stream = Path(folder.name) / "in.wav", Path(folder.name) / "shared.bin"
    soundfile.write(wav, voice(NUM_SAMPLES), 16000)
    result = run("encode", wav, stream)
    assert result.exit_code == 0, result.output
    return folder, wav, stream


def shared_wav() -> Path:
    """Return a mono file at 16 kHz."""
    return _shared()[1]


def shared_stream() -> Path:
    """Return that file encoded at 13.2 kbit/s."""
    return _shared()[2]
