"""What a run writes to look at: TensorBoard, and a CSV of the same numbers beside it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from codec.config import SAMPLE_RATE


class RunLog:
    """Log of one run, in its folder; what is there of steps after `step` is forgotten."""

    def __init__(self, directory: Path, step: int) -> None:
        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)
        self.path = directory / "train.csv"
        if self.path.is_file():  # rows after the checkpoint will come again
            head, *rows = self.path.read_text().splitlines(keepends=True)
            kept = [row for row in rows if int(row.partition(",")[0]) <= step]
            self.path.write_text("".join([head, *kept]))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Append one row and its TensorBoard scalars."""
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)
        new = not self.path.is_file()
        with self.path.open("a", newline="") as handle:
            writer = csv.DictWriter(handle, ["step", *values])
            if new:
                writer.writeheader()
            writer.writerow({"step": step, **{k: f"{v:.6g}" for k, v in values.items()}})

    def audio(self, step: int, name: str, waveform: np.ndarray) -> None:
        """Write a clip to listen to, float [T] at 16 kHz."""
        clip = torch.from_numpy(np.clip(waveform, -1, 1))[None]
        self.writer.add_audio(name, clip, step, sample_rate=SAMPLE_RATE)

    def validation(self, step: int, rows: list[dict[str, float]]) -> None:
        """Write PESQ and pSNR per rate."""
        for row in rows:
            for name in ("pesq_wb", "psnr_db"):
                tag = f"valid/{name}_{row['bitrate_kbps']:g}"
                self.writer.add_scalar(tag, row[name], step)
