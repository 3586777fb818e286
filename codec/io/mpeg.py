"""Frames of MPEG audio (MP3, MP2): where they are, and what libmpg123 says of them."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from codec.io.files import PathLike

Bytes = bytes | mmap.mmap

SUFFIXES = (".mp3", ".mp2", ".mp1", ".mpga")
_HEADS = (b"ID3", b"TAG")
_OTHERS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"fLaC", b"OggS", b"FORM", b"caff", b".snd")
# kbit/s of MPEG frames by layer, for versions 1 and 2.
_RATES = {
    (3, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_IN_A_ROW = 3  # frames that are believed where none was expected
_TAG_BYTES = 128  # of ID3v1
_ENDLESS = 1 << 62
# Where the count of frames stands behind a header, by (version 1, mono).
_INFO_PLACES = {(True, False): 36, (True, True): 21, (False, False): 21, (False, True): 13}


@dataclass
class Mp3File:
    """One of the MP3 files that may have been joined."""

    ranges: list[range]  # places of its frames, without what is between them
    head: bytes  # of its first frame
    counted: bool  # it begins with a frame that says how many follow
    num_frames: int = 0
    varies: bool = False  # in bitrate

    def pieces(self) -> tuple[bytes | range, ...]:
        """Return what libmpg123 reads to the end: else it goes by the first frame's bitrate."""
        if self.counted or not self.varies:
            return tuple(self.ranges)
        return (_info_frame(self.head, self.num_frames), *self.ranges)


class Mp3Files(NamedTuple):
    """The MP3 files of which a file consists."""

    files: list[Mp3File]
    junk: int  # bytes that are neither frames nor tags


def is_mp3(head: bytes, path: PathLike) -> bool:
    """Tell whether libmpg123 may come to read a file that begins so."""
    if head.startswith(_HEADS) or is_frame(head):
        return True
    return is_named_mp3(path) and not head.startswith(_OTHERS)


def is_named_mp3(path: PathLike) -> bool:
    """Tell whether the name of a file says that it is MP3."""
    return os.path.splitext(os.fspath(path))[1].lower() in SUFFIXES


def after_id3(head: bytes) -> int:
    """Return the bytes of the ID3v2 tag that begins with these 10, 0 if none does."""
    if head[:3] != b"ID3" or len(head) < 10 or any(byte & 0x80 for byte in head[6:10]):
        return 0
    return 10 + sum(byte << 7 * (3 - place) for place, byte in enumerate(head[6:10]))


def is_frame(head: bytes) -> bool:
    """Tell whether a frame of layer 1, 2 or 3 may begin with these 4 bytes."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    return version != 1 and layer != 0 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3


def frame_length(head: bytes) -> int:
    """Return the bytes of the frame that begins here; 0: none does, or it does not tell."""
    if not is_frame(head):
        return 0
    version, layer, index = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4
    if not 1 <= index <= 14:
        return 0
    rate = _RATES[3 if version == 3 else 2, layer][index - 1]
    sample_rate = (44100, 48000, 32000)[head[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    if layer == 3:
        return (12 * rate * 1000 // sample_rate + padding) * 4
    return (72 if layer == 1 and version != 3 else 144) * rate * 1000 // sample_rate + padding


def frames_follow(data: Bytes, position: int = 0, count: int = _IN_A_ROW) -> bool:
    """Tell whether so many frames of one kind follow one another from here on."""
    first = data[position : position + 4]
    for _ in range(count):
        head = data[position : position + 4]
        length = frame_length(head)
        if not length or not _alike(first, head):
            return False
        position += length
    return True


def _alike(one: bytes, other: bytes) -> bool:
    """Tell whether two headers have the version, layer and sample rate in common."""
    return one[1] & 0xFE == other[1] & 0xFE and (one[2] ^ other[2]) & 0x0C == 0


def mp3_files(data: Bytes) -> Mp3Files | None:
    """Return where the frames of a file are.

    None if there are none, or none that tell their length.
    """
    files: list[Mp3File] = []
    junk = position = 0
    left = _ENDLESS  # frames of the present file
    last = b""
    size = len(data)
    while position < size:
        head = data[position : position + 10]
        length = frame_length(head)
        if length and last and not _alike(last, head):
            length = length if frames_follow(data, position) else 0
        elif length and not last:
            length = length if frames_follow(data, position, 2) else 0
        if length:
            end = min(position + length, size)
            announced = _announced_frames(data, position, head)
            left = left - 1 if announced is None else announced
            if not files or announced is not None or left < 0 or not _alike(last, head):
                files.append(Mp3File([range(position, end)], head, announced is not None))
                left = _ENDLESS if announced is None else announced
            elif files[-1].ranges[-1].stop == position:
                files[-1].ranges[-1] = range(files[-1].ranges[-1].start, end)
            else:
                files[-1].ranges.append(range(position, end))
            files[-1].num_frames += 1
            files[-1].varies |= (head[2] ^ files[-1].head[2]) & 0xF0 != 0
            last, position = head, end
            continue
        end = _after_tag(data, position, head) or _next_frame(data, position + 1)
        if not _after_tag(data, position, head):
            junk += end - position
        position = end
    return Mp3Files(files, junk) if files else None


def _after_tag(data: Bytes, position: int, head: bytes) -> int:
    """Return where what follows a tag begins, 0 if there is no tag here."""
    size = after_id3(head)
    if head[:3] == b"TAG":
        size = _TAG_BYTES
    elif head[:8] == b"APETAGEX":
        size = 32 + int.from_bytes(data[position + 12 : position + 16], "little")
    return min(position + size, len(data)) if size else 0


def _next_frame(data: Bytes, position: int) -> int:
    """Return where frames go on, or the end."""
    while (position := data.find(b"\xff", position)) >= 0:
        if is_frame(data[position : position + 4]) and frames_follow(data, position):
            return position
        position += 1
    return len(data)


def _info_frame(head: bytes, num_frames: int) -> bytes:
    """Return a frame of layer 3 that says how many follow, of 64 kbit/s or so."""
    header = bytes([0xFF, head[1] | 1, head[2] & 0x0C | 0x80, head[3]])  # no checksum, no padding
    frame = bytearray(frame_length(header))
    place = _INFO_PLACES[head[1] >> 3 & 3 == 3, head[3] >> 6 == 3]
    frame[:4] = header
    frame[place : place + 12] = b"Xing\0\0\0\1" + num_frames.to_bytes(4, "big")
    return bytes(frame)


def _announced_frames(data: Bytes, position: int, head: bytes) -> int | None:
    """Return how many frames follow, if this is the frame in front of a file that says it."""
    place = position + _INFO_PLACES[head[1] >> 3 & 3 == 3, head[3] >> 6 == 3]
    if data[place : place + 4] in (b"Xing", b"Info"):
        has_count = data[place + 7 : place + 8] >= b"\1" and data[place + 7] & 1
        return int.from_bytes(data[place + 8 : place + 12]) if has_count else _ENDLESS
    if data[position + 36 : position + 40] == b"VBRI":
        return int.from_bytes(data[position + 50 : position + 54])
    return None


# --- libmpg123 ------------------------------------------------------------------------------------

_lock = threading.Lock()
_users = 0
_stderr = -1


@contextlib.contextmanager
def quiet_mpg123(wanted: bool = True) -> Iterator[None]:
    """Hold back what libmpg123 prints on the process's standard error output.

    It has no other way to say what it meets in a file, and names none. File descriptor 2 leads
    nowhere meanwhile, in all threads.
    """
    global _users, _stderr
    if not wanted:
        yield
        return
    with _lock:
        if _users == 0:
            with contextlib.suppress(OSError):  # closed: there is nothing to hold back
                _stderr = os.dup(2)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _stderr >= 0:
                os.dup2(_stderr, 2)
                os.close(_stderr)
                _stderr = -1
