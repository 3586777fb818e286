"""Compile kernels with numba; imported where machine code is not there yet.

numba makes machine code of every function, of all that it calls once more, and wrappers for Python.
Kernels that others call need none of that: here they become LLVM code only, and are optimised and
translated as a part of the kernel that is called from Python. That takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.registry import cpu_target
from numba.core.typed_passes import IRLegalization, NativeLowering, NoPythonBackend

# Strict floating point, and no interpreter lock.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


class _Part(JITCodeLibrary):
    """LLVM code of a function, with that of all functions that it calls, as it was written."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True  # without machine code


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerPart(NativeLowering):
    """Lower a function to LLVM code, and let others find it there."""

    _name = "lower_part"

    def run_pass(self, state: Any) -> bool:
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        key: Any = [].append  # callers ask for the function by a built-in one that is like no other
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=key)
        return True


class _Pipeline(CompilerBase):
    """numba's passes up to types, then those above."""

    def define_pipelines(self) -> list[PassManager]:
        manager = PassManager("part")
        manager.passes.extend(DefaultPassBuilder.define_untyped_pipeline(self.state).passes)
        manager.passes.extend(DefaultPassBuilder.define_typed_pipeline(self.state).passes)
        manager.add_pass(IRLegalization, "check")
        manager.add_pass(_LowerPart, "lower")
        manager.add_pass(NoPythonBackend, "collect")
        manager.finalize()
        return [manager]


def part(function: Callable[..., Any], inline: bool) -> Any:
    """Return a numba function that is a part of those that call it, if wanted without a call."""
    own: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    own["forceinline"] = inline
    return numba.njit(**OPTIONS, **own, pipeline_class=_Pipeline)(function)


def whole(function: Callable[..., Any], folder: str | None) -> Any:
    """Return a numba function that Python can call; its machine code is cached in the folder."""
    config: Any = numba.config
    former = config.CACHE_DIR
    config.CACHE_DIR = folder or ""  # read while a function is decorated
    try:
        return numba.njit(cache=folder is not None, **OPTIONS)(function)
    finally:
        config.CACHE_DIR = former


def type_of(function: Any) -> Any:
    """Return numba's type of a function whose LLVM code is written by hand (an intrinsic)."""
    context = cpu_target.typing_context
    context.refresh()
    return context.resolve_value_type(function)


def compile_part(function: Any, arguments: tuple[Any, ...]) -> tuple[bytes, str, str]:
    """Compile what :func:`part` made, with all that it calls, for the types of some arguments.

    Returns
    -------
    code : bytes    object code
    symbol : str    the function in it
    returns : str   'none' or 'int64'

    Raises
    ------
    TypeError   it returns something else, or calls what only a process with numba has
    """
    with global_compiler_lock:
        types = tuple(numba.typeof(argument) for argument in arguments)
        function.compile(types)
        compiled = function.overloads[types]
        library, returns = compiled.library, str(compiled.signature.return_type)
        library._ensure_finalized()
        module = library._final_module
        JITCodeLibrary._optimize_final_module(library)
        outside = [*module.functions, *module.global_variables]
        missing = [
            each.name for each in outside if each.is_declaration and not _is_there(each.name)
        ]
        if returns not in ("none", "int64") or missing:
            name = function.py_func.__name__
            raise TypeError(f"{name} cannot be an entry: returns {returns}, calls {missing}")
        return library._codegen._tm.emit_object(module), compiled.fndesc.llvm_func_name, returns


def _is_there(name: str) -> bool:
    """Tell whether a process without numba has what machine code calls (see ``machine_code``)."""
    return name.startswith(("llvm.", "NRT_")) or name in ("sqrt", "sqrtf", "floor", "floorf")
