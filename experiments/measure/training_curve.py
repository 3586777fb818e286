"""Draw the course of a training run: losses, and PESQ on the validation clips.

    python -m experiments.measure.training_curve RUN_DIR OUT.png

Reads ``train.csv`` and ``latest.pt`` of the run folder that ``codec train --out`` writes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from experiments.extra import without_package

try:
    import matplotlib
    import torch

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
except ImportError as error:
    without_package(error)

TERMS = {"pesq": "PESQ disturbance", "error": "ln(weighted error)", "spectral": "spectral"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the run and write the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    for name in ("train.csv", "latest.pt"):
        if not (options.run_dir / name).is_file():
            raise SystemExit(f"no '{name}' in '{options.run_dir}': name the folder of a run")
    with (options.run_dir / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    history = torch.load(options.run_dir / "latest.pt", weights_only=True)["history"]

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    steps = [int(r["step"]) for r in rows]
    for name, label in TERMS.items():
        left.plot(steps, [float(r[name]) for r in rows], label=label)
    left.set(xlabel="step", ylabel="loss term, smoothed", title="training")
    left.legend(frameon=False)
    for i in range(len(history[0]["valid"]) if history else 0):
        rate = history[0]["valid"][i]["bitrate_kbps"]
        values = [h["valid"][i]["pesq_wb"] for h in history]
        right.plot([h["step"] for h in history], values, "o-", label=f"{rate:g} kbit/s")
    right.set(xlabel="step", ylabel="PESQ (wideband)", title="validation, weight average")
    right.legend(frameon=False, ncol=2)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.out, dpi=110)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
