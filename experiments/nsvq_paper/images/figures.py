"""Figures of the image experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.extra import without_package
from experiments.nsvq_paper.images.settings import GRID, PATCH
from experiments.nsvq_paper.images.tables import lookup, present

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator
except ImportError as error:
    without_package(error)


def draw_quality(summary: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw SSIM, peak SNR and perplexity over the codebook's bits, with deviations."""
    rows, sizes = present(summary)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    panels = (("ssim", "SSIM"), ("peak_snr_db", "peak SNR (dB)"), ("perplexity", "perplexity"))
    for axis, (key, label) in zip(axes, panels, strict=True):
        for row in rows:
            entries = [lookup(summary, row.name, bits) for bits in sizes]
            axis.errorbar(
                sizes,
                [entry[key] for entry in entries],
                [entry[f"{key}_std"] for entry in entries],
                label=row.name,
                capsize=3,
                markersize=5,
                **row.style,
            )
        axis.set_xticks(sizes, [f"{bits}\n{GRID * GRID * bits / PATCH**2:.4g}" for bits in sizes])
        axis.set_xlabel("bits per index, and per pixel")
        axis.set_title(f"{label}, held-out patches", fontsize=11)
        axis.grid(alpha=0.3)
    axes[2].set_yscale("log", base=2)
    axes[2].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[2].plot(sizes, [2**bits for bits in sizes], color="#999999", linewidth=1, zorder=0)
    middle = (sizes[0] + sizes[-1]) / 2
    axes[2].annotate(
        "all codewords", (middle, 2**middle), (-8, 6), textcoords="offset points",
        ha="right", color="#777777", fontsize=8,
    )  # fmt: skip
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_training(summary: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training error, held-out error and perplexity over the steps, at three sizes."""
    rows, sizes = present(summary)
    shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})
    panels = (
        ("step", "train_mse", "training error (MSE)"),
        ("check_step", "check_mse", "held-out error (MSE)"),
        ("step", "train_perplexity", "perplexity"),
    )
    figure, axes = plt.subplots(
        3, len(shown), figsize=(4 * len(shown), 9), layout="constrained", squeeze=False,
        sharex=True, sharey="row",
    )  # fmt: skip
    for j, bits in enumerate(shown):
        for i, (x, y, label) in enumerate(panels):
            axis = axes[i, j]
            for row in rows:
                curve = lookup(summary, row.name, bits)["curve"]
                mean, spread = np.array(curve[y]), np.array(curve[f"{y}_std"])
                style = row.style | {"marker": ""}
                axis.plot(curve[x], mean, label=row.name, linewidth=1.4, **style)
                low = np.maximum(mean - spread, 0.2 * mean)
                axis.fill_between(
                    curve[x], low, mean + spread, color=style["color"], alpha=0.15, linewidth=0
                )
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.yaxis.set_minor_formatter("")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.grid(alpha=0.3)
            if i == 0:
                axis.set_title(f"{bits} bits ({2**bits} codewords)", fontsize=11)
            if i == 2:
                axis.set_xlabel("step")
            if j == 0:
                axis.set_ylabel(label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_examples(
    originals: np.ndarray, decoded: dict[str, np.ndarray], bits: int, path: Path
) -> None:
    """Draw held-out parts of pictures, original and as decoded, a line per row."""
    lines = {"original": originals} | decoded
    columns = min(5, len(originals))
    figure, axes = plt.subplots(
        len(lines), columns, figsize=(1.6 * columns + 0.4, 1.61 * len(lines) + 0.35),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    for i, (name, pictures) in enumerate(lines.items()):
        for j in range(columns):
            axis = axes[i, j]
            axis.imshow(pictures[j], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if i:
                mse = np.square(originals[j].astype(float) - pictures[j]).mean()
                axis.text(
                    0.97, 0.04, f"{10 * np.log10(255**2 / max(mse, 1 / 12)):.1f} dB",
                    transform=axis.transAxes, ha="right", fontsize=7, color="white",
                    bbox={"facecolor": "black", "alpha": 0.55, "pad": 1.5, "linewidth": 0},
                )  # fmt: skip
        axes[i, 0].set_ylabel(name.replace(" + ", "\n+ ").replace(", ", ",\n"), fontsize=9)
    rate = GRID * GRID * bits / PATCH**2
    figure.suptitle(f"Held-out parts at {bits} bits per index, {rate:.4g} bit/pixel", fontsize=11)
    figure.savefig(path, dpi=90)
    plt.close(figure)
