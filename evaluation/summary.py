"""Sum up the scores of an evaluation: means with intervals, paired differences, rates saved.

Tables in, tables out; their columns are explained in `results`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from evaluation.arrays import TEXT, Table, distinct, grouped, make_table
from evaluation.bd_rate import bjontegaard
from evaluation.bootstrap import bootstrap_mean, paired_difference
from evaluation.results import KEY

FloatArray = NDArray[np.float64]

_KEY_COLUMNS = {"codec": TEXT, "rate": "f8", "loss": "f8"}
RATE_COLUMNS = _KEY_COLUMNS | {
    "measured_kbps": "f8",
    "payload_kbps": "f8",
    "encode_x_realtime": "f8",
    "decode_x_realtime": "f8",
    "clips": "i8",
    "failures": "i8",
    "published": "?",
}
MEAN_COLUMNS = _KEY_COLUMNS | {
    "metric": TEXT, "mean": "f8", "low": "f8", "high": "f8", "q05": "f8", "q95": "f8",
}  # fmt: skip
_COMPARISON_COLUMNS = {
    "rate": "f8", "measured_kbps": "f8", "baseline_kbps": "f8", "metric": TEXT,
    "difference": "f8", "low": "f8", "high": "f8", "clips": "i8",
}  # fmt: skip
SAVED_COLUMNS = {
    "codec": TEXT, "metric": TEXT, "percent": "f8", "low": "f8", "high": "f8",
    "from_quality": "f8", "to_quality": "f8", "clips": "i8", "reason": TEXT,
}  # fmt: skip
MAX_RATE_DIFFERENCE = 0.15  # of two codecs that are compared "at the same rate"

NO_COMPARISON = make_table(_COMPARISON_COLUMNS)


def sort_by_codec(table: Table, codecs: Sequence[str]) -> Table:
    """Return a table codec by codec in a given order, with rates and losses ascending."""
    places = {codec: place for place, codec in enumerate(codecs)}
    order = np.lexsort((table.loss, table.rate, [places[codec] for codec in table.codec]))
    return table[order].view(np.recarray)


def sum_up_rates(clips: Table, failures: Table) -> Table:
    """Return measured rates and speeds of each codec, rate and loss, over the whole duration."""
    failed = Counter(zip(*(failures[name].tolist() for name in KEY), strict=True))
    rows = []
    for key, group in grouped(clips, KEY):
        seconds = group.duration_s
        numbers = (
            _weighted_mean(group.measured_kbps, seconds),
            _weighted_mean(group.payload_kbps, seconds),
            _speed(group.encode_s, seconds),
            _speed(group.decode_s, seconds),
        )
        rows.append((*key, *np.round(numbers, 4), len(group), failed[key], group.published[0]))
    return make_table(RATE_COLUMNS, rows)


def _weighted_mean(values: FloatArray, seconds: FloatArray) -> float:
    """Return the mean of the values that there are, each as heavy as its clip is long."""
    known = ~np.isnan(values)
    if not known.any():
        return np.nan
    weights = seconds[known] if seconds[known].any() else None
    return float(np.average(values[known], weights=weights))


def _speed(times: FloatArray, seconds: FloatArray) -> float:
    """Return how many times faster than real time it went."""
    total = np.nansum(times)
    return seconds[~np.isnan(times)].sum() / total if total > 0 else np.nan


def sum_up_scores(scores: Table) -> Table:
    """Return mean, interval and quantiles over clips of each codec, rate, loss and metric."""
    rows = []
    for key, group in grouped(scores, [*KEY, "metric"]):
        values = group.value[~np.isnan(group.value)]
        numbers = [np.nan] * 5
        if values.size:
            quantiles = np.quantile(values, (0.05, 0.95))
            numbers = [values.mean(), *bootstrap_mean(values), *quantiles]
        rows.append((*key, *numbers))
    return make_table(MEAN_COLUMNS, rows)


# ---------------------------------------------------------------------------- comparison


def _measured(rates: Table, codec: str) -> tuple[FloatArray, FloatArray]:
    """Return the nominal and the measured rates of a codec, where it has both."""
    own = rates[(rates.codec == codec) & ~np.isnan(rates.measured_kbps)]
    return own.rate, own.measured_kbps


def _matrix(scores: Table, codec: str, metric: str, rates: Sequence[float]) -> FloatArray:
    """Return the scores of one codec, shape [files, rates], NaN where there is none."""
    files = {file: place for place, file in enumerate(distinct(scores.file))}
    columns = {rate: place for place, rate in enumerate(rates)}
    own = scores[(scores.codec == codec) & (scores.metric == metric)]
    matrix = np.full((len(files), len(columns)), np.nan)
    for file, rate, value in zip(own.file, own.rate.tolist(), own.value, strict=True):
        if rate in columns:
            matrix[files[file], columns[rate]] = value
    return matrix


def compare(scores: Table, rates: Table, ours: str, baseline: str) -> tuple[Table, list[str]]:
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
    their_rates, theirs = _measured(rates, baseline)
    rows, alone = [], []
    for nominal, measured in zip(*_measured(rates, ours), strict=True):
        distance = np.abs(theirs / measured - 1)
        if distance.size == 0 or distance.min() > MAX_RATE_DIFFERENCE:
            alone.append(f"{nominal:g}")
            continue
        nearest = distance.argmin()
        for metric in distinct(scores.metric):
            pair = paired_difference(
                _matrix(scores, ours, metric, [nominal])[:, 0],
                _matrix(scores, baseline, metric, [their_rates[nearest]])[:, 0],
            )
            rows.append((nominal, measured, theirs[nearest], metric, *pair))
    notes = []
    if alone:
        limit = f"{100 * MAX_RATE_DIFFERENCE:.0f} %"
        where = f"{', '.join(alone)} kbit/s"
        notes.append(f"{baseline} has no rate within {limit} of {where}: not compared there")
    return make_table(_COMPARISON_COLUMNS, rows), notes


def rates_saved(scores: Table, rates: Table, ours: str, others: Sequence[str]) -> Table:
    """Return the rate that ours saves against every other codec, by every metric."""
    measured = {codec: _measured(rates, codec) for codec in (ours, *others)}
    rows = []
    for metric in distinct(scores.metric) if others else ():
        curves = {
            codec: (own, _matrix(scores, codec, metric, nominal.tolist()))
            for codec, (nominal, own) in measured.items()
        }
        for codec in others:
            saved = bjontegaard(*curves[ours], *curves[codec])
            rows.append((codec, metric, *astuple(saved)))
    return make_table(SAVED_COLUMNS, rows)
