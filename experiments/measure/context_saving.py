"""Measure what the context model saves against the envelope-only Laplace model.

Both models price exactly the same integers: those that the shipped codec codes for every clip at
every rate, with all frames predicted (a file has an intra frame in each second). The Laplace model
gets every chance: its scale is envelope / step, with one scale factor per band fitted to the very
clips that it is tested on.

    python -m experiments.measure.context_saving DATA_DIR [--weights FILE] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from codec import Codec
from codec.config import BAND_EDGES, NUM_BANDS, REPORT_RATES_KBPS
from codec.model import COST_ONE
from evaluation.scoring import read_reference
from experiments.audio import list_audio
from models.context import FEATURE_ONE
from models.rate_model import laplace_code_lengths
from models.training.collect import collect
from models.training.sampling import frame_bytes

SHIFTS = np.arange(-1.0, 1.01, 0.1)  # octaves by which a band's scale is tried


def laplace_bits(levels: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
    """Return Laplace code lengths (with sign) of magnitudes, log2 scale in octaves."""
    zero, one, slope = (x.numpy() for x in laplace_code_lengths(torch.from_numpy(log_ratio)))
    bits: np.ndarray = np.where(levels == 0, zero, one + slope * (levels - 1))
    return bits


def fitted_bits(levels: np.ndarray, log_ratio: np.ndarray) -> float:
    """Return all Laplace bits of [F, 2, N], with the best scale of each band."""
    total = 0.0
    for b in range(NUM_BANDS):
        band = np.s_[..., BAND_EDGES[b] : BAND_EDGES[b + 1]]
        total += min(float(laplace_bits(levels[band], log_ratio[band] + s).sum()) for s in SHIFTS)
    return total


def measure(codec: Codec, clips: list[np.ndarray], rate: float) -> dict[str, float]:
    """Return the bits per frame of both models at a rate."""
    levels, ratios, context_bits = [], [], 0.0
    tensors, stages = codec.weights.of_kind(False), codec.config.num_stages
    for clip in clips:
        got = collect(tensors, codec.config, clip, frame_bytes(rate), stages, False)
        levels.append(np.abs(got.levels))
        ratios.append(got.features[..., 0] / FEATURE_ONE)  # the bitstream's own log ratio
        context_bits += got.costs.sum() / COST_ONE
    magnitude, log_ratio = np.concatenate(levels), np.concatenate(ratios)
    total = fitted_bits(magnitude, log_ratio)
    return {
        "bitrate_kbps": rate,
        "laplace_bits_per_frame": total / len(magnitude),
        "context_bits_per_frame": context_bits / len(magnitude),
        "saving": 1 - context_bits / total,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print bits per frame of both models, and the saving, per rate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--max-clips", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)

    codec = Codec.load(options.weights)
    clips = [read_reference(p) for p in list_audio(options.data_dir)[: options.max_clips]]
    rows = []
    print("kbit/s   Laplace   context   bits per frame of the levels      saving")
    for rate in REPORT_RATES_KBPS:
        row = measure(codec, clips, rate)
        rows.append(row)
        print(
            f"{rate:6.1f} {row['laplace_bits_per_frame']:9.1f} "
            f"{row['context_bits_per_frame']:9.1f} {100 * row['saving']:38.1f} %"
        )
    mean = float(np.mean([r["saving"] for r in rows]))
    print(f"mean saving over the rates: {100 * mean:.1f} %")
    if options.json:
        options.json.write_text(json.dumps({"summary": rows, "mean_saving": mean}, indent=2))


if __name__ == "__main__":
    main()
