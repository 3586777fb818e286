"""Draw the course of a training run: losses, and PESQ on the validation clips.

    python -m experiments.measure.training_curve RUN_DIR OUT.png

Reads ``train.csv`` and ``latest.pt`` of the run folder that ``codec train --out`` writes. Of a
recipe's, the stages follow one another, with a line between them.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.extra import without_package

try:
    import matplotlib
    import torch

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
except ImportError as error:
    without_package(error)

LOG, CHECKPOINT = "train.csv", "latest.pt"
TERMS = {"pesq": "PESQ disturbance", "error": "ln(weighted error)", "spectral": "spectral"}


def stages(run_dir: Path) -> list[Path]:
    """Return the folders of a run's stages: its own, or those of a recipe."""
    if (run_dir / CHECKPOINT).is_file():
        return [run_dir]
    found = sorted(path.parent for path in run_dir.glob(f"*/{CHECKPOINT}"))
    if not found:
        raise SystemExit(f"no '{CHECKPOINT}' in '{run_dir}': name the folder of a run")
    return found


def load_run(run_dir: Path) -> tuple[dict[str, list[float]], list[dict[str, Any]], list[int]]:
    """Return the log's columns, the validations, and the last step of each stage."""
    columns: dict[str, list[float]] = {name: [] for name in ("step", *TERMS)}
    history: list[dict[str, Any]] = []
    ends = [0]
    for folder in stages(run_dir):
        with (folder / LOG).open(newline="") as file:
            for row in csv.DictReader(file):
                columns["step"].append(ends[-1] + int(row["step"]))
                for name in TERMS:
                    columns[name].append(float(row[name]))
        saved = torch.load(folder / CHECKPOINT, weights_only=True)
        history += [entry | {"step": ends[-1] + entry["step"]} for entry in saved["history"]]
        ends.append(ends[-1] + saved["step"])
    return columns, history, ends[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the run and write the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    columns, history, ends = load_run(options.run_dir)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name, label in TERMS.items():
        left.plot(columns["step"], columns[name], label=label)
    left.set(xlabel="step", ylabel="loss term, smoothed", title="training")
    left.legend(frameon=False)
    for i in range(len(history[0]["valid"]) if history else 0):
        rate = history[0]["valid"][i]["bitrate_kbps"]
        values = [h["valid"][i]["pesq_wb"] for h in history]
        right.plot([h["step"] for h in history], values, "o-", label=f"{rate:g} kbit/s")
    right.set(xlabel="step", ylabel="PESQ (wideband)", title="validation, weight average")
    right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axis in (left, right):
        for end in ends[:-1]:
            axis.axvline(end, color="0.6", linestyle=":")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.out, dpi=110)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
