"""Damaged files: one bad group takes its second and nothing else."""

from functools import lru_cache

import numpy as np
import pytest
from conftest import synthetic_speech

from codec import BitstreamError, Codec, StreamEncoder
from codec.bitstream import BitstreamWriter, intra_packets, read_stream, salvage_stream
from codec.config import FRAMES_PER_GROUP, HEADER_BYTES
from codec.decoder import DecodedIntegers

SECONDS = 12
SPEECH = np.tile(synthetic_speech(4.0, seed=3), SECONDS // 4)


@lru_cache(maxsize=2)
def long_file(codec: Codec, vbr: bool) -> tuple[bytes, np.ndarray]:
    data = codec.encode(SPEECH, 16000, 13.2, vbr)
    return data, codec.decode(data)


def group_starts(data: bytes) -> list[int]:
    header, packets = read_stream(data)
    starts = [HEADER_BYTES]
    for first in range(0, len(packets), FRAMES_PER_GROUP):
        group = packets[first : first + FRAMES_PER_GROUP]
        starts.append(starts[-1] + sum(map(len, group)) + len(group) * header.vbr + 2)
    return starts


@lru_cache(maxsize=2)
def integers_of(codec: Codec, data: bytes) -> DecodedIntegers:
    return codec.decode_integers(data)[1]


def same_seconds(codec: Codec, data: bytes, damaged: bytes) -> float:
    """Return for how many seconds the integers of a damaged file are those of ``data``."""
    whole = integers_of(codec, data)
    header, packets, _ = salvage_stream(damaged)
    intra = intra_packets(len(packets), header.independent)
    got = codec.frame_decoder(header).integers(packets, intra)
    count = len(got.step)
    equal = got.received.copy()
    for part in ("envelope", "offset", "step", "levels"):
        values = getattr(got, part) == getattr(whole, part)[:count]
        equal &= values.reshape(count, -1).all(1)
    return float(equal.sum()) / 50


@pytest.mark.parametrize(("vbr", "group"), [(False, 0), (False, 10), (True, 5)])
def test_one_bad_group(codec: Codec, vbr: bool, group: int) -> None:
    data, wanted = long_file(codec, vbr)
    damaged = bytearray(data)
    damaged[group_starts(data)[group] + 300] ^= 0x10
    assert same_seconds(codec, data, bytes(damaged)) == SECONDS - 1 + 1 / 50
    waveform, rate, problems = codec.salvage(bytes(damaged))
    assert rate == 16000 and len(waveform) == len(SPEECH) and np.isfinite(waveform).all()
    assert len(problems) == 1 and "\n" not in problems[0] and "checksum" in problems[0]
    assert np.abs(waveform).max() < 2 * np.abs(wanted).max()
    before = max(16000 * group - 160, 0)
    assert np.array_equal(waveform[:before], wanted[:before])
    # The enhancer's memory of the gap fades: half a second later hardly anything is left of it.
    after = slice(16000 * (group + 1) + 8000, 16000 * (group + 1) + 16000)
    error = np.square(waveform[after] - wanted[after]).mean()
    assert error < 0.08 * np.square(wanted[after]).mean()


@pytest.mark.parametrize(("group", "value"), [(0, 255), (9, 0)])
def test_one_bad_length(codec: Codec, group: int, value: int) -> None:
    """VBR: all bytes after it are out of step."""
    data, _ = long_file(codec, True)
    damaged = bytearray(data)
    place = group_starts(data)[group]
    assert damaged[place] != value
    damaged[place] = value
    header, packets, problems = salvage_stream(bytes(damaged))
    wanted = read_stream(data)[1]
    lost = range(50 * group, 50 * group + 50)
    assert all((p is None) == (i in lost) for i, p in enumerate(packets))
    assert [p for p in packets if p is not None] == [*wanted[: lost[0]], *wanted[lost[-1] + 1 :]]
    assert len(packets) == len(wanted) and len(problems) == 1
    waveform, _, _ = codec.salvage(bytes(damaged))
    before = max(320 * lost[0] - 160, 0)
    assert len(waveform) == len(SPEECH)
    assert np.array_equal(waveform[:before], long_file(codec, True)[1][:before])


@pytest.fixture(scope="module")
def short(codec: Codec) -> dict[str, bytes]:
    """Files of 2.5 s."""
    signal = SPEECH[:40_000]
    encoder = StreamEncoder(codec, 13.2)
    writer = BitstreamWriter(encoder.header)
    pieces = [writer.packet(packet) for packet in encoder.push(signal) + encoder.finish()]
    return {
        "cbr": codec.encode(signal, 16000, 13.2),
        "vbr": codec.encode(signal, 16000, 13.2, True),
        "independent": codec.encode(signal, 16000, 13.2, False, True),
        "open": writer.header_bytes + b"".join(pieces) + writer.finish(40_000),
    }


KINDS = ("cbr", "vbr", "independent", "open")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_has_no_problems(codec: Codec, short: dict[str, bytes], kind: str) -> None:
    waveform, rate, problems = codec.salvage(short[kind])
    assert problems == [] and rate == 16000
    assert np.array_equal(waveform, codec.decode(short[kind]))


@pytest.mark.parametrize("kind", ["cbr", "vbr", "independent"])
def test_a_file_that_is_cut_off(codec: Codec, short: dict[str, bytes], kind: str) -> None:
    data = short[kind]
    wanted = codec.decode(data)
    for length in (len(data) - 1, len(data) - 3, len(data) // 2, HEADER_BYTES + 40, HEADER_BYTES):
        waveform, _, problems = codec.salvage(data[:length])
        header, packets, _ = salvage_stream(data[:length])
        assert packets == read_stream(data)[1][: len(packets)]
        assert len(waveform) == min(max(320 * len(packets) - 160, 0), 40_000)
        assert np.array_equal(waveform, wanted[: len(waveform)])
        assert len(problems) == 1 and "cut off" in problems[0]
    assert len(codec.salvage(data[: len(data) // 2])[0]) > 18_000


def test_a_stream_without_its_end(codec: Codec, short: dict[str, bytes]) -> None:
    data = short["open"]
    wanted = codec.decode(data)
    for lost in (1, 7):
        waveform, _, problems = codec.salvage(data[:-lost])
        assert problems and all("\n" not in problem for problem in problems)
        assert 0 <= len(waveform) - 40_000 < 320
        assert np.array_equal(waveform[:40_000], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_header(codec: Codec, short: dict[str, bytes], kind: str) -> None:
    for position in range(HEADER_BYTES):
        damaged = bytearray(short[kind])
        damaged[position] ^= 0x20
        with pytest.raises(BitstreamError):
            codec.salvage(bytes(damaged))
    for length in (0, 3, HEADER_BYTES - 1):
        with pytest.raises(BitstreamError):
            codec.salvage(short[kind][:length])


def test_at_the_rate_of_the_source(codec: Codec) -> None:
    time = np.arange(3 * 44100) / 44100
    wave = 0.3 * np.sin(2 * np.pi * 300 * time)
    data = codec.encode(wave, 44100, 13.2)
    waveform, rate, problems = codec.salvage(data, source_rate=True)
    assert (rate, problems) == (44100, [])
    assert np.array_equal(waveform, codec.decode(data, rate="source"))
    damaged = bytearray(data)
    damaged[HEADER_BYTES + 2000] ^= 1
    waveform, rate, problems = codec.salvage(bytes(damaged), source_rate=True)
    assert (rate, len(problems), len(waveform)) == (44100, 1, len(wave))
    cut, _, _ = codec.salvage(data[: len(data) // 2], source_rate=True)
    assert 1.3 * 44100 < len(cut) < 1.6 * 44100
