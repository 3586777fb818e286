"""LLVM code of the innermost loop of ``product.py``; imported only while kernels are compiled.

For each pair of inputs: load the weights of 16 outputs, multiply them as int16 by the pair of each
row, and add neighbours, <32 x i16> to <16 x i32>. Written in this form, LLVM finds the one
instruction for it (``vpmaddwd`` or ``vpdpwssd`` on x86-64), in two pieces where registers are
narrower; on processors without it, it finds others. How many sums are kept in registers at a time
depends on the processor. The result does not, since all of it is whole numbers.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.cgutils import alloca_once, for_range, unpack_tuple
from numba.core.extending import intrinsic
from numba.np.arrayobj import make_array

from codec.product import ROWS, TILE, TILES

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SUMS = ir.VectorType(_I32, TILE)
_PAIRS = ir.VectorType(_I16, 2 * TILE)
_PRODUCTS = ir.VectorType(_I32, 2 * TILE)
_EVEN = ir.Constant(_SUMS, list(range(0, 2 * TILE, 2)))
_ODD = ir.Constant(_SUMS, list(range(1, 2 * TILE, 2)))
_ZEROS = ir.Constant(_SUMS, [0] * TILE)
CHAINS = 4  # of sums for the same outputs, at most


def _load(builder: Any, pointer: Any, offset: Any, kind: ir.Type) -> Any:
    """Load ``kind`` from ``offset`` items after a pointer, however it is aligned."""
    address = builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())
    value = builder.load(address)
    value.align = 2
    return value


def _spread(builder: Any, pair: Any) -> Any:
    """Return a pair of int16 (as one int32) for every output, as int32 numbers."""
    undefined = ir.Constant(_SUMS, ir.Undefined)
    one = builder.insert_element(undefined, pair, ir.Constant(_I32, 0))
    every = builder.shuffle_vector(one, undefined, _ZEROS)
    return builder.sext(builder.bitcast(every, _PAIRS), _PRODUCTS)


def _add(builder: Any, sums: Any, pair: Any, weights: Any) -> Any:
    products = builder.mul(pair, weights)
    undefined = ir.Constant(_PRODUCTS, ir.Undefined)
    even = builder.shuffle_vector(products, undefined, _EVEN)
    odd = builder.shuffle_vector(products, undefined, _ODD)
    return builder.add(sums, builder.add(even, odd))


def _emit(builder: Any, arrays: Any, places: Any, rows: range, tiles: int, chains: int) -> None:
    """Write the loop over the pairs for some rows and tiles, with all sums in registers.

    Sums are taken in ``chains`` that do not wait for each other, and put together in the end.
    """
    x, weights, start, out = arrays
    first, stride, weights_at, pairs, start_at, out_at, out_stride = places

    def number(value: int) -> Any:
        return ir.Constant(_I64, value)

    def place(begin: Any, step: Any, row: int, tile: int = 0) -> Any:
        there = builder.add(begin, builder.mul(step, number(row)))
        return builder.add(there, number(tile * TILE))

    sums = {}
    for row, tile, chain in product(rows, range(tiles), range(chains)):
        slot = sums[row, tile, chain] = alloca_once(builder, _SUMS)  # LLVM keeps it in a register
        begin = builder.add(start_at, number(tile * TILE))
        builder.store(_load(builder, start, begin, _SUMS) if chain == 0 else _ZEROS, slot)
    size = builder.mul(pairs, number(2 * TILE))

    def add_pair(index: Any, chain: int) -> None:
        offset = builder.add(weights_at, builder.mul(index, number(2 * TILE)))
        own = []
        for tile in range(tiles):
            packed = _load(builder, weights, place(offset, size, tile), _PAIRS)
            own.append(builder.sext(packed, _PRODUCTS))
        twice = builder.add(first, builder.mul(index, number(2)))
        for row in rows:
            pair = _spread(builder, _load(builder, x, place(twice, stride, row), _I32))
            for tile in range(tiles):
                slot = sums[row, tile, chain]
                builder.store(_add(builder, builder.load(slot), pair, own[tile]), slot)

    turns = builder.udiv(pairs, number(chains))
    with for_range(builder, turns) as loop:
        begin = builder.mul(loop.index, number(chains))
        for chain in range(chains):
            add_pair(builder.add(begin, number(chain)), chain)
    with for_range(builder, pairs, start=builder.mul(turns, number(chains))) as loop:
        add_pair(loop.index, 0)
    for row, tile in product(rows, range(tiles)):
        total = builder.load(sums[row, tile, 0])
        for chain in range(1, chains):
            total = builder.add(total, builder.load(sums[row, tile, chain]))
        end = builder.gep(out, [place(out_at, out_stride, row, tile)])
        builder.store(total, builder.bitcast(end, _SUMS.as_pointer())).align = 4


def _sums_at_once(context: Any) -> int:
    """Return how many <16 x i32> numba's target keeps in registers, with room for the rest."""
    return 8 if "+avx512f" in context.codegen().magic_tuple()[2] else 4


def _intrinsic(rows: int, tiles: int) -> Any:
    """Return what numba calls for ``product._add`` of so many rows and tiles."""

    def typed(typing: Any, arrays: Any, places: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointers = [
                make_array(kind)(context, builder, builder.extract_value(arguments[0], i)).data
                for i, kind in enumerate(signature.args[0].types)
            ]
            numbers = unpack_tuple(builder, arguments[1])
            most = max(_sums_at_once(context) // tiles, 1)
            for row in range(0, rows, most):
                some = range(row, min(row + most, rows))
                chains = min(most // len(some), CHAINS)
                _emit(builder, pointers, numbers, some, tiles, chains)
            return context.get_dummy_value()

        return types.void(arrays, types.UniTuple(types.intp, len(places))), code

    return intrinsic(typed)


rows_of_a_tile = _intrinsic(ROWS, 1)
tiles_of_a_row = _intrinsic(1, TILES)
tile_of_a_row = _intrinsic(1, 1)
