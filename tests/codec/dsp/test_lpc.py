"""LPC: Levinson-Durbin against a linear solver, envelopes of known processes, gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_toeplitz
from scipy.signal import freqz, lfilter

from codec.lpc import autocorrelation, lag_window, levinson_durbin, lpc_envelope

SAMPLE_RATE = 16000


def test_autocorrelation() -> None:
    x = np.random.default_rng(0).standard_normal((3, 480))
    r = autocorrelation(torch.from_numpy(x), 16).numpy()
    for row, lags in zip(x, r, strict=True):
        full = np.correlate(row, row, "full")[479 : 479 + 17]
        np.testing.assert_allclose(lags, full, atol=1e-9 * full[0])


@pytest.mark.parametrize("order", [1, 2, 16])
def test_levinson_solves_the_normal_equations(order: int) -> None:
    x = np.random.default_rng(1).standard_normal((5, 200)).cumsum(-1)
    r = autocorrelation(torch.from_numpy(x), order)
    r[:, 0] *= 1.001
    a, error = levinson_durbin(r)
    assert a.shape == (5, order + 1)
    for lags, coefficients, power in zip(r.numpy(), a.numpy(), error.numpy(), strict=True):
        wanted = solve_toeplitz(lags[:-1], -lags[1:])
        assert coefficients[0] == 1
        np.testing.assert_allclose(coefficients[1:], wanted, rtol=1e-6, atol=1e-8)
        assert power == pytest.approx(lags[0] + wanted @ lags[1:], rel=1e-6)


def test_levinson_is_minimum_phase() -> None:
    x = np.random.default_rng(2).standard_normal((20, 480))
    a, error = levinson_durbin(autocorrelation(torch.from_numpy(x), 16))
    for coefficients in a.numpy():
        assert np.abs(np.roots(coefficients)).max() < 1
    assert (error > 0).all()


def test_lag_window() -> None:
    window = lag_window(16, SAMPLE_RATE)
    assert window[0] == 1
    assert (window.diff() < 0).all()
    assert window[16] == pytest.approx(math.exp(-0.5 * (2 * math.pi * 40 * 16 / 16000) ** 2))


@pytest.mark.parametrize("level", [0.3, 0.01])
def test_envelope_of_white_noise_is_flat(level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = level * torch.randn(200, 480, generator=generator)
    envelope = lpc_envelope(frames, 16, SAMPLE_RATE, 160)
    assert envelope.shape == (200, 160)
    # A single frame ripples; the mean over frames is flat at log2 of the level.
    mean = envelope.mean(0)
    assert (mean - math.log2(level)).abs().max() < 0.2


def test_envelope_of_an_ar2_process() -> None:
    radius, angle = 0.9, 2 * math.pi * 1500 / SAMPLE_RATE
    a = [1.0, -2 * radius * math.cos(angle), radius**2]
    noise = 0.01 * np.random.default_rng(3).standard_normal((200, 1000))
    frames = torch.from_numpy(lfilter([1.0], a, noise, axis=-1)[:, 520:].astype(np.float32))
    envelope = lpc_envelope(frames, 16, SAMPLE_RATE, 160).mean(0).numpy()
    centres = (np.arange(160) + 0.5) * math.pi / 160
    _, response = freqz([0.01], a, centres)
    wanted = np.log2(np.abs(response))
    assert abs(int(envelope.argmax()) - int(wanted.argmax())) <= 2
    assert np.abs(envelope - wanted).mean() < 0.15
    assert np.abs(envelope - wanted).max() < 0.5


@pytest.mark.parametrize("signal", ["speech", "silence", "sine", "square"])
def test_envelope_and_its_gradient_are_finite(signal: str, speech: np.ndarray) -> None:
    n = torch.arange(480)
    frames = {
        "speech": torch.from_numpy(speech[: 480 * 60]).view(60, 480).clone(),
        "silence": torch.zeros(1, 480),
        "sine": torch.sin(0.3 * n)[None],
        "square": torch.where(n // 40 % 2 == 0, 1.0, -1.0)[None],
    }[signal]
    frames.requires_grad_(True)
    envelope = lpc_envelope(frames, 16, SAMPLE_RATE, 160)
    assert torch.isfinite(envelope).all()
    envelope.sum().backward()
    assert frames.grad is not None
    assert torch.isfinite(frames.grad).all()
