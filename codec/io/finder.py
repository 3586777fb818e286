"""Find the files of a kind below a directory, here or behind a URL, in the order of their names.

The names of one directory (and of those above it) are in memory at a time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from codec.errors import AudioError
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

    Links to directories are followed, each directory once. Hidden files are left out. Of others
    that are, `notes` tells when all were found.

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
        """Return which files and directories were left out, and why."""
        if not self._others:
            return self._odd
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self._others.items()))
        return [*self._odd, f"{self.root}: left out, by their names: {kinds}"]

    def files(self) -> Iterator[Found]:
        """Yield the files.

        Raises
        ------
        AudioError   the directory itself cannot be read
        """
        yield from self._files("", list_directory(self.root), set(), False)

    def _files(
        self, folder: str, entries: list[Entry], linked: set[str], through_link: bool
    ) -> Iterator[Found]:
        """Yield the files at or below a directory; `linked` are those that links have led to."""
        stems: dict[str, str] = {}
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.kind in ("directory", "link"):
                link = through_link or entry.kind == "link"
                if link and not self._is_new(name, linked):
                    where = join(self.root, name)
                    self._leave_out(
                        f"{where}: left out, a link to a directory that is read already"
                    )
                    continue
                try:
                    below = list_directory(self.root, name)
                except AudioError as error:
                    self._leave_out(f"left out: {error}")
                    continue
                yield from self._files(name, below, linked, link)
            elif self._is_wanted(entry, name):
                twin = stems.setdefault(Path(entry.name).stem, entry.name)
                yield Found(name, entry.size, "" if twin == entry.name else twin)

    def _is_new(self, name: str, linked: set[str]) -> bool:
        """Tell whether the directory behind a link is met nowhere else, and remember it."""
        root, real = (os.path.realpath(path) for path in (str(self.root), join(self.root, name)))
        inside = Path(real).relative_to(root).parts if Path(real).is_relative_to(root) else (".",)
        if not any(part.startswith(".") for part in inside) or real in linked:
            return False
        linked.add(real)
        return True

    def _is_wanted(self, entry: Entry, name: str) -> bool:
        suffix = Path(entry.name).suffix.lower()
        if suffix not in self._suffixes:
            self._others[suffix or "no suffix"] += 1
        elif entry.kind == "file":
            return True
        else:
            self._leave_out(f"{join(self.root, name)}: left out, no regular file")
        return False

    def _leave_out(self, note: str) -> None:
        if len(self._odd) < _MOST_NOTES:
            self._odd.append(note)
