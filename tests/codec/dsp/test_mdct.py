"""MDCT: perfect reconstruction with the edges, orthonormality, both lengths of blocks, MDST."""

from typing import Any

import numpy as np
import pytest

from codec.config import HOP_LENGTH as HOP
from codec.dsp.mdct import (
    forward,
    forward_quadrature,
    inverse,
    make_transform,
    to_long,
    to_short,
)

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


# --------------------------------------------------------------------------------------------------
# Long blocks


def long_basis() -> np.ndarray:
    """Return the functions of a long block from their formula, [3N, 2N], float64."""
    n, k = np.arange(4 * HOP)[:, None], np.arange(2 * HOP)
    rise = np.sin(np.pi * (np.arange(HOP) + 0.5) / (2 * HOP))
    nothing = np.zeros(HOP // 2)
    window = np.concatenate([nothing, rise, np.ones(HOP), rise[::-1], nothing])
    angle = np.pi / (2 * HOP) * (n + 0.5 + HOP) * (k + 0.5)
    basis = np.sqrt(1 / HOP) * window[:, None] * np.cos(angle)
    return basis[HOP // 2 : -HOP // 2]


def long_of(transform: Any, spectrum: np.ndarray) -> np.ndarray:
    out = np.empty((2, HOP), np.float32)
    to_long(transform, spectrum, out)
    return out


def short_of(transform: Any, spectrum: np.ndarray) -> np.ndarray:
    out = np.empty((2, HOP), np.float32)
    to_short(transform, spectrum, out)
    return out


def test_the_two_lengths_are_one_rotation_apart(transform: Any) -> None:
    matrix = transform["to_long"].astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(2 * HOP), atol=2e-6)
    np.testing.assert_array_equal(transform["to_short"], transform["to_long"].T)
    spectrum = np.random.default_rng(0).standard_normal((2, HOP)).astype(np.float32)
    there = long_of(transform, spectrum)
    assert np.square(there).sum() == pytest.approx(np.square(spectrum).sum(), rel=1e-5)
    assert np.abs(short_of(transform, there) - spectrum).max() < 1e-5
    assert np.abs(there - spectrum).max() > 0.5
    # Result and argument may be the same array.
    to_short(transform, there, there)
    assert np.abs(there - spectrum).max() < 1e-5


def test_a_long_block_is_a_transform_of_the_samples(transform: Any) -> None:
    """Even coefficients stand in the first row, odd ones in the second."""
    samples = np.random.default_rng(1).uniform(-1, 1, 3 * HOP)
    windows = np.stack([samples[: 2 * HOP], samples[HOP:]]).astype(np.float32)
    spectrum = np.empty((2, HOP), np.float32)
    forward(transform, windows, spectrum)
    wanted = samples @ long_basis()
    got = long_of(transform, spectrum)
    np.testing.assert_allclose(got[0], wanted[0::2], atol=1e-5)
    np.testing.assert_allclose(got[1], wanted[1::2], atol=1e-5)


def test_a_tone_is_narrower_in_a_long_block(transform: Any) -> None:
    n = np.arange(3 * HOP)
    for frequency in (0.11, 0.5, 1.9):
        wave = np.sin(frequency * n)
        windows = np.stack([wave[: 2 * HOP], wave[HOP:]]).astype(np.float32)
        spectrum = np.empty((2, HOP), np.float32)
        forward(transform, windows, spectrum)
        size = [float(np.abs(x).sum()) for x in (spectrum, long_of(transform, spectrum))]
        assert size[1] < 0.95 * size[0]


def test_mdct_and_mdst_together_do_not_know_the_phase(transform: Any) -> None:
    n, powers, cosines = np.arange(2 * HOP), [], []
    for phase in np.linspace(0, np.pi, 7):
        wave = np.sin(np.pi * 40.3 * n / HOP + phase).astype(np.float32)[None]
        cosine, sine = np.empty((1, HOP), np.float32), np.empty((1, HOP), np.float32)
        forward(transform, wave, cosine)
        forward_quadrature(transform, wave, sine)
        powers.append(float(np.square(cosine).sum() + np.square(sine).sum()))
        cosines.append(float(np.square(cosine).sum()))
    assert max(powers) < 1.01 * min(powers)
    assert max(cosines) > 1.2 * min(cosines)
