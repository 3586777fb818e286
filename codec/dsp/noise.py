"""Noise of the decoder: signs that fill what was not coded.

Every block takes a stretch of the Rudin-Shapiro sequence, at a place and with a sign that a hash of
the block's number picks. Of all white noises in the MDCT domain, signs have the steadiest
spectrum; a Rudin-Shapiro stretch also has a flat envelope in time, because the magnitude of its
Fourier transform never exceeds sqrt(2) of the mean. The random places keep blocks unrelated: the
same stretch in every block would be heard as a buzz at the block rate.

References
----------
Rudin, "Some theorems on Fourier coefficients", Proc. AMS 10, 1959.
Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (the hash).
"""

from __future__ import annotations

import numpy as np

from codec.jit import kernel

SEQUENCE_LENGTH = 4096
_MIX_1, _MIX_2, _MIX_3 = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35
_MASK = 0xFFFFFFFF


def rudin_shapiro(length: int = SEQUENCE_LENGTH) -> np.ndarray:
    """Return the first terms of the Rudin-Shapiro sequence, int8 array of ±1.

    Term n is the parity of how often two adjacent bits of n are both set.
    """
    pairs = np.arange(length, dtype=np.int64)
    pairs &= pairs >> 1
    parity = np.zeros(length, np.int8)
    while pairs.any():
        parity ^= (pairs & 1).astype(np.int8)
        pairs >>= 1
    return 1 - 2 * parity


_SEQUENCE = rudin_shapiro()


@kernel
def hash32(x):
    """Return a 32-bit mixing hash of an integer >= 0."""
    x = ((x + 1) & _MASK) * _MIX_1 & _MASK
    x = ((x ^ (x >> 16)) * _MIX_2) & _MASK
    x = ((x ^ (x >> 13)) * _MIX_3) & _MASK
    return x ^ (x >> 16)


@kernel
def fill(block, out):
    """Write the noise of a block, given by its number in the file, to ``out`` float32 [N], ±1."""
    h = hash32(block)
    place = (h >> 8) % (SEQUENCE_LENGTH - out.size)
    sign = np.float32(1 - 2 * (h & 1))
    for k in range(out.size):
        out[k] = sign * np.float32(_SEQUENCE[place + k])
