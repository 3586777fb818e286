"""Code a whole directory, or what else names many files: what goes where, what became of it.

Names are read as they are needed and results are summed up as they come, so that a million files
take no more memory than a thousand. Nothing is printed here.
"""

from __future__ import annotations

import contextlib
import csv
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from codec.io.finder import Finder
from codec.io.storage import Location, fetched, file_system, is_url, join, naming
from codec.pieces import Outcome
from codec.places import Place, Setup, Work
from codec.runner import run
from codec.transcode import Coder, attempt, is_done, with_suffix

FAILURES_NAME = "failures.csv"
_MOST_KEPT = 1000  # failures and different notes that are kept in memory

# Seconds of audio in a byte of a file, until some of its kind have been seen.
_SECONDS_PER_BYTE = {".wav": 1 / 32000, ".flac": 1 / 18000, ".bin": 1 / 1700}
_OTHERS_SECONDS_PER_BYTE = 1 / 8000


class Pair(NamedTuple):
    """What is to be coded, where to, and how many bytes it has."""

    source: Location
    target: Location
    size: int


@dataclass(frozen=True)
class PairWork:
    """The work of a `Coder` on a `Pair`; a `runner.Setup`."""

    coder: Coder

    def __call__(self) -> Work:
        """Load the codec."""
        work = self.coder()

        def code_pair(pair: Pair, stop: threading.Event | None) -> Outcome:
            return attempt(work, pair.source, pair.target, stop)

        return code_pair


class Durations:
    """Guess from the size of a file how long it is, and learn from those that were coded."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int]] = {}

    def guess(self, source: Location, size: int) -> float:
        """Return about how many seconds a file has."""
        suffix = Path(str(source)).suffix.lower()
        seconds, num_bytes = self._known.get(suffix, (0.0, 0))
        if seconds:
            return size * seconds / num_bytes
        return size * _SECONDS_PER_BYTE.get(suffix, _OTHERS_SECONDS_PER_BYTE)

    def learn(self, source: Location, size: int, seconds: float) -> None:
        """Take in how long a file was."""
        suffix = Path(str(source)).suffix.lower()
        known = self._known.get(suffix, (0.0, 0))
        self._known[suffix] = known[0] + seconds, known[1] + size


_COLUMNS = ["file", "reason"]
_FIRST_LINE = ",".join(_COLUMNS).encode()


class Failures:
    """What went wrong with which file: in ``failures.csv`` at once, the first thousand here too.

    Parameters
    ----------
    folder : directory, or URL of one, that gets the file if anything fails; None: none
    """

    def __init__(self, folder: Location | None) -> None:
        self.kept: list[tuple[str, str]] = []
        self.count = 0
        self.problem = ""  # with the file itself
        self._folder = folder
        self._file: IO[str] | None = None

    def add(self, source: Location, reason: str) -> None:
        """Note that a source failed."""
        self.count += 1
        if len(self.kept) < _MOST_KEPT:
            self.kept.append((str(source), reason))
        if self._folder is None:
            return
        with self._catching():
            if self._file is None:
                self._file = self._open()
                csv.writer(self._file).writerow(_COLUMNS)
            csv.writer(self._file).writerow((source, reason))
            self._file.flush()

    def former(self) -> Iterator[tuple[str, str]]:
        """Yield what the file of an earlier run has: sources and reasons."""
        if self._folder is None or not is_done(place := join(self._folder, FAILURES_NAME)):
            return
        with (
            fetched(place) as path,
            path.open(encoding="utf-8", errors="replace", newline="") as file,
            contextlib.suppress(csv.Error),  # what is no table names no file
        ):
            rows = (row for row in csv.reader(file) if len(row) == len(_COLUMNS))
            if next(rows, None) == _COLUMNS:
                yield from ((source, reason) for source, reason in rows)

    def clear(self) -> None:
        """Remove the file of an earlier run, or keep off one that is of something else."""
        with self._catching():
            if self._folder is None:
                return
            place = join(self._folder, FAILURES_NAME)
            there = is_done(place)
            if there:
                with fetched(place) as copy:
                    foreign = not copy.read_bytes().startswith(_FIRST_LINE)
                if foreign:
                    self._folder = None
                    raise ValueError("one is there that is of something else")
            if isinstance(place, Path):
                place.unlink(missing_ok=True)
            elif there:
                fs, path = file_system(str(place))
                fs.rm_file(path)

    def close(self) -> None:
        """Close the file, and put it into a folder that is a URL."""
        if self._file is None:
            return
        with self._catching(), self._file:
            if isinstance(self._folder, str):
                url = f"{self._folder.rstrip('/')}/{FAILURES_NAME}"
                fs, path = file_system(url)
                with naming(url, "written"):
                    fs.put_file(self._file.name, path)

    def _open(self) -> IO[str]:
        if is_url(self._folder):
            return tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".csv")
        assert isinstance(self._folder, Path)
        self._folder.mkdir(parents=True, exist_ok=True)
        return open(
            self._folder / FAILURES_NAME, "w", encoding="utf-8", errors="backslashreplace",
            newline="",
        )  # fmt: skip

    @contextlib.contextmanager
    def _catching(self) -> Iterator[None]:
        """Keep what is wrong with the file: it must not end the run."""
        try:
            yield
        except (OSError, ValueError) as error:
            self.problem = f"{FAILURES_NAME}: cannot be written ({error})"


class Notes:
    """The notes of many files: alike ones once, with their number."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, int]] = {}
        self._more = 0

    def add(self, source: Location, text: str) -> None:
        """Take in a note on a file."""
        first, count = self._found.get(text, (str(source), 0))
        if count or len(self._found) < _MOST_KEPT:
            self._found[text] = first, count + 1
        else:
            self._more += 1

    def lines(self) -> Iterator[str]:
        """Yield each note once."""
        for text, (first, count) in self._found.items():
            if count > 1:
                text = f"{text} ({count} files)"
            elif first not in text:
                text = f"{first}: {text}"
            yield text
        if self._more:
            yield f"{self._more} more notes of this kind"


@dataclass(kw_only=True)
class Run(ABC):
    """One run over many files; what they are, its kinds say: `TreeRun`, `shards.ShardRun`.

    Attributes
    ----------
    coder : Coder
    target : directory of the outputs, or URL of one
    place : Place         where the work is done
    skip_existing : bool  leave out what is done
    found, done, skipped : int   files: found, coded, left out because they exist
    seconds, num_bytes : of all that were coded
    failures : Failures
    notes : Notes
    """

    coder: Coder
    target: Location
    place: Place = Place()
    skip_existing: bool = False
    found: int = 0
    done: int = 0
    skipped: int = 0
    seconds: float = 0.0
    num_bytes: int = 0
    wall_s: float = 0.0
    notes: Notes = field(default_factory=Notes)

    def __post_init__(self) -> None:
        self.failures = Failures(self.target)
        self._durations = Durations()

    @abstractmethod
    def pairs(self) -> Iterator[Pair]:
        """Yield what is to be coded."""

    def setup(self) -> Setup:
        """Return what does a pair."""
        return PairWork(self.coder)

    def stays_lost(self, source: str) -> bool:
        """Tell whether what failed in an earlier run will not be tried in this one."""
        return False

    def run(self, show: Callable[[int], None] = lambda done: None) -> None:
        """Code all files; what is wrong with one does not stop the others.

        Parameters
        ----------
        show : called with the number of files that were tried, after each

        Raises
        ------
        WeightsError, ClusterError   they stop every file
        """
        kept = [row for row in self.failures.former() if self.stays_lost(row[0])]
        self.failures.clear()
        for source, reason in kept:
            self.failures.add(source, reason)
        started = time.monotonic()
        results = run(
            self.setup(), self.pairs(), self.place,
            lambda pair: self._durations.guess(pair.source, pair.size),
        )  # fmt: skip
        try:
            with contextlib.closing(results):
                for tried, came in enumerate(results, 1):
                    if came.result is None:
                        self.failures.add(came.item.source, f"{came.item.source}: {came.error}")
                    else:
                        self.take(came.item, came.result)
                    show(tried)
        finally:
            self.failures.close()
            self.wall_s = time.monotonic() - started

    def take(self, pair: Pair, outcome: Any) -> None:
        """Enter what came of a pair."""
        if outcome.error:
            self.failures.add(pair.source, outcome.error)
            return
        self.done += 1
        self.seconds += outcome.seconds
        self.num_bytes += outcome.num_bytes
        self._durations.learn(pair.source, pair.size, outcome.seconds)
        for text in outcome.notes:
            self.notes.add(pair.source, text)
        for text in outcome.problems:
            self.notes.add(pair.source, f"{pair.source}: {text}")


@dataclass(kw_only=True)
class TreeRun(Run):
    """One run over a directory; the tree is kept.

    Attributes
    ----------
    finder : Finder   of the sources
    suffix : str      of outputs
    ... and those of `Run`
    """

    finder: Finder
    suffix: str

    def pairs(self) -> Iterator[Pair]:
        """Yield what is to be coded; a second source of the same output is a failure."""
        for name, size, twin in self.finder.files():
            self.found += 1
            source = join(self.finder.root, name)
            target = with_suffix(join(self.target, name), self.suffix)
            if twin:
                text = f"{source}: {twin} has the same output name; rename one of them"
                self.failures.add(source, text)
            elif self.skip_existing and is_done(target):
                self.skipped += 1
            else:
                yield Pair(source, target, size)
