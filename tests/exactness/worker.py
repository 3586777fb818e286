"""Code the golden files in this process and print what came of it, as one JSON object.

    python tests/exactness/worker.py [NAME ...] [--way WAY ...]

Names are golden files to decode and signals to encode (``tests/golden/make_golden.py`` has them);
none: all of them. The printed ``stages``, ``decoded`` and ``encoded`` must be those of golden.json.

Ways to do it, beside ``plain``:

    threads              several Python threads with one codec, each with other files at a time
    pickled              by a pickled copy of the codec
    fork                 in a forked child, after this process has decoded something
    fork_fresh           in a forked child, before anything was coded
    spawn, forkserver    in a child process that multiprocessing starts so, the codec pickled

Several of them are done one after the other and must agree.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import platform
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "golden")]

import make_golden  # noqa: E402

from codec import Codec  # noqa: E402

Task = tuple[str, str]  # 'decoded' or 'encoded', name
Result = dict[str, Any]
NUM_THREADS = 4


def tasks(names: list[str]) -> list[Task]:
    """Return what there is to do, of these names."""
    every = [("decoded", name) for name in make_golden.NAMES]
    every += [("encoded", name) for name in make_golden.CASES]
    unknown = set(names) - {name for _, name in every}
    if unknown:
        raise SystemExit(f"no golden files or signals: {', '.join(sorted(unknown))}")
    return [task for task in every if not names or task[1] in names]


def code(codec: Codec, task: Task) -> Any:
    """Return what golden.json has of a task."""
    kind, name = task
    if kind == "decoded":
        return make_golden.decoded(codec, name)
    return make_golden.sha256(make_golden.encode(codec, make_golden.CASES[name]))


def code_all(codec: Codec, todo: list[Task]) -> Result:
    """Return 'stages', 'decoded' and 'encoded'."""
    found: Result = {"stages": make_golden.stages(codec), "decoded": {}, "encoded": {}}
    for kind, name in todo:
        found[kind][name] = code(codec, (kind, name))
    return found


def in_threads(codec: Codec, todo: list[Task]) -> Result:
    """Do the same work in each of several threads, in other orders."""

    def work(seed: int) -> Result:
        mixed = list(todo)
        random.Random(seed).shuffle(mixed)
        return code_all(codec, mixed)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(work, range(NUM_THREADS)))
    for other in found[1:]:
        if other != found[0]:
            raise SystemExit("the threads disagree")
    return found[0]


def in_fork(codec: Codec, todo: list[Task]) -> Result:
    """Do the work in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(writing, "w") as file:
                json.dump(code_all(codec, todo), file)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit("the forked child failed")
    found: Result = json.loads(text)
    return found


def _send(codec: Codec, todo: list[Task], connection: Connection) -> None:
    connection.send(code_all(codec, todo))


def in_child(codec: Codec, todo: list[Task], way: str) -> Result:
    """Do the work in a child process of multiprocessing."""
    context = multiprocessing.get_context(way)
    mine, theirs = context.Pipe()
    process = context.Process(target=_send, args=(codec, todo, theirs))
    process.start()
    theirs.close()
    found: Result = mine.recv()
    process.join()
    return found


def run(codec: Codec, todo: list[Task], way: str) -> Result:
    """Do the work in one of the ways above."""
    if way == "threads":
        return in_threads(codec, todo)
    if way in ("spawn", "forkserver"):
        return in_child(codec, todo, way)
    if way == "pickled":
        codec = pickle.loads(pickle.dumps(codec))
    if way == "fork":
        code(codec, ("decoded", "cbr_8"))
    return in_fork(codec, todo) if way.startswith("fork") else code_all(codec, todo)


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--way", action="append")
    options = parser.parse_args()
    todo = tasks(options.names)
    codec, ways = Codec.load(), options.way or ["plain"]
    results = {way: run(codec, todo, way) for way in ways}
    found = results[ways[0]]
    for way, other in results.items():
        if other != found:
            raise SystemExit(f"{way} gives something else than {ways[0]}")

    import numba
    import numpy as np

    found["environment"] = {
        "machine": platform.machine(), "python": platform.python_version(),
        "numpy": np.__version__, "numba": numba.__version__,
        "cpu": numba.config.CPU_NAME or "", "threads": numba.config.NUMBA_NUM_THREADS,
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
