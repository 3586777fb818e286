"""Draw how quality grows with the rate, beside other codecs."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from codec.audio import atomic_write

if TYPE_CHECKING:
    from codec.evaluate import EvalResult

PathLike = str | os.PathLike[str]
Curve = list[tuple[float, float]]  # (kbit/s, mean score), rates ascending

_PANELS = (("pesq_wb", "PESQ (P.862.2)"), ("psnr_db", "pSNR (dB)"))
_OURS = "#1f4e9c"
_INK = "#333333"
# Colour-blind safe (Okabe and Ito), each with its own line style and marker.
_PEER_STYLES = (
    ("#d55e00", "--", "s"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", ":", "D"),
    ("#e69f00", "--", "v"),
    ("#777777", "-.", "P"),
)
_PEER_NAMES = {"evs": "EVS", "opus": "Opus", "lc3": "LC3", "amr-wb": "AMR-WB", "lyra": "Lyra V2"}


def read_peers(peers_csv: PathLike) -> dict[str, dict[str, Curve]]:
    """Read mean scores over rate of other codecs from per-clip rows.

    Parameters
    ----------
    peers_csv : CSV with the columns codec, actual_bps (else nominal_bps), pesq_wb, psnr_db and
        nominal_bps, one row per clip, codec and rate; empty cells are left out of the means

    Returns
    -------
    dict: codec -> {"pesq_wb": curve, "psnr_db": curve}, in the order of the file

    Raises
    ------
    ValueError   a column is missing or a number is malformed
    """
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    with open(peers_csv, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"codec", "nominal_bps", "pesq_wb", "psnr_db"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{peers_csv}: no column {', '.join(sorted(missing))}")
        for row in reader:
            codec, nominal = row["codec"], row["nominal_bps"]
            try:
                rates[codec][nominal].append(float(row.get("actual_bps") or nominal) / 1000)
                for key, _ in _PANELS:
                    scores = values.setdefault(codec, {}).setdefault(key, {})
                    if row[key]:
                        scores.setdefault(nominal, []).append(float(row[key]))
            except (TypeError, ValueError) as exc:
                raise ValueError(f"{peers_csv}: line {reader.line_num} is malformed") from exc
    return {
        codec: {
            key: sorted(
                (float(np.mean(rates[codec][nominal])), float(np.mean(scores)))
                for nominal, scores in by_rate.items()
            )
            for key, by_rate in panels.items()
        }
        for codec, panels in values.items()
    }


def plot_rate_quality(
    result: EvalResult | Sequence[Mapping[str, Any]],
    out_png: PathLike,
    peers_csv: PathLike | None = None,
) -> None:
    """Plot PESQ and pSNR over the measured rate, with the 5 to 95 % band of our clips.

    Parameters
    ----------
    result : EvalResult, or its summary (a list with one dict per rate)
    out_png : file to write; replaced if it exists, never left half written
    peers_csv : scores of other codecs, see `read_peers`
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, MaxNLocator

    summary: Sequence[Mapping[str, Any]] = (
        result if isinstance(result, Sequence) else result.summary
    )
    peers = read_peers(peers_csv) if peers_csv is not None else {}
    figure = Figure(figsize=(10.5, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, label) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        rows = [r for r in summary if r.get(key) is not None and r.get("measured_kbps")]
        rows.sort(key=lambda r: r["measured_kbps"])
        x = [r["measured_kbps"] for r in rows]
        if rows:
            low, high = ([r[f"{key}_{q}"] for r in rows] for q in ("q05", "q95"))
            band = {"color": _OURS, "label": "this codec, 5–95 % of clips"}
            if len(rows) == 1:  # an area of no width would not show
                axes.vlines(x, low, high, alpha=0.25, linewidth=7, **band)
            else:
                axes.fill_between(x, low, high, alpha=0.13, linewidth=0, **band)
        for i, (codec, panels) in enumerate(peers.items()):
            color, dashes, marker = _PEER_STYLES[i % len(_PEER_STYLES)]
            curve = panels[key]
            axes.plot(
                [rate for rate, _ in curve],
                [score for _, score in curve],
                color=color,
                linestyle=dashes,
                marker=marker,
                markersize=4.5,
                linewidth=1.4,
                label=_PEER_NAMES.get(codec, codec),
            )
        if rows:
            axes.plot(
                x,
                [r[key] for r in rows],
                color=_OURS,
                marker="o",
                markersize=5.5,
                linewidth=2.4,
                label="this codec, mean",
                zorder=5,
            )
        nominal = sorted({float(r["bitrate_kbps"]) for r in rows})
        if 0 < len(nominal) <= 10:
            axes.xaxis.set_major_locator(FixedLocator(nominal))
            axes.set_xticklabels([f"{rate:g}" for rate in nominal])
        axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        axes.set_xlabel("measured bitrate (kbit/s)", color=_INK)
        axes.set_title(label, loc="left", color=_INK, fontsize=12, fontweight="bold")
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_INK, length=3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("bottom", "left"):
            axes.spines[side].set_color("#999999")
    axes = figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        order = sorted(range(len(labels)), key=lambda i: (not labels[i].startswith("this"), i))
        order = [*sorted(order[:2], key=lambda i: labels[i], reverse=True), *order[2:]]
        figure.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="outside lower center",
            ncols=min(len(labels), 7),
            frameon=False,
            fontsize=9.5,
            labelcolor=_INK,
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    atomic_write(out_png, buffer.getvalue())
