"""What true levels above 1.5 kHz would bring, and what the transmitted ones would.

    python -m experiments.measure.level_bound DIR [--bitrate 8] [--max-clips 5] [--weights FILE]

Decoded clips go through a filter that moves the level of each band, in every frame, half or all of
the way to the original's ("true"), or to the transmitted envelope's ("sent"). Prints PESQ, pSNR and
DistillMOS of each, which needs `pip install '.[eval]'`. The true levels are a bound: no decoder has
them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codec import Codec
from codec.config import BAND_EDGES, FRAME_LENGTH, HOP_LENGTH, LOG_ONE, NUM_BANDS, SAMPLE_RATE
from codec.io.audio import list_audio
from evaluation.metrics import distillmos, pesq_wb, psnr
from evaluation.scoring import read_reference

EDGES = np.array(BAND_EDGES)
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2  # coefficients
HIGH = np.arange(NUM_BANDS) >= np.searchsorted(EDGES, 1500 / (SAMPLE_RATE / 2) * HOP_LENGTH)
WINDOW = 384  # samples
LARGEST = 1.5  # octaves by which a level is moved at most
PAD = 2 * FRAME_LENGTH


def frame_levels(x: np.ndarray, frames: int) -> np.ndarray:
    """Return log2 of the rms of each band around the middle of each frame, [frames, bands]."""
    padded = np.concatenate([np.zeros(PAD), x, np.zeros(PAD + FRAME_LENGTH)])
    levels = np.empty((frames, NUM_BANDS))
    for p in range(frames):
        middle = PAD + p * FRAME_LENGTH + FRAME_LENGTH // 4
        seen = padded[middle - WINDOW // 2 : middle + WINDOW // 2] * np.hanning(WINDOW)
        power = np.square(np.abs(np.fft.rfft(seen, 4 * HOP_LENGTH)))
        means = np.add.reduceat(power[: 2 * HOP_LENGTH], 2 * EDGES[:-1]) / np.diff(2 * EDGES)
        levels[p] = 0.5 * np.log2(means + 1e-9)
    return levels


def move_levels(x: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    """Filter ``x`` so that each band moves by ``octaves`` [frames, bands], smoothly."""
    window = np.sin(np.pi * (np.arange(FRAME_LENGTH) + 0.5) / FRAME_LENGTH)
    padded = np.concatenate([np.zeros(HOP_LENGTH), x, np.zeros(PAD)])
    result = np.zeros(len(padded))
    frame_middles = np.arange(len(octaves)) * FRAME_LENGTH + FRAME_LENGTH // 4
    for start in range(0, len(padded) - FRAME_LENGTH, HOP_LENGTH):
        gain = [np.interp(start, frame_middles, octaves[:, b]) for b in range(NUM_BANDS)]
        gain = np.exp2(np.interp(np.arange(HOP_LENGTH + 1), CENTRES, gain))
        part = slice(start, start + FRAME_LENGTH)
        result[part] += window * np.fft.irfft(np.fft.rfft(window * padded[part]) * gain)
    return result[HOP_LENGTH : HOP_LENGTH + len(x)].astype(np.float32)


def variants(codec: Codec, x: np.ndarray, bitrate: float) -> dict[str, np.ndarray]:
    """Return the decoded clip, and it with other levels."""
    data = codec.encode(x, SAMPLE_RATE, bitrate)
    y = codec.decode(data)
    sent = codec.decode_integers(data)[1].envelope / LOG_ONE
    true, own = frame_levels(x, len(sent)), frame_levels(y, len(sent))
    # Both scales differ by a constant of each band.
    active = true.max(1) > true.max() - 6.6
    sent = sent - np.median((sent - true)[active], axis=0)
    made = {"as decoded": y}
    for name, wanted in (("true", true), ("sent", sent)):
        for share in (0.5, 1.0):
            octaves = np.clip(wanted - own, -LARGEST, LARGEST) * share * HIGH
            made[f"{name} levels, {share:.0%} of the way"] = move_levels(y, octaves)
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
    print(f"{'':30}  PESQ   pSNR  DistillMOS")
    for name, rows in scores.items():
        print("{:30}{:6.2f} {:6.1f} {:11.2f}".format(name, *np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
