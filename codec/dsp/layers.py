"""Layers of networks: integer ones for what is large, float32 ones in a fixed order for the rest.

**Integer layers** (enhancer): weights are int16 with one scale per output, inputs int16 with one
scale per layer, sums int32 (``product.py``). Sums cannot overflow: inputs lie within ±8191, and an
output's weights together within ±2^17.8. Rounding weights and inputs costs about -60 dB each. One
product serves dense layers, the recurrent one, and convolutions, whose rows overlap.

**Float32 layers** (:func:`add_dense`): the transforms, and the encoder's analysis. Weights lie
input-major, ``[inputs, outputs]``: an output's sum runs over the inputs from first to last whatever
the width of the machine's vectors, which run over the outputs. Four inputs of four or two frames at
a time are taken, to touch outputs and weights less often; the order of additions is still that of
the inputs.

Frames of a batch do not meet each other, so a frame's result does not depend on its neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.dsp.fixed import sigmoid, tanh
from codec.jit import kernel
from codec.product import multiply, pack, packed_size, padded
from codec.records import record

INPUT_LIMIT = 8191  # |integer inputs|
BIAS_LIMIT = 2**28
# Of an output's |weights|, before they are rounded: with the bias, no sum exceeds int32.
WEIGHT_SUM = (2**31 - BIAS_LIMIT) // INPUT_LIMIT - 1024
ACTIVATION_ONE = 512  # inputs within ±16 as integers: of most layers,
MEMORY_ONE = 8192  # and within ±1: of a recurrent layer's memory
_LIMIT, _TO_POSITIVE = np.float32(INPUT_LIMIT), np.float32(INPUT_LIMIT + 1.5)


# --- float32 layers -------------------------------------------------------------------------------


@kernel
def add_dense(x, weights, out):
    """Add ``x @ weights`` to ``out``.

    Parameters
    ----------
    x : float32 [frames, inputs]
    weights : float32 [inputs, outputs]   rows are padded by nothing: any number of inputs
    out : float32 [frames, outputs]       holds the bias, say
    """
    inputs, frames = weights.shape[0], x.shape[0]
    whole, fours = inputs - inputs % 4, frames - frames % 4
    for i in range(0, whole, 4):
        w = weights[i : i + 4]
        for f in range(0, fours, 4):
            _add_four_frames(x[f : f + 4, i : i + 4], w, out[f : f + 4])
        f = fours
        if frames - f >= 2:
            _add_two_frames(x[f : f + 2, i : i + 4], w, out[f : f + 2])
            f += 2
        if f < frames:
            w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
            a, b, c, d = x[f, i], x[f, i + 1], x[f, i + 2], x[f, i + 3]
            row = out[f]
            for o in range(row.size):
                row[o] = (((row[o] + a * w0[o]) + b * w1[o]) + c * w2[o]) + d * w3[o]
    for i in range(whole, inputs):
        w0 = weights[i]
        for f in range(frames):
            a, row = x[f, i], out[f]
            for o in range(row.size):
                row[o] += a * w0[o]


@kernel
def _add_four_frames(x, weights, out):
    """Add four inputs of four frames: weights that are read once serve all of them."""
    a0, a1, a2, a3 = x[0, 0], x[0, 1], x[0, 2], x[0, 3]
    b0, b1, b2, b3 = x[1, 0], x[1, 1], x[1, 2], x[1, 3]
    c0, c1, c2, c3 = x[2, 0], x[2, 1], x[2, 2], x[2, 3]
    d0, d1, d2, d3 = x[3, 0], x[3, 1], x[3, 2], x[3, 3]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    a, b, c, d = out[0], out[1], out[2], out[3]
    for o in range(a.size):
        s, t, u, v = w0[o], w1[o], w2[o], w3[o]
        a[o] = (((a[o] + a0 * s) + a1 * t) + a2 * u) + a3 * v
        b[o] = (((b[o] + b0 * s) + b1 * t) + b2 * u) + b3 * v
        c[o] = (((c[o] + c0 * s) + c1 * t) + c2 * u) + c3 * v
        d[o] = (((d[o] + d0 * s) + d1 * t) + d2 * u) + d3 * v


@kernel
def _add_two_frames(x, weights, out):
    """Add four inputs of two frames, as :func:`_add_four_frames` those of four."""
    a0, a1, a2, a3 = x[0, 0], x[0, 1], x[0, 2], x[0, 3]
    b0, b1, b2, b3 = x[1, 0], x[1, 1], x[1, 2], x[1, 3]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    a, b = out[0], out[1]
    for o in range(a.size):
        s, t, u, v = w0[o], w1[o], w2[o], w3[o]
        a[o] = (((a[o] + a0 * s) + a1 * t) + a2 * u) + a3 * v
        b[o] = (((b[o] + b0 * s) + b1 * t) + b2 * u) + b3 * v


@kernel
def dense(x, weights, bias, out):
    """Write ``x @ weights + bias`` to ``out``; shapes as in :func:`add_dense`."""
    for f in range(x.shape[0]):
        for o in range(bias.size):
            out[f, o] = bias[o]
    add_dense(x, weights, out)


# --- integer layers -------------------------------------------------------------------------------


def layer_dtype(inputs: int, outputs: int) -> np.dtype[Any]:
    """Return the record type of an integer layer."""
    return record(
        weights=(np.int16, packed_size(inputs, outputs)),
        bias=(np.int32, padded(outputs)),
        scale=(np.float32, outputs),  # of the sums
    )


def fill_layer(layer: Any, weights: np.ndarray, bias: np.ndarray, one: int) -> None:
    """Round float weights to the integers of a layer.

    Parameters
    ----------
    layer : record                        of :func:`layer_dtype`
    weights : float32 [inputs, outputs]   multiples of 2^-24, so that their sums are exact
    bias : float32 [outputs]
    one : int                             1.0 as an integer input
    """
    size, bias = np.abs(weights), bias.astype(np.float64)
    sums, largest = size.sum(0, np.float64), size.max(0).astype(np.float64)
    limits = sums / WEIGHT_SUM, largest / (2**15 - 1), np.abs(bias) * one / BIAS_LIMIT
    unit = np.maximum.reduce(limits)
    unit[unit == 0] = 1.0
    rounded = weights / unit
    layer["weights"] = pack(np.rint(rounded, out=rounded))
    layer["bias"][: len(bias)] = np.rint(bias / (unit / one)).astype(np.int64)
    layer["scale"] = unit / one


@kernel
def to_integers(x, one, out):
    """Round ``x`` to multiples of 1 / ``one``, as int16 within ±INPUT_LIMIT; arrays [n]."""
    scale = np.float32(one)
    for i in range(x.size):
        v = min(max(x[i] * scale, -_LIMIT), _LIMIT)
        out[i] = np.int16(np.int32(v + _TO_POSITIVE) - np.int32(INPUT_LIMIT + 1))


@kernel
def apply(layer, x, first, stride, out):
    """Write what an integer layer makes of some rows to ``out``.

    Parameters
    ----------
    layer : record             of :func:`layer_dtype`
    x : int16 [any]            rows, as :func:`codec.product.multiply` takes them
    first, stride : int
    out : float32 [rows * outputs]
    """
    outputs, width = layer.scale.size, layer.bias.size
    rows = out.size // outputs
    sums = np.empty(rows * width, np.int32)
    multiply(x, first, stride, layer.weights[:], layer.bias[:], sums)
    for r in range(rows):
        row, own = out[r * outputs : (r + 1) * outputs], sums[r * width : (r + 1) * width]
        for o in range(outputs):
            row[o] = np.float32(own[o]) * layer.scale[o]


@kernel
def gru(gates, layer, leak, memory, out):
    """Run a gated recurrent unit over some frames; ``memory`` moves on.

    Before each frame the memory is multiplied by ``leak`` < 1: what it knows fades with a time
    constant, so that it cannot drift in long signals.

    Parameters
    ----------
    gates : float32 [frames * 3 H]    input's part of the gates: reset, update, new
    layer : record                    memory's part: H -> 3 H, of inputs with MEMORY_ONE
    leak : float32
    memory : float32 [H]
    out : float32 [frames * H]        result

    References
    ----------
    Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.
    """
    size = memory.size
    own = np.empty(3 * size, np.float32)
    new = own[2 * size :]
    rounded = np.empty(size + 1, np.int16)
    for f in range(out.size // size):
        row, given = out[f * size : (f + 1) * size], gates[3 * f * size : 3 * (f + 1) * size]
        for i in range(size):
            memory[i] *= leak
        to_integers(memory, MEMORY_ONE, rounded)
        apply(layer, rounded, 0, 0, own)
        for i in range(2 * size):
            own[i] += given[i]
        sigmoid(own[: 2 * size])
        for i in range(size):
            new[i] = given[2 * size + i] + own[i] * new[i]
        tanh(new)
        for i in range(size):
            memory[i] = new[i] + own[size + i] * (memory[i] - new[i])
            row[i] = memory[i]
