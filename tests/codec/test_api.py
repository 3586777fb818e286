"""The codec as a user sees it: lengths, refusals, rates, determinism, quality."""

import copy
import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import codec.api
import codec.decoder
import codec.encoder
from codec import BitstreamError, Codec
from codec.bitstream import HEADER_BYTES, cbr_bytes, read_stream, write_stream
from codec.config import REPORT_RATES_KBPS
from codec.encoder import analyse
from codec.errors import AudioError
from codec.weights import WeightsError
from evaluation.metrics import pesq_wb, psnr

ROOT = Path(codec.api.__file__).resolve().parent.parent
LSB = 1 / 32768
LENGTHS = (0, 1, 159, 160, 161, 319, 320, 321, 16000)

# The fixture `codec` hides the package of the same name inside the tests.
api, decoder_module, encoder_module = codec.api, codec.decoder, codec.encoder


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
    left = 0.2 * np.sin(2 * np.pi * 440 * time)
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
    tensor = torch.from_numpy(speech[:8000])
    assert codec.encode(tensor) == codec.encode(speech[:8000])
    assert codec.encode(tensor[None].double().requires_grad_()) == codec.encode(speech[:8000])


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


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8])
def test_integers_are_refused(codec: Codec, dtype: type) -> None:
    with pytest.raises(ValueError, match="give floats"):
        codec.encode(np.zeros(1000, dtype))


@pytest.mark.parametrize("bitrate", [7.999, 32.001, 0, -1, 13200, float("nan")])
def test_bitrate_out_of_range(codec: Codec, bitrate: float) -> None:
    with pytest.raises(ValueError, match="out of range: use 8 to 32"):
        codec.encode(np.zeros(1000), 16000, bitrate)


def test_shapes_and_options_that_make_no_sense(codec: Codec, stream: bytes) -> None:
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
    long = np.tile(speech, 4)[:160000]
    data = codec.encode(long, 16000, rate)
    header, packets = read_stream(data)
    assert header.nominal_bitrate_bps == round(rate * 1000)
    payload = sum(map(len, packets))
    assert payload == cbr_bytes(header.nominal_bitrate_bps, len(packets))
    assert 8 * payload / (0.02 * len(packets)) == pytest.approx(1000 * rate, rel=1e-3)
    # The whole file, header and checksums included, over its 10 seconds.
    assert 8 * len(data) / 10 == pytest.approx(1000 * rate, rel=0.02)


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
    _, integers = codec.decode_integers(data)
    return hashlib.sha256(b"".join(part.tobytes() for part in integers)).hexdigest()


def test_encoding_twice_gives_the_same_bytes(
    codec: Codec, speech: np.ndarray, stream: bytes
) -> None:
    assert codec.encode(speech, 16000, 13.2) == stream


def test_number_of_threads_does_not_matter(codec: Codec, stream: bytes) -> None:
    one, integers = codec.decode(stream), digest(codec, stream)
    torch.set_num_threads(2)
    try:
        two = codec.decode(stream)
        assert digest(codec, stream) == integers
    finally:
        torch.set_num_threads(1)
    assert np.abs(one - two).max() <= LSB


def test_integers_do_not_depend_on_the_enhancer(codec: Codec, stream: bytes) -> None:
    other = Codec(codec.weights)
    with torch.no_grad():
        for parameter in other.enhancer.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    assert digest(other, stream) == digest(codec, stream)
    assert np.abs(other.decode(stream) - codec.decode(stream)).max() > LSB


def test_another_process_decodes_the_same(codec: Codec, stream: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(stream)
    script = (
        "import sys, hashlib, numpy as np, torch\n"
        "from codec import Codec\n"
        "torch.set_num_threads(2)\n"
        "c, data = Codec.load(), open('a.bin', 'rb').read()\n"
        "np.save('a.npy', c.decode(data))\n"
        "parts = c.decode_integers(data)[1]\n"
        "print(hashlib.sha256(b''.join(p.tobytes() for p in parts)).hexdigest())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == digest(codec, stream)
    assert np.abs(np.load(tmp_path / "a.npy") - codec.decode(stream)).max() <= LSB


def test_what_follows_does_not_change_what_was(codec: Codec, speech: np.ndarray) -> None:
    """The decoder looks back only, and the runs it works in depend on the packet's number alone."""
    _, integers = codec.decode_integers(codec.encode(speech, 16000, 13.2))
    whole = decoder_module.synthesise(codec.enhancer, codec.config, integers, len(speech))
    run, offset = decoder_module.RUN_PACKETS, decoder_module.RUN_OFFSET
    for packets in (7, 10, offset - 1, offset, offset + 1, run, run + 9, run + offset + 4):
        first = type(integers)(*(values[:packets] for values in integers))
        length = min((2 * packets - 1) * 160, len(speech))
        part = decoder_module.synthesise(codec.enhancer, codec.config, first, length)
        np.testing.assert_array_equal(part, whole[:length])


def test_memory_does_not_get_old(codec: Codec, demo_speech: np.ndarray) -> None:
    """Speech late in a long file is decoded as well as at its start."""
    talk = demo_speech[:32000]
    decoded = codec.decode(codec.encode(np.tile(talk, 8), 16000, 8.0))
    quality = [psnr(talk, decoded[i * 32000 : (i + 1) * 32000]) for i in range(8)]
    assert min(quality[1:]) > quality[0] - 1.0


def test_analysing_in_pieces(
    codec: Codec, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    envelopes, spectra = analyse(codec.analysis, codec.config, speech, 151)
    monkeypatch.setattr(encoder_module, "ANALYSIS_PACKETS", 7)
    in_pieces = analyse(codec.analysis, codec.config, speech, 151)
    np.testing.assert_allclose(in_pieces[0], envelopes, atol=0.1)  # 1/256 octave is 1
    np.testing.assert_allclose(in_pieces[1], spectra, atol=1e-5)


def test_encoder_is_the_graphs_front_end(codec: Codec, speech: np.ndarray) -> None:
    """Encoder and training graph cut the same packets and propose the same envelopes."""
    from codec.mdct import mdct

    waveform = torch.from_numpy(speech[: 99 * 160])[None]
    with torch.no_grad():
        spectrum = mdct(waveform, 100, 160).view(1, 50, 2, 160)
        envelope = codec.analysis(waveform, spectrum)
    envelopes, spectra = analyse(codec.analysis, codec.config, speech[: 99 * 160], 50)
    np.testing.assert_allclose(spectra, spectrum[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(envelopes, 256 * envelope[0].numpy(), atol=0.1)


def test_training_after_encoding(codec: Codec, stream: bytes) -> None:
    """The codec's inference leaves nothing behind that autograd refuses."""
    from codec.mdct import inverse_mdct, mdct, mdct_matrix

    mdct_matrix.cache_clear()
    codec.decode(stream)
    waveform = torch.randn(1, 320, requires_grad=True)
    inverse_mdct(mdct(waveform, 3, 160), 320).square().sum().backward()
    assert waveform.grad is not None


# --------------------------------------------------------------------------------------------------
# Quality


@pytest.mark.parametrize("vbr", [False, True])
def test_speech_quality(codec: Codec, demo_speech: np.ndarray, vbr: bool) -> None:
    rates = (8.0, 32.0) if vbr else (8.0, 24.4, 32.0)
    decoded = [codec.decode(codec.encode(demo_speech, 16000, rate, vbr)) for rate in rates]
    pesq = [pesq_wb(demo_speech, wave) for wave in decoded]
    quality = [psnr(demo_speech, wave) for wave in decoded]
    assert pesq == sorted(pesq) and pesq[-1] > pesq[0] + 0.1
    assert quality == sorted(quality) and quality[-1] > quality[0] + 3
    assert pesq[-1] > 2.5 and quality[-1] > 10
    if not vbr:
        assert pesq[1] > 2.5


def test_level_is_kept(codec: Codec, demo_speech: np.ndarray) -> None:
    for gain in (0.01, 1.0):
        decoded = codec.decode(codec.encode(gain * demo_speech, 16000, 24.4))
        assert 0.8 < np.std(decoded) / np.std(gain * demo_speech) < 1.1
        # No delay either: the correlation is highest at lag 0.
        lags = np.arange(-5, 6)
        correlation = [np.dot(np.roll(decoded, lag), demo_speech) for lag in lags]
        assert lags[int(np.argmax(correlation))] == 0


def test_a_quiet_stretch_does_not_spoil_what_follows(
    codec: Codec, demo_speech: np.ndarray
) -> None:
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


def test_independent_packets_cost_quality_not_bits(codec: Codec, demo_speech: np.ndarray) -> None:
    """The same size to the byte; what prediction would have saved is missing.

    One of the sentences is synthetic, with digital silence between the words: it once lost 10 dB.
    """
    for rate in (8.0, 24.4):
        predicted = codec.encode(demo_speech, 16000, rate)
        independent = codec.encode(demo_speech, 16000, rate, independent=True)
        assert len(independent) == len(predicted)
        header, _ = read_stream(independent)
        assert header.independent and not read_stream(predicted)[0].independent
        quality = [psnr(demo_speech, codec.decode(data)) for data in (predicted, independent)]
        assert quality[0] - 1.5 < quality[1] < quality[0] + 0.3
