"""Align for other codecs their delay and, for pSNR, their fixed filtering.

Both are set up for a channel once and for all; they say nothing about how well a codec codes. Ours
gets no such help.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, linalg, signal

from evaluation.metrics import FloatArray, MetricError, as_pair, psnr

MAX_DELAY_SAMPLES = 4000  # as far as `align` searches


def _cross_correlation(x: FloatArray, y: FloatArray, max_lag: int) -> FloatArray:
    """Return sum_n x[n] y[n + lag] for lag = -max_lag..max_lag, signals zero outside."""
    length = fft.next_fast_len(max(x.size, y.size) + max_lag + 1, real=True)
    product = np.conj(fft.rfft(x, length)) * fft.rfft(y, length)
    circular = fft.irfft(product, length)
    return circular[np.arange(-max_lag, max_lag + 1)]


def align(
    reference: ArrayLike, decoded: ArrayLike, max_delay: int = MAX_DELAY_SAMPLES
) -> tuple[FloatArray, int]:
    """Undo the delay of `decoded` in whole samples, found at the peak of the cross-correlation.

    Parameters
    ----------
    reference : float array, shape [T]
    decoded : float array, shape [any]   the baseline's output, possibly of another length
    max_delay : int                      largest delay, either way, that is searched

    Returns
    -------
    aligned : float64 array, shape [T], zeros where the baseline gave nothing
    delay : int, positive where decoded comes later than reference
    """
    x = np.asarray(reference, dtype=np.float64)
    y = np.asarray(decoded, dtype=np.float64)
    if x.ndim != 1 or y.ndim != 1 or x.size == 0 or y.size == 0:
        raise MetricError("align needs two waveforms of shape [T] that are not empty")
    delay = int(np.argmax(_cross_correlation(x, y, max_delay))) - max_delay
    aligned = np.zeros_like(x)
    start, stop = max(0, delay), min(y.size, x.size + delay)
    if stop > start:
        aligned[start - delay : stop - delay] = y[start:stop]
    return aligned, delay


def fir_map(reference: ArrayLike, decoded: ArrayLike, taps: int = 513) -> FloatArray:
    """Filter `decoded` with the FIR that brings it closest to `reference` in least squares.

    The filter is centred (as many taps ahead as behind), so it also absorbs a rest of delay.

    Parameters
    ----------
    reference, decoded : float arrays, shape [T], already aligned
    taps : int, odd

    Returns
    -------
    float64 array, shape [T]

    Raises
    ------
    MetricError   lengths differ, clip empty or not finite
    ValueError    taps is not a positive odd number
    """
    if taps < 1 or taps % 2 == 0:
        raise ValueError(f"taps must be a positive odd number, got {taps}")
    x, y = as_pair(reference, decoded)
    if not y.any():
        return np.zeros_like(x)
    half = taps // 2
    column = _cross_correlation(y, y, taps - 1)[taps - 1 :].copy()
    column[0] *= 1.0 + 1e-9  # keeps the system solvable for band-limited codecs
    target = _cross_correlation(y, x, half)  # sum_n y[n] x[n + lag]
    impulse = linalg.solve_toeplitz(column, target)
    return signal.fftconvolve(y, impulse)[half : half + x.size]


def mapped_psnr(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Return the pSNR of `decoded` after `fir_map`, dB; see `metrics.psnr`."""
    return psnr(reference, fir_map(reference, decoded))
