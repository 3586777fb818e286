"""What libsndfile does not see in a file: further recordings, sizes that are missing, junk."""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from codec.io.containers import locate_audio
from codec.io.files import PathLike
from codec.io.mpeg import after_id3, is_mp3, is_named_mp3, mp3_files
from codec.io.sniff import LONG_HEAD_BYTES, is_known_audio, is_mpeg_audio

_OGG_HEADER_BYTES = 27
_OGG_FIRST, _OGG_LAST = 0x02, 0x04  # flags of a page: begins, ends a logical stream
_FLAC_HEAD = b"fLaC\0\0\0\x22"  # what is always the first block follows
_TAG_BYTES = 128  # of ID3v1, at the end of files


class Part(NamedTuple):
    """What libsndfile reads as a file of its own: ranges of a file, and bytes put between them."""

    path: PathLike
    pieces: tuple[bytes | range, ...] = ()  # none: the whole file

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        """Yield what to give to libsndfile: the path if that will do, else a file to read."""
        if not self.pieces:
            yield os.fsencode(self.path)
            return
        with open(self.path, "rb") as file:
            yield _Window(file, self.pieces)


class _Window(io.RawIOBase):
    """The bytes of a `Part`."""

    def __init__(self, file: BinaryIO, pieces: tuple[bytes | range, ...]) -> None:
        self._file, self._pieces = file, pieces
        self._ends = list(itertools.accumulate(map(len, pieces)))
        self._position = 0

    def readinto(self, buffer: Any) -> int:
        done = 0
        while done < len(buffer) and self._position < self._ends[-1]:
            number = bisect.bisect_right(self._ends, self._position)
            piece = self._pieces[number]
            place = self._position - (self._ends[number] - len(piece))
            size = min(len(piece) - place, len(buffer) - done)
            if isinstance(piece, bytes):
                data = piece[place : place + size]
            else:
                self._file.seek(piece.start + place)
                data = self._file.read(size)
            if not data:  # the file has become shorter
                break
            buffer[done : done + len(data)] = data
            done += len(data)
            self._position += len(data)
        return done

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position


def file_parts(path: PathLike) -> tuple[list[Part], list[str]]:
    """Return the parts of an audio file in order, and notes on what its header leaves open.

    A chain of recordings (Ogg, FLAC, MP3) has a part for each of them; a header whose sizes are
    missing or wrong, and which libsndfile would go by, is replaced. Anything else is one part, the
    whole file.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(LONG_HEAD_BYTES)
        if head[:4] == b"OggS":
            return _ogg_parts(path, size)
        file.seek(after_id3(head[:10]))
        if file.read(4) == b"fLaC":
            return _flac_parts(path, after_id3(head[:10]), size)
        if is_mp3(head, path) or (not is_known_audio(head) and is_mpeg_audio(head)):
            return _mp3_parts(path)
        found, notes = locate_audio(file, size)
        if found is None:
            return [Part(path)], notes
        header, samples = found
        return [Part(path, (header, samples))], notes


def _chain(
    path: PathLike, runs: Sequence[tuple[bytes | range, ...]]
) -> tuple[list[Part], list[str]]:
    notes = []
    if len(runs) > 1:
        notes.append(f"a chain of {len(runs)} recordings: read one after the other")
    return [Part(path, run) for run in runs], notes


@contextlib.contextmanager
def _mapped(path: PathLike) -> Iterator[mmap.mmap]:
    """Yield the bytes of a file that is not empty."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        yield data


def _ogg_parts(path: PathLike, size: int) -> tuple[list[Part], list[str]]:
    """Return a part for each link of an Ogg file: from the first page of a stream to the next."""
    starts, position, junk = [], 0, 0
    after_first = ended = False
    with _mapped(path) as data:
        while position < size:
            page = data[position : position + _OGG_HEADER_BYTES]
            if len(page) < _OGG_HEADER_BYTES or page[:4] != b"OggS":
                found = data.find(b"OggS", position + 1)
                if found < 0:
                    junk, position = junk + size - position, size
                    break
                junk, position = junk + found - position, found
                continue
            lengths = data[position + _OGG_HEADER_BYTES : position + _OGG_HEADER_BYTES + page[26]]
            first = bool(page[5] & _OGG_FIRST)
            if first and not after_first:  # several streams of one link begin one after the other
                starts.append(position)
            after_first, ended = first, bool(page[5] & _OGG_LAST)
            position += _OGG_HEADER_BYTES + len(lengths) + sum(lengths)
    notes = []
    if position > size or not (ended or junk):
        notes.append("the file is cut off: what is there is used")
    if junk:
        notes.append(f"{junk} bytes between its pages, or behind them, are not Ogg: left out")
    if len(starts) <= 1:
        return [Part(path)], notes
    parts, chain = _chain(
        path, [(range(a, b),) for a, b in zip(starts, [*starts[1:], size], strict=True)]
    )
    return parts, notes + chain


def _flac_parts(path: PathLike, start: int, size: int) -> tuple[list[Part], list[str]]:
    """Return a part for each FLAC file of those that were joined; without a tag at the end."""
    with _mapped(path) as data:
        starts = [start]
        while (found := data.find(_FLAC_HEAD, starts[-1] + 4)) >= 0:
            starts.append(found)
        if data[-_TAG_BYTES:][:3] == b"TAG":
            size -= _TAG_BYTES
        elif len(starts) == 1 and not start:
            return [Part(path)], []
    return _chain(path, [(range(a, b),) for a, b in zip(starts, [*starts[1:], size], strict=True)])


def _mp3_parts(path: PathLike) -> tuple[list[Part], list[str]]:
    """Return a part for each MP3 file of those that were joined, with its frames alone."""
    with _mapped(path) as data:
        found = mp3_files(data)
        if not is_named_mp3(path) and (found is None or 2 * found.junk > len(data)):
            raise ValueError("libmpg123 would take anything for MP3")
    if found is None:  # perhaps frames that do not tell their length
        return [Part(path)], []
    parts, notes = _chain(path, [file.pieces() for file in found.files])
    if found.junk:
        notes.append(f"{found.junk} bytes between its frames are not MP3: left out")
    elif len(parts) == 1 and len(parts[0].pieces) == 1:
        return [Part(path)], notes
    return parts, notes
