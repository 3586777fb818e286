"""Find the files of a kind below a directory, here or behind a URL, in the order of their names.

The names of one directory (and of those above it) are in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from codec.io.storage import Entry, Location, join, list_directory

_MOST_NOTES = 1000


class Found(NamedTuple):
    """A file below a directory: its name, relative and with forward slashes, and its size.

    `twin` is another file beside it that differs in its suffix only, if one came before.
    """

    name: str
    size: int
    twin: str


class Finder:
    """Find the files below a directory that have one of these suffixes, in order of their names.

    Hidden files are left out. Of others that are, `notes` tells when all were found.

    Parameters
    ----------
    root : directory, or URL of one
    suffixes : in small letters, with the dot
    """

    def __init__(self, root: Location, suffixes: Collection[str]) -> None:
        self.root = root
        self._suffixes = suffixes
        self._others: Counter[str] = Counter()
        self._odd: list[str] = []

    @property
    def notes(self) -> list[str]:
        """Return which files were left out: no regular file, another suffix."""
        if not self._others:
            return self._odd
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self._others.items()))
        return [*self._odd, f"{self.root}: left out, by their names: {kinds}"]

    def files(self, folder: str = "") -> Iterator[Found]:
        """Yield the files at or below a folder, which is relative to the root."""
        stems: dict[str, str] = {}
        for entry in list_directory(self.root, folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.kind == "directory":
                yield from self.files(name)
            elif self._is_wanted(entry, name):
                twin = stems.setdefault(Path(entry.name).stem, entry.name)
                yield Found(name, entry.size, "" if twin == entry.name else twin)

    def _is_wanted(self, entry: Entry, name: str) -> bool:
        suffix = Path(entry.name).suffix.lower()
        if entry.kind == "link":
            return False
        if suffix not in self._suffixes:
            self._others[suffix or "no suffix"] += 1
        elif entry.kind == "file":
            return True
        elif len(self._odd) < _MOST_NOTES:
            self._odd.append(f"{join(self.root, name)}: left out, no regular file")
        return False
