"""The header: exact bytes, and every wrong one ends in one clear line."""

import dataclasses
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import KINDS, make_file, make_header, patched_header, with_crc

from codec.bitstream import (
    BitstreamError,
    Header,
    check_weights,
    group,
    header,
    read_header,
    read_stream,
    write_header,
    write_trailer,
)
from codec.config import FORMAT_VERSION, HEADER_BYTES, MAX_NUM_SAMPLES, TRAILER_BYTES

DOCS = Path(__file__).resolve().parents[3] / "docs" / "bitstream.md"


def error_of(data: bytes) -> str:
    """Return the message of read_header, after checking that it is one line."""
    with pytest.raises(BitstreamError) as caught:
        read_header(data)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 200
    return message


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of all rows whose first or second one is a number of bytes."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if re.fullmatch(r" *[\dL].*", row[0])]


# --- layout ---------------------------------------------------------------------------------------


def test_header_bytes_are_as_documented() -> None:
    made = make_header(
        nominal_bitrate_bps=13200,
        source_sample_rate=768000,
        num_samples=0x12_3456_789A,
        num_stages=8,
        vbr=True,
    )
    raw = bytes.fromhex("4e535651 07 18 01 08 0badcafe 3390 0bb800 123456789a")
    assert write_header(made) == with_crc(raw)
    assert len(write_header(made)) == HEADER_BYTES == 24
    assert read_header(write_header(made)) == (made, HEADER_BYTES)
    assert write_trailer(0x12_3456_789A) == with_crc(bytes.fromhex("123456789a"))


def test_docstring_and_docs_have_the_same_tables() -> None:
    """And the offsets in them are those of the structures."""
    assert header.__doc__ is not None and group.__doc__ is not None
    docs = table_rows(DOCS.read_text())
    rows = table_rows(header.__doc__)
    assert len(rows) == 13 and [row for row in rows if row not in docs] == []
    assert f"format version {FORMAT_VERSION}" in DOCS.read_text().splitlines()[0]
    assert rows[1][2:] == ["format version", str(FORMAT_VERSION)]
    offset = 0
    for row in rows[:9]:
        assert int(row[0]) == offset
        offset += int(row[1])
    assert offset == HEADER_BYTES - 2 == header.PREFIX.size + header.FIELDS.size
    assert sum(int(row[1]) for row in rows[11:]) == TRAILER_BYTES


@pytest.mark.parametrize(
    ("changes", "flags"),
    [({}, 0), ({"vbr": True}, 1), ({"independent": True}, 2), ({"open_end": True}, 4),
     ({"vbr": True, "independent": True}, 3), ({"independent": True, "open_end": True}, 6)],
)  # fmt: skip
def test_flags(changes: dict, flags: int) -> None:
    made = make_header(**changes)
    raw = write_header(made)
    assert raw[6] == flags
    # An open end keeps its length for the trailer.
    known = dataclasses.replace(made, num_samples=0 if made.open_end else 4000)
    assert read_header(raw) == (known, HEADER_BYTES)


@settings(max_examples=100, deadline=None)
@given(
    fingerprint=st.binary(min_size=4, max_size=4),
    bitrate=st.integers(8000, 32000),
    samples=st.integers(0, MAX_NUM_SAMPLES),
    rate=st.integers(1000, 768000),
    stages=st.integers(1, 8),
    kind=st.sampled_from(KINDS),
    later=st.binary(max_size=200),
)
def test_header_round_trip(fingerprint, bitrate, samples, rate, stages, kind, later) -> None:
    samples = 0 if kind.get("open_end") else samples
    made = Header(fingerprint, bitrate, samples, rate, stages, **kind)
    raw = write_header(made)
    assert read_header(raw) == (made, HEADER_BYTES)
    longer = with_crc(raw[:5] + bytes([HEADER_BYTES + len(later)]) + raw[6:-2] + later)
    assert read_header(longer + b"packets") == (made, len(longer))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([0, 4, 5, 6, 12, 17]), st.booleans())
def test_any_header_bytes(tail: bytes, kept: int, right: bool) -> None:
    data = write_header(make_header())[:kept] + tail
    if right and len(data) >= 8 and 8 <= data[5] <= len(data):
        data = with_crc(data[: data[5] - 2]) + data[data[5] :]
    try:
        made, length = read_header(data)
    except BitstreamError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 200
    else:
        if not made.open_end:  # its number of samples is not read
            assert write_header(made)[6:22] == data[6:22]
        assert length == data[5]


def test_extra_header_bytes_are_skipped() -> None:
    data = make_file()
    raw = data[:5] + bytes([HEADER_BYTES + 7]) + data[6 : HEADER_BYTES - 2] + b"what???"
    assert read_stream(with_crc(raw) + data[HEADER_BYTES:]) == read_stream(data)


def test_header_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_header().num_samples = 3  # type: ignore[misc]


# --- what is wrong --------------------------------------------------------------------------------


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
        (dict(version=3), "version 3 cannot be written"),
        (dict(version=4), "version 4 cannot be written"),
        (dict(vbr=True, open_end=True), "open end has a variable bitrate"),
    ],
)
def test_writer_checks_the_header(changes: dict, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        write_header(make_header(**changes))
    if changes.get("num_samples"):
        with pytest.raises(BitstreamError, match=message):
            write_trailer(changes["num_samples"])


def test_header_errors() -> None:
    data = make_file()
    assert "empty" in error_of(b"")
    assert "not a file of this codec" in error_of(b"RIFF" + data[4:])
    assert "not a file of this codec" in error_of(b"NS\0")
    assert "cut off within its header" in error_of(data[:3])
    assert "cut off within its header" in error_of(data[:23])
    assert "header is damaged" in error_of(data[:9] + b"\0" + data[10:])
    assert "header is damaged" in error_of(data[:5] + b"\x07" + data[6:])
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


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5, 6, 255])
def test_other_versions_get_one_clear_line(version: int) -> None:
    what = "install a newer version" if version > FORMAT_VERSION else "encode the sound again"
    assert re.search(
        f"format version {version}, this program reads version {FORMAT_VERSION} only: {what}",
        error_of(patched_header(4, bytes([version]))),
    )


def test_fingerprint_and_stages() -> None:
    made = make_header()
    check_weights(made, bytes.fromhex("0badcafe"), 4)
    with pytest.raises(BitstreamError, match="0badcafe.*deadbeef.*--weights"):
        check_weights(made, bytes.fromhex("deadbeef"), 4)
    for place in range(4):  # each byte counts
        other = bytearray.fromhex("0badcafe")
        other[place] ^= 1
        with pytest.raises(BitstreamError, match=f"0badcafe.*{other.hex()}"):
            check_weights(made, bytes(other), 4)
    with pytest.raises(BitstreamError, match="names 3 envelope stages, the weights have 2"):
        check_weights(made, bytes.fromhex("0badcafe"), 2)
