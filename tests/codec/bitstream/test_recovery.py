"""Damaged files: what is intact is kept, wherever bytes were changed, lost or inserted."""

import random
import time
import tracemalloc
from binascii import crc_hqx

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import KINDS, group_starts, make_file, make_header, make_packets, with_crc

from codec.bitstream import (
    BitstreamReader,
    FrameLayout,
    Header,
    num_codec_samples,
    num_packets,
    read_stream,
    salvage_stream,
    write_header,
    write_stream,
)
from codec.bitstream.group import Group
from codec.bitstream.recovery import SPARE_GROUPS, Search
from codec.config import FRAMES_PER_GROUP, HEADER_BYTES, MAX_NUM_SAMPLES

NAMES = [("+".join(kind) or "plain") for kind in KINDS]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)
SECONDS = 20


def salvage_in_pieces(data: bytes, size: int) -> tuple[Header, list[bytes | None], list[str]]:
    reader, packets = BitstreamReader(tolerant=True), []
    for start in range(0, len(data), size):
        packets += reader.push(data[start : start + size])
    packets += reader.finish()
    assert reader.header is not None
    return reader.header, packets, reader.problems


def salvage(data: bytes) -> tuple[Header, list[bytes | None], list[str]]:
    """Return what salvage_stream does, after checking that a piecewise reader finds the same."""
    result = salvage_stream(data)
    assert salvage_in_pieces(data, 997) == result
    assert all(problem and "\n" not in problem and len(problem) < 200 for problem in result[2])
    return result


def lost_groups(found: list[bytes | None], packets: list[bytes]) -> set[int]:
    """Return the groups that are missing, after checking that all others are right."""
    lost = set()
    for i, packet in enumerate(packets):
        if i >= len(found) or found[i] is None:
            lost.add(i // FRAMES_PER_GROUP)
        else:
            assert found[i] == packet, i
    for group in lost:
        part = found[group * FRAMES_PER_GROUP : (group + 1) * FRAMES_PER_GROUP]
        assert part.count(None) == len(part)
    assert len(found) <= len(packets)
    return lost


def twenty_seconds(kind: dict, rate: int = 8000) -> tuple[list[bytes], bytes, list[int]]:
    """Return packets, file, and the places of the groups."""
    header = make_header(num_samples=SECONDS * 16_000, nominal_bitrate_bps=rate, **kind)
    packets = make_packets(header)
    return packets, write_stream(header, packets), group_starts(header, packets)


# --- bytes lost and inserted ----------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("rate", [8000, 13_201])
@pytest.mark.parametrize("removed", [1, 11, 4000])
def test_bytes_went_missing(kind: dict, rate: int, removed: int) -> None:
    packets, data, starts = twenty_seconds(kind, rate)
    place = starts[5] + 700
    last = sum(start <= place + removed - 1 for start in starts) - 1
    _, found, problems = salvage(data[:place] + data[place + removed :])
    assert lost_groups(found, packets) == set(range(5, last + 1))
    assert len(found) == len(packets) and len(problems) == 1
    assert f"damaged between 5.0 s and {last + 1}.0 s" in problems[0]
    if "vbr" not in kind:
        what = f"({removed} bytes are missing)" if removed > 1 else "(1 byte is missing)"
        assert what in problems[0]


@each_kind
@pytest.mark.parametrize("inserted", [1, 11, 5000])
def test_bytes_were_inserted(kind: dict, inserted: int) -> None:
    packets, data, starts = twenty_seconds(kind)
    noise = random.Random(1).randbytes(inserted)
    place = starts[5] + 200
    _, found, problems = salvage(data[:place] + noise + data[place:])
    assert lost_groups(found, packets) == {5} and len(problems) == 1
    # Between two groups, none is lost.
    _, found, problems = salvage(data[: starts[5]] + noise + data[starts[5] :])
    assert found == packets and len(problems) == 1 and "damaged at 5.0 s" in problems[0]


@each_kind
def test_losses_at_several_places(kind: dict) -> None:
    packets, data, starts = twenty_seconds(kind)
    out = bytearray(data)
    for group in (17, 12, 8, 4, 0):  # from the end on, so that the places stay right
        del out[starts[group] + 100 : starts[group] + 111]
    out[starts[14] - 5 * 11 + 40] ^= 1
    _, found, problems = salvage(bytes(out))
    lost = lost_groups(found, packets)
    assert lost >= {0, 4, 8, 12, 17} and lost <= {0, 4, 8, 12, 13, 14, 17} and len(problems) <= 6


@each_kind
def test_many_seconds_are_missing(kind: dict) -> None:
    packets, data, starts = twenty_seconds(kind)
    _, found, problems = salvage(data[: starts[3] + 5] + data[starts[14] + 7 :])
    assert lost_groups(found, packets) == set(range(3, 15))
    assert len(problems) == 1 and "between 3.0 s and 15.0 s" in problems[0]
    _, found, problems = salvage(data[:HEADER_BYTES] + data[starts[9] :])
    assert lost_groups(found, packets) == set(range(9)) and len(problems) == 1


@each_kind
def test_a_piece_comes_twice(kind: dict) -> None:
    packets, data, starts = twenty_seconds(kind)
    _, found, problems = salvage(data[: starts[9]] + data[starts[4] :])
    assert found == packets and len(problems) == 1


@each_kind
@pytest.mark.parametrize("group", [18, 19, 20])
def test_near_the_end(kind: dict, group: int) -> None:
    """Nothing but the end of the file confirms the last groups."""
    packets, data, starts = twenty_seconds(kind)
    assert len(starts) == 22  # a last group of one packet
    for removed in (3, 15):
        place = starts[group] + 1
        _, found, problems = salvage(data[:place] + data[place + removed :])
        if group < 20:
            assert lost_groups(found, packets) == {group}
        else:
            assert found[:1000] == packets[:1000]
        assert problems


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    rate=st.integers(8000, 32_000),
    groups=st.integers(1, 6),
    rest=st.integers(1, 50),
    where=st.floats(0, 1),
    change=st.sampled_from(["delete", "insert", "flip", "overwrite"]),
    size=st.integers(1, 400),
)
def test_one_damage_takes_nothing_else(kind, rate, groups, rest, where, change, size) -> None:
    count = FRAMES_PER_GROUP * (groups - 1) + rest
    header = make_header(num_samples=320 * count - 160, nominal_bitrate_bps=rate, **kind)
    packets = make_packets(header, size)
    data, starts = write_stream(header, packets), group_starts(header, packets)
    starts[-1] = len(data)  # a trailer belongs to the last group
    place = HEADER_BYTES + round(where * (len(data) - HEADER_BYTES - 1))
    end = min(place + size, len(data))
    noise = random.Random(size).randbytes(end - place)
    if change == "flip":
        damaged, end = (
            data[:place] + bytes([data[place] ^ size % 255 + 1]) + data[place + 1 :],
            place + 1,
        )
    elif change == "overwrite":
        damaged = data[:place] + noise + data[end:]
    else:
        damaged = data[:place] + (noise + data[place:] if change == "insert" else data[end:])
        end = place + 1 if change == "insert" else end
    _, found, problems = salvage(damaged)
    assert problems or damaged == data
    hurt = {g for g in range(groups) if starts[g] < end and place < starts[g + 1]}
    # Of a group that seems to be cut off, packets are kept that no CRC vouches for.
    last = groups - 1
    if any("cut off" in problem for problem in problems):
        last = max(len(found) - 1, 0) // FRAMES_PER_GROUP
        assert hurt & {last, last + 1}
    sure = FRAMES_PER_GROUP * (last if {last, groups - 1} & hurt else groups)
    assert lost_groups(found[:sure], packets[:sure]) <= hurt


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 60), st.binary(max_size=60)), max_size=6
    ),
    piece=st.integers(200, 3000),
)
def test_any_damage_leaves_only_what_is_right(kind, changes, piece) -> None:
    header = make_header(num_samples=16_000 * 6, **kind)
    packets = make_packets(header)
    data = write_stream(header, packets)
    for where, removed, inserted in changes:
        place = HEADER_BYTES + round(where * (len(data) - HEADER_BYTES))
        data = data[:place] + inserted + data[place + removed :]
    _, found, problems = salvage_stream(data)
    assert salvage_in_pieces(data, piece)[1:] == (found, problems)
    assert len(found) <= 50 * (SPARE_GROUPS + 2) + 2 * len(data)
    vouched = len(found)
    if any("cut off" in problem for problem in problems):
        vouched -= len(found) % FRAMES_PER_GROUP or FRAMES_PER_GROUP
    assert all(p is None or p == q for p, q in zip(found[:vouched], packets, strict=False))


# --- damage in place ------------------------------------------------------------------------------


def test_sound_groups_are_kept() -> None:
    header = make_header(num_samples=72_000)
    packets = make_packets(header)
    data = bytearray(write_stream(header, packets))
    data[HEADER_BYTES + 2500] ^= 1
    _, found, problems = salvage(bytes(data))
    assert found == packets[:100] + [None] * 50 + packets[150:]
    assert len(problems) == 1 and "2.0 s and 3.0 s (wrong checksum of group 2)" in problems[0]

    _, found, problems = salvage(bytes(data[:-50]))
    assert found == packets[:100] + [None] * 50 + packets[150 : 226 - 3]
    assert len(problems) == 2 and "cut off after 4.5 s" in problems[1]

    _, found, problems = salvage(bytes(data) + b"more")
    assert found == packets[:100] + [None] * 50 + packets[150:]
    assert len(problems) == 2 and "4 bytes too many" in problems[1]


@each_kind
def test_every_other_group_is_damaged(kind: dict) -> None:
    packets, data, starts = twenty_seconds(kind)
    out = bytearray(data)
    for group in range(1, 21, 2):
        out[starts[group] + 1] ^= 255  # not a length byte
    _, found, problems = salvage(bytes(out))
    assert lost_groups(found, packets) == set(range(1, 21, 2)) and len(problems) == 10


@each_kind
def test_the_last_group_is_damaged(kind: dict) -> None:
    header = make_header(num_samples=36_000, **kind)
    packets = make_packets(header)
    data, starts = bytearray(write_stream(header, packets)), group_starts(header, packets)
    data[starts[2] + len(packets[100])] ^= 64  # the last byte of a packet with VBR
    got, found, problems = salvage(bytes(data))
    assert found == packets[:100] + [None] * 13
    assert got == header and len(problems) == 1 and "damaged after 2.0 s" in problems[0]


def test_wrong_lengths_in_vbr() -> None:
    """All later bytes are out of step, and only checksums tell where groups begin."""
    header = make_header(num_samples=72_000, vbr=True)
    packets = make_packets(header)
    sound, starts = write_stream(header, packets), group_starts(header, packets)
    for group in range(4):
        for wrong in (0, 1, 254):
            data = bytearray(sound)
            if data[starts[group]] == wrong:
                continue
            data[starts[group]] = wrong
            _, found, problems = salvage(bytes(data))
            lost = range(50 * group, 50 * group + 50)
            assert found == [None if i in lost else p for i, p in enumerate(packets)]
            assert len(problems) == 1


def test_swapped_groups() -> None:
    packets, data, (a, b, c, *_) = twenty_seconds({})
    _, found, problems = salvage(data[:a] + data[b:c] + data[a:b] + data[c:])
    assert found == [None] * 100 + packets[100:] and len(problems) == 1


# --- cut off --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in KINDS if "open_end" not in k], ids="+".join)
def test_cut_off(kind: dict) -> None:
    header = make_header(num_samples=36_000, **kind)
    packets = make_packets(header)
    data = write_stream(header, packets)
    for length in [*range(HEADER_BYTES, len(data), 97), len(data) - 1]:
        got, found, problems = salvage(data[:length])
        assert got == header and found == packets[: len(found)]
        assert len(problems) == 1 and "cut off" in problems[0]
        assert len(found) >= (length - HEADER_BYTES) // (256 if header.vbr else 21) - 1


def test_open_end() -> None:
    header = make_header(num_samples=36_000, open_end=True)
    packets = make_packets(header)
    data = write_stream(header, packets)
    # Without its trailer, a stream is as long as its packets are.
    for lost in (1, 7, 9):
        got, found, problems = salvage(data[:-lost])
        assert found == packets and "does not end with its length" in problems[0]
        assert 0 <= got.num_samples - 36_000 < 320
    got, found, problems = salvage(data[:HEADER_BYTES])
    assert (got.num_samples, found) == (0, []) and problems
    # Packets that are whole are kept: the bytes after them are no checksum.
    for surplus in (0, 1, 2, 13, 19):
        got, found, problems = salvage(data[: HEADER_BYTES + 1002 + 16 * 20 + surplus])
        assert found == packets[:66] and len(problems) == 1
        assert num_packets(num_codec_samples(got)) == len(found)
    for length in range(HEADER_BYTES, len(data), 37):
        assert salvage(data[:length])[2]


def test_the_trailer_tells_what_is_missing() -> None:
    header = make_header(num_samples=36_000, open_end=True)
    packets = make_packets(header)
    data = write_stream(header, packets)
    got, found, problems = salvage(data[:-60] + data[-30:])
    assert got == header and found == packets[:100] + [None] * 13 and len(problems) == 1
    # A trailer that claims too much is none.
    forged = data[:-7] + with_crc(MAX_NUM_SAMPLES.to_bytes(5, "big"))
    got, found, problems = salvage(forged)
    assert found == packets and got.num_samples < 36_400 and problems


# --- time, memory, and the search itself ----------------------------------------------------------


@pytest.mark.parametrize("byte", [b"\x00", b"\x01", b"\x14", b"\xff"])
@pytest.mark.parametrize("vbr", [False, True])
def test_time_and_memory_grow_with_the_size(byte: bytes, vbr: bool) -> None:
    """A file of 150 kB, all wrong."""
    header = Header(bytes(4), 8000, MAX_NUM_SAMPLES, 16_000, 3, vbr=vbr)
    data = write_header(header) + byte * 150_000
    tracemalloc.start()
    try:
        salvage_in_pieces(data, 1 << 16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    start = time.process_time()
    _, packets, _ = salvage_stream(data)
    salvage_in_pieces(data, 100)
    assert time.process_time() - start < 3.0
    assert len(packets) <= len(data)


def test_a_few_bytes_cannot_claim_hours() -> None:
    header = make_header(num_samples=16_000 * 3600)
    data = write_stream(header, make_packets(header))
    starts = [HEADER_BYTES + 1002 * group for group in range(3601)]
    for first in (50, 60, 70, 3000):
        _, found, problems = salvage_stream(
            data[:HEADER_BYTES] + data[starts[first] : starts[first + 5]]
        )
        assert len(problems) >= 1
        assert len(found) == (50 * (first + 5) if first <= SPARE_GROUPS else 250)


def test_damaged_groups_in_turn_take_no_longer() -> None:
    """Every third VBR group is damaged: each time, the next sound ones are looked for."""
    rng = np.random.default_rng(0)
    count = 3 * 60 * FRAMES_PER_GROUP
    header = Header(bytes(4), 8000, 320 * count - 160, 16_000, 3, vbr=True)
    packets = [rng.bytes(int(size)) for size in rng.choice([1, 2, 60], count, p=[0.5, 0.45, 0.05])]
    data, starts = bytearray(write_stream(header, packets)), group_starts(header, packets)
    for group in range(0, 180, 3):
        data[starts[group] + 1 + len(packets[50 * group])] ^= 0x40
    start = time.process_time()
    _, found, problems = salvage_stream(bytes(data))
    assert time.process_time() - start < 3.0
    assert len(problems) == 60 and lost_groups(found, packets) == set(range(0, 180, 3))


@pytest.mark.parametrize("vbr", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_search_finds_all_candidates(vbr: bool, seed: int) -> None:
    """What the algebra of the CRC says of all places at once, place by place."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(160, 300))
    header = make_header(
        num_samples=320 * count - 160, nominal_bitrate_bps=8003 + 100 * seed, vbr=vbr
    )
    sizes = rng.integers(1, 5, count)
    packets = [rng.bytes(int(size)) for size in sizes] if vbr else make_packets(header, seed)
    layout, data = FrameLayout.of(header), write_stream(header, packets)[HEADER_BYTES + 5 :]
    damaged = Group(layout, 0)
    found = Search(damaged, 0)._candidates(layout, data, 1200, 0)
    wanted = []
    for place in range(min(1200, len(data))):
        for index in range(layout.num_groups or 0):
            group = Group(layout, index, place).read(data)
            if group.closed:
                body = data[place : group.end - 2]
                assert group.sound == (
                    data[group.end - 2 : group.end]
                    == crc_hqx(body, 0xFFFF ^ index).to_bytes(2, "big")
                )
            if group.sound:
                wanted.append((place, index, group.end))
    assert found == wanted and len(wanted) >= 1


def test_read_agrees_where_nothing_is_wrong() -> None:
    data = make_file(num_samples=50_000, vbr=True)
    assert salvage(data) == (*read_stream(data), [])
