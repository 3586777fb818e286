"""What libsndfile does not see in a file: further links, sizes that are missing."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from codec.io.files import PathLike
from codec.io.wav import parse_wav

_MP3_HEADS = (b"ID3", b"TAG")
_OGG_HEADER_BYTES = 27
_OGG_FIRST, _OGG_LAST = 0x02, 0x04  # flags of a page: begins, ends a logical stream


class Part(NamedTuple):
    """A stretch of a file that libsndfile reads as a file of its own, with some bytes replaced."""

    path: PathLike
    start: int = 0
    stop: int | None = None  # None: to the end
    overlay: tuple[tuple[int, bytes], ...] = ()

    def open(self, stack: contextlib.ExitStack) -> Any:
        """Return what to give to libsndfile: the path if that will do, else a file to read."""
        if not (self.start or self.stop or self.overlay):
            return os.fsencode(self.path)
        size = os.path.getsize(self.path)
        stop = size if self.stop is None else self.stop
        return _Window(stack.enter_context(open(self.path, "rb")), self, stop - self.start)


class _Window(io.RawIOBase):
    """The bytes of a `Part`."""

    def __init__(self, file: BinaryIO, part: Part, size: int) -> None:
        self._file, self._part, self._size = file, part, size
        self._position = 0

    def readinto(self, buffer: Any) -> int:
        size = max(min(len(buffer), self._size - self._position), 0)
        self._file.seek(self._part.start + self._position)
        data = bytearray(self._file.read(size))
        for place, content in self._part.overlay:
            begin = place - self._position
            for i, byte in enumerate(content):
                if 0 <= begin + i < len(data):
                    data[begin + i] = byte
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position


def file_parts(path: PathLike) -> tuple[list[Part], list[str]]:
    """Return the parts of an audio file in order, and notes on what its header leaves open.

    A chained Ogg file has a part for each of its links; a WAV file whose recorder did not come to
    write the length gets it here. Anything else is one part, the whole file.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"OggS":
            return _ogg_parts(path, file)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            return _wav_parts(path, file)
    return [Part(path)], []


def _wav_parts(path: PathLike, file: BinaryIO) -> tuple[list[Part], list[str]]:
    def peek(size: int) -> bytes:
        file.seek(0)
        return file.read(size)

    header = parse_wav(peek)
    there = os.fstat(file.fileno()).st_size
    if header is None or header.size or there <= header.offset or _only_chunks(file, header.offset):
        return [Part(path)], []
    overlay = ((4, b"\xff" * 4), (header.offset - 4, b"\xff" * 4))  # as programs write into pipes
    return [Part(path, overlay=overlay)], ["the header announces no audio: read to the file's end"]


def _only_chunks(file: BinaryIO, position: int) -> bool:
    """Tell whether whole RIFF chunks, and nothing else, follow up to the end of the file."""
    size = os.fstat(file.fileno()).st_size
    while position < size:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or not head[:4].isascii() or not head[:4].decode().isprintable():
            return False
        length = int.from_bytes(head[4:], "little")
        position += 8 + length
        if position < size:
            position += length % 2
    return position == size


def _ogg_parts(path: PathLike, file: BinaryIO) -> tuple[list[Part], list[str]]:
    """Return a part for each link of an Ogg file: from the first page of a stream to the next."""
    size = os.fstat(file.fileno()).st_size
    starts, position = [], 0
    after_first = ended = False
    while position < size:
        file.seek(position)
        page = file.read(_OGG_HEADER_BYTES)
        if len(page) < _OGG_HEADER_BYTES or page[:4] != b"OggS":
            break
        lengths = file.read(page[26])
        first = bool(page[5] & _OGG_FIRST)
        if first and not after_first:  # several streams of one link begin one after the other
            starts.append(position)
        after_first, ended = first, bool(page[5] & _OGG_LAST)
        position += _OGG_HEADER_BYTES + len(lengths) + sum(lengths)
    notes = []
    if position > size or (position == size and not ended):
        notes.append("the file is cut off: what is there is used")
    if len(starts) <= 1 or position < size:  # libsndfile looks for pages behind what is broken
        return [Part(path)], notes
    notes.append(f"a chain of {len(starts)} recordings: read one after the other")
    stops = [*starts[1:], size]
    return [Part(path, a, b) for a, b in zip(starts, stops, strict=True)], notes


# --- MP3 ------------------------------------------------------------------------------------------


def is_mp3(path: PathLike) -> bool:
    """Tell whether libmpg123 may come to read a file."""
    with open(path, "rb") as file:
        head = file.read(4)
    return head.startswith(_MP3_HEADS) or is_mpeg_frame(head) or _suffix(path) == ".mp3"


def _suffix(path: PathLike) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


def is_mpeg_frame(head: bytes) -> bool:
    """Tell whether an MPEG audio frame of layer 1, 2 or 3 may begin with these 4 bytes."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    return version != 1 and layer != 0 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3


_mpg123_lock = threading.Lock()
_mpg123_users = 0
_mpg123_stderr = -1


@contextlib.contextmanager
def quiet_mpg123(wanted: bool = True) -> Iterator[None]:
    """Hold back what libmpg123 prints on the process's standard error output.

    It has no other way to say what it meets in a file, and names none. File descriptor 2 leads
    nowhere meanwhile, in all threads.
    """
    global _mpg123_users, _mpg123_stderr
    if not wanted:
        yield
        return
    with _mpg123_lock:
        if _mpg123_users == 0:
            with contextlib.suppress(OSError):  # closed: there is nothing to hold back
                _mpg123_stderr = os.dup(2)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
        _mpg123_users += 1
    try:
        yield
    finally:
        with _mpg123_lock:
            _mpg123_users -= 1
            if _mpg123_users == 0 and _mpg123_stderr >= 0:
                os.dup2(_mpg123_stderr, 2)
                os.close(_mpg123_stderr)
                _mpg123_stderr = -1
