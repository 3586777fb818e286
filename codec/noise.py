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

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SEQUENCE_LENGTH = 4096
MIX_1, MIX_2, MIX_3 = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35


@lru_cache(maxsize=2)
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


def hash32(x: np.ndarray) -> np.ndarray:
    """Return a 32-bit mixing hash of uint64 numbers."""
    x = ((x + np.uint64(1)) * np.uint64(MIX_1)) & np.uint64(0xFFFFFFFF)
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(MIX_2)) & np.uint64(0xFFFFFFFF)
    x = ((x ^ (x >> np.uint64(13))) * np.uint64(MIX_3)) & np.uint64(0xFFFFFFFF)
    return x ^ (x >> np.uint64(16))


def fill_noise(first_packet: int, packets: int, blocks: int, num_bins: int) -> np.ndarray:
    """Return the noise of some packets of a file, the same on every machine.

    Parameters
    ----------
    first_packet : int   number of the first packet in the file
    packets, blocks, num_bins : int

    Returns
    -------
    float32 array, shape [packets, blocks, num_bins], values ±1
    """
    start = first_packet * blocks
    h = hash32(np.arange(start, start + packets * blocks, dtype=np.uint64))
    place = (h >> np.uint64(8)).astype(np.int64) % (SEQUENCE_LENGTH - num_bins)
    sign = 1 - 2 * (h & np.uint64(1)).astype(np.int8)
    noise = rudin_shapiro()[place[:, None] + np.arange(num_bins)] * sign[:, None]
    return noise.reshape(packets, blocks, num_bins).astype(np.float32)


def random_noise(like: Tensor) -> Tensor:
    """Return noise of the same kind for training, from torch's generator, shape [..., N]."""
    num_bins = like.shape[-1]
    sequence = torch.from_numpy(rudin_shapiro()).to(like)
    shape = (*like.shape[:-1], 1)
    place = torch.randint(0, SEQUENCE_LENGTH - num_bins, shape, device=like.device)
    sign = torch.randint(0, 2, shape, device=like.device).to(like) * 2 - 1
    return sequence[place + torch.arange(num_bins, device=like.device)] * sign
