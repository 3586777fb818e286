"""The decoder's noise: signs, white, unrelated from block to block, the same everywhere."""

import numpy as np
import pytest
import torch

from codec.mdct import inverse_mdct
from codec.noise import fill_noise, hash32, random_noise, rudin_shapiro


def test_rudin_shapiro_terms() -> None:
    wanted = [1, 1, 1, -1, 1, 1, -1, 1, 1, 1, 1, -1, -1, -1, 1, -1]  # OEIS A020985
    np.testing.assert_array_equal(rudin_shapiro(16), wanted)


@pytest.mark.parametrize("length", [64, 256, 1024])
def test_rudin_shapiro_transform_is_flat(length: int) -> None:
    """|sum of a(n) exp(i n w)| <= sqrt(2 N) for N a power of two: the property it is known for."""
    transform = np.fft.fft(rudin_shapiro(length), 16 * length)
    assert np.abs(transform).max() <= np.sqrt(2 * length) * (1 + 1e-9)


def test_noise_does_not_depend_on_the_chunks() -> None:
    whole = fill_noise(0, 40, 2, 160)
    parts = [fill_noise(start, 8, 2, 160) for start in range(0, 40, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert set(np.unique(whole)) == {-1.0, 1.0}


def test_noise_does_not_repeat() -> None:
    """A pattern that returned every packet would be a 50 Hz buzz."""
    noise = fill_noise(0, 500, 2, 160)
    sound = inverse_mdct(torch.from_numpy(noise.reshape(1, 1000, 160)), 159840)[0].numpy()
    spectrum = np.abs(np.fft.rfft(sound, 1 << 19)) ** 2
    correlation = np.fft.irfft(spectrum)[:16000]
    correlation /= correlation[0]
    assert np.abs(correlation[32:]).max() < 0.05
    assert abs(noise.mean()) < 0.02


def test_noise_has_a_steady_envelope() -> None:
    """Its short-time power varies less than that of random signs."""

    def variation(noise: np.ndarray) -> float:
        blocks = torch.from_numpy(noise.astype(np.float32)).reshape(1, -1, 160)
        sound = inverse_mdct(blocks, (blocks.shape[1] - 1) * 160)[0].numpy()
        power = np.square(sound[: len(sound) // 40 * 40].reshape(-1, 40)).mean(1)
        return float(np.std(power) / np.mean(power))

    signs = np.random.default_rng(0).choice([-1.0, 1.0], (500, 2, 160))
    assert variation(fill_noise(0, 500, 2, 160)) < 0.8 * variation(signs)


def test_training_noise_is_of_the_same_kind() -> None:
    torch.manual_seed(0)
    noise = random_noise(torch.zeros(2, 3, 2, 160))
    assert noise.shape == (2, 3, 2, 160) and set(noise.unique().tolist()) == {-1.0, 1.0}
    sequence = rudin_shapiro().astype(np.float32)
    block = noise[1, 2, 0].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(sequence, 160)
    assert (windows == block).all(1).any() or (windows == -block).all(1).any()


def test_hash_mixes_every_bit() -> None:
    values = hash32(np.arange(20000, dtype=np.uint64))
    bits = (values[:, None] >> np.arange(32, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02
