"""Bitstream: exact layout, and every kind of damage ends in one clear line."""

import dataclasses
import random
import struct
from binascii import crc_hqx

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import (
    HEADER_BYTES,

    BitstreamError,
    Header,
    cbr_packet_sizes,
    check_weights,
    num_codec_samples,
    num_groups,
    num_packets,
    overhead_bytes,
    read_header,
    read_stream,
    salvage_stream,
    write_header,
    write_stream,
)

from codec.config import FRAMES_PER_GROUP

NAMED_RATES = {8000: 20, 9600: 24, 13200: 33, 16400: 41, 24400: 61, 32000: 80}


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


def with_crc(raw: bytes) -> bytes:
    return raw + struct.pack(">H", crc_hqx(raw, 0xFFFF))


def patched_header(offset: int, value: bytes, **changes) -> bytes:
    """Return a file whose header has other bytes at `offset`, under a correct CRC."""
    data = make_file(**changes)
    raw = data[:offset] + value + data[offset + len(value) : HEADER_BYTES - 2]
    return with_crc(raw) + data[HEADER_BYTES:]


def error_of(data: bytes) -> str:
    """Return the message of read_stream, after checking that it is one line."""
    with pytest.raises(BitstreamError) as caught:
        read_stream(data)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 200
    return message


# --- layout ---------------------------------------------------------------------------------------


def test_header_bytes_are_as_documented() -> None:
    header = make_header(
        nominal_bitrate_bps=13200,
        source_sample_rate=768000,
        num_samples=0x12_3456_789A,
        num_stages=8,
        vbr=True,
    )
    raw = bytes.fromhex("4e535651 03 18 01 08 0badcafe 3390 0bb800 123456789a")
    assert write_header(header) == with_crc(raw)
    assert len(write_header(header)) == HEADER_BYTES == 24 <= 26
    assert read_header(write_header(header)) == (header, HEADER_BYTES)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [({}, 0), ({"vbr": True}, 1), ({"independent": True}, 2), ({"open_end": True}, 4),
     ({"vbr": True, "independent": True}, 3), ({"independent": True, "open_end": True}, 6)],
)  # fmt: skip
def test_flags(changes: dict, flags: int) -> None:
    header = make_header(**changes)
    raw = write_header(header)
    assert raw[6] == flags
    # An open end keeps its length for the trailer.
    known = dataclasses.replace(header, num_samples=0 if header.open_end else 4000)
    assert read_header(raw) == (known, HEADER_BYTES)


def test_golden_file() -> None:
    header = make_header(num_samples=161)
    data = write_stream(header, [bytes(range(20)), bytes(20)])
    assert data.hex() == (
        "4e535651031800030badcafe1f40003e8000000000a194bd"  # header
        "000102030405060708090a0b0c0d0e0f10111213"  # packet 0
        "0000000000000000000000000000000000000000d96d"  # packet 1, CRC of the group
    )
    header = dataclasses.replace(header, open_end=True)
    data = write_stream(header, [bytes(range(20)), bytes(20)])
    assert data.hex() == (
        "4e535651031804030badcafe1f40003e800000000000b1a4"  # header without a length
        "000102030405060708090a0b0c0d0e0f10111213"
        "0000000000000000000000000000000000000000d96d"
        "00000000a1b4c7"  # trailer: number of samples, CRC
    )


KINDS = (
    {}, {"vbr": True}, {"independent": True}, {"independent": True, "vbr": True},
    {"open_end": True}, {"independent": True, "open_end": True},
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "+".join(kind) or "plain")
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
    stages=st.integers(1, 8),
    kind=st.sampled_from(KINDS),
    fingerprint=st.binary(min_size=4, max_size=4),
)
def test_round_trip_property(rate, num_samples, source_rate, stages, kind, fingerprint) -> None:
    num_samples = min(num_samples, 10 * source_rate)
    header = Header(fingerprint, rate, num_samples, source_rate, stages, **kind)
    packets = make_packets(header)
    assert read_stream(write_stream(header, packets)) == (header, packets)


@pytest.mark.parametrize(("rate", "size"), NAMED_RATES.items())
def test_named_rates_have_equal_packets(rate: int, size: int) -> None:
    assert cbr_packet_sizes(rate, 500) == [size] * 500


@pytest.mark.parametrize("rate", [8000, 8001, 12345, 13200, 31999, 32000])
def test_cbr_sizes_meet_any_rate_exactly(rate: int) -> None:
    sizes = cbr_packet_sizes(rate, 400)
    total = 0
    for i, size in enumerate(sizes):
        total += size
        assert 0 <= rate * (i + 1) - 400 * total < 400  # never behind by a whole byte
        assert 0 < size <= 80
    assert total == rate  # 400 packets are 8 s


def test_sample_and_packet_counts() -> None:
    counts = {0: 0, 1: 1, 159: 1, 160: 1, 161: 2, 320: 2, 480: 2, 481: 3, 160000: 501}
    assert {samples: num_packets(samples) for samples in counts} == counts
    for samples, rate, expected in [
        (44100, 44100, 16000), (44101, 44100, 16001), (1, 48000, 1), (3, 48000, 1), (4, 48000, 2),
        (1, 1000, 16), (0, 8000, 0), ((1 << 40) - 1, 1000, 16 * ((1 << 40) - 1)),
    ]:  # fmt: skip
        header = make_header(num_samples=samples, source_sample_rate=rate)
        assert num_codec_samples(header) == expected
    assert [num_groups(n) for n in (0, 1, 50, 51, 501)] == [0, 1, 1, 2, 11]


def test_overhead_of_ten_seconds_is_below_one_percent() -> None:
    header = make_header(num_samples=160_000)
    data = write_stream(header, make_packets(header))
    assert overhead_bytes(header) == 46
    assert len(data) == 10066  # docs/bitstream.md
    assert len(data) * 8 / 10 < 1.01 * 8000


def test_extra_header_bytes_are_skipped() -> None:
    data = make_file()
    raw = data[:5] + bytes([HEADER_BYTES + 7]) + data[6 : HEADER_BYTES - 2] + b"what???"
    header, packets = read_stream(with_crc(raw) + data[HEADER_BYTES:])
    assert (header, packets) == read_stream(data)


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(nominal_bitrate_bps=7999), "bitrate is 7999, outside 8000..32000"),
        (dict(nominal_bitrate_bps=32001), "bitrate is 32001"),
        (dict(source_sample_rate=999), "sample rate is 999"),
        (dict(source_sample_rate=768001), "sample rate is 768001"),
        (dict(num_samples=-1), "number of samples is -1"),
        (dict(num_samples=1 << 40), "number of samples"),
        (dict(num_stages=0), "stages is 0"),
        (dict(num_stages=9), "stages is 9"),
        (dict(fingerprint=b"123"), "fingerprint has 3 bytes"),
        (dict(version=2), "version 2 cannot be written"),
        (dict(version=4), "version 4 cannot be written"),
        (dict(vbr=True, open_end=True), "open end has a variable bitrate"),
    ],
)
def test_writer_checks_the_header(changes: dict, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        write_header(make_header(**changes))


def test_writer_checks_the_packets() -> None:
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


# --- wrong files ----------------------------------------------------------------------------------


def test_header_errors() -> None:
    data = make_file()
    assert "empty" in error_of(b"")
    assert "not a file of this codec" in error_of(b"RIFF" + data[4:])
    assert "not a file of this codec" in error_of(b"NS\0")
    assert "cut off within its header" in error_of(data[:3])
    assert "cut off within its header" in error_of(data[:23])
    assert "header is damaged" in error_of(data[:9] + b"\0" + data[10:])
    assert "header is damaged" in error_of(data[:5] + b"\x07" + data[6:])
    assert "version 4, this program knows version 3: install" in error_of(patched_header(4, b"\4"))
    assert "version 2, this program knows version 3: encode" in error_of(patched_header(4, b"\2"))
    assert "flags that this program does not know (0x82)" in error_of(patched_header(6, b"\x82"))
    assert "flags that this program does not know (0x08)" in error_of(patched_header(6, b"\x08"))
    assert "open end has a variable bitrate" in error_of(patched_header(6, b"\x05"))
    assert "stages is 0" in error_of(patched_header(7, b"\0"))
    assert "stages is 9" in error_of(patched_header(7, b"\x09"))
    assert "bitrate is 7999" in error_of(patched_header(12, struct.pack(">H", 7999)))
    assert "bitrate is 32001" in error_of(patched_header(12, struct.pack(">H", 32001)))
    assert "rate is 0, outside 1000..768000" in error_of(patched_header(14, b"\0\0\0"))
    assert "rate is 999" in error_of(patched_header(14, (999).to_bytes(3, "big")))
    assert "rate is 768001" in error_of(patched_header(14, (768001).to_bytes(3, "big")))
    short = with_crc(data[:5] + b"\x10" + data[6:14])
    assert "header has 16 bytes, fewer than the 24" in error_of(short + data[24:])


def test_fingerprint() -> None:
    header = make_header()
    check_weights(header, bytes.fromhex("0badcafe"), 4)
    with pytest.raises(BitstreamError, match="0badcafe.*deadbeef.*--weights"):
        check_weights(header, bytes.fromhex("deadbeef"), 4)


@pytest.mark.parametrize("vbr", [False, True])
@pytest.mark.parametrize("num_samples", [(1 << 40) - 1, 4641, 3999999])
def test_wrong_claims_of_length_cost_nothing(vbr: bool, num_samples: int) -> None:
    data = patched_header(17, num_samples.to_bytes(5, "big"), vbr=vbr)
    message = error_of(data)
    assert "cut off after" in message or "damaged" in message
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
        "copy it again"
    )
    assert "is cut off after 0.0 s of 4.0 s" in error_of(data[:24])
    assert "is cut off after 4.0 s of 4.0 s" in error_of(data[:-1])
    assert "is 1 byte too many" in error_of(data + b"\0")
    assert "are 5 bytes too many" in error_of(data + b"12345")
    assert "is 1 byte too many" in error_of(make_file(num_samples=0) + b"\0")
    assert "is 1 byte too many" in error_of(make_file(vbr=True) + b"\0")


def test_open_end_cut_at_every_byte() -> None:
    header = make_header(num_samples=17_000, open_end=True)
    packets = make_packets(header)
    data = write_stream(header, packets)
    for length in range(HEADER_BYTES, len(data)):
        assert "does not end with its length" in error_of(data[:length])
        _, salvaged, problems = salvage_stream(data[:length])
        assert len(salvaged) <= len(packets) + 1 and problems
    assert "does not end with its length" in error_of(data + b"\0")
    assert "does not end with its length" in error_of(data[:-7])
    # A sound trailer of another length.
    forged = data[:-7] + with_crc((17_400).to_bytes(5, "big"))
    assert "does not end with its length" in error_of(forged)


@pytest.mark.parametrize("vbr", [False, True])
def test_cut_at_every_byte(vbr: bool) -> None:
    data = make_file(num_samples=36_000 if vbr else 4000, vbr=vbr)
    step = 7 if vbr else 1
    for length in [*range(0, 60), *range(60, len(data), step), len(data) - 1]:
        message = error_of(data[:length])
        assert "cut off" in message or length == 0
        if length >= HEADER_BYTES:
            header, packets, problems = salvage_stream(data[:length])
            assert packets == read_stream(data)[1][: len(packets)]
            assert len(problems) == 1


@pytest.mark.parametrize("kind", [k for k in KINDS if "vbr" not in k], ids="+".join)
def test_every_single_bit_flip_is_detected(kind: dict) -> None:
    data = make_file(num_samples=1100, **kind)
    read_stream(data)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            error_of(bytes(damaged))


def test_every_single_bit_flip_of_a_vbr_file_is_detected() -> None:
    header = make_header(num_samples=700, vbr=True)
    data = write_stream(header, [b"abc", b"d", b"efghij"])
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            error_of(bytes(damaged))


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
    data = make_file(num_samples=64_000)
    size = FRAMES_PER_GROUP * 20 + 2
    first, second = data[24 : 24 + size], data[24 + size : 24 + 2 * size]
    rest = data[24 + 2 * size :]
    assert "0.0 s and 1.0 s" in error_of(data[:24] + second + first + rest)
    assert "0.0 s and 1.0 s" in error_of(data[:24] + bytes(size) + second + rest)
    assert "1.0 s and 2.0 s" in error_of(data[:24] + first + bytes(size) + rest)


def test_vbr_packet_of_no_bytes() -> None:
    header = make_header(num_samples=700, vbr=True)
    data = bytearray(write_stream(header, [b"abc", b"d", b"efghij"]))
    data[HEADER_BYTES + 4] = 0
    assert "damaged at 0.0 s (a packet of no bytes)" in error_of(bytes(data))


# --- salvage --------------------------------------------------------------------------------------


def test_salvage_keeps_the_sound_groups() -> None:
    header = make_header(num_samples=72_000)
    packets = make_packets(header)
    data = bytearray(write_stream(header, packets))
    data[HEADER_BYTES + 2500] ^= 1
    _, salvaged, problems = salvage_stream(bytes(data))
    assert salvaged == packets[:100] + [None] * 50 + packets[150:]
    assert len(problems) == 1 and "2.0 s and 3.0 s" in problems[0]

    _, salvaged, problems = salvage_stream(bytes(data[:-50]))
    assert salvaged == packets[:100] + [None] * 50 + packets[150 : 226 - 3]
    assert len(problems) == 2 and "cut off after 4.5 s" in problems[1]

    _, salvaged, problems = salvage_stream(bytes(data) + b"more")
    assert salvaged == packets[:100] + [None] * 50 + packets[150:]
    assert len(problems) == 2 and "4 bytes too many" in problems[1]


def test_salvage_of_vbr_finds_the_next_sound_group() -> None:
    header = make_header(num_samples=72_000, vbr=True)
    packets = make_packets(header)
    sound = write_stream(header, packets)

    data = bytearray(sound)
    data[HEADER_BYTES + 5 + len(packets[0])] ^= 1  # inside packet 1: the lengths are right
    _, salvaged, problems = salvage_stream(bytes(data))
    assert salvaged == [None] * 50 + packets[50:] and len(problems) == 1

    # A wrong length: all later bytes are out of step, and only checksums tell where groups begin.
    for wrong in (0, 1, 254):
        data = bytearray(sound)
        data[HEADER_BYTES] = wrong
        _, salvaged, problems = salvage_stream(bytes(data))
        assert salvaged == [None] * 50 + packets[50:], wrong
        assert len(problems) == 1

    # In the last group but one and in the last: nothing but the end of the file follows.
    starts = [HEADER_BYTES]
    for first in range(0, len(packets), FRAMES_PER_GROUP):
        group = packets[first : first + FRAMES_PER_GROUP]
        starts.append(starts[-1] + sum(map(len, group)) + len(group) + 2)
    for group in (3, 4):
        data = bytearray(sound)
        data[starts[group]] ^= 3
        _, salvaged, problems = salvage_stream(bytes(data))
        assert salvaged[: 50 * group] == packets[: 50 * group] and problems
        if group == 3:
            assert salvaged[150:] == [None] * 50 + packets[200:]


@pytest.mark.parametrize("removed", [1, 50, 999])
def test_salvage_of_vbr_after_bytes_went_missing(removed: int) -> None:
    header = make_header(num_samples=160_000, vbr=True)
    packets = make_packets(header)
    data = write_stream(header, packets)
    place = HEADER_BYTES + sum(map(len, packets[:110])) + 110 + 2 * 2
    _, salvaged, problems = salvage_stream(data[:place] + data[place + removed :])
    assert salvaged[:100] == packets[:100] and salvaged[150:] == packets[150:]
    assert salvaged[100:150] == [None] * 50
    assert len(problems) == 1


def test_salvage_of_an_open_end() -> None:
    header = make_header(num_samples=36_000, open_end=True)
    packets = make_packets(header)
    data = write_stream(header, packets)
    assert salvage_stream(data) == (header, packets, [])
    # Without its trailer, a stream is as long as its packets are.
    for lost in (1, 7):
        found, salvaged, problems = salvage_stream(data[:-lost])
        assert salvaged == packets and problems
        assert 0 <= found.num_samples - 36_000 < 320
    found, salvaged, problems = salvage_stream(data[:HEADER_BYTES])
    assert (found.num_samples, salvaged) == (0, []) and problems


def test_salvage_of_an_open_end_that_is_cut_off_within_a_group() -> None:
    """Packets that are whole are kept: the bytes after them are no checksum."""
    header = make_header(num_samples=36_000, open_end=True)
    packets = make_packets(header)
    data = write_stream(header, packets)
    for surplus in (0, 1, 2, 13, 19):
        cut = data[: HEADER_BYTES + 1002 + 16 * 20 + surplus]
        found, salvaged, problems = salvage_stream(cut)
        assert salvaged[:66] == packets[:66] and len(salvaged) <= 67, surplus
        assert num_packets(num_codec_samples(found)) == len(salvaged)
        assert 1 <= len(problems) <= 2


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.booleans(), st.sampled_from(KINDS))
def test_any_bytes_raise_only_bitstream_error(tail: bytes, with_header: bool, kind: dict) -> None:
    data = write_header(make_header(num_samples=5000, **kind)) + tail if with_header else tail
    for read in (read_stream, salvage_stream):
        try:
            read(data)
        except BitstreamError as error:
            assert "\n" not in str(error)


def test_header_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_header().num_samples = 3  # type: ignore[misc]
