"""MDCT: perfect reconstruction with the edges, orthonormality, and blocks that do not meet."""

from typing import Any

import numpy as np
import pytest

from codec.config import HOP_LENGTH as HOP
from codec.dsp.mdct import forward, inverse, make_transform

LENGTHS = (1, 159, 160, 161, 319, 320, 321, 16000)


@pytest.fixture(scope="module")
def transform() -> Any:
    return make_transform()


def mdct(transform: Any, signal: np.ndarray) -> np.ndarray:
    """Return the spectra of all blocks that the signal needs, zeros around it."""
    blocks = -(-len(signal) // HOP) + 1
    padded = np.zeros((blocks + 1) * HOP, np.float32)
    padded[HOP : HOP + len(signal)] = signal
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[::HOP].copy()
    spectrum = np.empty((blocks, HOP), np.float32)
    forward(transform, windows, spectrum)
    return spectrum


def synthesis(transform: Any, spectrum: np.ndarray) -> np.ndarray:
    """Return the samples of consecutive blocks; the first HOP lie before the signal."""
    overlap, samples = np.zeros(HOP, np.float32), np.empty(spectrum.size, np.float32)
    inverse(transform, spectrum, overlap, samples)
    return samples


@pytest.mark.parametrize("length", LENGTHS)
def test_perfect_reconstruction(transform: Any, length: int) -> None:
    signal = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    samples = synthesis(transform, mdct(transform, signal))
    # Every sample, those of the first and of the last block too.
    assert np.abs(samples[HOP : HOP + length] - signal).max() < 3e-6
    assert np.abs(samples[HOP + length :]).max(initial=0) < 3e-6


def test_blocks_in_pieces_are_bit_equal(transform: Any) -> None:
    signal = np.random.default_rng(0).uniform(-1, 1, 20 * HOP).astype(np.float32)
    spectrum = mdct(transform, signal)
    whole, overlap = synthesis(transform, spectrum), np.zeros(HOP, np.float32)
    for a, b in ((0, 1), (1, 3), (3, 11), (11, 21)):
        part = np.empty((b - a) * HOP, np.float32)
        inverse(transform, spectrum[a:b].copy(), overlap, part)
        np.testing.assert_array_equal(part, whole[a * HOP : b * HOP])
    one = np.empty((1, HOP), np.float32)
    padded = np.concatenate([np.zeros(HOP, np.float32), signal, np.zeros(HOP, np.float32)])
    for block in (0, 7, 20):
        forward(transform, padded[block * HOP : (block + 2) * HOP].reshape(1, -1).copy(), one)
        np.testing.assert_array_equal(one[0], spectrum[block])


def test_orthonormal(transform: Any) -> None:
    """The lapped basis is orthonormal: T T' = I for all blocks of a signal together."""
    basis = transform["forward"].astype(np.float64)
    head, tail = basis[:HOP], basis[HOP:]
    np.testing.assert_allclose(basis.T @ basis, np.eye(HOP), atol=1e-6)
    np.testing.assert_allclose(tail.T @ head, np.zeros((HOP, HOP)), atol=1e-6)
    np.testing.assert_array_equal(transform["inverse"], transform["forward"].T)


def test_energy_is_kept(transform: Any) -> None:
    signal = np.random.default_rng(0).standard_normal(20 * HOP).astype(np.float32)
    padded = np.concatenate([np.zeros(HOP, np.float32), signal, np.zeros(HOP, np.float32)])
    energy = np.square(mdct(transform, padded).astype(np.float64)).sum()
    assert energy == pytest.approx(np.square(signal.astype(np.float64)).sum(), rel=1e-5)


@pytest.mark.parametrize("k", [0, 1, 40, 80, 159])
def test_sine_falls_into_its_coefficient(transform: Any, k: int) -> None:
    n = np.arange(16000)
    signal = np.sin(np.pi * (k + 0.5) * n / HOP).astype(np.float32)
    power = np.square(mdct(transform, signal)[5:95]).mean(0)
    assert power.argmax() == k
    assert power[max(k - 2, 0) : k + 3].sum() > 0.99 * power.sum()
