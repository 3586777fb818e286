"""Encode and decode what the user names: a file here, more in `many.py`, pipes in `pipes.py`."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from codec import Codec, jit
from codec.config import HOP_LENGTH
from codec.io.files import is_direct
from codec.io.storage import Location, absolute, is_directory, is_shards
from codec.io.wav import Samples
from codec.pieces import DecodeOptions, EncodeOptions, Outcome
from codec.places import Place
from codec.transcode import Coder, attempt, choose_target, code, is_done
from codec.weights import load_weights
from commands.terminal import STANDARD, UserError, count, end_cleanly, note, say

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
        note("compiling for this processor; this takes about half a minute, once")


def compile_first(weights: Path | None) -> None:
    """Compile what is not compiled yet, lest every process that is started do it."""
    if not Codec.is_compiled():
        codec = load_codec(weights)
        codec.decode(codec.encode(np.zeros(HOP_LENGTH, np.float32)))


def describe(outcome: Outcome, name: object, encoding: bool) -> str:
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
        many = source != STANDARD and is_directory(source)
        if is_shards(chosen) and not many:
            raise UserError(f"{chosen}: is a shard by its name, of many files; name another output")
        if self.place.scheduler is not None and not many:
            note("--scheduler: a single file is coded here")
        if self.encoding and Path(str(chosen)).suffix.lower() in self.suffixes:
            note(f"{chosen}: is to be a coded stream, not audio; .bin is the usual suffix")
        return chosen

    def __call__(self, source: Location, target: str | None, raw: Samples | None = None) -> None:
        """Code a file, a directory, or what comes through standard input or a pipe."""
        if (
            source == STANDARD
            or target == "-"
            or raw is not None
            or (self.encoding and isinstance(source, Path) and _is_pipe(source))
        ):
            from commands.pipes import code_pipe

            code_pipe(self, source, target, raw)
            return
        if is_shards(source):
            from commands.many import code_shards

            code_shards(self, str(source), target)
            return
        chosen = self.choose(source, target)
        end_cleanly()
        if self.place.scheduler is not None:  # workers have another working directory
            source, chosen = absolute(source), absolute(chosen)
        if is_directory(source):
            from commands.many import code_directory

            code_directory(self, source, chosen)
        else:
            self.file(source, chosen)

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
            say(describe(outcome, source, self.encoding))


def _is_pipe(path: Path) -> bool:
    """Tell whether a path is a pipe, which can be read once only."""
    return path.is_fifo() or path.is_socket()
