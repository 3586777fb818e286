"""Envelope analysis: level, scale, silence, and independence of how frames are cut."""

from typing import Any

import numpy as np
import pytest

from codec import Codec
from codec.analysis import RELATIVE_FLOOR
from codec.config import (
    BAND_EDGES,
    DETAIL_EDGES,
    FRAME_LENGTH,
    HOP_LENGTH,
    LOG_FLOOR,
    LOG_ONE,
    NUM_BANDS,
    NUM_DETAIL_BANDS,
)
from codec.dsp import mdct
from codec.encoder import FrameEncoder


def analyse(codec: Codec, wave: np.ndarray, model: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Return spectra and proposed envelopes; of another model than the shipped one if given."""
    frames = codec.frame_encoder(codec.header(0, 16000, 13.2))
    if model is not None:
        frames.model = model
    count = len(wave) // FRAME_LENGTH
    spectra, proposed = propose(frames, wave[: count * FRAME_LENGTH])
    return spectra, proposed[:, :NUM_BANDS]


def propose(frames: FrameEncoder, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return frames.analyse(np.ascontiguousarray(wave, np.float32))


@pytest.fixture(scope="module")
def uncorrected(codec: Codec) -> Any:
    """A model whose network corrects nothing: envelopes are band energies."""
    model = codec._encoder.copy()
    model["analysis"]["w2"], model["analysis"]["b2"] = 0, 0
    return model


@pytest.mark.parametrize("level", [0.2, 0.01, 0.0005])
def test_envelope_of_white_noise_is_its_level(codec: Codec, uncorrected: Any, level: float) -> None:
    noise = level * np.random.default_rng(0).standard_normal(FRAME_LENGTH * 100)
    spectra, envelopes = analyse(codec, noise, uncorrected)
    assert np.sqrt(np.square(spectra[1:]).mean()) == pytest.approx(level, rel=0.05)
    mean = envelopes[1:].mean(0) / LOG_ONE - np.log2(level)
    assert np.abs(mean).max() < 0.4  # a narrow band's log energy is lower than its energy's log
    assert np.abs(mean[NUM_BANDS // 2 :]).max() < 0.2


def test_uncorrected_envelopes_are_band_powers(
    codec: Codec, uncorrected: Any, speech: np.ndarray
) -> None:
    """Of MDCT and MDST together, with a floor below the strongest band."""
    windows = np.pad(speech, (HOP_LENGTH, 0)).astype(np.float32)
    frames = len(speech) // FRAME_LENGTH
    blocks = np.lib.stride_tricks.sliding_window_view(windows, 2 * HOP_LENGTH)[::HOP_LENGTH]
    blocks = blocks[: 2 * frames].astype(np.float64)
    transform = mdct.make_transform()
    both = [np.square(blocks @ transform[name]) for name in ("forward", "quadrature")]
    power = 0.5 * np.sum(both, 0).reshape(frames, 2, HOP_LENGTH).mean(1)
    bands = [power[:, a:b].mean(1) for a, b in zip(BAND_EDGES[:-1], BAND_EDGES[1:], strict=True)]
    bands = np.stack(bands, 1)
    floor = 2.0 ** (2 * LOG_FLOOR / LOG_ONE) + RELATIVE_FLOOR * bands.max(1, keepdims=True)
    wanted = np.maximum(LOG_ONE * 0.5 * np.log2(bands + floor), LOG_FLOOR)
    envelopes = analyse(codec, speech, uncorrected)[1]
    # A little of the lowest sounds is taken for an offset before.
    loud = wanted.max(1) > -6 * LOG_ONE
    assert loud.mean() > 0.4
    np.testing.assert_allclose(envelopes[loud, 4:], wanted[loud, 4:], atol=5.0)
    assert np.abs(envelopes - wanted)[loud, 4:].mean() < 0.5


def detail_levels(codec: Codec, wave: np.ndarray) -> np.ndarray:
    """Return the levels of the detail's bands, octaves [blocks, bands]."""
    proposed = propose(codec.frame_encoder(codec.header(0, 16000, 13.2)), wave)[1]
    return proposed[:, NUM_BANDS:].reshape(-1, NUM_DETAIL_BANDS) / LOG_ONE


def test_levels_of_the_detail_are_those_of_noise(codec: Codec) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(FRAME_LENGTH * 200)
    power = np.exp2(2 * detail_levels(codec, noise)[2:]).mean(0)
    np.testing.assert_allclose(np.log2(power) / 2, np.log2(0.1), atol=0.1)


def test_the_detail_tells_when_and_where(codec: Codec) -> None:
    """A burst of 8 ms at 4 kHz is in its block and band, 30 dB above blocks and bands around."""
    n = np.arange(FRAME_LENGTH * 10)
    middle = 7 * HOP_LENGTH  # of block 7, which is the second of a frame
    burst = np.where(abs(n - middle) < 64, np.cos(np.pi * (n - middle) / 128) ** 2, 0.0)
    levels = detail_levels(codec, 0.1 * burst * np.cos(2 * np.pi * 4000 / 16000 * n))
    block, band = np.unravel_index(levels.argmax(), levels.shape)
    assert block == 7 and DETAIL_EDGES[band] <= 80 <= DETAIL_EDGES[band + 1]
    assert (levels[[5, 9], band] < levels[7, band] - 5).all()
    assert (np.delete(levels[7], [band - 1, band, band + 1]) < levels[7, band] - 3).all()


def test_the_correction_is_bounded(codec: Codec, uncorrected: Any, speech: np.ndarray) -> None:
    """The network corrects; it does not replace."""
    difference = analyse(codec, speech)[1] - analyse(codec, speech, uncorrected)[1]
    assert np.abs(difference).mean() < 2 * LOG_ONE and np.abs(difference).max() < 8 * LOG_ONE
    assert np.abs(difference).max() > 0


def test_envelope_follows_the_level(codec: Codec, speech: np.ndarray) -> None:
    """An octave more is an octave more, where the floors are far away."""
    loud, quiet = analyse(codec, speech)[1], analyse(codec, 0.5 * speech)[1]
    far = quiet > LOG_FLOOR + 6 * LOG_ONE
    assert far.mean() > 0.1
    difference = (loud - quiet)[far] / LOG_ONE
    assert np.median(difference) == pytest.approx(1.0, abs=0.01)
    assert np.quantile(np.abs(difference - 1.0), 0.9) < 0.1


def test_silence_lies_on_the_floor(codec: Codec, uncorrected: Any) -> None:
    spectra, envelopes = analyse(codec, np.zeros(10 * FRAME_LENGTH), uncorrected)
    assert not spectra.any()
    np.testing.assert_allclose(envelopes, LOG_FLOOR, atol=0.1)
    corrected = analyse(codec, np.zeros(10 * FRAME_LENGTH))[1]
    assert (corrected >= LOG_FLOOR).all() and (corrected < LOG_FLOOR + 4 * LOG_ONE).all()


@pytest.mark.parametrize("name", ["click", "square", "full scale noise", "beyond full scale"])
def test_extremes_are_bounded(codec: Codec, name: str) -> None:
    n = np.arange(20 * FRAME_LENGTH)
    wave = {
        "click": (n == 3000).astype(np.float32),
        "square": np.where(n // 40 % 2 == 0, 1.0, -1.0),
        "full scale noise": np.random.default_rng(0).choice([-1.0, 1.0], len(n)),
        "beyond full scale": 65536.0 * np.sin(0.3 * n),
    }[name]
    _, envelopes = analyse(codec, wave)
    assert np.isfinite(envelopes).all() and (envelopes >= LOG_FLOOR).all()
    # No band's level exceeds that of all its energy in one coefficient.
    most = np.log2(np.abs(wave).max() * np.sqrt(3 * HOP_LENGTH))
    assert envelopes.max() < LOG_ONE * (most + 4)


def test_frames_in_any_pieces(codec: Codec, speech: np.ndarray) -> None:
    wave = speech[: 40 * FRAME_LENGTH]
    spectra, envelopes = analyse(codec, wave)
    frames, position = codec.frame_encoder(codec.header(0, 16000, 13.2)), 0
    for count in (1, 0, 7, 2, 30):
        part = wave[position * FRAME_LENGTH : (position + count) * FRAME_LENGTH]
        got = frames.analyse(part)
        assert np.array_equal(got[0], spectra[position : position + count])
        assert np.array_equal(got[1][:, :NUM_BANDS], envelopes[position : position + count])
        position += count
