"""What sending a batch (five minutes) costs in CPU time of all processes: to processes, a cluster.

    python -m experiments.measure.overhead [--batches 500] [--runs 3]

The work is nothing, so that only the runner, the pool, and Dask's client, scheduler and workers are
measured; the least of several runs counts, less that of a tenth of the batches. Prints one line for
each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from distributed import LocalCluster

from codec.runner import BATCH_SECONDS, Place, run
from codec.trees import Pair
from experiments.measure.scale import cpu_seconds


def nothing() -> Callable[[Pair, object], dict[str, object]]:
    """Return work that gives back about what a coded file does."""
    return lambda pair, stop: {"target": pair.target, "notes": [], "seconds": 6.0}


def spend(place: Place, batches: int) -> float:
    """Return the CPU time of so many batches of ten files."""
    pairs = (
        Pair(Path(f"/corpus/{n // 1000}/{n}.flac"), Path(f"/coded/{n // 1000}/{n}.bin"), 100_000)
        for n in range(10 * batches)
    )
    before = cpu_seconds()
    assert sum(1 for _ in run(nothing, pairs, place, lambda _: BATCH_SECONDS / 10)) == 10 * batches
    return cpu_seconds() - before


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(argv)
    few = options.batches // 10
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        for name, place in (
            ("two processes", Place(2)),
            ("two workers of a cluster", Place(1, cluster.scheduler_address)),
        ):
            start = min(spend(place, few) for _ in range(options.runs))
            whole = min(spend(place, options.batches) for _ in range(options.runs))
            print(f"{name}: {1000 * (whole - start) / (options.batches - few):.1f} ms for a batch")


if __name__ == "__main__":
    main()
