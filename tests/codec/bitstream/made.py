"""Headers, packets and files that the tests of the container share; no codec is needed for them."""

import random
import struct
from binascii import crc_hqx

from codec.bitstream import (
    Header,
    cbr_packet_sizes,
    num_codec_samples,
    num_packets,
    write_stream,
)
from codec.config import FRAMES_PER_GROUP, HEADER_BYTES

KINDS = (
    {}, {"vbr": True}, {"independent": True}, {"independent": True, "vbr": True},
    {"open_end": True}, {"independent": True, "open_end": True},
)  # fmt: skip


def make_header(**changes) -> Header:
    fields = dict(
        fingerprint=bytes.fromhex("0badcafe"),
        nominal_bitrate_bps=8000,
        num_samples=4000,
        source_sample_rate=16000,
        num_stages=3,
        vbr=False,
    )
    return Header(**(fields | changes))


def make_packets(header: Header, seed: int = 0) -> list[bytes]:
    rng = random.Random(seed)
    count = num_packets(num_codec_samples(header))
    if header.vbr:
        return [rng.randbytes(rng.choice([1, 255, rng.randint(1, 60)])) for _ in range(count)]
    return [rng.randbytes(size) for size in cbr_packet_sizes(header.nominal_bitrate_bps, count)]


def make_file(seed: int = 0, **changes) -> bytes:
    header = make_header(**changes)
    return write_stream(header, make_packets(header, seed))


def group_starts(header: Header, packets: list[bytes]) -> list[int]:
    """Return where the groups of a file begin, and where the last one ends."""
    starts = [HEADER_BYTES]
    for first in range(0, len(packets), FRAMES_PER_GROUP):
        group = packets[first : first + FRAMES_PER_GROUP]
        starts.append(starts[-1] + sum(map(len, group)) + len(group) * header.vbr + 2)
    return starts


def with_crc(raw: bytes) -> bytes:
    return raw + struct.pack(">H", crc_hqx(raw, 0xFFFF))


def patched_header(offset: int, value: bytes, **changes) -> bytes:
    """Return a file whose header has other bytes at `offset`, under a right CRC."""
    data = make_file(**changes)
    raw = data[:offset] + value + data[offset + len(value) : HEADER_BYTES - 2]
    return with_crc(raw) + data[HEADER_BYTES:]
