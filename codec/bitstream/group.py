"""One group: packets of a second, closed by a checksum.

| | size | field |
|---|---|---|
| CBR packet i | floor(rate (i + 1) / 400) - floor(rate i / 400) | range-coded packet |
| VBR packet | 1 | length of the packet in bytes, 1–255 |
| | length | range-coded packet |
| end of the group | 2 | CRC-16 of all its bytes, VBR length bytes included |

The start value of the CRC is 0xFFFF xor the low 16 bits of the group's index, so that groups
cannot change places unnoticed.
"""

from __future__ import annotations

from binascii import crc_hqx

from codec.bitstream.header import CRC, CRC_START
from codec.bitstream.layout import FrameLayout
from codec.config import CRC_BYTES, FRAMES_PER_GROUP


def group_crc(index: int, group: bytes | bytearray) -> bytes:
    """Return the two bytes that close a group."""
    return CRC.pack(crc_hqx(group, CRC_START ^ (index & 0xFFFF)))


class Group:
    """Take a group apart as its bytes come in: the one place that knows how packets lie in it.

    Parameters
    ----------
    layout : FrameLayout   of the file; may be replaced when its end becomes known
    index : int            of the group
    start : int            where it begins in the bytes that `advance` is given

    Attributes
    ----------
    first : int              number of its first packet
    packets : list of bytes  found so far
    end : int                where the bytes end that were read
    closed : bool            its end was reached, CRC included
    fault : str              what is wrong with it, empty if nothing is
    """

    def __init__(self, layout: FrameLayout, index: int, start: int = 0) -> None:
        self.layout = layout
        self.index = index
        self.first = index * FRAMES_PER_GROUP
        self.start = self.end = start
        self.packets: list[bytes] = []
        self.closed = False
        self.fault = ""

    @property
    def sound(self) -> bool:
        """Tell whether its checksum vouches for it."""
        return self.closed and not self.fault

    def advance(self, data: bytes | bytearray) -> bool:
        """Read the next packet, or the CRC behind the last one.

        Parameters
        ----------
        data : bytes   as before, with more at the end

        Returns
        -------
        bool   False: it is not all there, or nothing is left to read
        """
        if self.closed or self.fault:
            return False
        if len(self.packets) >= self.layout.group_packets(self.index):
            return self._read_crc(data)
        start, size = self.end, 0
        if self.layout.vbr:
            if start >= len(data):
                return False
            size = data[start]
            start += 1
            if size == 0:
                self.fault = "a packet of no bytes"
                return True
        else:
            size = self.layout.packet_bytes(self.first + len(self.packets))
        if start + size > len(data):
            return False
        self.packets.append(bytes(data[start : start + size]))
        self.end = start + size
        return True

    def _read_crc(self, data: bytes | bytearray) -> bool:
        crc = data[self.end : self.end + CRC_BYTES]
        if len(crc) < CRC_BYTES:
            return False
        if crc != group_crc(self.index, data[self.start : self.end]):
            self.fault = f"wrong checksum of group {self.index}"
        self.end += CRC_BYTES
        self.closed = True
        return True

    def read(self, data: bytes | bytearray) -> Group:
        """Read as much of the group as there is; return itself."""
        while self.advance(data):
            pass
        return self
