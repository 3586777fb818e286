"""Send mutated files through every reader, and count what comes of them.

    python tests/fuzz/fuzz.py --cases 200000 --seed 0 --jobs 2 [--json OUT] [--findings DIR]
    python tests/fuzz/fuzz.py --case 1234 --seed 0          # one case again, in this process

What is promised stands in ``hostile.py``, how files are mutated in ``mutate.py``. Each worker
process may take ``--memory`` MiB of address space beyond what it has when it begins. A worker that
dies, or that is busy with one file for a minute, is a finding, too; another one goes on behind it.
Findings are written to a folder, the file (``.bin``) and what went wrong (``.txt``); the exit
status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np

FUZZ = Path(__file__).resolve().parent
sys.path[:0] = [str(FUZZ.parent.parent), str(FUZZ)]

import hostile  # noqa: E402
import mutate  # noqa: E402

from codec import Codec  # noqa: E402

# Samples are computed for every SYNTHESIS_EVERY-th case, packet by packet for as many others;
# allocations are measured in every MEMORY_EVERY-th, and every INFO_EVERY-th is described.
SYNTHESIS_EVERY, MEMORY_EVERY, INFO_EVERY = 40, 20, 8
HANG_SECONDS = 60.0
BATCH = 200  # cases between two messages of a worker


def address_space() -> int:
    """Return the bytes of address space that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the most bytes of memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Runner:
    """Run cases in this process.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        codec = Codec.load()
        self.seed = seed
        self.seeds = mutate.Seeds(codec.weights.fingerprint)
        self.checker = hostile.Checker(codec)
        for data in self.seeds.files:  # fill all caches
            self.checker.check(data, np.random.default_rng(0), True, True)

    def run(self, case: int) -> tuple[str, bytes, hostile.Outcome | str]:
        """Return what was done, the file, and the outcome or what went wrong."""
        done, data, rng = mutate.make_case(self.seed, case, self.seeds)
        try:
            return done, data, self.checker.check(
                data, rng,
                synthesis=case % SYNTHESIS_EVERY == 0,
                streaming=case % SYNTHESIS_EVERY == 1,
                memory=case % MEMORY_EVERY == 2, info=case % INFO_EVERY == 0,
            )  # fmt: skip
        except hostile.Finding as finding:
            return done, data, str(finding)


def work(seed: int, cases: range, memory: int, current: Any, began: Any, queue: Any) -> None:
    """Run cases in a worker process; what comes of them goes into the queue in batches."""
    runner = Runner(seed)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + memory, resource.RLIM_INFINITY))
    before = resident()
    batch: list[dict[str, Any]] = []
    for case in cases:
        current.value, began.value = case, time.time()
        done, data, outcome = runner.run(case)
        entry = {"case": case, "done": done, "bytes": len(data)}
        if isinstance(outcome, str):
            entry |= {"kind": "finding", "message": outcome, "data": data}
        else:
            entry |= vars(outcome)
        batch.append(entry)
        if len(batch) == BATCH or case == cases[-1] or entry["kind"] == "finding":
            began.value = time.time() + 3600
            queue.put((batch, resident() - before))
            batch = []
    current.value = -1


class Pool:
    """Worker processes, each with every n-th case, that are replaced when they die."""

    def __init__(self, seed: int, cases: int, jobs: int, memory: int) -> None:
        self.seed, self.memory = seed, memory
        self.context = multiprocessing.get_context("spawn")
        self.queue = self.context.Queue()
        self.workers: list[dict[str, Any]] = []
        for job in range(jobs):
            self.start(range(job, cases, jobs))

    def start(self, cases: range) -> None:
        """Start a worker for these cases."""
        current, began = self.context.Value("q", -2), self.context.Value("d", time.time() + 3600)
        process = self.context.Process(
            target=work,
            args=(self.seed, cases, self.memory, current, began, self.queue),
            daemon=True,
        )
        process.start()
        self.workers.append(
            {"process": process, "current": current, "began": began, "cases": cases}
        )

    def check(self) -> list[dict[str, Any]]:
        """Return what dead and hanging workers were busy with, and start others."""
        found = []
        for worker in list(self.workers):
            process, case = worker["process"], worker["current"].value
            hangs = time.time() - worker["began"].value > HANG_SECONDS
            if process.is_alive() and not hangs:
                continue
            self.workers.remove(worker)
            if hangs:
                process.kill()
            process.join()
            if case == -1 and process.exitcode == 0:
                continue
            why = "hangs" if hangs else f"the process died with status {process.exitcode}"
            found.append({"case": case, "done": "?", "bytes": 0, "kind": "finding", "message": why})
            if case < 0:
                raise SystemExit(f"a worker could not begin: {why}")
            rest = worker["cases"][worker["cases"].index(case) + 1 :]
            if rest:
                self.start(rest)
        return found


class Summary:
    """Counts, and the extremes."""

    def __init__(self) -> None:
        self.cases = 0
        self.kinds: Counter[str] = Counter()
        self.mutators: dict[str, Counter[str]] = defaultdict(Counter)
        self.messages: Counter[str] = Counter()
        self.slowest: dict[str, Any] = {"seconds": 0.0}
        self.largest: dict[str, Any] = {"peak": 0}
        self.closest: dict[str, Any] = {"share": 0.0}
        self.samples: dict[str, Any] = {"samples": 0}
        self.resident = 0
        self.synthesised = 0
        self.findings: list[dict[str, Any]] = []

    def add(self, entry: dict[str, Any]) -> None:
        """Count one case."""
        self.cases += 1
        kind = entry["kind"]
        self.kinds[kind] += 1
        for name in set(entry["done"].split("+")):
            self.mutators[name][kind] += 1
        if kind == "finding":
            self.findings.append(entry)
            return
        words = [w for w in entry["message"].split() if not any(c.isdigit() for c in w)]
        if words:
            self.messages[" ".join(words[:8])] += 1
        self.synthesised += entry["case"] % SYNTHESIS_EVERY < 2
        if entry["seconds"] > self.slowest["seconds"]:
            self.slowest = entry
        if entry["peak"] > self.largest["peak"]:
            self.largest = entry
        share = entry["peak"] / (hostile.ALLOCATION_BASE + hostile.ALLOCATION_PER_BYTE *
                                 entry["bytes"])  # fmt: skip
        if share > self.closest["share"]:
            self.closest = entry | {"share": share}
        if entry["samples"] > self.samples["samples"]:
            self.samples = entry

    def report(self, seconds: float) -> dict[str, Any]:
        """Return all figures."""
        keys = ("case", "done", "bytes", "seconds", "slowest", "samples", "peak", "share")

        def short(entry: dict[str, Any]) -> dict[str, Any]:
            return {key: entry[key] for key in keys if key in entry}

        return {
            "cases": self.cases,
            "wall_seconds": round(seconds, 1),
            "outcomes": dict(self.kinds),
            "with_synthesis": self.synthesised,
            "mutators": {name: dict(c) for name, c in sorted(self.mutators.items())},
            "messages": dict(self.messages.most_common()),
            "slowest": short(self.slowest),
            "largest_allocation": short(self.largest),
            "closest_to_allocation_bound": short(self.closest),
            "most_samples": short(self.samples),
            "resident_growth_bytes": self.resident,
            "findings": [{k: v for k, v in f.items() if k != "data"} for f in self.findings],
        }


def show(report: dict[str, Any]) -> None:
    kinds = ("decoded", "salvaged", "refused", "finding")
    print(f"{'mutator':14}" + "".join(f"{kind:>10}" for kind in kinds))
    for name, counts in [*report["mutators"].items(), ("all", report["outcomes"])]:
        print(f"{name:14}" + "".join(f"{counts.get(kind, 0):10}" for kind in kinds))
    print()
    for message, count in report["messages"].items():
        print(f"{count:8}  {message}")
    print()
    for name in (
        "wall_seconds", "with_synthesis", "slowest", "largest_allocation",
        "closest_to_allocation_bound", "most_samples", "resident_growth_bytes",
    ):  # fmt: skip
        print(f"{name:28} {report[name]}")
    for finding in report["findings"]:
        print(f"FINDING in case {finding['case']}: {finding['message']}")


def write_finding(folder: Path, finding: dict[str, Any], seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"seed{seed}_case{finding['case']}"
    (folder / f"{name}.txt").write_text(f"{finding['done']}\n{finding['message']}\n")
    if "data" in finding:
        (folder / f"{name}.bin").write_bytes(finding["data"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--memory", type=int, default=1024, help="MiB for each worker")
    parser.add_argument("--case", type=int, help="replay this one, in this process")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--findings", type=Path, default=Path("fuzz_findings"))
    options = parser.parse_args()

    if options.case is not None:
        done, data, outcome = Runner(options.seed).run(options.case)
        print(f"{done}, {len(data)} bytes: {outcome}")
        return int(isinstance(outcome, str))

    start, shown = time.time(), time.time()
    summary = Summary()
    pool = Pool(options.seed, options.cases, options.jobs, options.memory << 20)
    while True:
        try:
            batch, growth = pool.queue.get(timeout=1.0)
            summary.resident = max(summary.resident, growth)
        except Empty:
            batch = pool.check()
            if not pool.workers and pool.queue.empty() and not batch:
                break
        for entry in batch:
            summary.add(entry)
            if entry["kind"] == "finding":
                write_finding(options.findings, entry, options.seed)
                print(f"case {entry['case']} ({entry['done']}): {entry['message']}", flush=True)
        if time.time() - shown > 30:
            shown = time.time()
            print(f"{summary.cases} cases, {shown - start:.0f} s", file=sys.stderr, flush=True)
    report = summary.report(time.time() - start)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(bool(summary.findings))


if __name__ == "__main__":
    raise SystemExit(main())
