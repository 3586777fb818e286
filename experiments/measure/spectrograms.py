"""Draw the spectrogram of a recording beside what the codec makes of it.

    python -m experiments.measure.spectrograms IN.wav OUT.png [--rates 8,13.2,24.4] [--seconds 3]

What to look for: stripes above 3 kHz (noise in a few bins of a band), holes, smeared onsets.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.signal import ShortTimeFFT

from codec import Codec
from evaluation.scoring import read_reference
from experiments.extra import without_package

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
except ImportError as error:
    without_package(error)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rates", default="8,13.2,24.4")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(arguments)

    codec = Codec.load(options.weights)
    waveform = read_reference(options.source)
    begin = int(options.start * 16000)
    part = slice(begin, begin + int(options.seconds * 16000))
    shown = {"original": waveform[part]}
    for kbps in options.rates.split(","):
        decoded = codec.decode(codec.encode(waveform, 16000, float(kbps)))
        shown[f"{kbps} kbit/s"] = decoded[part]

    transform = ShortTimeFFT(np.hanning(400), 80, 16000, mfft=512)
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(10, 2.4 * len(shown)), sharex=True, layout="constrained"
    )
    for axis, (name, signal) in zip(np.atleast_1d(axes), shown.items(), strict=True):
        level = 20 * np.log10(np.abs(transform.stft(signal)) + 1e-5)
        top = 20 * np.log10(np.abs(transform.stft(shown["original"])).max() + 1e-5)
        axis.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=(0, len(signal) / 16000, 0, 8),
            vmin=top - 75,
            vmax=top,
            cmap="magma",
        )
        axis.set_ylabel("kHz")
        axis.set_title(name, loc="left", fontsize=10)
    axes[-1].set_xlabel("s")
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
