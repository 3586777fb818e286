"""Sample rates: exact lengths, frequency, phase and level, and pieces that add up to the whole."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from codec.errors import AudioError
from codec.io.resample import ResampleStream, from_codec_rate, resample, to_codec_rate


def sine(frequency: float, rate: int, num_samples: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(num_samples) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44101, 15999, 1000, 768000])
@pytest.mark.parametrize("num_samples", [0, 1, 2, 159, 4801])
def test_lengths_are_exact(rate: int, num_samples: int) -> None:
    x = np.ones(num_samples, np.float32)
    y = to_codec_rate(x, rate)
    assert y.shape == (ceil(num_samples * 16000 / rate),)
    assert y.dtype == np.float32
    assert from_codec_rate(y, rate, num_samples).shape == (num_samples,)


def test_codec_rate_is_untouched() -> None:
    x = sine(1000, 16000, 1234)
    np.testing.assert_array_equal(to_codec_rate(x, 16000), x)
    np.testing.assert_array_equal(from_codec_rate(x, 16000, 1234), x)


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 44101])
def test_a_sine_keeps_frequency_phase_and_level(rate: int) -> None:
    y = to_codec_rate(sine(1000, rate, rate // 2), rate)
    middle = slice(200, -200)
    assert np.abs(y - sine(1000, 16000, y.size))[middle].max() < 1e-5
    back = from_codec_rate(y, rate, rate // 2)
    assert np.abs(back - sine(1000, rate, rate // 2))[600:-600].max() < 1e-4


def test_no_aliasing() -> None:
    y = to_codec_rate(sine(9000, 48000, 24000), 48000)
    assert np.abs(y[200:-200]).max() < 1e-5


@pytest.mark.parametrize(
    "old, new",
    [(44100, 16000), (8000, 16000), (16000, 22050), (767999, 1000), (1000, 44101), (16000, 16000)],
)
def test_pieces_add_up_to_the_whole(old: int, new: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 30011).astype(np.float32)
    stream, pieces, start = ResampleStream(old, new), [], 0
    while start < len(x):
        size = int(rng.choice([0, 1, 7, 160, 4096]))
        pieces.append(stream.push(x[start : start + size]))
        start += size
    pieces.append(stream.finish())
    np.testing.assert_array_equal(np.concatenate(pieces), resample(x, old, new))
    assert stream.num_out == ceil(len(x) * new / old)


def test_a_length_of_choice() -> None:
    """A decoder knows how many samples there were, and is given so many."""
    x = sine(1000, 16000, 1600)
    whole = resample(x, 16000, 44100)
    for count in (0, 1, 4400, 4410, 5000):
        y = from_codec_rate(x, 44100, count)
        assert len(y) == count
        np.testing.assert_array_equal(y[: min(count, 4410)], whole[:count])
        assert not y[4420:].any()


@pytest.mark.parametrize("rate", [999, 768001, 0, -16000, 16000.5])
def test_rates_out_of_range(rate: float) -> None:
    with pytest.raises(AudioError, match="outside|whole number"):
        to_codec_rate(np.zeros(10), rate)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"shape \[T\]"):
        to_codec_rate(np.zeros((2, 10)), 16000)
