"""Detail of the envelope: levels of narrow bands in short blocks, above 1.5 kHz.

Where bits were too few for coefficients, the decoder puts noise, and a listener hears whether that
has the right level at the right time. The envelope tells it of broad bands and whole frames; the
detail adds, for each block and for bands of 300 Hz, the octaves by which the level there differs.
It is coded as the envelope's shape is, by multi-stage vector quantization, and predicted from the
shapes of this frame and the last and from the last detail; intra frames have tables of their own,
which know the shape of this frame only. The larger the frame, the more stages.
"""

from __future__ import annotations

import numpy as np

from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_BITS,
    DETAIL_EDGES,
    DETAIL_FROM_BITS,
    DETAIL_SIZE,
    HOP_LENGTH,
    LOG_FLOOR,
    LOG_ONE,
    NUM_DETAIL_BANDS,
)
from codec.dsp.bands import band_means
from codec.dsp.fixed import log2
from codec.jit import kernel

# Octaves by which a detail may differ from the envelope, and what an empty band is taken for.
DETAIL_LIMIT = np.float32(6.0)
SMALLEST_POWER = np.float32(2.0 ** (2 * LOG_FLOOR / LOG_ONE))
_EDGES = np.array(DETAIL_EDGES)
_FROM_BITS = np.array(DETAIL_FROM_BITS)


@kernel
def stages_of(frame_bits):
    """Return how many stages describe the detail of a frame."""
    stages = 0
    while stages < _FROM_BITS.size and frame_bits >= _FROM_BITS[stages]:
        stages += 1
    return stages


@kernel
def bits_of(stages):
    """Return the bits that the rest of a frame does without, for its detail."""
    return stages * DETAIL_BITS


@kernel
def band_levels(power, out):
    """Write the levels of a frame's detail bands to ``out`` float32 [2 bands], Q8 octaves.

    ``power`` float32 [2, N] is that of each block, at each coefficient.
    """
    for block in range(BLOCKS_PER_FRAME):
        level = out[block * NUM_DETAIL_BANDS : (block + 1) * NUM_DETAIL_BANDS]
        band_means(_EDGES, power[block], level)
    for j in range(DETAIL_SIZE):
        out[j] += SMALLEST_POWER
    log2(out, out)
    for j in range(DETAIL_SIZE):
        out[j] *= np.float32(0.5 * LOG_ONE)


@kernel
def find(levels, smooth, out):
    """Write the detail of a frame to ``out`` float32 [2 bands], Q8 octaves.

    Parameters
    ----------
    levels : float32 [2 bands]   as ``band_levels`` gives them
    smooth : int32 [N]           decoded envelope at each coefficient, Q8
    """
    expected = np.empty(HOP_LENGTH, np.float32)
    for k in range(HOP_LENGTH):
        expected[k] = np.float32(smooth[k])
    base = np.empty(NUM_DETAIL_BANDS, np.float32)
    band_means(_EDGES, expected, base)
    limit = DETAIL_LIMIT * np.float32(LOG_ONE)
    for i in range(DETAIL_SIZE):
        out[i] = min(max(levels[i] - base[i % NUM_DETAIL_BANDS], -limit), limit)
