"""How far the levels of the decoded bands are from the original's, above 1.5 kHz.

    python -m experiments.measure.levels DIR [--rates 8,13.2,24.4,32] [--max-clips 10]

Powers of the envelope's bands over 24 ms, in the frames that are within 40 dB of the clip's loudest
one and the cells that are within 50 dB of the loudest cell. Prints, for each rate and for three
ranges of frequency, the mean error in dB (negative: too quiet) and its root mean square.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codec import Codec
from codec.config import BAND_EDGES_HZ, SAMPLE_RATE
from evaluation.scoring import read_reference
from experiments.audio import list_audio

FRAME = 384  # samples: 24 ms
RANGES_HZ = ((1500, 3000), (3000, 5000), (5000, 8000), (1500, 8000))


def band_powers(x: np.ndarray) -> np.ndarray:
    """Return the power of each band and frame in dB, [frames, bands]."""
    frames = x[: len(x) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(FRAME))))
    frequency = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
    edges = np.array(BAND_EDGES_HZ)
    inside = (frequency[:, None] >= edges[:-1]) & (frequency[:, None] < edges[1:])
    return 10 * np.log10(power @ inside + 1e-12)


def level_errors(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors in dB, [frames, bands], and which of them count."""
    of_x, of_y = band_powers(x), band_powers(y)
    loudest = of_x.max(1, keepdims=True)
    active = (loudest > loudest.max() - 40) & (of_x > of_x.max() - 50)
    return of_y - of_x, active


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per rate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rates", default="8,9.6,13.2,16.4,24.4,32")
    parser.add_argument("--max-clips", type=int, default=10)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(arguments)
    codec = Codec.load(options.weights)
    clips = [read_reference(p) for p in list_audio(options.directory)[: options.max_clips]]
    edges = np.array(BAND_EDGES_HZ)
    centres = (edges[:-1] + edges[1:]) / 2
    print("kbit/s" + "".join(f"{f'{low}-{high} Hz':>22}" for low, high in RANGES_HZ))
    for rate in options.rates.split(","):
        pairs = [
            level_errors(x, codec.decode(codec.encode(x, SAMPLE_RATE, float(rate)))) for x in clips
        ]
        error, active = (np.concatenate(part) for part in zip(*pairs, strict=True))
        cells = []
        for low, high in RANGES_HZ:
            counted = error[:, (centres >= low) & (centres < high)]
            counted = counted[active[:, (centres >= low) & (centres < high)]]
            cells.append(f"{counted.mean():+.1f}, rms {np.sqrt(np.square(counted).mean()):.1f}")
        print(f"{rate:6}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
