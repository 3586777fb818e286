"""Encode and decode all of a directory, or of shards; one bad file does not stop the others."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from codec.io.finder import Finder
from codec.io.storage import Location, absolute, parent
from codec.shards import ShardRun, pair_shards
from codec.trees import FAILURES_NAME, Failures, Run, TreeRun
from commands.coding import CodingRun, compile_first
from commands.terminal import (
    EXIT_SOME_FILES,
    UserError,
    complain,
    count,
    end_cleanly,
    note,
    progress,
    say,
)


def code_directory(run: CodingRun, source: Location, target: Location) -> None:
    """Code every file of a directory tree; go on past bad files and list them at the end."""
    finder = Finder(source, run.suffixes)
    if next(finder.files(), None) is None:
        what = "audio" if run.encoding else ".bin"
        raise UserError(f"{source}: no {what} files in this directory; check the path")
    finder = Finder(source, run.suffixes)
    tree = TreeRun(
        coder=run.coder(),
        target=target,
        place=run.place,
        skip_existing=run.skip_existing,
        finder=finder,
        suffix=run.suffix,
    )
    if run.dry_run:
        tree.failures = Failures(None)
        for pair in tree.pairs():
            say(f"{pair.source} -> {pair.target}")
        for text in finder.notes:
            note(text)
        _report_failures(tree.failures)
        if tree.failures.count:
            raise typer.Exit(EXIT_SOME_FILES)
        return
    compile_first(run.weights)
    total = None
    if sys.stderr.isatty() and isinstance(source, Path):
        total = sum(1 for _ in Finder(source, run.suffixes).files())
    _run_all(run, tree, total, finder)
    done = f"{tree.done} of {tree.found} files into {target}"
    _report(run, tree, done, "existing file")


def code_shards(run: CodingRun, source: str, target: str | None) -> None:
    """Code the audio in tar shards; go on past bad files and list them at the end."""
    pairs = pair_shards(source, target)
    end_cleanly()
    if run.place.scheduler is not None:
        pairs = [(absolute(one), absolute(other)) for one, other in pairs]
    if run.dry_run:
        for one, other in pairs:
            say(f"{one} -> {other}")
        return
    compile_first(run.weights)
    folder = parent(pairs[0][1])
    shard_run = ShardRun(
        coder=run.coder(),
        target=folder,
        place=run.place,
        skip_existing=run.skip_existing,
        shards=pairs,
        suffixes=frozenset(run.suffixes),
    )
    _run_all(run, shard_run, len(pairs))
    shards = count(len(pairs) - shard_run.skipped, "shard")
    done = f"{shard_run.done} of {shard_run.found} files in {shards}"
    _report(run, shard_run, done, "existing shard")


def _run_all(run: CodingRun, files: Run, total: int | None, finder: Finder | None = None) -> None:
    """Do all files, with a bar; print the notes."""
    with progress(run.verb, "file") as show:
        files.run(lambda tried: show(tried, total))
    for text in [*(finder.notes if finder is not None else ()), *files.notes.lines()]:
        note(text)


def _report(run: CodingRun, files: Run, what: str, skipped: str) -> None:
    """Print what all files came to."""
    _report_failures(files.failures)
    left_out = f", {count(files.skipped, skipped)} skipped" if run.skip_existing else ""
    say(f"{run.verb}d {what}{left_out}{_totals(files)}")
    if files.failures.count:
        raise typer.Exit(EXIT_SOME_FILES)


def _report_failures(failures: Failures) -> None:
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
