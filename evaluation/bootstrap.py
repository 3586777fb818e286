"""Say how sure a mean over clips is: percentile bootstrap intervals, also of paired differences.

The clips of a test set are a sample of all clips; what another sample would have given is estimated
by drawing clips with replacement from the one there is. All functions are deterministic: the same
values and seed give the same interval.

References
----------
Efron & Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, section 13.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
_MAX_ELEMENTS = 4_000_000  # of one block of resampled values: 32 MB


def resampled_means(values: FloatArray, seed: int, resamples: int) -> FloatArray:
    """Return means over clips drawn with replacement.

    Parameters
    ----------
    values : float64 array, shape [N, C]   each clip is drawn with all its columns
    seed : int                             of the draws
    resamples : int                        how many samples are drawn

    Returns
    -------
    float64 array, shape [resamples, C]
    """
    generator = np.random.default_rng(seed)
    count, columns = values.shape
    rows = max(1, _MAX_ELEMENTS // max(1, count * columns))
    means = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, count, (min(rows, resamples - start), count))
        means.append(values[drawn].mean(axis=1))
    return np.concatenate(means)


def interval(means: FloatArray) -> tuple[float, float]:
    """Return the central 95 % of resampled means, shape [resamples]."""
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(means, (tail, 100.0 - tail))
    return float(low), float(high)


def bootstrap_mean(
    values: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean.

    Parameters
    ----------
    values : float array, shape [N]   finite, independent of each other
    seed, resamples : see `resampled_means`

    Returns
    -------
    (low, high); both NaN for a single value, which says nothing about its spread

    Raises
    ------
    ValueError   values are empty, not finite or not of shape [N]
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"values must be finite, of shape [N], N > 0; got shape {x.shape}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if x.size == 1:
        return float("nan"), float("nan")
    return interval(resampled_means(x[:, None], seed, resamples)[:, 0])


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float, int]:
    """Return the mean of ours − theirs over clips that have both, its interval, and their number.

    The clips differ more from each other than the codecs do; their differences do not, so that this
    interval is much narrower than those of the two means.

    Parameters
    ----------
    ours, theirs : float arrays, shape [N]   of the same clips; NaN where there is no score
    seed, resamples : see `resampled_means`

    Returns
    -------
    (difference, low, high, clips); NaN where there are too few clips

    Raises
    ------
    ValueError   shapes differ
    """
    x, y = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"shapes must be equal, [N]; got {x.shape} and {y.shape}")
    difference = x - y
    difference = difference[np.isfinite(difference)]
    if difference.size == 0:
        return float("nan"), float("nan"), float("nan"), 0
    low, high = bootstrap_mean(difference, seed, resamples)
    return float(difference.mean()), low, high, difference.size
