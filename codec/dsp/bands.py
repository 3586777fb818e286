"""Bands of coefficients, the envelope's and its detail's: means in them, values in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codec.config import HOP_LENGTH
from codec.jit import kernel


def interpolation(edges: Sequence[int]) -> np.ndarray:
    """Return what interpolates values of bands linearly at each coefficient, float64 [N, 2].

    Of each coefficient: the band below it, and the weight of the band above, in steps of 1/256, so
    that integers compute the same values.
    """
    centres = (np.array(edges[:-1]) + edges[1:]) / 2
    table = np.zeros((HOP_LENGTH, 2))
    for k in range(HOP_LENGTH):
        place = min(max(k + 0.5, centres[0]), centres[-1])
        band = min(int(np.searchsorted(centres, place, side="right")) - 1, len(centres) - 2)
        weight = (place - centres[band]) / (centres[band + 1] - centres[band])
        table[k] = band, round(weight * 256) / 256
    return table


@kernel
def band_means(edges, x, out):
    """Write the mean of ``x`` [N] in each band to ``out``; ``edges`` are one more than bands."""
    for b in range(out.size):
        total = np.float32(0.0)
        for k in range(edges[b], edges[b + 1]):
            total += x[k]
        out[b] = total / np.float32(edges[b + 1] - edges[b])
