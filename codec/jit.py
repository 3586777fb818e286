"""The one decorator of all compiled kernels, and where their machine code is cached.

``@kernel`` is numba's ``njit`` without the global interpreter lock and without any license to
reorder floating-point arithmetic: additions happen in the order in which they are written, so a
kernel gives the same bits on every machine. Kernels use + - x / and square roots only; whatever
else is needed (2^x, log2, tanh) is made of those in ``codec.dsp.fixed``.

numba's own cache notices a change in the file of a kernel, but not in the files of the kernels that
it calls. Here the cache's folder is named after a hash of all sources that kernels are made of, so
that a changed source never meets old machine code. Folders of other hashes are removed when one
is made.

The cache lies in ``NUMBA_CACHE_DIR`` if that is set, else beside this package, else in the user's
cache folder, else in a temporary folder of the user's own. Where none can be written, kernels are
compiled anew in every process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

PACKAGE = Path(__file__).resolve().parent
PREFIX = "kernels-"
CONSTANTS = ("config.py", "model.py")  # beside the modules that have kernels of their own


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Return a hash of every source file that kernels are made of, and of numba's version."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_bytes()
        if path.name in CONSTANTS or b"from codec.jit import" in source:
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + source)
    return digest.hexdigest()[:16]


def _roots() -> Iterator[Path]:
    """Yield the folders in which a cache may lie, the best one first."""
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(named) / "codec"
    yield PACKAGE / "__pycache__"
    with contextlib.suppress(RuntimeError):  # no home folder
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        yield home / "nsvq-speech-codec"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    with contextlib.suppress(FileNotFoundError):  # no folder for temporary files
        yield Path(tempfile.gettempdir()) / f"nsvq-speech-codec-{user}"


def _is_ours(folder: Path) -> bool:
    """Tell whether nobody else can write there: cached machine code is executed."""
    if not hasattr(os, "getuid"):
        return True
    info = folder.stat()
    mine = info.st_uid in (os.getuid(), 0)
    return mine and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or folder.parent == PACKAGE


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Return the folder of the compiled kernels; None if no place for it can be written."""
    for root in _roots():
        folder = root / (PREFIX + source_hash())
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _is_ours(root):
                continue
            folder.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError:
            continue
        for old in root.glob(PREFIX + "*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        return folder
    return None


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call: strict floating point, no interpreter lock, cached."""
    folder = cache_folder()
    # numba reads where to cache from its configuration while it decorates.
    config: Any = numba.config
    former = config.CACHE_DIR
    config.CACHE_DIR = "" if folder is None else str(folder)
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=folder is not None)(function)
    finally:
        config.CACHE_DIR = former


def inlined(function: Callable[..., Any]) -> Any:
    """Make a function a part of each kernel that calls it, as if it were written there.

    For steps that are named for the reader's sake and called from one place: a kernel of its own
    would be optimised twice.
    """
    return numba.njit(nogil=True, error_model="numpy", inline="always")(function)


def is_cached(*names: str) -> bool:
    """Tell whether kernels of these names are in the cache (else their first call takes long)."""
    folder = cache_folder()
    return folder is not None and all(any(folder.rglob(f"*.{name}-*.nbi")) for name in names)
