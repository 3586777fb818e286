"""Pitch tracker and comb filter: known lags, silence, chunks, and what comes of noise."""

import numpy as np
import pytest
import torch

from codec.postfilter import (
    BAND_LIMITS,
    FRAME,
    HISTORY,
    MAX_LAG,
    MIN_LAG,
    NUM_COMB_BANDS,
    band_filters,
    band_response,
    comb_filter,
    track_pitch,
)

HOP = 160


def pulses(period: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(period)
    shape = torch.randn(period, generator=generator, dtype=torch.float64)
    return shape.repeat(length // period + 1)[None, :length]


@pytest.mark.parametrize("period", [MIN_LAG, 57, 100, 101, 159, MAX_LAG - 1])
def test_lag_of_a_periodic_signal(period: int) -> None:
    lag, periodicity = track_pitch(pulses(period, FRAME + 10 * HOP), HOP)
    assert lag.shape == periodicity.shape == (1, 11)
    # Not twice the period, although that matches just as well.
    assert (lag == period).all()
    assert periodicity.min() > 0.999


def test_silence_and_noise_have_no_pitch() -> None:
    lag, periodicity = track_pitch(torch.zeros(2, FRAME), HOP)
    assert (periodicity == 0).all() and ((lag >= MIN_LAG) & (lag < MAX_LAG)).all()
    noise = torch.randn(1, FRAME + 100 * HOP, generator=torch.Generator().manual_seed(0))
    assert track_pitch(noise, HOP)[1].mean() < 0.3


def test_level_does_not_matter() -> None:
    waveform = pulses(77, FRAME + 4 * HOP) + 0.3 * torch.randn(1, FRAME + 4 * HOP)
    loud, quiet = track_pitch(waveform, HOP), track_pitch(1e-4 * waveform, HOP)
    assert torch.equal(loud[0], quiet[0])
    torch.testing.assert_close(loud[1], quiet[1])


def test_bands_add_up_to_a_low_pass() -> None:
    response = band_response(HOP)
    assert response.shape == (NUM_COMB_BANDS, HOP) and band_filters().shape[0] == NUM_COMB_BANDS
    frequency = (torch.arange(HOP) + 0.5) * 50.0
    total = response.sum(0)
    assert (total[frequency < 0.8 * BAND_LIMITS[-1]] - 1).abs().max() < 0.15
    assert total[frequency > 1.25 * BAND_LIMITS[-1]].max() < 0.05


def test_no_gain_changes_nothing() -> None:
    waveform = torch.randn(2, HISTORY + 5 * HOP)
    lag = torch.full((2, 6), 80)
    out = comb_filter(waveform, lag, torch.zeros(2, 6, NUM_COMB_BANDS), HOP)
    assert torch.equal(out, waveform[:, HISTORY:])


def test_periodic_signals_grow_by_the_gain_and_noise_by_less() -> None:
    gain, period = 0.5, 64  # harmonics of 250 Hz
    time = torch.arange(HISTORY + 40 * HOP, dtype=torch.float32)
    lag = torch.full((1, 41), period)
    gains = torch.full((1, 41, NUM_COMB_BANDS), gain)
    tone = torch.sin(2 * torch.pi * time / period)[None]
    grown = comb_filter(tone, lag, gains, HOP).std() / tone.std()
    assert grown == pytest.approx(1 + gain, rel=0.02)
    between = torch.sin(2 * torch.pi * time * 1.5 / period)[None]  # between two harmonics
    shrunk = comb_filter(between, lag, gains, HOP).std() / between.std()
    assert shrunk == pytest.approx(1 - gain, rel=0.06)


def test_pieces_give_the_same_as_the_whole() -> None:
    generator = torch.Generator().manual_seed(3)
    waveform = torch.randn(1, HISTORY + 12 * HOP, generator=generator)
    lag = torch.randint(MIN_LAG, MAX_LAG, (1, 13), generator=generator)
    gain = torch.rand(1, 13, NUM_COMB_BANDS, generator=generator)
    whole = comb_filter(waveform, lag, gain, HOP)
    parts = []
    for a, b in ((0, 1), (1, 5), (5, 12)):
        piece = waveform[:, a * HOP : HISTORY + b * HOP]
        parts.append(comb_filter(piece, lag[:, a : b + 1], gain[:, a : b + 1], HOP))
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_only_the_past_is_used() -> None:
    waveform = torch.randn(1, HISTORY + 4 * HOP)
    lag = torch.full((1, 5), MIN_LAG)
    gain = torch.ones(1, 5, NUM_COMB_BANDS)
    out = comb_filter(waveform, lag, gain, HOP)
    changed = waveform.clone()
    changed[:, HISTORY + 2 * HOP :] += 1.0
    after = comb_filter(changed, lag, gain, HOP)
    torch.testing.assert_close(after[:, : 2 * HOP], out[:, : 2 * HOP])


def test_gradient_reaches_gains_and_signal() -> None:
    waveform = torch.randn(1, HISTORY + 2 * HOP, requires_grad=True)
    gain = torch.full((1, 3, NUM_COMB_BANDS), 0.3, requires_grad=True)
    comb_filter(waveform, torch.full((1, 3), 90), gain, HOP).square().sum().backward()
    assert waveform.grad is not None and np.isfinite(waveform.grad.numpy()).all()
    assert gain.grad is not None and gain.grad.abs().min() > 0
