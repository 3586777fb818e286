"""Linear prediction: windowed autocorrelation, lag window, Levinson-Durbin, LPC envelope.

Everything is differentiable torch, batched over packets.

References
----------
Makhoul, "Linear prediction: a tutorial review", Proc. IEEE 63(4), 1975.
Tohkura, Itakura & Hashimoto, "Spectral smoothing technique in PARCOR speech analysis-synthesis",
IEEE Trans. ASSP 26(6), 1978 (the lag window).
"""

from __future__ import annotations

import torch
from torch import Tensor


def autocorrelation(frames: Tensor, order: int) -> Tensor:
    """Return lags 0..order of windowed frames, shape [..., T] -> [..., order + 1]."""
    n_fft = 1 << (frames.shape[-1] + order).bit_length()
    power = torch.fft.rfft(frames, n_fft).abs().square()
    return torch.fft.irfft(power, n_fft)[..., : order + 1]


def lag_window(order: int, sample_rate: int, bandwidth_hz: float = 40.0) -> Tensor:
    """Return the Gaussian lag window of the given bandwidth, float32, shape [order + 1]."""
    lags = torch.arange(order + 1, dtype=torch.float64)
    angle = 2 * torch.pi * bandwidth_hz * lags / sample_rate
    return torch.exp(-0.5 * angle.square()).to(torch.float32)


def levinson_durbin(autocorr: Tensor) -> tuple[Tensor, Tensor]:
    """Solve the normal equations of linear prediction.

    Parameters
    ----------
    autocorr : float Tensor, shape [..., P + 1]   lag 0 must be positive

    Returns
    -------
    coefficients : shape [..., P + 1]   A(z), the first one is 1
    error : shape [...]                 prediction error power
    """
    order = autocorr.shape[-1] - 1
    a = torch.ones_like(autocorr[..., :1])
    error = autocorr[..., 0]
    for m in range(1, order + 1):
        acc = (a * autocorr[..., 1 : m + 1].flip(-1)).sum(-1)
        k = -acc / error
        padded = torch.nn.functional.pad(a, (0, 1))
        a = padded + k[..., None] * padded.flip(-1)
        error = error * (1 - k.square()).clamp_min(1e-6)
    return a, error


def lpc_envelope(frames: Tensor, order: int, sample_rate: int, num_bins: int) -> Tensor:
    """Return the LPC spectral envelope of each frame as log2 amplitude per MDCT bin.

    Parameters
    ----------
    frames : float Tensor, shape [..., T]   time signal, not yet windowed (Hann is applied here)
    order : int                             LPC order P
    sample_rate : int                       Hz
    num_bins : int                          N, bins between 0 and the Nyquist frequency

    Returns
    -------
    float Tensor, shape [..., N]   log2 of sqrt(error) / |A| at the centre of each bin, scaled so
    that white noise of variance s^2 gives log2(s)
    """
    length = frames.shape[-1]
    window = torch.hann_window(length, periodic=False, dtype=frames.dtype, device=frames.device)
    r = autocorrelation(frames * window, order) / window.square().sum()
    r = r * lag_window(order, sample_rate).to(r)
    # A white-noise floor (-40 dB) and an absolute one (16-bit LSB) keep the recursion stable.
    floor = torch.zeros_like(r)
    floor[..., 0] = 1e-4 * r[..., 0] + 1e-10
    a, error = levinson_durbin(r + floor)
    # |A| at (k + 1/2) / N * pi: the odd bins of a DFT of length 4N.
    response = torch.fft.rfft(a, 4 * num_bins)[..., 1 : 2 * num_bins : 2]
    log_response = 0.5 * torch.log2(response.abs().square() + 1e-9)
    return 0.5 * torch.log2(error)[..., None] - log_response
