"""Encoder: which blocks it chooses, levels that do not matter, and the DC blocker."""

import numpy as np
import pytest
from frames import sizes_of

from codec import Codec
from codec.coding.frame import set_envelope
from codec.config import FRAME_LENGTH, HOP_LENGTH, LEVEL_RESOLUTION, LOG_ONE, SAMPLE_RATE
from codec.decoder import DecodedIntegers
from codec.encoder import DC_POLE, FrameEncoder, default_stages

COUNT = 40


def coded(codec: Codec, wave: np.ndarray, rate: float = 16.4) -> DecodedIntegers:
    """Return the integers that whole frames of a waveform are coded to."""
    header = codec.header(0, 16000, rate)
    encoder, count = codec.frame_encoder(header), len(wave) // FRAME_LENGTH
    intra = np.arange(count) == 0
    wave = np.ascontiguousarray(wave[: count * FRAME_LENGTH], np.float32)
    packets = encoder.encode(*encoder.analyse(wave), sizes_of(rate, count), intra)
    return codec.frame_decoder(header).integers(packets, intra)


def filtered(codec: Codec, wave: np.ndarray, keep_dc: bool) -> np.ndarray:
    """Return the MDCT spectra of whole frames, with or without the DC blocker."""
    shipped = codec.frame_encoder(codec.header(0, 16000, 13.2))
    encoder = FrameEncoder(shipped.model, codec.config, default_stages(13200), keep_dc)
    return encoder.analyse(wave.astype(np.float32))[0]


# --------------------------------------------------------------------------------------------------
# Block lengths


@pytest.mark.parametrize("rate", [8.0, 16.4, 32.0])
@pytest.mark.parametrize("frequency", [220.0, 1013.0, 3517.0])
def test_a_steady_tone_takes_long_blocks(codec: Codec, rate: float, frequency: float) -> None:
    n = np.arange(COUNT * FRAME_LENGTH)
    wave = 0.3 * np.sin(2 * np.pi * frequency / SAMPLE_RATE * n)
    assert coded(codec, wave, rate).long[2:-1].mean() > 0.9


@pytest.mark.parametrize("rate", [8.0, 16.4, 32.0])
def test_a_click_takes_two_short_blocks(codec: Codec, rate: float) -> None:
    """Anywhere but where both lengths have the same slope of the window."""
    for place in (20, 60, 260, 300):
        wave = 1e-4 * np.random.default_rng(0).standard_normal(COUNT * FRAME_LENGTH)
        clicks = np.arange(5, COUNT, 7)
        wave[clicks * FRAME_LENGTH + place - HOP_LENGTH // 2] += 0.8
        long = coded(codec, wave, rate).long
        # The frame whose blocks' middle the click is near to.
        assert not long[clicks].any() or not long[clicks - 1].any(), place


def test_speech_takes_both(codec: Codec, speech: np.ndarray) -> None:
    for rate in (8.0, 32.0):
        assert 0.2 < coded(codec, speech, rate).long.mean() < 0.9


# --------------------------------------------------------------------------------------------------
# Level


@pytest.mark.parametrize("gain_db", [-6.0206, -24.0824, -48.1648])
def test_a_gain_moves_the_level_and_nothing_else(
    codec: Codec, speech: np.ndarray, gain_db: float
) -> None:
    """Steps of 1.5 dB: gains of whole octaves are whole numbers of them."""
    octaves = round(gain_db / 6.0206)
    loud = coded(codec, speech)
    quiet = coded(codec, speech * np.float32(2.0**octaves))
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
        wanted = proposed[29].mean() / LEVEL_RESOLUTION
        assert abs(past["level"] - wanted) <= 0.5
        shape = past["envelope"] - past["shape"]
        assert (shape == past["level"] * LEVEL_RESOLUTION).all()


def test_a_broken_packet_cannot_ask_for_any_level(codec: Codec) -> None:
    encoder = codec.frame_encoder(codec.header(0, 16000, 16.4))
    state, model = encoder.state["coding"], encoder.model["coding"]
    for delta in (-104, 104):
        for _ in range(4):
            state["frame"]["level_delta"] = delta
            set_envelope(model, state, False, 3)
            state["past"]["level"] = state["frame"]["level"]
        assert state["frame"]["level"] == (-72 if delta < 0 else 32)


# --------------------------------------------------------------------------------------------------
# DC blocker


def test_a_constant_is_taken_off(codec: Codec) -> None:
    wave = np.full(100 * FRAME_LENGTH, 0.5)
    kept, blocked = (filtered(codec, wave, keep) for keep in (True, False))
    assert np.square(kept[10:]).mean() == pytest.approx(0.25, rel=0.01)
    assert np.abs(blocked[60:]).max() < 1e-4 * np.abs(kept[60:]).max()
    # y[n] falls by DC_POLE with each sample: the constant fades within a tenth of a second.
    level = np.sqrt(np.square(blocked[:50]).mean((1, 2)))
    np.testing.assert_allclose(level[11:40] / level[10:39], DC_POLE**FRAME_LENGTH, rtol=1e-2)


@pytest.mark.parametrize("frequency, loss_db", [(3.1, 3.0), (20.0, 0.1), (100.0, 0.004)])
def test_what_is_slower_than_3_hz(codec: Codec, frequency: float, loss_db: float) -> None:
    """Half power at 3 Hz; a voice's fundamental is left as it is."""
    n = np.arange(400 * FRAME_LENGTH)
    wave = 0.3 * np.sin(2 * np.pi * frequency / SAMPLE_RATE * n)
    kept, blocked = (
        np.square(filtered(codec, wave, keep)[100:].astype(np.float64)).sum()
        for keep in (True, False)
    )
    assert 10 * np.log10(kept / blocked) == pytest.approx(loss_db, rel=0.2, abs=0.005)


def test_speech_passes_the_blocker(codec: Codec, speech: np.ndarray) -> None:
    wave = speech[: 100 * FRAME_LENGTH]
    kept, blocked = (filtered(codec, wave, keep) for keep in (True, False))
    assert not np.array_equal(kept, blocked)
    error = np.square(kept - blocked).sum() / np.square(kept).sum()
    assert error < 1e-3
