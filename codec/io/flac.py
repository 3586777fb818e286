"""Find the frames behind damage in a FLAC file, which libsndfile does not read beyond."""

from __future__ import annotations

import mmap
from functools import lru_cache
from typing import NamedTuple

from codec.io.files import PathLike

_STREAM_INFO_BYTES = 34
_HEAD_BYTES = 4 + 4 + _STREAM_INFO_BYTES  # marker, head of the block, the block
_LONGEST_HEADER = 16  # of a frame


class Resumption(NamedTuple):
    """Where a FLAC file goes on."""

    head: bytes  # in front of the frames: a file of unknown length
    place: int  # of the first of them, in the file
    sample: int  # of all channels together, that it begins with


def resume_flac(path: PathLike, where: range, place: int, sample: int) -> Resumption | None:
    """Return where the next frame begins that has a certain sample, or later ones.

    Parameters
    ----------
    path, where : the file, and the range of it that is one FLAC file
    place : int   in the file, behind which to look
    sample : int  that is wanted
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        head = bytearray(data[where.start : where.start + _HEAD_BYTES])
        if len(head) < _HEAD_BYTES or head[4] & 0x7F:
            return None
        head[4] |= 0x80  # the last block of metadata
        head[21] &= 0xF0  # neither the number of samples nor their checksum is known
        head[22:] = bytes(_HEAD_BYTES - 22)
        fixed = head[8:10] == head[10:12]
        block_size = int.from_bytes(head[10:12], "big") if fixed else 1
        shape = (head[20] >> 1 & 7) + 1
        position = max(place + 1, where.start + _HEAD_BYTES)
        while 0 <= (position := data.find(b"\xff", position, where.stop)):
            header = data[position : min(position + _LONGEST_HEADER, where.stop)]
            number = _frame_number(header, shape)
            if number is not None and (first := number * block_size) >= sample:
                return Resumption(bytes(head), position, first)
            position += 1
    return None


def _frame_number(header: bytes, channels: int) -> int | None:
    """Return the number in the header of a frame (of the frame, or of its first sample)."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    size_code, rate_code, layout = header[2] >> 4, header[2] & 15, header[3] >> 4
    if size_code == 0 or rate_code == 15 or (layout + 1 if layout < 8 else 2) != channels:
        return None
    # As UTF-8, of up to 7 bytes.
    count = 8 - (header[4] ^ 0xFF).bit_length()
    if count in (1, 8):
        return None
    number = header[4] & (0x7F >> count)
    end = 5 + max(count - 1, 0)
    for byte in header[5:end]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    end += {6: 1, 7: 2}.get(size_code, 0) + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if len(header) <= end or _crc8(header[:end]) != header[end]:
        return None
    return number


@lru_cache(maxsize=1)
def _crc8_table() -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value << 1 ^ (0x107 if value & 0x80 else 0)
        table.append(value)
    return bytes(table)


def _crc8(data: bytes) -> int:
    table, crc = _crc8_table(), 0
    for byte in data:
        crc = table[crc ^ byte]
    return crc
