"""MDCT and its inverse: orthonormal, sine window, perfect reconstruction by TDAC.

::

    samples   |  0 .. N-1 |  N .. 2N-1 | 2N ..
    block 0  [-N ........ N)
    block 1        [0 ......... 2N)
    block 2               [N ......... 3N)

Block ``i`` covers the samples ``[(i-1)N, (i+1)N)``: its first half overlaps the block before it.
The transform is written as one matrix product: with N = 160 that is as fast as a fast transform,
has one order of additions, and is easier to read.

References
----------
Princen & Bradley, "Analysis/synthesis filter bank design based on time domain aliasing
cancellation", IEEE Trans. ASSP 34(5), 1986.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.config import HOP_LENGTH
from codec.dsp.fixed import on_grid
from codec.dsp.layers import add_dense
from codec.jit import kernel
from codec.records import new, record

# The windowed basis, and its transpose.
TRANSFORM = record(
    forward=(np.float32, (2 * HOP_LENGTH, HOP_LENGTH)),
    inverse=(np.float32, (HOP_LENGTH, 2 * HOP_LENGTH)),
)


def make_transform() -> Any:
    """Return the windowed, orthonormal basis as a record of type ``TRANSFORM``."""
    n, k = np.arange(2 * HOP_LENGTH), np.arange(HOP_LENGTH)
    window = on_grid(np.sin(np.pi * (n + 0.5) / (2 * HOP_LENGTH)))
    # All angles are odd multiples of pi / 4N: their cosines come from one table of a period.
    table = on_grid(np.cos(np.pi * np.arange(8 * HOP_LENGTH) / (4 * HOP_LENGTH)))
    angle = (2 * n[:, None] + 1 + HOP_LENGTH) * (2 * k + 1) % (8 * HOP_LENGTH)
    basis = np.sqrt(2.0 / HOP_LENGTH) * window[:, None] * table[angle]
    transform = new(TRANSFORM)
    transform["forward"], transform["inverse"] = basis, basis.T
    return transform


@kernel
def forward(transform, samples, spectrum):
    """Transform some blocks.

    Parameters
    ----------
    transform : TRANSFORM
    samples : float32 [blocks, 2N]
    spectrum : float32 [blocks, N]   result
    """
    for b in range(spectrum.shape[0]):
        for k in range(spectrum.shape[1]):
            spectrum[b, k] = 0
    add_dense(samples, transform.forward[:], spectrum)


@kernel
def inverse(transform, spectrum, overlap, samples):
    """Transform some consecutive blocks back and add where they overlap.

    Parameters
    ----------
    transform : TRANSFORM
    spectrum : float32 [blocks, N]
    overlap : float32 [N]            second half of the block before; moves on
    samples : float32 [blocks * N]   result: each block completes the N samples before its middle
    """
    blocks, size = spectrum.shape
    both = np.zeros((blocks, 2 * size), np.float32)
    add_dense(spectrum, transform.inverse[:], both)
    for b in range(blocks):
        for n in range(size):
            samples[b * size + n] = both[b, n] + overlap[n]
            overlap[n] = both[b, size + n]
