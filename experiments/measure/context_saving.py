"""Measure what the context model saves against the envelope-only Laplace model.

Both models price exactly the same integers: those that the shipped codec codes for every clip at
every rate. The Laplace model gets every chance: its scale is envelope / step, with one scale
factor per band fitted to the very clips that it is tested on.

    python experiments/context_saving.py DATA_DIR [--weights FILE] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codec.config import REPORT_RATES_KBPS
from codec.encoder import collect_bins, default_stages
from codec.io.audio import list_audio, read_audio
from codec.io.resample import to_codec_rate
from codec.packet import FEATURE_LIMIT


def laplace_bits(q: np.ndarray, log_ratio: np.ndarray, rounding: float) -> np.ndarray:
    """Return Laplace code lengths (with sign) of magnitudes, log2 scale in octaves."""
    inverse = np.exp2(-np.clip(log_ratio, -3, 9))
    slope = inverse / np.log(2)
    zero = -np.log2(-np.expm1(-(1 - rounding) * inverse))
    one = 1 + (1 - rounding) * slope - np.log2(-np.expm1(-inverse))
    return np.where(q == 0, zero, one + slope * (q - 1))


def main() -> None:
    """Print bits per packet of both models, and the saving, per rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--max-clips", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    from codec import Codec
    from codec.rate_control import COST_ONE

    codec = Codec.load(options.weights)
    config = codec.config
    band = np.repeat(np.arange(config.num_bands), np.diff(config.band_edges))
    band = np.broadcast_to(band, (2, config.hop_length))
    clips = []
    for path in list_audio(options.data_dir)[: options.max_clips]:
        waveform, rate, _ = read_audio(path)
        clips.append(to_codec_rate(waveform, rate))
    rows = []
    print("kbit/s   Laplace   context   bits per packet of the bins        saving")
    for rate in REPORT_RATES_KBPS:
        stages = min(default_stages(round(rate * 1000)), config.num_stages)
        magnitudes, ratios, context_bits = [], [], 0.0
        for clip in clips:
            got = collect_bins(
                codec.weights.tables, config, codec.analysis, clip, round(rate * 20 / 8), stages
            )
            magnitudes.append(np.abs(got.bins))
            ratios.append(got.features[..., 0] / 64.0)  # Q6 of the bitstream's own log ratio
            context_bits += got.costs.sum() / COST_ONE
        q, log_ratio = np.concatenate(magnitudes), np.concatenate(ratios)
        assert np.abs(log_ratio).max() * 64 <= FEATURE_LIMIT
        total = 0.0
        for b in range(config.num_bands):
            mask = np.broadcast_to(band == b, q.shape)
            best = min(
                laplace_bits(q[mask], log_ratio[mask] + shift, config.rounding).sum()
                for shift in np.arange(-1.0, 1.01, 0.1)
            )
            total += best
        saving = 1 - context_bits / total
        row = {
            "bitrate_kbps": rate,
            "laplace_bits_per_packet": total / len(q),
            "context_bits_per_packet": context_bits / len(q),
            "saving": saving,
        }
        rows.append(row)
        print(
            f"{rate:6.1f} {row['laplace_bits_per_packet']:9.1f} "
            f"{row['context_bits_per_packet']:9.1f} {100 * saving:38.1f} %"
        )
    mean = float(np.mean([r["saving"] for r in rows]))
    print(f"mean saving over the rates: {100 * mean:.1f} %")
    if options.json:
        options.json.write_text(json.dumps({"summary": rows, "mean_saving": mean}, indent=2))


if __name__ == "__main__":
    main()
