"""Signal processing of the training graph: differentiable torch twins of ``codec/dsp``.

Everything works on batches and passes gradients where the runtime, which computes the same frame by
frame in a fixed order, needs none. Matrices, filters and constants are the runtime's own;
``tests/parity`` holds the computations together.

=====================  ===================================================================
mdct, inverse_mdct     orthonormal, sine window, perfect reconstruction by TDAC
to_long, to_short      from a frame's two blocks to its long block, and back
lpc_envelope           windowed autocorrelation, lag window, Levinson-Durbin, envelope
random_noise           stretches of the Rudin-Shapiro sequence, from 3 kHz on with magnitudes
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

import itertools
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from codec.config import (
    BAND_EDGES,
    HOP_LENGTH,
    LPC_ORDER,
    NUM_BANDS,
    SAMPLE_RATE,
)
from codec.dsp import bands
from codec.dsp.lpc import ABSOLUTE_FLOOR, LAG_WINDOW_HZ, RELATIVE_FLOOR, RESPONSE_FLOOR
from codec.dsp.ltpf import (
    FADE,
    HISTORY,
    LAG_BIAS,
    MAX_LAG,
    MIN_LAG,
    REACH,
    WINDOW,
    band_filters,
)
from codec.dsp.ltpf import FRAME as PITCH_FRAME
from codec.dsp.mdct import ALIAS, SHARE, make_transform
from codec.dsp.noise import (
    GROUP,
    SEQUENCE_LENGTH,
    STEADY,
    VOICED_FROM,
    VOICED_RANGE,
    log_sizes,
    rudin_shapiro,
)

PITCH_FFT = 1024


@lru_cache(maxsize=1)
def mdct_matrix() -> Tensor:
    """Return the windowed, orthonormal MDCT basis, float32, shape [2N, N]."""
    return _lasting(torch.from_numpy(make_transform()["forward"]))


@lru_cache(maxsize=1)
def mdst_matrix() -> Tensor:
    """Return the basis with sines in place of cosines, float32, shape [2N, N]."""
    return _lasting(torch.from_numpy(make_transform()["quadrature"]))


@lru_cache(maxsize=1)
def window_rise() -> Tensor:
    """Return the first half of the window, float32, shape [N]."""
    return _lasting(torch.from_numpy(make_transform()["rise"]))


@lru_cache(maxsize=1)
def long_matrix() -> Tensor:
    """Return the matrix from a frame's two blocks to its long block, float32, shape [2N, 2N]."""
    return _lasting(torch.from_numpy(make_transform()["to_long"]))


@lru_cache(maxsize=1)
def comb_filters() -> Tensor:
    """Return the linear-phase filters of the comb's bands, float32, shape [bands, taps]."""
    return _lasting(torch.from_numpy(band_filters()).float())


@lru_cache(maxsize=1)
def noise_sequences() -> Tensor:
    """Return what noise is cut from: signs, log2 of magnitudes; float32, [2, SEQUENCE_LENGTH]."""
    signs, sizes = torch.from_numpy(rudin_shapiro()).float(), torch.from_numpy(log_sizes())
    return _lasting(torch.stack([signs, sizes]))


def _lasting(tensor: Tensor) -> Tensor:
    """Return a copy to be cached: not an inference tensor, which training could not use."""
    with torch.inference_mode(False):
        return tensor.clone()


# --- bands ----------------------------------------------------------------------------------------


def band_matrix(edges: Sequence[int] = BAND_EDGES) -> Tensor:
    """Return the averaging matrix [bands, N]: row b is 1/width inside band b."""
    matrix = torch.zeros(len(edges) - 1, HOP_LENGTH)
    for b, (low, high) in enumerate(itertools.pairwise(edges)):
        matrix[b, low:high] = 1.0 / (high - low)
    return matrix


def band_of_coefficient() -> Tensor:
    """Return the band index of each MDCT coefficient, int64, shape [N]."""
    return torch.repeat_interleave(torch.arange(NUM_BANDS), torch.tensor(BAND_EDGES).diff())


def band_interpolation(edges: Sequence[int] = BAND_EDGES) -> Tensor:
    """Return weights [N, bands] that interpolate band values linearly at each coefficient.

    Those of coefficients below the first band are 0.
    """
    weights = torch.zeros(HOP_LENGTH, len(edges) - 1)
    for k, (band, above) in enumerate(bands.interpolation(edges)):
        if k >= edges[0]:
            weights[k, int(band)], weights[k, int(band) + 1] = 1 - above, above
    return weights


# --- MDCT -----------------------------------------------------------------------------------------


def to_long(spectrum: Tensor) -> Tensor:
    """Return the long blocks of frames' two blocks, [..., 2, N]: even coefficients, then odd."""
    return (spectrum.flatten(-2) @ long_matrix().to(spectrum)).view(spectrum.shape)


def to_short(spectrum: Tensor) -> Tensor:
    """Return the two blocks of frames' long blocks; the inverse of :func:`to_long`."""
    return (spectrum.flatten(-2) @ long_matrix().to(spectrum).T).view(spectrum.shape)


def mdct(waveform: Tensor, blocks: int, quadrature: bool = False) -> Tensor:
    """Transform a waveform to MDCT spectra.

    Parameters
    ----------
    waveform : float Tensor, shape [B, T]   T <= (blocks - 1) * N
    blocks : int                            number of blocks F; the signal is zero-padded
    quadrature : bool                       MDST instead

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
    basis = mdst_matrix() if quadrature else mdct_matrix()
    return frames @ basis.to(waveform)


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


def quiet_inverse_mdct(
    spectrum: Tensor, num_samples: int, lost: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rebuild the waveform, held to what both blocks that a sample lies in can tell of.

    As ``codec.dsp.mdct.keep_silence`` does, where ``spreads`` says so.

    Parameters
    ----------
    spectrum : float Tensor, shape [B, F, N]     the limits have no gradient
    num_samples : int                            T <= (F - 1) * N
    lost : bool Tensor, shape [B, F], optional   blocks that tell of no silence

    Returns
    -------
    waveform, limit : float Tensors, shape [B, T]   how large samples may be, also when filtered
    """
    frames = spectrum @ mdct_matrix().to(spectrum).T  # [B, F, 2N]
    early, late = frames[:, 1:, :HOP_LENGTH], frames[:, :-1, HOP_LENGTH:]
    norm = spectrum.detach().square().sum(-1).sqrt()
    before, now = norm[:, :-1], norm[:, 1:]
    shared = torch.where(before > now, *(x.detach().square().sum(-1) for x in (late, early)))
    spreads = shared < SHARE * torch.maximum(before, now).square()
    if lost is not None:
        spreads = spreads & ~(lost[:, :-1] | lost[:, 1:])
    rise = window_rise().to(norm)
    limit = float(ALIAS) * torch.minimum(before[..., None] / rise.flip(0), now[..., None] / rise)
    limit = torch.where(spreads[..., None], limit, torch.inf)
    limit = limit.flatten(1)[:, :num_samples]
    return hold((early + late).flatten(1)[:, :num_samples], limit), limit


def hold(waveform: Tensor, limit: Tensor) -> Tensor:
    """Return samples that are no larger than their limits, both of one shape."""
    return torch.maximum(torch.minimum(waveform, limit), -limit)


# --- linear prediction ----------------------------------------------------------------------------


def autocorrelation(frames: Tensor, order: int) -> Tensor:
    """Return lags 0..order of windowed frames, shape [..., T] -> [..., order + 1]."""
    n_fft = 1 << (frames.shape[-1] + order).bit_length()
    power = torch.fft.rfft(frames, n_fft).abs().square()
    return torch.fft.irfft(power, n_fft)[..., : order + 1]


def lag_window(order: int) -> Tensor:
    """Return the Gaussian lag window, float32, shape [order + 1]."""
    lags = torch.arange(order + 1, dtype=torch.float64)
    angle = 2 * torch.pi * LAG_WINDOW_HZ * lags / SAMPLE_RATE
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


def lpc_envelope(frames: Tensor, order: int = LPC_ORDER) -> Tensor:
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
    floor = torch.zeros_like(r)
    floor[..., 0] = RELATIVE_FLOOR * r[..., 0] + ABSOLUTE_FLOOR
    a, error = levinson_durbin(r + floor)
    # |A| at (k + 1/2) / N * pi: the odd bins of a DFT of length 4N.
    response = torch.fft.rfft(a, 4 * HOP_LENGTH)[..., 1 : 2 * HOP_LENGTH : 2]
    log_response = 0.5 * torch.log2(response.abs().square() + float(RESPONSE_FLOOR))
    return 0.5 * torch.log2(error)[..., None] - log_response


# --- noise ----------------------------------------------------------------------------------------


def random_noise(periodicity: Tensor) -> Tensor:
    """Return noise of the decoder's kind from torch's generator for frames [..., 2], [..., 2, N].

    ``periodicity`` is that of the frames' blocks, 0..1.
    """
    signs, sizes = noise_sequences().to(periodicity)

    def cut(sequence: Tensor, shape: torch.Size, length: int) -> Tensor:
        place = torch.randint(0, SEQUENCE_LENGTH - length, shape, device=periodicity.device)
        return sequence[place[..., None] + torch.arange(length, device=periodicity.device)]

    blocks, frames = periodicity.shape, torch.Size((*periodicity.shape[:-1], 1))
    noise = cut(signs, blocks, HOP_LENGTH)
    noise = noise * (torch.randint(0, 2, (*blocks, 1), device=periodicity.device) * 2 - 1)
    voicing = periodicity.mean(-1)[..., None, None]
    voicing = ((voicing - float(VOICED_FROM)) / float(VOICED_RANGE)).clamp(0.0, 1.0)
    own, shared = (cut(sizes, shape, HOP_LENGTH - STEADY) for shape in (blocks, frames))
    size = torch.exp2((1.0 - voicing).sqrt() * own + voicing.sqrt() * shared)
    size = size.unflatten(-1, (-1, GROUP))
    size = size / size.square().mean(-1, keepdim=True).sqrt()
    return torch.cat([noise[..., :STEADY], noise[..., STEADY:] * size.flatten(-2)], -1)


# --- pitch and comb filter ------------------------------------------------------------------------


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
    energy = total[..., WINDOW + 1 :] - total[..., 1 : MAX_LAG + 1]  # lags MAX_LAG - 1 .. 0
    energy = energy.flip(-1)[..., MIN_LAG:MAX_LAG]
    own = target.square().sum(-1, keepdim=True)
    similarity = correlation / (own * energy).clamp_min(1e-24).sqrt()
    lags = torch.arange(MIN_LAG, MAX_LAG, device=waveform.device)
    # Rounded, so that machines agree on which of two equally good lags is the first.
    biased = torch.round(similarity * (1.0 - LAG_BIAS * lags) * 1e6)
    best = biased.argmax(-1, keepdim=True)
    periodicity = similarity.gather(-1, best)[..., 0].clamp(0.0, 1.0)
    return best[..., 0] + MIN_LAG, periodicity


def comb_filter(waveform: Tensor, lag: Tensor, gain: Tensor) -> Tensor:
    """Add the past, one lag before, band by band.

    ``y[n] = x[n] + sum over bands of gain_b (h_b * x)[n - lag]``; lag and gain fade over from those
    of the segment before within the first FADE samples of each.

    Parameters
    ----------
    waveform : float Tensor, shape [B, HISTORY + S * N]   S segments and their history
    lag : int64 Tensor, shape [B, S + 1]                       of the segment before, and of each
    gain : float Tensor, shape [B, S + 1, bands]

    Returns
    -------
    float Tensor, shape [B, S * N]
    """
    batch, length = waveform.shape
    segments = (length - HISTORY) // HOP_LENGTH
    bands = torch.nn.functional.conv1d(
        waveform[:, None], comb_filters().to(waveform)[:, None], padding=REACH
    )  # [B, bands, HISTORY + S * N]
    start = HISTORY + HOP_LENGTH * torch.arange(segments, device=waveform.device)

    def past(lags: Tensor, gains: Tensor, count: int) -> Tensor:
        """Return the first ``count`` samples of what every segment's filter adds, [B, S, count]."""
        first = start - lags  # [B, S]
        index = first[..., None] + torch.arange(count, device=waveform.device)
        index = index.flatten(1)[:, None].expand(-1, bands.shape[1], -1)
        taken = bands.gather(-1, index).view(batch, -1, segments, count)
        return torch.einsum("bkst,bsk->bst", taken, gains)

    fade = (torch.arange(FADE, device=waveform.device).to(waveform) + 0.5) / FADE
    added = past(lag[:, 1:], gain[:, 1:], HOP_LENGTH)
    before = past(lag[:, :-1], gain[:, :-1], FADE)
    begun = added[..., :FADE] * fade + before * (1.0 - fade)
    added = torch.cat([begun, added[..., FADE:]], -1)
    return waveform[:, HISTORY:] + added.flatten(1)
