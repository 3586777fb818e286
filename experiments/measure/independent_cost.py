"""What independent packets cost: the rate that they need for the same quality.

    python -m experiments.measure.independent_cost TEST_DIR [--rates 8,13.2,24.4] [--jobs 2]

Every clip is coded with predicted packets at each rate, and with independent packets at that rate
and at 4, 8 and 12 % more. Mean PESQ and pSNR over the clips are interpolated over the logarithm of
the rate, to find where independent packets are as good as predicted ones. Prints one line per rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from codec import Codec
from codec.config import MAX_KBPS, SAMPLE_RATE
from evaluation.metrics import pesq_wb, psnr
from evaluation.scoring import read_reference
from experiments.audio import list_audio

MORE = (1.0, 1.04, 1.08, 1.12)


@lru_cache(maxsize=1)
def load_codec(weights: Path | None) -> Codec:
    return Codec.load(weights)


def score(task: tuple[Path, tuple[float, ...], Path | None]) -> np.ndarray:
    """Return PESQ and pSNR of a clip, [rates, 1 + len(MORE), 2]; NaN above the highest rate."""
    path, rates, weights = task
    codec = load_codec(weights)
    waveform = read_reference(path)
    result = np.full((len(rates), 1 + len(MORE), 2), np.nan)
    for i, kbps in enumerate(rates):
        for j, more in enumerate((None, *MORE)):
            at = kbps * (more or 1.0)
            if at > MAX_KBPS:
                continue
            data = codec.encode(waveform, SAMPLE_RATE, at, independent=more is not None)
            decoded = codec.decode(data)
            result[i, j] = pesq_wb(waveform, decoded), psnr(waveform, decoded)
    return result


def equal_quality(wanted: float, values: np.ndarray) -> str:
    """Return by how much the rate must rise until ``values`` (at MORE) reach ``wanted``."""
    known = np.isfinite(values)
    values, more = np.maximum.accumulate(values[known]), np.array(MORE)[known]
    if wanted <= values[0]:
        return "none"
    if wanted > values[-1]:
        return f"more than {100 * (more[-1] - 1):.0f} %"
    return f"{100 * (np.exp(np.interp(wanted, values, np.log(more))) - 1):.1f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rates", default="8,9.6,13.2,16.4,24.4")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(arguments)
    rates = tuple(float(rate) for rate in options.rates.split(","))
    tasks = [(path, rates, options.weights) for path in list_audio(options.directory)]
    with ProcessPoolExecutor(options.jobs) as pool:
        scores = np.mean(list(pool.map(score, tasks)), 0)
    for i, rate in enumerate(rates):
        predicted, independent = scores[i, 0], scores[i, 1:]
        cells = [
            f"{name} {predicted[m]:.{digits}f}, independent "
            + " / ".join(f"{v:.{digits}f}" for v in independent[:, m])
            + f", cost {equal_quality(predicted[m], independent[:, m])}"
            for m, (name, digits) in enumerate((("PESQ", 3), ("pSNR", 2)))
        ]
        print(f"{rate:g} kbit/s: {'; '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
