"""Products of int16 matrices: the integers of NumPy, compiled or not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codec.product import (
    ROWS,
    TILE,
    TILES,
    multiply,
    multiply_row,
    pack,
    packed_size,
    padded,
)

RNG = np.random.default_rng(0)
SIZES = [(1, 1), (2, TILE), (9, 64), (64, 32), (7, TILES * TILE + 1), (384, 40)]


def whole(size: tuple[int, ...], limit: int = 2**15) -> np.ndarray:
    return RNG.integers(-limit, limit, size).astype(np.int16)


@pytest.mark.parametrize("rows", [1, ROWS - 1, ROWS, 2 * ROWS + 3])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_integers_are_numpys(inputs: int, outputs: int, rows: int) -> None:
    """Of any int16 numbers: sums beyond int32 wrap around, as int32 sums do."""
    weights, x = whole((inputs, outputs)), whole((rows, inputs))
    packed, width = pack(weights), padded(outputs)
    assert packed.size == packed_size(inputs, outputs)
    start = RNG.integers(-(2**31), 2**31, width).astype(np.int32)
    exact = x.astype(np.int64) @ weights.astype(np.int64) + start[:outputs]
    wanted = (exact & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    flat = np.append(x, np.int16(77))  # what stands behind an odd row has a weight of 0
    out = np.zeros((rows, width), np.int32)
    multiply(flat, 0, inputs, packed, start, out.reshape(-1))
    np.testing.assert_array_equal(out[:, :outputs], wanted)
    np.testing.assert_array_equal(out[:, outputs:], np.tile(start[outputs:], (rows, 1)))
    if inputs % 2 == 0:
        row = np.zeros(width, np.int32)
        multiply_row(x[0].copy(), packed, np.append(np.zeros(5, np.int32), start), 5, row)
        np.testing.assert_array_equal(row, out[0])


def test_rows_may_overlap() -> None:
    x, weights, width = whole((60,), 1000), whole((6, 5), 1000), padded(5)
    out = np.zeros((20, width), np.int32)
    multiply(x, 3, 2, pack(weights), np.zeros(width, np.int32), out.reshape(-1))
    for r in range(20):
        row = x[3 + 2 * r : 9 + 2 * r].astype(np.int64)
        np.testing.assert_array_equal(out[r, :5], row @ weights.astype(np.int64))


ALONE = """
import numpy as np
from codec.product import multiply, pack

rng = np.random.default_rng(0)
x, weights = (rng.integers(-(2**15), 2**15, size).astype(np.int16) for size in ((9, 10), (10, 48)))
start, out = rng.integers(-(2**31), 2**31, 48).astype(np.int32), np.zeros(432, np.int32)
multiply(x, 0, 10, pack(weights), start, out)
exact = x.astype(np.int64) @ weights.astype(np.int64) + start
assert ((exact & 0xFFFFFFFF) == out.reshape(9, 48).view(np.uint32)).all()
print("equal")
"""


@pytest.mark.parametrize(
    "variables", [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_CPU_NAME": "generic"}], ids=str
)
def test_the_same_without_the_instruction_for_it(variables: dict[str, str], tmp_path: Path) -> None:
    """As Python, and as machine code for a processor that has nothing special."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **variables}
    run = [sys.executable, "-c", ALONE]
    assert subprocess.check_output(run, env=environment, text=True) == "equal\n"
