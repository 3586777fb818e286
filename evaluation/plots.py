"""Draw what an evaluation found: quality over the rate for all codecs, and the rate saved."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from codec.config import OURS
from codec.io.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]
Row = Mapping[str, Any]

_INK = "#333333"
_FAINT = "#8a8a8a"

# Key of the summary -> (name, unit, decimals of the axis of the overlap). Any other key with
# quantiles beside it is drawn under its own name.
_METRICS = {
    "pesq_wb": ("PESQ", "P.862.2, MOS-LQO", 2),
    "psnr_db": ("pSNR", "dB", 1),
    "estoi": ("ESTOI", "", 3),
    "visqol": ("ViSQOL", "MOS-LQO", 2),
    "dnsmos": ("DNSMOS", "P.835 overall", 2),
}
_OVERVIEW = ("pesq_wb", "psnr_db", "estoi")
_BANDS = 2  # peers beside us whose bands can share a panel


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
_NAMES = {
    OURS: "this codec",
    "evs": "EVS",
    "opus": "Opus",
    "opus-audio": "Opus (audio)",
    "lc3": "LC3",
    "amr-wb": "AMR-WB",
    "speex": "Speex",
    "g722": "G.722",
    "lyra": "Lyra V2",
    "encodec": "EnCodec",
    "dac": "DAC",
}


def display_name(codec: str) -> str:
    """Return how a codec of the summary is called in text; an unknown one keeps its name.

    What follows the name, as in "opus (published)", stays.
    """
    name, space, rest = codec.partition(" ")
    return _NAMES.get(name, name) + space + rest


def write_plots(summary: Sequence[Row], rate_saved: Sequence[Row], out_dir: PathLike) -> list[Path]:
    """Draw every metric over the measured rate, and the rate saved at equal quality.

    Written are ``<metric>`` for each metric that has values, ``rate_quality`` (the default metrics
    side by side) and ``rate_saved``, each as PNG and SVG. The same numbers give the same bytes.
    What cannot be drawn is left out: rows without a rate, scores that are None or not finite, and
    rows with lost packets (``loss_percent``).

    Parameters
    ----------
    summary : one dict per codec and rate: ``codec`` (ours where it is missing), ``bitrate_kbps``
        (nominal), ``measured_kbps``, and per metric m the mean ``m`` and the quantiles over clips
        ``m_q05``, ``m_q95``
    rate_saved : one dict per peer and metric: ``codec``, ``metric``, ``percent`` (None where the
        qualities do not overlap), its confidence interval ``low``, ``high``, and the overlap
        ``from_quality``, ``to_quality``; may be empty
    out_dir : directory, made if it is not there

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
    rows = [
        row
        for row in summary
        if not row.get("loss_percent") and (_number(row.get("measured_kbps")) or 0) > 0
    ]
    metrics = _metrics_of(rows)
    written: list[Path] = []
    # What the user's matplotlibrc says must not change the figure; nor may this change his figures.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "codec"
        overview = [m for m in _OVERVIEW if m in metrics]
        if overview:
            figure = _quality_figure(rows, overview)
            written += _save(figure, out_dir / "rate_quality", "Quality over rate")
        for metric in metrics:
            figure = _quality_figure(rows, [metric])
            written += _save(figure, out_dir / metric, f"{_metric_name(metric)} over rate")
        if rate_saved:
            figure = _saving_figure(rate_saved)
            written += _save(figure, out_dir / "rate_saved", "Rate saved at equal quality")
    return written


# --------------------------------------------------------------------------------------------------
# The data


def _number(value: Any) -> float | None:
    """Return a finite float, or None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _metrics_of(rows: Sequence[Row]) -> list[str]:
    """Return the metrics that have a value somewhere, known ones first."""
    found = {
        key.removesuffix("_q05")
        for row in rows
        for key in row
        if key.endswith("_q05") and _number(row.get(key.removesuffix("_q05"))) is not None
    }
    return [m for m in _METRICS if m in found] + sorted(found - set(_METRICS))


def _codecs_of(rows: Sequence[Row]) -> list[str]:
    """Return the codecs in the order of the rows, ours first."""
    codecs = list(dict.fromkeys(_codec(row) for row in rows))
    return sorted(codecs, key=lambda codec: codec != OURS)


def _codec(row: Row) -> str:
    return str(row.get("codec") or OURS)


def _styles_of(codecs: Sequence[str]) -> dict[str, _Style]:
    unknown = [codec for codec in codecs if codec not in _STYLES]
    spare = {c: _SPARE_STYLES[i % len(_SPARE_STYLES)] for i, c in enumerate(unknown)}
    return {codec: _STYLES.get(codec) or spare[codec] for codec in codecs}


def _metric_name(metric: str) -> str:
    return _METRICS.get(metric, (metric,))[0]


def _overlap(row: Row) -> str:
    """Return the qualities that a rate saving was taken over, such as "PESQ 3.16–4.13"."""
    ends = [_number(row.get(key)) for key in ("from_quality", "to_quality")]
    if ends[0] is None or ends[1] is None:
        return ""
    _, unit, decimals = _METRICS.get(row["metric"], ("", "", 2))
    unit = f" {unit}" if unit == "dB" else ""
    return f"{ends[0]:.{decimals}f}–{ends[1]:.{decimals}f}{unit}"


# --------------------------------------------------------------------------------------------------
# Quality over rate


def _quality_figure(rows: Sequence[Row], metrics: Sequence[str]) -> Figure:
    """Draw all codecs in one panel per metric; below a single one, us and each peer alone."""
    codecs = _codecs_of(rows)
    styles = _styles_of(codecs)
    if len(metrics) > 1:
        figure = _new_figure((0.6 + 4.7 * len(metrics), 5.2))
        panels = list(figure.subplots(1, len(metrics)))
    else:
        rows = _with_value(rows, metrics[0])
        peers = [codec for codec in _codecs_of(rows) if codec != OURS]
        # Bands of many codecs in one panel would hide each other.
        peers = peers if len(peers) > _BANDS else []
        columns = next((n for n in (4, 3) if len(peers) % n == 0), 4)
        lines = -(-len(peers) // columns)
        figure = _new_figure((8.6, 5.4 + 2.1 * lines))
        grid = figure.add_gridspec(1 + lines, columns, height_ratios=[2.5, *[1] * lines])
        panels = [figure.add_subplot(grid[0, :])]
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_all(axes, _with_value(rows, metric), metric, codecs, styles)
        _label_rates(axes, _with_value(rows, metric), 0.011 if len(metrics) == 1 else 0.02)
    if len(metrics) == 1:
        for i, peer in enumerate(peers):
            axes = figure.add_subplot(grid[1 + i // columns, i % columns])
            for codec in (peer, OURS):
                _draw_curve(axes, rows, metrics[0], codec, styles[codec], None, 0.7)
            _label_rates(axes, rows, 0.04)
            axes.set_ylim(panels[0].get_ylim())
            axes.set_title(display_name(peer), fontsize=9.5, color=_INK, loc="left")
            axes.tick_params(labelsize=8, labelleft=i % columns == 0)
            axes.tick_params(labelbottom=i + columns >= len(peers))
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = [codec for codec in codecs if codec in handles]
    how = "bands and bars" if len(codecs) - (OURS in codecs) > _BANDS else "bands"
    figure.legend(
        [handles[name] for name in names],
        [display_name(name) for name in names],
        title=f"lines: mean over the clips; {how}: 5 to 95 % of the clips",
        title_fontproperties={"size": 9.5},
        loc="outside lower center",
        ncols=min(len(names), 7 if len(metrics) == 1 else 10),
        frameon=False,
        fontsize=9.5,
        labelcolor=_INK,
        handlelength=2.8,
    )
    return figure


def _with_value(rows: Sequence[Row], metric: str) -> list[Row]:
    return [row for row in rows if _number(row.get(metric)) is not None]


def _draw_all(
    axes: Axes,
    rows: Sequence[Row],
    metric: str,
    codecs: Sequence[str],
    styles: Mapping[str, _Style],
) -> None:
    """Draw one metric of all codecs: few with bands, of many only ours, and the peers with bars."""
    many = len({_codec(row) for row in rows} - {OURS}) > _BANDS
    for codec in codecs:
        own = [row for row in rows if _codec(row) == codec]
        shifts = {id(row): _beside(row, rows) for row in own} if many and codec != OURS else None
        _draw_curve(axes, own, metric, codec, styles[codec], shifts)
    axes.set_xlabel("measured bitrate (kbit/s)", color=_INK)
    name, unit, _ = _METRICS.get(metric, (metric, "", 2))
    axes.set_title(name, loc="left", color=_INK, fontsize=12, fontweight="bold")
    axes.set_title(unit, loc="right", color=_FAINT, fontsize=9)


def _draw_curve(
    axes: Axes,
    rows: Sequence[Row],
    metric: str,
    codec: str,
    style: _Style,
    shifts: Mapping[int, float] | None,
    scale: float = 1.0,
) -> None:
    """Draw one codec's mean, and its quantiles as a band, or with `shifts` as bars set sideways."""
    own = sorted((r for r in rows if _codec(r) == codec), key=lambda r: float(r["measured_kbps"]))
    if not own:
        return
    x = [float(r["measured_kbps"]) for r in own]
    y = [float(r[metric]) for r in own]
    low, high = (
        [
            m if (q := _number(r.get(f"{metric}_{end}"))) is None else q
            for r, m in zip(own, y, strict=True)
        ]
        for end in ("q05", "q95")
    )
    if shifts is not None:
        at = [rate * shifts[id(r)] for rate, r in zip(x, own, strict=True)]
        axes.vlines(at, low, high, color=style.color, alpha=0.7, linewidth=1.1, zorder=2)
    elif len(own) > 1:
        axes.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0, zorder=1)
    else:  # an area of no width would not show
        axes.vlines(x, low, high, color=style.color, alpha=0.25, linewidth=8, zorder=1)
    ours = codec == OURS
    axes.plot(
        x,
        y,
        color=style.color,
        linestyle=style.dashes,
        marker=style.marker,
        markersize=scale * (6 if ours else 5.5),
        markeredgecolor="white",
        markeredgewidth=0.5 * scale,
        linewidth=scale * (2.6 if ours else 1.5),
        label=codec,
        zorder=5 if ours else 4,
    )


def _beside(row: Row, rows: Sequence[Row]) -> float:
    """Return the factor that moves a peer's bar beside those of other peers at about its rate."""
    rate = float(row["measured_kbps"])
    close = [
        other
        for other in rows
        if _codec(other) != OURS and abs(math.log(float(other["measured_kbps"]) / rate)) < 0.03
    ]
    place = next((i for i, other in enumerate(close) if other is row), 0)
    return 1 + 0.012 * (place - (len(close) - 1) / 2)


def _label_rates(axes: Axes, rows: Sequence[Row], digit: float) -> None:
    """Make the x axis logarithmic, with the nominal rates on it.

    A label is left out where it would touch another, those of the peers first; `digit` is the
    width of a digit as a part of the axis.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    rates = [float(row["measured_kbps"]) for row in rows]
    limits = min(rates) / 1.1, max(rates) * 1.1
    digit *= math.log(limits[1] / limits[0])
    ours = sorted({_nominal(row) for row in rows if _codec(row) == OURS})
    others = sorted({_nominal(row) for row in rows if _codec(row) != OURS})
    ticks: list[float] = []
    for rate in (*ours, *others):
        widths = {tick: digit * (0.5 + (_digits(rate) + _digits(tick)) / 2) for tick in ticks}
        if all(abs(math.log(rate / tick)) > width for tick, width in widths.items()):
            ticks.append(rate)
    ticks.sort()
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{rate:g}" for rate in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    _tidy(axes, "y")


def _digits(rate: float) -> float:
    """Return the width of a label in digits; a point is half as wide."""
    text = f"{rate:g}"
    return len(text) - 0.5 * text.count(".")


def _nominal(row: Row) -> float:
    nominal = _number(row.get("bitrate_kbps"))
    return nominal if nominal and nominal > 0 else float(row["measured_kbps"])


# --------------------------------------------------------------------------------------------------
# Rate saved


def _saving_figure(rate_saved: Sequence[Row]) -> Figure:
    """Draw one panel per metric, one bar per peer: the percentage of rate that ours needs less."""
    from matplotlib.ticker import MaxNLocator

    metrics = list(dict.fromkeys(str(r["metric"]) for r in rate_saved))
    metrics.sort(key=lambda m: list(_METRICS).index(m) if m in _METRICS else len(_METRICS))
    codecs = list(dict.fromkeys(_codec(r) for r in rate_saved))
    styles = _styles_of(codecs)
    figure = _new_figure((max(1.4 + 3.9 * len(metrics), 6.6), 1.7 + 0.62 * len(codecs)))
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    cells = {(_codec(r), str(r["metric"])): r for r in rate_saved}
    values = [
        number
        for row in rate_saved
        if _number(row.get("percent")) is not None
        for key in ("percent", "low", "high")
        if (number := _number(row.get(key))) is not None
    ]
    # One codec that needs many times the rate must not squash the others; its value is written.
    left = max(min([0.0, *values]), -100.0)
    right = min(max([0.0, *values]), 100.0)
    if right - left < 10:
        left, right = left - 5, right + 5
    span = right - left
    for axes, metric in zip(panels, metrics, strict=True):
        for i, codec in enumerate(codecs):
            _draw_saving(axes, i, cells.get((codec, metric)), styles[codec].color, left, right)
        axes.axvline(0, color=_INK, linewidth=0.9)
        axes.set_title(
            f"at equal {_metric_name(metric)}",
            loc="left",
            color=_INK,
            fontsize=12,
            fontweight="bold",
        )
        axes.set_xlim(left - 0.06 * span, right + 0.06 * span)
        axes.set_yticks(range(len(codecs)), [f"vs {display_name(c)}" for c in codecs])
        axes.set_ylim(len(codecs) - 0.42, -0.55)
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
    axes: Axes, y: int, row: Row | None, color: str, left: float, right: float
) -> None:
    percent = None if row is None else _number(row.get("percent"))
    # Text stands above the bar, beside 0: there is room whatever the bar's length.
    text_y = y - 0.26
    if row is None or percent is None:
        label = "not measured" if row is None else row.get("reason") or "no overlap"
        axes.annotate(
            label, (0, y), (5, 0), textcoords="offset points",
            va="center", fontsize=9, color=_FAINT, style="italic",
        )  # fmt: skip
        return
    axes.barh(y, min(max(percent, left), right), height=0.3, color=color, alpha=0.85, zorder=2)
    low, high = _number(row.get("low")), _number(row.get("high"))
    if low is not None and high is not None:
        ends = [min(max(end, left), right) for end in (low, high)]
        axes.hlines(y, ends[0], ends[1], color=_INK, linewidth=1.2, zorder=3)
        for end, exact in zip(ends, (low, high), strict=True):
            if end == exact:  # a whisker that leaves the panel has no end
                axes.vlines(end, y - 0.1, y + 0.1, color=_INK, linewidth=1.2, zorder=3)
    if percent < left or percent > right:
        axes.plot(left if percent < left else right, y, marker="<" if percent < left else ">",
                  color=color, markersize=8, clip_on=False, zorder=4)  # fmt: skip
    axes.annotate(
        _percent(percent), (0, text_y), (3 if percent >= 0 else -3, 0),
        textcoords="offset points", ha="left" if percent >= 0 else "right", va="center",
        fontsize=10, color=_INK, fontweight="bold",
    )  # fmt: skip
    axes.annotate(
        _overlap(row), (1, text_y), xycoords=("axes fraction", "data"), ha="right", va="center",
        fontsize=8.5, color=_FAINT,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Figures and files


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
        path = stem.parent / f"{stem.name}.{suffix}"
        atomic_write(path, buffer.getvalue())
        paths.append(path)
    return paths
