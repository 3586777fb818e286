"""Decode hostile packets and print what came out: run with and without bounds checks.

    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=FOLDER python tests/fuzz/bounds.py PACKETS [WEIGHTS ...]

Kernels check no index. With ``NUMBA_BOUNDSCHECK=1`` they do, and raise; that they print the same
hash without it shows that nothing was read from outside a table. The cache must be a folder of its
own: numba's does not know of the option. Samples are decoded, and signals at the limits of what an
encoder can be given are encoded. Each further weights file is tried, too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import numpy as np  # noqa: E402

from codec import Codec  # noqa: E402
from codec.errors import WeightsError  # noqa: E402
from codec.weights import load_weights  # noqa: E402

RUN = 60  # packets in a row, so that what one leaves to the next becomes extreme


def hostile_packets(seed: int) -> tuple[list[bytes | None], np.ndarray, int]:
    """Return ``RUN`` packets, which of them are intra, and the number of envelope stages."""
    rng = np.random.default_rng(seed)
    kind = seed % 8
    made: list[bytes | None] = []
    for _ in range(RUN):
        size = int(rng.choice([1, 2, 3, 20, 80, 254, 255]) if kind < 6 else rng.integers(1, 256))
        made.append(
            (
                rng.bytes(size),
                bytes(size),
                b"\xff" * size,
                bytes([int(rng.integers(256))]) * size,
                # Symbols at the ends of the tables: large indices, steps and magnitudes.
                b"\xff" * int(rng.integers(1, 12)) + rng.bytes(size),
                (b"\xff\x00" * size)[:size] if rng.random() < 0.5 else rng.bytes(size),
                rng.bytes(size) if rng.random() < 0.9 else None,
                bytes(int(rng.integers(0, 5))) + rng.bytes(size),
            )[kind]
        )
    intra = np.zeros(RUN, np.bool_) if kind % 2 else rng.random(RUN) < 0.3
    intra[0] = True
    return made, intra, int(rng.integers(1, 5))


def hostile_signal(seed: int) -> np.ndarray:
    """Return a second of something that no microphone records, float32."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(16000)
    made = (
        noise * 10.0 ** rng.uniform(-8, 2),
        np.sign(noise) * 100.0,
        np.where(rng.random(16000) < 1e-3, 100.0, 0.0),
        noise * (rng.random(50) < 0.3).repeat(320),
        np.full(16000, 100.0),
    )[seed % 5]
    return np.clip(made, -100, 100).astype(np.float32)


def code_all(codec: Codec, packets: int) -> dict[str, object]:
    """Return a hash of all integers, samples and coded signals, and the integers' extremes."""
    digest = hashlib.sha256()
    extremes: dict[str, tuple[int, int]] = {}
    for seed in range(-(-packets // RUN)):
        made, intra, stages = hostile_packets(seed)
        stages = min(stages, codec.config.num_stages)
        header = replace(codec.header(0, 16000, 8), num_stages=stages)
        integers = codec.frame_decoder(header).integers(made, intra)
        samples = codec.frame_decoder(header).decode(made, intra)
        if not np.isfinite(samples).all():
            raise SystemExit(f"samples of seed {seed} are not finite")
        digest.update(samples.tobytes())
        for name, values in integers._asdict().items():
            digest.update(np.ascontiguousarray(values).tobytes())
            low, high = int(values.min()), int(values.max())
            before = extremes.get(name, (low, high))
            extremes[name] = (min(before[0], low), max(before[1], high))
        if seed < 25:
            rate = (8, 13.2, 32)[seed % 3]
            digest.update(codec.encode(hostile_signal(seed), 16000, rate, vbr=seed % 2 == 1))
    return {"hash": digest.hexdigest(), **extremes}


def main() -> None:
    """Print one JSON object."""
    packets = int(sys.argv[1])
    results = {"shipped": code_all(Codec.load(), packets)}
    for path in sys.argv[2:]:
        try:
            weights = load_weights(Path(path))
        except WeightsError as error:
            results[path] = {"refused": str(error)}
        else:
            results[path] = code_all(Codec(weights), packets)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
