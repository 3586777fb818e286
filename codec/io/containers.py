"""Where containers have their samples, and how many they announce: WAV, W64, AIFF, CAF, AU, SPHERE.

A recorder that dies, or writes into a pipe, leaves sizes of zero, of -1, or modulo 4 GB. libsndfile
gets over some of them; where it does not, it is given a header that is right.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import partial
from typing import BinaryIO, NamedTuple

from codec.io.wav import parse_wav

_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_4_GB = 1 << 32
_OPEN_AIFF = 0x7F000000  # what programs write that do not know: about 2 GB, or more
_NOTHING = "the header announces no audio: read to the file's end"


class Audio(NamedTuple):
    """Where the samples of a file begin, and how many bytes of them its header announces."""

    offset: int
    size: int | None  # None: it leaves that open
    repair: Callable[[int], bytes] | None = None  # makes a header that announces so many bytes
    needed: bool = False  # libsndfile does not read the file with its own header
    trusted: bool = True  # it does, whatever the size in there
    chunk: tuple[int, str] = (0, "")  # the head of a chunk in bytes, and the order of these


def locate_audio(file: BinaryIO, file_size: int) -> tuple[tuple[bytes, range] | None, list[str]]:
    """Look whether libsndfile needs another header, and what to say of the file's own.

    Parameters
    ----------
    file : binary file   an audio file
    file_size : int      its bytes

    Returns
    -------
    (bytes, range) or None   a header, and where the samples are that it belongs to; None: the file
                             is read as it is
    notes : list of str
    """

    def read(position: int, size: int) -> bytes:
        file.seek(position)
        return file.read(size)

    for find in (_wav, _w64, _aiff, _caf, _au, _sphere):
        audio = find(read)
        if audio is not None:
            break
    else:
        return None, []
    there = file_size - audio.offset
    size, notes = audio.size, []
    replace = audio.needed
    if size is None:
        size = there
        replace = replace or not audio.trusted or there >= _4_GB // 2
    elif size == 0 and there > 0 and not _only_chunks(read, audio.chunk, audio.offset, file_size):
        size, notes = there, [_NOTHING]
        replace = True
    elif find is _wav and there - size >= _4_GB:
        size += (there - size) // _4_GB * _4_GB
        notes = ["the size in the header went round at 4 GB: all of the audio is read"]
        replace = True
    elif size > there + 1:  # one: a pad byte left out
        notes = [
            f"the file is cut off: {max(there, 0)} of {size} bytes of audio are there and are used"
        ]
        size = there
        replace = replace or not audio.trusted
    elif audio.chunk[0] and not _only_chunks(
        read, audio.chunk, end := audio.offset + size + size % 2, file_size
    ):
        notes = [f"{file_size - end} bytes behind the announced audio are left out"]
    if not replace or audio.repair is None or there < 0:
        return None, notes
    return (audio.repair(size), range(audio.offset, audio.offset + min(size, there))), notes


Read = Callable[[int, int], bytes]


def _only_chunks(read: Read, kind: tuple[int, str], position: int, file_size: int) -> bool:
    """Tell whether whole chunks, and nothing else, follow up to the end of the file."""
    length, order = kind
    while length and position < file_size:
        head = read(position, length)
        if len(head) < length or not head[:4].isascii() or not head[:4].decode().isprintable():
            return False
        size = int.from_bytes(head[4:], "big" if order == "big" else "little")
        position += length + size
        if position < file_size and length == 8:
            position += size % 2
    return position in (file_size, file_size + 1)


def _wav(read: Read) -> Audio | None:
    header = parse_wav(read)
    if header is None:
        return None
    order = "big" if header.form == b"RIFX" else "little"
    needed = not header.usual
    return Audio(header.offset, header.size, header.with_size, needed, chunk=(8, order))


def _w64(read: Read) -> Audio | None:
    """Sony Wave64: chunks have names of 16 bytes, and sizes of 64 bits with their head of 24."""
    if read(0, 16) != _W64:
        return None
    position = 40
    while len(head := read(position, 24)) == 24:
        size = int.from_bytes(head[16:], "little")
        if head[:4] == b"data":
            # libsndfile goes by the end of the file where the size is zero or too large.
            # ffmpeg writes 2^63 - 1 into a pipe.
            return Audio(position + 24, max(size - 24, 0) if size < 1 << 62 else None)
        if size < 24:
            break
        position += size + -size % 8
    return None


def _aiff(read: Read) -> Audio | None:
    """AIFF and AIFF-C: samples lie in the chunk SSND, behind two numbers of 32 bits."""
    if read(0, 4) != b"FORM" or read(8, 4) not in (b"AIFF", b"AIFC"):
        return None
    position, common, num_frames = 12, 0, -1
    while len(head := read(position, 8)) == 8:
        size = int.from_bytes(head[4:], "big")
        if head[:4] == b"COMM":
            common, num_frames = position + 8, int.from_bytes(read(position + 10, 4), "big")
        if head[:4] == b"SSND":
            offset = position + 16 + int.from_bytes(read(position + 8, 4), "big")
            if offset > position + 16 + (1 << 16):
                return None
            start, place = read(0, offset), position + 4
            announced = size - (offset - position - 8)
            unknown = size >= _OPEN_AIFF
            nothing = announced <= 0 and not num_frames
            if not common:
                return Audio(offset, None if unknown else max(announced, 0))
            repair = partial(_aiff_header, start, common, place)
            size_there = None if unknown else 0 if nothing else max(announced, 0) or None
            return Audio(offset, size_there, repair, chunk=(8, "big"))
        position += 8 + size + size % 2
    return None


def _aiff_header(start: bytes, common: int, place: int, num_bytes: int) -> bytes:
    """Return the bytes before the samples with sizes put in: at `place`, and in COMM."""
    frame = int.from_bytes(start[common : common + 2], "big")
    frame *= (int.from_bytes(start[common + 6 : common + 8], "big") + 7) // 8
    fixed = bytearray(start)
    fixed[place : place + 4] = (num_bytes + len(start) - place - 4).to_bytes(4, "big")
    fixed[common + 2 : common + 6] = (num_bytes // max(frame, 1)).to_bytes(4, "big")
    return bytes(fixed)


def _caf(read: Read) -> Audio | None:
    """Apple's Core Audio Format: a size of -1 is allowed, for the last chunk."""
    if read(0, 4) != b"caff":
        return None
    position = 8
    while len(head := read(position, 12)) == 12:
        size = int.from_bytes(head[4:], "big", signed=True)
        if head[:4] == b"data":
            start = read(0, position + 16) if position < 1 << 20 else b""
            announced = size - 4 if size >= 4 else None if size < 0 else 0
            repair = partial(_caf_header, start)
            return Audio(position + 16, announced, repair, trusted=False, chunk=(12, "big"))
        if size < 0:
            break
        position += 12 + size
    return None


def _caf_header(start: bytes, num_bytes: int) -> bytes:
    return start[:-12] + struct.pack(">q", num_bytes + 4) + start[-4:]


def _au(read: Read) -> Audio | None:
    """Sun and NeXT: .snd, big-endian, or dns., little-endian."""
    head = read(0, 12)
    if len(head) < 12 or head[:4] not in (b".snd", b"dns."):
        return None
    order = ">" if head[:4] == b".snd" else "<"
    offset, size = struct.unpack(order + "II", head[4:])
    if not 24 <= offset < 1 << 16:
        return None
    start = read(0, offset)
    known = size if size < 0x7F000000 else None

    def repair(num_bytes: int) -> bytes:
        announced = num_bytes if num_bytes < _4_GB else _4_GB - 1
        return start[:8] + struct.pack(order + "I", announced) + start[12:]

    return Audio(offset, known, repair)


def _sphere(read: Read) -> Audio | None:
    """NIST SPHERE: a header of text, of 1024 bytes or as many as it says."""
    head = read(0, 4096)
    found = re.match(rb"NIST_1A\n *(\d{1,6})\n", head)
    if found is None:
        return None
    counts = []
    for name in (b"sample_count", b"sample_n_bytes", b"channel_count"):
        value = re.search(rb"\n%s -i (\d{1,12})\n" % name, head)
        counts.append(int(value[1]) if value else 0)
    num_samples, num_bytes, channels = counts
    size = num_samples * num_bytes * max(channels, 1)
    return Audio(int(found[1]), size or None)
