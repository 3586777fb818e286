"""The decoder's noise: signs, white, unrelated from block to block, the same everywhere."""

import numpy as np
import pytest

from codec.config import HOP_LENGTH
from codec.dsp.mdct import inverse, make_transform
from codec.dsp.noise import SEQUENCE_LENGTH, fill, hash32, rudin_shapiro


def blocks_of_noise(count: int) -> np.ndarray:
    noise = np.empty((count, HOP_LENGTH), np.float32)
    for block in range(count):
        fill(block, noise[block])
    return noise


def sound_of(blocks: np.ndarray) -> np.ndarray:
    samples = np.empty(blocks.size, np.float32)
    inverse(make_transform(), blocks.astype(np.float32), np.zeros(HOP_LENGTH, np.float32), samples)
    return samples[HOP_LENGTH:]


def test_rudin_shapiro_terms() -> None:
    wanted = [1, 1, 1, -1, 1, 1, -1, 1, 1, 1, 1, -1, -1, -1, 1, -1]  # OEIS A020985
    np.testing.assert_array_equal(rudin_shapiro(16), wanted)


@pytest.mark.parametrize("length", [64, 256, 1024])
def test_rudin_shapiro_transform_is_flat(length: int) -> None:
    """|sum of a(n) exp(i n w)| <= sqrt(2 N) for N a power of two: the property it is known for."""
    transform = np.fft.fft(rudin_shapiro(length), 16 * length)
    assert np.abs(transform).max() <= np.sqrt(2 * length) * (1 + 1e-9)


def test_noise_is_cut_from_the_sequence() -> None:
    windows = np.lib.stride_tricks.sliding_window_view(
        rudin_shapiro(SEQUENCE_LENGTH).astype(np.float32), HOP_LENGTH
    )
    for block in blocks_of_noise(20):
        assert (windows == block).all(1).any() or (windows == -block).all(1).any()


@pytest.mark.parametrize(
    ("block", "signs"),
    [(0, "++++-++-+---+++-"), (1, "+--+----+++-+---"), (999, "+---+++-++++-++-")],
)
def test_noise_of_a_block_is_that_of_its_number(block: int, signs: str) -> None:
    """Any change is a change of the decoded samples."""
    noise = np.empty(HOP_LENGTH, np.float32)
    fill(block, noise)
    assert "".join("+" if v > 0 else "-" for v in noise[:16]) == signs


def test_noise_does_not_repeat() -> None:
    """A pattern that returned every frame would be a 50 Hz buzz."""
    noise = blocks_of_noise(1000)
    spectrum = np.abs(np.fft.rfft(sound_of(noise), 1 << 19)) ** 2
    correlation = np.fft.irfft(spectrum)[:16000]
    correlation /= correlation[0]
    assert np.abs(correlation[32:]).max() < 0.05
    assert abs(noise.mean()) < 0.02


def test_noise_has_a_steady_envelope() -> None:
    """Its short-time power varies less than that of random signs."""

    def variation(noise: np.ndarray) -> float:
        sound = sound_of(noise)
        power = np.square(sound[: len(sound) // 40 * 40].reshape(-1, 40)).mean(1)
        return float(np.std(power) / np.mean(power))

    signs = np.random.default_rng(0).choice([-1.0, 1.0], (1000, HOP_LENGTH))
    assert variation(blocks_of_noise(1000)) < 0.8 * variation(signs)


def test_hash_mixes_every_bit() -> None:
    values = np.array([hash32(i) for i in range(20_000)], np.uint64)
    assert len(set(values.tolist())) == len(values) and values.max() < 1 << 32
    bits = (values[:, None] >> np.arange(32, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02
    assert 0 <= hash32((1 << 41) - 1) < 1 << 32  # beyond the longest file
