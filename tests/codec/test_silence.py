"""Digital silence between sounds: it is coded as such, and noise does not spread into it."""

import numpy as np
import pytest

from codec import Codec, StreamDecoder, StreamEncoder
from codec.config import HOP_LENGTH, MIN_LEVEL
from codec.dsp.mdct import keep_silence, make_transform, norm

PERIOD, HEARD = 4800, 3200  # 200 of 300 ms, as a voice activity detector leaves them


def gated(speech: np.ndarray, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return speech of which some is digital silence, and where that is."""
    wave = speech[: len(speech) // PERIOD * PERIOD].copy()
    silent = (np.arange(len(wave)) + start) % PERIOD >= HEARD
    wave[silent] = 0
    return wave, silent


@pytest.mark.parametrize("start", [0, 100, 160])
def test_silence_has_no_offset(codec: Codec, speech: np.ndarray, start: int) -> None:
    """Whatever the mean of the sounds is that is taken off them."""
    wave, silent = gated(speech + np.float32(0.01), start)
    encoder = codec.frame_encoder(codec.header(0, 16000, 13.2))
    spectra, _ = encoder.analyse(wave)
    # The last block of each frame covers the frame's second half and half of the next frame.
    blocks = np.linalg.norm(spectra.reshape(-1, HOP_LENGTH), axis=1)
    for block in range(1, len(blocks)):
        covered = slice((block - 1) * HOP_LENGTH, (block + 1) * HOP_LENGTH)
        if silent[covered].all():
            assert blocks[block] == 0
    assert encoder.state["mean"] == pytest.approx(0.01, abs=2e-3)


@pytest.mark.parametrize("rate", [8.0, 24.4])
def test_clicks_in_silence_stay(codec: Codec, rate: float) -> None:
    wave = np.zeros(16000, np.float32)
    wave[1600::3200] = 0.9
    decoded = codec.decode(codec.encode(wave, bitrate=rate))
    for place in range(1600, len(wave), 3200):
        near = decoded[place - 2 : place + 3]
        assert 0.05 < np.abs(near).max() < 1.5
        assert np.abs(decoded[place + 400 : place + 2800]).max() < 1e-3


@pytest.mark.parametrize("noise", [0, 1e-3, 1e-2])
@pytest.mark.parametrize("mirrored", [1, -1])
def test_short_pulses_stay(codec: Codec, noise: float, mirrored: int) -> None:
    """One of its two blocks may miss a pulse in the middle of what they share."""
    pulse = 0.5 * np.hanning(14)[1:-1].astype(np.float32)
    if mirrored < 0:
        pulse *= np.sign(np.arange(12) - 5.5)
    wave = noise * np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    places = range(3200 + 80 - 6, 30000, 1600 + HOP_LENGTH)
    for place in places:
        wave[place : place + 12] += pulse
    decoded = codec.decode(codec.encode(wave, bitrate=24.4))
    for place in places:
        assert np.abs(decoded[place - 4 : place + 16]).max() > 0.7 * np.abs(pulse).max()


def test_what_is_concealed_beside_silence_fades(codec: Codec) -> None:
    """A lost frame tells of no silence, and the one behind it of nothing in the lost one."""
    time = np.arange(16000)
    wave = 0.3 * np.cos(2 * np.pi * 200 / 16000 * time) * (time < 6560)
    wave *= np.clip((6560 - time) / 160, 0, 1)
    encoder = StreamEncoder(codec, bitrate=24.4, independent=True)
    decoder = StreamDecoder(codec, encoder.header)
    packets = [*encoder.push(wave.astype(np.float32)), *encoder.finish()]
    received = [None if p == 20 else packet for p, packet in enumerate(packets)]
    decoded = np.concatenate([decoder.push(packet) for packet in received])
    assert np.abs(decoded[6400:6560]).max() > 0.1  # the tone was there, and goes on
    assert np.abs(np.diff(decoded[1600:])).max() < 0.05  # its own steps are 0.024


@pytest.mark.parametrize("independent", [False, True])
def test_silence_is_zeros(codec: Codec, speech: np.ndarray, independent: bool) -> None:
    """From the second block behind a sound on, and all of a file that has none."""
    wave = np.concatenate([speech[8000:12000], np.zeros(4000, np.float32), speech[12000:16000]])
    decoded = codec.decode(codec.encode(wave, bitrate=13.2, independent=independent))
    assert not decoded[4000 + 3 * HOP_LENGTH : 8000 - 3 * HOP_LENGTH].any()
    silence = np.zeros(16000, np.float32)
    assert not codec.decode(codec.encode(silence, bitrate=13.2, independent=independent)).any()


def test_what_follows_silence_is_coded_as_before_it(codec: Codec, speech: np.ndarray) -> None:
    """Silence leaves the step delta, and the ratio of true costs to estimates, as they were."""
    wave = np.concatenate([speech[8000:11200], np.zeros(3200, np.float32)])
    encoder = codec.frame_encoder(codec.header(0, 16000, 13.2))
    spectra, proposed = encoder.analyse(wave)
    seen = []
    for p in range(len(spectra)):
        encoder.encode(spectra[p : p + 1], proposed[p : p + 1], np.array([33]), np.array([p == 0]))
        past = encoder.state["coding"]["past"]
        seen.append((int(past["delta"]), float(encoder.state["ratio"]), int(past["level"])))
    assert seen[-1] == seen[-8] and seen[-1][2] == MIN_LEVEL


@pytest.mark.parametrize("rate", [8.0, 24.4])
def test_no_echo_in_silence(codec: Codec, speech: np.ndarray, rate: float) -> None:
    """From 2 ms behind the end of a sound on, where the frame behind it is silent."""
    wave, silent = gated(speech, HOP_LENGTH)
    decoded = codec.decode(codec.encode(wave, bitrate=rate))
    level = np.sqrt(np.square(wave[~silent]).mean())
    for end in range(HEARD - HOP_LENGTH, len(wave), PERIOD):
        assert np.abs(decoded[end + 32 : end + 800]).max() < 0.06 * level


def test_what_sounds_is_left_alone() -> None:
    """No sample of steady tones and of noise that swells or fades comes near what is allowed."""
    transform = make_transform()
    basis = transform["forward"].astype(np.float64)
    rng, time = np.random.default_rng(0), np.arange(3 * HOP_LENGTH)
    signals = [
        np.sin(2 * np.pi * f * time / 16000 + phase)
        for f in (10, 25, 50, 60, 100, 440, 1025, 4000, 7975)
        for phase in np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ]
    for _ in range(200):
        fading = np.exp(rng.uniform(-3, 3) * np.linspace(-1, 1, len(time)))
        signals.append(rng.standard_normal(len(time)) * fading)
    for signal in signals:
        blocks = (signal[: 2 * HOP_LENGTH] @ basis, signal[HOP_LENGTH:] @ basis)
        norms = [np.float32(0.25 * norm(block.astype(np.float32))) for block in blocks]
        shared = signal[HOP_LENGTH : 2 * HOP_LENGTH].astype(np.float32)
        held = shared.copy()
        keep_silence(transform, norms[0], norms[1], held)
        np.testing.assert_array_equal(held, shared)


def test_beside_silence_there_is_nothing() -> None:
    for norms in ((np.float32(0), np.float32(5)), (np.float32(5), np.float32(0))):
        samples = np.ones(HOP_LENGTH, np.float32)
        keep_silence(make_transform(), *norms, samples)
        assert not samples.any()
