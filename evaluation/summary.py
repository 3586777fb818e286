"""Sum up the scores of an evaluation: means with intervals, paired differences, rates saved.

Tables in, tables out; their columns are explained in `results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from evaluation.bd_rate import bjontegaard
from evaluation.bootstrap import bootstrap_mean, paired_difference
from evaluation.results import KEY

_OF_MEANS = ("mean", "low", "high", "q05", "q95")
MAX_RATE_DIFFERENCE = 0.15  # of two codecs that are compared "at the same rate"


def sort_by_codec(table: pd.DataFrame, codecs: Sequence[str]) -> pd.DataFrame:
    """Return a table codec by codec in a given order, with rates and losses ascending."""
    places = {codec: place for place, codec in enumerate(codecs)}
    return table.sort_values(
        KEY, key=lambda column: column.map(places) if column.name == "codec" else column,
        kind="stable", ignore_index=True,
    )  # fmt: skip


def sum_up_rates(clips: pd.DataFrame, failures: pd.DataFrame) -> pd.DataFrame:
    """Return measured rates and speeds of each codec, rate and loss, over the whole duration."""
    failed = failures.groupby(KEY).size()
    rows = []
    for key, group in clips.groupby(KEY, sort=False):
        row = dict(zip(KEY, key, strict=True))
        for name in ("measured_kbps", "payload_kbps"):
            row[name] = _weighted_mean(group[name], group.duration_s)
        for way in ("encode", "decode"):
            row[f"{way}_x_realtime"] = _speed(group[f"{way}_s"], group.duration_s)
        row |= {"clips": len(group), "failures": int(failed.get(key, 0))}
        rows.append(row | {"published": bool(group.published.iloc[0])})
    return pd.DataFrame(rows).round(4)


def _weighted_mean(values: pd.Series, seconds: pd.Series) -> float:
    """Return the mean of the values that there are, each as heavy as its clip is long."""
    known = values.notna()
    if not known.any():
        return np.nan
    weights = seconds[known] if seconds[known].any() else None
    return float(np.average(values[known], weights=weights))


def _speed(times: pd.Series, seconds: pd.Series) -> float:
    """Return how many times faster than real time it went."""
    total = times.sum()
    return seconds[times.notna()].sum() / total if total > 0 else np.nan


def sum_up_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return mean, interval and quantiles over clips of each codec, rate, loss and metric."""
    rows = []
    for key, group in scores.groupby([*KEY, "metric"], sort=False):
        values = group.value.dropna().to_numpy()
        row = dict(zip((*KEY, "metric"), key, strict=True))
        row |= dict.fromkeys(_OF_MEANS, np.nan)
        if values.size:
            row["mean"] = values.mean()
            row["low"], row["high"] = bootstrap_mean(values)
            row["q05"], row["q95"] = np.quantile(values, (0.05, 0.95))
        rows.append(row)
    return pd.DataFrame(rows, columns=[*KEY, "metric", *_OF_MEANS])


# ---------------------------------------------------------------------------- comparison


def _measured(rates: pd.DataFrame, codec: str) -> pd.Series:
    """Return the measured rates of a codec, indexed by its nominal ones."""
    own = rates[(rates.codec == codec) & rates.measured_kbps.notna()]
    return own.set_index("rate").measured_kbps


def _matrix(scores: pd.DataFrame, codec: str, metric: str, rates: pd.Index) -> pd.DataFrame:
    """Return the scores of one codec, shape [files, rates], NaN where there is none."""
    own = scores[(scores.codec == codec) & (scores.metric == metric)]
    wide = own.pivot(index="file", columns="rate", values="value")
    return wide.reindex(index=scores.file.unique(), columns=rates)


def compare(
    scores: pd.DataFrame, rates: pd.DataFrame, ours: str, baseline: str
) -> tuple[pd.DataFrame, list[str]]:
    """Return ours minus the baseline, clip by clip, at each of our rates that it has too.

    Parameters
    ----------
    scores : one row per clip, codec, rate and metric
    rates : of `sum_up_rates`
    ours, baseline : codecs

    Returns
    -------
    table, see `results.EvalResult`; notes on rates that are not compared
    """
    theirs = _measured(rates, baseline)
    rows, alone = [], []
    for nominal, measured in _measured(rates, ours).items():
        distance = (theirs / measured - 1).abs()
        if distance.empty or distance.min() > MAX_RATE_DIFFERENCE:
            alone.append(f"{nominal:g}")
            continue
        nearest = distance.idxmin()
        for metric in scores.metric.unique():
            pair = paired_difference(
                _matrix(scores, ours, metric, pd.Index([nominal])).iloc[:, 0],
                _matrix(scores, baseline, metric, pd.Index([nearest])).iloc[:, 0],
            )
            rows.append((nominal, measured, theirs[nearest], metric, *pair))
    columns = ["rate", "measured_kbps", "baseline_kbps", "metric"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "clips"])
    notes = []
    if alone:
        limit = f"{100 * MAX_RATE_DIFFERENCE:.0f} %"
        where = f"{', '.join(alone)} kbit/s"
        notes.append(f"{baseline} has no rate within {limit} of {where}: not compared there")
    return table, notes


def rates_saved(
    scores: pd.DataFrame, rates: pd.DataFrame, ours: str, others: Sequence[str]
) -> pd.DataFrame:
    """Return the rate that ours saves against every other codec, by every metric."""
    measured = {codec: _measured(rates, codec) for codec in (ours, *others)}
    rows = []
    for metric in scores.metric.unique() if others else ():
        curves = {
            codec: (own.to_numpy(), _matrix(scores, codec, metric, own.index).to_numpy())
            for codec, own in measured.items()
        }
        for codec in others:
            saved = bjontegaard(*curves[ours], *curves[codec])
            rows.append({"codec": codec, "metric": metric} | asdict(saved))
    names = ["percent", "low", "high", "from_quality", "to_quality"]
    table = pd.DataFrame(rows, columns=["codec", "metric", *names, "clips", "reason"])
    return table.astype(dict.fromkeys(names, "float64"))
