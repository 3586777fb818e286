"""Write a coded file, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from codec.bitstream.group import group_crc
from codec.bitstream.header import Header, write_header, write_trailer
from codec.bitstream.layout import FrameLayout
from codec.config import FRAMES_PER_GROUP, MAX_FRAME_BYTES
from codec.errors import BitstreamError


def write_stream(header: Header, packets: Iterable[bytes]) -> bytes:
    """Return the whole file.

    Parameters
    ----------
    header : Header
    packets : bytes, num_packets(num_codec_samples(header)) of them
        CBR: of the sizes `cbr_packet_sizes`; VBR: of 1..255 bytes

    Raises
    ------
    BitstreamError   a header field is out of its range, or the packets do not agree with the header
    """
    writer = BitstreamWriter(header)
    pieces = [writer.header_bytes, *map(writer.packet, packets), writer.finish(header.num_samples)]
    return b"".join(pieces)


class BitstreamWriter:
    """Write a file piece by piece.

    The bytes are those of `header_bytes`, then what `packet` returns for each packet, then what
    `finish` returns.

    Parameters
    ----------
    header : Header   its number of samples is not needed yet (without an open end, write the right
                      header over the first one when it is known)

    Raises
    ------
    BitstreamError   a header field is out of its range
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.header_bytes = write_header(header)
        self._layout = FrameLayout.of(header, open_end=True)
        self._count = 0
        self._group = bytearray()

    def packet(self, packet: bytes) -> bytes:
        """Return the next bytes of the file: a packet, and the CRC of its group if it ends one.

        Raises
        ------
        BitstreamError   the packet has a wrong size
        """
        size = len(packet)
        if self.header.vbr:
            if not 1 <= size <= MAX_FRAME_BYTES:
                raise BitstreamError(
                    f"packet {self._count} has {size} bytes, outside 1..{MAX_FRAME_BYTES}"
                )
            packet = bytes([size]) + packet
        elif size != (wanted := self._layout.packet_bytes(self._count)):
            raise BitstreamError(f"packet {self._count} has {size} bytes, must have {wanted}")
        self._group += packet
        self._count += 1
        return packet + (self._close_group() if self._count % FRAMES_PER_GROUP == 0 else b"")

    def finish(self, num_samples: int) -> bytes:
        """Return the last bytes of the file, for a signal of so many samples.

        Raises
        ------
        BitstreamError   so many samples take another number of packets; nothing is changed
        """
        count = FrameLayout.of(replace(self.header, num_samples=num_samples)).num_packets
        if count != self._count:
            raise BitstreamError(
                f"{num_samples} samples take {count} packets, {self._count} were given"
            )
        trailer = write_trailer(num_samples) if self.header.open_end else b""
        return (self._close_group() if self._group else b"") + trailer

    def _close_group(self) -> bytes:
        crc = group_crc((self._count - 1) // FRAMES_PER_GROUP, self._group)
        self._group.clear()
        return crc
