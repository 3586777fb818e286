"""Measure what delay, FIR mapping and a high-pass filter do to the pSNR of other codecs.

    python -m experiments.measure.baseline_mapping TEST_DIR [--against opus,opus-audio] [--json OUT]

Printed is the mean pSNR of each codec and rate, only aligned, and after the least-squares mapping
that `codec eval` grants to others; and what a second-order high-pass filter at 60 Hz alone, the
kind that Opus as "voip" begins with, leaves of pSNR and PESQ.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy import signal

from codec.config import REPORT_RATES_KBPS
from codec.io.audio import list_audio
from evaluation.alignment import align, fir_map
from evaluation.baselines.codecs import make_baseline
from evaluation.metrics import pesq_wb, psnr
from evaluation.scoring import read_reference

HIGH_PASS_HZ = 60


def score(path: Path, names: list[str]) -> dict[str, list[float]]:
    """Return pairs of scores of one clip: (aligned, mapped), and of the filter (pSNR, PESQ)."""
    wave = read_reference(path)
    high_pass = signal.butter(2, HIGH_PASS_HZ, "highpass", fs=16000, output="sos")
    filtered = signal.sosfilt(high_pass, wave)
    result = {"filter": [psnr(wave, fir_map(wave, filtered)), pesq_wb(wave, filtered)]}
    for name in names:
        baseline = make_baseline(name)
        for kbps in baseline.rates(REPORT_RATES_KBPS):
            aligned, _ = align(wave, baseline.code(wave, kbps).wave)
            result[f"{name} {kbps:g}"] = [psnr(wave, aligned), psnr(wave, fir_map(wave, aligned))]
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per codec and rate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("test_dir", type=Path)
    parser.add_argument("--against", default="opus,opus-audio")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    names = options.against.split(",")
    files = list_audio(options.test_dir) if options.test_dir.is_dir() else []
    if not files:
        parser.error(f"{options.test_dir}: no audio files; check the path")
    try:
        for name in names:
            make_baseline(name).check()
    except ValueError as error:
        parser.error(str(error))
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        scores = list(pool.map(partial(score, names=names), files))
    values = {key: np.array([clip[key] for clip in scores]) for key in scores[0]}
    quality, heard = values.pop("filter").T
    print(
        f"high-pass at {HIGH_PASS_HZ} Hz alone, mapped: pSNR {quality.mean():.1f} dB, lowest "
        f"{quality.min():.1f}; PESQ {heard.mean():.2f}"
    )
    print("codec, kbit/s        aligned    mapped   (mean pSNR, dB)")
    for key, pairs in values.items():
        print(f"{key:18} {pairs[:, 0].mean():9.2f} {pairs[:, 1].mean():9.2f}")
    if options.json:
        rows = {key: pairs.mean(0).round(3).tolist() for key, pairs in values.items()}
        rows["filter"] = [float(quality.mean()), float(quality.min()), float(heard.mean())]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
