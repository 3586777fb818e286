"""Bands of the envelope's detail: means of values in them, and the way back to coefficients."""

from __future__ import annotations

import numpy as np

from codec.config import DETAIL_EDGES, HOP_LENGTH, NUM_DETAIL_BANDS
from codec.jit import kernel

_EDGES = np.array(DETAIL_EDGES)


def detail_interpolation() -> np.ndarray:
    """Return what interpolates detail at each coefficient: (band, its weight, that of the next).

    float32 [N, 3]; both weights are 0 below the first band.
    """
    centres = (_EDGES[:-1] + _EDGES[1:]) / 2
    table = np.zeros((HOP_LENGTH, 3), np.float32)
    for k in range(DETAIL_EDGES[0], HOP_LENGTH):
        place = min(max(k + 0.5, centres[0]), centres[-1])
        band = min(int(np.searchsorted(centres, place, side="right")) - 1, NUM_DETAIL_BANDS - 2)
        weight = round((place - centres[band]) / (centres[band + 1] - centres[band]) * 256) / 256
        table[k] = band, 1 - weight, weight
    return table


@kernel
def band_means(x, out):
    """Write the mean of ``x`` [N] in each detail band to ``out`` [detail bands]."""
    for j in range(NUM_DETAIL_BANDS):
        total = np.float32(0.0)
        for k in range(_EDGES[j], _EDGES[j + 1]):
            total += x[k]
        out[j] = total / np.float32(_EDGES[j + 1] - _EDGES[j])
