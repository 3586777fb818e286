"""Draw what an evaluation found: quality over the rate for all codecs, and the rate saved."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from codec.config import OURS
from codec.io.files import atomic_write
from evaluation.metrics import METRICS
from evaluation.results import EvalResult
from evaluation.text import display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]

_INK = "#333333"
_FAINT = "#8a8a8a"
_TITLE = {"loc": "left", "color": _INK, "fontsize": 12, "fontweight": "bold"}

_OVERVIEW = ("pesq_wb", "psnr_db", "estoi")
_BANDS = 2  # codecs beside ours whose bands can share a panel


class _Style(NamedTuple):
    color: str
    dashes: str
    marker: str


# Colour-blind safe (after Okabe and Ito); a codec looks the same whichever others are drawn, and
# dashes and markers tell it apart without colour.
_STYLES = {
    OURS: _Style("#1f4e9c", "-", "o"),
    "opus": _Style("#d55e00", "--", "s"),
    "evs": _Style("#009e73", "-.", "^"),
    "lc3": _Style("#cc79a7", ":", "D"),
    "amr-wb": _Style("#e69f00", "--", "v"),
    "speex": _Style("#56b4e9", "-.", "P"),
    "g722": _Style("#6b6b6b", ":", "X"),
    "lyra": _Style("#7a5230", "--", "*"),
    "opus-audio": _Style("#a33c00", ":", "d"),
}
_SPARE_STYLES = (
    _Style("#000000", "--", "h"),
    _Style("#8c6bb1", "-.", "<"),
    _Style("#b5a900", ":", ">"),
    _Style("#7f0000", "--", "p"),
)


class Codecs(NamedTuple):
    """The codecs of a figure, ours first if it is there, and how each is drawn."""

    ours: str
    styles: Mapping[str, _Style]

    @classmethod
    def of(cls, codecs: Sequence[str], ours: str) -> Codecs:
        """Give each codec its own style, or the next spare one."""
        styles = _STYLES | {OURS: _SPARE_STYLES[0], ours: _STYLES[OURS]}
        unknown = [codec for codec in codecs if codec not in styles]
        styles |= {c: _SPARE_STYLES[i % len(_SPARE_STYLES)] for i, c in enumerate(unknown)}
        first = sorted(codecs, key=lambda codec: codec != ours)
        return cls(ours, {codec: styles[codec] for codec in first})

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
    import matplotlib

    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    points = curve_points(result)
    metrics = [metric for metric in METRICS if metric in set(points.metric)]
    drawn = [codec for codec in result.rates.codec.unique() if codec in set(points.codec)]
    codecs = Codecs.of(drawn, result.info.name)
    written: list[Path] = []
    # What the user's matplotlibrc says must not change the figure; nor may this change his figures.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "codec"
        if overview := [metric for metric in _OVERVIEW if metric in metrics]:
            figure = overview_figure(points, overview, codecs)
            written += _save(figure, out_dir / "rate_quality", "Quality over rate")
        for metric in metrics:
            figure = metric_figure(points, metric, codecs)
            written += _save(figure, out_dir / metric, f"{METRICS[metric].label} over rate")
        if len(result.rate_saved):
            figure = saving_figure(result.rate_saved, result.info.name)
            written += _save(figure, out_dir / "rate_saved", "Rate saved at equal quality")
    return written


# ---------------------------------------------------------------------------- quality over rate


def curve_points(result: EvalResult) -> pd.DataFrame:
    """Return the means that can be drawn, with their measured rates, by codec and rate."""
    rates = result.rates[["codec", "rate", "loss", "measured_kbps"]]
    points = rates.merge(result.means, on=["codec", "rate", "loss"])
    points = points[(points.loss == 0) & (points.measured_kbps > 0) & points["mean"].notna()]
    return points.sort_values(["codec", "measured_kbps"], kind="stable")


def overview_figure(points: pd.DataFrame, metrics: Sequence[str], codecs: Codecs) -> Figure:
    """Draw all codecs in one panel per metric."""
    figure = _new_figure((0.6 + 4.7 * len(metrics), 5.2))
    panels = list(figure.subplots(1, len(metrics), squeeze=False)[0])
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_panel(axes, points[points.metric == metric], metric, codecs)
    _draw_legend(figure, panels, codecs, 10)
    return figure


def metric_figure(points: pd.DataFrame, metric: str, codecs: Codecs) -> Figure:
    """Draw all codecs in one panel; below it ours and each other alone, where there are many."""
    points = points[points.metric == metric]
    others = [c for c in codecs.styles if c != codecs.ours and c in set(points.codec)]
    others = others if len(others) > _BANDS else []  # their bands would hide each other
    columns = next((n for n in (4, 3) if len(others) % n == 0), 4)
    lines = -(-len(others) // columns)
    figure = _new_figure((8.6, 5.4 + 2.1 * lines))
    grid = figure.add_gridspec(1 + lines, columns, height_ratios=[2.5, *[1] * lines])
    main = figure.add_subplot(grid[0, :])
    _draw_panel(main, points, metric, codecs)
    for i, other in enumerate(others):
        axes = figure.add_subplot(grid[1 + i // columns, i % columns])
        for codec in (other, codecs.ours):
            _draw_curve(axes, points, codec, codecs, scale=0.7)
        _set_rate_axis(axes, points, codecs.ours, max_labels=4)
        axes.set_ylim(main.get_ylim())
        axes.set_title(codecs.label(other), fontsize=9.5, color=_INK, loc="left")
        axes.tick_params(labelsize=8, labelleft=i % columns == 0)
    _draw_legend(figure, [main], codecs, 7)
    return figure


def _draw_panel(axes: Axes, points: pd.DataFrame, metric: str, codecs: Codecs) -> None:
    """Draw one metric of all codecs: few with bands, of many only ours."""
    many = len(set(points.codec) - {codecs.ours}) > _BANDS
    for codec in codecs.styles:
        _draw_curve(axes, points, codec, codecs, band=not many or codec == codecs.ours)
    _set_rate_axis(axes, points, codecs.ours)
    axes.set_xlabel("measured bitrate (kbit/s)", color=_INK)
    axes.set_title(METRICS[metric].label, **_TITLE)  # type: ignore[arg-type]
    note = METRICS[metric].scale or METRICS[metric].unit
    axes.set_title(note, loc="right", color=_FAINT, fontsize=9)


def _draw_curve(
    axes: Axes,
    points: pd.DataFrame,
    codec: str,
    codecs: Codecs,
    band: bool = True,
    scale: float = 1.0,
) -> None:
    """Draw one codec's mean, and its quantiles as a band."""
    own, style, ours = points[points.codec == codec], codecs.styles[codec], codec == codecs.ours
    if own.empty:
        return
    x = own.measured_kbps.to_numpy()
    low, high = (own[end].fillna(own["mean"]).to_numpy() for end in ("q05", "q95"))
    if band and len(own) > 1:
        axes.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0, zorder=1)
    elif band:  # an area of no width would not show
        axes.vlines(x, low, high, color=style.color, alpha=0.25, linewidth=8, zorder=1)
    axes.plot(
        x,
        own["mean"].to_numpy(),
        color=style.color,
        linestyle=style.dashes,
        marker=style.marker,
        markersize=scale * (6 if ours else 5.5),
        markeredgecolor="white",
        markeredgewidth=0.5 * scale,
        linewidth=scale * (2.6 if ours else 1.5),
        label=codecs.label(codec),
        zorder=5 if ours else 4,
    )


def _set_rate_axis(axes: Axes, points: pd.DataFrame, ours: str, max_labels: int = 8) -> None:
    """Make the x axis logarithmic, with nominal rates on it, where they do not touch.

    A label stays where it is far enough from those before it, ours first; `max_labels` would fill
    the axis.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    low, high = points.measured_kbps.min() / 1.1, points.measured_kbps.max() * 1.1
    gap = math.log(high / low) / max_labels / 2
    is_ours = points.codec == ours
    ticks: list[float] = []
    for rate in (*sorted(set(points.rate[is_ours])), *sorted(set(points.rate[~is_ours]))):
        if all(abs(math.log(rate / tick)) > gap for tick in ticks):
            ticks.append(rate)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{rate:g}" for rate in sorted(ticks)])
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    _tidy(axes, "y")


def _draw_legend(figure: Figure, panels: Sequence[Axes], codecs: Codecs, columns: int) -> None:
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in map(codecs.label, codecs.styles) if label in handles]
    figure.legend(
        [handles[label] for label in labels],
        labels,
        title="lines: mean over the clips; bands: 5 to 95 % of the clips",
        title_fontproperties={"size": 9.5},
        loc="outside lower center",
        ncols=min(len(labels), columns),
        frameon=False,
        fontsize=9.5,
        labelcolor=_INK,
        handlelength=2.8,
    )


# ---------------------------------------------------------------------------- rate saved


def saving_figure(rate_saved: pd.DataFrame, ours: str) -> Figure:
    """Draw one panel per metric, one bar per codec: the percentage of rate that ours needs less."""
    from matplotlib.ticker import MaxNLocator

    metrics = [metric for metric in METRICS if metric in set(rate_saved.metric)]
    codecs = Codecs.of(list(dict.fromkeys(rate_saved.codec)), ours)
    figure = _new_figure((max(1.4 + 3.9 * len(metrics), 6.6), 1.7 + 0.62 * len(codecs.styles)))
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    rows = rate_saved.set_index(["codec", "metric"])
    # One codec that needs many times the rate must not squash the others; its value is written.
    values = rate_saved[["percent", "low", "high"]].to_numpy()
    values = np.clip(values[np.isfinite(values)], -100, 100)
    left, right = min([-5.0, *values]), max([5.0, *values])
    margin = 0.06 * (right - left)
    for axes, metric in zip(panels, metrics, strict=True):
        for y, (codec, style) in enumerate(codecs.styles.items()):
            _draw_saving(axes, y, rows.loc[codec, metric], metric, style.color, (left, right))
        axes.axvline(0, color=_INK, linewidth=0.9)
        axes.set_title(f"at equal {METRICS[metric].label}", **_TITLE)
        axes.set_xlim(left - margin, right + margin)
        axes.set_yticks(range(len(codecs.styles)), [f"vs {codecs.label(c)}" for c in codecs.styles])
        axes.set_ylim(len(codecs.styles) - 0.42, -0.55)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: _percent(value))
        _tidy(axes, "x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    figure.supxlabel(
        "rate that this codec saves, 95 % confidence; in grey: the qualities that both reach",
        fontsize=9.5,
        color=_INK,
    )
    return figure


def _percent(value: float) -> str:
    return f"{value:+.0f} %".replace("-", "−") if round(value) else "0 %"


def _draw_saving(
    axes: Axes, y: int, row: Any, metric: str, color: str, limits: tuple[float, float]
) -> None:
    """Draw one bar with its interval; text stands above it, where there is always room."""
    if math.isnan(row.percent):
        axes.annotate(row.reason or "no overlap", (0, y), (5, 0), textcoords="offset points",
                      va="center", fontsize=9, color=_FAINT, style="italic")  # fmt: skip
        return
    axes.barh(y, np.clip(row.percent, *limits), height=0.3, color=color, alpha=0.85, zorder=2)
    if not math.isnan(row.low):
        low, high = np.clip([row.low, row.high], *limits)
        axes.hlines(y, low, high, color=_INK, linewidth=1.2, zorder=3)
    away, side = (3, "left") if row.percent >= 0 else (-3, "right")
    axes.annotate(
        _percent(row.percent), (0, y - 0.26), (away, 0), textcoords="offset points", ha=side,
        va="center", fontsize=10, color=_INK, fontweight="bold",
    )  # fmt: skip
    digits, unit = METRICS[metric].decimals, METRICS[metric].unit
    overlap = f"{row.from_quality:.{digits}f}–{row.to_quality:.{digits}f} {unit}".rstrip()
    axes.annotate(
        overlap, (1, y - 0.26), xycoords=("axes fraction", "data"), ha="right", va="center",
        fontsize=8.5, color=_FAINT,
    )  # fmt: skip


# ---------------------------------------------------------------------------- figures and files


def _new_figure(size: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color="#dddddd", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color("#999999")


def _save(figure: Figure, stem: Path, title: str) -> list[Path]:
    """Write ``stem``.png and .svg without a date, so that equal figures are equal files."""
    paths = []
    for suffix, metadata in (
        ("png", {"Title": title, "Software": None}),
        ("svg", {"Title": title, "Date": None, "Creator": None}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        figure.set_layout_engine("none")  # it need not be found twice
        path = stem.parent / f"{stem.name}.{suffix}"
        atomic_write(path, buffer.getvalue())
        paths.append(path)
    return paths
