"""LPC: Levinson-Durbin against a linear solver, envelopes of known processes."""

import math

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz
from scipy.signal import freqz, lfilter

from codec.config import HOP_LENGTH, LPC_ORDER, SAMPLE_RATE
from codec.dsp import lpc
from codec.dsp.lpc import FRAME, envelope, levinson_durbin, make_prediction

PREDICTION = make_prediction()


def lags_of(x: np.ndarray, order: int) -> np.ndarray:
    return np.correlate(x, x, "full")[len(x) - 1 : len(x) + order]


def solved(lags: np.ndarray) -> tuple[np.ndarray, float]:
    a = np.empty(len(lags))
    return a, levinson_durbin(lags, a)


def envelope_of(frame: np.ndarray) -> np.ndarray:
    out = np.empty(HOP_LENGTH, np.float32)
    envelope(PREDICTION, frame.astype(np.float32), out)
    return out


@pytest.mark.parametrize("order", [1, 2, 16])
def test_levinson_solves_the_normal_equations(order: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        lags = lags_of(rng.standard_normal(200).cumsum(), order)
        lags[0] *= 1.001
        a, power = solved(lags)
        wanted = solve_toeplitz(lags[:-1], -lags[1:])
        assert a[0] == 1
        np.testing.assert_allclose(a[1:], wanted, rtol=1e-6, atol=1e-8)
        assert power == pytest.approx(lags[0] + wanted @ lags[1:], rel=1e-6)


def test_levinson_is_minimum_phase() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        a, error = solved(lags_of(rng.standard_normal(480), LPC_ORDER))
        assert np.abs(np.roots(a)).max() < 1 and error > 0


def test_tables() -> None:
    window = PREDICTION["window"].astype(np.float64)
    assert np.square(window).sum() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(window, window[::-1], atol=1e-8)
    np.testing.assert_allclose(window / window.max(), np.hanning(FRAME), atol=1e-4)
    lag_window = PREDICTION["lag_window"]
    assert lag_window[0] == 1 + lpc.RELATIVE_FLOOR and (np.diff(lag_window) < 0).all()
    angle = 2 * math.pi * lpc.LAG_WINDOW_HZ * 16 / SAMPLE_RATE
    assert lag_window[16] == pytest.approx(math.exp(-0.5 * angle**2), abs=1e-9)


def plain_envelope(frame: np.ndarray) -> np.ndarray:
    """Return the envelope in float64, with a linear solver and a DFT."""
    x = frame.astype(np.float64) * np.hanning(FRAME) / np.sqrt(np.square(np.hanning(FRAME)).sum())
    r = lags_of(x, LPC_ORDER) * PREDICTION["lag_window"]
    r[0] += lpc.ABSOLUTE_FLOOR
    a = np.concatenate([[1.0], solve_toeplitz(r[:-1], -r[1:])])
    error = r @ a
    _, response = freqz([1.0], a, (np.arange(HOP_LENGTH) + 0.5) * math.pi / HOP_LENGTH)
    return 0.5 * np.log2(error) + np.log2(np.abs(response))


def test_envelope_of_speech_is_that_of_float64(speech: np.ndarray) -> None:
    for start in range(0, 40_000, 1600):
        frame = speech[start : start + FRAME]
        np.testing.assert_allclose(envelope_of(frame), plain_envelope(frame), atol=0.01)


@pytest.mark.parametrize("level", [0.3, 0.01])
def test_envelope_of_white_noise_is_flat(level: float) -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([envelope_of(level * rng.standard_normal(FRAME)) for _ in range(200)], 0)
    # A single frame ripples; the mean over frames is flat at log2 of the level.
    assert np.abs(mean - math.log2(level)).max() < 0.2


def test_envelope_of_an_ar2_process() -> None:
    radius, angle = 0.9, 2 * math.pi * 1500 / SAMPLE_RATE
    a = [1.0, -2 * radius * math.cos(angle), radius**2]
    noise = 0.01 * np.random.default_rng(3).standard_normal((200, 520 + FRAME))
    frames = lfilter([1.0], a, noise, axis=-1)[:, 520:]
    mean = np.mean([envelope_of(frame) for frame in frames], 0)
    _, response = freqz([0.01], a, (np.arange(HOP_LENGTH) + 0.5) * math.pi / HOP_LENGTH)
    wanted = np.log2(np.abs(response))
    assert abs(int(mean.argmax()) - int(wanted.argmax())) <= 2
    assert np.abs(mean - wanted).mean() < 0.15
    assert np.abs(mean - wanted).max() < 0.5


def test_envelopes_of_extremes_are_finite() -> None:
    n = np.arange(FRAME)
    for frame in (
        np.zeros(FRAME), np.sin(0.3 * n), np.where(n // 40 % 2 == 0, 1.0, -1.0), np.ones(FRAME),
        1e-30 * np.sin(n), 32767 * np.sin(n), np.where(n % 2 == 0, 1.0, -1.0),
    ):  # fmt: skip
        assert np.isfinite(envelope_of(frame)).all()
