"""Train the envelope's MSVQ alone with each gradient estimator and compare what comes out.

    python -m experiments.measure.estimators TRAIN_DIR TEST_DIR [--steps 800] [--seeds 2]

The envelopes are those that the shipped analysis proposes; the codebooks start from the same random
numbers for every estimator, as do crops and stages of every step. Printed are the rms error of the
hard quantizer in dB with 2, 3 and 4 stages on TEST_DIR, mean over the seeds, its standard deviation
between them, and the perplexity of the first stage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.weights import load_weights
from models.msvq import PredictiveMSVQ
from models.quantizers import ESTIMATORS
from models.training.data import CropSampler, load_directory
from models.training.export import import_net
from models.training.sampling import num_samples

FRAMES = 100  # of a crop
BATCH = 8
OCTAVE_DB = 20 * np.log10(2)


@torch.no_grad()
def envelopes(directory: Path, crops: int, seed: int) -> Tensor:
    """Return proposed envelopes of random crops, octaves, [crops, FRAMES, bands]."""
    net = import_net(load_weights()).eval()
    sampler = CropSampler(load_directory(directory), num_samples(FRAMES), seed)
    out = [net.analyse(sampler.batch(i, BATCH), FRAMES)[1] for i in range(-(-crops // BATCH))]
    return torch.cat(out)[:crops]


def run(estimator: str, seed: int, train: Tensor, test: Tensor, steps: int) -> list[float]:
    """Train one quantizer; returns rms dB with 2, 3 and 4 stages, and stage 1's perplexity."""
    torch.manual_seed(seed)
    msvq = PredictiveMSVQ(4, 512, train.shape[-1], estimator)
    msvq.initial.copy_(train.flatten(0, 1).quantile(0.05, dim=0))
    optimizer = torch.optim.Adam(msvq.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        batch = train[torch.from_numpy(rng.integers(0, len(train), 16))]
        stages = torch.from_numpy(rng.integers(2, 5, 16))
        torch.manual_seed(seed * steps + step)
        out = msvq(batch, stages)
        loss = (out.quantized - batch).square().mean() + out.auxiliary_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99 and step < 0.7 * steps:
            msvq.replace_dead()
    msvq.eval()
    result = []
    with torch.no_grad():
        for stages in (2, 3, 4):
            out = msvq(test, torch.full((len(test),), stages))
            rms = (out.hard - test).square().mean().sqrt()
            result.append(float(rms) * OCTAVE_DB)
    return [*result, float(out.perplexity[0])]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per estimator."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train_dir", type=Path)
    parser.add_argument("test_dir", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    train, test = envelopes(options.train_dir, 480, 1), envelopes(options.test_dir, 48, 2)
    print("estimator   rms dB, 2 stages   3 stages        4 stages        perplexity of stage 1")
    rows = []
    for estimator in ESTIMATORS:
        results = np.array(
            [run(estimator, s, train, test, options.steps) for s in range(options.seeds)]
        )
        mean, spread = results.mean(0), results.std(0, ddof=1)
        rows.append({"estimator": estimator, "mean": mean.tolist(), "std": spread.tolist()})
        cells = "".join(f"  {m:5.2f} ± {s:4.2f}  " for m, s in zip(mean, spread, strict=True))
        print(f"{estimator:11}{cells}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
