"""Write and read the file: header, packets, checksums.

All numbers are unsigned, big-endian.  `docs/bitstream.md` says more, and what is in a packet.

Header (24 bytes in version 1)
    byte   size  field
    0      4     magic, "NSVQ"
    4      1     format version, 1
    5      1     header length L in bytes, CRC included: 24; more if fields were added at the end
    6      1     flags: bit 0 = variable bitrate (VBR); bits 1..7 are 0
    7      1     number of envelope stages, 1..8
    8      4     fingerprint of the weights
    12     2     nominal bitrate, bit/s, 8000..32000
    14     3     sample rate of the source, Hz, 1000..768000
    17     5     number of samples, at the rate of the source
    22     L-24  unknown fields of a later writer, skipped
    L-2    2     CRC-16 of bytes 0..L-3, start value 0xFFFF

Packets (20 ms each), in groups of 100; the last group holds what is left
    CBR    packet i is floor(rate (i+1) / 400) - floor(rate i / 400) bytes
    VBR    one length byte, 1..255, then as many bytes
    2      end of each group: CRC-16 of its bytes (length bytes included), start value
           0xFFFF xor the low 16 bits of the group's index, so that groups cannot change places

The file ends with the last group.  CRC-16 is the CCITT one (polynomial 0x1021, most significant bit
first): `binascii.crc_hqx`.

Magic, version, header length and the place of the header's CRC are the same in all versions.
"""

import struct
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAGIC = b"NSVQ"
FORMAT_VERSION = 2
HEADER_BYTES = 24
CRC_BYTES = 2
FLAG_VBR = 0x01
FINGERPRINT_BYTES = 4

CODEC_SAMPLE_RATE = 16000
HOP_LENGTH = 160
BLOCKS_PER_PACKET = 2
PACKETS_PER_SECOND = 50
PACKETS_PER_GROUP = 100

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
    version : int                  format version
    """

    fingerprint: bytes
    nominal_bitrate_bps: int
    num_samples: int
    source_sample_rate: int
    num_stages: int
    vbr: bool = False
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


def overhead_bytes(header: Header) -> int:
    """Return the bytes of a file that are not packets: header, group CRCs, VBR length bytes."""
    count = num_packets(num_codec_samples(header))
    return HEADER_BYTES + CRC_BYTES * num_groups(count) + (count if header.vbr else 0)


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
    return None


def _version_message(version: int) -> str:
    what = "install a newer version of it" if version > FORMAT_VERSION else "encode the file again"
    return (
        f"the file has format version {version}, this program knows version {FORMAT_VERSION}: "
        f"{what}"
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
        FLAG_VBR if header.vbr else 0,
        header.num_stages,
        header.fingerprint,
        header.nominal_bitrate_bps,
        header.source_sample_rate >> 16,
        header.source_sample_rate & 0xFFFF,
        header.num_samples >> 32,
        header.num_samples & 0xFFFFFFFF,
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
    if flags & ~FLAG_VBR:
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
        version=version,
    )
    problem = _field_problem(header)
    if problem is not None:
        raise BitstreamError(f"{problem}: the file was written wrongly, encode it again")
    return header, length


def check_fingerprint(header: Header, fingerprint: bytes) -> None:
    """Check that the loaded weights are those that the file was coded with.

    Raises
    ------
    BitstreamError   they are not
    """
    if header.fingerprint != fingerprint:
        raise BitstreamError(
            f"the file was coded with the weights {header.fingerprint.hex()}, but those loaded are "
            f"{fingerprint.hex()}: load the right ones with --weights"
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
    return b"".join(parts)


def _cbr_size(nominal_bitrate_bps: int, i: int) -> int:
    """Return the size of packet `i` at a constant bitrate."""
    return cbr_bytes(nominal_bitrate_bps, i + 1) - cbr_bytes(nominal_bitrate_bps, i)


@dataclass(frozen=True)
class _Group:
    """What was found of one group: its packets, and what is wrong with it (None: nothing)."""

    packets: list[bytes]
    problem: str | None
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


def _read_groups(header: Header, data: bytes, offset: int) -> Iterator[_Group]:
    """Yield the groups of a file until its data end; the last one may be cut off.

    Memory is taken for bytes that are there, never for what the header claims.
    """
    count = num_packets(num_codec_samples(header))
    first = 0
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
                    yield _Group(packets, problem)
                    return
            else:
                size = _cbr_size(header.nominal_bitrate_bps, i)
            if offset + size > len(data):
                cut_off = True
                break
            packets.append(data[offset : offset + size])
            offset += size
        if cut_off or offset + CRC_BYTES > len(data):
            yield _Group(packets, _cut_off_message(header, first + len(packets)), cut_off=True)
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
        yield _Group(packets, problem_or_none)
        first = last
    if offset < len(data):
        yield _Group([], _trailing_message(len(data) - offset))


def read_stream(data: bytes) -> tuple[Header, list[bytes]]:
    """Return header and packets of a whole file, all of it checked.

    Raises
    ------
    BitstreamError   anything is wrong, see the messages
    """
    header, offset = read_header(data)
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


def salvage_stream(data: bytes) -> tuple[Header, list[bytes | None], list[str]]:
    """Return what is intact of a damaged file.

    The header must be sound.  Packets of a group with a wrong CRC are None.  Those of a last group
    that is cut off are kept as far as they are whole, though no CRC vouches for them (VBR: unless
    an earlier group was damaged, since the lengths may then be out of step).

    Returns
    -------
    Header
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
    for group in _read_groups(header, data, offset):
        in_step = not (header.vbr and problems)
        if group.problem is not None:
            problems.append(group.problem)
        if group.problem is None or (group.cut_off and in_step):
            packets += group.packets
        else:
            packets += [None] * len(group.packets)
    return header, packets, problems
