"""What `codec eval` and `codec ratings` share: what can go wrong, and how it is told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codec.io.storage import exists, is_directory, is_shards, location
from commands.terminal import Interrupted, UserError, brought_by, complain, note

if TYPE_CHECKING:
    from evaluation.baselines.base import Baseline
    from evaluation.clips import Sampled
    from evaluation.results import EvalResult


@contextlib.contextmanager
def needs_evaluation() -> Generator[None]:
    """Turn what can go wrong in an evaluation into one line."""
    try:
        with brought_by("pip install ."):
            yield
    except ValueError as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def stopped_evaluation(out: Path | None) -> Generator[None]:
    """Say after Ctrl-C how to go on, if scores were kept."""
    try:
        yield
    except KeyboardInterrupt:
        if out is None:
            raise
        raise Interrupted(f"what is scored is kept in {out}, continue with --resume") from None


def find_clips(directory: str, sample: int | None, seed: int) -> Sampled:
    """Return the audio files of a directory or of shards, at least one."""
    from evaluation.clips import ClipsOfDirectory, ClipsOfShards

    if is_shards(directory):
        in_shards = ClipsOfShards(directory, sample, seed)
        if not len(in_shards):
            raise UserError(f"{directory}: no audio files in there; check the path")
        return in_shards
    place = location(directory)
    if not exists(place):
        raise UserError(f"TEST_DIR: {place}: does not exist; check the path")
    if not is_directory(place):
        raise UserError(
            f"TEST_DIR: {place}: is a file; name a directory with audio files, or shards (.tar)"
        )
    clips = ClipsOfDirectory(place, sample, seed)
    if not len(clips):
        raise UserError(f"{place}: no audio files in this directory; check the path")
    return clips


def count_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_codecs(names: Sequence[str]) -> list[Baseline]:
    """Return the codecs of these names that are installed; a note says which are not."""
    from evaluation.baselines.codecs import find_installed

    found, missing = find_installed(names)
    for text in missing:
        note(f"left out, not installed: {text}")
    return found


def report(result: EvalResult, test_dir: Path, out: Path | None) -> bool:
    """Print notes on a result, and write it; return whether all clips are in the figures."""
    from evaluation import run

    for text in result.notes:
        note(text)
    lost = _report_failures(result)
    if out is not None:
        title = f"Codecs compared on {test_dir.absolute().name or 'speech'}"
        written = run.write(result, out, title)
        print(f"{', '.join(written[:-1])} and {written[-1]} are in {out}")
    return not lost


def _report_failures(result: EvalResult) -> bool:
    """Print one line for each failure; return whether some clip is not in the figures at all."""
    lost = False
    unread: set[str] = set()
    for failure in result.failures:
        codec = "" if failure.codec == result.info.name else f" in {failure.codec}"
        where = f"{failure.file}{codec} at {failure.rate:g} kbit/s"
        if failure.metric == "audio":  # at every rate, and in all codecs
            lost = True
            if failure.file not in unread:
                complain(failure.reason)
            unread.add(failure.file)
        elif failure.metric == "codec":
            lost = True
            complain(f"{where}: {failure.reason}")
        else:
            note(f"{where}: no {failure.metric}: {failure.reason}")
    return lost
