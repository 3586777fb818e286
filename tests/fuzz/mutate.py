"""Hostile files: how coded files are mutated.

A case is known by two numbers, the seed and its index; the same numbers make the same bytes as long
as the seed files and the weights' fingerprint are the same (fingerprint and header CRC are stamped
in when the seeds are loaded).
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from collections.abc import Callable
from pathlib import Path

import numpy as np

from codec import BitstreamError, Codec
from codec.bitstream import (
    CRC_BYTES,
    HEADER_BYTES,
    cbr_bytes,
    cbr_packet_sizes,
    num_packets,
    read_stream,
    write_stream,
    write_trailer,
)
from codec.config import FRAMES_PER_GROUP

SEED_DIR = Path(__file__).resolve().parent / "seeds"

OPEN_CODE = 4
VERSION_AT, FINGERPRINT_AT, BITRATE_AT, RATE_AT, SAMPLES_AT = 4, 8, 12, 14, 17

Mutator = Callable[[np.random.Generator, bytes, "Seeds"], bytes]


# --- seeds ----------------------------------------------------------------------------------------


def header_crc(raw: bytes) -> bytes:
    """Return the CRC of a header's bytes."""
    return struct.pack(">H", crc_hqx(raw, 0xFFFF))


def stamp(data: bytes, fingerprint: bytes) -> bytes:
    """Return a file with the fingerprint of other weights; a wrong header CRC stays wrong."""
    if len(data) < HEADER_BYTES or not HEADER_BYTES <= data[5] <= len(data):
        return data
    end = data[5] - CRC_BYTES
    right = header_crc(data[:end]) == data[end : end + CRC_BYTES]
    raw = data[:FINGERPRINT_AT] + fingerprint + data[FINGERPRINT_AT + len(fingerprint) : end]
    crc = header_crc(raw) if right else data[end : end + CRC_BYTES]
    return raw + crc + data[end + CRC_BYTES :]


class Seeds:
    """The files that mutations begin with.

    Attributes
    ----------
    names : list of str
    files : list of bytes
    weights : float array   how often each is taken: the long ones seldom
    """

    def __init__(self, fingerprint: bytes) -> None:
        paths = sorted(SEED_DIR.glob("*.bin"))
        self.names = [path.stem for path in paths]
        self.files = [stamp(path.read_bytes(), fingerprint) for path in paths]
        weights = np.array([1.0 / max(len(read_stream(f)[1]), 4) for f in self.files])
        self.weights = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> bytes:
        """Return one of the files."""
        return self.files[rng.choice(len(self.files), p=self.weights)]


def make_seeds(codec: Codec, wave: np.ndarray, folder: Path = SEED_DIR) -> None:
    """Write the seed files anew, from a wave at 16 kHz of 3 s or more."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name, seconds, kbps, options in (
        ("cbr_8", 0.1, 8, {}), ("cbr_13", 0.2, 13.2, {}), ("cbr_11.111", 0.3, 11.111, {}),
        ("cbr_32", 0.1, 32, {}), ("cbr_8_groups", 2.3, 8, {}), ("vbr_8", 0.1, 8, {"vbr": True}),
        ("vbr_16", 0.25, 16.4, {"vbr": True}), ("vbr_8_groups", 3.0, 8, {"vbr": True}),
        ("independent_9.6", 0.15, 9.6, {"independent": True}),
        ("independent_vbr_24", 0.1, 24.4, {"independent": True, "vbr": True}),
    ):  # fmt: skip
        data = codec.encode(wave[: round(16000 * seconds)], 16000, kbps, **options)
        (folder / f"{name}.bin").write_bytes(data)
    for name, rate in (("rate_1000", 1000), ("rate_44100", 44100), ("rate_768000", 768000)):
        part = np.interp(np.arange(round(0.1 * rate)) * 16000 / rate, np.arange(1600), wave[:1600])
        (folder / f"{name}.bin").write_bytes(codec.encode(part, rate, 13.2))
    for name, samples, independent in (
        ("open", 2000, False), ("open_independent", 1000, True), ("open_groups", 20000, False),
    ):  # fmt: skip
        header = codec.header(samples, 16000, 8, independent=independent, open_end=True)
        closed = codec.encode(wave[:samples], 16000, 8, independent=independent)
        (folder / f"{name}.bin").write_bytes(write_stream(header, read_stream(closed)[1]))
    for name, count in (("tiny_vbr", 7), ("tiny_vbr_groups", 160)):
        header = codec.header(320 * count - 200, 16000, 8, vbr=True)
        packets = [rng.bytes(int(rng.integers(1, 4))) for _ in range(count)]
        (folder / f"{name}.bin").write_bytes(write_stream(header, packets))
    header = codec.header(0, 16000, 8)
    (folder / "empty_signal.bin").write_bytes(write_stream(header, []))


# --- repair ---------------------------------------------------------------------------------------


def set_field(data: bytes, offset: int, value: bytes) -> bytes:
    """Return the file with other bytes at an offset; too short a file comes back as it is."""
    if len(data) < offset + len(value):
        return data
    return data[:offset] + value + data[offset + len(value) :]


def repair_header(data: bytes) -> bytes:
    """Return the file with a right header CRC, where its length byte makes sense."""
    if len(data) < 8 or not 8 <= data[5] <= len(data):
        return data
    end = data[5] - CRC_BYTES
    return data[:end] + header_crc(data[:end]) + data[end + CRC_BYTES :]


def fit_samples(data: bytes) -> bytes:
    """Return a CBR file that claims as many samples as its bytes can hold, cut to whole packets."""
    if len(data) < HEADER_BYTES or data[5] < HEADER_BYTES or data[6] & 1:
        return data
    bitrate = int.from_bytes(data[BITRATE_AT : BITRATE_AT + 2], "big")
    rate = int.from_bytes(data[RATE_AT : RATE_AT + 3], "big")
    is_open = data[6] & OPEN_CODE
    room = len(data) - data[5] - (7 if is_open else 0)
    if bitrate < 8000 or rate < 1 or room < 22:
        return data
    count = room * 400 // bitrate
    while cbr_bytes(bitrate, count) + 2 * -(-count // FRAMES_PER_GROUP) > room:
        count -= 1
    samples = max(320 * count - 160, 0) * rate // 16000
    size = cbr_bytes(bitrate, count) + 2 * -(-count // FRAMES_PER_GROUP)
    data = data[: data[5] + size]
    if is_open:
        return data + write_trailer(samples)
    return set_field(data, SAMPLES_AT, samples.to_bytes(5, "big"))


def repair_groups(data: bytes) -> bytes:
    """Return the file with right CRCs of its groups, as far as they can be followed."""
    if len(data) < HEADER_BYTES or data[5] < HEADER_BYTES:
        return data
    vbr, is_open = data[6] & 1, data[6] & OPEN_CODE
    bitrate = int.from_bytes(data[BITRATE_AT : BITRATE_AT + 2], "big")
    rate = max(int.from_bytes(data[RATE_AT : RATE_AT + 3], "big"), 1)
    samples = int.from_bytes(data[SAMPLES_AT : SAMPLES_AT + 5], "big")
    if is_open:
        samples = int.from_bytes(data[-7:-2], "big")
    count = num_packets(-(-samples * 16000 // rate))
    out, offset = bytearray(data), data[5]
    for first in range(0, count, FRAMES_PER_GROUP):
        start = offset
        for i in range(first, min(first + FRAMES_PER_GROUP, count)):
            if offset >= len(out):
                return bytes(out)
            offset += 1 + out[offset] if vbr else cbr_bytes(bitrate, i + 1) - cbr_bytes(bitrate, i)
        if offset + CRC_BYTES > len(out):
            return bytes(out)
        crc = crc_hqx(bytes(out[start:offset]), 0xFFFF ^ (first // FRAMES_PER_GROUP & 0xFFFF))
        out[offset : offset + CRC_BYTES] = struct.pack(">H", crc)
        offset += CRC_BYTES
    return bytes(out)


# --- mutators -------------------------------------------------------------------------------------


def _place(rng: np.random.Generator, data: bytes) -> int:
    return int(rng.integers(0, len(data) + 1))


def _span(rng: np.random.Generator, data: bytes) -> tuple[int, int]:
    """Return a piece of the file, mostly a short one."""
    start = _place(rng, data)
    length = int(rng.integers(1, 8 if rng.random() < 0.5 else max(len(data), 2)))
    return start, min(start + length, len(data))


def flip_bits(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """One to eight wrong bits."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if out else 0):
        out[rng.integers(len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut_end(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """The end is missing."""
    return data[: _place(rng, data)]


def cut_out(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """A piece is missing."""
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def insert(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """Some bytes too many."""
    at = _place(rng, data)
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def repeat(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """A piece comes two to five times."""
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * int(rng.integers(1, 5)) + data[end:]


def overwrite(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """A piece is noise, zeros or ones."""
    start, end = _span(rng, data)
    piece = (rng.bytes(end - start), bytes(end - start), b"\xff" * (end - start))
    return data[:start] + piece[rng.integers(3)] + data[end:]


def swap(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """Two packets, or two pieces as long as a group, change places."""
    bitrate = int.from_bytes(data[BITRATE_AT : BITRATE_AT + 2], "big")
    size = max(bitrate // 400, 1)
    if rng.random() < 0.3:
        size = FRAMES_PER_GROUP * size + CRC_BYTES
    count = (len(data) - HEADER_BYTES) // size
    if count < 2:
        return data[::-1]
    first, second = sorted(HEADER_BYTES + size * rng.choice(count, 2, replace=False))
    middle = data[first + size : second]
    return (
        data[:first] + data[second : second + size] + middle + data[first : first + size]
        + data[second + size :]
    )  # fmt: skip


def edit_header(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """A field of the header has another value, often at its limit."""
    offset, values = (
        (SAMPLES_AT, (0, 1, 159, 160, 161, 320, 321, 8000, (1 << 31) - 1, 1 << 32, (1 << 40) - 1)),
        (RATE_AT, (0, 999, 1000, 1001, 8000, 11025, 15999, 44100, 767999, 768000, 768001,
                   (1 << 24) - 1)),
        (BITRATE_AT, (0, 7999, 8000, 8001, 13199, 31999, 32000, 32001, 65535)),
        (7, (0, 1, 2, 3, 4, 5, 7, 8, 9, 255)),
        (4, (0, 1, 2, 3, 4, 255)),
        (5, (0, 1, 6, 8, 23, 24, 25, 200, 255)),
        (FINGERPRINT_AT, (0, (1 << 32) - 1)),
    )[rng.choice(7, p=(0.3, 0.2, 0.15, 0.15, 0.05, 0.1, 0.05))]  # fmt: skip
    size = {SAMPLES_AT: 5, RATE_AT: 3, BITRATE_AT: 2, FINGERPRINT_AT: 4}.get(offset, 1)
    value = int(rng.choice(values)) if rng.random() < 0.8 else int.from_bytes(rng.bytes(size))
    if rng.random() < 0.1 and len(data) >= SAMPLES_AT + 5:  # close to what is true
        offset, size = SAMPLES_AT, 5
        value = int.from_bytes(data[SAMPLES_AT : SAMPLES_AT + 5], "big")
        value = min(max(value + int(rng.integers(-700, 700)), 0), (1 << 40) - 1)
    return repair_header(set_field(data, offset, value.to_bytes(size, "big")))


def edit_flags(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """VBR, independent, open end: other flags, seldom unknown ones."""
    if len(data) < HEADER_BYTES:
        return data
    flags = data[6] ^ int(rng.integers(1, 8)) if rng.random() < 0.9 else int(rng.integers(256))
    return repair_header(set_field(data, 6, bytes([flags])))


def noise(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """Random bytes, most of them behind a header."""
    kind = rng.random()
    body = rng.bytes(int(rng.integers(0, 400)))
    if kind < 0.1:
        return body
    if kind < 0.2:
        return data[: int(rng.integers(4, 7))] + body
    return data[:HEADER_BYTES] + body


def glue(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """Several files in one, or pieces of them."""
    parts = [data]
    for _ in range(int(rng.integers(1, 3))):
        other = seeds.draw(rng)
        start = HEADER_BYTES if rng.random() < 0.5 else 0
        parts.append(other[start : start + 600])
    return b"".join(parts)


def lengths(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """A VBR file of bytes that all could be lengths."""
    if len(data) < HEADER_BYTES:
        return data
    low, high = ((0, 256), (1, 3), (254, 256), (1, 40))[rng.integers(4)]
    body = rng.integers(low, high, int(rng.integers(1, 700))).astype(np.uint8).tobytes()
    head = set_field(data[:HEADER_BYTES], 6, bytes([1 | data[6] & 2]))
    samples = int(rng.integers(1, 40000))
    return repair_header(set_field(head, SAMPLES_AT, samples.to_bytes(5, "big"))) + body


def trailer(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """An open end with a trailer that does not fit."""
    if len(data) < HEADER_BYTES:
        return data
    data = repair_header(set_field(data, 6, bytes([OPEN_CODE | data[6] & 2])))
    samples = int(rng.choice([0, 1, 160, 161, 1600, 20000, 1 << 32, (1 << 40) - 1]))
    end = write_trailer(samples)
    return data[: -7 if rng.random() < 0.5 else None] + end[: 7 if rng.random() < 0.9 else 5]


def packets(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """A sound file of packets that no encoder made."""
    try:
        header, found = read_stream(data)
    except BitstreamError:
        return data
    count = len(found)
    sizes = cbr_packet_sizes(header.nominal_bitrate_bps, count)
    if header.vbr:
        sizes = rng.choice([1, 2, 3, 20, 255], count).tolist()
    kind = rng.integers(5)
    made = []
    for size in sizes:
        constant = bytes([int(rng.integers(256))]) * size
        made.append(
            (rng.bytes(size), bytes(size), b"\xff" * size, constant,
             b"\xff" * int(rng.integers(size + 1)))[kind].ljust(size, b"\0")
        )  # fmt: skip
    return write_stream(header, made)


def long_header(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """A header of a later writer, with more fields."""
    length = int(rng.integers(HEADER_BYTES, 256))
    head = set_field(data[: HEADER_BYTES - CRC_BYTES], 5, bytes([length]))
    return repair_header(head + rng.bytes(length - len(head)) + data[HEADER_BYTES:])


def begin(rng: np.random.Generator, data: bytes, seeds: Seeds) -> bytes:
    """Hardly anything."""
    return data[: int(rng.integers(0, 30))]


MUTATORS: dict[str, tuple[float, Mutator]] = {
    "flip_bits": (3, flip_bits), "cut_end": (2, cut_end), "cut_out": (2, cut_out),
    "insert": (2, insert), "repeat": (2, repeat), "overwrite": (3, overwrite), "swap": (2, swap),
    "edit_header": (4, edit_header), "edit_flags": (2, edit_flags), "noise": (2, noise),
    "glue": (1, glue), "lengths": (1, lengths), "trailer": (2, trailer), "packets": (3, packets),
    "long_header": (1, long_header), "begin": (0.5, begin),
}  # fmt: skip


def make_case(seed: int, index: int, seeds: Seeds) -> tuple[str, bytes, np.random.Generator]:
    """Return what was done, the file, and the generator for what follows, of one case."""
    rng = np.random.default_rng([seed, index])
    names = list(MUTATORS)
    weights = np.array([weight for weight, _ in MUTATORS.values()])
    data = seeds.draw(rng)
    done = []
    for _ in range(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        data = MUTATORS[name][1](rng, data, seeds)
        done.append(name)
    if rng.random() < 0.5:  # so that what is behind the checksums is reached, too
        done.append("repaired")
        data = repair_header(data)
        if rng.random() < 0.6:
            data = repair_header(fit_samples(data))
        data = repair_groups(data)
    return "+".join(done), data, rng
