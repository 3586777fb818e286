"""Summary and tables of the image experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codec.io.files import atomic_write
from experiments.nsvq_paper.images.runs import Run
from experiments.nsvq_paper.images.settings import GRID, PATCH, ROWS, Row

SCORES = ("ssim", "peak_snr_db", "mse", "perplexity", "used", "train_mse", "roughness")


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def roughness(errors: Sequence[float]) -> float:
    """Return the mean step between points of a curve's second half over the curve's mean there."""
    half = np.asarray(errors[len(errors) // 2 :])
    return float(np.abs(np.diff(half)).mean() / half.mean()) if len(half) > 1 else 0.0


def summarise(runs: Sequence[Run], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one dict per row and bits: scores of each seed, their mean and deviation, curves."""
    groups: dict[tuple[str, int], list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault((run.row.name, run.bits), []).append(i)
    summary = []
    for (name, bits), members in groups.items():
        row = runs[members[0]].row
        seeds = []
        for i in members:
            errors = results[i]["curve"]["train_mse"]
            scores = results[i] | {"train_mse": errors[-1], "roughness": roughness(errors)}
            kept = {key: float(f"{scores[key]:.6g}") for key in SCORES}
            seeds.append({"seed": runs[i].seed} | kept | {"replaced": results[i]["replaced"]})
        entry: dict[str, Any] = {
            "row": name,
            "method": row.method,
            "replaces": row.replaces,
            "bits": bits,
            "bits_per_patch": GRID * GRID * bits,
            "bits_per_pixel": GRID * GRID * bits / PATCH**2,
            "seeds": seeds,
        }
        for key in SCORES:
            entry[key], entry[f"{key}_std"] = mean_std([seed[key] for seed in seeds])
        curves = [results[i]["curve"] for i in members]
        entry["curve"] = {"step": curves[0]["step"], "check_step": curves[0]["check_step"]}
        for key in ("train_mse", "train_perplexity", "check_mse"):
            table = np.array([curve[key] for curve in curves])  # [seeds, points]
            spread = table.std(0, ddof=1) if len(table) > 1 else np.zeros(table.shape[1])
            for suffix, line in (("", table.mean(0)), ("_std", spread)):
                entry["curve"][key + suffix] = [float(f"{value:.4g}") for value in line]
        summary.append(entry)
    return summary


def lookup(summary: Sequence[dict[str, Any]], name: str, bits: int) -> dict[str, Any]:
    """Return the entry of a row at a codebook size."""
    return next(entry for entry in summary if entry["row"] == name and entry["bits"] == bits)


def present(summary: Sequence[dict[str, Any]]) -> tuple[list[Row], list[int]]:
    """Return the rows and the codebook sizes that a summary has."""
    names = {entry["row"] for entry in summary}
    return [row for row in ROWS if row.name in names], sorted({e["bits"] for e in summary})


def table(summary: Sequence[dict[str, Any]], key: str, digits: int) -> str:
    """Return a Markdown table of one score, mean and deviation, rows over bits."""
    rows, sizes = present(summary)
    lines = ["| | " + " | ".join(f"{bits} bits" for bits in sizes) + " |"]
    lines.append("|---|" + "---|" * len(sizes))
    for row in rows:
        cells = []
        for bits in sizes:
            entry = lookup(summary, row.name, bits)
            deviation = f" ± {entry[key + '_std']:.{digits}f}" if len(entry["seeds"]) > 1 else ""
            cells.append(f"{entry[key]:.{digits}f}{deviation}")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def all_tables(summary: Sequence[dict[str, Any]], seeds: int) -> str:
    """Return the tables of all scores as Markdown, each below its title."""
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "1 seed"
    return "\n\n".join(
        f"{title} ({over}):\n\n{table(summary, key, digits)}"
        for key, title, digits in (
            ("ssim", "**SSIM** of held-out patches", 3),
            ("peak_snr_db", "**Peak SNR** of held-out patches, dB", 2),
            ("perplexity", "**Perplexity** of the indices of held-out patches", 0),
            ("used", "**Codewords used** by held-out patches", 0),
            ("train_mse", "**Training error** (MSE) at the end", 5),
            ("roughness", "**Roughness** of the training error", 3),
        )
    )


def update_page(path: Path, tables: str) -> None:
    """Put the tables between the two marks of a page, if there is one that has them."""
    if not path.is_file():
        return
    text = path.read_text()
    before, start, rest = text.partition("<!-- tables -->\n")
    _, end, after = rest.partition("<!-- end of tables -->\n")
    if start and end:
        atomic_write(path, f"{before}{start}\n{tables}\n\n{end}{after}".encode())
