"""Layers: the values of float64, one order of sums or whole numbers, frames that do not meet."""

from typing import Any

import numpy as np
import pytest

from codec.dsp.layers import (
    ACTIVATION_ONE,
    INPUT_LIMIT,
    MEMORY_ONE,
    add_dense,
    apply,
    dense,
    fill_layer,
    gru,
    layer_dtype,
    to_integers,
)
from codec.records import new

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


def layer_of(weights: np.ndarray, bias: np.ndarray, one: int = ACTIVATION_ONE) -> Any:
    """Return an integer layer of weights that are multiples of 2^-10."""
    layer = new(layer_dtype(*weights.shape))
    fill_layer(layer, np.round(weights * 1024.0) / 1024, bias.astype(np.float64), one)
    return layer


def integers(x: np.ndarray, one: int = ACTIVATION_ONE) -> np.ndarray:
    out = np.empty(x.size, np.int16)
    to_integers(x.ravel().astype(np.float32), one, out)
    return out


def test_inputs_become_integers() -> None:
    x = np.array([0, 0.49, 0.51, -0.49, -0.51, 7, -7, 1e9, -1e9, 15.99 * 512], np.float32) / 512
    assert integers(x).tolist() == [0, 0, 1, 0, -1, 7, -7, INPUT_LIMIT, -INPUT_LIMIT, 8187]
    values = RNG.uniform(-16, 16, 5000)
    wanted = np.clip(np.rint(values * 512), -INPUT_LIMIT, INPUT_LIMIT)
    assert np.abs(integers(values) - wanted).max() <= 1  # where float32 puts a half elsewhere
    assert np.mean(integers(values) != wanted) < 1e-3


@pytest.mark.parametrize("rows", [1, 5, 8, 19])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (6, 4), (384, 26), (382, 40)])
def test_integer_layer(inputs: int, outputs: int, rows: int) -> None:
    x, weights, bias = floats(rows, inputs), 0.1 * floats(inputs, outputs), floats(outputs)
    even = inputs + inputs % 2
    out = np.empty(rows * outputs, np.float32)
    apply(layer_of(weights, bias), integers(np.pad(x, ((0, 0), (0, even - inputs)))), 0, even, out)
    exact = x.astype(np.float64) @ (np.round(weights * 1024.0) / 1024) + bias
    error = out.reshape(rows, outputs) - exact
    # Inputs are rounded to 1/512 (rms 0.29 of it), weights likewise finely.
    assert np.sqrt(np.mean(error**2)) < 1.5 * 0.29 / 512 * 0.1 * np.sqrt(inputs) + 3e-4
    for r in range(rows):  # a row's result does not depend on its neighbours
        alone = np.empty(outputs, np.float32)
        row = integers(np.pad(x[r], (0, even - inputs)))
        apply(layer_of(weights, bias), row, 0, 0, alone)
        np.testing.assert_array_equal(alone, out[r * outputs : (r + 1) * outputs])


def test_sums_cannot_overflow() -> None:
    """The largest inputs with the signs of the weights: the sum is what it should be."""
    for size, inputs in ((15.0, 4000), (0.01, 300), (1e-6, 2), (0.0, 2)):
        weights = np.round(size * RNG.uniform(-1, 1, (inputs, 8)) * 2**24) / 2**24
        bias = np.full(8, 3.0)
        layer = new(layer_dtype(inputs, 8))
        fill_layer(layer, weights, bias, ACTIVATION_ONE)
        x = np.where(weights[:, 0] >= 0, INPUT_LIMIT, -INPUT_LIMIT).astype(np.int16)
        out = np.empty(8, np.float32)
        apply(layer, x, 0, 0, out)
        wanted = x / ACTIVATION_ONE @ weights + bias
        np.testing.assert_allclose(out, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("leak", [1.0, 0.98, 0.5])
def test_gru(leak: float) -> None:
    size, frames = 24, 40
    gates, weights, bias = floats(frames, 3 * size), 0.4 * floats(size, 3 * size), floats(3 * size)
    weights = np.round(weights * 1024) / 1024
    start = np.tanh(floats(size))
    layer = layer_of(weights, bias, MEMORY_ONE)
    memory, out = start.copy(), np.empty(frames * size, np.float32)
    gru(gates.ravel(), layer, np.float32(leak), memory, out)
    wanted = plain_gru(gates, weights, bias, float(np.float32(leak)), start)
    np.testing.assert_allclose(out.reshape(frames, size), wanted, atol=2e-3)
    np.testing.assert_array_equal(memory, out[-size:])
    memory, pieces = start.copy(), np.empty_like(out)
    for a, b in ((0, 1), (1, 9), (9, 17), (17, 40)):
        part = pieces[a * size : b * size]
        gru(gates[a:b].ravel(), layer, np.float32(leak), memory, part)
    np.testing.assert_array_equal(pieces, out)


@pytest.mark.parametrize("taps", [3, 7])
def test_convolution(taps: int) -> None:
    """Rows that overlap: a convolution over frequency, channels side by side."""
    channels, outputs, size = 6, 4, 160
    inner, reach = floats(size, channels), taps // 2
    weights, bias = floats(outputs, channels, taps), floats(outputs)
    x = np.pad(inner, ((reach, reach), (0, 0)))
    out = np.empty(size * outputs, np.float32)
    layer = layer_of(weights.transpose(2, 1, 0).reshape(-1, outputs), bias)
    apply(layer, integers(x), 0, channels, out)
    for o in range(outputs):
        exact = bias[o] + sum(
            np.correlate(inner[:, c].astype(np.float64), weights[o, c].astype(np.float64), "same")
            for c in range(channels)
        )
        np.testing.assert_allclose(out.reshape(size, outputs)[:, o], exact, atol=0.02)
