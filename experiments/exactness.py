"""Measure whether the golden files decode to the same integers and PCM in other environments.

    python experiments/exactness.py [--torch VERSION ...] [--python EXE ...] [--keep DIR]

Without options, in this environment with other threads, processors and compilers. With ``--torch``
or ``--python``, in a new virtual environment for every interpreter and version of torch given (the
installed version and this interpreter stand for what is not given; ``--torch newest`` takes the
newest one that can be installed). Each takes minutes and about 5 GB, below DIR if it is given,
which may then be used again; else they are deleted. They contain what decoding needs, without
torchaudio, and this source tree is put on their path, since its own dependencies allow one release
of torch only.

Columns: whether all integers are the golden ones; the largest difference of the PCM to the golden
one, in 16-bit steps, and how many samples differ; the largest difference of the waveform before
rounding to that of the first line, in the same steps. The exit code is 1 if an integer or more than
one step differs anywhere.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import exact_worker

ROOT = exact_worker.ROOT
# What is imported to decode, beside torch.
PACKAGES = ("numpy", "scipy", "numba", "safetensors", "soundfile")
COLUMNS = "{:31} {:8} {:14} {:9} {:>7} {:>9} {:>13} {:>10}"
Waveforms = dict[str, np.ndarray]


def requirements(torch_version: str) -> list[str]:
    """Return what pip is to install: torch, and the rest as this project wants it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    rest = [line for line in wanted if re.split(r"[<>=!~\[ ]", line)[0] in PACKAGES]
    return ["torch" if torch_version == "newest" else f"torch=={torch_version}", *rest]


def make_environment(folder: Path, python: str, torch_version: str) -> Path:
    """Return the interpreter of a virtual environment, after making it if it is not there.

    Raises
    ------
    RuntimeError   it could not be made; the message is pip's last line
    """
    found = folder / "bin" / "python"
    stamp = folder / "complete"
    if stamp.exists():
        return found
    for command in (
        [python, "-m", "venv", "--clear", str(folder)],
        [str(found), "-m", "pip", "install", "-q", "--disable-pip-version-check",
         *requirements(torch_version)],
    ):  # fmt: skip
        try:
            done = subprocess.run(command, text=True, capture_output=True, check=False)
        except OSError as error:
            raise RuntimeError(str(error)) from None
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError((errors or [done.stderr.strip()[-200:]])[0])
    stamp.touch()
    return found


def measure(
    name: str,
    variables: Mapping[str, str],
    reference: Waveforms,
    names: tuple[str, ...] = (),
    python: str | Path = sys.executable,
    cache: Path | None = None,
) -> bool:
    """Decode in another process and print one line; tell whether all is as it should be.

    Parameters
    ----------
    name : str              first column
    variables : dict        environment variables
    reference : dict        waveforms to compare to; filled if it is empty
    names : golden files    all of them if empty
    python : interpreter
    cache : Path            folder of numba's cache; None: the usual one
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npz"
        try:
            result = exact_worker.finish(
                exact_worker.start(out, variables, *names, python=python, cache=cache)
            )
            with np.load(out) as file:
                waveforms: Waveforms = dict(file)
        except RuntimeError as error:
            print(f"{name:31} {str(error).splitlines()[-1]}", flush=True)
            return False
    if not reference:
        reference.update(waveforms)
    equal = result["sha256"] == exact_worker.golden_digest(result["names"])
    compared = [exact_worker.pcm_difference(n, wave) for n, wave in waveforms.items()]
    largest = max(each[0] for each in compared)
    differing = sum(each[1] for each in compared)
    total = sum(each[2] for each in compared)
    drift = max(np.abs(reference[n] - w).max(initial=0) for n, w in waveforms.items()) * 32768
    print_line(
        name, result["python"], result["torch"], result["capability"], str(result["threads"]),
        "equal" if equal else "DIFFER", f"{largest} ({differing}/{total})", f"{drift:.4f}",
    )  # fmt: skip
    return equal and largest <= 1


def print_line(*values: Any) -> None:
    """Print one line of the table."""
    print(COLUMNS.format(*values).rstrip(), flush=True)


def main() -> int:
    """Print the table; see above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", action="append", default=[], help="version, or 'newest'")
    parser.add_argument("--python", action="append", default=[], help="interpreter")
    parser.add_argument("--keep", type=Path, help="folder for the virtual environments")
    options = parser.parse_args()

    print_line(
        "environment", "Python", "torch", "CPU", "threads", "integers", "PCM, LSB", "drift, LSB"
    )
    reference: Waveforms = {}
    one_thread, other = exact_worker.ONE_THREAD, "4 threads, no AVX"
    if not options.torch and not options.python:
        passed = []
        for name, variables in {**exact_worker.SETTINGS, **exact_worker.MORE_SETTINGS}.items():
            passed.append(measure(name, variables, reference))
        for name, variables in exact_worker.RECOMPILED.items():
            with tempfile.TemporaryDirectory() as cache:
                passed.append(measure(name, variables, reference, cache=Path(cache)))
        names = exact_worker.INTERPRETED_NAMES
        passed.append(measure("not compiled", exact_worker.INTERPRETED, reference, names))
        return 0 if all(passed) else 1

    passed = [measure("this environment", one_thread, reference)]
    with tempfile.TemporaryDirectory() as temporary:
        parent = options.keep.resolve() if options.keep else Path(temporary)
        for python in options.python or [sys.executable]:
            for wanted in options.torch or [version("torch").split("+")[0]]:
                folder = parent / re.sub(r"[^\w.-]+", "_", f"{python}-torch{wanted}").strip("_")
                try:
                    found = make_environment(folder, python, wanted)
                except RuntimeError as error:
                    print(f"{python}, torch {wanted}: not installed: {error}", flush=True)
                    passed.append(False)
                    continue
                # Two paths through the same libraries.
                settings = {"1 thread": one_thread, other: exact_worker.SETTINGS[other]}
                for name, variables in settings.items():
                    passed.append(
                        measure(name, variables, reference, (), found, folder / "numba-cache")
                    )
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
