"""The reader: what was written, however it is cut; any damage ends in one clear line."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import (
    KINDS,
    group_starts,
    make_file,
    make_header,
    make_packets,
    patched_header,
    with_crc,
)

from codec.bitstream import (
    BitstreamError,
    BitstreamReader,
    Header,
    num_packets,
    overhead_bytes,
    read_stream,
    salvage_stream,
    write_header,
    write_stream,
)
from codec.config import FRAMES_PER_GROUP, HEADER_BYTES, TRAILER_BYTES

NAMES = [("+".join(kind) or "plain") for kind in KINDS]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


def error_of(data: bytes, piece: int = 0) -> str:
    """Return the message of read_stream, or of a reader that is given pieces of so many bytes."""
    with pytest.raises(BitstreamError) as caught:
        if piece:
            read_in_pieces(data, [piece])
        else:
            read_stream(data)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 200
    return message


def read_in_pieces(data: bytes, sizes: list[int]) -> tuple[Header, list[bytes]]:
    """Push pieces of the sizes in turn, over and over, until the file ends."""
    reader, packets, position, turn = BitstreamReader(), [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        packets += reader.push(data[position : position + size])
        position += size
        turn += 1
    assert reader.finish() == []
    assert reader.header is not None
    return reader.header, packets


# --- round trips ----------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize(
    ("rate", "num_samples", "source_rate"),
    [(8000, 0, 16000), (8000, 1, 16000), (8100, 4000, 16000), (13200, 100_000, 44100),
     (32000, 64_000, 16000), (31999, 1, 768000), (8001, 1100, 1000)],
)  # fmt: skip
def test_round_trip(kind: dict, rate: int, num_samples: int, source_rate: int) -> None:
    header = make_header(
        nominal_bitrate_bps=rate, num_samples=num_samples, source_sample_rate=source_rate, **kind
    )
    packets = make_packets(header)
    data = write_stream(header, packets)
    assert len(data) == sum(map(len, packets)) + overhead_bytes(header)
    assert read_stream(data) == (header, packets)
    assert salvage_stream(data) == (header, packets, [])


@settings(max_examples=60, deadline=None)
@given(
    rate=st.integers(8000, 32000),
    num_samples=st.integers(0, 50_000),
    source_rate=st.integers(1000, 768000),
    kind=st.sampled_from(KINDS),
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=9).filter(lambda s: sum(s) > 20),
)
def test_any_cut_of_the_pushes(rate, num_samples, source_rate, kind, sizes) -> None:
    num_samples = min(num_samples, 10 * source_rate)
    header = Header(b"abcd", rate, num_samples, source_rate, 3, **kind)
    packets = make_packets(header)
    assert read_in_pieces(write_stream(header, packets), sizes) == (header, packets)


@each_kind
def test_byte_by_byte(kind: dict) -> None:
    header = make_header(num_samples=17_000, **kind)
    packets = make_packets(header)
    assert read_in_pieces(write_stream(header, packets), [1]) == (header, packets)


def test_a_packet_comes_out_with_its_last_byte() -> None:
    header = make_header(open_end=True)
    packets = make_packets(header)
    data = write_stream(header, packets)
    reader = BitstreamReader()
    assert reader.push(data[: HEADER_BYTES + 19]) == []
    assert reader.push(data[HEADER_BYTES + 19 : HEADER_BYTES + 20]) == packets[:1]
    assert reader.header is not None and reader.header.num_samples == 0
    assert reader.push(data[HEADER_BYTES + 20 :]) == packets[1:]
    assert reader.finish() == []
    assert reader.header.num_samples == header.num_samples


def test_memory_does_not_grow() -> None:
    header = make_header(num_samples=16_000 * 60, nominal_bitrate_bps=32_000)
    data = write_stream(header, make_packets(header))
    for tolerant in (False, True):
        reader = BitstreamReader(tolerant)
        for start in range(0, len(data), 1000):
            reader.push(data[start : start + 1000])
            assert len(reader._data) + sum(map(len, reader._group.packets)) < 10_000
        assert reader.finish() == []


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("vbr", [False, True])
@pytest.mark.parametrize("num_samples", [(1 << 40) - 1, 4641, 3999999])
def test_wrong_claims_of_length_cost_nothing(vbr: bool, num_samples: int) -> None:
    data = patched_header(17, num_samples.to_bytes(5, "big"), vbr=vbr)
    assert "cut off after" in error_of(data) or "damaged" in error_of(data)
    header, packets, problems = salvage_stream(data)
    assert header.num_samples == num_samples
    assert len(packets) <= 14 and len(problems) == 1


@pytest.mark.parametrize("vbr", [False, True])
def test_too_few_samples_claimed(vbr: bool) -> None:
    message = error_of(patched_header(17, (161).to_bytes(5, "big"), vbr=vbr))
    assert "too many" in message or "damaged" in message


def test_length_of_the_payload() -> None:
    data = make_file(num_samples=64_000)  # 4 s, 201 packets, 5 groups
    assert len(data) == 24 + 201 * 20 + 5 * 2
    message = error_of(data[: 24 + 65 * 20 + 3])
    assert message == (
        "the file is cut off after 1.3 s of 4.0 s: "
        "copy it again, or keep what is intact with --salvage"
    )
    assert "is cut off after 0.0 s of 4.0 s" in error_of(data[:24])
    assert "is cut off after 4.0 s of 4.0 s" in error_of(data[:-1])


@each_kind
@pytest.mark.parametrize("num_samples", [0, 1100, 17_000])
def test_what_follows_the_end(kind: dict, num_samples: int) -> None:
    data = make_file(num_samples=num_samples, **kind)
    for surplus in (b"\0", b"12345", bytes(7), bytes(40), data):
        messages = [error_of(data + surplus, piece) for piece in (0, 7, len(data))]
        if not kind.get("open_end"):
            what = "is 1 byte" if len(surplus) == 1 else f"are {len(surplus)} bytes"
            assert f"{what} too many at the end" in messages[0]
            assert all("too many at the end" in message for message in messages)


@each_kind
def test_cut_at_every_byte(kind: dict) -> None:
    header = make_header(num_samples=17_000, **kind)
    packets = make_packets(header)
    data = write_stream(header, packets)
    places = range(len(data)) if len(data) < 600 else random.Random(0).sample(range(len(data)), 200)
    for length in places:
        message = error_of(data[:length])
        assert error_of(data[:length], 7) == message
        assert "cut off" in message or length == 0
        if kind.get("open_end") and length >= HEADER_BYTES:
            assert "does not end with its length" in message


def test_wrong_trailers() -> None:
    data = make_file(num_samples=1100, open_end=True)
    for samples in (0, 1, 800, 1121, 1 << 39):
        assert num_packets(samples) != num_packets(1100)
        forged = data[:-TRAILER_BYTES] + with_crc(samples.to_bytes(5, "big"))
        assert "does not end with its length" in error_of(forged)
    assert "does not end with its length" in error_of(data[:-TRAILER_BYTES])
    assert "does not end with its length" in error_of(data[:-TRAILER_BYTES] + bytes(7))


@each_kind
def test_every_single_bit_flip_is_detected(kind: dict) -> None:
    header = make_header(num_samples=700, **kind)
    packets = [b"abc", b"d", b"efghij"] if header.vbr else make_packets(header)
    data = write_stream(header, packets)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            error_of(bytes(damaged))
            error_of(bytes(damaged), 11)


def test_damaged_group_is_named() -> None:
    data = bytearray(make_file(num_samples=72_000))  # 4.5 s, 226 packets
    group_bytes = FRAMES_PER_GROUP * 20 + 2
    for index in range(5):
        times = f"{index}.0 s and {min(index + 1, 4.5):.1f} s"
        damaged = bytearray(data)
        damaged[HEADER_BYTES + index * group_bytes + 100] ^= 4
        message = error_of(bytes(damaged))
        assert f"damaged between {times} (wrong checksum of group {index})" in message


def test_swapped_and_overwritten_groups_are_detected() -> None:
    header = make_header(num_samples=64_000)
    packets = make_packets(header)
    data = write_stream(header, packets)
    a, b, c = group_starts(header, packets)[:3]
    assert "0.0 s and 1.0 s" in error_of(data[:a] + data[b:c] + data[a:b] + data[c:])
    assert "0.0 s and 1.0 s" in error_of(data[:a] + bytes(b - a) + data[b:])
    assert "1.0 s and 2.0 s" in error_of(data[:b] + bytes(c - b) + data[c:])


def test_vbr_packet_of_no_bytes() -> None:
    header = make_header(num_samples=700, vbr=True)
    data = bytearray(write_stream(header, [b"abc", b"d", b"efghij"]))
    data[HEADER_BYTES + 4] = 0
    assert "damaged at 0.0 s (a packet of no bytes)" in error_of(bytes(data))


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=400), st.booleans(), st.sampled_from(KINDS), st.integers(1, 50),
)  # fmt: skip
def test_any_bytes_raise_only_bitstream_error(
    tail: bytes, with_header: bool, kind: dict, piece: int
) -> None:
    data = write_header(make_header(num_samples=5000, **kind)) + tail if with_header else tail
    for read in (read_stream, salvage_stream, lambda data: read_in_pieces(data, [piece])):
        try:
            read(data)
        except BitstreamError as error:
            assert "\n" not in str(error)
