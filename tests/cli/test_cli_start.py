"""Start-up, help, closed streams: what the program does before it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import CLI, ROOT, run, shared_stream, shared_wav

HEAVY = {"pydantic", "torch", "torchaudio", "scipy.signal", "scipy.fft", "matplotlib", "pandas"}


@pytest.mark.parametrize(
    "arguments, forbidden",
    [
        (["--help"], HEAVY | {"numba", "soundfile", "soxr", "numpy"}),
        (["encode", "--help"], HEAVY | {"numba", "soundfile", "soxr", "numpy"}),
        (["info", "STREAM"], HEAVY | {"soundfile", "soxr"}),
        (["encode", "WAV", "OUT.bin"], HEAVY | {"numba", "multiprocessing", "tarfile"}),
        (["decode", "STREAM", "OUT.wav"], HEAVY | {"numba", "multiprocessing", "soundfile"}),
    ],
)
def test_imports(arguments: list[str], forbidden: set[str], tmp_path: Path) -> None:
    names = {"STREAM": str(shared_stream()), "WAV": str(shared_wav())}
    arguments = [names.get(a, a.replace("OUT", str(tmp_path / "out"))) for a in arguments]
    code = (
        "import sys, cli\n"
        "try: cli.app(sys.argv[1:])\n"
        "except SystemExit as leave: code = leave.code\n"
        f"heavy = {forbidden!r} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    command = [sys.executable, "-c", code, *arguments]
    if "numba" in forbidden and arguments[0] != "--help":  # compiles, where nothing is cached yet
        subprocess.run([*CLI, *arguments], cwd=ROOT, capture_output=True, timeout=600, check=True)
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("given, wanted", [(None, "1"), ("3", "3")])
def test_coding_starts_no_blas_threads(given: str | None, wanted: str) -> None:
    """They would spin. Whoever sets their number is obeyed."""
    code = (
        "import os, sys, cli\n"
        "try: cli.app(sys.argv[1:])\n"
        "except SystemExit: print(os.environ['OPENBLAS_NUM_THREADS'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if given is not None:
        environment["OPENBLAS_NUM_THREADS"] = given
    command = [sys.executable, "-c", code, "info", shared_stream()]
    output = subprocess.check_output(command, cwd=ROOT, env=environment, text=True, timeout=300)
    assert output.splitlines()[-1] == wanted


def test_the_end_comes_at_once_but_not_too_early() -> None:
    """What is to be done at exit is done, what is printed arrives, and threads are waited for."""
    code = (
        "import atexit, sys, threading, time\n"
        "from commands.terminal import run_program\n"
        "def late(): time.sleep(0.3); print('thread')\n"
        "def app(prog_name):\n"
        "    atexit.register(print, 'exit')\n"
        "    if sys.argv[1:]: threading.Thread(target=late).start()\n"
        "    print(prog_name)\n"
        "    sys.exit(3)\n"
        "run_program(app)"
    )
    for arguments, lines in (([], ["codec", "exit"]), (["wait"], ["codec", "thread", "exit"])):
        command = [sys.executable, "-c", code, *arguments]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stdout.split()) == (3, lines)


def test_every_option_has_help() -> None:
    for command in ("encode", "decode", "info"):
        help_text = run(command, "--help").stdout
        lines = help_text.split("Options:")[1].splitlines()
        for line in lines:
            if line.startswith("  --"):
                assert len(line.split("  ")) > 2 or lines[lines.index(line) + 1].strip(), line


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """Files do not get what is meant for standard output or error, and nothing goes wrong."""
    wanted = shared_stream().read_bytes()
    command = " ".join(CLI)
    script = f"{command} encode {shared_wav()} {tmp_path}/a.bin {closed}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    assert (tmp_path / "a.bin").read_bytes() == wanted


def test_closed_streams_that_are_needed(tmp_path: Path) -> None:
    command = " ".join(CLI)
    for script, word in (
        (f"{command} encode - {tmp_path}/a.bin <&-", b"standard input is closed"),
        (f"{command} encode {shared_wav()} - >&-", b"standard output is closed"),
        (f"{command} encode {tmp_path}/missing {tmp_path}/a.bin 2>&-", b""),
    ):
        result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=300)
        assert result.returncode == 2
        assert word in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_standard_output_is_full() -> None:
    script = f"{' '.join(CLI)} info {shared_stream()} > /dev/full"
    result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=300)
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1
    assert b"No space left" in result.stderr


def test_who_reads_has_enough() -> None:
    script = f"{' '.join(CLI)} decode {shared_stream()} - | head -c 1000 | wc -c; exit $PIPESTATUS"
    result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=300)
    assert (result.stdout, result.stderr) == (b"1000\n", b"")
