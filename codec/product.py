"""Products of int16 matrices with int32 sums, the work horse of the networks that are coded with.

Integer sums have one value whatever their order, so processors may take them in the widest pieces
that they have: two products and their sum in one instruction, 8 or 16 sums at a time
(``tile_code.py`` has the LLVM code). That is three to five times as fast as float32 in a fixed
order.

Weights are packed in tiles of 16 outputs; within a tile, inputs come in pairs::

    tile 0: [pair 0: output 0 (input 0, input 1), output 1 (input 0, input 1), ..., output 15]
            [pair 1: output 0 (input 2, input 3), ...]
    tile 1: ...
"""

from __future__ import annotations

import numpy as np

from codec.jit import by_hand, inlined, kernel

TILE = 16  # outputs
ROWS = 8  # at a time, of one tile: weights that are read once serve all of them
TILES = 4  # at a time, where there is one row: inputs that are read once serve all of them


def padded(outputs: int) -> int:
    """Return a number of outputs as whole tiles."""
    return -(-outputs // TILE) * TILE


def packed_size(inputs: int, outputs: int) -> int:
    """Return how many numbers the packed weights of a layer are."""
    return padded(outputs) * (inputs + inputs % 2)


def pack(weights: np.ndarray) -> np.ndarray:
    """Return weights in the order in which :func:`multiply` takes them.

    Parameters
    ----------
    weights : [inputs, outputs]   whole numbers within int16, of any type

    Returns
    -------
    int16 [packed_size(inputs, outputs)]   zeros where there is no input or output
    """
    inputs, outputs = weights.shape
    whole = np.zeros((padded(outputs), inputs + inputs % 2), np.int16)
    whole[:outputs, :inputs] = weights.T
    pairs = whole.view(np.int32).reshape(-1, TILE, whole.shape[1] // 2)
    return np.ascontiguousarray(pairs.transpose(0, 2, 1)).reshape(-1).view(np.int16)


def _add(rows, tiles, arrays, places):
    """Do in Python what ``tile_code`` writes code for; arguments as in :func:`multiply`."""
    x, weights, start, out = arrays
    first, stride, weights_at, pairs, start_at, out_at, out_stride = places
    x, size = x.ravel(), 2 * TILE * pairs
    for t in range(tiles):
        own = weights[weights_at + t * size :][:size].reshape(pairs, TILE, 2).astype(np.int32)
        for r in range(rows):
            row = x[first + r * stride :][: 2 * pairs].reshape(pairs, 1, 2).astype(np.int32)
            begin = start[start_at + t * TILE :][:TILE]
            end = out_at + r * out_stride + t * TILE
            out[end : end + TILE] = begin + (row * own).sum((0, 2), np.int32)


@by_hand("codec.tile_code", "rows_of_a_tile")
def _rows_of_a_tile(arrays, places):
    _add(ROWS, 1, arrays, places)


@by_hand("codec.tile_code", "tiles_of_a_row")
def _tiles_of_a_row(arrays, places):
    _add(1, TILES, arrays, places)


@by_hand("codec.tile_code", "tile_of_a_row")
def _tile_of_a_row(arrays, places):
    _add(1, 1, arrays, places)


@inlined
def multiply_row(x, weights, start, start_at, out):
    """Write ``start[start_at :] + x @ weights`` to ``out``: :func:`multiply` for one row ``x``."""
    places = (0, x.size // 2, start_at, 0)
    _row((x, weights, start, out), places, out.size)


@kernel
def multiply(x, first, stride, weights, start, out):
    """Write ``start + x @ weights`` to ``out``; rows of ``x`` may overlap, as in a convolution.

    Parameters
    ----------
    x : int16, in one piece      row r begins at first + r * stride
    first, stride : int          (an odd number of inputs: one more is read, with a weight of 0)
    weights : int16              of :func:`pack`
    start : int32 [width]        width: outputs in whole tiles
    out : int32 [rows * width]
    """
    arrays, width = (x, weights, start, out), start.size
    rows, pairs = out.size // width, weights.size // (2 * width)
    whole = rows - rows % ROWS
    for tile in range(0, width, TILE):
        at = 2 * tile * pairs
        for r in range(0, whole, ROWS):
            places = (first + r * stride, stride, at, pairs, tile, r * width + tile, width)
            _rows_of_a_tile(arrays, places)
    for r in range(whole, rows):
        _row(arrays, (first + r * stride, pairs, 0, r * width), width)


@inlined
def _row(arrays, places, width):
    """Do one row, several tiles at a time."""
    first, pairs, start_at, out_at = places
    fours = width - width % (TILES * TILE)
    for o in range(0, fours, TILES * TILE):
        at = 2 * o * pairs
        _tiles_of_a_row(arrays, (first, 0, at, pairs, start_at + o, out_at + o, 0))
    for o in range(fours, width, TILE):
        at = 2 * o * pairs
        _tile_of_a_row(arrays, (first, 0, at, pairs, start_at + o, out_at + o, 0))
