"""The decoder's noise: white, unrelated from block to block, the same everywhere."""

import mpmath
import numpy as np
import pytest

from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH
from codec.dsp.fixed import GRID_BITS
from codec.dsp.mdct import inverse, make_transform
from codec.dsp.noise import (
    GROUP,
    SEQUENCE_LENGTH,
    STEADY,
    VOICED_FROM,
    VOICED_RANGE,
    fill,
    hash32,
    log_sizes,
    rudin_shapiro,
)

UNVOICED, VOICED = float(VOICED_FROM), float(VOICED_FROM + VOICED_RANGE)


def blocks_of_noise(count: int, periodicity: float = 0.0) -> np.ndarray:
    noise = np.empty((count // BLOCKS_PER_FRAME, BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    for number, frame in enumerate(noise):
        fill(number, np.full(BLOCKS_PER_FRAME, periodicity, np.float32), frame)
    return noise.reshape(count, HOP_LENGTH)


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


def test_signs_are_cut_from_the_sequence() -> None:
    windows = np.lib.stride_tricks.sliding_window_view(
        rudin_shapiro(SEQUENCE_LENGTH).astype(np.float32), HOP_LENGTH
    )
    for block in np.sign(blocks_of_noise(20)):
        assert (windows == block).all(1).any() or (windows == -block).all(1).any()


@pytest.mark.parametrize(
    ("frame", "block", "signs"),
    [(0, 0, "++++-++-+---+++-"), (0, 1, "+--+----+++-+---"), (499, 1, "+---+++-++++-++-")],
)
def test_noise_of_a_frame_is_that_of_its_number(frame: int, block: int, signs: str) -> None:
    """Any change is a change of the decoded samples."""
    noise = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    fill(frame, np.zeros(BLOCKS_PER_FRAME, np.float32), noise)
    assert "".join("+" if v > 0 else "-" for v in noise[block, :16]) == signs


@pytest.mark.parametrize("periodicity", [0.0, 0.45, 1.0])
def test_noise_is_of_signs_below_and_of_magnitudes_above(periodicity: float) -> None:
    sizes = np.abs(blocks_of_noise(4000, periodicity)).astype(np.float64)
    np.testing.assert_array_equal(sizes[:, :STEADY], 1.0)
    above = sizes[:, STEADY:]
    power = np.square(above).reshape(len(above), -1, GROUP).mean(-1)
    np.testing.assert_allclose(power, 1.0, rtol=1e-5)
    # Held together in groups, magnitudes of a Laplace distribution lie between its moments,
    # E|x| = 0.71 and E x^4 = 6, and those of a normal one, 0.80 and 3.
    assert 0.71 < above.mean() < 0.80
    assert 2.2 < np.mean(above**4) < 3
    # White: no coefficient is louder than others.
    assert np.abs(np.square(above).mean(0) - 1.0).max() < 0.15


def test_blocks_share_magnitudes_as_far_as_they_are_voiced() -> None:
    def likeness(periodicity: float) -> float:
        sizes = np.abs(blocks_of_noise(2000, periodicity)).reshape(-1, 2, HOP_LENGTH)[..., STEADY:]
        return float(np.corrcoef(sizes[:, 0].ravel(), sizes[:, 1].ravel())[0, 1])

    assert abs(likeness(UNVOICED - 0.1)) < 0.02 and abs(likeness(UNVOICED)) < 0.02
    assert 0.2 < likeness(0.45) < 0.8
    assert likeness(VOICED) > 0.999 and likeness(1.0) == pytest.approx(1.0)


def test_magnitudes_are_of_a_laplace_distribution() -> None:
    sizes = np.exp2(log_sizes().astype(np.float64))
    assert abs(sizes.mean() - 1.0) < 0.001 and abs(np.mean(sizes**2) - 2.0) < 0.01
    assert abs(np.corrcoef(sizes[1:], sizes[:-1])[0, 1]) < 0.05


def test_magnitudes_are_the_same_on_every_machine() -> None:
    """None of them lies where libraries that differ in the last bits would round differently."""
    shares = [(mpmath.mpf(2 * i + 1)) / (2 * SEQUENCE_LENGTH) for i in range(SEQUENCE_LENGTH)]
    exact = [mpmath.log(-mpmath.log(share), 2) for share in shares]
    place = np.array([float(mpmath.frac(x * 2**GRID_BITS)) for x in exact])
    assert np.abs(place - 0.5).min() > 1e-4
    np.testing.assert_allclose(np.sort(log_sizes()), np.sort(np.array(exact, float)), atol=1e-6)


@pytest.mark.parametrize("periodicity", [0.0, 1.0])
def test_noise_does_not_repeat(periodicity: float) -> None:
    """A pattern that returned every frame would be a 50 Hz buzz."""
    noise = blocks_of_noise(1000, periodicity)
    spectrum = np.abs(np.fft.rfft(sound_of(noise), 1 << 19)) ** 2
    correlation = np.fft.irfft(spectrum)[:16000]
    correlation /= correlation[0]
    assert np.abs(correlation[32:]).max() < 0.05
    assert abs(noise.mean()) < 0.02


def test_noise_has_a_steady_envelope() -> None:
    """Below 3 kHz its short-time power varies less than that of random signs."""

    def variation(noise: np.ndarray) -> float:
        sound = sound_of(noise)
        power = np.square(sound[: len(sound) // 40 * 40].reshape(-1, 40)).mean(1)
        return float(np.std(power) / np.mean(power))

    signs = np.random.default_rng(0).choice([-1.0, 1.0], (1000, HOP_LENGTH))
    noise = blocks_of_noise(1000)
    noise[:, STEADY:] = signs[:, STEADY:] = 0.0
    assert variation(noise) < 0.85 * variation(signs)


def test_hash_mixes_every_bit() -> None:
    values = np.array([hash32(i) for i in range(20_000)], np.uint64)
    assert len(set(values.tolist())) == len(values) and values.max() < 1 << 32
    bits = (values[:, None] >> np.arange(32, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02
    assert 0 <= hash32((1 << 41) - 1) < 1 << 32  # beyond the longest file
