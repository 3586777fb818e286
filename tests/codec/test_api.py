"""The codec as a user sees it: lengths, refusals, rates, determinism, quality."""

import asyncio
import copy
import dataclasses
import hashlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from codec import BitstreamError, Codec
from codec.bitstream import cbr_bytes, read_stream, write_stream
from codec.config import HEADER_BYTES, REPORT_RATES_KBPS
from codec.errors import AudioError, WeightsError
from evaluation.metrics import pesq_wb, psnr

ROOT = Path(__file__).resolve().parents[2]
LSB = 1 / 32768
LENGTHS = (0, 1, 159, 160, 161, 319, 320, 321, 16000)


@pytest.fixture(scope="module")
def talk(demo_speech: np.ndarray) -> np.ndarray:
    """Three seconds of three speakers, one a synthesizer with digital silence between words."""
    return np.concatenate([demo_speech[16000:48000], demo_speech[96000:112000]])


@pytest.fixture(scope="module")
def stream(codec: Codec, speech: np.ndarray) -> bytes:
    return codec.encode(speech, 16000, bitrate=13.2)


# --------------------------------------------------------------------------------------------------
# Lengths, rates, channels


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("vbr", [False, True])
@pytest.mark.parametrize("independent", [False, True])
def test_length_is_kept(
    codec: Codec, speech: np.ndarray, length: int, vbr: bool, independent: bool
) -> None:
    for bitrate in (8.0, 32.0):
        data = codec.encode(speech[:length], 16000, bitrate, vbr, independent)
        waveform = codec.decode(data)
        assert waveform.shape == (length,) and waveform.dtype == np.float32
        assert np.isfinite(waveform).all()


def test_silence_stays_silent(codec: Codec) -> None:
    waveform = codec.decode(codec.encode(np.zeros(16000), 16000, 13.2))
    assert np.abs(waveform).max() < 1e-3


@pytest.mark.parametrize("sample_rate", [8000, 44100, 48000])
def test_other_rates_and_two_channels(codec: Codec, sample_rate: int) -> None:
    length = sample_rate // 2 + 7
    time = np.arange(length) / sample_rate
    # On a grid on which the mean of the channels is exact.
    left = np.round(0.2 * np.sin(2 * np.pi * 440 * time) * 2**14) / 2**14
    wave = np.stack([left, 0.5 * left])
    data = codec.encode(wave, sample_rate, 24.4)
    assert len(codec.decode(data)) == -(-length * 16000 // sample_rate)
    decoded = codec.decode(data, rate="source")
    assert decoded.shape == (length,)
    # The mean of the channels comes back, aligned.
    wanted = wave.mean(0)
    middle = slice(length // 10, -length // 10)
    error = np.square(decoded - wanted)[middle].mean() / np.square(wanted)[middle].mean()
    assert error < 0.1
    assert codec.encode(wave.mean(0), sample_rate, 24.4) == data
    waveform, rate = codec.decode_with_rate(data, source_rate=True)
    assert rate == sample_rate and np.array_equal(waveform, decoded)


def test_tensors_are_taken_too(codec: Codec, speech: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(speech[:8000])
    assert codec.encode(tensor) == codec.encode(speech[:8000])
    assert codec.encode(tensor[None].double().requires_grad_()) == codec.encode(speech[:8000])


@pytest.mark.parametrize(("dtype", "scale"), [(np.int16, 1 << 15), (np.int32, 1 << 31)])
def test_integer_pcm_is_scaled(codec: Codec, speech: np.ndarray, dtype: type, scale: int) -> None:
    pcm = np.round(scale * speech[:8000].astype(np.float64)).astype(dtype)
    assert codec.encode(pcm) == codec.encode(pcm.astype(np.float32) / np.float32(scale))


def test_other_byte_orders_and_buffers(codec: Codec, speech: np.ndarray) -> None:
    pcm = np.round(32767 * speech[:8000]).astype(np.int16)
    data = codec.encode(pcm)
    assert codec.encode(pcm.astype(">i2")) == data
    wanted = codec.decode(data)
    for given in (bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        np.testing.assert_array_equal(codec.decode(given), wanted)


def test_channels_first_or_last(codec: Codec, speech: np.ndarray) -> None:
    wave = np.stack([speech[:8000], 0.25 * speech[:8000]])
    mixed = codec.encode(wave)
    assert codec.encode(wave.T) == mixed == codec.encode(wave.mean(0))
    for channel in (1, 2):
        assert codec.encode(wave, channel=channel) == codec.encode(wave[channel - 1])
        assert codec.encode(wave.T, channel=channel) == codec.encode(wave[channel - 1])
    with pytest.raises(AudioError, match="no channel 3"):
        codec.encode(wave, channel=3)


def test_input_is_not_changed(codec: Codec, speech: np.ndarray) -> None:
    before = speech.copy()
    codec.encode(speech, 16000, 13.2)
    np.testing.assert_array_equal(speech, before)


# --------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(codec: Codec, bad: float) -> None:
    wave = np.zeros(1000, np.float32)
    wave[500] = bad
    with pytest.raises(AudioError, match="NaN or infinite"):
        codec.encode(wave)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_, np.complex64])
def test_types_that_are_not_clear(codec: Codec, dtype: type) -> None:
    with pytest.raises(AudioError, match="give floats within ±1, or PCM"):
        codec.encode(np.zeros(1000, dtype))


@pytest.mark.parametrize("bitrate", [7.999, 32.001, 0, -1, 13200, float("nan")])
def test_bitrate_out_of_range(codec: Codec, bitrate: float) -> None:
    with pytest.raises(ValueError, match="out of range: use 8 to 32"):
        codec.encode(np.zeros(1000), 16000, bitrate)


def test_shapes_and_options_that_make_no_sense(codec: Codec, stream: bytes) -> None:
    for rate in (float("inf"), float("nan"), 16000.5):
        with pytest.raises(ValueError, match="no whole number"):
            codec.encode(np.zeros(1000), rate)
    for channel in ("left", 1.5):
        with pytest.raises(AudioError, match="give 'mix' or a number"):
            codec.encode(np.zeros(1000), channel=channel)
    with pytest.raises(ValueError, match="bitrate 7.9999999 kbit/s is out"):
        codec.encode(np.zeros(1000), 16000, 7.9999999)
    with pytest.raises(AudioError, match="floats made of 16 bits: divide by 32768"):
        codec.encode(np.full(1000, 32000.0))
    for wave in (np.zeros((2, 3, 4)), np.float64(0.5)):
        with pytest.raises(ValueError, match="shape"):
            codec.encode(wave)
    with pytest.raises(AudioError, match="sample rate"):
        codec.encode(np.zeros(1000), 100)
    with pytest.raises(ValueError, match="use 'codec' or 'source'"):
        codec.decode(stream, rate="16000")


def test_wrong_fingerprint(codec: Codec, stream: bytes) -> None:
    weights = copy.copy(codec.weights)
    weights.fingerprint = b"\x00\x01\x02\x03"
    other = Codec(weights)
    with pytest.raises(BitstreamError, match=f"{codec.fingerprint}.*00010203"):
        other.decode(stream)
    assert read_stream(other.encode(np.zeros(100)))[0].fingerprint == b"\x00\x01\x02\x03"


def test_more_stages_than_the_weights_have(codec: Codec, stream: bytes) -> None:
    """A sound header may still ask for codebooks that do not exist."""
    header, packets = read_stream(stream)
    forged = write_stream(dataclasses.replace(header, num_stages=8), packets)
    with pytest.raises(BitstreamError, match="stages"):
        codec.decode(forged)


def test_damaged_file(codec: Codec, stream: bytes) -> None:
    broken = bytearray(stream)
    broken[HEADER_BYTES + 40] ^= 4
    with pytest.raises(BitstreamError, match="damaged"):
        codec.decode(bytes(broken))
    with pytest.raises(BitstreamError, match="cut off"):
        codec.decode(stream[:-1])


def test_wrong_weights_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot read"):
        Codec.load(tmp_path / "none.safetensors")
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(WeightsError, match="not a weights file"):
        Codec.load(path)


# --------------------------------------------------------------------------------------------------
# Bits


@pytest.mark.parametrize("rate", [*REPORT_RATES_KBPS, 11.111])
def test_payload_is_exactly_at_the_nominal_rate(
    codec: Codec, speech: np.ndarray, rate: float
) -> None:
    data = codec.encode(speech, 16000, rate)
    header, packets = read_stream(data)
    assert header.nominal_bitrate_bps == round(rate * 1000)
    payload = sum(map(len, packets))
    assert payload == cbr_bytes(header.nominal_bitrate_bps, len(packets))
    assert 8 * payload / (0.02 * len(packets)) == pytest.approx(1000 * rate, rel=1e-3)
    # The whole file, header and checksums included, over its 3 seconds.
    assert 8 * len(data) / 3 == pytest.approx(1000 * rate, rel=0.03)


@pytest.mark.parametrize("rate", [8.0, 13.2, 32.0])
def test_vbr_total(codec: Codec, speech: np.ndarray, rate: float) -> None:
    with_pause = np.concatenate([speech, np.zeros(16000, np.float32), 0.1 * speech])
    fixed = codec.encode(with_pause, 16000, rate)
    data = codec.encode(with_pause, 16000, rate, vbr=True)
    assert len(data) == pytest.approx(len(fixed), rel=0.01)
    header, packets = read_stream(data)
    sizes = [len(packet) for packet in packets]
    assert header.vbr and len(set(sizes)) > 5
    speaking = np.mean(sizes[:150])
    assert np.mean(sizes[155:195]) < 0.8 * speaking  # the pause gets less
    decoded = codec.decode(data)
    assert len(decoded) == len(with_pause)
    assert psnr(with_pause, decoded) > 4


# --------------------------------------------------------------------------------------------------
# Determinism


def digest(codec: Codec, data: bytes) -> str:
    """Return a hash of all integers and samples."""
    integers = codec.decode_integers(data)[1]
    parts = [*integers, codec.decode(data)]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_encoding_twice_gives_the_same_bytes(
    codec: Codec, speech: np.ndarray, stream: bytes
) -> None:
    assert codec.encode(speech, 16000, 13.2) == stream


def test_threads_do_not_meet(codec: Codec, speech: np.ndarray, stream: bytes) -> None:
    """One codec in several threads, each coding another part, gives what one thread gives."""

    def code(start: int) -> tuple[bytes, bytes]:
        data = codec.encode(speech[start : start + 8000], 16000, 8.0 + start / 4000)
        return data, codec.decode(data).tobytes()

    starts = list(range(0, 40000, 4000))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(code, starts)) == [code(start) for start in starts]


def test_event_loops(codec: Codec, speech: np.ndarray, stream: bytes) -> None:
    """Tasks of asyncio that code in threads, beside one that must not wait for them."""

    async def work() -> tuple[list[np.ndarray], int]:
        ticks = 0
        tasks = [asyncio.create_task(asyncio.to_thread(codec.decode, stream)) for _ in range(3)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            ticks += 1
        return [task.result() for task in tasks], ticks

    waves, ticks = asyncio.run(work())
    for wave in waves:
        np.testing.assert_array_equal(wave, codec.decode(stream))
    assert ticks > 3  # the lock of the interpreter is released while a signal is coded


def test_pickled_codecs_are_the_same(codec: Codec, stream: bytes) -> None:
    again = pickle.loads(pickle.dumps(codec))
    assert again.fingerprint == codec.fingerprint
    assert digest(again, stream) == digest(codec, stream)


def test_integers_do_not_depend_on_the_enhancer(codec: Codec, stream: bytes) -> None:
    weights = copy.copy(codec.weights)
    weights.tensors = dict(weights.tensors)
    rng = np.random.default_rng(0)
    for name, value in weights.tensors.items():
        if name.startswith("enhancer."):
            noise = 0.01 * rng.standard_normal(value.shape)
            weights.tensors[name] = (value + noise).astype(np.float16)
    other = Codec(weights)
    pairs = zip(codec.decode_integers(stream)[1], other.decode_integers(stream)[1], strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert np.abs(other.decode(stream) - codec.decode(stream)).max() > LSB


def test_another_process_decodes_the_same(codec: Codec, stream: bytes, tmp_path: Path) -> None:
    """To the last bit, and without PyTorch."""
    (tmp_path / "a.bin").write_bytes(stream)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from codec import Codec\n"
        "Codec.load().decode(open('a.bin', 'rb').read()).tofile('a.raw')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    samples = np.fromfile(tmp_path / "a.raw", np.float32)
    assert np.array_equal(samples, codec.decode(stream))


def test_what_follows_does_not_change_what_was(codec: Codec, stream: bytes) -> None:
    """The decoder looks back only."""
    header, packets = read_stream(stream)
    whole = codec.decode(stream)
    for count in (1, 7, 8, 9, 51):
        length = 320 * count - 160
        first = dataclasses.replace(header, num_samples=length)
        part = codec.decode(write_stream(first, packets[:count]))
        assert np.array_equal(part, whole[:length])


def test_memory_does_not_get_old(codec: Codec, demo_speech: np.ndarray) -> None:
    """Speech late in a long file is decoded as well as at its start."""
    talk = demo_speech[:32000]
    decoded = codec.decode(codec.encode(np.tile(talk, 5), 16000, 8.0))
    quality = [psnr(talk, decoded[i * 32000 : (i + 1) * 32000]) for i in range(5)]
    assert min(quality[1:]) > quality[0] - 1.0


# --------------------------------------------------------------------------------------------------
# Quality


@pytest.mark.parametrize("vbr", [False, True])
def test_more_bits_sound_better(codec: Codec, talk: np.ndarray, vbr: bool) -> None:
    rates = (8.0, 32.0) if vbr else (8.0, 24.4, 32.0)
    decoded = [codec.decode(codec.encode(talk, 16000, rate, vbr)) for rate in rates]
    quality = [psnr(talk, wave) for wave in decoded]
    assert quality == sorted(quality) and quality[-1] > quality[0] + 3
    assert quality[-1] > 10


@pytest.mark.parametrize("vbr", [False, True])
def test_perceived_quality(codec: Codec, talk: np.ndarray, vbr: bool) -> None:
    pytest.importorskip("pesq")
    decoded = [codec.decode(codec.encode(talk, 16000, rate, vbr)) for rate in (8.0, 24.4)]
    low, high = (pesq_wb(talk, wave) for wave in decoded)
    assert high > low + 0.1 and high > 2.5


def test_level_is_kept(codec: Codec, talk: np.ndarray) -> None:
    for gain in (0.01, 1.0):
        decoded = codec.decode(codec.encode(gain * talk, 16000, 24.4))
        assert 0.8 < np.std(decoded) / np.std(gain * talk) < 1.1
        # No delay either: the correlation is highest at lag 0.
        lags = np.arange(-5, 6)
        correlation = [np.dot(np.roll(decoded, lag), talk) for lag in lags]
        assert lags[int(np.argmax(correlation))] == 0


def test_a_quiet_stretch_does_not_spoil_what_follows(codec: Codec, demo_speech: np.ndarray) -> None:
    """Near silence, envelope and step are far apart: the enhancer must not suffer."""
    rng = np.random.default_rng(0)
    quiet = rng.integers(-1, 2, 32000).astype(np.float32) / 32768
    talk = demo_speech[:32000]
    alone = psnr(talk, codec.decode(codec.encode(talk, 16000, 8.0)))
    decoded = codec.decode(codec.encode(np.concatenate([quiet, talk]), 16000, 8.0))
    assert np.abs(decoded[1600:28000]).max() < 2e-3
    assert psnr(talk, decoded[32000:]) > alone - 1.5


def test_silence_between_words_does_not_spoil_them(codec: Codec, demo_speech: np.ndarray) -> None:
    """Speech between stretches of digital silence keeps its level."""
    rng = np.random.default_rng(0)
    talk = demo_speech[:32000].copy()
    expected = codec.decode(codec.encode(talk, 16000, 13.2, independent=True))
    for start in (6000, 14000, 22000):
        talk[start : start + 1600] = rng.integers(-1, 2, 1600) / np.float32(32768)
    decoded = codec.decode(codec.encode(talk, 16000, 13.2, independent=True))
    for start, end in ((8500, 13500), (16500, 21500), (24500, 31000)):
        level = np.std(decoded[start:end]) / np.std(expected[start:end])
        assert 0.8 < level < 1.25
        assert psnr(talk[start:end], decoded[start:end]) > 6.0


def test_intra_frames_cost_quality_not_bits(codec: Codec, talk: np.ndarray) -> None:
    """The same size to the byte; what prediction would have saved is missing.

    One of the speakers is a synthesizer, with digital silence between the words.
    """
    for rate in (8.0, 24.4):
        predicted = codec.encode(talk, 16000, rate)
        independent = codec.encode(talk, 16000, rate, independent=True)
        assert len(independent) == len(predicted)
        header, _ = read_stream(independent)
        assert header.independent and not read_stream(predicted)[0].independent
        quality = [psnr(talk, codec.decode(data)) for data in (predicted, independent)]
        assert quality[0] - 1.5 < quality[1] < quality[0] + 0.3
