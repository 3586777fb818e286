"""Pitch tracker and long-term postfilter: known lags, silence, pieces, and what comes of noise."""

from typing import Any

import numpy as np
import pytest

from codec.config import HOP_LENGTH as HOP
from codec.config import NUM_LTPF_BANDS
from codec.dsp.ltpf import (
    BAND_LIMITS,
    FADE,
    FILTER_STATE,
    FRAME,
    MAX_LAG,
    MIN_LAG,
    REACH,
    band_filters,
    band_response,
    postfilter,
    track_pitch,
)
from codec.records import new


def pulses(period: int, length: int) -> np.ndarray:
    shape = np.random.default_rng(period).standard_normal(period).astype(np.float32)
    return np.tile(shape, length // period + 1)[:length]


@pytest.mark.parametrize("period", [MIN_LAG, 57, 100, 101, 159, MAX_LAG - 1])
def test_lag_of_a_periodic_signal(period: int) -> None:
    signal = pulses(period, FRAME + 10 * HOP)
    for start in range(0, 11 * HOP, HOP):
        periodicity, lag = track_pitch(signal[start : start + FRAME].copy())
        # Not twice the period, although that matches just as well.
        assert lag == period and periodicity > 0.999


def test_silence_and_noise_have_no_pitch() -> None:
    periodicity, lag = track_pitch(np.zeros(FRAME, np.float32))
    assert periodicity == 0 and MIN_LAG <= lag < MAX_LAG
    noise = np.random.default_rng(0).standard_normal((100, FRAME)).astype(np.float32)
    assert np.mean([track_pitch(frame)[0] for frame in noise]) < 0.3


def test_level_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        frame = pulses(77 + seed, FRAME) + 0.3 * rng.standard_normal(FRAME).astype(np.float32)
        loud, quiet = track_pitch(frame), track_pitch(np.float32(2.0**-13) * frame)
        assert loud == pytest.approx(quiet, abs=1e-6)


def test_pitch_against_plain_correlation(speech: np.ndarray) -> None:
    for start in range(4000, 30_000, 1777):
        x = speech[start : start + FRAME].astype(np.float64)
        target, best = x[MAX_LAG:], []
        for lag in range(MIN_LAG, MAX_LAG):
            past = x[MAX_LAG - lag : FRAME - lag]
            norm = np.sqrt(max((target @ target) * (past @ past), 1e-24))
            best.append(target @ past / norm)
        weighted = np.array(best) * (1 - np.arange(MIN_LAG, MAX_LAG) / 4000)
        periodicity, lag = track_pitch(speech[start : start + FRAME].copy())
        assert weighted[lag - MIN_LAG] == pytest.approx(weighted.max(), abs=1e-4)
        assert periodicity == pytest.approx(max(best[lag - MIN_LAG], 0), abs=1e-4)


def test_bands_add_up_to_a_low_pass() -> None:
    response = band_response()
    assert response.shape == (NUM_LTPF_BANDS, HOP) and len(band_filters()) == NUM_LTPF_BANDS
    frequency = (np.arange(HOP) + 0.5) * 50.0
    total = response.sum(0)
    assert np.abs(total[frequency < 0.8 * BAND_LIMITS[-1]] - 1).max() < 0.15
    assert total[frequency > 1.25 * BAND_LIMITS[-1]].max() < 0.05


def filtered(
    signal: np.ndarray, lags: np.ndarray, gains: np.ndarray, state: Any = None
) -> np.ndarray:
    """Return what the filter makes of consecutive segments."""
    state = new(FILTER_STATE) if state is None else state
    out = np.empty_like(signal)
    for j in range(len(signal) // HOP):
        place = slice(j * HOP, (j + 1) * HOP)
        postfilter(state, signal[place], int(lags[j]), gains[j], out[place])
    return out


def some_case(segments: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    signal = rng.standard_normal(segments * HOP).astype(np.float32)
    lags = rng.integers(MIN_LAG, MAX_LAG, segments)
    return signal, lags, rng.random((segments, NUM_LTPF_BANDS)).astype(np.float32)


def test_against_plain_convolution() -> None:
    signal, lags, gains = some_case(9)
    before = np.concatenate([np.zeros(1000), signal]).astype(np.float64)
    bands = np.array([np.convolve(before, h, "same") for h in band_filters()])
    wanted = signal.astype(np.float64)
    last_lag, last_gain = MIN_LAG, np.zeros(NUM_LTPF_BANDS)
    for j in range(9):
        for n in range(HOP):
            fade = min((n + 0.5) / FADE, 1.0) if n < FADE else 1.0
            place = 1000 + j * HOP + n
            wanted[j * HOP + n] += fade * gains[j] @ bands[:, place - lags[j]]
            wanted[j * HOP + n] += (1 - fade) * last_gain @ bands[:, place - last_lag]
        last_lag, last_gain = lags[j], gains[j]
    np.testing.assert_allclose(filtered(signal, lags, gains), wanted, atol=2e-5)


def test_no_gain_changes_nothing() -> None:
    signal, lags, gains = some_case(5)
    np.testing.assert_array_equal(filtered(signal, lags, np.zeros_like(gains)), signal)


def test_periodic_signals_grow_by_the_gain_and_others_do_not() -> None:
    period, segments = 64, 44  # harmonics of 250 Hz
    lags, gains = np.full(segments, period), np.full((segments, NUM_LTPF_BANDS), 0.5, np.float32)
    time = np.arange(segments * HOP)
    for multiple, wanted in ((1.0, 1.5), (1.5, 0.5)):  # on a harmonic, and between two
        tone = np.sin(2 * np.pi * time * multiple / period).astype(np.float32)
        grown = filtered(tone, lags, gains)[4 * HOP :].std() / tone[4 * HOP :].std()
        assert grown == pytest.approx(wanted, rel=0.06)


def test_only_the_past_is_used() -> None:
    signal, lags, gains = some_case(6)
    lags[:] = MIN_LAG
    out = filtered(signal, lags, gains)
    changed = signal.copy()
    changed[4 * HOP :] += 1.0
    np.testing.assert_array_equal(filtered(changed, lags, gains)[: 4 * HOP], out[: 4 * HOP])
    assert MIN_LAG > REACH  # or the filter would look ahead
