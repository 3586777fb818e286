"""Say how sure a mean is: bootstrap intervals, paired differences, rate saved at equal quality.

The clips of a test set are a sample of all clips; what another sample would have given is estimated
by drawing clips with replacement from the one there is (Efron & Tibshirani 1993). All functions are
deterministic: the same values and seed give the same interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
_MAX_ELEMENTS = 4_000_000  # of one block of resampled values: 32 MB
_MIN_SHARE = 0.9  # of the resamples in which two curves must share some quality


def _resampled_means(values: FloatArray, seed: int, resamples: int) -> FloatArray:
    """Return means over clips drawn with replacement.

    Parameters
    ----------
    values : float64 array, shape [N, C]   each clip is drawn with all its columns

    Returns
    -------
    float64 array, shape [resamples, C]
    """

    def blocks() -> Iterator[FloatArray]:
        generator = np.random.default_rng(seed)
        count, columns = values.shape
        rows = max(1, _MAX_ELEMENTS // max(1, count * columns))
        for start in range(0, resamples, rows):
            size = min(rows, resamples - start), count
            yield values[generator.integers(0, count, size)].mean(axis=1)

    return np.concatenate(list(blocks()))


def _percentiles(means: FloatArray) -> tuple[float, float]:
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(means, (tail, 100.0 - tail))
    return float(low), float(high)


def bootstrap_mean(
    values: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean, by the percentile bootstrap.

    Parameters
    ----------
    values : float array, shape [N]   finite, independent of each other
    seed : int                        of the draws
    resamples : int                   how many samples are drawn

    Returns
    -------
    (low, high); both NaN for a single value, which says nothing about its spread

    Raises
    ------
    ValueError   values are empty, not finite or not of shape [N]

    References
    ----------
    Efron & Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, section 13.3.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"values must be finite, of shape [N], N > 0; got shape {x.shape}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if x.size == 1:
        return float("nan"), float("nan")
    return _percentiles(_resampled_means(x[:, None], seed, resamples)[:, 0])


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float, int]:
    """Return the mean of ours − theirs over clips that have both, its interval, and their number.

    The clips differ more from each other than the codecs do; their differences do not, so that this
    interval is much narrower than those of the two means.

    Parameters
    ----------
    ours, theirs : float arrays, shape [N]   of the same clips; NaN where there is no score
    seed, resamples : see `bootstrap_mean`

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


# ---------------------------------------------------------------------------- rate saved


@dataclass(frozen=True)
class RateSaved:
    """How much less rate one codec needs than another at equal quality, in percent.

    `percent` is None where the two curves share no quality or one of them is a single point; `low`
    and `high` (95 % interval) are None too where that happens in more than a tenth of the
    resamples. `clips` were scored by both codecs at every rate; `reason` says why there is no
    number.
    """

    percent: float | None
    low: float | None = None
    high: float | None = None
    from_quality: float | None = None
    to_quality: float | None = None
    clips: int = 0
    reason: str = ""


def bjontegaard(
    our_rates: ArrayLike,
    our_quality: ArrayLike,
    their_rates: ArrayLike,
    their_quality: ArrayLike,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> RateSaved:
    """Return the mean rate that ours saves against theirs at equal quality, with its interval.

    The logarithm of the rate is interpolated over the mean quality of all clips, for each codec,
    and the difference of the two curves is averaged over the qualities that both reach: the
    measure of Bjøntegaard, with the monotone piecewise cubic interpolation (PCHIP) that later
    replaced his polynomial, because that one swings between unevenly spaced points.

    A rate that gives no more quality than a lower one of the same codec is left out (EVS has more
    PESQ at 24.4 than at 32 kbit/s): nobody who wants quality would choose it, and a curve of rate
    over quality must not turn back. This is decided anew in each resample.

    Parameters
    ----------
    our_rates, their_rates : float arrays, shapes [R1] and [R2]            positive, any unit
    our_quality, their_quality : float arrays, shapes [N, R1] and [N, R2]  of the same N clips,
        higher is better; NaN where there is no score. Clips without some score are left out, and
        so are rates without any.
    seed, resamples : see `bootstrap_mean`; clips are drawn with all their scores

    Returns
    -------
    RateSaved; `percent` is positive where ours needs less

    Raises
    ------
    ValueError   shapes do not fit, or a rate is not positive

    References
    ----------
    Bjøntegaard, Calculation of average PSNR differences between RD-curves, ITU-T SG16/Q6,
    VCEG-M33, 2001. Fritsch & Butland, A method for constructing local monotone piecewise cubic
    interpolants, SIAM J. Sci. Stat. Comput. 5, 1984.
    """
    log_rates, qualities = [], []
    for rates, quality in ((our_rates, our_quality), (their_rates, their_quality)):
        r, q = np.asarray(rates, dtype=np.float64), np.asarray(quality, dtype=np.float64)
        if r.ndim != 1 or q.ndim != 2 or q.shape[1] != r.size:
            raise ValueError(f"rates [R] and quality [N, R] do not fit: {r.shape} and {q.shape}")
        if not (np.isfinite(r).all() and (r > 0).all()):
            raise ValueError("rates must be positive")
        order = np.argsort(r, kind="stable")
        order = order[np.isfinite(q[:, order]).any(axis=0)]
        log_rates.append(np.log(r[order]))
        qualities.append(q[:, order])
    if qualities[0].shape[0] != qualities[1].shape[0]:
        raise ValueError("both codecs must have the same clips")
    if (fewest := min(r.size for r in log_rates)) < 2:
        return RateSaved(None, reason="one rate only" if fewest else "no scores")
    both = np.concatenate(qualities, axis=1)  # [N, R1 + R2]
    both = both[np.isfinite(both).all(axis=1)]
    clips = len(both)
    if clips == 0:
        return RateSaved(None, reason="no clip with all scores")
    split = log_rates[0].size
    mean = both.mean(axis=0)
    ours, theirs = mean[:split], mean[split:]
    saved, bottom, top = _log_rate_difference(log_rates, mean[None])
    if not np.isfinite(saved[0]):
        if ours[0] >= theirs.max():
            reason = "ours better at every rate"
        elif ours.max() <= theirs[0]:
            reason = "ours worse at every rate"
        else:
            reason = "no rising curve"
        return RateSaved(None, clips=clips, reason=reason)
    low = high = None
    if clips > 1:
        drawn = _log_rate_difference(log_rates, _resampled_means(both, seed, resamples))[0]
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size >= _MIN_SHARE * resamples:
            low, high = (100.0 * (1.0 - float(np.exp(-x))) for x in _percentiles(drawn))
    return RateSaved(
        100.0 * (1.0 - float(np.exp(-saved[0]))), low, high, float(bottom[0]), float(top[0]), clips
    )


def _log_rate_difference(
    log_rates: list[FloatArray], means: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the mean of log(their rate / our rate) over shared quality, for many curves at once.

    Parameters
    ----------
    log_rates : two arrays, shapes [R1] and [R2], ascending
    means : float64 array, shape [B, R1 + R2]   mean qualities of B pairs of curves

    Returns
    -------
    difference, bottom and top of the shared quality, each [B]; NaN where nothing is shared
    """
    split = log_rates[0].size
    pairs = [(log_rates[0], means[:, :split]), (log_rates[1], means[:, split:])]
    bottom = np.max([q[:, 0] for _, q in pairs], axis=0)
    top = np.min([q.max(axis=1) for _, q in pairs], axis=0)
    bottom, top = (np.where(top > bottom, edge, np.nan) for edge in (bottom, top))
    areas = [_areas(r, q, bottom, top) for r, q in pairs]
    return (areas[1] - areas[0]) / (top - bottom), bottom, top


def _areas(
    log_rates: FloatArray, quality: FloatArray, bottom: FloatArray, top: FloatArray
) -> FloatArray:
    """Integrate the logarithm of the rate over the quality of each curve, from bottom to top.

    Parameters
    ----------
    log_rates : float64 array, shape [R]     ascending
    quality : float64 array, shape [B, R]
    bottom, top : float64 arrays, shape [B]  NaN: not wanted

    Returns
    -------
    float64 array, shape [B]; NaN where not wanted, or where fewer than two points rise
    """
    areas = np.full(len(quality), np.nan)
    # A point stays if it has more quality than every lower rate; the lowest rate always does.
    before = np.maximum.accumulate(quality, axis=1)[:, :-1]
    rises = np.concatenate([np.ones((len(quality), 1), bool), quality[:, 1:] > before], axis=1)
    patterns, which = np.unique(rises, axis=0, return_inverse=True)
    for i, kept in enumerate(patterns):  # all but a few resamples keep the same points
        rows = np.flatnonzero((which.ravel() == i) & np.isfinite(bottom))
        if kept.sum() < 2 or rows.size == 0:
            continue
        curve = _Pchip(quality[rows][:, kept], log_rates[kept])
        areas[rows] = curve.integral_to(top[rows]) - curve.integral_to(bottom[rows])
    return areas


class _Pchip:
    """Monotone piecewise cubics through the points of many curves, as scipy's PchipInterpolator.

    scipy takes one vector of abscissae for all curves; here every resample has its own.
    """

    def __init__(self, x: FloatArray, y: FloatArray) -> None:
        """Take x, shape [B, K], ascending along K >= 2, and y, shape [K]."""
        self.x, self.y = x, y
        self.h = np.diff(x, axis=1)  # [B, K - 1]
        slope = np.diff(y) / self.h
        d = np.zeros_like(x)
        if y.size == 2:
            d[:] = slope
        else:
            h0, h1, s0, s1 = self.h[:, :-1], self.h[:, 1:], slope[:, :-1], slope[:, 1:]
            w0, w1 = 2 * h1 + h0, h1 + 2 * h0
            # The points ascend in both, so that no slope is zero or negative.
            d[:, 1:-1] = (w0 + w1) / (w0 / s0 + w1 / s1)
            d[:, 0] = self._edge(self.h[:, 0], self.h[:, 1], slope[:, 0], slope[:, 1])
            d[:, -1] = self._edge(self.h[:, -1], self.h[:, -2], slope[:, -1], slope[:, -2])
        self.d = d
        pieces = self.h * (y[:-1] + y[1:]) / 2 + self.h**2 * (d[:, :-1] - d[:, 1:]) / 12
        self.before = np.concatenate([np.zeros((len(x), 1)), pieces.cumsum(axis=1)], axis=1)

    @staticmethod
    def _edge(h0: FloatArray, h1: FloatArray, s0: FloatArray, s1: FloatArray) -> FloatArray:
        """Return the slope at an end: of a parabola through three points, kept monotone."""
        d = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
        return np.clip(d, 0.0, None)  # slopes of one sign need no other limit

    def integral_to(self, at: FloatArray) -> FloatArray:
        """Integrate from the first point to `at`, shape [B], inside the points."""
        last = self.x.shape[1] - 2
        i = np.clip((self.x <= at[:, None]).sum(axis=1) - 1, 0, last)
        row = np.arange(len(at))
        h = self.h[row, i]
        s = np.clip((at - self.x[row, i]) / h, 0.0, 1.0)
        y0, y1, d0, d1 = self.y[i], self.y[i + 1], self.d[row, i], self.d[row, i + 1]
        part = (
            y0 * (s - s**3 + s**4 / 2)
            + y1 * (s**3 - s**4 / 2)
            + h * d0 * (s**2 / 2 - 2 * s**3 / 3 + s**4 / 4)
            + h * d1 * (s**4 / 4 - s**3 / 3)
        )
        return self.before[row, i] + h * part
