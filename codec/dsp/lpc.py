"""Linear prediction: windowed autocorrelation, lag window, Levinson-Durbin, LPC envelope.

References
----------
Makhoul, "Linear prediction: a tutorial review", Proc. IEEE 63(4), 1975.
Tohkura, Itakura & Hashimoto, "Spectral smoothing technique in PARCOR speech analysis-synthesis",
IEEE Trans. ASSP 26(6), 1978 (the lag window).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.config import HOP_LENGTH, LPC_ORDER, SAMPLE_RATE
from codec.dsp.fixed import log2, on_grid
from codec.jit import kernel
from codec.records import new, record

LAG_WINDOW_HZ = 40.0
# A white-noise floor (-40 dB) and an absolute one keep the recursion stable.
RELATIVE_FLOOR, ABSOLUTE_FLOOR = 1e-4, 1e-14
RESPONSE_FLOOR = np.float32(1e-9)


FRAME = 3 * HOP_LENGTH  # samples: both windows of a frame
# Windows of linear prediction, and where its envelope is evaluated.
PREDICTION = record(
    window=(np.float32, FRAME),  # Hann, scaled to unit energy
    lag_window=(np.float64, LPC_ORDER + 1),  # Gaussian, with the relative floor in its first entry
    cosine=(np.float32, (LPC_ORDER + 1, HOP_LENGTH)),  # of lag x frequency, at the centres of
    sine=(np.float32, (LPC_ORDER + 1, HOP_LENGTH)),  # the MDCT bins
)


def make_prediction() -> Any:
    """Return the tables as a record of type ``PREDICTION``."""
    tables = new(PREDICTION)
    hann = 0.5 - 0.5 * on_grid(np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1)))
    tables["window"] = on_grid(hann / np.sqrt(np.square(hann).sum()))
    lags = np.arange(LPC_ORDER + 1)
    angle = 2 * np.pi * LAG_WINDOW_HZ * lags / SAMPLE_RATE
    tables["lag_window"] = on_grid(np.exp(-0.5 * np.square(angle)))
    tables["lag_window"][0] = 1.0 + RELATIVE_FLOOR
    period = 4 * HOP_LENGTH
    turn = lags[:, None] * (2 * np.arange(HOP_LENGTH) + 1) % period
    phase = 2 * np.pi * np.arange(period) / period
    tables["cosine"] = on_grid(np.cos(phase))[turn]
    tables["sine"] = on_grid(np.sin(phase))[turn]
    return tables


@kernel
def levinson_durbin(autocorrelation, a):
    """Solve the normal equations of linear prediction.

    Parameters
    ----------
    autocorrelation : float64 [P + 1]   lag 0 must be positive
    a : float64 [P + 1]                 result: A(z), the first coefficient is 1

    Returns
    -------
    float   prediction error power
    """
    order = a.size - 1
    a[0] = 1.0
    error = autocorrelation[0]
    before = np.empty(order + 1)
    for m in range(1, order + 1):
        total = 0.0
        for i in range(m):
            total += a[i] * autocorrelation[m - i]
        k = -total / error
        a[m] = 0.0
        for i in range(m + 1):
            before[i] = a[i]
        for i in range(m + 1):
            a[i] = before[i] + k * before[m - i]
        error *= max(1.0 - k * k, 1e-6)
    return error


@kernel
def envelope(prediction, frame, out):
    """Write the LPC spectral envelope of a frame as log2 amplitude per MDCT bin.

    Parameters
    ----------
    prediction : PREDICTION
    frame : float32 [T]   samples, not yet windowed
    out : float32 [N]     result: log2 of sqrt(error) / |A| at the centre of each bin, scaled so
                          that white noise of variance s^2 gives log2(s)
    """
    order, size = prediction.lag_window.size - 1, frame.size
    padded = np.zeros(size + order, np.float32)
    for n in range(size):
        padded[n] = frame[n] * prediction.window[n]
    # Lags run fastest, so that they are summed side by side.
    lags = np.zeros(order + 1, np.float32)
    for n in range(size):
        v = padded[n]
        for i in range(order + 1):
            lags[i] += v * padded[n + i]
    r = np.empty(order + 1)
    for i in range(order + 1):
        r[i] = np.float64(lags[i]) * prediction.lag_window[i]
    r[0] += ABSOLUTE_FLOOR
    a = np.empty(order + 1)
    error = levinson_durbin(r, a)
    real = np.zeros(out.size, np.float32)
    imaginary = np.zeros(out.size, np.float32)
    for i in range(order + 1):
        v = np.float32(a[i])
        cosine, sine = prediction.cosine[i], prediction.sine[i]
        for k in range(out.size):
            real[k] += v * cosine[k]
            imaginary[k] += v * sine[k]
    for k in range(out.size):
        power = real[k] * real[k] + imaginary[k] * imaginary[k] + RESPONSE_FLOOR
        real[k] = max(np.float32(error), np.float32(1e-30)) / power
    log2(real, out)
    for k in range(out.size):
        out[k] *= np.float32(0.5)
