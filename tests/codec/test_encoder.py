"""Encoder: which blocks it chooses, levels that do not matter, and offsets."""

import io

import numpy as np
import pytest
from compiled import direct

from codec import Codec
from codec.bitstream import cbr_packet_sizes
from codec.coding import frame
from codec.config import (
    FRAME_LENGTH,
    HOP_LENGTH,
    LEVEL_RESOLUTION,
    LOG_ONE,
    NUM_BANDS,
    SAMPLE_RATE,
    Effort,
)
from codec.decoder import DecodedIntegers
from codec.dsp import mdct
from codec.encoder import MEAN_FRAMES
from codec.pieces import EncodeOptions, Outcome, encode_blocks

COUNT = 40
set_envelope, forward = direct(frame.set_envelope), direct(mdct.forward)


def sizes_of(rate: float, count: int) -> np.ndarray:
    return np.array(cbr_packet_sizes(round(rate * 1000), count), np.int64)


def coded(
    codec: Codec, wave: np.ndarray, rate: float = 16.4, independent: bool = False
) -> DecodedIntegers:
    """Return the integers that whole frames of a waveform are coded to."""
    header = codec.header(0, 16000, rate)
    encoder, count = codec.frame_encoder(header), len(wave) // FRAME_LENGTH
    intra = (np.arange(count) == 0) | independent
    wave = np.ascontiguousarray(wave[: count * FRAME_LENGTH], np.float32)
    packets = encoder.encode(*encoder.analyse(wave), sizes_of(rate, count), intra)
    return codec.frame_decoder(header).integers(packets, intra)


def analysed(codec: Codec, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the encoder's MDCT spectra of whole frames, and those of the waveform as it is."""
    wave = np.ascontiguousarray(wave, np.float32)
    spectra = codec.frame_encoder(codec.header(0, 16000, 13.2)).analyse(wave)[0]
    padded = np.concatenate([np.zeros(HOP_LENGTH, np.float32), wave])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP_LENGTH)[::HOP_LENGTH].copy()
    plain = np.empty((len(windows), HOP_LENGTH), np.float32)
    forward(mdct.make_transform(), windows, plain)
    return spectra, plain.reshape(spectra.shape)


# --------------------------------------------------------------------------------------------------
# Block lengths


@pytest.mark.parametrize("rate", [8.0, 16.4, 32.0])
@pytest.mark.parametrize("frequency", [220.0, 1013.0, 3517.0])
def test_a_steady_tone_takes_long_blocks(codec: Codec, rate: float, frequency: float) -> None:
    n = np.arange(COUNT * FRAME_LENGTH)
    wave = 0.3 * np.sin(2 * np.pi * frequency / SAMPLE_RATE * n)
    assert coded(codec, wave, rate).long[2:-1].mean() > 0.9


@pytest.mark.parametrize("rate", [8.0, 16.4, 32.0])
@pytest.mark.parametrize("place", [-120, -60, 20, 80, 140, 220, 280])
def test_a_click_takes_two_short_blocks(codec: Codec, rate: float, place: int) -> None:
    """In a steady tone, exactly the frames with a click under their windows, wherever it lies.

    ``place`` counts from the frame's samples: its windows begin at -160 and end at 320.
    """
    n = np.arange(COUNT * FRAME_LENGTH)
    wave = 0.01 * np.sin(2 * np.pi * 1013.0 / SAMPLE_RATE * n)
    clicks = np.arange(5, COUNT, 7) * FRAME_LENGTH + place
    wave[clicks] += 0.8
    first = np.arange(COUNT)[:, None] * FRAME_LENGTH - HOP_LENGTH
    under = ((clicks >= first) & (clicks < first + FRAME_LENGTH + HOP_LENGTH)).any(1)
    inner = slice(2, -1)  # the tone begins and ends with a click, too
    assert np.array_equal(coded(codec, wave, rate).long[inner] == 0, under[inner])


def test_speech_takes_both(codec: Codec, speech: np.ndarray) -> None:
    for rate in (8.0, 32.0):
        assert 0.2 < coded(codec, speech, rate).long.mean() < 0.9


# --------------------------------------------------------------------------------------------------
# Level


@pytest.mark.parametrize("gain_db", [-6.0206, -24.0824])
def test_a_gain_moves_the_level_and_nothing_else(
    codec: Codec, speech: np.ndarray, gain_db: float
) -> None:
    """Steps of 1.5 dB: gains of whole octaves are whole numbers of them.

    In intra frames: predicted ones also depend on what rounding made of those before. At -48 dB
    the envelope's floor, which is absolute, changes half of the frames.
    """
    octaves = round(gain_db / 6.0206)
    loud = coded(codec, speech, independent=True)
    quiet = coded(codec, speech * np.float32(2.0**octaves), independent=True)
    there = loud.envelope.mean(1) > -8 * LOG_ONE  # pauses fall to the floor
    assert there.mean() > 0.4
    difference = (quiet.envelope - loud.envelope - octaves * LOG_ONE)[there]
    assert np.mean(difference == 0) > 0.8
    assert np.median(np.abs(difference)) == 0
    assert np.mean(quiet.levels[there] == loud.levels[there]) > 0.85


def test_the_level_follows_the_signal(codec: Codec, speech: np.ndarray) -> None:
    """From -6 to -60 dBFS the envelope says what the signal's level is."""
    header = codec.header(0, 16000, 16.4)
    for dbfs in (-6.0, -40.0, -60.0):
        wave = speech * np.float32(10 ** (dbfs / 20) / np.abs(speech).max())
        encoder = codec.frame_encoder(header)
        spectra, proposed = encoder.analyse(wave)
        past = encoder.state["coding"]["past"]
        encoder.encode(spectra[:30], proposed[:30], sizes_of(16.4, 30), np.arange(30) == 0)
        wanted = proposed[29, :NUM_BANDS].mean() / LEVEL_RESOLUTION
        assert abs(past["level"] - wanted) <= 0.5
        shape = past["envelope"] - past["shape"]
        assert (shape == past["level"] * LEVEL_RESOLUTION).all()


def test_a_broken_packet_cannot_ask_for_any_level(codec: Codec) -> None:
    encoder = codec.frame_encoder(codec.header(0, 16000, 16.4))
    state, model = encoder.state["coding"], encoder.model["coding"]
    for delta in (-104, 104):
        for _ in range(4):
            state["frame"]["level_delta"] = delta
            set_envelope(model, state, 0, 3)
            state["past"]["level"] = state["frame"]["level"]
        assert state["frame"]["level"] == (-72 if delta < 0 else 32)


# --------------------------------------------------------------------------------------------------
# Offsets


def test_a_constant_is_taken_off_at_once(codec: Codec) -> None:
    spectra, _ = analysed(codec, np.full(50 * FRAME_LENGTH, 0.5))
    assert np.abs(spectra).max() < 1e-5


def test_an_offset_leaves_speech_as_it_is(codec: Codec, speech: np.ndarray) -> None:
    wave = speech[: 50 * FRAME_LENGTH].astype(np.float64)
    plain, offset = (analysed(codec, wave + more)[0] for more in (0.0, 0.2))
    np.testing.assert_allclose(offset, plain, atol=1e-5)


@pytest.mark.parametrize("vbr", [False, True])
@pytest.mark.parametrize("more", [1, 160, 200, 319])
def test_no_click_ends_a_file_with_an_offset(
    codec: Codec, speech: np.ndarray, vbr: bool, more: int
) -> None:
    """Beyond the last sample there is silence, not a step back from the offset."""
    wave = (speech - speech.mean())[: 50 * FRAME_LENGTH + more]
    wave[-3 * FRAME_LENGTH :] = 0.0
    data = codec.encode(wave + np.float32(0.2), SAMPLE_RATE, 24.4, vbr=vbr)
    assert np.abs(codec.decode(data)[-FRAME_LENGTH:]).max() < 1e-3


@pytest.mark.parametrize("vbr", [False, True])
def test_an_offset_that_is_kept_comes_back(codec: Codec, speech: np.ndarray, vbr: bool) -> None:
    """Of a whole signal, and of one in pieces."""
    wave = np.float32(0.2) + speech[: 100 * FRAME_LENGTH]
    for keep, mean in ((True, 0.2), (False, speech[: len(wave)].mean())):
        data = codec.encode(wave, bitrate=24.4, vbr=vbr, keep_offset=keep)
        assert codec.decode(data).mean() == pytest.approx(mean, abs=0.01)
        options, file = EncodeOptions(24.4, vbr, keep_offset=keep), io.BytesIO()
        blocks = np.array_split(wave, 7)
        encode_blocks(codec, blocks, options, Outcome("-", "-"), file.write, file.seek)
        assert file.getvalue() == data


def test_an_offset_that_begins_fades(codec: Codec) -> None:
    """The mean is of the last 32 frames: each frame takes off one part in 32 of what is left."""
    wave = np.repeat([1e-3, 0.5], 200 * FRAME_LENGTH)
    level = np.sqrt(np.square(analysed(codec, wave)[0]).mean((1, 2)))
    assert level[201] > 0.4
    np.testing.assert_allclose(level[210:300] / level[209:299], 31 / MEAN_FRAMES, rtol=1e-2)


@pytest.mark.parametrize("frequency, worst_db", [(5.0, -24), (20.0, -35), (90.0, -45)])
def test_slow_sounds_keep_their_phase(codec: Codec, frequency: float, worst_db: float) -> None:
    n = np.arange(200 * FRAME_LENGTH)
    wave = 0.3 * np.sin(2 * np.pi * frequency / SAMPLE_RATE * n)
    spectra, plain = analysed(codec, wave)
    error = np.square((spectra - plain)[100:]).sum() / np.square(plain[100:]).sum()
    assert 10 * np.log10(error) < worst_db


# --------------------------------------------------------------------------------------------------
# Effort


@pytest.mark.parametrize("rate", [8.0, 13.2, 24.4])
def test_high_effort_comes_nearer(codec: Codec, demo_speech: np.ndarray, rate: float) -> None:
    """In as many bytes, for the same decoder."""
    wave, error = demo_speech[: 500 * FRAME_LENGTH], {}
    for effort in Effort:
        data = codec.encode(wave, SAMPLE_RATE, rate, effort=effort)
        error[effort] = np.square(codec.decode(data) - wave).sum(), len(data)
    assert error["high"][0] < 0.99 * error["normal"][0]
    assert error["high"][1] == error["normal"][1]


@pytest.mark.parametrize("vbr", [False, True])
def test_high_effort_in_pieces(codec: Codec, speech: np.ndarray, vbr: bool) -> None:
    wave = speech[: 60 * FRAME_LENGTH + 77]
    data = codec.encode(wave, bitrate=9.6, vbr=vbr, effort="high")
    assert data != codec.encode(wave, bitrate=9.6, vbr=vbr)
    options, file = EncodeOptions(9.6, vbr, effort="high"), io.BytesIO()
    encode_blocks(codec, np.array_split(wave, 7), options, Outcome("-", "-"), file.write, file.seek)
    assert file.getvalue() == data


def test_unknown_effort(codec: Codec) -> None:
    with pytest.raises(ValueError, match="effort 'best': use normal or high"):
        codec.encode(np.zeros(FRAME_LENGTH), effort="best")
