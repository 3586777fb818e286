"""Draw what an evaluation found: quality over the rate for all codecs, and the rate saved."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codec.config import OURS
from codec.io.files import atomic_write
from evaluation.arrays import TEXT, Table, distinct, grouped, make_table
from evaluation.charts import (
    Bar,
    BarPanel,
    Curve,
    CurvePanel,
    Figure,
    Limits,
    Style,
    signed,
)
from evaluation.metrics import METRICS
from evaluation.results import EvalResult
from evaluation.svg import Box
from evaluation.text import display_name

PathLike = str | os.PathLike[str]

_INCH = 72.0  # points
_OVERVIEW = ("pesq_wb", "psnr_db", "estoi")
_BANDS = 2  # codecs beside ours whose bands can share a panel
_LEGEND = "lines: mean over the clips; bands: 5 to 95 % of the clips"
# Around a panel: tick labels, titles, tick labels and what the axis is.
_LEFT, _TOP, _RIGHT, _BOTTOM = 42.0, 22.0, 12.0, 42.0

_POINT_COLUMNS = {
    "codec": TEXT, "rate": "f8", "measured_kbps": "f8", "metric": TEXT,
    "mean": "f8", "q05": "f8", "q95": "f8",
}  # fmt: skip

# Colour-blind safe (after Okabe and Ito); a codec looks the same whichever others are drawn, and
# dashes and markers tell it apart without colour.
_STYLES = {
    OURS: Style("#1f4e9c", "solid", "circle"),
    "opus": Style("#d55e00", "dashed", "square"),
    "evs": Style("#009e73", "dashdot", "up"),
    "lc3": Style("#cc79a7", "dotted", "diamond"),
    "amr-wb": Style("#e69f00", "dashed", "down"),
    "speex": Style("#56b4e9", "dashdot", "plus"),
    "g722": Style("#6b6b6b", "dotted", "cross"),
    "lyra": Style("#7a5230", "dashed", "star"),
    "opus-audio": Style("#a33c00", "dotted", "thin diamond"),
}
_SPARE_STYLES = (
    Style("#000000", "dashed", "hexagon"),
    Style("#8c6bb1", "dashdot", "left"),
    Style("#b5a900", "dotted", "right"),
    Style("#7f0000", "dashed", "pentagon"),
)


class Codecs(NamedTuple):
    """The codecs of a figure, ours first if it is there, and how each is drawn."""

    ours: str
    styles: Mapping[str, Style]

    @classmethod
    def of(cls, codecs: Sequence[str], ours: str) -> Codecs:
        """Give each codec its own style, or the next spare one."""
        styles = _STYLES | {OURS: _SPARE_STYLES[0], ours: _STYLES[OURS]}
        unknown = [codec for codec in codecs if codec not in styles]
        styles |= {c: _SPARE_STYLES[i % len(_SPARE_STYLES)] for i, c in enumerate(unknown)}
        first = sorted(codecs, key=lambda codec: codec != ours)
        return cls(ours, {codec: styles[codec] for codec in first})

    def only(self, some: set[str]) -> Codecs:
        """Return some of them, drawn as before."""
        return Codecs(self.ours, {c: style for c, style in self.styles.items() if c in some})

    def label(self, codec: str) -> str:
        """Return how a codec is called in the figure."""
        return display_name(codec, self.ours)


def write_plots(result: EvalResult, out_dir: PathLike) -> list[Path]:
    """Draw every metric over the measured rate, and the rate saved at equal quality.

    Written are ``<metric>`` for each metric that has values, ``rate_quality`` (the default metrics
    side by side) and ``rate_saved``, each as PNG and SVG. The same numbers give the same bytes.
    What cannot be drawn is left out: rows without a rate or a score, and rows with lost packets.

    Returns
    -------
    list of the written files: for each figure its PNG, then its SVG

    Raises
    ------
    AudioError   a file cannot be written; a file of that name that was there before stays
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    points = curve_points(result)
    metrics = [metric for metric in METRICS if metric in set(points.metric)]
    drawn = [codec for codec in distinct(result.rates.codec) if codec in set(points.codec)]
    codecs = Codecs.of(drawn, result.info.name)
    written: list[Path] = []
    if overview := [metric for metric in _OVERVIEW if metric in metrics]:
        written += _save(overview_figure(points, overview, codecs), out_dir / "rate_quality")
    for metric in metrics:
        written += _save(metric_figure(points, metric, codecs), out_dir / metric)
    if len(result.rate_saved):
        figure = saving_figure(result.rate_saved, result.info.name)
        written += _save(figure, out_dir / "rate_saved")
    return written


def _save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem``.png and .svg."""
    page = figure.page()
    paths = []
    for suffix, content in (("png", page.to_png()), ("svg", page.to_svg())):
        path = stem.parent / f"{stem.name}.{suffix}"
        atomic_write(path, content)
        paths.append(path)
    return paths


# ---------------------------------------------------------------------------- quality over rate


def curve_points(result: EvalResult) -> Table:
    """Return the means that can be drawn, with their measured rates, by codec and rate."""
    measured = {(r.codec, r.rate): r.measured_kbps for r in result.rates if r.loss == 0}
    rows = [
        (m.codec, m.rate, measured[m.codec, m.rate], m.metric, m["mean"], m.q05, m.q95)
        for m in result.means
        if m.loss == 0 and measured.get((m.codec, m.rate), 0) > 0 and not math.isnan(m["mean"])
    ]
    return make_table(_POINT_COLUMNS, sorted(rows, key=lambda row: (row[0], row[2])))


def overview_figure(points: Table, metrics: Sequence[str], codecs: Codecs) -> Figure:
    """Draw all codecs in one panel per metric."""
    drawn = codecs.only(set(points.codec[np.isin(points.metric, metrics)]))
    figure = _figure("Quality over rate", (0.6 + 4.7 * len(metrics), 5.2), drawn, 10)
    column = figure.width / len(metrics)
    for number, metric in enumerate(metrics):
        own = points[points.metric == metric]
        box = Box(number * column, 0, column, figure.above_legend)
        figure.add(_panel(own, metric, drawn), _inside(box))
    return figure


def metric_figure(points: Table, metric: str, codecs: Codecs) -> Figure:
    """Draw all codecs in one panel; below it ours and each other alone, where there are many."""
    points = points[points.metric == metric]
    there = set(points.codec)
    others = [c for c in codecs.styles if c != codecs.ours and c in there]
    others = others if len(others) > _BANDS else []  # their bands would hide each other
    columns = next((n for n in (4, 3) if len(others) % n == 0), 4)
    lines = -(-len(others) // columns)
    title = f"{METRICS[metric].label} over rate"
    figure = _figure(title, (8.6, 5.4 + 2.1 * lines), codecs.only(there), 7)
    height = figure.above_legend
    unit = height / (2.5 + lines)  # the first panel is as high as two and a half of the others
    main = _panel(points, metric, codecs)
    figure.add(main, _inside(Box(0, 0, figure.width, 2.5 * unit)))
    width = (figure.width - _LEFT) / columns
    for i, other in enumerate(others):
        ours = codecs.ours
        ticks, limits = _rate_axis(points, ours, max_labels=4)
        curves = [_curve(points, codec, codecs, scale=0.7) for codec in (other, ours)]
        panel = CurvePanel(
            codecs.label(other), [c for c in curves if len(c.x)], ticks, limits, main.y_limits,
            small=True, with_y_labels=i % columns == 0,
        )  # fmt: skip
        left, top = _LEFT + i % columns * width, (2.5 + i // columns) * unit
        figure.add(panel, Box(left, top + 20, width - 10, unit - 40))
    return figure


def _figure(title: str, inches: tuple[float, float], codecs: Codecs, columns: int) -> Figure:
    """Return a page with a legend of all codecs."""
    nothing = np.zeros(0)
    legend = [
        Curve(codecs.label(codec), style, nothing, nothing, first=codec == codecs.ours)
        for codec, style in codecs.styles.items()
    ]
    width, height = (_INCH * inch for inch in inches)
    return Figure(title, width, height, [], [], legend, columns, _LEGEND)


def _inside(box: Box) -> Box:
    """Return where in its part of the page the axes of a panel are."""
    return Box(
        box.left + _LEFT, box.top + _TOP, box.width - _LEFT - _RIGHT, box.height - _TOP - _BOTTOM
    )


def _panel(points: Table, metric: str, codecs: Codecs) -> CurvePanel:
    """Return one metric of all codecs: few with bands, of many only ours."""
    many = len(set(points.codec) - {codecs.ours}) > _BANDS
    curves = [
        _curve(points, codec, codecs, band=not many or codec == codecs.ours)
        for codec in codecs.styles
    ]
    curves = [curve for curve in curves if len(curve.x)]
    ticks, limits = _rate_axis(points, codecs.ours)
    note = METRICS[metric].scale or METRICS[metric].unit
    label = "measured bitrate (kbit/s)"
    return CurvePanel(
        METRICS[metric].label, curves, ticks, limits, _quality_limits(curves), note, label
    )


def _curve(
    points: Table, codec: str, codecs: Codecs, band: bool = True, scale: float = 1.0
) -> Curve:
    """Return one codec's mean, and its quantiles as a band."""
    own = points[points.codec == codec]
    curve = Curve(
        codecs.label(codec), codecs.styles[codec], own.measured_kbps, own["mean"],
        first=codec == codecs.ours, scale=scale,
    )  # fmt: skip
    if band:
        curve.low, curve.high = (
            np.where(np.isnan(own[end]), own["mean"], own[end]) for end in ("q05", "q95")
        )
    return curve


def _quality_limits(curves: Sequence[Curve]) -> Limits:
    """Return what all curves and bands fit in, with a margin."""
    drawn = [part for c in curves for part in (c.y, c.low, c.high) if part is not None]
    values = np.concatenate(drawn)
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _rate_axis(points: Table, ours: str, max_labels: int = 8) -> tuple[list[float], Limits]:
    """Return nominal rates to write on a logarithmic axis, where they do not touch, and its limits.

    A label stays where it is far enough from those before it, ours first; `max_labels` would fill
    the axis.
    """
    low, high = points.measured_kbps.min() / 1.1, points.measured_kbps.max() * 1.1
    gap = math.log(high / low) / max_labels / 2
    is_ours = points.codec == ours
    ticks: list[float] = []
    for rate in (*sorted(set(points.rate[is_ours])), *sorted(set(points.rate[~is_ours]))):
        if low <= rate <= high and all(abs(math.log(rate / tick)) > gap for tick in ticks):
            ticks.append(float(rate))
    return sorted(ticks), (float(low), float(high))


# ---------------------------------------------------------------------------- rate saved


def saving_figure(rate_saved: Table, ours: str) -> Figure:
    """Draw one panel per metric, one bar per codec: the percentage of rate that ours needs less."""
    metrics = [metric for metric in METRICS if metric in set(rate_saved.metric)]
    codecs = Codecs.of(distinct(rate_saved.codec), ours)
    labels = {codec: f"vs {codecs.label(codec)}" for codec in codecs.styles}
    first = 14 + 6.3 * max(map(len, labels.values()))  # where the first panel begins
    column = max(3.9 * _INCH, (6.6 * _INCH - first) / len(metrics))
    height = (1.7 + 0.62 * len(labels)) * _INCH
    figure = Figure("Rate saved at equal quality", first + column * len(metrics), height)
    figure.legend_title = (
        "rate that this codec saves, 95 % confidence; in grey: the qualities that both reach"
    )
    rows = {key: group[0] for key, group in grouped(rate_saved, ["codec", "metric"])}
    # One codec that needs many times the rate must not squash the others; its value is written.
    values = np.concatenate([rate_saved[name] for name in ("percent", "low", "high")])
    values = np.clip(values[np.isfinite(values)], -100, 100)
    left, right = min([-5.0, *values]), max([5.0, *values])
    margin = 0.06 * (right - left)
    for number, metric in enumerate(metrics):
        bars = [
            _bar(labels[codec], style.color, rows[codec, metric], metric, (left, right))
            for codec, style in codecs.styles.items()
        ]
        title = f"at equal {METRICS[metric].label}"
        limits = (left - margin, right + margin)
        box = Box(first + number * column, _TOP, column - 16, height - _TOP - 44)
        figure.add(BarPanel(title, bars, limits, "%", number == 0), box)
    return figure


def _bar(label: str, color: str, row: Any, metric: str, limits: Limits) -> Bar:
    """Return one bar with its interval, cut off where the axis ends."""
    if math.isnan(row.percent):
        return Bar(label, color, math.nan, reason=row.reason or "no overlap")
    value, low, high = np.clip([row.percent, row.low, row.high], *limits)  # NaN stays
    digits, unit = METRICS[metric].decimals, METRICS[metric].unit
    overlap = f"{row.from_quality:.{digits}f}–{row.to_quality:.{digits}f} {unit}".rstrip()
    return Bar(label, color, value, low, high, signed(row.percent, "%"), overlap)
