"""Decode hostile packets and print what came out: run with and without bounds checks.

    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=FOLDER python tests/fuzz/bounds.py PACKETS [WEIGHTS ...]

The compiled loops check no index. With ``NUMBA_BOUNDSCHECK=1`` they do, and raise; that they print
the same hash without it shows that nothing was read from outside a table. The cache must be a
folder of its own: numba's does not know of the option. Each further weights file is tried, too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import numpy as np  # noqa: E402

from codec.decoder import PacketDecoder  # noqa: E402
from codec.weights import Weights, WeightsError, load_weights  # noqa: E402

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


def decode_all(weights: Weights, packets: int) -> dict[str, object]:
    """Return a hash of all integers, and their extremes."""
    digest = hashlib.sha256()
    extremes: dict[str, object] = {}
    for seed in range(-(-packets // RUN)):
        made, intra, stages = hostile_packets(seed)
        stages = min(stages, weights.config.num_stages)
        decoder = PacketDecoder(weights.tables, weights.config, stages, weights.intra)
        integers = decoder.decode(made, intra)
        for name in ("envelope", "offset", "step", "bins", "received"):
            values = getattr(integers, name)
            digest.update(np.ascontiguousarray(values).tobytes())
            low, high = int(values.min()), int(values.max())
            before = extremes.get(name, (low, high))
            extremes[name] = (min(before[0], low), max(before[1], high))  # type: ignore[index]
    return {"hash": digest.hexdigest(), **extremes}


def main() -> None:
    """Print one JSON object."""
    packets = int(sys.argv[1])
    results = {"shipped": decode_all(load_weights(), packets)}
    for path in sys.argv[2:]:
        try:
            weights = load_weights(Path(path))
        except WeightsError as error:
            results[path] = {"refused": str(error)}
        else:
            results[path] = decode_all(weights, packets)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
