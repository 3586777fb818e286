"""Delay and fixed filtering of other codecs are undone, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal
from toys import speech_like

from evaluation.alignment import align, fir_map, mapped_psnr
from evaluation.metrics import psnr


@pytest.mark.parametrize("delay", [-700, -1, 0, 1, 137, 3999])
def test_align_finds_the_delay(delay: int) -> None:
    x = speech_like(1.0)
    y = np.zeros_like(x)
    if delay >= 0:
        y[delay:] = x[: x.size - delay]
    else:
        y[:delay] = x[-delay:]
    aligned, found = align(x, -0.5 * -y + 0.001)
    assert found == delay
    same = slice(max(0, -delay), x.size - max(0, delay))
    np.testing.assert_allclose(aligned[same], 0.5 * x[same] + 0.001, atol=1e-12)


def test_align_takes_any_length() -> None:
    x = speech_like(1.0)
    longer, delay = align(x, np.concatenate([np.zeros(312), x, np.zeros(100)]))
    assert delay == 312
    np.testing.assert_array_equal(longer, x)
    shorter, delay = align(x, x[:9000])
    assert delay == 0
    np.testing.assert_array_equal(shorter, np.concatenate([x[:9000], np.zeros(7000)]))


def test_fir_map_undoes_a_fixed_filter() -> None:
    x = speech_like(2.0)
    y = signal.lfilter([0.0, 0.0, 0.6, 0.3], [1.0, -0.5], x)  # delay, gain and tilt
    before, after = psnr(x, y), mapped_psnr(x, y)
    assert before < 5.0
    assert after > 40.0


def test_fir_map_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((2, 400))
    columns = np.stack([np.convolve(y, np.eye(5)[k]) for k in range(5)], axis=1)  # [404, 5]
    target = np.concatenate([np.zeros(2), x, np.zeros(2)])
    best, *_ = np.linalg.lstsq(columns, target, rcond=None)
    np.testing.assert_allclose(fir_map(x, y, taps=5), (columns @ best)[2:-2], atol=1e-6)


def test_fir_map_guards() -> None:
    x = speech_like(0.5)
    assert not fir_map(x, np.zeros_like(x)).any()
    for taps in (0, 512, -3):
        with pytest.raises(ValueError, match="odd"):
            fir_map(x, x, taps)
