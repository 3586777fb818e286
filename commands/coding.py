"""Encode and decode what the user names: a file, a directory, standard input or output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Generator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import typer

from codec import Codec, jit
from codec.config import HOP_LENGTH
from codec.errors import BitstreamError
from codec.io.files import WriteThrough, atomic_open, is_direct
from codec.io.finder import Finder
from codec.io.storage import Location, absolute, is_directory, parent
from codec.io.wav import Samples
from codec.pieces import DecodeOptions, EncodeOptions, Outcome, decode_stream
from codec.pipe import LiveStop, encode_pipe
from codec.runner import Place
from codec.shards import ShardRun, is_shards, pair_shards
from codec.transcode import Coder, attempt, choose_target, code, encode_file, is_done, is_same
from codec.trees import FAILURES_NAME, Failures, Run, TreeRun
from codec.weights import load_weights
from commands.terminal import (
    EXIT_SOME_FILES,
    STANDARD,
    UserError,
    closed_streams,
    complain,
    count,
    end_cleanly,
    name_of,
    note,
    open_input,
    progress,
    say,
)

HEADERLESS = {"s16le", "f32le", "alaw", "mulaw"}


@lru_cache(maxsize=1)
def load_codec(weights: Path | None) -> Codec:
    """Load the codec once per process."""
    jit.announce = _announce_compiling
    return Codec.load(weights)


@lru_cache(maxsize=1)
def _announce_compiling() -> None:
    """Say on a terminal, once, why it takes a while."""
    if sys.stderr.isatty():
        note("compiling for this processor; this takes about 20 seconds, once")


def compile_first(weights: Path | None) -> None:
    """Compile what is not compiled yet, lest every process that is started do it."""
    if not Codec.is_compiled():
        codec = load_codec(weights)
        codec.decode(codec.encode(np.zeros(HOP_LENGTH, np.float32)))


def _describe(outcome: Outcome, name: object, encoding: bool) -> str:
    """Return the line that says what became of one file."""
    text = f"{name} -> {outcome.target}: {outcome.seconds:.2f} s"
    if not encoding:
        text += f" at {outcome.sample_rate} Hz"
    elif outcome.num_bytes:
        rate = (
            f", {8e-3 * outcome.num_bytes / outcome.seconds:.2f} kbit/s" if outcome.seconds else ""
        )
        text += f", {outcome.num_bytes} bytes{rate}"
    if outcome.problems:
        text += f", salvaged ({count(len(outcome.problems), 'problem')})"
    return text


@dataclass(frozen=True)
class CodingRun:
    """One `encode` or `decode`: what to do with a file, and what was asked for beside it."""

    options: EncodeOptions | DecodeOptions
    weights: Path | None
    place: Place
    skip_existing: bool
    dry_run: bool
    force: bool

    @property
    def encoding(self) -> bool:
        """Tell whether this encodes."""
        return isinstance(self.options, EncodeOptions)

    @property
    def verb(self) -> str:
        """Return what is done."""
        return "encode" if self.encoding else "decode"

    @property
    def suffix(self) -> str:
        """Return the suffix of outputs."""
        if self.encoding:
            return ".bin"
        kind = getattr(self.options, "format", None) or "wav"
        return ".raw" if kind in HEADERLESS else f".{kind}"

    @property
    def suffixes(self) -> Collection[str]:
        """Return the suffixes of inputs in a directory."""
        from codec.io.audio import AUDIO_SUFFIXES

        return AUDIO_SUFFIXES if self.encoding else {".bin"}

    def coder(self) -> Coder:
        """Return what codes files with this codec, wherever it is sent to."""
        if self.place == Place():
            return Coder(self.options, self.weights)
        fingerprint = load_weights(self.weights).fingerprint.hex()
        weights = self.weights and self.weights.absolute()
        return Coder(self.options, weights, fingerprint)

    def choose(self, source: Location, target: str | None) -> Location:
        """Return where the output goes."""
        chosen = choose_target(source, target, self.suffix, self.force)
        if self.encoding and Path(str(chosen)).suffix.lower() in self.suffixes:
            note(f"{chosen}: is to be a coded stream, not audio; .bin is the usual suffix")
        return chosen

    def check_pipe(self, source: Location, target: str | None) -> None:
        """Raise unless standard input and output can be what was asked for."""
        if self.skip_existing or self.dry_run:
            option = "--skip-existing" if self.skip_existing else "--dry-run"
            raise UserError(f"{option}: is for files and directories; leave it out with -")
        if source == STANDARD and target is None:
            raise UserError("name an output for what comes from standard input, or -")
        if source != STANDARD and is_directory(source):
            raise UserError(f"{source}: is a directory; name one file to go to standard output")
        if target == "-" and is_same(source, STANDARD):
            raise UserError(f"standard output is the input, {name_of(source)}; name another file")

    def __call__(self, source: Location, target: str | None, raw: Samples | None = None) -> None:
        """Code a file, a directory, or what comes through standard input or a pipe."""
        if (
            source == STANDARD
            or target == "-"
            or raw is not None
            or (self.encoding and isinstance(source, Path) and _is_pipe(source))
        ):
            self.pipe(source, target, raw)
            return
        if is_shards(source):
            self.shards(str(source), target)
            return
        chosen = self.choose(source, target)
        end_cleanly()
        if self.place.scheduler is not None:  # workers have another working directory
            source, chosen = absolute(source), absolute(chosen)
        if is_directory(source):
            self.directory(source, chosen)
        else:
            self.file(source, chosen)

    def pipe(self, source: Location, target: str | None, raw: Samples | None) -> None:
        """Code what can be read once only, or goes to standard output."""
        self.check_pipe(source, target)
        codec = load_codec(self.weights)
        out = STANDARD if target == "-" else self.choose(source, target)
        if not (isinstance(source, Path) and isinstance(out, Path)):
            raise UserError("a pipe and a URL: name a file of this machine in place of the URL")
        if isinstance(self.options, EncodeOptions):
            run_encode_pipe(codec, source, out, self.options, raw)
        else:
            run_decode_pipe(codec, source, out, self.options)

    def file(self, source: Location, target: Location) -> None:
        """Code a single file and report it."""
        if self.dry_run:
            say(f"{source} -> {target}")
            return
        if self.skip_existing and is_done(target):
            say(f"{target}: exists, skipped")
            return
        work = partial(code, load_codec(self.weights), self.options)
        outcome = attempt(work, source, target)
        if outcome.error:
            raise UserError(outcome.error)
        for text in [*outcome.notes, *(f"{source}: {problem}" for problem in outcome.problems)]:
            note(text)
        if not is_direct(str(target)):  # in /dev/stdout this line would mix with the data
            say(_describe(outcome, source, self.encoding))

    def directory(self, source: Location, target: Location) -> None:
        """Code every file of a directory tree; go on past bad files and list them at the end."""
        finder = Finder(source, self.suffixes)
        if next(finder.files(), None) is None:
            what = "audio" if self.encoding else ".bin"
            raise UserError(f"{source}: no {what} files in this directory; check the path")
        finder = Finder(source, self.suffixes)
        tree = TreeRun(
            coder=self.coder(),
            target=target,
            place=self.place,
            skip_existing=self.skip_existing,
            finder=finder,
            suffix=self.suffix,
        )
        if self.dry_run:
            for pair in tree.pairs():
                say(f"{pair.source} -> {pair.target}")
            return
        compile_first(self.weights)
        total = None
        if sys.stderr.isatty() and isinstance(source, Path):
            total = sum(1 for _ in Finder(source, self.suffixes).files())
        self.run_all(tree, total, finder)
        self.report(tree, f"{tree.done} of {tree.found} files into {target}", "existing file")

    def shards(self, source: str, target: str | None) -> None:
        """Code the audio in tar shards; go on past bad files and list them at the end."""
        pairs = pair_shards(source, target)
        end_cleanly()
        if self.place.scheduler is not None:
            pairs = [(absolute(one), absolute(other)) for one, other in pairs]
        if self.dry_run:
            for one, other in pairs:
                say(f"{one} -> {other}")
            return
        compile_first(self.weights)
        folder = parent(pairs[0][1])
        run = ShardRun(
            coder=self.coder(),
            target=folder,
            place=self.place,
            skip_existing=self.skip_existing,
            shards=pairs,
            suffixes=frozenset(self.suffixes),
        )
        self.run_all(run, len(pairs))
        shards = count(len(pairs) - run.skipped, "shard")
        self.report(run, f"{run.done} of {run.found} files in {shards}", "existing shard")

    def run_all(self, run: Run, total: int | None, finder: Finder | None = None) -> None:
        """Do a run, with a bar; print its notes."""
        with progress(self.verb, "file") as show:
            run.run(lambda tried: show(tried, total))
        for text in [*(finder.notes if finder is not None else ()), *run.notes.lines()]:
            note(text)

    def report(self, run: Run, what: str, skipped: str) -> None:
        """Print what a run came to."""
        report_failures(run.failures)
        left_out = f", {count(run.skipped, skipped)} skipped" if self.skip_existing else ""
        say(f"{self.verb}d {what}{left_out}{_totals(run)}")
        if run.failures.count:
            raise typer.Exit(EXIT_SOME_FILES)


def _is_pipe(path: Path) -> bool:
    """Tell whether a path is a pipe, which can be read once only."""
    return path.is_fifo() or path.is_socket()


def report_failures(failures: Failures) -> None:
    """Print what failed, each file once."""
    for _, reason in sorted(failures.kept):
        complain(reason)
    if more := failures.count - len(failures.kept):
        complain(f"{more} more files failed: {FAILURES_NAME} has them all")
    if failures.problem:
        note(failures.problem)


def _totals(tree: Run) -> str:
    """Return hours, bytes, rate and speed of all files together."""
    if not tree.seconds:
        return ""
    return (
        f": {tree.seconds / 3600:.2f} h, {tree.num_bytes} bytes, "
        f"{8e-3 * tree.num_bytes / tree.seconds:.2f} kbit/s, "
        f"{tree.seconds / tree.wall_s:.0f} times real time"
    )


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
        say(_describe(outcome, name, encoding))


def run_encode_pipe(
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


def run_decode_pipe(codec: Codec, source: Path, target: Path, options: DecodeOptions) -> None:
    """Decode from standard input, to standard output, or both."""
    outcome = Outcome(source, target)
    try:
        with open_input(source) as reader, _open_output(target) as (writer, seekable):
            decode_stream(codec, reader, writer, options, outcome, seekable)
    except BitstreamError as error:
        raise UserError(f"{name_of(source)}: {error}") from error
    _report(outcome, name_of(source), encoding=False)
