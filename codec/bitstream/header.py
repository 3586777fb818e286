"""The header of a coded file, and the trailer of a stream with an open end.

Header (all numbers unsigned, big-endian)

| byte | size | field | values |
|---|---|---|---|
| 0 | 4 | magic | `NSVQ` |
| 4 | 1 | format version | 7 |
| 5 | 1 | header length L, CRC included | 24; more when fields have been added |
| 6 | 1 | flags | bit 0: variable bitrate (VBR); bit 1: intra only; bit 2: open end; others 0 |
| 7 | 1 | number of envelope stages S | 1–8 |
| 8 | 4 | fingerprint of the weights | |
| 12 | 2 | nominal bitrate, bit/s | 8000–32000 |
| 14 | 3 | sample rate of the source, Hz | 1000–768000 |
| 17 | 5 | number of samples n, at the rate of the source | 0 – 2⁴⁰ − 1; 0 with an open end |
| 22 | L − 24 | fields of a later writer | skipped by a reader that does not know them |
| L − 2 | 2 | CRC-16 of bytes 0 … L − 3 | start value `0xFFFF` |

Trailer, with an open end only (a stream whose length is not known when it begins)

| byte | size | field | values |
|---|---|---|---|
| 0 | 5 | number of samples n, at the rate of the source | 0 – 2⁴⁰ − 1 |
| 5 | 2 | CRC-16 of bytes 0 … 4 | start value `0xFFFF` |

Magic, version, header length and the place of the header's CRC are the same in all versions.
CRC-16 is the CCITT one (polynomial 0x1021, most significant bit first): `binascii.crc_hqx`.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from dataclasses import dataclass

from codec.config import (
    CRC_BYTES,
    FINGERPRINT_BYTES,
    FORMAT_VERSION,
    HEADER_BYTES,
    MAGIC,
    MAX_BITRATE_BPS,
    MAX_NUM_SAMPLES,
    MAX_NUM_STAGES,
    MAX_SOURCE_RATE,
    MIN_BITRATE_BPS,
    MIN_SOURCE_RATE,
    TRAILER_BYTES,
)
from codec.errors import BitstreamError

CRC_START = 0xFFFF
CRC = struct.Struct(">H")
PREFIX = struct.Struct(">4sBB")  # magic, version, header length
FIELDS = struct.Struct(">BB4sHBHBI")  # 24 and 40 bits as high byte and low part
FLAG_VBR, FLAG_INDEPENDENT, FLAG_OPEN = 0x01, 0x02, 0x04


@dataclass(frozen=True)
class Header:
    """Hold all that the decoder must know beside the packets and the weights.

    Parameters
    ----------
    fingerprint : bytes, 4         of the weights that the file was coded with
    nominal_bitrate_bps : int      8000..32000
    num_samples : int              at `source_sample_rate`, 0..2^40 - 1
    source_sample_rate : int       Hz, 1000..768000
    num_stages : int               envelope stages, 1..8
    vbr : bool                     packets carry their length
    independent : bool             all frames are intra frames: no packet needs another
    open_end : bool                a trailer holds `num_samples`; in a header that was read from the
                                   beginning of a stream, it is 0 until then
    version : int                  format version
    """

    fingerprint: bytes
    nominal_bitrate_bps: int
    num_samples: int
    source_sample_rate: int
    num_stages: int
    vbr: bool = False
    independent: bool = False
    open_end: bool = False
    version: int = FORMAT_VERSION

    @property
    def duration(self) -> float:
        """Length of the source in seconds."""
        return self.num_samples / self.source_sample_rate


def write_header(header: Header) -> bytes:
    """Return the 24 bytes of a header.

    Raises
    ------
    BitstreamError   a field is out of its range
    """
    if header.version != FORMAT_VERSION:
        raise BitstreamError(
            f"format version {header.version} cannot be written: only version {FORMAT_VERSION}"
        )
    problem = _field_problem(header)
    if problem is not None:
        raise BitstreamError(f"{problem}: choose another value")
    samples = 0 if header.open_end else header.num_samples
    flags = FLAG_VBR * header.vbr | FLAG_INDEPENDENT * header.independent
    raw = PREFIX.pack(MAGIC, header.version, HEADER_BYTES) + FIELDS.pack(
        flags | FLAG_OPEN * header.open_end,
        header.num_stages,
        header.fingerprint,
        header.nominal_bitrate_bps,
        header.source_sample_rate >> 16,
        header.source_sample_rate & 0xFFFF,
        samples >> 32,
        samples & 0xFFFFFFFF,
    )
    return raw + CRC.pack(crc_hqx(raw, CRC_START))


def read_header(data: bytes) -> tuple[Header, int]:
    """Return the header and the offset of the first packet.

    Raises
    ------
    BitstreamError   not our file, another version, cut off, damaged, or a field out of its range
    """
    found = find_header(data)
    if found is None:
        if not data:
            raise BitstreamError("the file is empty: encode or copy it again")
        raise BitstreamError("the file is cut off within its header: copy it again")
    return found


def find_header(data: bytes) -> tuple[Header, int] | None:
    """Return what `read_header` does, None while the header is not all there."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise BitstreamError(
            f"this is not a file of this codec (it does not begin with '{MAGIC.decode()}'): "
            "give a file that 'codec encode' has written"
        )
    if len(data) < PREFIX.size:
        return None
    _, version, length = PREFIX.unpack_from(data)
    least = PREFIX.size + CRC_BYTES
    if len(data) < max(length, least):
        return None
    end = length - CRC_BYTES
    if length < least or crc_hqx(data[:end], CRC_START) != CRC.unpack_from(data, end)[0]:
        raise BitstreamError("the header is damaged (wrong checksum): copy the file again")
    # From here on the header is what its writer meant.
    if version != FORMAT_VERSION:
        raise BitstreamError(_version_message(version))
    if length < HEADER_BYTES:
        raise BitstreamError(
            f"the header has {length} bytes, fewer than the {HEADER_BYTES} of format version "
            f"{version}: encode the file again"
        )
    return _read_fields(data), length


def _read_fields(data: bytes) -> Header:
    flags, stages, fingerprint, bitrate, rate_high, rate_low, samples_high, samples_low = (
        FIELDS.unpack_from(data, PREFIX.size)
    )
    if flags & ~(FLAG_VBR | FLAG_INDEPENDENT | FLAG_OPEN):
        raise BitstreamError(
            f"the header has flags that this program does not know (0x{flags:02x}): "
            "install a newer version of it"
        )
    header = Header(
        fingerprint=fingerprint,
        nominal_bitrate_bps=bitrate,
        num_samples=samples_high << 32 | samples_low,
        source_sample_rate=rate_high << 16 | rate_low,
        num_stages=stages,
        vbr=bool(flags & FLAG_VBR),
        independent=bool(flags & FLAG_INDEPENDENT),
        open_end=bool(flags & FLAG_OPEN),
    )
    problem = _field_problem(header)
    if problem is not None:
        raise BitstreamError(f"{problem}: the file was written wrongly, encode it again")
    return header


def _field_problem(header: Header) -> str | None:
    """Return what is wrong with a header's fields, None if nothing is."""
    if len(header.fingerprint) != FINGERPRINT_BYTES:
        return f"the fingerprint has {len(header.fingerprint)} bytes, not {FINGERPRINT_BYTES}"
    ranges = (
        ("bitrate", header.nominal_bitrate_bps, MIN_BITRATE_BPS, MAX_BITRATE_BPS, " bit/s"),
        ("source sample rate", header.source_sample_rate, MIN_SOURCE_RATE, MAX_SOURCE_RATE, " Hz"),
        ("number of samples", header.num_samples, 0, MAX_NUM_SAMPLES, ""),
        ("number of envelope stages", header.num_stages, 1, MAX_NUM_STAGES, ""),
    )
    for name, value, lowest, highest, unit in ranges:
        if not lowest <= value <= highest:
            return f"the {name} is {value}, outside {lowest}..{highest}{unit}"
    if header.open_end and header.vbr:
        return "a stream with an open end has a variable bitrate"
    return None


def _version_message(version: int) -> str:
    what = (
        "install a newer version of it"
        if version > FORMAT_VERSION
        else "encode the sound again, or decode the file with the version that wrote it"
    )
    return (
        f"the file has format version {version}, this program reads version {FORMAT_VERSION} "
        f"only: {what}"
    )


def check_weights(header: Header, fingerprint: bytes, num_stages: int) -> None:
    """Check that the loaded weights are those that the file was coded with.

    Parameters
    ----------
    header : Header
    fingerprint : bytes   of the weights
    num_stages : int      that they have

    Raises
    ------
    BitstreamError   they are not, or the header asks for more than they have
    """
    if header.fingerprint != fingerprint:
        raise BitstreamError(
            f"the file was coded with the weights {header.fingerprint.hex()}, but those loaded are "
            f"{fingerprint.hex()}: load the right ones with --weights"
        )
    if not 1 <= header.num_stages <= num_stages:
        raise BitstreamError(
            f"the header names {header.num_stages} envelope stages, the weights have "
            f"{num_stages}: the file is damaged, copy it again"
        )


def write_trailer(num_samples: int) -> bytes:
    """Return the 7 bytes that end a stream with an open end.

    Raises
    ------
    BitstreamError   the number of samples is outside 0..2^40 - 1
    """
    if not 0 <= num_samples <= MAX_NUM_SAMPLES:
        raise BitstreamError(
            f"the number of samples is {num_samples}, outside 0..{MAX_NUM_SAMPLES}: "
            "choose another value"
        )
    raw = num_samples.to_bytes(TRAILER_BYTES - CRC_BYTES, "big")
    return raw + CRC.pack(crc_hqx(raw, CRC_START))


def read_trailer(data: bytes) -> int | None:
    """Return the number of samples in a trailer, None if these bytes are not one."""
    raw = data[:-CRC_BYTES]
    if len(data) != TRAILER_BYTES or data[-CRC_BYTES:] != CRC.pack(crc_hqx(raw, CRC_START)):
        return None
    return int.from_bytes(raw, "big")
