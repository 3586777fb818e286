"""Rate saved at equal quality: the Bjøntegaard delta rate, with an interval over the clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

from evaluation.bootstrap import FloatArray, interval, resampled_means

RESAMPLES = 1000  # fewer than of means: each takes two interpolations
_MIN_SHARE = 0.9  # of the resamples in which two curves must share some quality


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
    resamples: int | None = None,
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
    seed : int              clips are drawn with all their scores, see `bootstrap.resampled_means`
    resamples : int         default: `RESAMPLES`

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
    resamples = RESAMPLES if resamples is None else resamples
    ours, theirs = _curve(our_rates, our_quality), _curve(their_rates, their_quality)
    if len(ours[1]) != len(theirs[1]):
        raise ValueError("both codecs must have the same clips")
    log_rates = (ours[0], theirs[0])
    if (fewest := min(r.size for r in log_rates)) < 2:
        return RateSaved(None, reason="one rate only" if fewest else "no scores")
    both = np.concatenate([ours[1], theirs[1]], axis=1)  # [N, R1 + R2]
    both = both[np.isfinite(both).all(axis=1)]
    clips = len(both)
    if clips == 0:
        return RateSaved(None, reason="no clip with all scores")
    mean = both.mean(axis=0)
    saved, bottom, top = _log_rate_difference(log_rates, mean)
    if not np.isfinite(saved):
        return RateSaved(None, clips=clips, reason=_why_not(*np.split(mean, [ours[0].size])))
    low, high = _confidence(log_rates, both, seed, resamples)
    return RateSaved(_percent(saved), low, high, bottom, top, clips)


def _confidence(
    log_rates: tuple[FloatArray, FloatArray], quality: FloatArray, seed: int, resamples: int
) -> tuple[float | None, float | None]:
    """Return the interval of the rate saved over draws of the clips, quality [N, R1 + R2]."""
    if len(quality) < 2:
        return None, None
    means = resampled_means(quality, seed, resamples)
    drawn = np.array([_log_rate_difference(log_rates, row)[0] for row in means])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size < _MIN_SHARE * resamples:
        return None, None
    low, high = map(_percent, interval(drawn))
    return low, high


def _curve(rates: ArrayLike, quality: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return log rates, ascending, and qualities [N, R], without rates that have no score."""
    r, q = np.asarray(rates, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if r.ndim != 1 or q.ndim != 2 or q.shape[1] != r.size:
        raise ValueError(f"rates [R] and quality [N, R] do not fit: {r.shape} and {q.shape}")
    if not (np.isfinite(r).all() and (r > 0).all()):
        raise ValueError("rates must be positive")
    order = np.argsort(r, kind="stable")
    order = order[np.isfinite(q[:, order]).any(axis=0)]
    return np.log(r[order]), q[:, order]


def _percent(log_ratio: float) -> float:
    """Return the rate saved, in percent, for the mean of log(their rate / our rate)."""
    return 100.0 * (1.0 - float(np.exp(-log_ratio)))


def _why_not(ours: FloatArray, theirs: FloatArray) -> str:
    """Say why two curves share no quality."""
    if ours[0] >= theirs.max():
        return "ours better at every rate"
    if ours.max() <= theirs[0]:
        return "ours worse at every rate"
    return "no rising curve"


def _log_rate_difference(
    log_rates: tuple[FloatArray, FloatArray], quality: FloatArray
) -> tuple[float, float, float]:
    """Return the mean of log(their rate / our rate) over the quality that both curves reach.

    Parameters
    ----------
    log_rates : two arrays, shapes [R1] and [R2], ascending
    quality : float64 array, shape [R1 + R2]

    Returns
    -------
    difference, bottom and top of the shared quality; NaN where nothing is shared
    """
    pair = np.split(quality, [log_rates[0].size])
    bottom, top = max(q[0] for q in pair), min(q.max() for q in pair)
    if not bottom < top:
        return np.nan, np.nan, np.nan
    areas = []
    for r, q in zip(log_rates, pair, strict=True):
        # Pareto: a point stays if it has more quality than every lower rate.
        kept = np.append(True, q[1:] > np.maximum.accumulate(q)[:-1])
        if kept.sum() < 2:
            return np.nan, np.nan, np.nan
        areas.append(float(PchipInterpolator(q[kept], r[kept]).integrate(bottom, top)))
    return (areas[1] - areas[0]) / (top - bottom), float(bottom), float(top)
