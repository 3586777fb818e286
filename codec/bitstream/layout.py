"""Which packets a file has: how many, of which sizes, in which groups, which of them intra.

A signal of T samples at 16 kHz takes ceil(T / 160) + 1 MDCT blocks (they overlap: the first one
begins 160 samples before the signal), two of them to a frame of 20 ms, each frame coded as one
packet. 50 packets make a group (1 s); the last group holds what is left.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from codec.bitstream.header import Header
from codec.config import (
    BLOCKS_PER_FRAME,
    CRC_BYTES,
    FRAMES_PER_GROUP,
    FRAMES_PER_SECOND,
    HEADER_BYTES,
    HOP_LENGTH,
    SAMPLE_RATE,
    TRAILER_BYTES,
)


def num_codec_samples(header: Header) -> int:
    """Return the number of samples at 16 kHz: ceil(num_samples 16000 / source_sample_rate)."""
    return -(-header.num_samples * SAMPLE_RATE // header.source_sample_rate)


def num_packets(codec_samples: int) -> int:
    """Return the number of packets for `codec_samples` samples at 16 kHz; none for no samples."""
    if codec_samples == 0:
        return 0
    num_blocks = -(-codec_samples // HOP_LENGTH) + 1
    return -(-num_blocks // BLOCKS_PER_FRAME)


def num_groups(packet_count: int) -> int:
    """Return the number of groups, each with a CRC, that `packet_count` packets make."""
    return -(-packet_count // FRAMES_PER_GROUP)


def cbr_bytes(nominal_bitrate_bps: int, packet_count: int) -> int:
    """Return the bytes of the first `packet_count` packets: floor(rate packets / 400)."""
    return nominal_bitrate_bps * packet_count // (8 * FRAMES_PER_SECOND)


def cbr_packet_sizes(nominal_bitrate_bps: int, n: int) -> list[int]:
    """Return the sizes in bytes of the first `n` packets at a constant bitrate.

    Fractions of a byte are carried over, so that every prefix of the stream is at the nominal rate
    to less than one byte.

    Examples
    --------
    >>> cbr_packet_sizes(13200, 3), cbr_packet_sizes(8100, 4)
    ([33, 33, 33], [20, 20, 20, 21])
    """
    ends = [cbr_bytes(nominal_bitrate_bps, i) for i in range(n + 1)]
    return [b - a for a, b in zip(ends[:-1], ends[1:], strict=True)]


def intra_packets(count: int, independent: bool, first: int = 0) -> np.ndarray:
    """Tell which packets are intra frames, bool [count], from packet `first` on.

    All of them in a file of independent packets, else the first one of every group.
    """
    if independent:
        return np.ones(count, np.bool_)
    return (first + np.arange(count)) % FRAMES_PER_GROUP == 0


def overhead_bytes(header: Header) -> int:
    """Return the bytes of a file that are not packets: header, group CRCs, VBR length bytes."""
    count = num_packets(num_codec_samples(header))
    trailer = TRAILER_BYTES if header.open_end else 0
    return HEADER_BYTES + CRC_BYTES * num_groups(count) + (count if header.vbr else 0) + trailer


@dataclass(frozen=True)
class FrameLayout:
    """Say where the packets of a file lie, as far as its header tells.

    Attributes
    ----------
    bitrate_bps : int           nominal
    vbr, independent : bool     as in the header
    num_packets : int or None   None: an open end
    """

    bitrate_bps: int
    vbr: bool
    independent: bool
    num_packets: int | None

    @classmethod
    def of(cls, header: Header, open_end: bool = False) -> FrameLayout:
        """Return the layout of a file; with `open_end`, its number of samples is not known yet."""
        count = None if open_end else num_packets(num_codec_samples(header))
        return cls(header.nominal_bitrate_bps, header.vbr, header.independent, count)

    @property
    def num_groups(self) -> int | None:
        """Number of groups, None with an open end."""
        return None if self.num_packets is None else num_groups(self.num_packets)

    def sizes(self) -> list[int]:
        """Return the bytes of all packets at a constant bitrate."""
        return cbr_packet_sizes(self.bitrate_bps, self.num_packets or 0)

    def intra(self) -> np.ndarray:
        """Tell which of all packets are intra frames, bool [num_packets]."""
        return intra_packets(self.num_packets or 0, self.independent)

    def packet_bytes(self, number: int) -> int:
        """Return the size of a packet at a constant bitrate."""
        return cbr_bytes(self.bitrate_bps, number + 1) - cbr_bytes(self.bitrate_bps, number)

    def group_packets(self, group: int) -> int:
        """Return the number of packets of a group; a full one where the end is not known."""
        if self.num_packets is None:
            return FRAMES_PER_GROUP
        return max(min(FRAMES_PER_GROUP, self.num_packets - group * FRAMES_PER_GROUP), 0)

    def group_start(self, group: int) -> int:
        """Return where a group begins behind the header, at a constant bitrate."""
        return cbr_bytes(self.bitrate_bps, group * FRAMES_PER_GROUP) + CRC_BYTES * group

    def group_bytes(self, group: int) -> int:
        """Return the bytes of a group without its CRC, at a constant bitrate."""
        first = group * FRAMES_PER_GROUP
        last = first + self.group_packets(group)
        return cbr_bytes(self.bitrate_bps, last) - cbr_bytes(self.bitrate_bps, first)

    def packets_in(self, num_bytes: int, group: int) -> int:
        """Return how many packets, from the first one of a group on, are whole in `num_bytes`.

        At a constant bitrate, and at the nominal one as a guess with VBR. The CRC of a last group
        that is not full is not asked for.
        """
        first = group * FRAMES_PER_GROUP
        start = cbr_bytes(self.bitrate_bps, first)

        def size(count: int) -> int:
            crcs = CRC_BYTES * (count // FRAMES_PER_GROUP)
            return cbr_bytes(self.bitrate_bps, first + count) - start + crcs

        most = num_bytes // cbr_bytes(self.bitrate_bps, 1) + 1
        return bisect_right(range(most + 1), num_bytes, key=size) - 1
