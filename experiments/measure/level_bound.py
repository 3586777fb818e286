"""What true levels above 1.5 kHz would bring, of which bands and how often, and the sent ones.

    python -m experiments.measure.level_bound DIR [--bitrate 8] [--max-clips 5] [--weights FILE]

Decoded clips go through a filter that moves the level of each band, at each moment, half or all of
the way to the original's ("true"), or to the transmitted envelope's ("sent"). Bands are the
envelope's, or 300 Hz wide (those of its detail); moments are 20 or 10 ms apart. Prints PESQ, pSNR
and DistillMOS of each, which needs `pip install '.[eval]'`. The true levels are a bound: no decoder
has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codec import Codec
from codec.config import (
    BAND_EDGES,
    DETAIL_EDGES,
    FRAME_LENGTH,
    HOP_LENGTH,
    LOG_ONE,
    SAMPLE_RATE,
)
from evaluation.metrics import distillmos, pesq_wb, psnr
from evaluation.scoring import read_reference
from experiments.audio import list_audio

LOWEST = 1500 / (SAMPLE_RATE / 2) * HOP_LENGTH  # coefficients; below, levels stay as they are
LARGEST = 1.5  # octaves by which a level is moved at most
PAD = 2 * FRAME_LENGTH


class Grid(NamedTuple):
    """Bands (edges in coefficients), their distance in time and the window, both in samples."""

    edges: np.ndarray
    hop: int
    window: int

    @property
    def centres(self) -> np.ndarray:
        """Return the middle of each band, coefficients."""
        middle: np.ndarray = (self.edges[1:] + self.edges[:-1]) / 2
        return middle


ENVELOPE = Grid(np.array(BAND_EDGES), FRAME_LENGTH, 384)
GRIDS = {
    "the envelope's bands, 20 ms": ENVELOPE,
    "300 Hz, 20 ms": Grid(np.array(DETAIL_EDGES), FRAME_LENGTH, 384),
    "300 Hz, 10 ms": Grid(np.array(DETAIL_EDGES), HOP_LENGTH, 256),
}


def levels_of(x: np.ndarray, grid: Grid, frames: int) -> np.ndarray:
    """Return log2 of the rms of each band, [moments, bands]; the first moment is 5 ms into x."""
    padded = np.concatenate([np.zeros(PAD), x, np.zeros(PAD + FRAME_LENGTH)])
    count = frames * FRAME_LENGTH // grid.hop
    levels = np.empty((count, len(grid.edges) - 1))
    for p in range(count):
        middle = PAD + p * grid.hop + grid.hop // 4
        seen = padded[middle - grid.window // 2 : middle + grid.window // 2]
        power = np.square(np.abs(np.fft.rfft(seen * np.hanning(grid.window), 4 * HOP_LENGTH)))
        sums = np.add.reduceat(power[: 2 * HOP_LENGTH], 2 * grid.edges[:-1])
        levels[p] = 0.5 * np.log2(sums / np.diff(2 * grid.edges) + 1e-9)
    return levels


def move_levels(x: np.ndarray, grid: Grid, octaves: np.ndarray) -> np.ndarray:
    """Filter ``x`` so that each band above 1.5 kHz moves by ``octaves`` [moments, bands]."""
    window = np.sin(np.pi * (np.arange(HOP_LENGTH) + 0.5) / HOP_LENGTH)
    padded = np.concatenate([np.zeros(HOP_LENGTH // 2), x, np.zeros(PAD)])
    result = np.zeros(len(padded))
    places = np.arange(0, HOP_LENGTH + 1, 2)  # coefficients
    moments = np.arange(len(octaves)) * grid.hop + grid.hop // 4
    for start in range(0, len(padded) - HOP_LENGTH, HOP_LENGTH // 2):
        gain = [np.interp(start, moments, octaves[:, b]) for b in range(octaves.shape[1])]
        gain = np.exp2(np.interp(places, grid.centres, gain) * (places >= LOWEST))
        part = slice(start, start + HOP_LENGTH)
        result[part] += window * np.fft.irfft(np.fft.rfft(window * padded[part]) * gain)
    return result[HOP_LENGTH // 2 : HOP_LENGTH // 2 + len(x)].astype(np.float32)


def variants(codec: Codec, x: np.ndarray, bitrate: float) -> dict[str, np.ndarray]:
    """Return the decoded clip, and it with other levels."""
    data = codec.encode(x, SAMPLE_RATE, bitrate)
    y = codec.decode(data)
    sent = codec.decode_integers(data)[1].envelope / LOG_ONE
    frames = len(sent)
    wanted = {f"true, {name}": (grid, levels_of(x, grid, frames)) for name, grid in GRIDS.items()}
    true = levels_of(x, ENVELOPE, frames)
    # Both scales differ by a constant of each band.
    active = true.max(1) > true.max() - 6.6
    wanted["sent"] = ENVELOPE, sent - np.median((sent - true)[active], axis=0)
    made = {"as decoded": y}
    for name, (grid, levels) in wanted.items():
        for share in (0.5, 1.0):
            octaves = np.clip(levels - levels_of(y, grid, frames), -LARGEST, LARGEST)
            made[f"{name}, {share:.0%}"] = move_levels(y, grid, share * octaves)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--bitrate", type=float, default=8.0)
    parser.add_argument("--max-clips", type=int, default=5)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(arguments)
    codec = Codec.load(options.weights)
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for path in list_audio(options.directory)[: options.max_clips]:
        x = read_reference(path)
        for name, y in variants(codec, x, options.bitrate).items():
            scores.setdefault(name, []).append((pesq_wb(x, y), psnr(x, y), distillmos(x, y)))
    print(f"{'':40}  PESQ   pSNR  DistillMOS")
    for name, rows in scores.items():
        print("{:40}{:6.2f} {:6.1f} {:11.2f}".format(name, *np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
