"""Layers: the values of float64, the bits of one order of additions, frames that do not meet."""

from collections.abc import Callable

import numpy as np
import pytest

from codec.dsp.layers import add_dense, convolve3, convolve7, dense, gru

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("inputs", [1, 3, 4, 7, 160, 321])
def test_dense(inputs: int) -> None:
    x, weights, bias = floats(8, inputs), floats(inputs, 37), floats(37)
    out = np.empty((8, 37), np.float32)
    dense(x, weights, bias, out)
    exact = x.astype(np.float64) @ weights.astype(np.float64) + bias
    np.testing.assert_allclose(out, exact, atol=3e-6 * np.sqrt(inputs) * 3)
    # The order of additions is that of the inputs, each product rounded (no fused operations).
    wanted = np.tile(bias, (8, 1))
    for i in range(inputs):
        wanted = wanted + x[:, i : i + 1] * weights[i]
    np.testing.assert_array_equal(out, wanted)
    # A frame's result does not depend on its neighbours.
    for f in range(8):
        alone = np.empty((1, 37), np.float32)
        dense(x[f : f + 1], weights, bias, alone)
        np.testing.assert_array_equal(alone[0], out[f])
    add_dense(x, weights, out)
    np.testing.assert_allclose(out, 2 * exact - bias, atol=3e-6 * np.sqrt(inputs) * 6)


def plain_gru(
    gates: np.ndarray, weights: np.ndarray, bias: np.ndarray, leak: float, memory: np.ndarray
) -> np.ndarray:
    """Return the outputs of a gated recurrent unit in float64 (Cho et al., 2014)."""
    size, out, h = len(memory), [], memory.astype(np.float64)
    for x in gates.astype(np.float64):
        h = leak * h
        own = h @ weights.astype(np.float64) + bias
        reset = 1 / (1 + np.exp(-(x[:size] + own[:size])))
        keep = 1 / (1 + np.exp(-(x[size : 2 * size] + own[size : 2 * size])))
        new = np.tanh(x[2 * size :] + reset * own[2 * size :])
        h = keep * h + (1 - keep) * new
        out.append(h)
    return np.array(out)


@pytest.mark.parametrize("leak", [1.0, 0.98, 0.5])
def test_gru(leak: float) -> None:
    size, frames = 24, 40
    gates, weights, bias = floats(frames, 3 * size), 0.4 * floats(size, 3 * size), floats(3 * size)
    start = np.tanh(floats(1, size))
    memory, out = start.copy(), np.empty((frames, size), np.float32)
    gru(gates, weights, bias, np.float32(leak), memory, out)
    np.testing.assert_allclose(
        out, plain_gru(gates, weights, bias, float(np.float32(leak)), start[0]), atol=1e-5
    )
    np.testing.assert_array_equal(memory[0], out[-1])
    memory, pieces = start.copy(), np.empty_like(out)
    for a, b in ((0, 1), (1, 9), (9, 17), (17, 40)):
        gru(gates[a:b], weights, bias, np.float32(leak), memory, pieces[a:b])
    np.testing.assert_array_equal(pieces, out)


@pytest.mark.parametrize(("convolve", "taps"), [(convolve7, 7), (convolve3, 3)])
def test_convolutions(convolve: Callable, taps: int) -> None:
    channels, outputs, size = 5, 4, 160
    inner = floats(channels, size)
    x = np.zeros((channels, size + 6), np.float32)
    x[:, 3:-3] = inner
    weights, bias = floats(outputs, channels, taps), floats(outputs)
    out = np.empty((outputs, size), np.float32)
    convolve(x, weights, bias, out)
    for o in range(outputs):
        exact = bias[o] + sum(
            np.correlate(inner[c].astype(np.float64), weights[o, c].astype(np.float64), "same")
            for c in range(channels)
        )
        np.testing.assert_allclose(out[o], exact, atol=2e-5)
    # The order of additions: channel by channel, tap by tap.
    reach, wanted = 3 - taps // 2, np.tile(bias[:, None], (1, size))
    for c in range(channels):
        for t in range(taps):
            wanted = wanted + weights[:, c, t, None] * x[c, reach + t : reach + t + size]
    np.testing.assert_array_equal(out, wanted)
