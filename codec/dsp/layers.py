"""Layers of the float networks, every sum in one order: dense, GRU, convolution over frequency.

Weights lie input-major, ``[inputs, outputs]``: an output's sum runs over the inputs from first to
last whatever the width of the machine's vectors, which run over the outputs. Four inputs of four
frames at a time are taken, to touch outputs and weights less often; the order of additions is still
that of the inputs.
Frames of a batch do not meet each other, so a frame's result does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from codec.dsp.fixed import sigmoid, tanh
from codec.jit import kernel


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
        w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
        for f in range(fours, frames):
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
def dense(x, weights, bias, out):
    """Write ``x @ weights + bias`` to ``out``; shapes as in :func:`add_dense`."""
    for f in range(x.shape[0]):
        for o in range(bias.size):
            out[f, o] = bias[o]
    add_dense(x, weights, out)


@kernel
def gru(gates, weights, bias, leak, memory, out):
    """Run a gated recurrent unit over some frames; ``memory`` moves on.

    Before each frame the memory is multiplied by ``leak`` < 1: what it knows fades with a time
    constant, so that it cannot drift in long signals.

    Parameters
    ----------
    gates : float32 [frames, 3 H]     input's part of the gates: reset, update, new
    weights : float32 [H, 3 H]        memory's part
    bias : float32 [3 H]
    leak : float32
    memory : float32 [1, H]
    out : float32 [frames, H]         result

    References
    ----------
    Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.
    """
    size = memory.shape[1]
    own = np.empty((1, 3 * size), np.float32)
    state = memory[0]
    for f in range(gates.shape[0]):
        for i in range(size):
            state[i] *= leak
        dense(memory, weights, bias, own)
        row = own[0]
        for i in range(2 * size):
            row[i] += gates[f, i]
        sigmoid(row[: 2 * size])
        new = row[2 * size :]
        for i in range(size):
            new[i] = gates[f, 2 * size + i] + row[i] * new[i]
        tanh(new)
        for i in range(size):
            state[i] = new[i] + row[size + i] * (state[i] - new[i])
            out[f, i] = state[i]


@kernel
def convolve7(x, weights, bias, out):
    """Convolve over frequency with 7 taps; beyond both ends lie zeros.

    Parameters
    ----------
    x : float32 [channels in, N + 6]   three zeros on each side
    weights : float32 [out, in, 7]
    bias : float32 [out]
    out : float32 [out, N]             result
    """
    size = out.shape[1]
    for o in range(out.shape[0]):
        row = out[o]
        for k in range(size):
            row[k] = bias[o]
        for c in range(x.shape[0]):
            w, v = weights[o, c], x[c]
            w0, w1, w2, w3, w4, w5, w6 = w[0], w[1], w[2], w[3], w[4], w[5], w[6]
            for k in range(size):
                total = row[k] + w0 * v[k] + w1 * v[k + 1] + w2 * v[k + 2] + w3 * v[k + 3]
                row[k] = total + w4 * v[k + 4] + w5 * v[k + 5] + w6 * v[k + 6]


@kernel
def convolve3(x, weights, bias, out):
    """Convolve over frequency with 3 taps; ``x`` has three zeros on each side as for 7 taps."""
    size = out.shape[1]
    for o in range(out.shape[0]):
        row = out[o]
        for k in range(size):
            row[k] = bias[o]
        for c in range(x.shape[0]):
            w0, w1, w2 = weights[o, c, 0], weights[o, c, 1], weights[o, c, 2]
            v = x[c]
            for k in range(size):
                row[k] = row[k] + w0 * v[k + 2] + w1 * v[k + 3] + w2 * v[k + 4]
