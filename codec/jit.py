"""Kernels: which functions are compiled, how Python calls them, and where machine code is cached.

``@kernel`` marks a function that numba compiles, without the global interpreter lock and without
any license to reorder floating-point arithmetic: additions happen in the order in which they are
written, so a kernel gives the same bits on every machine. Kernels use + - x / and square roots
only; whatever else is needed (2^x, log2, tanh) is made of those in ``codec.dsp.fixed``.

``@entry`` marks the few that coding begins with. All that they call is compiled into them, their
machine code is kept in a file, and later processes call it without numba (``machine_code.py``).

The cache's folder is named after a hash of all sources that kernels are made of, so that a changed
source never meets old machine code. The last used folders of other hashes are kept: they may be
another installation's. It lies in ``NUMBA_CACHE_DIR`` if that is set, else beside this package,
else in the user's cache folder, else in a temporary folder of the user's own. Where none can be
written, kernels are compiled anew in every process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, update_wrapper
from importlib import import_module
from pathlib import Path
from typing import Any

from codec import machine_code

PACKAGE = Path(__file__).resolve().parent
PREFIX = "kernels-"
# Beside the modules that have kernels of their own: constants, and how kernels are compiled.
HASHED = ("config.py", "model.py", "jit.py", "compiler.py", "tile_code.py")
_OTHERS_KEPT = 3  # folders of kernels
SAME_CODE = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS")  # variables that do not change machine code

# Called before an entry is compiled, which takes some seconds.
announce: Callable[[], None] | None = None

# Held while an entry is loaded or compiled; a fork waits for it, so that no child inherits a half.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


# --- the cache ------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Return a hash of every source file that kernels are made of, and of numba's version."""
    digest = hashlib.sha256((machine_code.numba_folder() / "_version.py").read_bytes())
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_bytes()
        if path.relative_to(PACKAGE).as_posix() in HASHED or b"from codec.jit import" in source:
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
        with contextlib.suppress(OSError):
            os.utime(folder)
            others = (path for path in root.glob(PREFIX + "*") if path != folder)
            for old in sorted(others, key=os.path.getmtime)[:-_OTHERS_KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        return folder
    return None


def is_cached(*names: str) -> bool:
    """Tell whether entries of these names are in the cache (else their first call takes long)."""
    folder = cache_folder()
    return folder is not None and all(any(folder.glob(f"{name}-*.o")) for name in names)


def _read(path: Path | None) -> tuple[bytes, str, str] | None:
    """Return object code, its symbol and what that returns; None if there is no sound file."""
    with contextlib.suppress(OSError, ValueError):
        if path is not None:
            digest, content = path.read_bytes().split(b"\n", 1)
            if digest.decode() == hashlib.sha256(content).hexdigest():
                head, code = content.split(b"\n", 1)
                symbol, returns = head.decode().split()
                return code, symbol, returns
    return None


def _write(path: Path, code: bytes, symbol: str, returns: str) -> None:
    """Write what :func:`_read` reads; the file is complete or not there."""
    content = f"{symbol} {returns}\n".encode() + code
    with contextlib.suppress(OSError):  # then the next process compiles again
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        os.replace(file.name, path)


# --- kernels --------------------------------------------------------------------------------------


class Kernel:
    """A function of arrays, records and numbers that is compiled when it is first called.

    A kernel that calls it has it as a part of its own code; Python gets what numba makes for it.

    Attributes
    ----------
    inline : bool   its code stands in each kernel that calls it, whatever LLVM thinks of that
    """

    def __init__(self, function: Callable[..., Any], inline: bool = False) -> None:
        update_wrapper(self, function)
        self.function, self.inline = function, inline

    @cached_property
    def part(self) -> Any:
        """What it is for kernels."""
        from codec import compiler

        return compiler.part(self.function, self.inline)

    @cached_property
    def whole(self) -> Any:
        """What it is for Python."""
        from codec import compiler

        folder = cache_folder()
        return compiler.whole(self.function, None if folder is None else str(folder))

    @property
    def _numba_type_(self) -> Any:
        """What numba looks for where a kernel names another."""
        return self.part._numba_type_

    def __call__(self, *arguments: Any) -> Any:
        """Call it from Python."""
        return self.whole(*arguments)


class Entry(Kernel):
    """A kernel whose machine code is loaded and called without numba.

    Arguments that are not what coding calls it with (``machine_code.Unusual``) go through numba.

    Attributes
    ----------
    loaded : dict   of types of arguments: what calls the machine code for them
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.loaded: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Call it from Python."""
        words: list[int] = []
        try:
            types = tuple([machine_code.describe(argument, words) for argument in arguments])
        except machine_code.Unusual:
            return self.whole(*arguments)
        call = self.loaded.get(types)
        if call is None:
            with _lock:
                call = self.loaded.get(types) or self._load(types, arguments, len(words))
                self.loaded[types] = call
        return call(*words)

    def _load(self, types: Any, arguments: Any, num_words: int) -> Callable[..., Any]:
        """Return what calls the machine code for these types; compile it if it is not cached."""
        path, folder = None, cache_folder()
        if folder is not None:
            variables = {k: v for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_")}
            options = {k: v for k, v in variables.items() if k not in SAME_CODE}
            key = repr((types, options, machine_code.target()))
            name = hashlib.sha256(key.encode()).hexdigest()[:16]
            path = folder / f"{self.function.__name__}-{name}.o"
        made = _read(path)
        if made is None:
            from codec import compiler

            if announce is not None:
                announce()
            made = compiler.compile_part(self.part, arguments)
            if path is not None:
                _write(path, *made)
        return machine_code.load(*made, num_words)


class ByHand:
    """A function for kernels whose LLVM code is written by hand, in a module of its own.

    The Python function says what it means, and is what runs without compiling.
    """

    def __init__(self, function: Callable[..., Any], module: str, name: str) -> None:
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.module, self.name = module, name

    @cached_property
    def _numba_type_(self) -> Any:
        """What numba looks for where a kernel names it."""
        from codec import compiler

        return compiler.type_of(getattr(import_module(self.module), self.name))


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call: strict floating point, no interpreter lock."""
    return function if _is_set("NUMBA_DISABLE_JIT") else Kernel(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a kernel into each kernel that calls it, so that what is constant there is, here."""
    return function if _is_set("NUMBA_DISABLE_JIT") else Kernel(function, inline=True)


def by_hand(module: str, name: str) -> Callable[[Callable[..., Any]], Any]:
    """Take a kernel's LLVM code from ``name`` in a module, which only compiling imports."""

    def decorate(function: Callable[..., Any]) -> Any:
        return function if _is_set("NUMBA_DISABLE_JIT") else ByHand(function, module, name)

    return decorate


def entry(function: Callable[..., Any]) -> Any:
    """Compile a kernel with all that it calls, and keep its machine code for later processes."""
    # Errors of numba's bounds checks are Python's: machine code alone cannot raise them.
    plain = _is_set("NUMBA_DISABLE_JIT") or _is_set("NUMBA_BOUNDSCHECK")
    return kernel(function) if plain else Entry(function)
