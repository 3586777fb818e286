"""The writer: exact bytes, in one piece or packet by packet, and what it refuses."""

import dataclasses

import pytest
from made import KINDS, make_header, make_packets, with_crc

from codec.bitstream import (
    BitstreamError,
    BitstreamWriter,
    overhead_bytes,
    read_stream,
    write_header,
    write_stream,
)


def test_golden_file() -> None:
    header = make_header(num_samples=161)
    body = (
        "000102030405060708090a0b0c0d0e0f10111213"  # packet 0
        "0000000000000000000000000000000000000000d96d"  # packet 1, CRC of the group
    )
    data = write_stream(header, [bytes(range(20)), bytes(20)])
    start = with_crc(bytes.fromhex("4e535651071800030badcafe1f40003e8000000000a1"))
    assert data == start + bytes.fromhex(body) and data[22:24].hex() == "641a"
    header = dataclasses.replace(header, open_end=True)
    data = write_stream(header, [bytes(range(20)), bytes(20)])
    start = with_crc(bytes.fromhex("4e535651071804030badcafe1f40003e800000000000"))
    assert data == start + bytes.fromhex(body + "00000000a1b4c7")  # trailer: samples, CRC


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "+".join(kind) or "plain")
@pytest.mark.parametrize("num_samples", [0, 1, 161, 4000, 15_840, 16_000, 33_000])
def test_packet_by_packet(kind: dict, num_samples: int) -> None:
    """The header may come before the number of samples is known."""
    header = make_header(num_samples=num_samples, **kind)
    packets = make_packets(header)
    whole = write_stream(header, packets)
    assert len(whole) == sum(map(len, packets)) + overhead_bytes(header)
    writer = BitstreamWriter(dataclasses.replace(header, num_samples=0))
    body = b"".join(map(writer.packet, packets)) + writer.finish(num_samples)
    assert writer.header_bytes == write_header(dataclasses.replace(header, num_samples=0))
    assert write_header(header) + body == whole


def test_packets_may_come_from_an_iterator() -> None:
    header = make_header()
    packets = make_packets(header)
    assert read_stream(write_stream(header, iter(packets)))[1] == packets


def test_wrong_packets() -> None:
    header = make_header()
    packets = make_packets(header)
    with pytest.raises(BitstreamError, match="take 13 packets, 12 were given"):
        write_stream(header, packets[:-1])
    with pytest.raises(BitstreamError, match="packet 2 has 19 bytes, must have 20"):
        write_stream(header, packets[:2] + [bytes(19)] + packets[3:])
    header = make_header(vbr=True)
    for size in (0, 256):
        with pytest.raises(BitstreamError, match=f"packet 2 has {size} bytes, outside 1..255"):
            write_stream(header, packets[:2] + [bytes(size)] + packets[3:])
    with pytest.raises(BitstreamError, match="variable bitrate"):
        BitstreamWriter(make_header(vbr=True, open_end=True))


def test_a_refusal_changes_nothing() -> None:
    header = make_header(num_samples=17_000, open_end=True)
    packets = make_packets(header)
    writer = BitstreamWriter(header)
    with pytest.raises(BitstreamError, match="packet 0 has 32 bytes, must have 20"):
        writer.packet(bytes(32))
    pieces = [writer.packet(packet) for packet in packets]
    for samples in (16_000, 20_000, 0, -1):
        with pytest.raises(BitstreamError):
            writer.finish(samples)
    end = writer.finish(17_000)
    assert writer.header_bytes + b"".join(pieces) + end == write_stream(header, packets)
