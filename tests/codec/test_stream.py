"""Streams: however the signal is cut, the bytes and samples of the whole file, 30 ms later."""

import copy
import itertools
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from conftest import synthetic_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import BitstreamError, Codec, StreamDecoder, StreamEncoder
from codec.bitstream import BitstreamReader, BitstreamWriter, num_packets, read_stream
from codec.config import DELAY_SAMPLES, TRAILER_BYTES
from codec.errors import AudioError

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = (0, 1, 159, 160, 161, 320, 321, 5000, 36001)
RATES = (8.0, 11.111, 13.2, 24.4, 32.0)
SPEECH = synthetic_speech(2.3, seed=5)  # two borders of groups in it
LONG = np.tile(SPEECH, 8)[:250_000]


@lru_cache(maxsize=64)
def whole(codec: Codec, length: int, rate: float, independent: bool = False) -> bytes:
    return codec.encode(LONG[:length], 16000, rate, independent=independent)


@lru_cache(maxsize=64)
def decoded(codec: Codec, length: int, rate: float, independent: bool = False) -> np.ndarray:
    return codec.decode(whole(codec, length, rate, independent))


def encode_in_pieces(
    codec: Codec, signal: np.ndarray, rate: float, independent: bool, sizes: list[int]
) -> list[bytes]:
    """Push pieces of the sizes in turn, over and over, until the signal ends."""
    encoder = StreamEncoder(codec, rate, independent)
    packets, position, turn = [], 0, 0
    while position < len(signal):
        size = sizes[turn % len(sizes)]
        packets += encoder.push(signal[position : position + size])
        position += size
        turn += 1
    assert encoder.num_samples == len(signal)
    return packets + encoder.finish()


# --------------------------------------------------------------------------------------------------
# The same bytes


@settings(max_examples=20, deadline=None)
@given(
    length=st.sampled_from(LENGTHS),
    rate=st.sampled_from(RATES),
    independent=st.booleans(),
    sizes=st.lists(
        st.one_of(
            st.integers(0, 700), st.integers(1, 160_000), st.sampled_from([0, 1, 160, 320, 321])
        ),
        min_size=1, max_size=12,
    ).filter(lambda sizes: sum(sizes) >= 40 * len(sizes)),
)  # fmt: skip
def test_packets_are_those_of_the_file(
    codec: Codec, length: int, rate: float, independent: bool, sizes: list[int]
) -> None:
    packets = encode_in_pieces(codec, LONG[:length], rate, independent, sizes)
    assert packets == read_stream(whole(codec, length, rate, independent))[1]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("independent", [False, True])
def test_every_length(codec: Codec, length: int, independent: bool) -> None:
    for sizes in ([160_000], [160, 0, 333]):
        packets = encode_in_pieces(codec, LONG[:length], 11.111, independent, sizes)
        assert packets == read_stream(whole(codec, length, 11.111, independent))[1]


def test_sample_by_sample(codec: Codec) -> None:
    packets = encode_in_pieces(codec, LONG[:5000], 13.2, False, [1])
    assert packets == read_stream(whole(codec, 5000, 13.2))[1]


def test_ten_seconds_at_once(codec: Codec) -> None:
    packets = encode_in_pieces(codec, LONG, 16.4, True, [160_000])
    assert packets == read_stream(whole(codec, len(LONG), 16.4, True))[1]


def test_types_of_floats_and_views(codec: Codec) -> None:
    wanted = read_stream(whole(codec, 5000, 13.2))[1]
    signal = LONG[:5000]
    for pieces in (
        [signal.astype(np.float64)], [signal[::-1][::-1]], [signal.tolist()],
    ):  # fmt: skip
        encoder = StreamEncoder(codec, 13.2)
        packets = [packet for piece in pieces for packet in encoder.push(piece)]
        assert packets + encoder.finish() == wanted


def test_pushed_samples_are_not_kept(codec: Codec) -> None:
    """A caller may use one buffer for all pieces."""
    encoder, buffer, packets = StreamEncoder(codec, 13.2), np.zeros(100, np.float32), []
    for start in range(0, 5000, 100):
        buffer[:] = LONG[start : start + 100]
        packets += encoder.push(buffer)
        buffer[:] = np.nan
    assert packets + encoder.finish() == read_stream(whole(codec, 5000, 13.2))[1]
    with pytest.raises(ValueError, match="is finished"):
        encoder.push(LONG[:100])


# --------------------------------------------------------------------------------------------------
# The same samples


@pytest.mark.parametrize(
    ("length", "rate", "independent"),
    [(length, 13.2, False) for length in LENGTHS]
    + [(36001, rate, rate > 12) for rate in RATES]
    + [(36001, 24.4, False)],
)
def test_samples_are_those_of_the_file(
    codec: Codec, length: int, rate: float, independent: bool
) -> None:
    data = whole(codec, length, rate, independent)
    wanted = decoded(codec, length, rate, independent)
    header, packets = read_stream(data)
    decoder = StreamDecoder(codec, header)
    got = np.zeros(0, np.float32)
    for number, packet in enumerate(packets):
        samples = decoder.push(packet)
        assert samples.dtype == np.float32 and samples.shape == (320 if number else 160,)
        start = len(got)
        got = np.concatenate([got, samples])
        assert np.array_equal(got[start:length], wanted[start : len(got)])
    assert len(decoder.finish(length)) == 0 and length <= len(got) < length + 480


@pytest.mark.parametrize("sizes", [[1], [3, 0, 8], [7, 9, 200]])
def test_several_packets_at_once(codec: Codec, sizes: list[int]) -> None:
    header, packets = read_stream(whole(codec, 36001, 13.2))
    decoder, pieces, position = StreamDecoder(codec, header), [], 0
    for size in itertools.cycle(sizes):
        if position >= len(packets):
            break
        pieces.append(decoder.push_all(packets[position : position + size]))
        position += size
    assert np.array_equal(np.concatenate(pieces)[:36001], decoded(codec, 36001, 13.2))


def test_a_stream_that_ends_early_is_filled_up(codec: Codec) -> None:
    header, packets = read_stream(whole(codec, 5000, 13.2))
    decoder = StreamDecoder(codec, header)
    pushed = sum(len(decoder.push(packet)) for packet in packets[:10])
    rest = decoder.finish(5000)
    assert pushed + len(rest) == 5000 and not rest.any()


def test_two_streams_do_not_meet(codec: Codec) -> None:
    """One codec serves any number of streams in turn."""
    wanted = [whole(codec, 5000, 13.2), whole(codec, 36001, 24.4, True)]
    encoders = [StreamEncoder(codec, 13.2), StreamEncoder(codec, 24.4, True)]
    decoders = [StreamDecoder(codec, encoder.header) for encoder in encoders]
    packets: list[list[bytes]] = [[], []]
    samples: list[list[np.ndarray]] = [[], []]
    lengths = (5000, 36001)
    for start in range(0, 36001, 1000):
        for i in range(2):
            new = encoders[i].push(LONG[start : min(start + 1000, lengths[i])])
            packets[i] += new
            samples[i] += [decoders[i].push(packet) for packet in new]
    for i in range(2):
        last = encoders[i].finish()
        assert packets[i] + last == read_stream(wanted[i])[1]
        samples[i] += [decoders[i].push(packet) for packet in last]
        got = np.concatenate(samples[i])[: lengths[i]]
        assert np.array_equal(got, codec.decode(wanted[i]))


# --------------------------------------------------------------------------------------------------
# Delay


class Chain:
    """Encoder and decoder, sample by sample."""

    def __init__(self, codec: Codec) -> None:
        self.encoder = StreamEncoder(codec, 13.2)
        self.decoder = StreamDecoder(codec, self.encoder.header)
        self.out = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> None:
        for packet in self.encoder.push(samples):
            self.out = np.concatenate([self.out, self.decoder.push(packet)])


def test_every_sample_leaves_480_samples_after_it_came(codec: Codec) -> None:
    assert DELAY_SAMPLES == 480
    chain, signal = Chain(codec), LONG[3500:6500]  # a vowel in it
    left_after = {}  # samples pushed when each output sample appeared
    for count in range(1, 3001):
        before = len(chain.out)
        chain.push(signal[count - 1 : count])
        left_after.update(dict.fromkeys(range(before, len(chain.out)), count))
    delays = {n: count - n for n, count in left_after.items()}
    # Those 480 samples after it arrived: some take all of them, none takes more.
    assert max(delays.values()) == DELAY_SAMPLES
    assert min(delays.values()) >= 161  # nothing is there before the packet that completes it
    assert len(chain.out) >= 3000 - DELAY_SAMPLES
    # The output is aligned with the input: no delay is hidden in it.
    lags = list(range(-8, 9))
    out = chain.out[500:2400]
    errors = [np.square(signal[500 + lag : 2400 + lag] - out).sum() for lag in lags]
    assert lags[int(np.argmin(errors))] == 0


@pytest.mark.parametrize("place", [1600, 1601, 1759, 1760, 1919])
def test_nothing_leaves_before_its_cause_came(codec: Codec, place: int) -> None:
    """A click at a sample changes nothing that went out before, and does change the output."""
    plain, clicked = Chain(codec), Chain(codec)
    signal = LONG[:4000].copy()
    signal[place] += 0.9
    plain.push(LONG[:place])
    clicked.push(signal[:place])
    went_out = len(plain.out)
    assert np.array_equal(plain.out, clicked.out)
    plain.push(LONG[place : place + DELAY_SAMPLES])
    clicked.push(signal[place : place + DELAY_SAMPLES])
    assert len(clicked.out) > place  # sample `place` has left, with the click in it
    difference = np.abs(plain.out - clicked.out)
    assert not difference[:went_out].any()
    near = difference[place - 30 : place + 31]
    assert near.max() > 0.1


def test_packets_come_while_the_signal_does(codec: Codec) -> None:
    encoder = StreamEncoder(codec)
    for count in range(1, 30):
        packets = encoder.push(LONG[(count - 1) * 160 : count * 160])
        assert len(packets) == (count % 2 == 0)
    assert num_packets(29 * 160) - len(encoder.finish()) == 14


# --------------------------------------------------------------------------------------------------
# Bytes


def open_stream(codec: Codec, length: int, rate: float, independent: bool) -> bytes:
    encoder = StreamEncoder(codec, rate, independent)
    writer = BitstreamWriter(encoder.header)
    data = writer.header_bytes
    for packet in encoder.push(LONG[:length]) + encoder.finish():
        data += writer.packet(packet)
    return data + writer.finish(encoder.num_samples)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("independent", [False, True])
def test_a_stream_with_an_open_end_is_a_file(codec: Codec, length: int, independent: bool) -> None:
    data = open_stream(codec, length, 11.111, independent)
    header, packets = read_stream(data)
    assert header.open_end and header.num_samples == length
    closed = whole(codec, length, 11.111, independent)
    assert packets == read_stream(closed)[1]
    assert len(data) == len(closed) + TRAILER_BYTES
    assert np.array_equal(codec.decode(data), decoded(codec, length, 11.111, independent))


@pytest.mark.parametrize("vbr", [False, True])
def test_a_file_through_reader_and_decoder(codec: Codec, vbr: bool) -> None:
    """Files of all kinds can be decoded as their bytes come in."""
    data = codec.encode(LONG[:17000], 16000, 13.2, vbr)
    reader, decoder, pieces = BitstreamReader(), None, []
    for start in range(0, len(data), 100):
        packets = reader.push(data[start : start + 100])
        if decoder is None and reader.header is not None:
            decoder = StreamDecoder(codec, reader.header)
        if decoder is not None:
            pieces.append(decoder.push_all(packets))
    assert reader.finish() == []
    assert decoder is not None
    got = np.concatenate([*pieces, decoder.finish(17000)])[:17000]
    assert np.array_equal(got, codec.decode(data))


# --------------------------------------------------------------------------------------------------
# Memory


def state_bytes(part: object, codec: Codec) -> int:
    """Return the bytes of all arrays, records and bytes that an object holds."""
    if part is codec or part is codec._encoder or part is codec._decoder:
        return 0
    if isinstance(part, np.ndarray | np.void):
        return int(part.nbytes)
    if isinstance(part, bytes | bytearray):
        return len(part)
    if isinstance(part, dict):
        return sum(state_bytes(value, codec) for value in part.values())
    if isinstance(part, list | tuple):
        return sum(state_bytes(value, codec) for value in part)
    return state_bytes(vars(part), codec) if hasattr(part, "__dict__") else 0


def test_state_does_not_grow(codec: Codec) -> None:
    encoder = StreamEncoder(codec, 8.0)
    decoder = StreamDecoder(codec, encoder.header)
    writer, reader = BitstreamWriter(encoder.header), BitstreamReader()
    reader.push(writer.header_bytes)
    sizes = []
    for second in range(6):
        for packet in encoder.push(LONG[second * 16000 : (second + 1) * 16000]):
            for arrived in reader.push(writer.packet(packet)):
                decoder.push(arrived if second % 2 == 0 else None)
        parts = (encoder, decoder, writer, reader)
        sizes.append([state_bytes(part, codec) for part in parts])
    assert sizes[1:] == 5 * [sizes[1]] and min(sizes[1][:2]) > 10_000


MEMORY = """
import resource, sys
import numpy as np
from codec import Codec, StreamDecoder, StreamEncoder
from codec.bitstream import BitstreamReader, BitstreamWriter
rng = np.random.default_rng(0)
encoder = StreamEncoder(Codec.load(), 8.0)
decoder = StreamDecoder(encoder.codec, encoder.header)
writer, reader = BitstreamWriter(encoder.header), BitstreamReader()
reader.push(writer.header_bytes)
for second in range(int(sys.argv[2])):
    time = np.arange(16000) / 16000 + second
    piece = 0.3 * np.sin(2 * np.pi * (200 + second % 7) * time) * np.sin(9 * time)
    for packet in encoder.push(piece + 0.01 * rng.standard_normal(16000)):
        for arrived in reader.push(writer.packet(packet)):
            decoder.push(arrived)
    if second + 1 in (int(sys.argv[1]), int(sys.argv[2])):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize(("first", "last"), [(3, 8), pytest.param(60, 600, marks=pytest.mark.slow)])
def test_memory_does_not_grow(first: int, last: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(first), str(last)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    before, after = (int(line) / 1024 for line in result.stdout.split())  # MiB
    # All samples, spectra and levels of the time between would take 100 MiB in 9 min.
    assert after - before < (3 if last < 60 else 10), f"{before:.1f} MiB, then {after:.1f}"


# --------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (np.array([0.0, np.nan]), AudioError, "NaN or infinite"),
        (np.array([np.inf], np.float32), AudioError, "NaN or infinite"),
        (np.array([1e39, 0.0]), AudioError, "samples of 1e.39"),
        (np.array([1e20], np.float32), AudioError, "samples of 1e.20"),
        (np.zeros((2, 100)), ValueError, "give floats of shape"),
        (np.float64(0.5), ValueError, "give floats of shape"),
        (np.zeros(100, np.int16), ValueError, "int16"),
        (["a"], ValueError, "give floats"),
    ],
)
def test_samples_that_are_refused(
    codec: Codec, samples: object, error: type[Exception], message: str
) -> None:
    """And the stream goes on as if they had never come."""
    encoder = StreamEncoder(codec, 13.2)
    packets = encoder.push(LONG[:1234])
    with pytest.raises(error, match=message):
        encoder.push(samples)
    packets += encoder.push(LONG[1234:5000])
    assert packets + encoder.finish() == read_stream(whole(codec, 5000, 13.2))[1]


@pytest.mark.parametrize("rate", [7.999, 32.001, 0, -1, 13200, float("nan")])
def test_rates_that_are_refused(codec: Codec, rate: float) -> None:
    with pytest.raises(ValueError, match="out of range: use 8 to 32"):
        StreamEncoder(codec, rate)


def test_other_weights_are_refused(codec: Codec) -> None:
    weights = copy.copy(codec.weights)
    weights.fingerprint = b"\0\1\2\3"
    with pytest.raises(BitstreamError, match=f"00010203.*{codec.fingerprint}"):
        StreamDecoder(codec, StreamEncoder(Codec(weights)).header)
