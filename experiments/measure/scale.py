"""How much audio a core codes in an hour: alone, in two processes, on a cluster of two workers.

    python -m experiments.measure.scale AUDIO_DIR [--repeat 3] [--runs 2] [--kbps 13.2]

Each way codes the directory once and `--repeat` times over; the difference of their CPU times is
what the audio costs, the rest is the start (Python, kernels, weights). The least of `--runs` runs
counts, in CPU time of all processes, so that what else the machine does matters little. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from distributed import LocalCluster

from codec.io.audio import AUDIO_SUFFIXES
from codec.io.finder import Finder
from codec.pieces import DecodeOptions, EncodeOptions
from codec.runner import Place
from codec.transcode import Coder
from codec.trees import TreeRun
from experiments.audio import list_audio


def cpu_seconds() -> float:
    """Return the CPU time of this process, of its children that live, and of those that ended."""
    me = psutil.Process()
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    for child in me.children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system
    return total


def code(source: Path, target: Path, options: Any, place: Place) -> dict[str, float]:
    """Code a tree; return seconds of audio, of CPU and of the clock."""
    encoding = isinstance(options, EncodeOptions)
    tree = TreeRun(
        coder=Coder(options),
        finder=Finder(source, AUDIO_SUFFIXES if encoding else {".bin"}),
        target=target,
        suffix=".bin" if encoding else ".wav",
        place=place,
    )
    before = cpu_seconds()
    tree.run()
    if tree.failures.count or not tree.done:
        raise SystemExit(f"{source}: {tree.failures.kept or 'no files'}")
    return {"audio": tree.seconds, "cpu": cpu_seconds() - before, "wall": tree.wall_s}


def measure(run: Callable[[int], dict[str, float]], repeat: int, runs: int) -> dict[str, float]:
    """Return what an hour of audio costs, and the start: the least of several runs."""
    once = [run(1) for _ in range(runs)]
    often = [run(repeat) for _ in range(runs)]
    one, many = (min(r["cpu"] for r in each) for each in (once, often))
    audio = often[0]["audio"] - once[0]["audio"]
    wall = min(r["wall"] for r in often) - min(r["wall"] for r in once)
    return {
        "times_real_time_per_core": round(audio / (many - one), 1),
        "times_real_time_by_the_clock": round(audio / wall, 1),
        "start_cpu_s": round(one - once[0]["audio"] * (many - one) / audio, 2),
        "audio_s": round(often[0]["audio"], 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("audio_dir", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--kbps", type=float, default=13.2)
    options = parser.parse_args(argv)
    started = time.strftime("%Y-%m-%d %H:%M")
    found: dict[str, Any] = {"started": started, "load": psutil.getloadavg()}
    with tempfile.TemporaryDirectory() as folder, LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:  # fmt: skip
        root = Path(folder)
        files = list_audio(options.audio_dir)
        for number in range(options.repeat):
            for index, file in enumerate(files):
                path = root / f"in{options.repeat}" / str(number) / f"{index:05}{file.suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(file.absolute())
        (root / "in1").mkdir()
        (root / "in1" / "0").symlink_to(root / f"in{options.repeat}" / "0")
        ways = {
            "jobs_1": Place(1),
            "jobs_2": Place(2),
            "cluster_2": Place(1, cluster.scheduler_address),
        }
        for name, place in ways.items():
            for what, wanted in (
                ("encode", EncodeOptions(options.kbps)),
                ("decode", DecodeOptions()),
            ):

                def run(times: int, what: str = what, wanted: Any = wanted) -> dict[str, float]:
                    source = root / (f"in{times}/0" if times == 1 else f"in{times}")
                    coded = root / f"coded{times}"
                    if what == "encode":
                        return code(source, coded, wanted, place)  # noqa: B023
                    return code(coded, root / "decoded", wanted, place)  # noqa: B023

                found[f"{what}_{name}"] = measure(run, options.repeat, options.runs)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
