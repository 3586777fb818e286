"""Intervals and the rate saved, against known answers and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from evaluation import bd_rate
from evaluation.bd_rate import bjontegaard
from evaluation.bootstrap import bootstrap_mean, paired_difference

RATES = np.array([8, 9.6, 13.2, 16.4, 24.4, 32])


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for a test, and fast."""
    monkeypatch.setattr(bd_rate, "RESAMPLES", 100)


def test_interval_of_the_mean() -> None:
    """About the normal interval for many values, and 95 % of such intervals hold the mean."""
    values = np.random.default_rng(1).normal(3.0, 0.5, 400)
    low, high = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    samples = np.random.default_rng(2).normal(0.0, 1.0, (300, 40))
    intervals = [bootstrap_mean(sample, seed=3, resamples=500) for sample in samples]
    held = np.mean([low < 0 < high for low, high in intervals])
    assert 0.90 < held < 0.98


def test_intervals_are_reproducible() -> None:
    values = np.arange(20.0) ** 2
    assert bootstrap_mean(values) == bootstrap_mean(values.tolist())
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    low, high = bootstrap_mean(np.full(5, 2.5))
    assert low == high == 2.5
    assert all(map(math.isnan, bootstrap_mean([4.0])))


def test_many_clips_are_drawn_in_blocks() -> None:
    values = np.random.default_rng(0).standard_normal(50_000)
    low, high = bootstrap_mean(values, resamples=300)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(50_000), rel=0.2)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]], [math.inf]])
def test_values_without_an_interval(values: list) -> None:
    with pytest.raises(ValueError, match="finite, of shape"):
        bootstrap_mean(values)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_mean([1.0, 2.0], resamples=0)


def test_paired_difference() -> None:
    """Clips that differ much hide nothing of a small difference that they share."""
    rng = np.random.default_rng(4)
    theirs = rng.normal(3.0, 1.0, 40)
    ours = theirs + 0.1 + rng.normal(0, 0.02, 40)
    difference, low, high, clips = paired_difference(ours, theirs)
    assert (difference, clips) == (pytest.approx(0.1, abs=0.01), 40)
    assert 0.08 < low < difference < high < 0.12
    own_low, own_high = bootstrap_mean(ours)
    assert own_high - own_low > 10 * (high - low)
    ours[3], theirs[5] = np.nan, np.nan
    assert paired_difference(ours, theirs)[3] == 38
    assert paired_difference([np.nan], [1.0])[3] == 0
    assert math.isnan(paired_difference([np.nan], [1.0])[0])
    with pytest.raises(ValueError, match="shapes"):
        paired_difference([1.0, 2.0], [1.0])


def quality(rates: np.ndarray, clips: int = 40, seed: int = 0) -> np.ndarray:
    """Quality that grows with the logarithm of the rate, shape [N, R]; clips differ."""
    offsets = np.random.default_rng(seed).normal(0, 0.3, (clips, 1))
    return 1.2 * np.log(rates) + offsets


def test_rate_saved_is_what_was_built_in() -> None:
    """A codec with the same quality at 0.7 times the rate saves 30 %, whatever the points."""
    ours = quality(RATES / 0.7)
    for their_rates in (RATES, np.array([6.6, 12.65, 23.85]), np.array([48.0, 8.0, 20.0])):
        saved = bjontegaard(RATES, ours, their_rates, quality(their_rates))
        assert saved.percent == pytest.approx(30, abs=1e-6)
        assert saved.low == pytest.approx(30, abs=1e-6)  # the clips agree on it
        assert saved.clips == 40
        back = bjontegaard(their_rates, quality(their_rates), RATES, ours)
        assert back.percent == pytest.approx(100 * (1 - 1 / 0.7), abs=1e-5)
    mean = quality(RATES).mean(axis=0)
    saved = bjontegaard(RATES, ours, RATES, quality(RATES))
    assert saved.from_quality == pytest.approx(mean[0] - 1.2 * math.log(0.7))
    assert saved.to_quality == pytest.approx(mean[-1])


def test_rate_saved_against_scipy() -> None:
    rng = np.random.default_rng(5)
    ours = np.sort(rng.uniform(2, 4.5, 6)) + rng.normal(0, 0.2, (30, 1))
    theirs = np.sort(rng.uniform(2, 4.5, 4)) + rng.normal(0, 0.2, (30, 1))
    their_rates = RATES[1:5]
    a, b = ours.mean(axis=0), theirs.mean(axis=0)
    low, high = max(a[0], b[0]), min(a[-1], b[-1])
    areas = [
        PchipInterpolator(q, np.log(r)).integrate(low, high)
        for q, r in ((a, RATES), (b, their_rates))
    ]
    expected = 100 * (1 - math.exp((areas[0] - areas[1]) / (high - low)))
    saved = bjontegaard(RATES, ours, their_rates, theirs)
    assert saved.percent == pytest.approx(expected, abs=1e-9)
    assert saved.low < saved.percent < saved.high
    assert (saved.from_quality, saved.to_quality) == pytest.approx((low, high))


def test_a_rate_that_brings_nothing_is_left_out() -> None:
    """As EVS at 32 kbit/s, which has less PESQ than at 24.4."""
    ours, theirs = quality(RATES / 0.7), quality(RATES)
    theirs[:, -1] = theirs[:, -2] - 0.1
    without = bjontegaard(RATES, ours, RATES[:-1], theirs[:, :-1])
    assert bjontegaard(RATES, ours, RATES, theirs) == without
    assert without.percent == pytest.approx(30, abs=1e-6)
    # One in the middle too, and equal quality at a higher rate.
    theirs = quality(RATES)
    theirs[:, 2] = theirs[:, 1]
    kept = [0, 1, 3, 4, 5]
    assert bjontegaard(RATES, ours, RATES, theirs) == bjontegaard(
        RATES, ours, RATES[kept], theirs[:, kept]
    )


def test_clips_decide_anew_which_rates_bring_nothing() -> None:
    rng = np.random.default_rng(6)
    theirs = quality(RATES) + rng.normal(0, 0.4, (40, 6))  # curves of resamples turn back
    saved = bjontegaard(RATES, quality(RATES / 0.7), RATES, theirs)
    assert saved.low < saved.percent < saved.high
    assert saved.high - saved.low > 3
    # The order in which the rates are given does not matter.
    shuffled = rng.permutation(6)
    again = bjontegaard(RATES, quality(RATES / 0.7), RATES[shuffled], theirs[:, shuffled])
    assert again == saved


def test_curves_that_share_no_quality() -> None:
    saved = bjontegaard(RATES, quality(RATES) + 9, RATES, quality(RATES))
    assert (saved.percent, saved.low, saved.high, saved.from_quality) == (None,) * 4
    assert saved.reason == "ours better at every rate"
    saved = bjontegaard(RATES, quality(RATES) - 9, RATES, quality(RATES))
    assert saved.reason == "ours worse at every rate"
    flat = quality(RATES)[:, :1] + np.zeros(6)
    assert bjontegaard(RATES, flat, RATES, quality(RATES) - 0.1).reason == "no rising curve"
    single = bjontegaard(RATES, quality(RATES), [64], quality(np.array([64.0])))
    assert (single.percent, single.reason) == (None, "one rate only")
    nothing = np.full((40, 6), np.nan)
    assert bjontegaard(RATES, quality(RATES), RATES, nothing).reason == "no scores"
    # They touch in some samples of the clips only: a number, but no interval.
    rng = np.random.default_rng(7)
    theirs = quality(RATES) + rng.normal(0, 0.5, (40, 6))
    ours = quality(RATES)
    ours += theirs.mean(axis=0).max() - ours.mean(axis=0).min() - 0.01
    saved = bjontegaard(RATES, ours, RATES, theirs)
    assert saved.percent is not None and saved.low is None and saved.high is None


def test_clips_without_all_scores_are_left_out() -> None:
    ours, theirs = quality(RATES / 0.7), quality(RATES)
    ours[0, 2], theirs[1, 5] = np.nan, np.nan
    ours[0, 3] += 50
    theirs[:, 4] = np.nan  # no clip at this rate: only the rate is left out
    saved = bjontegaard(RATES, ours, RATES, theirs)
    assert saved.clips == 38
    assert saved.percent == pytest.approx(30, abs=1e-6)
    assert bjontegaard(RATES, ours[2:3], RATES, theirs[2:3]).low is None  # one clip
    theirs[:, 3] = np.where(np.isfinite(ours[:, 2]), np.nan, 4.0)  # the only clip lacks another
    assert bjontegaard(RATES, ours, RATES, theirs).reason == "no clip with all scores"


def test_wrong_shapes() -> None:
    good = quality(RATES)
    with pytest.raises(ValueError, match="do not fit"):
        bjontegaard(RATES, good[:, :5], RATES, good)
    with pytest.raises(ValueError, match="same clips"):
        bjontegaard(RATES, good, RATES, good[:5])
    with pytest.raises(ValueError, match="positive"):
        bjontegaard(RATES, good, RATES - 8, good)
