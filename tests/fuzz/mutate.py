"""Hostile files: mutate coded files, and check what every reader of them does.

Used by ``tests/test_fuzz.py`` and ``experiments/fuzz.py``. A case is known by two numbers, the seed
and its index; the same numbers make the same bytes as long as the seed files and the weights'
fingerprint are the same (fingerprint and header CRC are stamped in when the seeds are loaded).

What is promised for any bytes of length B:

- every reader returns, or raises ``BitstreamError`` with one line; nothing else;
- it takes less than ``SECONDS`` of CPU time for files as small as these;
- at most ``max_packets`` packets come out, those that are lost included: twice as many as the bytes
  can hold, B / 10 (CBR) or B (VBR: a length byte and one more), and those of a minute; at most 320
  samples for each at 16 kHz, and 48 times as many at the highest rate of a source;
- reading and range decoding takes at most ``ALLOCATION_BASE + ALLOCATION_PER_BYTE * B`` bytes;
- samples are finite;
- readers agree: whole file, piece by piece, info, and salvage of what is not damaged.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
from binascii import crc_hqx
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec import BitstreamError, Codec, StreamDecoder
from codec.bitstream import (
    CRC_BYTES,
    HEADER_BYTES,
    BitstreamReader,
    Header,
    cbr_bytes,
    cbr_packet_sizes,
    intra_packets,
    num_codec_samples,
    num_packets,
    read_stream,
    salvage_stream,
    write_stream,
    write_trailer,
)
from codec.bitstream.recovery import SPARE_GROUPS
from codec.config import FORMAT_VERSION, FRAMES_PER_GROUP
from codec.decoder import decode_integers
from codec.info import describe_stream
from codec.weights import SideTables

SEED_DIR = Path(__file__).resolve().parent / "seeds"
CORPUS_DIR = Path(__file__).resolve().parent

SECONDS = 1.0
# 1.5 kB of integers for a packet, of which there may be one for each byte and those of a minute;
# some more for the packets themselves, and for the search for sound groups.
ALLOCATION_BASE, ALLOCATION_PER_BYTE = 1 << 23, 2048
MAX_MESSAGE = 300

OPEN_CODE = 4
VERSION_AT, FINGERPRINT_AT, BITRATE_AT, RATE_AT, SAMPLES_AT = 4, 8, 12, 14, 17

Mutator = Callable[[np.random.Generator, bytes, "Seeds"], bytes]


class Finding(Exception):
    """A promise was broken."""


# --- seeds ----------------------------------------------------------------------------------------


def header_crc(raw: bytes) -> bytes:
    """Return the CRC of a header's bytes."""
    return struct.pack(">H", crc_hqx(raw, 0xFFFF))


def raise_version(data: bytes) -> bytes:
    """Return a file of an earlier format version as one of the present.

    The container is the same; what is coded in the packets means nothing any more.
    """
    return repair_header(set_field(data, VERSION_AT, bytes([FORMAT_VERSION])))


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


# --- checks ---------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What came of a case.

    Attributes
    ----------
    kind : str            'decoded', 'salvaged' or 'refused'
    message : str         of the BitstreamError, empty if there was none
    seconds : float       CPU time of the slowest reader
    slowest : str         its name
    samples : int         most samples that came out
    peak : int            bytes allocated at once, 0 where it was not measured
    """

    kind: str = ""
    message: str = ""
    seconds: float = 0.0
    slowest: str = ""
    samples: int = 0
    peak: int = 0


def max_packets(data: bytes) -> int:
    """Return how many packets may come out of a file at most, those that are lost included."""
    vbr = len(data) > 6 and data[6] & 1
    held = max(len(data) - HEADER_BYTES, 0) // (2 if vbr else cbr_bytes(8000, 1))
    return 2 * held + (SPARE_GROUPS + 2) * FRAMES_PER_GROUP


def max_allocation(data: bytes) -> int:
    """Return how many bytes reading and range decoding may take."""
    return ALLOCATION_BASE + ALLOCATION_PER_BYTE * len(data)


class Checker:
    """Send files through all readers and see whether the promises are kept.

    Parameters
    ----------
    codec : Codec
    side : SideTables
    """

    def __init__(self, codec: Codec, side: SideTables) -> None:
        self.codec = codec
        self.side = side

    def check(
        self,
        data: bytes,
        rng: np.random.Generator,
        synthesis: bool = False,
        streaming: bool = False,
        memory: bool = False,
    ) -> Outcome:
        """Check one file.

        Parameters
        ----------
        data : bytes
        rng : Generator
        synthesis, streaming : bool   compute samples as well, of the whole or packet by packet
        memory : bool                 measure allocations (slow)

        Raises
        ------
        Finding   a promise was broken
        """
        outcome = Outcome()
        if memory:
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
        try:
            self._read(data, rng, outcome)
        finally:
            if memory:
                outcome.peak = tracemalloc.get_traced_memory()[1] - before
                tracemalloc.stop()
        if outcome.peak > max_allocation(data):
            raise Finding(f"{outcome.peak} bytes were allocated for a file of {len(data)}")
        if synthesis:
            self._synthesise(data, rng, outcome)
        if streaming:
            self._stream(data, rng, outcome)
        # Measured here, where a hang of seconds ends; one without end is the caller's business.
        if outcome.seconds > SECONDS and not memory:
            raise Finding(f"{outcome.slowest} took {outcome.seconds:.2f} s")
        return outcome

    def _run(self, outcome: Outcome, name: str, call: Callable, *arguments: object) -> object:
        """Return what ``call`` returns, or the BitstreamError that it raises."""
        result: object
        start = time.process_time()
        try:
            result = call(*arguments)
        except BitstreamError as error:
            result = error
            message = str(error)
            if not message or "\n" in message or len(message) > MAX_MESSAGE:
                raise Finding(f"{name}: the message is {message!r}") from None
        except Exception as error:
            raise Finding(f"{name}: {type(error).__name__}: {error}") from error
        seconds = time.process_time() - start
        if seconds > outcome.seconds:
            outcome.seconds, outcome.slowest = seconds, name
        return result

    def _integers(self, header: Header, packets: list[bytes | None]) -> int:
        """Range decode packets; returns their number."""
        codec = self.codec
        codec.check_header(header)
        integers = decode_integers(
            codec.weights.tables, codec.config, packets, header.num_stages, codec.weights.intra,
            intra_packets(len(packets), header.independent),
        )  # fmt: skip
        _check_integers(integers)
        return len(integers.step)

    def _read(self, data: bytes, rng: np.random.Generator, outcome: Outcome) -> None:
        run, limit = self._run, max_packets(data)
        whole = run(outcome, "read_stream", read_stream, data)
        decoded = run(outcome, "decode_integers", self.codec.decode_integers, data)
        info = run(outcome, "info", describe_stream, data, self.side)
        saved = run(outcome, "salvage_stream", salvage_stream, data)
        pieces = run(outcome, "BitstreamReader", read_in_pieces, data, rng)
        accepted = not isinstance(whole, BitstreamError)
        if isinstance(decoded, BitstreamError) != isinstance(info, BitstreamError):
            raise Finding(f"decoder and info disagree: {decoded!r:.200} {info!r:.200}")
        if isinstance(pieces, BitstreamError) == accepted:
            raise Finding(f"whole file and pieces disagree: {whole!r:.200} {pieces!r:.200}")
        if accepted:
            if pieces != whole:
                raise Finding("the file read in pieces is another one")
            if isinstance(saved, BitstreamError) or saved != (*whole, []):
                raise Finding(f"salvage sees problems: {saved!r:.200}")
            if num_packets(num_codec_samples(whole[0])) != len(whole[1]):
                raise Finding(f"{whole[0]} with {len(whole[1])} packets")
        if isinstance(decoded, BitstreamError):
            outcome.message = str(decoded)
        else:
            _check_integers(decoded[1])
            outcome.kind = "decoded"
        if not isinstance(saved, BitstreamError):
            header, packets, problems = saved
            if len(packets) > limit:
                raise Finding(f"{len(packets)} packets out of {len(data)} bytes")
            if any(not p or "\n" in p or len(p) > MAX_MESSAGE for p in problems):
                raise Finding(f"salvage says {problems!r:.300}")
            if not accepted:
                count = run(outcome, "integers of salvage", self._integers, header, packets)
                if not isinstance(count, BitstreamError):
                    outcome.kind = "salvaged"
        outcome.kind = outcome.kind or "refused"

    def _synthesise(self, data: bytes, rng: np.random.Generator, outcome: Outcome) -> None:
        at_source = bool(rng.integers(2))
        if outcome.kind == "decoded":
            result = self._run(
                outcome, "decode", self.codec.decode, data, "source" if at_source else "codec"
            )
        else:
            result = self._run(outcome, "salvage", self.codec.salvage, data, at_source)
            if outcome.kind == "salvaged" and not isinstance(result, BitstreamError):
                result = result[0]
        if isinstance(result, BitstreamError):
            if outcome.kind != "refused":
                raise Finding(f"synthesis refused what was decoded: {result}")
            return
        self._check_samples(data, result, 48 if at_source else 1, outcome)

    def _check_samples(
        self, data: bytes, samples: np.ndarray, factor: int, outcome: Outcome
    ) -> None:
        outcome.samples = max(outcome.samples, len(samples))
        if len(samples) > 320 * factor * max_packets(data):
            raise Finding(f"{len(samples)} samples out of {len(data)} bytes")
        if samples.dtype != np.float32 or not np.isfinite(samples).all():
            raise Finding(f"samples are {samples.dtype}, or not finite")

    def _stream(self, data: bytes, rng: np.random.Generator, outcome: Outcome) -> None:
        """Push the file into a reader and its packets, some of them lost, into a decoder."""
        result = self._run(outcome, "StreamDecoder", self._stream_samples, data, rng)
        if not isinstance(result, BitstreamError):
            self._check_samples(data, result, 1, outcome)

    def _stream_samples(self, data: bytes, rng: np.random.Generator) -> np.ndarray:
        reader, decoder = BitstreamReader(), None
        out = [np.zeros(0, np.float32)]
        for piece in cut(data, rng):
            try:
                packets = reader.push(piece)
            except BitstreamError:
                break  # what came before it is played
            if decoder is None and reader.header is not None:
                decoder = StreamDecoder(self.codec, reader.header)
            for packet in packets:
                assert decoder is not None
                out.append(decoder.push(None if rng.random() < 0.2 else packet))
                if len(out) > 8:  # each packet computes a whole unit
                    return np.concatenate(out)
        return np.concatenate(out)


def _check_integers(integers: object) -> None:
    """Raise Finding unless the integers lie where all that follows expects them."""
    for name, limit in (("envelope", 8192), ("offset", 1024), ("step", 1 << 15), ("bins", 8443)):
        values = getattr(integers, name)
        if values.size and not -limit <= values.min() <= values.max() <= limit:
            raise Finding(f"{name} lies within {values.min()}..{values.max()}")


def cut(data: bytes, rng: np.random.Generator) -> list[bytes]:
    """Return the file in pieces: of one byte, of some, or all of it."""
    count = int(rng.choice([0, 1, 4, 20]))
    places = sorted(rng.integers(0, len(data) + 1, count).tolist())
    if rng.random() < 0.05:
        places = list(range(len(data)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def read_in_pieces(data: bytes, rng: np.random.Generator) -> tuple[Header, list[bytes]]:
    """Return what a BitstreamReader makes of a file that comes in pieces."""
    reader = BitstreamReader()
    found = []
    for piece in cut(data, rng):
        found += reader.push(piece)
    reader.finish()
    assert reader.header is not None
    return reader.header, found
