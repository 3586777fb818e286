"""Products of int16 matrices with int32 sums, the work horse of every network that is coded with.

Integer sums have one value whatever their order, so processors may take them in the widest pieces
that they have: two products and their sum in one instruction, eight or more sums at a time
(``tile_code.py`` has the LLVM code). That is three to five times as fast as float32 in a fixed
order.

Weights are packed in tiles of 16 outputs; within a tile, inputs come in pairs::

    tile 0: [pair 0: output 0 (input 0, input 1), output 1 (input 0, input 1), ..., output 15]
            [pair 1: output 0 (input 2, input 3), ...]
    tile 1: ...
"""

from __future__ import annotations

import numpy as np

from codec.jit import by_hand, kernel

TILE = 16  # outputs
_ROWS = 4  # at a time: weights that are read once serve all of them


def padded(outputs: int) -> int:
    """Return a number of outputs as whole tiles."""
    return -(-outputs // TILE) * TILE


def packed_size(inputs: int, outputs: int) -> int:
    """Return how many numbers the packed weights of a layer are."""
    return padded(outputs) * (inputs + inputs % 2)


def pack(weights: np.ndarray) -> np.ndarray:
    """Return weights in the order in which :func:`add_product` takes them.

    Parameters
    ----------
    weights : integers [inputs, outputs]   within int16

    Returns
    -------
    int16 [packed_size(inputs, outputs)]   zeros where there is no input or output
    """
    inputs, outputs = weights.shape
    whole = np.zeros((inputs + inputs % 2, padded(outputs)), np.int16)
    whole[:inputs, :outputs] = weights
    tiles = whole.reshape(-1, 2, whole.shape[1] // TILE, TILE)
    return np.ascontiguousarray(tiles.transpose(2, 0, 3, 1)).reshape(-1)


@by_hand("codec.dsp.tile_code", "add_rows")
def _add_four(x, first, stride, weights, tile, pairs, out, place, width):
    """Add a tile's product to four rows of ``out``: the meaning of what ``tile_code`` writes."""
    _add_rows(4, x, first, stride, weights, tile, pairs, out, place, width)


@by_hand("codec.dsp.tile_code", "add_row")
def _add_one(x, first, weights, tile, pairs, out, place):
    """Add a tile's product to one row of ``out``."""
    _add_rows(1, x, first, 0, weights, tile, pairs, out, place, 0)


def _add_rows(rows, x, first, stride, weights, tile, pairs, out, place, width):
    own = weights[tile : tile + 2 * TILE * pairs].reshape(pairs, TILE, 2).astype(np.int32)
    for r in range(rows):
        start = first + r * stride
        row = x[start : start + 2 * pairs].reshape(pairs, 1, 2).astype(np.int32)
        out[place + r * width : place + r * width + TILE] += (row * own).sum((0, 2), np.int32)


@kernel
def add_product(x, first, stride, weights, width, out):
    """Add ``x @ weights`` to ``out``; rows of ``x`` may overlap, as those of a convolution do.

    Parameters
    ----------
    x : int16 [any]              row r is x[first + r * stride :], as long as there are inputs
    first, stride : int          (an odd number of inputs: one more is read, with a weight of 0)
    weights : int16              of :func:`pack`
    width : int                  outputs in whole tiles
    out : int32 [rows * width]   changed
    """
    rows = out.size // width
    tile_size = weights.size // (width // TILE)
    pairs = tile_size // (2 * TILE)
    whole = rows - rows % _ROWS
    for tile in range(width // TILE):
        place, at = tile * TILE, tile * tile_size
        for r in range(0, whole, _ROWS):
            start = first + r * stride
            _add_four(x, start, stride, weights, at, pairs, out, place + r * width, width)
        for r in range(whole, rows):
            _add_one(x, first + r * stride, weights, at, pairs, out, place + r * width)
