"""Machine code of kernels: load it, and call it with NumPy arrays and records, without numba.

Importing numba takes longer than coding a sentence. What it has compiled once (``compiler.py``)
does not need it: LLVM's loader puts the object code of a file into memory, and ``ctypes`` calls it,
without the interpreter lock.

numba's calling convention: where the result goes, where a description of an error goes, and the
arguments. A record is its address; an array is seven or more numbers (two that belong to its owner,
then count and bytes of its items, address, shape, strides); a tuple is its items.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

ALLOCATOR = "numba.core.runtime._nrt_python"


class Unusual(TypeError):
    """An argument is none that machine code is called with here."""


def describe(value: Any, words: list[int]) -> Any:
    """Return the type of an argument, and add to ``words`` what machine code gets of it.

    Raises
    ------
    Unusual   neither a record, nor a whole number, nor an array that is writable and in one piece,
              nor a tuple of these
    """
    if isinstance(value, np.ndarray):
        if not value.flags.carray:
            raise Unusual
        words += (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
        return value.dtype, value.ndim
    if isinstance(value, np.void):
        record = np.asarray(value)
        if record.flags.owndata or not record.flags.carray:  # a copy, or read-only
            raise Unusual
        words.append(record.ctypes.data)
        return (value.dtype,)
    if isinstance(value, tuple):
        return tuple([describe(item, words) for item in value])
    if type(value) is not int:
        raise Unusual
    words.append(value)
    return "int"


@lru_cache(maxsize=1)
def numba_folder() -> Path:
    """Return where numba is installed."""
    spec = find_spec("numba")  # does not import it
    if spec is None or spec.origin is None:
        raise ImportError("numba is not installed; `pip install numba` brings it")
    return Path(spec.origin).parent


@lru_cache(maxsize=1)
def llvm() -> Any:
    """Return LLVM, ready to load code that asks numba for memory.

    numba's allocator is a small library. It is loaded without the rest of numba, and under its
    name: should numba be imported later, there must not be two.
    """
    import llvmlite.binding as library

    library.initialize_native_target()
    library.initialize_native_asmprinter()
    allocator: Any = sys.modules.get(ALLOCATOR)
    if allocator is None:
        stem = numba_folder().parent.joinpath(*ALLOCATOR.split("."))
        files = [stem.with_name(stem.name + suffix) for suffix in EXTENSION_SUFFIXES]
        spec: Any = spec_from_file_location(ALLOCATOR, next(f for f in files if f.exists()))
        allocator = module_from_spec(spec)
        spec.loader.exec_module(allocator)
        allocator.memsys_use_cpython_allocator()
        sys.modules[ALLOCATOR] = allocator
    for name, address in allocator.c_helpers.items():
        library.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
    return library


@lru_cache(maxsize=1)
def target() -> str:
    """Return what machine code depends on beside its source: LLVM and the processor."""
    import llvmlite

    features = llvm().get_host_cpu_features().flatten()
    return f"{llvmlite.__version__} {llvm().get_host_cpu_name()} {features}"


def load(code: bytes, symbol: str, returns: str, num_words: int) -> Callable[..., int | None]:
    """Load object code and return a function that calls ``symbol`` in it.

    The function takes the words of :func:`describe`, and raises ``MemoryError`` if there is no
    memory for an array that the kernel makes; kernels fail in no other way. ``returns`` is 'int64'
    or 'none'.
    """
    library = llvm()
    machine = library.Target.from_default_triple().create_target_machine()
    engine = library.create_mcjit_compiler(library.parse_assembly(""), machine)
    loaded = library.ObjectFileRef.from_data(code)
    engine.add_object_file(loaded)
    engine.finalize_object()
    pointers, numbers = [ctypes.c_void_p] * 2, [ctypes.c_int64] * num_words
    signature = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers, *numbers)
    native: Any = signature(engine.get_function_address(symbol))
    native.owners = engine, machine, loaded  # they live as long as it does

    def call(*words: int) -> int | None:
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        if native(ctypes.addressof(result), ctypes.addressof(error), *words) != 0:
            raise MemoryError("not enough memory")
        return result.value if returns == "int64" else None

    return call
