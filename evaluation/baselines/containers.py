"""Count what coded files hold beside their containers: no codec is charged for Ogg pages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple


class Payload(NamedTuple):
    """What a coded file holds beside its container: bytes, frames, seconds per frame."""

    num_bytes: int
    num_frames: int
    frame_s: float


def ogg_packets(data: bytes) -> Iterator[bytes]:
    """Yield the packets of an Ogg file of one stream, header packets first (RFC 3533).

    Checksums are left to the codec's own decoder.

    Raises
    ------
    ValueError   not Ogg, cut off, or more than one stream
    """
    position, serial = 0, None
    parts: list[bytes] = []
    while position < len(data):
        if data[position : position + 5] != b"OggS\0":
            raise ValueError(f"no Ogg page at byte {position}")
        header = data[position + 5 : position + 27]
        lacing = data[position + 27 : position + 27 + (header[21] if len(header) == 22 else 0)]
        if len(header) < 22 or len(lacing) < header[21]:
            raise ValueError("cut off within the header of an Ogg page")
        if serial not in (None, header[9:13]):
            raise ValueError("more than one Ogg stream")
        serial = header[9:13]
        if bool(header[0] & 1) != bool(parts):
            raise ValueError("an Ogg page that others continue is missing")
        position += 27 + len(lacing)
        if position + sum(lacing) > len(data):
            raise ValueError("cut off within an Ogg page")
        for length in lacing:
            parts.append(data[position : position + length])
            position += length
            if length < 255:  # 255 means that the packet goes on in the next segment
                yield b"".join(parts)
                parts = []
    if parts:
        raise ValueError("cut off within an Ogg packet")


def opus_payload(data: bytes) -> Payload:
    """Count the packets of an Ogg Opus file after its two header packets (RFC 7845).

    Raises
    ------
    ValueError   not Ogg Opus, no audio packets, or frames of several durations
    """
    packets = list(ogg_packets(data))
    if len(packets) < 3 or packets[0][:8] != b"OpusHead" or packets[1][:8] != b"OpusTags":
        raise ValueError("no Opus packets in it")
    frames = [_opus_frames(packet) for packet in packets[2:]]
    durations = {frame_s for _, frame_s in frames}
    if len(durations) != 1:
        raise ValueError("Opus frames of several durations in it")
    num_frames = sum(count for count, _ in frames)
    return Payload(sum(map(len, packets[2:])), num_frames, durations.pop())


def _opus_frames(packet: bytes) -> tuple[int, float]:
    """Return how many frames a packet has and their seconds, from its first bytes (RFC 6716, 3)."""
    if not packet:
        raise ValueError("an empty Opus packet in it")
    mode, code = packet[0] >> 3, packet[0] & 3
    if mode < 12:
        frame_s = (0.010, 0.020, 0.040, 0.060)[mode % 4]
    elif mode < 16:
        frame_s = (0.010, 0.020)[mode % 2]
    else:
        frame_s = (0.0025, 0.005, 0.010, 0.020)[mode % 4]
    if code < 3:
        return (1, 2, 2)[code], frame_s
    if len(packet) < 2 or not packet[1] & 63:
        raise ValueError("an Opus packet without frames in it")
    return packet[1] & 63, frame_s


def opus_demo_payload(data: bytes) -> Payload:
    """Count the packets of a file of libopus's `opus_demo`.

    Before each packet stand two 32-bit words, big-endian: its length in bytes, and the state of the
    encoder's range coder at its end, by which the decoder checks itself.

    Raises
    ------
    ValueError   cut off, no packets, or packets of different durations
    """
    position, num_bytes, num_frames = 0, 0, 0
    durations = set()
    while position < len(data):
        if position + 8 > len(data):
            raise ValueError("cut off within the length of an Opus packet")
        size = int.from_bytes(data[position : position + 4], "big")
        packet = data[position + 8 : position + 8 + size]
        if len(packet) < size:
            raise ValueError("cut off within an Opus packet")
        count, frame_s = _opus_frames(packet)
        durations.add(frame_s)
        position += 8 + size
        num_bytes, num_frames = num_bytes + size, num_frames + count
    if len(durations) != 1:
        raise ValueError("Opus packets of different durations" if durations else "no Opus packets")
    return Payload(num_bytes, num_frames, durations.pop())


def speex_payload(data: bytes) -> Payload:
    """Count the packets of an Ogg Speex file after its header packets.

    Raises
    ------
    ValueError   not Ogg Speex, or no audio packets
    """
    packets = list(ogg_packets(data))
    if not packets or packets[0][:8] != b"Speex   " or len(packets[0]) < 72:
        raise ValueError("no Speex header in it")
    rate = struct.unpack_from("<I", packets[0], 36)[0]
    frame_size, _, frames_per_packet, extra_headers = struct.unpack_from("<4I", packets[0], 56)
    audio = packets[2 + extra_headers :]
    if not (audio and rate and frame_size and frames_per_packet):
        raise ValueError("no Speex packets in it")
    num_bytes = sum(map(len, audio))
    return Payload(num_bytes, len(audio) * frames_per_packet, frame_size / rate)


def lc3_payload(data: bytes) -> Payload:
    """Count the frames of a file of liblc3's tools: a header, then frames of a 16-bit length each.

    The header (16-bit words, little-endian): 0xCC1C, header size in bytes, sample rate / 100 Hz,
    bitrate / 100, channels, frame duration in units of 10 µs, ... (tools/lc3bin.c of liblc3).

    Raises
    ------
    ValueError   not such a file, cut off, or no frames
    """
    if len(data) < 18 or data[:2] != b"\x1c\xcc":
        raise ValueError("no LC3 header in it")
    header_size, _, _, _, frame_10us = struct.unpack_from("<5H", data, 2)
    if header_size < 18 or not frame_10us:
        raise ValueError("a damaged LC3 header")
    position, num_bytes, num_frames = header_size, 0, 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 2], "little")
        position += 2 + size
        num_bytes, num_frames = num_bytes + size, num_frames + 1
    if position != len(data) or not num_bytes:
        raise ValueError("cut off within an LC3 frame" if num_bytes else "no LC3 frames in it")
    return Payload(num_bytes, num_frames, frame_10us * 1e-5)
