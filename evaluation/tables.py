"""Print what an evaluation found as plain tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.run import EvalResult

_METRICS = {  # name in the results -> heading, decimals
    "pesq_wb": ("PESQ", 2),
    "psnr_db": ("pSNR dB", 2),
    "estoi": ("ESTOI", 3),
    "visqol": ("ViSQOL", 2),
    "dnsmos": ("DNSMOS", 2),
}
_WITH_QUANTILES = ("pesq_wb", "psnr_db")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _mean(row: dict[str, Any], metric: str) -> str:
    """Return a mean with half the width of its confidence interval, "3.93±0.09"."""
    _, digits = _METRICS[metric]
    text = _number(row[metric], digits)
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return text if low is None else f"{text}±{(high - low) / 2:.{digits}f}"


def _layout(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Return the cells in columns, the first `left` of them to the left, the others right."""
    table = [list(headings), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )


def summary_table(result: EvalResult) -> str:
    """Return our rows of the summary as text, one line per rate (and loss).

    Means have half the width of their 95 % confidence interval behind them; the columns "5 %" and
    "95 %" are quantiles over the clips. `enc x` and `dec x` are times real time, on one
    core.
    """
    rows = [row for row in result.summary if row["codec"] == result.name]
    headings = ["kbit/s", *(["loss %"] if result.losses else []), "measured", "payload"]
    for metric in result.metrics:
        headings.append(_METRICS[metric][0])
        headings += ["5 %", "95 %"] if metric in _WITH_QUANTILES else []
    headings += ["enc x", "dec x", "clips", "failed"]
    table = []
    for row in rows:
        cells = [_number(row["bitrate_kbps"], 1)]
        cells += [_number(row["loss_percent"], 1)] if result.losses else []
        cells += [_number(row[key], 2) for key in ("measured_kbps", "payload_kbps")]
        for metric in result.metrics:
            cells.append(_mean(row, metric))
            if metric in _WITH_QUANTILES:
                digits = _METRICS[metric][1]
                cells += [_number(row[f"{metric}_{q}"], digits) for q in ("q05", "q95")]
        cells += [_number(row[f"{way}_x_realtime"], 1) for way in ("encode", "decode")]
        table.append([*cells, str(row["clips"]), str(row["failures"])])
    return _layout(headings, table)


def others_table(result: EvalResult) -> str:
    """Return the rows of all other codecs, one line per codec and rate."""
    rows = [row for row in result.summary if row["codec"] != result.name]
    headings = ["codec", "kbit/s", "measured", *(_METRICS[m][0] for m in result.metrics)]
    headings += ["clips", "failed", "scores"]
    table = [
        [
            row["codec"],
            _number(row["bitrate_kbps"], 2),
            _number(row["measured_kbps"], 2),
            *(_mean(row, metric) for metric in result.metrics),
            str(row["clips"]),
            str(row["failures"]),
            "published" if row["published"] else "made here",
        ]
        for row in rows
    ]
    return _layout(headings, table, left=1)


def comparison_table(result: EvalResult) -> str:
    """Return ours minus the baseline, one line for each rate that both have."""
    headings = ["kbit/s", "measured", str(result.baseline)]
    headings += [_METRICS[metric][0] for metric in result.metrics]
    table = []
    for row in result.comparison:
        cells = [_number(row["bitrate_kbps"], 1)]
        cells += [_number(row[key], 2) for key in ("measured_kbps", "baseline_kbps")]
        cells += [_difference(row, metric) for metric in result.metrics]
        table.append(cells)
    return _layout(headings, table)


def _difference(row: dict[str, Any], metric: str) -> str:
    """Return for example "+0.31 [+0.24, +0.39]"."""
    value, low, high = (row[f"{metric}_{key}"] for key in ("difference", "low", "high"))
    if value is None:
        return "-"
    digits = _METRICS[metric][1]
    text = f"{value:+.{digits}f}"
    return text if low is None else f"{text} [{low:+.{digits}f}, {high:+.{digits}f}]"


def rate_saved_table(result: EvalResult) -> str:
    """Return how much less rate ours needs at equal quality, one line per codec."""
    cells = {(row["codec"], row["metric"]): row for row in result.rate_saved}
    codecs = list(dict.fromkeys(row["codec"] for row in result.rate_saved))
    headings = ["codec", *(_METRICS[metric][0] for metric in result.metrics)]
    table = [
        [codec, *(_saved(cells[codec, metric]) for metric in result.metrics)] for codec in codecs
    ]
    return _layout(headings, table, left=1)


def _saved(row: dict[str, Any]) -> str:
    """Return for example "31 % [28, 34] at 3.93–4.46"."""
    if row["percent"] is None:
        return row["reason"]
    _, digits = _METRICS[row["metric"]]
    text = f"{row['percent']:.0f} %"
    if row["low"] is not None:
        text += f" [{row['low']:.0f}, {row['high']:.0f}]"
    elif row["clips"] > 1:  # the two share too little: other clips might give no number
        text += " [uncertain]"
    return f"{text} at {row['from_quality']:.{digits}f}–{row['to_quality']:.{digits}f}"


def all_tables(result: EvalResult) -> str:
    """Return all tables that the result has something for, each under a line that explains it."""
    if len({row["codec"] for row in result.summary}) == 1:
        return summary_table(result)
    parts = [f"{result.name} (± is half the 95 % confidence interval of the mean)"]
    parts += [summary_table(result), ""]
    parts += ["Other codecs, delay removed, pSNR after the FIR mapping", others_table(result)]
    if result.comparison:
        parts += ["", f"{result.name} − {result.baseline}, the same clips [95 % interval]"]
        parts.append(comparison_table(result))
    parts += [
        "",
        f"Rate that {result.name} saves at equal quality [95 % interval], where both reach it",
        rate_saved_table(result),
    ]
    return "\n".join(parts)
