"""2^x, log2, tanh, the logistic function and GELU from + - x / alone: equal bits everywhere.

Libraries of mathematical functions differ from machine to machine in the last bit, and IEEE 754
arithmetic does not. Each function here is a polynomial or a ratio of two, fitted in the largest
error; all work on float32 arrays in place or into ``out``, in loops that compilers can vectorise.

Tables that need a sine, a power or a logarithm are computed once, in double precision, and rounded
to a grid that is far coarser than the libraries' disagreement (:func:`on_grid`); tests hold every
entry to be far from where rounding would be in doubt.
"""

from __future__ import annotations

import numpy as np

from codec.jit import kernel

GRID_BITS = 30
TANH_LIMIT = np.float32(8.0)  # beyond, tanh is 1 to float32's last bit but one
ERF_LIMIT = np.float32(5.0)
EXP2_LIMIT = np.float32(120.0)

_HALF, _ONE = np.float32(0.5), np.float32(1.0)
# 2^f on [-1/2, 1/2], relative error 1e-7.
_E0, _E1, _E2 = np.float32(1.0000000755), np.float32(0.6931472067), np.float32(0.2402210724)
_E3, _E4, _E5 = np.float32(0.0555032720), np.float32(0.0096760435), np.float32(0.0013400439)
# log2 of m in [sqrt(1/2), sqrt(2)] as a series in s = (m - 1) / (m + 1), error 1e-9.
_L0, _L1 = np.float32(2.8853900804), np.float32(0.9617983991)
_L2, _L3 = np.float32(0.5767631343), np.float32(0.4304584459)
_SQRT2_MANTISSA = np.int32(0x3504F3)
# tanh(x) = x P(x^2) / Q(x^2) on [-8, 8], error 1.3e-7.
_T0, _T1 = np.float32(0.9999993620), np.float32(0.1291363939)
_T2, _T3 = np.float32(2.938825801e-3), np.float32(1.1310205485e-5)
_U1, _U2 = np.float32(0.4624673812), np.float32(2.3763818992e-2)
_U3, _U4 = np.float32(2.3702821493e-4), np.float32(2.4238358872e-7)
# erf(x / sqrt(2)), likewise on [-5, 5], error 6e-6.
_R0, _R1 = np.float32(0.7978606175), np.float32(5.636103760e-2)
_R2, _R3 = np.float32(7.507109246e-3), np.float32(6.198262854e-5)
_S1, _S2 = np.float32(0.2372246944), np.float32(2.399844425e-2)
_S3 = np.float32(1.114028458e-3)


def on_grid(values: np.ndarray) -> np.ndarray:
    """Return float64 values rounded to multiples of 2^-30, the same on every machine."""
    scale = float(1 << GRID_BITS)
    return np.round(np.asarray(values, np.float64) * scale) / scale


# 2^(i/256) for i = 0..255, and 2^e for e = -150..127 (0 below what float32 holds): all float32.
EXP2_FRACTION = on_grid(np.exp2(np.arange(256) / 256)).astype(np.float32)
MIN_EXPONENT = -150
EXP2_WHOLE = np.ldexp(1.0, np.arange(MIN_EXPONENT, 128)).astype(np.float32)


@kernel
def exp2_q8(x):
    """Return 2^(x / 256) as float32; ``x`` is an integer, clipped to the range of float32."""
    whole = min(max((x >> 8) - MIN_EXPONENT, 0), EXP2_WHOLE.size - 1)
    return EXP2_FRACTION[x & 255] * EXP2_WHOLE[whole]


@kernel
def exp2(x, out):
    """Write 2^x to ``out``; float32 arrays of one shape [n]; x is clipped to ±120."""
    bits = np.empty(x.size, np.int32)
    power = bits.view(np.float32)
    for i in range(x.size):
        v = min(max(x[i], -EXP2_LIMIT), EXP2_LIMIT)
        n = np.int32(v + np.float32(150.5)) - np.int32(150)  # rounds: the argument is positive
        f = v - np.float32(n)
        bits[i] = (n + np.int32(127)) << np.int32(23)
        out[i] = ((((_E5 * f + _E4) * f + _E3) * f + _E2) * f + _E1) * f + _E0
    for i in range(x.size):
        out[i] *= power[i]


@kernel
def log2(x, out):
    """Write log2 of positive normal float32 numbers to ``out``; arrays of one shape [n]."""
    bits = np.empty(x.size, np.int32)
    value = bits.view(np.float32)
    for i in range(x.size):
        value[i] = x[i]
    for i in range(x.size):
        exponent = (bits[i] >> np.int32(23)) - np.int32(127)
        mantissa = bits[i] & np.int32(0x7FFFFF)
        upper = np.int32(1) if mantissa > _SQRT2_MANTISSA else np.int32(0)
        bits[i] = mantissa | ((np.int32(127) - upper) << np.int32(23))
        out[i] = np.float32(exponent + upper)
    for i in range(x.size):
        s = (value[i] - _ONE) / (value[i] + _ONE)
        t = s * s
        out[i] += (((_L3 * t + _L2) * t + _L1) * t + _L0) * s


@kernel
def tanh(x):
    """Replace a float32 array [n] by its hyperbolic tangent."""
    for i in range(x.size):
        v = min(max(x[i], -TANH_LIMIT), TANH_LIMIT)
        t = v * v
        over = ((_T3 * t + _T2) * t + _T1) * t + _T0
        under = (((_U4 * t + _U3) * t + _U2) * t + _U1) * t + _ONE
        x[i] = v * over / under


@kernel
def sigmoid(x):
    """Replace a float32 array [n] by 1 / (1 + exp(-x))."""
    for i in range(x.size):
        x[i] *= _HALF
    tanh(x)
    for i in range(x.size):
        x[i] = _HALF + _HALF * x[i]


@kernel
def gelu(x):
    """Replace a float32 array [n] by x Phi(x), Phi the normal distribution function.

    References
    ----------
    Hendrycks & Gimpel, "Gaussian error linear units (GELUs)", arXiv:1606.08415, 2016.
    """
    for i in range(x.size):
        v = min(max(x[i], -ERF_LIMIT), ERF_LIMIT)
        t = v * v
        over = ((_R3 * t + _R2) * t + _R1) * t + _R0
        under = ((_S3 * t + _S2) * t + _S1) * t + _ONE
        x[i] *= _HALF + _HALF * (v * over / under)
