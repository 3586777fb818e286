"""Programs of other codecs: whether they are installed, and running them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from codec.errors import CodecError

TIMEOUT_S = 60.0  # for one run of one program

_LOG = "stderr.txt"

Command = list[str]


class BaselineError(CodecError):
    """A program of another codec is missing or failed; the message is one line for the user."""


class Programs(NamedTuple):
    """Programs that together run a codec, and the Debian package that brings them."""

    names: tuple[str, ...]
    package: str
    encoder: str = ""  # ffmpeg only: the encoder that must be built in

    def describe(self) -> str:
        """Return for example "opusenc and opusdec (package opus-tools)"."""
        built_in = f" with {self.encoder}" if self.encoder else ""
        return f"{' and '.join(self.names)}{built_in} (package {self.package})"

    def complete(self) -> bool:
        """Return whether all of them are found in PATH, with what they must have built in."""
        paths = [shutil.which(name) for name in self.names]
        if any(path is None for path in paths):
            return False
        return not self.encoder or _has_encoder(str(paths[0]), self.encoder)


def run_program(command: Command, folder: str, output: str | None = None) -> float:
    """Run `command` in `folder`, its stdout going to the file `output` there, if named.

    No shell, no input. The program leads its own process group, so that on time-out or Ctrl-C its
    children go with it.

    Returns
    -------
    float, CPU seconds (user and system) of the program and of the children it waited for

    Raises
    ------
    BaselineError   not found, exit code other than 0, or still running after `TIMEOUT_S`
    OSError     the log cannot be written
    """
    program, log = command[0], Path(folder) / _LOG
    path = shutil.which(program)
    if path is None:
        raise BaselineError(f"{program} is not installed any more")
    with contextlib.ExitStack() as files:
        stderr = files.enter_context(log.open("wb"))
        stdout = files.enter_context((Path(folder) / output).open("wb")) if output else None
        try:
            process = subprocess.Popen(
                [os.path.abspath(path), *command[1:]],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout or subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as exc:
            raise BaselineError(f"{program} cannot be started ({exc.strerror or exc})") from exc
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill(process)

    timer = threading.Timer(TIMEOUT_S, expire)
    timer.daemon = True
    try:
        timer.start()
        # Popen.wait would poll, up to 50 ms late, and would not tell this child's CPU time.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        timer.cancel()
        if process.returncode is None:
            _kill(process)
            process.wait()
    if process.returncode != 0:
        if expired.is_set():
            what = f"{program} was stopped after {TIMEOUT_S:g} s"
        elif process.returncode < 0:
            what = f"{program} was killed by signal {-process.returncode}"
        else:
            what = f"{program} failed with exit code {process.returncode}"
        said = _last_line(log)
        raise BaselineError(f"{what}: {said}" if said else what)
    return usage.ru_utime + usage.ru_stime


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _last_line(log: Path, max_bytes: int = 4096) -> str:
    """Return the last line of a program's stderr, printable, at most 200 characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - max_bytes))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # str.splitlines also cuts at the carriage returns of progress bars.
    lines = ["".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()]
    said = [" ".join(line.split()) for line in lines if line.strip()]
    return said[-1][-200:] if said else ""


@lru_cache(maxsize=16)
def _has_encoder(ffmpeg: str, encoder: str) -> bool:
    """Ask an ffmpeg whether it was built with an encoder."""
    command = [ffmpeg, "-hide_banner", "-loglevel", "error", "-h", f"encoder={encoder}"]
    try:
        with tempfile.TemporaryDirectory(prefix="codec-baseline-") as folder:
            run_program(command, folder, "help.txt")
            text = (Path(folder) / "help.txt").read_bytes()
    except (BaselineError, OSError):
        return False
    return text.startswith(f"Encoder {encoder} ".encode())
