"""Print what an evaluation found as plain tables."""

from __future__ import annotations

import math
from typing import Any

from evaluation.arrays import grouped
from evaluation.metrics import METRICS
from evaluation.results import EvalResult
from evaluation.text import layout

_WITH_QUANTILES = ("pesq_wb", "psnr_db")


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _headings(result: EvalResult) -> list[str]:
    return [METRICS[metric].heading for metric in result.info.metrics]


def _rows(result: EvalResult, ours: bool) -> list[tuple[Any, dict[str, Any]]]:
    """Return the rows of ours or of all others, each with its means by metric."""
    means = {(row.codec, row.rate, row.loss, row.metric): row for row in result.means}
    return [
        (row, {m: means[row.codec, row.rate, row.loss, m] for m in result.info.metrics})
        for row in result.rates
        if (row.codec == result.info.name) == ours
    ]


def _mean(metric: str, row: Any) -> str:
    """Return a mean with half the width of its confidence interval, "3.93±0.09"."""
    digits = METRICS[metric].decimals
    text = _number(row["mean"], digits)
    half = (row.high - row.low) / 2
    return text if math.isnan(half) else f"{text}±{half:.{digits}f}"


def summary_table(result: EvalResult) -> str:
    """Return our rows of the summary as text, one line per rate (and loss).

    Means have half the width of their 95 % confidence interval behind them; the columns "5 %" and
    "95 %" are quantiles over the clips. `enc x` and `dec x` are times real time, on one core.
    """
    with_loss = bool(result.info.losses)
    headings = ["kbit/s", *(["loss %"] if with_loss else []), "measured", "payload"]
    for metric in result.info.metrics:
        headings.append(METRICS[metric].heading)
        headings += ["5 %", "95 %"] if metric in _WITH_QUANTILES else []
    headings += ["enc x", "dec x", "clips", "failed"]
    table = []
    for row, means in _rows(result, ours=True):
        cells = [_number(row.rate, 1), *([_number(row.loss, 1)] if with_loss else [])]
        cells += [_number(row.measured_kbps, 2), _number(row.payload_kbps, 2)]
        for metric, own in means.items():
            cells.append(_mean(metric, own))
            if metric in _WITH_QUANTILES:
                cells += [_number(own[end], METRICS[metric].decimals) for end in ("q05", "q95")]
        cells += [_number(row.encode_x_realtime, 1), _number(row.decode_x_realtime, 1)]
        table.append([*cells, str(row.clips), str(row.failures)])
    return layout(headings, table)


def others_table(result: EvalResult) -> str:
    """Return the rows of all other codecs, one line per codec and rate."""
    headings = ["codec", "kbit/s", "measured", *_headings(result), "clips", "failed", "scores"]
    table = [
        [
            row.codec,
            _number(row.rate, 2),
            _number(row.measured_kbps, 2),
            *(_mean(metric, own) for metric, own in means.items()),
            str(row.clips),
            str(row.failures),
            "published" if row.published else "made here",
        ]
        for row, means in _rows(result, ours=False)
    ]
    return layout(headings, table, left=[0])


def comparison_table(result: EvalResult) -> str:
    """Return ours minus the baseline, one line for each rate that both have."""
    headings = ["kbit/s", "measured", str(result.info.baseline), *_headings(result)]
    table = []
    for (rate,), group in grouped(result.comparison, ["rate"]):
        first = group[0]
        cells = [_number(rate, 1), _number(first.measured_kbps, 2)]
        cells.append(_number(first.baseline_kbps, 2))
        table.append([*cells, *(_difference(row) for row in group)])
    return layout(headings, table)


def _difference(row: Any) -> str:
    """Return for example "+0.31 [+0.24, +0.39]"."""
    if math.isnan(row.difference):
        return "-"
    digits = METRICS[row.metric].decimals
    text = f"{row.difference:+.{digits}f}"
    if math.isnan(row.low):
        return text
    return f"{text} [{row.low:+.{digits}f}, {row.high:+.{digits}f}]"


def rate_saved_table(result: EvalResult) -> str:
    """Return how much less rate ours needs at equal quality, one line per codec."""
    table = [
        [codec, *map(_saved, group)] for (codec,), group in grouped(result.rate_saved, ["codec"])
    ]
    return layout(["codec", *_headings(result)], table, left=[0])


def _saved(row: Any) -> str:
    """Return for example "31 % [28, 34] at 3.93–4.46"."""
    if math.isnan(row.percent):
        return row.reason
    digits = METRICS[row.metric].decimals
    text = f"{row.percent:.0f} %"
    if not math.isnan(row.low):
        text += f" [{row.low:.0f}, {row.high:.0f}]"
    elif row.clips > 1:  # the two share too little: other clips might give no number
        text += " [uncertain]"
    return f"{text} at {row.from_quality:.{digits}f}–{row.to_quality:.{digits}f}"


def all_tables(result: EvalResult) -> str:
    """Return all tables that the result has something for, each under a line that explains it."""
    name = result.info.name
    if len(set(result.rates.codec)) == 1:
        return summary_table(result)
    parts = [f"{name} (± is half the 95 % confidence interval of the mean)"]
    parts += [summary_table(result), ""]
    parts += ["Other codecs, delay removed, pSNR after the FIR mapping", others_table(result)]
    if len(result.comparison):
        parts += ["", f"{name} − {result.info.baseline}, the same clips [95 % interval]"]
        parts.append(comparison_table(result))
    parts += ["", f"Rate that {name} saves at equal quality [95 % interval], where both reach it"]
    parts.append(rate_saved_table(result))
    return "\n".join(parts)
