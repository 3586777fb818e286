"""Code the golden files in other environments and say where anything differs.

    python tests/exactness/environments.py [--python EXE ...]

Prints a table: with other processors, libraries, threads and kinds of processes, or with other
interpreters (which need numpy, numba, safetensors, soundfile and soxr). What differs from
golden.json is named; the exit code is 1 if anything does. For AArch64 see ``aarch64.sh``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORKER = HERE / "worker.py"
HASHES = HERE.parent / "golden" / "golden.json"

# Variables that change how numbers are computed. All of them are unset before an environment is
# set up, so that the caller's own do not leak in.
VARIABLES = (
    "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_NUM_THREADS", "NUMBA_OPT", "NUMBA_DISABLE_JIT",
    "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_BOUNDSCHECK", "NPY_DISABLE_CPU_FEATURES",
    "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_CBWR",
)  # fmt: skip


@dataclass(frozen=True)
class Environment:
    """How a worker is started.

    Attributes
    ----------
    variables : dict     environment variables
    arguments : tuple    of the worker
    own_cache : bool     kernels are compiled anew
    """

    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    own_cache: bool = False


def way(name: str, **variables: str) -> Environment:
    """Return an environment that differs in the way in which the work is done."""
    return Environment(variables, ("--way", name))


def compiled(**variables: str) -> Environment:
    """Return an environment for which kernels are compiled anew."""
    return Environment(variables, (), True)


# The usual machine code runs in these ...
QUICK = {
    "plain": Environment(),
    # NumPy makes the tables of sines and powers.
    "NumPy without AVX": Environment({
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL "
        "AVX512_ICL AVX512_SPR X86_V3 X86_V4",
        "OPENBLAS_CORETYPE": "Nehalem",
    }),
    "1 thread of numba": Environment({"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}),
    "threads": way("threads"),
    "pickled": way("pickled"),
    "forked": way("fork"),
    "forked before use": way("fork_fresh"),
    "spawned": way("spawn"),
    "fork server": way("forkserver"),
}  # fmt: skip
# ... a part of it in these, in seconds. The order matters: a fresh process comes first.
WAYS = ("fork_fresh", "fork", "threads", "pickled", "spawn", "forkserver")
SOME = ("length_321", "vbr_13.2", "open_16.4", "damaged_8", "lost", "bursts_9.6")
FAST = {
    "threads and processes": Environment({}, (*SOME, *(f"--way={way}" for way in WAYS))),
    "NumPy without AVX": Environment(QUICK["NumPy without AVX"].variables, SOME),
}
# ... and other code in these, which takes a minute to compile.
GENERIC = compiled(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
RECOMPILED = {
    "generic CPU": GENERIC,
    "generic CPU, not optimised": compiled(
        NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", NUMBA_OPT="0"
    ),
    "not vectorised": compiled(NUMBA_LOOP_VECTORIZE="0", NUMBA_SLP_VECTORIZE="0"),
    # Vectors of 256 bits, and an instruction that multiplies and adds with one rounding.
    "Haswell": compiled(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="+avx,+avx2,+fma,+bmi,+bmi2"),
}


def start(
    environment: Environment, cache: Path, command: Sequence[str] = (sys.executable,)
) -> subprocess.Popen[str]:
    """Start a worker.

    Parameters
    ----------
    environment : Environment
    cache : Path              folder for kernels, if they are to be compiled anew
    command : list of str     the interpreter, or what starts it
    """
    variables = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    variables.update(environment.variables)
    if environment.own_cache:
        variables["NUMBA_CACHE_DIR"] = str(cache)
    return subprocess.Popen(
        [*command, str(WORKER), *environment.arguments],
        env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout: float = 1800) -> dict[str, Any]:
    """Return what a worker has found.

    Raises
    ------
    RuntimeError   it failed; the message is the end of what it wrote to standard error
    """
    try:
        printed, errors = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"the worker failed: {errors.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return result


def differences(found: dict[str, Any]) -> list[str]:
    """Return what differs from golden.json, in the order in which it would be looked into."""
    golden = json.loads(HASHES.read_text())
    wrong = [name for name, value in golden["stages"].items() if found["stages"][name] != value]
    for name, values in found["decoded"].items():
        wanted = golden["decoded"][name]
        wrong += [f"{name}: {what}" for what in wanted if values[what] != wanted[what]]
    for name, value in found["encoded"].items():
        if value != golden["encoded"][name]:
            wrong.append(f"{name}: bytes")
    return wrong


def report(name: str, environment: Environment, command: Sequence[str]) -> bool:
    """Run a worker and print one line; tell whether all is equal."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        try:
            found = finish(start(environment, Path(cache), command), 4 * 3600)
        except RuntimeError as error:
            print(f"{name:28} {str(error).splitlines()[-1]}", flush=True)
            return False
    wrong, at = differences(found), found["environment"]
    count = len(found["decoded"]) + len(found["encoded"])
    result = f"{len(wrong)} differ: {', '.join(wrong[:3])}" if wrong else f"all {count} equal"
    seconds = time.monotonic() - begin
    print(
        f"{name:28} {at['machine']:8} {at['python']:7} {at['numpy']:7} {at['numba']:7} "
        f"{seconds:5.0f} s  {result}",
        flush=True,
    )
    return not wrong


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", action="append", default=[], help="interpreter")
    options = parser.parse_args()
    print(f"{'environment':28} {'machine':8} {'Python':7} {'NumPy':7} {'numba':7}")
    if options.python:
        passed = [report(Path(exe).name, compiled(), [exe]) for exe in options.python]
    else:
        everything = QUICK | RECOMPILED
        passed = [report(name, each, [sys.executable]) for name, each in everything.items()]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
