"""Spectral envelope analysis of the encoder: what envelope a frame should get.

::

    waveform ─► 480-sample frame ─► LPC (order 16) ─► log2 envelope per band ──────────┐
    MDCT² + MDST² ─► log2 power per band and block ─────────────────────────────────┐  │
              └► log2 power per band and frame ──► + ◄── small correction ◄── MLP ◄─┴──┘
                                                   ▼
                                        proposed envelope [bands], octaves

Beside it stand the levels of the detail's bands in each block, under a shorter window.

The power of both transforms does not depend on the phase, as that of the MDCT alone does: it is
what a listener hears as the level of a band, and what the decoder gives back where bits were few.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.coding.detail import band_levels
from codec.config import (
    BAND_EDGES,
    BLOCKS_PER_FRAME,
    HOP_LENGTH,
    LOG_FLOOR,
    LOG_ONE,
    NUM_BANDS,
    CodecConfig,
)
from codec.dsp import lpc, mdct
from codec.dsp.bands import band_means
from codec.dsp.fixed import gelu, log2, on_grid
from codec.dsp.layers import dense
from codec.jit import kernel
from codec.records import new, record

# Of the strongest band's power: what a band has at least (-54 dB).
RELATIVE_FLOOR = np.float32(2.0**-18)
POWER_FLOOR = np.float32(2.0 ** (2 * LOG_FLOOR / LOG_ONE))
DETAIL_WINDOW = 256  # samples, Hann, around the middle of a block
_EDGES = np.array(BAND_EDGES)


def analysis_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of the analysis: transforms, and the network, weights input-major."""
    hidden, features = config.analysis_hidden, (BLOCKS_PER_FRAME + 1) * NUM_BANDS
    return record(
        transform=mdct.TRANSFORM,
        taper=(np.float32, 2 * HOP_LENGTH),  # the detail's window over that of the MDCT
        prediction=lpc.PREDICTION,
        w1=(np.float32, (features, hidden)),
        b1=(np.float32, hidden),
        w2=(np.float32, (hidden, NUM_BANDS)),
        b2=(np.float32, NUM_BANDS),
    )


def make_model(parameters: dict[str, np.ndarray], config: CodecConfig) -> Any:
    """Return the record of the parameters of stage ``analysis``, by field name."""
    model = new(analysis_dtype(config))
    model["transform"], model["prediction"] = mdct.make_transform(), lpc.make_prediction()
    model["taper"] = detail_taper()
    for layer, name in ((1, "network.0"), (2, "network.2")):
        model[f"w{layer}"] = parameters[f"analysis.{name}.weight"].T
        model[f"b{layer}"] = parameters[f"analysis.{name}.bias"]
    return model


def detail_taper() -> np.ndarray:
    """Return what turns the MDCT's window into the detail's, of the same energy, float64 [2N]."""
    n = np.arange(DETAIL_WINDOW)
    hann = on_grid(0.5 - 0.5 * np.cos(2 * np.pi * (n + 0.5) / DETAIL_WINDOW))
    beside = (2 * HOP_LENGTH - DETAIL_WINDOW) // 2
    window = np.pad(hann, beside) * np.sqrt(HOP_LENGTH / (3 / 8 * DETAIL_WINDOW))
    sine = on_grid(np.sin(np.pi * (np.arange(2 * HOP_LENGTH) + 0.5) / (2 * HOP_LENGTH)))
    taper: np.ndarray = window / sine
    return taper


@kernel
def _transform(transform, windows, spectrum, power):
    """Write MDCT and power of a frame's two windows [2, 2N]: (MDCT² + MDST²) / 2; [2, N] each."""
    quadrature = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    mdct.forward(transform, windows, spectrum)
    mdct.forward_quadrature(transform, windows, quadrature)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            cosine, sine = spectrum[block, k], quadrature[block, k]
            power[block, k] = np.float32(0.5) * (cosine * cosine + sine * sine)


@kernel
def _levels(coefficients, level):
    """Write log2 rms of the bands, of the frame and of each block, to ``level`` [3 * bands].

    ``coefficients`` [2, N] is the power of each. Returns that which every band has at least.
    """
    power = np.zeros((BLOCKS_PER_FRAME + 1, NUM_BANDS), np.float32)
    for block in range(BLOCKS_PER_FRAME):
        band_means(_EDGES, coefficients[block], power[block + 1])
        for b in range(NUM_BANDS):
            power[0, b] += power[block + 1, b] / np.float32(BLOCKS_PER_FRAME)
    top = np.float32(0.0)
    for b in range(NUM_BANDS):
        top = max(top, power[0, b])
    floor = POWER_FLOOR + RELATIVE_FLOOR * top
    for i in range(BLOCKS_PER_FRAME + 1):
        for b in range(NUM_BANDS):
            power[i, b] += floor
        log2(power[i], level[i * NUM_BANDS : (i + 1) * NUM_BANDS])
    for i in range(level.size):
        level[i] *= np.float32(0.5)
    return floor


@kernel
def _features(level, smooth, floor, out):
    """Write the inputs of the network to ``out`` [3 * bands]: blocks, then LPC, over the frame."""
    mean = np.float32(0.0)
    for b in range(NUM_BANDS):
        mean += level[b]
    mean /= np.float32(NUM_BANDS)
    for i in range(BLOCKS_PER_FRAME * NUM_BANDS):
        out[i] = np.float32(0.25) * (level[NUM_BANDS + i] - mean)
    last = out[BLOCKS_PER_FRAME * NUM_BANDS :]
    band_means(_EDGES, smooth, last)
    lowest = np.empty(1, np.float32)
    lowest[0] = floor
    log2(lowest, lowest)
    for b in range(NUM_BANDS):
        smoothed = max(last[b], np.float32(0.5) * lowest[0])
        last[b] = np.float32(0.25) * (smoothed - level[b])


@kernel
def analyse(model, samples, spectrum, proposed):
    """Transform a frame and propose its envelope, and find what its detail follows from.

    Parameters
    ----------
    model : record             of analysis_dtype
    samples : float32 [3N]     under the frame's two windows
    spectrum : float32 [2, N]  result: MDCT
    proposed : float32 [NUM_PROPOSED]   result: the envelope [bands], Q8 octaves, at least
                               LOG_FLOOR; then the levels of the detail's bands
    """
    windows = np.empty((BLOCKS_PER_FRAME, 2 * HOP_LENGTH), np.float32)
    for block in range(BLOCKS_PER_FRAME):
        for n in range(2 * HOP_LENGTH):
            windows[block, n] = samples[block * HOP_LENGTH + n]
    power = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    _transform(model.transform, windows, spectrum, power)
    level = np.empty((BLOCKS_PER_FRAME + 1) * NUM_BANDS, np.float32)
    floor = _levels(power, level)
    smooth = np.empty(HOP_LENGTH, np.float32)
    lpc.envelope(model.prediction, samples, smooth)
    features = np.empty((1, level.size), np.float32)
    _features(level, smooth, floor, features[0])
    hidden = np.empty((1, model.b1.size), np.float32)
    correction = np.empty((1, NUM_BANDS), np.float32)
    dense(features, model.w1[:], model.b1[:], hidden)
    gelu(hidden[0])
    dense(hidden, model.w2[:], model.b2[:], correction)
    for b in range(NUM_BANDS):
        value = (level[b] + correction[0, b]) * np.float32(LOG_ONE)
        proposed[b] = max(value, np.float32(LOG_FLOOR))
    for block in range(BLOCKS_PER_FRAME):
        for n in range(2 * HOP_LENGTH):
            windows[block, n] *= model.taper[n]
    _transform(model.transform, windows, np.empty_like(power), power)
    band_levels(power, proposed[NUM_BANDS:])
