"""Signal processing of the training graph: differentiable torch twins of ``codec/dsp``.

Everything works on batches and passes gradients where the runtime, which computes the same frame by
frame in a fixed order, needs none; ``tests/parity`` holds the two together.

=====================  ===================================================================
mdct, inverse_mdct     orthonormal, sine window, perfect reconstruction by TDAC
lpc_envelope           windowed autocorrelation, lag window, Levinson-Durbin, envelope
random_noise           stretches of the Rudin-Shapiro sequence with random signs
track_pitch            lag and periodicity of what was decoded so far
comb_filter            long-term postfilter, a gain per band
=====================  ===================================================================

Block ``i`` of the MDCT covers the samples ``[(i-1)N, (i+1)N)``, so F blocks rebuild ``(F-1)N``
samples, the first and the last one included. A segment is one hop of finished samples: segment j is
``[(j-1)N, jN)``, complete as soon as MDCT blocks j-1 and j are there; segment 0 lies before the
signal.

References
----------
Princen & Bradley, "Analysis/synthesis filter bank design based on time domain aliasing
cancellation", IEEE Trans. ASSP 34(5), 1986.
Makhoul, "Linear prediction: a tutorial review", Proc. IEEE 63(4), 1975.
Tohkura, Itakura & Hashimoto, "Spectral smoothing technique in PARCOR speech analysis-synthesis",
IEEE Trans. ASSP 26(6), 1978 (the lag window).
Rudin, "Some theorems on Fourier coefficients", Proc. AMS 10, 1959.
Chen & Gersho, "Adaptive postfiltering for quality enhancement of coded speech", IEEE Trans. SAP
3(1), 1995 (the long-term postfilter).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.signal import firwin
from torch import Tensor

from codec.config import HOP_LENGTH, SAMPLE_RATE, CodecConfig

# --- bands ----------------------------------------------------------------------------------------


def band_matrix(config: CodecConfig) -> Tensor:
    """Return the averaging matrix [bands, N]: row b is 1/width inside band b."""
    matrix = torch.zeros(config.num_bands, HOP_LENGTH)
    for b in range(config.num_bands):
        low, high = config.band_edges[b], config.band_edges[b + 1]
        matrix[b, low:high] = 1.0 / (high - low)
    return matrix


def band_of_coefficient(config: CodecConfig) -> Tensor:
    """Return the band index of each MDCT coefficient, int64, shape [N]."""
    widths = torch.tensor(config.band_edges).diff()
    return torch.repeat_interleave(torch.arange(config.num_bands), widths)


def band_interpolation(config: CodecConfig) -> Tensor:
    """Return weights [N, bands] that interpolate band values linearly at each coefficient.

    Weights are multiples of 1/256, so that the integer path computes the same values.
    """
    edges = torch.tensor(config.band_edges, dtype=torch.float64)
    centres = (edges[:-1] + edges[1:]) / 2
    weights = torch.zeros(HOP_LENGTH, config.num_bands, dtype=torch.float64)
    for k in range(HOP_LENGTH):
        position = min(max(k + 0.5, float(centres[0])), float(centres[-1]))
        b = min(int(torch.searchsorted(centres, position, right=True)) - 1, config.num_bands - 2)
        b = max(b, 0)
        t = (position - float(centres[b])) / float(centres[b + 1] - centres[b])
        t = round(t * 256) / 256
        weights[k, b], weights[k, b + 1] = 1 - t, t
    return weights.to(torch.float32)


# --- MDCT -----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def mdct_matrix() -> Tensor:
    """Return the windowed, orthonormal MDCT basis, float32, shape [2N, N]."""
    # The result is cached: it must not be an inference tensor, which training could not use.
    with torch.inference_mode(False):
        n = torch.arange(2 * HOP_LENGTH, dtype=torch.float64)
        k = torch.arange(HOP_LENGTH, dtype=torch.float64)
        window = torch.sin(torch.pi * (n + 0.5) / (2 * HOP_LENGTH))
        phase = torch.pi / HOP_LENGTH * (n[:, None] + 0.5 + HOP_LENGTH / 2) * (k[None, :] + 0.5)
        basis = (2.0 / HOP_LENGTH) ** 0.5 * window[:, None] * torch.cos(phase)
        return basis.to(torch.float32)


def mdct(waveform: Tensor, blocks: int) -> Tensor:
    """Transform a waveform to MDCT spectra.

    Parameters
    ----------
    waveform : float Tensor, shape [B, T]   T <= (blocks - 1) * N
    blocks : int                            number of blocks F; the signal is zero-padded

    Returns
    -------
    float Tensor, shape [B, F, N]

    Raises
    ------
    ValueError   the blocks do not cover the waveform
    """
    total = (blocks - 1) * HOP_LENGTH
    if waveform.shape[-1] > max(total, 0):
        raise ValueError(f"{blocks} blocks cover {total} samples, not {waveform.shape[-1]}")
    behind = total - waveform.shape[-1] + HOP_LENGTH
    padded = torch.nn.functional.pad(waveform, (HOP_LENGTH, behind))
    frames = padded.unfold(-1, 2 * HOP_LENGTH, HOP_LENGTH)  # [B, F, 2N]
    return frames @ mdct_matrix().to(waveform)


def inverse_mdct(spectrum: Tensor, num_samples: int) -> Tensor:
    """Rebuild the waveform by windowed overlap-add.

    Parameters
    ----------
    spectrum : float Tensor, shape [B, F, N]
    num_samples : int                        T <= (F - 1) * N

    Returns
    -------
    float Tensor, shape [B, T]
    """
    frames = spectrum @ mdct_matrix().to(spectrum).T  # [B, F, 2N]
    head, tail = frames[..., :HOP_LENGTH], frames[..., HOP_LENGTH:]
    summed = head[:, 1:] + tail[:, :-1]  # [B, F-1, N]
    return summed.flatten(1)[:, :num_samples]


# --- linear prediction ----------------------------------------------------------------------------


def autocorrelation(frames: Tensor, order: int) -> Tensor:
    """Return lags 0..order of windowed frames, shape [..., T] -> [..., order + 1]."""
    n_fft = 1 << (frames.shape[-1] + order).bit_length()
    power = torch.fft.rfft(frames, n_fft).abs().square()
    return torch.fft.irfft(power, n_fft)[..., : order + 1]


def lag_window(order: int, bandwidth_hz: float = 40.0) -> Tensor:
    """Return the Gaussian lag window of the given bandwidth, float32, shape [order + 1]."""
    lags = torch.arange(order + 1, dtype=torch.float64)
    angle = 2 * torch.pi * bandwidth_hz * lags / SAMPLE_RATE
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


def lpc_envelope(frames: Tensor, order: int) -> Tensor:
    """Return the LPC spectral envelope of each frame as log2 amplitude per MDCT coefficient.

    Parameters
    ----------
    frames : float Tensor, shape [..., T]   time signal, not yet windowed (Hann is applied here)
    order : int                             LPC order P

    Returns
    -------
    float Tensor, shape [..., N]   log2 of sqrt(error) / |A| at the centre of each coefficient,
    scaled so that white noise of variance s^2 gives log2(s)
    """
    length = frames.shape[-1]
    window = torch.hann_window(length, periodic=False, dtype=frames.dtype, device=frames.device)
    r = autocorrelation(frames * window, order) / window.square().sum()
    r = r * lag_window(order).to(r)
    # A white-noise floor (-40 dB) and an absolute one (16-bit LSB) keep the recursion stable.
    floor = torch.zeros_like(r)
    floor[..., 0] = 1e-4 * r[..., 0] + 1e-10
    a, error = levinson_durbin(r + floor)
    # |A| at (k + 1/2) / N * pi: the odd bins of a DFT of length 4N.
    response = torch.fft.rfft(a, 4 * HOP_LENGTH)[..., 1 : 2 * HOP_LENGTH : 2]
    log_response = 0.5 * torch.log2(response.abs().square() + 1e-9)
    return 0.5 * torch.log2(error)[..., None] - log_response


# --- noise ----------------------------------------------------------------------------------------

SEQUENCE_LENGTH = 4096


@lru_cache(maxsize=1)
def rudin_shapiro() -> Tensor:
    """Return the first terms of the Rudin-Shapiro sequence, float32, ±1, [SEQUENCE_LENGTH].

    Term n is the parity of how often two adjacent bits of n are both set. A stretch of it has a
    flat spectrum and a flat envelope: its Fourier transform never exceeds sqrt(2) of the mean.
    """
    with torch.inference_mode(False):
        pairs = torch.arange(SEQUENCE_LENGTH)
        pairs = pairs & (pairs >> 1)
        parity = torch.zeros_like(pairs)
        while pairs.any():
            parity ^= pairs & 1
            pairs = pairs >> 1
        return (1 - 2 * parity).float()


def random_noise(like: Tensor) -> Tensor:
    """Return noise of the decoder's kind from torch's generator, ±1, shape [..., N]."""
    num_coefficients = like.shape[-1]
    shape = (*like.shape[:-1], 1)
    place = torch.randint(0, SEQUENCE_LENGTH - num_coefficients, shape, device=like.device)
    sign = torch.randint(0, 2, shape, device=like.device).to(like) * 2 - 1
    index = place + torch.arange(num_coefficients, device=like.device)
    return rudin_shapiro().to(like)[index] * sign


# --- pitch and comb filter ------------------------------------------------------------------------

MIN_LAG, MAX_LAG = 32, 320  # samples: 500 Hz to 50 Hz
PITCH_WINDOW = 320  # samples that are compared with those one lag before
PITCH_FRAME = PITCH_WINDOW + MAX_LAG
PITCH_FFT = 1024
# A lag twice as long matches as well; the shorter one is meant.
LAG_BIAS = 1.0 / 4000
# Bands of the comb filter, Hz. Above, speech is not periodic enough for lags of whole samples.
COMB_LIMITS = (0, 1000, 2400, 4500)
NUM_COMB_BANDS = len(COMB_LIMITS) - 1
COMB_TAPS = 33  # a half length of 16 samples stays below the smallest lag
COMB_FADE = 64  # samples over which one segment's filter goes over to the next
COMB_HISTORY = MAX_LAG + COMB_TAPS // 2  # samples of the past that a segment looks at


@torch.no_grad()
def track_pitch(waveform: Tensor) -> tuple[Tensor, Tensor]:
    """Find the lag at which the last 20 ms before each segment's end resemble the past most.

    Parameters
    ----------
    waveform : float Tensor, shape [B, PITCH_FRAME - N + S * N]   S segments and what is before them

    Returns
    -------
    lag : int64 Tensor, shape [B, S]           samples, MIN_LAG..MAX_LAG - 1
    periodicity : float Tensor, shape [B, S]   normalised correlation there, 0..1
    """
    frames = waveform.unfold(-1, PITCH_FRAME, HOP_LENGTH)  # [B, S, PITCH_FRAME]
    target = frames[..., MAX_LAG:]
    spectrum = torch.fft.rfft(frames, PITCH_FFT)
    other = torch.fft.rfft(torch.nn.functional.pad(target, (MAX_LAG, 0)), PITCH_FFT)
    correlation = torch.fft.irfft(spectrum.conj() * other, PITCH_FFT)[..., MIN_LAG:MAX_LAG]
    total = torch.nn.functional.pad(frames.square().cumsum(-1), (1, 0))  # [..., PITCH_FRAME + 1]
    energy = total[..., PITCH_WINDOW + 1 :] - total[..., 1 : MAX_LAG + 1]  # lags MAX_LAG - 1 .. 0
    energy = energy.flip(-1)[..., MIN_LAG:MAX_LAG]
    own = target.square().sum(-1, keepdim=True)
    similarity = correlation / (own * energy).clamp_min(1e-24).sqrt()
    lags = torch.arange(MIN_LAG, MAX_LAG, device=waveform.device)
    # Rounded, so that machines agree on which of two equally good lags is the first.
    biased = torch.round(similarity * (1.0 - LAG_BIAS * lags) * 1e6)
    best = biased.argmax(-1, keepdim=True)
    periodicity = similarity.gather(-1, best)[..., 0].clamp(0.0, 1.0)
    return best[..., 0] + MIN_LAG, periodicity


@lru_cache(maxsize=1)
def comb_filters() -> Tensor:
    """Return the linear-phase filters of the comb's bands, float32, shape [bands, COMB_TAPS]."""
    with torch.inference_mode(False):
        filters = []
        for low, high in zip(COMB_LIMITS[:-1], COMB_LIMITS[1:], strict=True):
            edges = [low, high] if low else high
            filters.append(firwin(COMB_TAPS, edges, fs=SAMPLE_RATE, pass_zero=low == 0, scale=True))
        return torch.from_numpy(np.stack(filters).astype(np.float32))


def comb_response() -> Tensor:
    """Return the gain of each band's filter at the centres of the coefficients, [bands, N]."""
    n = torch.arange(COMB_TAPS, dtype=torch.float64) - COMB_TAPS // 2
    k = (torch.arange(HOP_LENGTH, dtype=torch.float64) + 0.5) / HOP_LENGTH
    cosines = torch.cos(torch.pi * n[:, None] * k)
    return (comb_filters().double() @ cosines).float().clamp_min(0.0)


def comb_filter(waveform: Tensor, lag: Tensor, gain: Tensor) -> Tensor:
    """Add the past, one lag before, band by band.

    ``y[n] = x[n] + sum over bands of gain_b (h_b * x)[n - lag]``; lag and gain fade over from those
    of the segment before within the first COMB_FADE samples of each.

    Parameters
    ----------
    waveform : float Tensor, shape [B, COMB_HISTORY + S * N]   S segments and their history
    lag : int64 Tensor, shape [B, S + 1]                       of the segment before, and of each
    gain : float Tensor, shape [B, S + 1, bands]

    Returns
    -------
    float Tensor, shape [B, S * N]
    """
    batch, length = waveform.shape
    segments = (length - COMB_HISTORY) // HOP_LENGTH
    bands = torch.nn.functional.conv1d(
        waveform[:, None], comb_filters().to(waveform)[:, None], padding=COMB_TAPS // 2
    )  # [B, bands, COMB_HISTORY + S * N]
    start = COMB_HISTORY + HOP_LENGTH * torch.arange(segments, device=waveform.device)

    def past(lags: Tensor, gains: Tensor, count: int) -> Tensor:
        """Return the first ``count`` samples of what every segment's filter adds, [B, S, count]."""
        first = start - lags  # [B, S]
        index = first[..., None] + torch.arange(count, device=waveform.device)
        index = index.flatten(1)[:, None].expand(-1, bands.shape[1], -1)
        taken = bands.gather(-1, index).view(batch, -1, segments, count)
        return torch.einsum("bkst,bsk->bst", taken, gains)

    fade = (torch.arange(COMB_FADE, device=waveform.device).to(waveform) + 0.5) / COMB_FADE
    added = past(lag[:, 1:], gain[:, 1:], HOP_LENGTH)
    before = past(lag[:, :-1], gain[:, :-1], COMB_FADE)
    begun = added[..., :COMB_FADE] * fade + before * (1.0 - fade)
    added = torch.cat([begun, added[..., COMB_FADE:]], -1)
    return waveform[:, COMB_HISTORY:] + added.flatten(1)
