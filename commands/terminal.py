"""Talk to the user: one line for an error or a remark, exit codes, signals, standard streams."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import typer
from typer.core import TyperGroup

from codec.errors import CodecError
from codec.io.files import printable
from codec.io.storage import Location, exists, is_shards, location

STANDARD = Path("-")  # standard input or output

EXIT_SOME_FILES = 1  # a directory run in which at least one file failed
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something that the user can put right; the message says what is wrong and what to do."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message says what to do next."""


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def escaped(text: object) -> str:
    """Return text for one line."""
    return printable(text)


def say(message: object) -> None:
    """Print one line on stdout."""
    print(escaped(message))


def complain(message: object) -> None:
    """Print one error line on stderr."""
    print(f"codec: error: {escaped(message)}", file=sys.stderr)


def note(message: object) -> None:
    """Print one remark on stderr."""
    print(f"codec: note: {escaped(message)}", file=sys.stderr)


def count(number: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _describe_os_error(error: OSError) -> str:
    """Return what the system said, with the file first and without the errno."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


closed_streams: set[str] = set()  # names of standard streams that were closed


def _open_standard_streams() -> None:
    """Give every standard stream that is closed a place to go, and let file names be any bytes.

    Else a file that is opened next would get the descriptor of standard error, and what libraries
    print there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            closed_streams.add(name)
            setattr(sys, name, open(os.devnull, mode))  # the lowest descriptor that is free
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")


class Group(TyperGroup):
    """A typer group that turns every mistake into one line on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; see `TyperGroup.main`."""
        _open_standard_streams()
        try:
            result = super().main(
                args, prog_name, complete_var, False, windows_expand_args, **extra
            )
            sys.stdout.flush()
        except typer.TyperException as error:  # wrong options: click's three lines become one
            hint = "see `codec --help`"
            context = getattr(error, "ctx", None)
            if context is not None:
                hint = f"see `{context.command_path} --help`"
            self._leave(EXIT_USER, f"{_one_line(error.format_message()).rstrip('.')}; {hint}")
        except (UserError, CodecError) as error:
            self._leave(EXIT_USER, str(error))
        except Interrupted as stop:
            print(f"codec: interrupted; {_one_line(stop)}", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # whoever read our output has enough; that is theirs to judge
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_SOME_FILES)
        except OSError as error:  # the disk is full, no permission, ...
            self._leave(EXIT_USER, _describe_os_error(error))
        code = result if isinstance(result, int) else 0
        if code == EXIT_INTERRUPTED:
            print("codec: interrupted", file=sys.stderr)
        if standalone_mode:
            sys.exit(code)
        return result

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        """Find a command; `codec eval --ratings` is what `codec ratings` was called."""
        if args[0] == "eval" and "--ratings" in args:
            args = ["ratings", *(arg for arg in args[1:] if arg != "--ratings")]
        return super().resolve_command(context, args)

    @staticmethod
    def _leave(code: int, message: str) -> NoReturn:
        complain(message)
        sys.exit(code)


def run_program(app: Callable[..., object]) -> NoReturn:
    """Run the command line as a process of its own, and end the process."""
    code: object = 0
    try:
        app(prog_name="codec")
    except SystemExit as end:
        code = end.code
    if not isinstance(code, int) or threading.active_count() > 1:
        sys.exit(code)  # type: ignore[arg-type]
    # Nothing is left to wait for. Python would take itself, LLVM and numpy apart, for 30 ms.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def start_quickly() -> None:
    """Leave out what coding does not need, before anything large is imported."""
    # NumPy's BLAS would start threads, which wait for work by spinning.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(100_000)  # looking for garbage while modules are imported takes 15 ms


def find_input(name: str) -> Location:
    """Return the path or URL of an input that is there."""
    place = location(name)
    if "{" in name and is_shards(name):
        return place  # several shards, each of which is looked for
    if place != STANDARD and not exists(place):
        raise UserError(f"{place}: no such file or directory; check the path")
    return place


def name_of(place: Location) -> str:
    """Return what to call an input."""
    return "standard input" if place == STANDARD else str(place)


@contextlib.contextmanager
def open_input(source: Path) -> Generator[BinaryIO]:
    """Open an input, or standard input."""
    if source != STANDARD:
        with source.open("rb") as file:
            yield file
        return
    if "stdin" in closed_streams:
        raise UserError("standard input is closed; pipe a file or another program into it")
    if sys.stdin.isatty():
        raise UserError("standard input is a terminal; pipe a file or another program into it")
    yield sys.stdin.buffer


def end_cleanly() -> None:
    """Let TERM and HUP clean up."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: object) -> NoReturn:
    """Leave on a signal as on an error: what is half written goes."""
    sys.exit(128 + number)


@contextlib.contextmanager
def one_voice() -> Generator[None]:
    """Let only the first process of a machine complain, where torchrun started several."""
    try:
        yield
    except (UserError, Interrupted) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        code = EXIT_USER if isinstance(error, UserError) else EXIT_INTERRUPTED
        raise typer.Exit(code) from None


@contextlib.contextmanager
def brought_by(command: str) -> Generator[None]:
    """Say in one line what is not installed, and the command that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        what = f"{error.name or 'a package'} is not installed"
        raise UserError(f"{what}: {command}") from error


@contextlib.contextmanager
def progress(what: str, unit: str) -> Generator[Callable[[int, int | None], None]]:
    """Show a bar on a terminal; what it yields is told how many of how many are done."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, disable=None) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
