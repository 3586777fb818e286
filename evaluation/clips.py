"""Which clips an evaluation is over: all of a directory, or a fair sample of them.

Names are read from the directory as often as they are needed, and not held.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from codec.errors import AudioError
from codec.io.audio import AUDIO_SUFFIXES, read_audio
from codec.io.finder import Finder
from codec.io.storage import Location, Member, fetched, is_url, join, location
from codec.shards import find_shards, members


class Clip(NamedTuple):
    """Where a clip is, and how it is called in results."""

    path: Location
    name: str


class Clips(Protocol):
    """Clips in a fixed order; they can be gone through more than once."""

    def __iter__(self) -> Iterator[Clip]: ...

    def __len__(self) -> int: ...


class Sampled(ABC):
    """Clips that are found anew each time, or a sample of them.

    Parameters
    ----------
    sample : int or None   how many clips to draw, without replacement; None, or more than there
                           are: all
    seed : int             of the draw; the same clips are drawn whatever is done with them
    """

    def __init__(self, sample: int | None = None, seed: int = 0) -> None:
        self.sample = sample
        self.seed = seed

    @abstractmethod
    def find(self) -> Iterator[Clip]:
        """Yield all clips."""

    @cached_property
    def total(self) -> int:
        """How many clips there are."""
        return sum(1 for _ in self.find())

    def __len__(self) -> int:
        return self.total if self.sample is None else min(self.sample, self.total)

    def __iter__(self) -> Iterator[Clip]:
        if len(self) == self.total:
            yield from self.find()
            return
        generator = np.random.default_rng(self.seed)
        chosen = np.zeros(self.total, np.bool_)
        chosen[generator.choice(self.total, len(self), replace=False)] = True
        for clip, wanted in zip(self.find(), chosen, strict=False):
            if wanted:
                yield clip


class ClipsOfDirectory(Sampled):
    """The audio files below a directory, or a sample of them.

    Parameters
    ----------
    root : directory, or URL of one
    sample, seed : as `Sampled` has them
    """

    def __init__(
        self, root: str | os.PathLike[str], sample: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(sample, seed)
        self.root = location(root)
        self.notes: list[str] = []  # on what was left out, when all were found

    def find(self) -> Iterator[Clip]:
        """Yield all clips, in order of their names."""
        finder = Finder(self.root, AUDIO_SUFFIXES)
        for found in finder.files():
            yield Clip(join(self.root, found.name), found.name)
        self.notes = finder.notes


class ClipsOfShards(Sampled):
    """The audio files in tar shards, or a sample of them.

    Parameters
    ----------
    pattern : name of a shard, or of several: "corpus-{000..099}.tar"
    sample, seed : as `Sampled` has them

    Raises
    ------
    CodecError   a shard is missing
    """

    def __init__(self, pattern: str, sample: int | None = None, seed: int = 0) -> None:
        super().__init__(sample, seed)
        self._shards = find_shards(pattern)

    def find(self) -> Iterator[Clip]:
        """Yield all clips, as they lie in the shards."""
        folders = [str(shard)[: str(shard).rfind("/") + 1] for shard in self._shards]
        start = os.path.commonprefix(folders).rfind("/") + 1  # what differs is in the name
        for shard in self._shards:
            name = str(shard)[start:]
            for member in members(shard, AUDIO_SUFFIXES):
                yield Clip(member, f"{name}/{member.name}")


class ClipsOfFiles:
    """Clips that are named one by one.

    Parameters
    ----------
    files : paths
    root : directory that their names are relative to; None: what they share
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self._files = files
        self._root = root

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Clip]:
        paths = [Path(file) for file in self._files]
        absolute = [path.absolute() for path in paths]
        if self._root is not None:
            base = Path(self._root).absolute()
        else:
            base = Path(os.path.commonpath([path.parent for path in absolute]))
        for path, full in zip(paths, absolute, strict=True):
            yield Clip(path, Path(os.path.relpath(full, base)).as_posix())


def fingerprint(clips: Clips) -> str:
    """Return a checksum of the names of all clips, in hex."""
    sum_ = 0
    for clip in clips:
        sum_ = zlib.crc32(clip.name.encode("utf-8", "surrogateescape") + b"\n", sum_)
    return f"{sum_:08x}"


def choose_clips(clips: Clips, count: int) -> list[Clip]:
    """Return `count` clips to listen to, evenly spaced over all, that hold some sound.

    A file that cannot be read or is silent gives its place to the next one.
    """
    total = len(clips) if count else 0
    count = min(count, total)
    starts = [index * total // count for index in range(count)]
    chosen: dict[int, Clip] = {}
    tried: set[int] = set()
    for turn in range(
        2 if count else 0
    ):  # what is missing after the last clip is looked for from the first on
        for index, clip in enumerate(clips):
            if len(chosen) == count:
                break
            wanted = turn == 1 or sum(start <= index for start in starts) > len(chosen)
            if wanted and index not in tried:
                tried.add(index)
                if _has_sound(clip.path):
                    chosen[index] = clip
    return [chosen[index] for index in sorted(chosen)]


def _has_sound(place: Location) -> bool:
    try:
        with fetched(place) as path:
            return bool(read_audio(path)[0].any())
    except AudioError:
        return False


def wav_names(names: Sequence[str]) -> list[str]:
    """Replace suffixes by .wav; files that differ in nothing else keep theirs before it."""
    plain = [Path(name).with_suffix(".wav").as_posix() for name in names]
    uses = Counter([*plain, *(f"{name}.wav" for name in names)])
    return [
        wav if uses[wav] == 1 else f"{name}.wav" for name, wav in zip(names, plain, strict=True)
    ]


def byte_size(place: Location) -> int | None:
    """Return how many bytes a clip has; None where that is not known at once."""
    if isinstance(place, Member):
        return place.size
    try:
        return None if is_url(place) else os.stat(place).st_size
    except OSError:
        return None
