"""A file decodes to the same integers everywhere, and to the same PCM within 1 LSB.

Processes with other threads, processors, compilers and settings of the mathematical libraries
decode the golden files (`exact_worker.py`). In this process, everything that computes with floats
is disturbed, and the compiled packet decoder is searched for floats. For other versions of torch
and Python see `experiments/exactness.py`.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import exact_worker
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from codec import Codec
from codec import packet as packet_module
from codec.bitstream import intra_packets, read_stream
from codec.decoder import PacketDecoder, Synthesis, _decode_packets
from codec.packet import DECODE, NUM_BINS, Tables

NAMES = exact_worker.golden_names()
FILES = {name: (exact_worker.GOLDEN / f"{name}.bin").read_bytes() for name in NAMES}
LONGEST = max(NAMES, key=lambda name: len(FILES[name]))
# All floats that compiled functions of the decoder may have. `code_block` is shared with the
# encoder; `test_no_float_decides_a_symbol` shows that its decoding part touches none of them.
ALLOWED_FLOATS = {
    "code_block": {"ratio", "rdo_lambda", "value", "price"},
    "code_bins": {"ratio", "rdo_lambda"},
    "read_packet": {"ratio"},
}
# Only the encoder knows what a symbol costs; these come from logarithms.
ENCODER_TABLES = {"frequency_cost", "index_cost"}


def digest(codec: Codec) -> str:
    return exact_worker.digest(NAMES, lambda name: codec.decode_integers(FILES[name])[1])


def check(result: dict[str, Any], out: Path) -> None:
    """Compare what a worker found with the golden files."""
    assert result["sha256"] == exact_worker.golden_digest(result["names"])
    with np.load(out) as waveforms:
        for name in result["names"]:
            assert exact_worker.pcm_difference(name, waveforms[name])[0] <= 1, name


# --- other processes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A worker that compiles the decoder anew; it runs beside the tests that do not need it."""
    folder = tmp_path_factory.mktemp("generic")
    process = exact_worker.start(
        folder / "out.npz", exact_worker.GENERIC_CPU, "--types", str(folder / "types.json"),
        cache=folder / "cache",
    )  # fmt: skip
    yield process, folder
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def recompiled(generic: tuple[subprocess.Popen, Path]) -> tuple[dict[str, Any], Path]:
    """What that worker has printed, and its folder."""
    process, folder = generic
    return exact_worker.finish(process), folder


@pytest.mark.usefixtures("generic")
@pytest.mark.parametrize(
    "name",
    [
        *exact_worker.SETTINGS,
        *(pytest.param(name, marks=pytest.mark.slow) for name in exact_worker.MORE_SETTINGS),
    ],
)
def test_threads_and_libraries(name: str, tmp_path: Path) -> None:
    variables = {**exact_worker.SETTINGS, **exact_worker.MORE_SETTINGS}[name]
    out = tmp_path / "out.npz"
    result = exact_worker.finish(exact_worker.start(out, variables))
    check(result, out)
    # Else the test would prove nothing.
    if name in exact_worker.SETTINGS:
        assert result["threads"] == int(variables["OMP_NUM_THREADS"])
    if platform.machine() in ("x86_64", "AMD64") and "ATEN_CPU_CAPABILITY" in variables:
        wanted = variables["ATEN_CPU_CAPABILITY"].upper()
        if wanted != "AVX512":
            assert result["capability"] == wanted


def test_without_compiler(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    names = [name for name in exact_worker.INTERPRETED_NAMES if name in NAMES]
    assert names
    worker = exact_worker.start(out, exact_worker.INTERPRETED, *names)
    check(exact_worker.finish(worker), out)


def test_without_torchaudio(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    worker = exact_worker.start(out, exact_worker.ONE_THREAD, LONGEST, "--without", "torchaudio")
    result = exact_worker.finish(worker)
    check(result, out)
    assert result["encoded_samples"] == 8000


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_packets_at_once(codec: Codec, batch: int) -> None:
    data = FILES[LONGEST]
    header, packets = read_stream(data)
    intra = intra_packets(len(packets), header.independent)
    decoder = PacketDecoder(
        codec.weights.tables, codec.config, header.num_stages, codec.weights.intra
    )
    synthesis = Synthesis(codec.enhancer, codec.config)
    parts, samples = [], []
    for i in range(0, len(packets), batch):
        parts.append(decoder.decode(packets[i : i + batch], intra[i : i + batch]))
        samples.append(synthesis.push(parts[-1]))
    _, whole = codec.decode_integers(data)
    for field, wanted in zip(whole._fields, whole, strict=True):
        found = np.concatenate([getattr(part, field) for part in parts])
        np.testing.assert_array_equal(found, wanted, err_msg=field)
    waveform, wanted = np.concatenate(samples), codec.decode(data)
    hop = codec.config.hop_length  # so many samples lie before the signal
    np.testing.assert_array_equal(waveform[hop : hop + len(wanted)], wanted)


# --- no float reaches the range decoder: by disturbing them ---------------------------------------


@pytest.mark.parametrize("value", ["random", "nan"])
def test_networks_do_not_matter(value: str) -> None:
    codec = Codec.load()
    before = codec.decode(FILES[LONGEST])
    generator = torch.Generator().manual_seed(1)
    for part in (codec.analysis, codec.enhancer):
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.is_floating_point():
                noise = 1e3 * torch.randn(tensor.shape, generator=generator)
                tensor.copy_(noise if value == "random" else torch.full_like(noise, torch.nan))
    assert digest(codec) == exact_worker.golden_digest(NAMES)
    if value == "random":  # they do matter for the waveform
        assert not np.allclose(codec.decode(FILES[LONGEST]), before, atol=1e-2)


def test_settings_of_torch_do_not_matter(codec: Codec) -> None:
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.bfloat16)
        torch.set_flush_denormal(True)
        with torch.autocast("cpu", torch.bfloat16):
            found = digest(codec)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        torch.set_flush_denormal(False)
    assert found == exact_worker.golden_digest(NAMES)


def test_torch_takes_no_part(codec: Codec) -> None:
    class NoTorch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, *_: Any, **__: Any) -> Any:
            raise AssertionError(f"{function} was called")

    with NoTorch():
        with pytest.raises(AssertionError, match="was called"):
            torch.zeros(1)
        assert digest(codec) == exact_worker.golden_digest(NAMES)


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    """Set the rounding mode of floating-point arithmetic of this thread (glibc on x86-64)."""
    library = ctypes.CDLL("libm.so.6")
    before = library.fegetround()
    assert library.fesetround(mode) == 0
    try:
        yield
    finally:
        library.fesetround(before)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="the numbers of the rounding modes are those of glibc on x86-64",
)
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "toward zero"])
def test_rounding_mode_does_not_matter(codec: Codec, mode: int) -> None:
    numbers = np.arange(1.0, 1000.0)
    nearest = 1.0 / numbers
    digest(codec)  # nothing is compiled or loaded in the other mode
    with rounding(mode):
        other = 1.0 / numbers
        found = digest(codec)
    assert (other != nearest).any()
    np.testing.assert_array_equal(1.0 / numbers, nearest)
    assert found == exact_worker.golden_digest(NAMES)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_floats_of_the_encoder_do_not_matter(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """The functions shared with the encoder get garbage where it has its floats and prices."""
    data = FILES[LONGEST]
    header, wanted = codec.decode_integers(data)
    compiled, calls = packet_module.code_bins, []
    order = list(inspect.signature(compiled.py_func).parameters)

    def disturbed(*values: Any) -> Any:
        arguments = dict(zip(order, values, strict=True))
        assert arguments["mode"] == DECODE
        arguments["ratio"] = np.full((2, NUM_BINS), value, np.float32)
        arguments["rdo_lambda"] = float(value)
        calls.append(arguments["delta"])
        return compiled(*arguments.values())

    garbage = {
        name: np.full_like(getattr(codec.weights.tables, name), -12345) for name in ENCODER_TABLES
    }
    tables = codec.weights.tables._replace(**garbage)
    intra_tables = codec.weights.intra._replace(**garbage)
    # The outermost functions are interpreted, so that what they call can be exchanged; all else
    # is the compiled code.
    monkeypatch.setattr(packet_module, "code_bins", disturbed)
    globals_ = {**vars(inspect.getmodule(_decode_packets.py_func))}
    globals_["read_packet"] = packet_module.read_packet.py_func
    monkeypatch.setattr(
        "codec.decoder._decode_packets", FunctionType(_decode_packets.py_func.__code__, globals_)
    )
    _, packets = read_stream(data)
    decoder = PacketDecoder(tables, codec.config, header.num_stages, intra_tables)
    found = decoder.decode(packets, intra_packets(len(packets), header.independent))
    assert len(calls) == len(packets)
    for field, values in zip(wanted._fields, wanted, strict=True):
        np.testing.assert_array_equal(getattr(found, field), values, err_msg=field)


# --- no float reaches the range decoder: by looking at the program --------------------------------


class _Fold(ast.NodeTransformer):
    """Replace every ``if mode == X`` or ``if mode != X`` by the branch that DECODE takes."""

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        test = node.test
        if not (
            isinstance(test, ast.Compare)
            and isinstance(test.left, ast.Name)
            and test.left.id == "mode"
        ):
            return node
        assert len(test.ops) == 1 and isinstance(test.comparators[0], ast.Name)
        same = getattr(packet_module, test.comparators[0].id) == DECODE
        assert isinstance(test.ops[0], ast.Eq | ast.NotEq)
        taken = same if isinstance(test.ops[0], ast.Eq) else not same
        return (node.body if taken else node.orelse) or ast.Pass(lineno=0, end_lineno=0)


def parse(function: Any) -> ast.FunctionDef:
    """Return the syntax tree of a compiled function, with the line numbers of its file."""
    lines, first = inspect.getsourcelines(function.py_func)
    tree = ast.parse("".join(lines))
    ast.increment_lineno(tree, first - 1)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    return definition


def lines_of(nodes: list[Any]) -> set[int]:
    """Return all lines that statements and expressions lie on, but not those of the function."""
    return {
        line
        for node in nodes
        for n in ast.walk(node)
        # A loop or a condition covers its body, some of which may have been folded away.
        if hasattr(n, "lineno") and not isinstance(n, ast.For | ast.While | ast.If)
        for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)
    }


def names_in(node: ast.AST) -> list[str]:
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]


def decoding_part() -> ast.FunctionDef:
    """Return what is left of `code_block` when its mode is DECODE."""
    tree = parse(packet_module.code_block)
    stores = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == "mode"]
    assert all(isinstance(n.ctx, ast.Load) for n in stores)
    folded = _Fold().visit(tree)
    assert "mode" not in names_in(folded)
    return folded


def test_decoding_part_has_no_float() -> None:
    folded = decoding_part()
    names = names_in(folded)
    assert {"dec_target", "mixed_cdf", "dec_consume"} <= set(names)
    assert not ALLOWED_FLOATS["code_block"] & set(names)
    assert "symbol_cost" not in names and "enc_symbol" not in names
    for node in ast.walk(folded):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float | complex))
        assert not isinstance(node, ast.Div | ast.Pow)


def call_of_bins(name: str) -> tuple[ast.FunctionDef, ast.Call, dict[str, ast.expr]]:
    """Return a caller of `code_block` or `code_bins`, that call, and its arguments by name."""
    tree = parse(getattr(packet_module, name))
    called = {"code_bins": "code_block", "read_packet": "code_bins"}[name]
    order = list(inspect.signature(getattr(packet_module, called).py_func).parameters)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    (call,) = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == called]
    return tree, call, dict(zip(order, call.args, strict=True))


@pytest.mark.parametrize("name", ["code_bins", "read_packet"])
def test_floats_are_only_passed_on(name: str) -> None:
    """Callers of `code_block` do nothing with the encoder's floats but pass them on."""
    tree, _, arguments = call_of_bins(name)
    mode = arguments["mode"]
    assert isinstance(mode, ast.Name)
    assert mode.id == ("DECODE" if name == "read_packet" else "mode")
    roles = [arguments["ratio"], arguments["rdo_lambda"]]
    loads = [
        n.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Name)
        and isinstance(n.ctx, ast.Load)
        and n.id in ALLOWED_FLOATS["code_bins"]
    ]
    assert sorted(loads) == sorted(n for role in roles for n in names_in(role) if n != "block")
    passed = [n for role in roles for n in ast.walk(role)]
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Div | ast.Pow)
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            assert node in passed


def test_no_float_decides_a_symbol(recompiled: tuple[dict[str, Any], Path]) -> None:
    """Look at the type that numba has inferred for every variable of the compiled decoder."""
    compiled = json.loads((recompiled[1] / "types.json").read_text())
    functions = {entry["function"] for entry in compiled}
    assert functions >= {
        "_decode_packets", "read_packet", "code_bins", "code_block", "prepare", "allocate",
        "expected_step", "rescale_history", "harmonic_lag", "mixed_cdf", "decode_envelope",
        "dec_init", "dec_target", "dec_consume", "dec_bits", "advance",
    }  # fmt: skip
    # Nothing that a decoder calls has been left out.
    assert {name for entry in compiled for name in entry["calls"]} <= functions

    decoding = lines_of(decoding_part().body)
    # Where there may be floats at all.
    lines = {"code_block": lines_of(parse(packet_module.code_block).body) - decoding}
    for name in ("code_bins", "read_packet"):
        tree, call, _ = call_of_bins(name)
        lines[name] = lines_of([call]) | {
            line
            for n in ast.walk(tree)
            if isinstance(n, ast.Assign) and names_in(n.targets[0]) == ["ratio"]
            for line in lines_of([n])
        }
    floats: dict[str, set[str]] = {}
    for entry in compiled:
        name = entry["function"]
        for line, variable, kind in entry["assignments"]:
            if "float" not in kind and "complex" not in kind:
                continue
            where = f"{entry['module']}.{name}, line {line}: {variable} is {kind}"
            if variable.startswith("$"):  # a temporary
                assert line in lines.get(name, ()), where
            elif variable != "arg":
                # Parameters are assigned in the line of the function's name, and nothing of the
                # decoding part reads them.
                assert name != "code_block" or line not in decoding, where
                floats.setdefault(name, set()).add(variable)
    assert floats == ALLOWED_FLOATS


def test_tables_are_integers(codec: Codec) -> None:
    for tables in (codec.weights.tables, codec.weights.intra):
        for name, value in zip(tables._fields, tables, strict=True):
            assert value.dtype in (np.int16, np.int32, np.int64), name
    # Of those that are computed from logarithms when the weights are loaded, none is read.
    functions = [
        function
        for name, function in vars(packet_module).items()
        if hasattr(function, "py_func") and name != "code_block"
    ]
    reached, todo = {}, [parse(packet_module.read_packet), decoding_part()]
    known = {function.py_func.__name__: function for function in functions}
    while todo:
        tree = todo.pop()
        reached[tree.name] = tree
        todo += [parse(known[n]) for n in set(names_in(tree)) if n in known and n not in reached]
    used = {
        n.attr
        for tree in reached.values()
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and n.attr in Tables._fields
    }
    assert used == set(Tables._fields) - ENCODER_TABLES


def test_generic_cpu(recompiled: tuple[dict[str, Any], Path]) -> None:
    result, folder = recompiled
    check(result, folder / "out.npz")


@pytest.mark.slow
def test_unoptimised(tmp_path: Path) -> None:
    variables = exact_worker.RECOMPILED["compiled without optimisation"]
    out = tmp_path / "out.npz"
    check(exact_worker.finish(exact_worker.start(out, variables, cache=tmp_path / "cache")), out)
