"""Tables and figures of the toy experiment."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.io.files import atomic_write
from experiments.extra import without_package
from experiments.nsvq_paper.methods import METHOD_COLORS
from experiments.nsvq_paper.toy.training import (
    DISTRIBUTIONS,
    INITS,
    METHODS,
    NAMES,
    Settings,
    data,
)
from models.quantizers import nearest

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter
except ImportError as error:
    without_package(error)


def mean_std(values: Iterable[float], decimals: int) -> str:
    """Return "mean ± standard deviation" of values; that of one value is left out."""
    array = np.array(list(values), float)
    mean = f"{array.mean():.{decimals}f}".replace("-", "−")
    return mean if array.size == 1 else f"{mean} ± {array.std(ddof=1):.{decimals}f}"


def main_table(report: dict[str, Any]) -> str:
    """Return the Markdown table of the runs: dB above k-means, dead codewords, perplexity."""
    lines = [
        "| distribution | start | replacement | method | MSE × 1000 | dB above k-means "
        "| dead of {} | perplexity |".format(2 ** report["settings"]["bits"]),
        "|---|---|---|---|---|---|---|---|",
    ]
    for distribution, init, replacement, method in product(
        DISTRIBUTIONS, INITS, (False, True), METHODS
    ):
        rows = [
            r
            for r in report["runs"]
            if (r["distribution"], r["init"], r["replacement"], r["method"])
            == (distribution, init, replacement, method)
        ]
        if rows:
            cells = (
                DISTRIBUTIONS[distribution],
                INITS[init],
                "yes" if replacement else "no",
                NAMES[method],
                mean_std((1000 * r["mse"] for r in rows), 3),
                mean_std((r["db"] for r in rows), 2),
                mean_std((r["dead"] for r in rows), 1),
                mean_std((r["perplexity"] for r in rows), 1),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep_table(report: dict[str, Any]) -> str:
    """Return the Markdown table of dB above k-means over the learning rate or the decay."""
    lines = [
        "| method | setting | " + " | ".join(
            f"{DISTRIBUTIONS[d]}, {INITS[i]}" for d in DISTRIBUTIONS for i in INITS
        ) + " |",
        "|---|---|" + "---|" * (len(DISTRIBUTIONS) * len(INITS)),
    ]  # fmt: skip
    settings = report["settings"]
    variants = [("nsvq", "learning_rate", v) for v in settings["sweep_learning_rates"]]
    variants += [("ema", "ema_decay", v) for v in settings["sweep_ema_decays"]]
    for method, key, value in variants:
        cells = []
        for distribution, init in product(DISTRIBUTIONS, INITS):
            rows = [
                r["db"]
                for r in report["sweep"]
                if (r["distribution"], r["init"], r["method"], r[key])
                == (distribution, init, method, value)
            ]
            cells.append(mean_std(rows, 2))
        name = f"{key.replace('ema_', '').replace('_', ' ')} {value:g}"
        lines.append(f"| {NAMES[method]} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(report: dict[str, Any]) -> str:
    """Return the report as JSON, with one line for each row of its lists."""
    parts = []
    for key, value in report.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            parts.append(f' "{key}": [\n{rows}\n ]')
        else:
            parts.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def save_png(figure: Any, path: Path) -> None:
    """Write a figure, whole or not at all; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    atomic_write(path, buffer.getvalue())


def new_figure(size: tuple[float, float]) -> Any:
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_codebooks(
    distribution: str, results: Sequence[dict[str, Any]], settings: Settings, path: Path
) -> None:
    """Draw the codebooks of the first seed over the data: methods across, starts down."""
    _, test = data(distribution, settings.train_points, settings.test_points)
    points = test[:4000].numpy()
    rows = list(product(INITS, (False, True)))
    figure = new_figure((2.35 * len(METHODS) + 0.5, 2.45 * len(rows) + 0.4))
    panels = figure.subplots(len(rows), len(METHODS), sharex=True, sharey=True)
    for i, (init, replacement) in enumerate(rows):
        for j, method in enumerate(METHODS):
            axes = panels[i][j]
            result = next(
                r
                for r in results
                if (r["distribution"], r["init"], r["replacement"], r["method"], r["seed"])
                == (distribution, init, replacement, method, 0)
            )
            axes.scatter(*points.T, s=1, color="#c9c9c9", linewidth=0, rasterized=True)
            codebook = result["codebook"]
            hit = np.bincount(nearest(test, torch.from_numpy(codebook)), minlength=len(codebook))
            used = codebook[hit > 0]
            axes.scatter(*used.T, s=7, color=METHOD_COLORS[method], linewidth=0, zorder=3)
            dead = codebook[hit == 0]
            axes.scatter(*dead.T, s=12, marker="x", color="#111111", linewidth=0.7, zorder=2)
            axes.text(
                0.5, -0.02, f"{result['db']:+.2f} dB, {len(dead)} dead".replace("-", "−"),
                transform=axes.transAxes, ha="center", va="top", fontsize=9, color="#333333",
            )  # fmt: skip
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if i == 0:
                axes.set_title(NAMES[method], fontsize=11, fontweight="bold", color="#333333")
            if j == 0:
                what = "with replacement" if replacement else "no replacement"
                axes.set_ylabel(f"start {INITS[init]}\n{what}", fontsize=10, color="#333333")
    low, high = points.min(0) - 0.25, points.max(0) + 0.25
    panels[0][0].set_xlim(low[0], high[0])
    panels[0][0].set_ylim(low[1], high[1])
    figure.suptitle(
        f"{DISTRIBUTIONS[distribution]}: codewords (dots; crosses: without a hit) after "
        f"{settings.steps} steps, first seed; error in dB above k-means",
        fontsize=11, color="#333333",
    )  # fmt: skip
    save_png(figure, path)


def plot_curves(curves: Sequence[dict[str, Any]], references: dict[str, float], path: Path) -> None:
    """Draw held-out error and perplexity over the steps, means over the seeds."""
    widths = {"nsvq": 4.6, "diveq": 2.8, "ste": 1.1, "ema": 1.5, "kmeans": 1.5}
    rows = [(init, replacement) for init in INITS for replacement in (False, True)]
    figure = new_figure((15, 12.5))
    panels = figure.subplots(len(rows), 2 * len(DISTRIBUTIONS), sharex=True)
    for (i, (init, replacement)), (j, distribution) in product(
        enumerate(rows), enumerate(DISTRIBUTIONS)
    ):
        error, usage = panels[i][j], panels[i][j + len(DISTRIBUTIONS)]
        for method in ("nsvq", "diveq", "ste", "ema", "kmeans"):
            curve = next(
                c
                for c in curves
                if (c["distribution"], c["init"], c["replacement"], c["method"])
                == (distribution, init, replacement, method)
            )
            steps = np.maximum(curve["step"], 0.7)  # the start, at 0, on a logarithmic axis
            style = {
                "color": METHOD_COLORS[method],
                "linewidth": widths[method],
                "linestyle": "--" if method in ("ema", "kmeans") else "-",
                "label": NAMES[method],
            }
            error.plot(steps, curve["mse"], **style)
            usage.plot(steps, curve["perplexity"], **style)
        error.axhline(references[distribution], color="#111111", linewidth=0.8, linestyle=":")
        error.set_yscale("log")
        error.yaxis.set_minor_formatter(NullFormatter())
        usage.set_ylim(0, 256)
        for axes in (error, usage):
            axes.set_xscale("log")
            axes.grid(color="#e5e5e5", linewidth=0.7)
            axes.tick_params(labelsize=8)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        if i == 0:
            error.set_title(f"{DISTRIBUTIONS[distribution]}: error", fontsize=10)
            usage.set_title(f"{DISTRIBUTIONS[distribution]}: perplexity", fontsize=10)
        if i == len(rows) - 1:
            error.set_xlabel("step", fontsize=9)
            usage.set_xlabel("step", fontsize=9)
        if j == 0:
            what = "with replacement" if replacement else "no replacement"
            error.set_ylabel(f"start {INITS[init]}\n{what}", fontsize=10)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
        title="mean over the seeds, on held-out points; dotted: k-means run to convergence. "
        "NSVQ, DiVeQ and STE lie on each other.",
    )  # fmt: skip
    save_png(figure, path)
