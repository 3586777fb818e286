"""Decode the golden files in a process of its own; what `test_exact.py` runs in many environments.

    python tests/exact_worker.py OUT.npz [NAME ...] [--types TYPES.json] [--without MODULE]

Prints one line of JSON: versions and settings of this process, and a SHA-256 over all integers that
the files decode to. OUT.npz receives each file's waveform, float32. Importing this module needs
numpy alone, so that the parent process need not be able to decode.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.abc
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


def threads(openmp: int, mkl: int | None = None) -> dict[str, str]:
    """Return the variables that ask for so many threads, even where there are fewer cores."""
    return {
        "OMP_NUM_THREADS": str(openmp),
        "MKL_NUM_THREADS": str(openmp if mkl is None else mkl),
        "OMP_DYNAMIC": "FALSE",
        "MKL_DYNAMIC": "FALSE",
        # Threads that spin while they wait take minutes on a busy machine.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


ONE_THREAD = threads(1)
# Variables that change how numbers are computed. All of them are cleared before one of these
# environments is set, so that the caller's own do not leak in.
VARIABLES = (
    "OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "MKL_DYNAMIC",
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE",
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "NUMBA_NUM_THREADS",
    "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT", "NUMBA_DISABLE_JIT",
    "NPY_DISABLE_CPU_FEATURES",
)  # fmt: skip

# name: variables. The same machine code of the packet decoder runs in these ...
SETTINGS: dict[str, dict[str, str]] = {
    "1 thread": ONE_THREAD,
    "2 threads, AVX2": {
        **threads(2), "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "4 threads, no AVX": {
        **threads(4), "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
}  # fmt: skip
MORE_SETTINGS: dict[str, dict[str, str]] = {
    "nothing set": {},
    "4 threads of MKL, 1 of OpenMP": threads(1, 4),
    "4 threads of OpenMP, 1 of MKL": threads(4, 1),
    "AVX-512 where there is": {
        **ONE_THREAD, "ATEN_CPU_CAPABILITY": "avx512", "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "MKL_CBWR": "AUTO",
    },
    "bfloat16 allowed": {**ONE_THREAD, "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
}  # fmt: skip
# ... while it is compiled anew in these, which takes half a minute.
GENERIC_CPU = {**ONE_THREAD, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
RECOMPILED: dict[str, dict[str, str]] = {
    "compiled for a generic CPU": GENERIC_CPU,
    "compiled without optimisation": {**GENERIC_CPU, "NUMBA_OPT": "0"},
}
INTERPRETED = {**ONE_THREAD, "NUMBA_DISABLE_JIT": "1"}
INTERPRETED_NAMES = ("length_0", "length_1", "length_321")  # the others would take minutes


def golden_names() -> list[str]:
    """Return the names of the golden files that are there."""
    return sorted(file.stem for file in GOLDEN.glob("*.bin"))


def load_golden(name: str) -> dict[str, np.ndarray]:
    """Return what a golden file must decode to: integers by name, and 'pcm'."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def digest(names: Iterable[str], integers: Callable[[str], Any]) -> str:
    """Return a SHA-256 over all integers of some golden files.

    Parameters
    ----------
    names : names of golden files
    integers : function   returns a mapping, or a tuple with names, of one file's integers; the
                          parts that its .npz holds are looked at
    """
    sha = hashlib.sha256()
    for name in names:
        found = integers(name)
        for part in sorted(load_golden(name).keys() - {"pcm"}):
            value = found[part] if isinstance(found, Mapping) else getattr(found, part)
            if not np.issubdtype(value.dtype, np.integer) and value.dtype != np.bool_:
                raise TypeError(f"{part} is {value.dtype}, not integers")
            sha.update(f"{name} {part} {value.shape} ".encode())
            sha.update(value.astype("<i8").tobytes())
    return sha.hexdigest()


def golden_digest(names: Iterable[str]) -> str:
    """Return the digest of what the golden files must decode to."""
    return digest(names, load_golden)


def pcm_difference(name: str, waveform: np.ndarray) -> tuple[int, int, int]:
    """Compare a decoded waveform to a golden one.

    Returns
    -------
    largest difference in LSB, number of samples that differ, number of samples
    """
    make_golden = _load_make_golden()
    pcm = make_golden.to_pcm(waveform).astype(np.int32)
    wanted = load_golden(name)["pcm"].astype(np.int32)
    if pcm.shape != wanted.shape:
        raise ValueError(f"{name}: {pcm.shape} samples, expected {wanted.shape}")
    difference = np.abs(pcm - wanted)
    return int(difference.max(initial=0)), int(np.count_nonzero(difference)), difference.size


def start(
    out: Path,
    variables: Mapping[str, str],
    *arguments: str,
    python: str | Path = sys.executable,
    cache: Path | None = None,
) -> subprocess.Popen[str]:
    """Start this script in another process.

    Parameters
    ----------
    out : Path                    file for the waveforms
    variables : dict              environment variables to set; all of `VARIABLES` beside them unset
    *arguments : str              further arguments
    python : path                 interpreter
    cache : Path or None          folder of numba's cache; None: the usual one
    """
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment.update(variables, PYTHONPATH=str(ROOT))
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    return subprocess.Popen(
        [str(python), str(Path(__file__).resolve()), str(out), *arguments],
        env=environment, cwd=out.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout: float = 1800) -> dict[str, Any]:
    """Return what a process that `start` started has printed.

    Raises
    ------
    RuntimeError   it failed; the message is the end of what it wrote to stderr
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


def _load_make_golden() -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Blocked(importlib.abc.MetaPathFinder):
    """Refuse to import a module, as if it were not installed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == self.name:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


def compiled_types() -> list[dict[str, Any]]:
    """Return all assignments of all functions that numba has compiled in this process.

    They are there only where nothing came out of numba's cache.

    Returns
    -------
    list of dicts   function, module, calls (names of compiled functions that it calls), and
                    assignments: line of the file, variable, type
    """
    from numba import types
    from numba.core import ir

    compiled = []
    for module in [m for n, m in sys.modules.items() if n.split(".")[0] in ("codec", "models")]:
        for function in vars(module).values():
            if getattr(function, "__module__", "") != module.__name__:
                continue  # imported from another module
            for overload in getattr(function, "overloads", {}).values():
                annotation, assignments, calls = overload.type_annotation, [], set()
                for block in annotation.blocks.values():
                    for statement in block.body:
                        if not isinstance(statement, ir.Assign):
                            continue
                        kind = annotation.typemap[statement.target.name]
                        if isinstance(kind, types.Dispatcher):
                            calls.add(kind.dispatcher.py_func.__name__)
                        name = statement.target.name.split(".")[0] or statement.target.name
                        assignments.append([statement.loc.line, name, str(kind)])
                compiled.append({
                    "function": function.py_func.__name__, "module": module.__name__,
                    "calls": sorted(calls), "assignments": assignments,
                })  # fmt: skip
    return compiled


def main() -> None:
    """Decode; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--types", type=Path, help="write the types of all compiled variables")
    parser.add_argument("--without", help="a module that must not be imported; encodes as well")
    options = parser.parse_args()
    if options.without:
        sys.modules[options.without] = None  # type: ignore[assignment]
        sys.meta_path.insert(0, _Blocked(options.without))
    sys.path.insert(0, str(ROOT))
    import numba
    import torch

    from codec import Codec

    codec = Codec.load()
    names = options.names or golden_names()
    files = {name: (GOLDEN / f"{name}.bin").read_bytes() for name in names}
    sha256 = digest(names, lambda name: codec.decode_integers(files[name])[1])
    if options.types:
        options.types.write_text(json.dumps(compiled_types()))
    waveforms = {name: codec.decode(data) for name, data in files.items()}
    np.savez(options.out, **waveforms)
    result = {
        "sha256": sha256,
        "names": names,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    if options.without:
        wave = np.sin(np.arange(8000) * np.float32(0.1)) * np.float32(0.1)
        result["encoded_samples"] = len(codec.decode(codec.encode(wave, 16000, 13.2)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
