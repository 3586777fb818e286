"""LLVM code of the innermost loop of ``product.py``; imported only while kernels are compiled.

For each pair of inputs: load the weights of 16 outputs, multiply them as int16 by the pair of each
row, and add neighbours, as <16 x i16> → <8 x i32>. Written in this form, LLVM finds the one
instruction for it (``vpmaddwd`` on x86-64); on processors without it, it finds others. The result
is the same, since all of it is whole numbers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.cgutils import alloca_once, for_range
from numba.core.extending import intrinsic
from numba.np.arrayobj import make_array

WIDTH = 8  # outputs of one vector; a tile is two of them
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SUMS = ir.VectorType(_I32, WIDTH)
_PAIRS = ir.VectorType(_I16, 2 * WIDTH)
_PRODUCTS = ir.VectorType(_I32, 2 * WIDTH)
_EVEN = ir.Constant(_SUMS, list(range(0, 2 * WIDTH, 2)))
_ODD = ir.Constant(_SUMS, list(range(1, 2 * WIDTH, 2)))
_NO_LANE = ir.Constant(_SUMS, [0] * WIDTH)


def _load(builder: Any, pointer: Any, offset: Any, kind: ir.Type) -> Any:
    """Load ``kind`` from ``offset`` items after a pointer, however it is aligned."""
    address = builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())
    value = builder.load(address)
    value.align = 2
    return value


def _spread(builder: Any, pair: Any) -> Any:
    """Return a pair of int16 (as one int32) eight times, as int32 numbers."""
    undefined = ir.Constant(_SUMS, ir.Undefined)
    one = builder.insert_element(undefined, pair, ir.Constant(_I32, 0))
    every = builder.shuffle_vector(one, undefined, _NO_LANE)
    return builder.sext(builder.bitcast(every, _PAIRS), _PRODUCTS)


def _add(builder: Any, sums: Any, pair: Any, weights: Any) -> Any:
    products = builder.mul(pair, weights)
    undefined = ir.Constant(_PRODUCTS, ir.Undefined)
    even = builder.shuffle_vector(products, undefined, _EVEN)
    odd = builder.shuffle_vector(products, undefined, _ODD)
    return builder.add(sums, builder.add(even, odd))


def _emit(builder: Any, arrays: Any, places: Any, pairs: Any, rows: int) -> None:
    """Write the loop over the pairs, with the sums of all rows in registers."""
    x, weights, out = arrays
    tile, starts, ends = places
    vectors = [(row, half) for row in range(rows) for half in range(2)]

    def place(row: int, half: int) -> Any:
        return builder.add(ends[row], ir.Constant(_I64, half * WIDTH))

    sums = []
    for row, half in vectors:
        slot = alloca_once(builder, _SUMS)  # LLVM keeps it in a register
        start = builder.bitcast(builder.gep(out, [place(row, half)]), _SUMS.as_pointer())
        value = builder.load(start)
        value.align = 4
        builder.store(value, slot)
        sums.append(slot)
    with for_range(builder, pairs) as loop:
        at = builder.add(tile, builder.mul(loop.index, ir.Constant(_I64, 4 * WIDTH)))
        halves = []
        for half in range(2):
            offset = builder.add(at, ir.Constant(_I64, 2 * half * WIDTH))
            halves.append(builder.sext(_load(builder, weights, offset, _PAIRS), _PRODUCTS))
        twice = builder.mul(loop.index, ir.Constant(_I64, 2))
        for row in range(rows):
            pair = _spread(builder, _load(builder, x, builder.add(starts[row], twice), _I32))
            for half in range(2):
                slot = sums[2 * row + half]
                builder.store(_add(builder, builder.load(slot), pair, halves[half]), slot)
    for (row, half), slot in zip(vectors, sums, strict=True):
        end = builder.bitcast(builder.gep(out, [place(row, half)]), _SUMS.as_pointer())
        builder.store(builder.load(slot), end).align = 4


def _pointers(context: Any, builder: Any, kinds: Any, arrays: Any) -> list[Any]:
    return [
        make_array(kind)(context, builder, array).data
        for kind, array in zip(kinds, arrays, strict=True)
    ]


@intrinsic
def add_rows(typing, x, first, stride, weights, tile, pairs, out, place, width):
    """Add a tile's product to four rows; arguments as in ``product._add_four``."""
    whole = types.intp
    signature = types.void(x, whole, whole, weights, whole, whole, out, whole, whole)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, first, stride, weights, tile, pairs, out, place, width = arguments
        kinds = [signature.args[i] for i in (0, 3, 6)]
        arrays = _pointers(context, builder, kinds, (x, weights, out))
        starts, ends = [first], [place]
        for _ in range(3):
            starts.append(builder.add(starts[-1], stride))
            ends.append(builder.add(ends[-1], width))
        _emit(builder, arrays, (tile, starts, ends), pairs, 4)
        return context.get_dummy_value()

    return signature, code


@intrinsic
def add_row(typing, x, first, weights, tile, pairs, out, place):
    """Add a tile's product to one row; arguments as in ``product._add_one``."""
    whole = types.intp
    signature = types.void(x, whole, weights, whole, whole, out, whole)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, first, weights, tile, pairs, out, place = arguments
        kinds = [signature.args[i] for i in (0, 2, 5)]
        arrays = _pointers(context, builder, kinds, (x, weights, out))
        _emit(builder, arrays, (tile, [first], [place]), pairs, 1)
        return context.get_dummy_value()

    return signature, code
