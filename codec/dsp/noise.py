"""Noise of the decoder, which fills what was not coded: signs, and from 3 kHz on magnitudes.

Every block takes a stretch of the Rudin-Shapiro sequence, at a place and with a sign that a hash of
the block's number picks. Of all white noises in the MDCT domain, signs have the steadiest
spectrum; a Rudin-Shapiro stretch also has a flat envelope in time, because the magnitude of its
Fourier transform never exceeds sqrt(2) of the mean. The random places keep blocks unrelated: the
same stretch in every block would be heard as a buzz at the block rate.

From 3 kHz on a noise so steady sounds artificial. There the signs get magnitudes of a Laplace
distribution, with the power of every few coefficients held to 1: near to what coefficients of
speech around a smooth envelope have. In unvoiced frames each block has magnitudes of its own,
in voiced ones both have the same, as what is voiced keeps its spectrum.

References
----------
Rudin, "Some theorems on Fourier coefficients", Proc. AMS 10, 1959.
Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (the hash).
"""

from __future__ import annotations

import numpy as np

from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH
from codec.dsp.fixed import exp2, on_grid
from codec.jit import kernel

SEQUENCE_LENGTH = 4096
STEADY = 60  # coefficients of signs alone: below 3 kHz
GROUP = 5  # coefficients above, 250 Hz, whose power is 1
# Frames whose periodicity is below the first value are unvoiced, above it plus the range voiced.
VOICED_FROM, VOICED_RANGE = np.float32(0.3), np.float32(0.3)
_MIX_1, _MIX_2, _MIX_3 = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35
_MASK = 0xFFFFFFFF
_NUM_SIZED = HOP_LENGTH - STEADY


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


def log_sizes(length: int = SEQUENCE_LENGTH) -> np.ndarray:
    """Return log2 of the magnitudes of a Laplace distribution, in an order that looks random.

    float32 array: the quantile at the middle of each of ``length`` equal shares comes once.
    """
    shares = (np.arange(length) + 0.5) / length
    mix = getattr(hash32, "function", hash32)  # uncompiled it takes arrays
    order = np.argsort(mix(np.arange(length, dtype=np.uint64)))
    return on_grid(np.log2(-np.log(shares)))[order].astype(np.float32)


@kernel
def hash32(x):
    """Return a 32-bit mixing hash of an integer >= 0."""
    x = ((x + 1) & _MASK) * _MIX_1 & _MASK
    x = ((x ^ (x >> 16)) * _MIX_2) & _MASK
    x = ((x ^ (x >> 13)) * _MIX_3) & _MASK
    return x ^ (x >> 16)


_SEQUENCE = rudin_shapiro()
_LOG_SIZES = log_sizes()


@kernel
def _place(h, length):
    """Return where a stretch of a sequence begins, as the bits ``h`` have it."""
    return (h >> 8) % (SEQUENCE_LENGTH - length)


@kernel
def fill(number, periodicity, out):
    """Write the noise of a frame to ``out`` float32 [2, N]: rms 1 in any group, signs below.

    Parameters
    ----------
    number : int                   of the frame in the file
    periodicity : float32 [2]      of its blocks, 0..1
    """
    voicing = np.float32(0.5) * (periodicity[0] + periodicity[1])
    voicing = min(max((voicing - VOICED_FROM) / VOICED_RANGE, np.float32(0.0)), np.float32(1.0))
    common = np.float32(np.sqrt(voicing))
    own = np.float32(np.sqrt(np.float32(1.0) - voicing))
    sizes = np.empty(_NUM_SIZED, np.float32)
    shared = _place(hash32(~number & _MASK), _NUM_SIZED)
    for block in range(BLOCKS_PER_FRAME):
        h = hash32(number * BLOCKS_PER_FRAME + block)
        place = _place(h, HOP_LENGTH)
        sign = np.float32(1 - 2 * (h & 1))
        for k in range(HOP_LENGTH):
            out[block, k] = sign * np.float32(_SEQUENCE[place + k])
        place = _place(hash32(h), _NUM_SIZED)
        for k in range(_NUM_SIZED):
            sizes[k] = own * _LOG_SIZES[place + k] + common * _LOG_SIZES[shared + k]
        exp2(sizes, sizes)
        for first in range(0, _NUM_SIZED, GROUP):
            power = np.float32(0.0)
            for k in range(first, first + GROUP):
                power += sizes[k] * sizes[k]
            scale = np.float32(np.sqrt(np.float32(GROUP) / power))
            for k in range(first, first + GROUP):
                out[block, STEADY + k] *= sizes[k] * scale
