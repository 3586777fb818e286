"""MDCT and its inverse: orthonormal, sine window, perfect reconstruction by TDAC.

::

    samples   |  0 .. N-1 |  N .. 2N-1 | 2N ..
    block 0  [-N ........ N)
    block 1        [0 ......... 2N)
    block 2               [N ......... 3N)

Block ``i`` covers the samples ``[(i-1)N, (i+1)N)``: its first half overlaps the block before it.
The transform is written as one matrix product: with N = 160 that is as fast as a fast transform,
has one order of additions, and is easier to read.

Two block lengths: a frame is two blocks of N coefficients, or one "long" block of 2N under a window
with the same slopes of N samples at both ends, flat between them::

    two blocks   [rise  fall]            one block   [rise  1 ... 1  fall]
                       [rise  fall]

Aliasing at the ends is the same, so both sets of functions span the same space: one orthonormal
matrix, ``to_long``, turns the coefficients of two blocks into those of one, and its transpose back.
Neither the neighbours nor the delay know which of them was coded.

References
----------
Princen & Bradley, "Analysis/synthesis filter bank design based on time domain aliasing
cancellation", IEEE Trans. ASSP 34(5), 1986.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH
from codec.dsp.fixed import on_grid
from codec.dsp.layers import add_dense
from codec.jit import kernel
from codec.records import new, record

# No windowed sample is larger than the norm of its block's coefficients, but where its alias takes
# off some of it: twice the norm is allowed.
ALIAS = np.float32(2.0)
# Two blocks see the samples that they share with their mirror image added, or taken off. So one of
# them misses a short pulse in the middle, but then the other has nearly all of its energy there;
# of the noise that spreads over a block half of it is.
SHARE = 0.75
ANY_NORM = np.float32(1e30)  # of a block of which nothing is known
# The windowed basis, its transpose, the same with sines in place of cosines (MDST), the matrix from
# two blocks [2N] to one long block [2N], even coefficients first, then the odd ones, and its
# transpose; the rising half of the window.
TRANSFORM = record(
    forward=(np.float32, (2 * HOP_LENGTH, HOP_LENGTH)),
    inverse=(np.float32, (HOP_LENGTH, 2 * HOP_LENGTH)),
    quadrature=(np.float32, (2 * HOP_LENGTH, HOP_LENGTH)),
    to_long=(np.float32, (2 * HOP_LENGTH, 2 * HOP_LENGTH)),
    to_short=(np.float32, (2 * HOP_LENGTH, 2 * HOP_LENGTH)),
    rise=(np.float32, HOP_LENGTH),
)


def _basis(size: int, window: np.ndarray, quadrature: bool = False) -> np.ndarray:
    """Return MDCT (or MDST) functions of ``size`` coefficients, float64 [2 size, size]."""
    n, k = np.arange(2 * size), np.arange(size)
    # All angles are odd multiples of pi / 4 size: their cosines come from one table of a period.
    table = on_grid(np.cos(np.pi * np.arange(8 * size) / (4 * size)))
    turn = (2 * n[:, None] + 1 + size) * (2 * k + 1)
    if quadrature:
        turn -= 2 * size
    return np.sqrt(2.0 / size) * window[:, None] * table[turn % (8 * size)]


def _long_from_short() -> np.ndarray:
    """Return the orthonormal matrix from two blocks to a long one, float64 [2N short, 2N long]."""
    size, n = HOP_LENGTH, np.arange(HOP_LENGTH)
    rise = on_grid(np.sin(np.pi * (n + 0.5) / (2 * size)))
    nothing = np.zeros(size // 2)
    window = np.concatenate([nothing, rise, np.ones(size), rise[::-1], nothing])
    long = _basis(2 * size, window)[size // 2 : -size // 2]  # [3N, 2N]
    short = _basis(size, np.concatenate([rise, rise[::-1]])).T
    # On a grid of 2^-24 all products and sums are exact in float64, in whatever order.
    scale = 2.0**24
    short, long = np.round(short * scale), np.round(long * scale)
    matrix = np.concatenate([short @ long[: 2 * size], short @ long[size:]]) / scale**2
    return np.concatenate([matrix[:, 0::2], matrix[:, 1::2]], 1)


def make_transform() -> Any:
    """Return the windowed, orthonormal basis as a record of type ``TRANSFORM``."""
    n = np.arange(2 * HOP_LENGTH)
    window = on_grid(np.sin(np.pi * (n + 0.5) / (2 * HOP_LENGTH)))
    transform = new(TRANSFORM)
    basis = _basis(HOP_LENGTH, window)
    transform["forward"], transform["inverse"] = basis, basis.T
    transform["quadrature"] = _basis(HOP_LENGTH, window, quadrature=True)
    matrix = _long_from_short()
    transform["to_long"], transform["to_short"] = matrix, matrix.T
    transform["rise"] = window[:HOP_LENGTH]
    return transform


@kernel
def _multiply(rows, matrix, out):
    for b in range(out.shape[0]):
        for n in range(out.shape[1]):
            out[b, n] = 0
    add_dense(rows, matrix, out)


@kernel
def forward(transform, samples, spectrum):
    """Transform some blocks.

    Parameters
    ----------
    transform : TRANSFORM
    samples : float32 [blocks, 2N]
    spectrum : float32 [blocks, N]   result
    """
    _multiply(samples, transform.forward[:], spectrum)


@kernel
def forward_quadrature(transform, samples, spectrum):
    """Transform some blocks with sines in place of cosines (MDST); see :func:`forward`."""
    _multiply(samples, transform.quadrature[:], spectrum)


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
    windowed = np.empty((blocks, 2 * size), np.float32)
    inverse_blocks(transform, spectrum, windowed)
    for b in range(blocks):
        overlap_add(overlap, windowed[b], samples[b * size : (b + 1) * size])


@kernel
def inverse_blocks(transform, spectrum, windowed):
    """Transform blocks back, one by one: float32 [blocks, N] to [blocks, 2N]."""
    _multiply(spectrum, transform.inverse[:], windowed)


@kernel
def overlap_add(overlap, windowed, samples):
    """Add the halves of two blocks that meet; float32 [N], [2N] in, [N] out; overlap moves on."""
    for n in range(overlap.size):
        samples[n] = windowed[n] + overlap[n]
        overlap[n] = windowed[overlap.size + n]


@kernel
def norm(spectrum):
    """Return the square root of a block's energy; float32 [N] in."""
    total = np.float64(0.0)
    for k in range(spectrum.size):
        total += np.float64(spectrum[k]) * np.float64(spectrum[k])
    return np.float32(np.sqrt(total))


@kernel
def spreads(before, now, overlap, windowed):
    """Return whether what two blocks share may be spread there by the louder one.

    Parameters
    ----------
    before, now : float32     norms of two blocks, or ANY_NORM
    overlap : float32 [N]     second half of the first one
    windowed : float32 [2N]   the second one
    """
    louder = np.float64(max(before, now))
    if louder >= ANY_NORM:
        return False
    energy = np.float64(0.0)
    for n in range(overlap.size):
        sample = np.float64(overlap[n] if before > now else windowed[n])
        energy += sample * sample
    return energy < SHARE * louder * louder


@kernel
def keep_silence(transform, before, now, samples):
    """Hold samples to what both blocks that they lie in can tell of.

    Quantization noise spreads over all of a block, into silence as well: an echo before an onset,
    and one behind an end. The silent block beside it tells that there is nothing: no windowed
    sample is much larger than the block's norm. To be called where :func:`spreads` says so.

    Parameters
    ----------
    transform : TRANSFORM
    before, now : float32     norms of the block whose second half this is, and of the next one
    samples : float32 [N]
    """
    for n in range(HOP_LENGTH):
        limit = ALIAS * min(before / transform.rise[HOP_LENGTH - 1 - n], now / transform.rise[n])
        samples[n] = min(max(samples[n], -limit), limit)


@kernel
def to_long(transform, spectrum, out):
    """Write the long block of a frame's two blocks: even coefficients, then odd ones; [2, N]."""
    _change(spectrum, transform.to_long[:], out)


@kernel
def to_short(transform, spectrum, out):
    """Write the two blocks of a frame's long block; the inverse of :func:`to_long`."""
    _change(spectrum, transform.to_short[:], out)


@kernel
def _change(spectrum, matrix, out):
    row = np.empty((1, 2 * HOP_LENGTH), np.float32)
    result = np.zeros((1, 2 * HOP_LENGTH), np.float32)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            row[0, block * HOP_LENGTH + k] = spectrum[block, k]
    add_dense(row, matrix, result)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            out[block, k] = result[0, block * HOP_LENGTH + k]
