"""The figure of the speech experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.extra import without_package
from experiments.nsvq_paper.methods import METHOD_COLORS as COLORS
from experiments.nsvq_paper.methods import METHOD_NAMES as LABELS
from experiments.nsvq_paper.speech.settings import PAPER, RATES
from models.quantizers import ESTIMATORS

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    without_package(error)


def draw_rates(result: dict[str, Any], panels: Any) -> None:
    """Draw PESQ and pSNR over the rate, here and in the paper."""
    rows = result["codec"]["summary"]
    for axes, (metric, label) in zip(
        panels, (("pesq_wb", "PESQ"), ("psnr_db", "pSNR (dB)")), strict=True
    ):
        for estimator in dict.fromkeys(row["estimator"] for row in rows):
            own = [row for row in rows if row["estimator"] == estimator]
            x = [row["bitrate_kbps"] for row in own]
            color = COLORS[estimator]
            band = [[row[metric][q] for row in own] for q in ("q025", "q975")]
            axes.fill_between(x, *band, color=color, alpha=0.10, linewidth=0)
            axes.plot(
                x, [row[metric]["mean"] for row in own], "o-", color=color, markersize=5,
                label=f"{LABELS[estimator]}, here",
            )  # fmt: skip
        for estimator, values in PAPER.items():
            axes.plot(
                RATES, values[metric], "s--", color=COLORS[estimator], markersize=4, linewidth=1.2,
                markerfacecolor="white", label=f"{LABELS[estimator]}, the paper's codec and clips",
            )  # fmt: skip
        axes.set_title(f"{label}: mean and 95 % quantiles", loc="left", fontweight="bold")
        axes.set_xlabel("bitrate (kbit/s)")
        axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES], fontsize=8)
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=8.5)


def draw_vq(result: dict[str, Any], axes: Any) -> None:
    """Draw the error of the VQ alone, seed by seed."""
    ways = list(dict.fromkeys((r["networks"], r["replacement"]) for r in result["vq"]["runs"]))
    for place, way in enumerate(ways):
        for i, estimator in enumerate(ESTIMATORS):
            values = [
                run["rms_db"]
                for run in result["vq"]["runs"]
                if (run["networks"], run["replacement"], run["estimator"]) == (*way, estimator)
            ]
            x = place + 0.25 * (i - 1)
            axes.plot(np.full(len(values), x), values, "o", color=COLORS[estimator], alpha=0.6)
            axes.hlines(np.mean(values), x - 0.1, x + 0.1, color="#333333", linewidth=1.2)
    labels = [
        f"{'between networks' if networks else 'bare'}\n{'' if replacement else 'no '}replacement"
        for networks, replacement in ways
    ]
    axes.set_xticks(range(len(ways)), labels, fontsize=8.5)
    axes.set_title("12-bit VQ alone: error of each seed (dB)", loc="left", fontweight="bold")
    axes.grid(axis="y", alpha=0.3)


def draw_training(result: dict[str, Any], axes: Any) -> None:
    """Draw the envelope's error while the codec trains."""
    for run in result["codec"]["runs"]:
        x = [row["step"] for row in run["curve"]]
        y = [row["envelope_rms_db"] for row in run["curve"]]
        first = run["seed"] == 0
        axes.plot(
            x, y, color=COLORS[run["estimator"]], linewidth=1.3, alpha=0.9 if first else 0.45,
            label=LABELS[run["estimator"]] if first else None,
        )  # fmt: skip
    axes.set_title("Codec: envelope error in training (dB)", loc="left", fontweight="bold")
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw PESQ and pSNR over the rate, the VQ's error by seed, and the training of the codec."""
    figure = Figure(figsize=(11, 8.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    draw_rates(result, panels[0])
    draw_vq(result, panels[1][0])
    draw_training(result, panels[1][1])
    for axes in panels.flat:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path)
