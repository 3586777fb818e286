"""Sum up the scores of an evaluation: means with intervals, paired differences, rates saved.

What `gather` found goes in, tables come out; their columns are explained in `results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np

from evaluation.arrays import TEXT, Table, make_table
from evaluation.bd_rate import bjontegaard
from evaluation.bootstrap import bootstrap_mean, paired_difference
from evaluation.gather import FloatArray, Gathered

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
_FAILURE_COLUMNS = {"file": TEXT} | _KEY_COLUMNS | {"metric": TEXT, "reason": TEXT}
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


def sum_up_rates(gathered: Gathered) -> Table:
    """Return measured rates and speeds of each codec, rate and loss, over the whole duration."""
    rows = []
    for key, group in gathered.groups.items():
        numbers = (
            group.measured.mean,
            group.payload.mean,
            group.encoding.times_real_time,
            group.decoding.times_real_time,
        )
        rows.append((*key, *np.round(numbers, 4), group.clips, group.failures, group.published))
    return make_table(RATE_COLUMNS, rows)


def list_failures(gathered: Gathered) -> Table:
    """Return one row for each failure."""
    return make_table(_FAILURE_COLUMNS, gathered.failures)


def sum_up_scores(gathered: Gathered) -> Table:
    """Return mean, interval and quantiles over clips of each codec, rate, loss and metric."""
    rows = []
    for key in gathered.groups:
        for metric in gathered.metrics:
            values = gathered.column(key, metric)
            values = values[~np.isnan(values)]
            numbers = [np.nan] * 5
            if values.size:
                quantiles = np.quantile(values, (0.05, 0.95))
                numbers = [values.mean(), *bootstrap_mean(values), *quantiles]
            rows.append((*key, metric, *numbers))
    return make_table(MEAN_COLUMNS, rows)


# ---------------------------------------------------------------------------- comparison


def _measured(rates: Table, codec: str) -> tuple[FloatArray, FloatArray]:
    """Return the nominal and the measured rates of a codec, where it has both."""
    own = rates[(rates.codec == codec) & ~np.isnan(rates.measured_kbps)]
    return own.rate, own.measured_kbps


def _matrix(gathered: Gathered, codec: str, metric: str, rates: Sequence[float]) -> FloatArray:
    """Return the scores of one codec without losses, shape [clips, rates], NaN for none."""
    columns = [gathered.column((codec, rate, 0.0), metric) for rate in rates]
    return np.stack(columns, axis=1) if columns else np.zeros((gathered.num_clips, 0))


def compare(gathered: Gathered, rates: Table, ours: str, baseline: str) -> tuple[Table, list[str]]:
    """Return ours minus the baseline, clip by clip, at each of our rates that it has too.

    Parameters
    ----------
    gathered : scores of all clips
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
        for metric in gathered.metrics:
            pair = paired_difference(
                gathered.column((ours, nominal, 0.0), metric),
                gathered.column((baseline, their_rates[nearest], 0.0), metric),
            )
            rows.append((nominal, measured, theirs[nearest], metric, *pair))
    notes = []
    if alone:
        limit = f"{100 * MAX_RATE_DIFFERENCE:.0f} %"
        where = f"{', '.join(alone)} kbit/s"
        notes.append(f"{baseline} has no rate within {limit} of {where}: not compared there")
    return make_table(_COMPARISON_COLUMNS, rows), notes


def rates_saved(gathered: Gathered, rates: Table, ours: str, others: Sequence[str]) -> Table:
    """Return the rate that ours saves against every other codec, by every metric."""
    measured = {codec: _measured(rates, codec) for codec in (ours, *others)}
    rows = []
    for metric in gathered.metrics if others else ():
        curves = {
            codec: (own, _matrix(gathered, codec, metric, nominal.tolist()))
            for codec, (nominal, own) in measured.items()
        }
        for codec in others:
            saved = bjontegaard(*curves[ours], *curves[codec])
            rows.append((codec, metric, *astuple(saved)))
    return make_table(SAVED_COLUMNS, rows)
