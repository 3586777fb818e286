"""Encode and decode through standard input and output, and what else can be read once only."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

import typer

from codec import Codec
from codec.errors import BitstreamError
from codec.io.files import WriteThrough, atomic_open, is_direct
from codec.io.storage import Location, is_directory
from codec.io.wav import Samples
from codec.pieces import DecodeOptions, EncodeOptions, Outcome, decode_stream
from codec.pipe import LiveStop, encode_pipe
from codec.transcode import encode_file, is_same
from commands.coding import CodingRun, describe, load_codec
from commands.terminal import (
    STANDARD,
    UserError,
    closed_streams,
    end_cleanly,
    name_of,
    note,
    open_input,
    say,
)


def _check(run: CodingRun, source: Location, target: str | None) -> None:
    """Raise unless standard input and output can be what was asked for."""
    if run.skip_existing or run.dry_run:
        option = "--skip-existing" if run.skip_existing else "--dry-run"
        raise UserError(f"{option}: is for files and directories; leave it out with - and --raw")
    if source == STANDARD and target is None:
        raise UserError("name an output for what comes from standard input, or -")
    if source != STANDARD and is_directory(source):
        raise UserError(f"{source}: is a directory; name one file to go to standard output")
    if target == "-" and is_same(source, STANDARD):
        raise UserError(f"standard output is the input, {name_of(source)}; name another file")


def code_pipe(run: CodingRun, source: Location, target: str | None, raw: Samples | None) -> None:
    """Code what can be read once only, or goes to standard output."""
    _check(run, source, target)
    end_cleanly()
    codec = load_codec(run.weights)
    out = STANDARD if target == "-" else run.choose(source, target)
    if not (isinstance(source, Path) and isinstance(out, Path)):
        raise UserError("a pipe and a URL: name a file of this machine in place of the URL")
    if isinstance(run.options, EncodeOptions):
        _encode(codec, source, out, run.options, raw)
    else:
        _decode(codec, source, out, run.options)


def _can_seek(file: BinaryIO) -> bool:
    """Tell whether an open file begins here and can be gone back in."""
    try:
        import fcntl

        appended = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND
        return file.seekable() and file.tell() == 0 and not appended
    except (ImportError, OSError, ValueError):
        return False


@contextlib.contextmanager
def _open_output(target: Path) -> Generator[tuple[BinaryIO, bool]]:
    """Open an output, or standard output; yield it, and whether it can seek."""
    if target != STANDARD:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(target) as file:
            yield file, not is_direct(target)
        return
    if "stdout" in closed_streams:
        raise UserError("standard output is closed; redirect it to a file or a program")
    if sys.stdout.isatty():
        raise UserError("standard output is a terminal; redirect it to a file or a program")
    out = sys.stdout.buffer
    seekable = _can_seek(out)
    try:
        yield out, seekable
        if seekable:
            out.seek(0, os.SEEK_END)  # whoever shares it goes on writing there
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        raise UserError(f"standard output: cannot be written ({error.strerror})") from error


def _report(outcome: Outcome, name: object, encoding: bool) -> None:
    """Say what became of what went through standard input or output."""
    for text in [*outcome.notes, *outcome.problems]:
        note(text)
    if outcome.target != STANDARD:
        say(describe(outcome, name, encoding))


def _encode(
    codec: Codec, source: Path, target: Path, options: EncodeOptions, raw: Samples | None
) -> None:
    """Encode from standard input, or from what is to be read as it is."""
    if source != STANDARD and source.is_file() and raw is None:
        with _open_output(target) as (writer, _):
            _report(encode_file(codec, source, writer, options), source, encoding=True)
        return
    with open_input(source) as reader, LiveStop(reader).listening() as stop:
        with _open_output(target) as (writer, seekable):
            out = WriteThrough(writer)
            seek, cut = (out.seek, out.cut) if seekable else (None, None)
            name = name_of(source)
            outcome = encode_pipe(codec, reader, out.write, options, seek, raw, stop, name, cut)
            if stop.signal and not outcome.num_samples:
                sys.exit(128 + stop.signal)  # there is nothing to keep
    outcome.target = target
    _report(outcome, name_of(source), encoding=True)
    where = "the output" if target == STANDARD else target
    if outcome.error:
        note(f"{where} holds the {outcome.seconds:.2f} s before that")
        raise UserError(outcome.error)
    if stop.signal:
        name = signal.Signals(stop.signal).name
        note(f"stopped by {name}: {where} holds the {outcome.seconds:.2f} s that came in")
        raise typer.Exit(128 + stop.signal)


def _decode(codec: Codec, source: Path, target: Path, options: DecodeOptions) -> None:
    """Decode from standard input, to standard output, or both."""
    outcome = Outcome(source, target)
    try:
        with open_input(source) as reader, _open_output(target) as (writer, seekable):
            decode_stream(codec, reader, writer, options, outcome, seekable)
    except BitstreamError as error:
        raise UserError(f"{name_of(source)}: {error}") from error
    _report(outcome, name_of(source), encoding=False)
