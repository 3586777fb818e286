"""Measure whether the decoder repeats itself from frame to frame above 5 kHz.

    python -m experiments.measure.buzz DIR [--rates 8,13.2,32] [--max-clips 4]

Prints the normalised autocorrelation of the high-passed signal at a lag of one frame (20 ms), over
the loudest fifth of 40 ms frames, of the original and of the decoded clips. Noise-like speech has
about 0; a decoder that fills bands with the same pattern in every frame has 0.5 and more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfilt

from codec import Codec
from evaluation.scoring import read_reference
from experiments.audio import list_audio

FRAME, LAG = 640, 320


def repetition(waveform: np.ndarray) -> float:
    """Return the normalised autocorrelation at one frame above 5 kHz, [T] at 16 kHz."""
    high = sosfilt(butter(6, 5000, "hp", fs=16000, output="sos"), waveform)
    frames = high[: len(high) // FRAME * FRAME].reshape(-1, FRAME)
    energy = np.square(frames).sum(1)
    loud = frames[energy > np.quantile(energy, 0.8)]
    now, before = loud[:, LAG:], loud[:, :-LAG]
    scale = np.sqrt(np.square(now).sum() * np.square(before).sum())
    return float((now * before).sum() / max(scale, 1e-12))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per rate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--rates", default="8,13.2,32")
    parser.add_argument("--max-clips", type=int, default=4)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(arguments)

    codec = Codec.load(options.weights)
    clips = [read_reference(p) for p in list_audio(options.data_dir)[: options.max_clips]]
    print(f"original: {np.mean([repetition(c) for c in clips]):.2f}")
    for rate in options.rates.split(","):
        decoded = [codec.decode(codec.encode(c, 16000, float(rate))) for c in clips]
        print(f"{rate} kbit/s: {np.mean([repetition(d) for d in decoded]):.2f}")


if __name__ == "__main__":
    main()
