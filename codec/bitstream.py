"""Write and read the file: header, packets, checksums.

All numbers are unsigned, big-endian.  `docs/bitstream.md` says more, and what is in a packet.

Header (24 bytes in version 3)
    byte   size  field
    0      4     magic, "NSVQ"
    4      1     format version, 3
    5      1     header length L in bytes, CRC included: 24; more if fields were added at the end
    6      1     flags: bit 0 = variable bitrate (VBR), bit 1 = independent packets,
                 bit 2 = open end (the number of samples stands in a trailer); others are 0
    7      1     number of envelope stages, 1..8
    8      4     fingerprint of the weights
    12     2     nominal bitrate, bit/s, 8000..32000
    14     3     sample rate of the source, Hz, 1000..768000
    17     5     number of samples, at the rate of the source; 0 with an open end
    22     L-24  unknown fields of a later writer, skipped
    L-2    2     CRC-16 of bytes 0..L-3, start value 0xFFFF

Packets (20 ms each), in groups of 50; the last group holds what is left
    CBR    packet i is floor(rate (i+1) / 400) - floor(rate i / 400) bytes
    VBR    one length byte, 1..255, then as many bytes
    2      end of each group: CRC-16 of its bytes (length bytes included), start value
           0xFFFF xor the low 16 bits of the group's index, so that groups cannot change places

Trailer, with an open end only (a stream whose length was not known when it began; CBR)
    5      number of samples, at the rate of the source
    2      CRC-16 of these 5 bytes, start value 0xFFFF

The first packet of each group needs no packet before it.  With independent packets, none does.
The file ends with the last group or the trailer.  CRC-16 is the CCITT one (polynomial 0x1021, most
significant bit first): `binascii.crc_hqx`.

Magic, version, header length and the place of the header's CRC are the same in all versions.
"""

import struct
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

MAGIC = b"NSVQ"
FORMAT_VERSION = 3
HEADER_BYTES = 24
CRC_BYTES = 2
FLAG_VBR, FLAG_INDEPENDENT, FLAG_OPEN = 0x01, 0x02, 0x04
TRAILER_BYTES = 7
FINGERPRINT_BYTES = 4

CODEC_SAMPLE_RATE = 16000
HOP_LENGTH = 160
BLOCKS_PER_PACKET = 2
PACKETS_PER_SECOND = 50
PACKETS_PER_GROUP = 50

MIN_BITRATE_BPS = 8000
MAX_BITRATE_BPS = 32000
MIN_SOURCE_RATE = 1000
MAX_SOURCE_RATE = 768000
MAX_NUM_SAMPLES = (1 << 40) - 1
MAX_NUM_STAGES = 8
MAX_PACKET_BYTES = 255

_PREFIX = struct.Struct(">4sBB")  # magic, version, header length
_FIELDS = struct.Struct(">BB4sHBHBI")  # uint24 and uint40 as high byte and low part
_CRC = struct.Struct(">H")
_CRC_START = 0xFFFF
_CRC_POLYNOMIAL, _CRC_PERIOD = 0x11021, 32767  # x^32767 = 1 modulo the polynomial
# How many damaged VBR groups in a row `salvage_stream` gets over.
_GROUPS_TO_SKIP = 3


class BitstreamError(ValueError):
    """Say in one line what is wrong with a file, and what to do."""


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
    independent : bool             no packet needs another
    open_end : bool                a trailer holds `num_samples`; in a Header that was read from the
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


# --- counts ---------------------------------------------------------------------------------------


def num_codec_samples(header: Header) -> int:
    """Return the number of samples at 16 kHz: ceil(num_samples 16000 / source_sample_rate)."""
    return -(-header.num_samples * CODEC_SAMPLE_RATE // header.source_sample_rate)


def num_packets(codec_samples: int) -> int:
    """Return the number of packets for `codec_samples` samples at 16 kHz.

    T samples take ceil(T / 160) + 1 MDCT blocks (they overlap: the first one starts 160 samples
    before the signal), two of them to a packet.  No samples, no packets.
    """
    if codec_samples == 0:
        return 0
    num_blocks = -(-codec_samples // HOP_LENGTH) + 1
    return -(-num_blocks // BLOCKS_PER_PACKET)


def num_groups(packet_count: int) -> int:
    """Return the number of groups, each with a CRC, that `packet_count` packets make."""
    return -(-packet_count // PACKETS_PER_GROUP)


def cbr_bytes(nominal_bitrate_bps: int, packet_count: int) -> int:
    """Return the bytes of the first `packet_count` packets: floor(rate packets / 400)."""
    return nominal_bitrate_bps * packet_count // (8 * PACKETS_PER_SECOND)


def cbr_packet_sizes(nominal_bitrate_bps: int, n: int) -> list[int]:
    """Return the sizes in bytes of the first `n` packets at a constant bitrate.

    Fractions of a byte are carried over, so that every prefix of the stream is at the nominal rate
    to less than one byte.

    Examples
    --------
    >>> cbr_packet_sizes(13200, 3), cbr_packet_sizes(8100, 4)
    ([33, 33, 33], [20, 20, 20, 21])
    """
    return [
        cbr_bytes(nominal_bitrate_bps, i + 1) - cbr_bytes(nominal_bitrate_bps, i) for i in range(n)
    ]


def intra_packets(count: int, independent: bool, first: int = 0) -> np.ndarray:
    """Tell which packets of a file need no other, bool [count], from packet `first` on.

    All of them in a file of independent packets, else the first one of every group.
    """
    if independent:
        return np.ones(count, np.bool_)
    return (first + np.arange(count)) % PACKETS_PER_GROUP == 0


def overhead_bytes(header: Header) -> int:
    """Return the bytes of a file that are not packets: header, group CRCs, VBR length bytes."""
    count = num_packets(num_codec_samples(header))
    trailer = TRAILER_BYTES if header.open_end else 0
    return HEADER_BYTES + CRC_BYTES * num_groups(count) + (count if header.vbr else 0) + trailer


# --- header ---------------------------------------------------------------------------------------


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
    what = "install a newer version of it" if version > FORMAT_VERSION else "encode the file again"
    return (
        f"the file has format version {version}, this program knows version {FORMAT_VERSION}: "
        f"{what}"
    )


def _flags(header: Header) -> int:
    return (
        FLAG_VBR * header.vbr | FLAG_INDEPENDENT * header.independent | FLAG_OPEN * header.open_end
    )


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
    raw = _PREFIX.pack(MAGIC, header.version, HEADER_BYTES) + _FIELDS.pack(
        _flags(header),
        header.num_stages,
        header.fingerprint,
        header.nominal_bitrate_bps,
        header.source_sample_rate >> 16,
        header.source_sample_rate & 0xFFFF,
        0 if header.open_end else header.num_samples >> 32,
        0 if header.open_end else header.num_samples & 0xFFFFFFFF,
    )
    return raw + _CRC.pack(crc_hqx(raw, _CRC_START))


def read_header(data: bytes) -> tuple[Header, int]:
    """Return the header and the offset of the first packet.

    Raises
    ------
    BitstreamError   not our file, another version, cut off, damaged, or a field out of its range
    """
    if not data:
        raise BitstreamError("the file is empty: encode or copy it again")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise BitstreamError(
            "this is not a file of this codec (it does not begin with 'NSVQ'): "
            "give a file that 'codec encode' has written"
        )
    cut_off = "the file is cut off within its header: copy it again"
    damaged = "the header is damaged (wrong checksum): copy the file again"
    if len(data) < _PREFIX.size:
        raise BitstreamError(cut_off)
    _, version, length = _PREFIX.unpack_from(data)
    if length < _PREFIX.size + CRC_BYTES:
        raise BitstreamError(damaged)
    if len(data) < length:
        raise BitstreamError(cut_off)
    (crc,) = _CRC.unpack_from(data, length - CRC_BYTES)
    if crc_hqx(data[: length - CRC_BYTES], _CRC_START) != crc:
        raise BitstreamError(damaged)
    # From here on the header is what its writer meant.
    if version != FORMAT_VERSION:
        raise BitstreamError(_version_message(version))
    if length < HEADER_BYTES:
        raise BitstreamError(
            f"the header has {length} bytes, fewer than the {HEADER_BYTES} of format version "
            f"{version}: encode the file again"
        )
    flags, stages, fingerprint, bitrate, rate_high, rate_low, samples_high, samples_low = (
        _FIELDS.unpack_from(data, _PREFIX.size)
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
        version=version,
    )
    problem = _field_problem(header)
    if problem is not None:
        raise BitstreamError(f"{problem}: the file was written wrongly, encode it again")
    return header, length


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
    if header.num_stages > num_stages:
        raise BitstreamError(
            f"the header names {header.num_stages} envelope stages, the weights have "
            f"{num_stages}: the file is damaged, copy it again"
        )


# --- packets --------------------------------------------------------------------------------------


def _group_crc(index: int, group: bytes) -> int:
    return crc_hqx(group, _CRC_START ^ (index & 0xFFFF))


def write_stream(header: Header, packets: Sequence[bytes]) -> bytes:
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
    parts = [write_header(header)]
    count = num_packets(num_codec_samples(header))
    if len(packets) != count:
        raise BitstreamError(
            f"{header.num_samples} samples take {count} packets, {len(packets)} were given"
        )
    for first in range(0, count, PACKETS_PER_GROUP):
        group = bytearray()
        for i in range(first, min(first + PACKETS_PER_GROUP, count)):
            packet = packets[i]
            if header.vbr:
                if not 1 <= len(packet) <= MAX_PACKET_BYTES:
                    raise BitstreamError(
                        f"packet {i} has {len(packet)} bytes, outside 1..{MAX_PACKET_BYTES}"
                    )
                group.append(len(packet))
            else:
                size = _cbr_size(header.nominal_bitrate_bps, i)
                if len(packet) != size:
                    raise BitstreamError(f"packet {i} has {len(packet)} bytes, must have {size}")
            group += packet
        parts.append(bytes(group))
        parts.append(_CRC.pack(_group_crc(first // PACKETS_PER_GROUP, parts[-1])))
    if header.open_end:
        parts.append(write_trailer(header.num_samples))
    return b"".join(parts)


def write_trailer(num_samples: int) -> bytes:
    """Return the 7 bytes that end a stream with an open end."""
    raw = num_samples.to_bytes(5, "big")
    return raw + _CRC.pack(crc_hqx(raw, _CRC_START))


def _read_trailer(raw: bytes) -> int | None:
    """Return the number of samples in a trailer, None if it is not one."""
    if len(raw) != TRAILER_BYTES or raw[5:] != _CRC.pack(crc_hqx(raw[:5], _CRC_START)):
        return None
    return int.from_bytes(raw[:5], "big")


def _close(header: Header, data: bytes, offset: int) -> tuple[Header, bytes] | None:
    """Return header and data of a stream with an open end as those of a file without one.

    None if its trailer is not there or does not agree with the bytes before it. Files without an
    open end come back as they are.
    """
    if not header.open_end:
        return header, data
    count = _read_trailer(data[max(len(data) - TRAILER_BYTES, offset) :])
    if count is None:
        return None
    closed = replace(header, num_samples=count)
    packets = num_packets(num_codec_samples(closed))
    size = cbr_bytes(header.nominal_bitrate_bps, packets) + CRC_BYTES * num_groups(packets)
    if offset + size + TRAILER_BYTES != len(data):
        return None
    return closed, data[: len(data) - TRAILER_BYTES]


def _cbr_size(nominal_bitrate_bps: int, i: int) -> int:
    """Return the size of packet `i` at a constant bitrate."""
    return cbr_bytes(nominal_bitrate_bps, i + 1) - cbr_bytes(nominal_bitrate_bps, i)


@dataclass(frozen=True)
class _Group:
    """What was found of one group: its packets, and what is wrong with it (None: nothing)."""

    packets: list[bytes]
    problem: str | None
    size: int  # in bytes, CRC included
    cut_off: bool = False


def _seconds(header: Header, packet: int) -> str:
    """Return where a packet begins in the signal, e.g. '1.3 s'."""
    return f"{min(packet / PACKETS_PER_SECOND, header.duration):.1f} s"


def _cut_off_message(header: Header, num_intact: int) -> str:
    return (
        f"the file is cut off after {_seconds(header, num_intact)} of {header.duration:.1f} s: "
        "copy it again"
    )


def _trailing_message(num_bytes: int) -> str:
    what = "is 1 byte" if num_bytes == 1 else f"are {num_bytes} bytes"
    return (
        f"there {what} too many at the end of the file: copy it again"
    )


def _read_groups(
    header: Header, data: bytes, offset: int, first: int = 0
) -> Iterator[_Group]:
    """Yield the groups of a file from packet `first` on until its data end.

    The last one may be cut off.

    Memory is taken for bytes that are there, never for what the header claims.
    """
    count = num_packets(num_codec_samples(header))
    while first < count:
        last = min(first + PACKETS_PER_GROUP, count)
        start = offset
        packets: list[bytes] = []
        cut_off = False
        for i in range(first, last):
            if header.vbr:
                size = data[offset] if offset < len(data) else 0
                offset += 1
                if size == 0 and offset <= len(data):
                    problem = (
                        f"the file is damaged at {_seconds(header, i)} (a packet of no bytes): "
                        "copy it again"
                    )
                    yield _Group(packets, problem, offset - start)
                    return
            else:
                size = _cbr_size(header.nominal_bitrate_bps, i)
            if offset + size > len(data):
                cut_off = True
                break
            packets.append(data[offset : offset + size])
            offset += size
        if cut_off or offset + CRC_BYTES > len(data):
            message = _cut_off_message(header, first + len(packets))
            yield _Group(packets, message, offset - start, cut_off=True)
            return
        index = first // PACKETS_PER_GROUP
        (crc,) = _CRC.unpack_from(data, offset)
        problem_or_none = None
        if _group_crc(index, data[start:offset]) != crc:
            problem_or_none = (
                f"the file is damaged between {_seconds(header, first)} and "
                f"{_seconds(header, last)} (wrong checksum of group {index}): "
                "copy it again"
            )
        offset += CRC_BYTES
        yield _Group(packets, problem_or_none, offset - start)
        first = last
    if offset < len(data):
        yield _Group([], _trailing_message(len(data) - offset), len(data) - offset)


def read_stream(data: bytes) -> tuple[Header, list[bytes]]:
    """Return header and packets of a whole file, all of it checked.

    Raises
    ------
    BitstreamError   anything is wrong, see the messages
    """
    header, offset = read_header(data)
    closed = _close(header, data, offset)
    if closed is None:
        raise BitstreamError(
            "the stream is cut off or damaged: it does not end with its length; copy it again"
        )
    header, data = closed
    if not header.vbr:  # the size is known: say "cut off" rather than "damaged" where it is
        count = num_packets(num_codec_samples(header))
        payload = cbr_bytes(header.nominal_bitrate_bps, count)
        surplus = len(data) - (offset + payload + CRC_BYTES * num_groups(count))
        if surplus > 0:
            raise BitstreamError(_trailing_message(surplus))
        if surplus < 0:
            raise BitstreamError(_cut_off_message(header, _num_whole_packets(header, data, offset)))
    packets: list[bytes] = []
    for group in _read_groups(header, data, offset):
        if group.problem is not None:
            raise BitstreamError(group.problem)
        packets += group.packets
    return header, packets


def _num_whole_packets(header: Header, data: bytes, offset: int) -> int:
    return sum(len(group.packets) for group in _read_groups(header, data, offset))


def _whole_packets(header: Header, num_bytes: int) -> tuple[int, int]:
    """Return how many packets of a CBR stream are whole in its first `num_bytes`, and their bytes.

    The bytes include the CRCs of whole groups: that of a last one that is not full is not asked
    for, since where it stands depends on the length that is not known.
    """

    def size(count: int) -> int:
        crcs = CRC_BYTES * (count // PACKETS_PER_GROUP)
        return cbr_bytes(header.nominal_bitrate_bps, count) + crcs

    low, high = 0, num_bytes // cbr_bytes(MIN_BITRATE_BPS, 1) + 1
    while high - low > 1:
        count = (low + high) // 2
        low, high = (count, high) if size(count) <= num_bytes else (low, count)
    return low, size(low)


def salvage_stream(data: bytes) -> tuple[Header, list[bytes | None], list[str]]:
    """Return what is intact of a damaged file.

    The header must be sound.  Packets of a group with a wrong CRC are None.  Those of a last group
    that is cut off are kept as far as they are whole, though no CRC vouches for them (VBR: unless
    an earlier group was damaged, since the lengths may then be out of step).

    Returns
    -------
    Header                  with an open end whose trailer is lost: as many samples as there are
    list of bytes or None   at most num_packets(num_codec_samples(header)); what is missing at the
                            end is lost
    list of str             one line per problem, empty for a sound file

    Raises
    ------
    BitstreamError   the header is damaged
    """
    header, offset = read_header(data)
    packets: list[bytes | None] = []
    problems: list[str] = []
    closed = _close(header, data, offset)
    if closed is None:
        whole, num_bytes = _whole_packets(header, len(data) - offset)
        samples = max(2 * whole - 1, 0) * HOP_LENGTH
        samples = samples * header.source_sample_rate // CODEC_SAMPLE_RATE
        header = replace(header, num_samples=samples)
        data = data[: offset + num_bytes]
        problems.append("the stream does not end with its length: it was cut off or damaged")
    else:
        header, data = closed
    count = num_packets(num_codec_samples(header))
    in_step = True
    sound: _SoundGroups | None = None
    while len(packets) < count and in_step:
        first = len(packets)
        for group in _read_groups(header, data, offset, first):
            problem, found = group.problem, None
            if problem is not None and header.vbr:
                # The length bytes are suspect: look for a place where groups are sound again.
                sound = _SoundGroups(data) if sound is None else sound
                found = sound.next(offset, len(packets), count)
                if found is not None and group.cut_off:  # the lengths led out of the file
                    where = _seconds(header, len(packets))
                    problem = f"the file is damaged after {where} (a wrong length): copy it again"
            if problem is not None:
                problems.append(problem)
            if problem is None or (group.cut_off and found is None):
                packets += group.packets
                offset += group.size
                in_step = not group.cut_off
                continue
            if not header.vbr:
                packets += [None] * min(PACKETS_PER_GROUP, count - len(packets))
                offset += group.size
                continue
            if found is None:
                in_step = False
            else:
                packets += [None] * (found[0] - len(packets))
                offset = found[1]
            break
        else:
            break
    return header, packets, problems


@lru_cache(maxsize=1)
def _powers_of_x() -> np.ndarray:
    """Return x^e modulo the CRC's polynomial for e = 0..32766, uint32; then they repeat."""
    powers = np.empty(_CRC_PERIOD, np.uint32)
    value = 1
    for e in range(_CRC_PERIOD):
        powers[e] = value
        value = (value << 1) ^ (_CRC_POLYNOMIAL if value & 0x8000 else 0)
    return powers


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the products of polynomials over GF(2) modulo the CRC's, uint32 arrays."""
    product = np.zeros_like(a)
    for bit in range(15, -1, -1):
        product = (product << 1) ^ (product >> 15) * np.uint32(_CRC_POLYNOMIAL)
        product ^= a * ((b >> bit) & 1)
    return product


class _SoundGroups:
    """Tell at every byte of a VBR file which group would be sound if it began there.

    A CRC is linear: that of data[a:b] with start value s is P[b] xor x^(8 (b - a)) (P[a] xor s),
    where P[i] is the CRC of data[:i] with start value 0, and a group's start value is 0xFFFF xor
    its index. Solved for the index, all places of a file are checked at once, in a time that grows
    with its size. One after the other, with a CRC of up to 12 kB for each, they would take seconds
    for every damaged group.
    """

    def __init__(self, data: bytes) -> None:
        size = len(data)
        integer: type[Any] = np.int32 if size < 1 << 30 else np.int64
        self._bytes = np.frombuffer(data, np.uint8)
        crcs = accumulate(data, lambda crc, byte: crc_hqx(bytes((byte,)), crc), initial=0)
        self._prefix = np.fromiter(crcs, np.uint16, size + 1)
        # Where the packet ends whose length byte stands here; size + 1: nowhere.
        self._next = np.full(size + 2, size + 1, integer)
        ends = np.arange(1, size + 1, dtype=integer) + self._bytes
        good = (self._bytes > 0) & (ends <= size)
        self._next[:size][good] = ends[good]
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, packets: int) -> tuple[np.ndarray, np.ndarray]:
        """Return for groups of so many packets where they end, and their index.

        Returns
        -------
        end : int [n + 2]       behind the CRC of the group that begins at each byte
        index : int32 [n + 2]   the low 16 bits of its index if it is sound; -1: it is not whole
        """
        if packets not in self._known:
            size = len(self._bytes)
            end = np.arange(size + 2, dtype=self._next.dtype)
            jump, rest = self._next, packets
            while rest:  # by powers of two
                if rest & 1:
                    end = jump[end]
                jump, rest = jump[jump], rest >> 1
            index = np.full(size + 2, -1, np.int32)
            whole = np.flatnonzero(end <= size - CRC_BYTES)
            for part in np.array_split(whole, len(whole) // (1 << 20) + 1):  # to save memory
                last = end[part]
                crc = self._bytes[last].astype(np.uint32) << 8 | self._bytes[last + 1]
                shift = _powers_of_x()[-8 * (last - part) % _CRC_PERIOD]
                start = _multiply(self._prefix[last] ^ crc, shift) ^ self._prefix[part]
                index[part] = start ^ np.uint32(_CRC_START)
            self._known[packets] = np.minimum(end, size) + CRC_BYTES, index
        return self._known[packets]

    def next(self, offset: int, first: int, count: int) -> tuple[int, int] | None:
        """Return first packet and place of the next sound group after a damaged one.

        One checksum of 16 bits would be right by chance once in five damaged groups; two in a row
        (or one that ends the file) hardly ever are.

        Parameters
        ----------
        offset, first : int   place and first packet of the damaged group
        count : int           packets of the file
        """
        smallest, largest = 2 * PACKETS_PER_GROUP, (1 + MAX_PACKET_BYTES) * PACKETS_PER_GROUP
        for skipped in range(1, _GROUPS_TO_SKIP + 1):
            packet = first + skipped * PACKETS_PER_GROUP
            if packet >= count:
                return None
            start = offset + skipped * (smallest + CRC_BYTES)
            stop = min(offset + skipped * (largest + CRC_BYTES), len(self._bytes))
            end, index = self.of(min(PACKETS_PER_GROUP, count - packet))
            number = packet // PACKETS_PER_GROUP
            places = start + np.flatnonzero(index[start:stop] == number & 0xFFFF)
            following = packet + PACKETS_PER_GROUP
            if following >= count:
                places = places[end[places] == len(self._bytes)]
            else:
                _, index = self.of(min(PACKETS_PER_GROUP, count - following))
                places = places[index[end[places]] == (number + 1) & 0xFFFF]
            if len(places):
                return packet, int(places[0])
        return None


# --- streams --------------------------------------------------------------------------------------


class BitstreamWriter:
    """Write a CBR file piece by piece.

    The bytes are those of `header_bytes`, then what `packet` returns for each packet, then what
    `finish` returns.

    Parameters
    ----------
    header : Header   its number of samples is not needed yet
    """

    def __init__(self, header: Header) -> None:
        if header.vbr:
            raise BitstreamError("a stream cannot have a variable bitrate: use a constant one")
        self.header = header
        self.header_bytes = write_header(header)
        self._count = 0
        self._group = bytearray()

    def packet(self, packet: bytes) -> bytes:
        """Return the next bytes of the file: a packet, and the CRC of its group if it ends one."""
        size = _cbr_size(self.header.nominal_bitrate_bps, self._count)
        if len(packet) != size:
            raise BitstreamError(
                f"packet {self._count} has {len(packet)} bytes, must have {size}"
            )
        self._group += packet
        self._count += 1
        return packet + (self._close_group() if self._count % PACKETS_PER_GROUP == 0 else b"")

    def finish(self, num_samples: int) -> bytes:
        """Return the last bytes of the file, for a signal of so many samples."""
        closed = replace(self.header, num_samples=num_samples)
        count = num_packets(num_codec_samples(closed))
        if count != self._count:
            raise BitstreamError(
                f"{num_samples} samples take {count} packets, {self._count} were given"
            )
        end = self._close_group() if self._group else b""
        return end + (write_trailer(num_samples) if self.header.open_end else b"")

    def _close_group(self) -> bytes:
        index = (self._count - 1) // PACKETS_PER_GROUP
        crc = _CRC.pack(_group_crc(index, bytes(self._group)))
        self._group.clear()
        return crc


class BitstreamReader:
    """Read a file piece by piece: bytes in, packets out as soon as they are whole.

    A group's CRC comes after its packets, so packets are returned before it vouches for them.

    Attributes
    ----------
    header : Header or None   None until it is there; with an open end, its number of samples is
                              right after `finish`
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self._data = bytearray()
        self._group = bytearray()
        self._packets = 0  # returned so far
        self._total: int | None = None  # None: an open end

    def push(self, data: bytes) -> list[bytes]:
        """Take in bytes and return the packets that they complete.

        Raises
        ------
        BitstreamError   as `read_stream`, as soon as it can be known
        """
        self._data += data
        if self.header is None and not self._read_header():
            return []
        packets = []
        while (packet := self._next_packet()) is not None:
            packets.append(packet)
        if self._complete() and self._data:
            raise BitstreamError(_trailing_message(len(self._data)))
        return packets

    def finish(self) -> int:
        """Check that the stream ends here; return its number of samples.

        Raises
        ------
        BitstreamError   it does not
        """
        if self.header is None:
            self.header, _ = read_header(bytes(self._data))
            raise AssertionError("push would have found this header")
        if self._total is None:
            rest = bytes(self._data)
            if self._group and len(rest) == CRC_BYTES + TRAILER_BYTES:
                self._check_crc(rest[:CRC_BYTES])
                rest = rest[CRC_BYTES:]
            count = _read_trailer(rest)
            if count is not None and not self._group:  # else a group is left without its CRC
                closed = replace(self.header, num_samples=count)
                if num_packets(num_codec_samples(closed)) == self._packets:
                    self.header = closed
                    return count
        elif self._complete():
            return self.header.num_samples
        raise BitstreamError(
            f"the stream is cut off after {self._packets / PACKETS_PER_SECOND:.1f} s: send it again"
        )

    def _read_header(self) -> bool:
        if len(self._data) < _PREFIX.size or len(self._data) < self._data[5]:
            if self._data[: len(MAGIC)] != MAGIC[: len(self._data)]:
                read_header(bytes(self._data))
            return False
        self.header, length = read_header(bytes(self._data[: max(self._data[5], _PREFIX.size)]))
        del self._data[:length]
        if not self.header.open_end:
            self._total = num_packets(num_codec_samples(self.header))
        return True

    def _complete(self) -> bool:
        return self._packets == self._total and not self._group

    def _next_packet(self) -> bytes | None:
        assert self.header is not None
        full = self._packets % PACKETS_PER_GROUP == 0 or self._packets == self._total
        if self._group and full:
            if len(self._data) < CRC_BYTES:
                return None
            self._check_crc(bytes(self._data[:CRC_BYTES]))
            del self._data[:CRC_BYTES]
        if self._packets == self._total:
            return None
        prefix = 0
        size = _cbr_size(self.header.nominal_bitrate_bps, self._packets)
        if self.header.vbr:
            if not self._data:
                return None
            prefix, size = 1, self._data[0]
            if size == 0:
                raise BitstreamError(
                    f"the stream is damaged at {_seconds(self.header, self._packets)} (a packet of "
                    "no bytes): send it again"
                )
        # The end of a stream with an open end (CRC and trailer) is shorter than any packet.
        if len(self._data) < prefix + size:
            return None
        packet = bytes(self._data[prefix : prefix + size])
        self._group += self._data[: prefix + size]
        del self._data[: prefix + size]
        self._packets += 1
        return packet

    def _check_crc(self, raw: bytes) -> None:
        index = (self._packets - 1) // PACKETS_PER_GROUP
        if raw != _CRC.pack(_group_crc(index, bytes(self._group))):
            first = index * PACKETS_PER_GROUP / PACKETS_PER_SECOND
            raise BitstreamError(
                f"the stream is damaged between {first:.1f} s and "
                f"{self._packets / PACKETS_PER_SECOND:.1f} s (wrong checksum of group {index}): "
                "send it again"
            )
        self._group.clear()
