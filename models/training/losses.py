"""Training losses: differentiable PESQ, perceptually weighted error, multi-resolution spectrum."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_pesq import PesqLoss

from codec.config import BAND_EDGES_HZ, HOP_LENGTH, SAMPLE_RATE
from models.dsp import autocorrelation, lag_window, levinson_durbin
from models.training.config import TrainConfig

FRAME, HOP, N_FFT = 640, 320, 1024
PRE_EMPHASIS, GAMMA, LPC_ORDER = 0.68, 0.92, 16


@torch.no_grad()
def weighting(reference: Tensor) -> Tensor:
    """Return |W|^2 of the pSNR definition for each frame of the reference.

    ``W(z) = A(z/0.92) / (1 - 0.68 z^-1)`` with A(z) of order 16 of the pre-emphasised frame, as
    in the perceptual weighting filter of AMR-WB (3GPP TS 26.190, 5.4).

    Parameters
    ----------
    reference : float Tensor, shape [B, T]

    Returns
    -------
    float Tensor, shape [B, N_FFT / 2 + 1, F]
    """
    emphasised = reference.clone()
    emphasised[:, 1:] -= PRE_EMPHASIS * reference[:, :-1]
    window = torch.hann_window(FRAME).to(reference)
    frames = emphasised.unfold(-1, FRAME, HOP) * window
    r = autocorrelation(frames, LPC_ORDER) * lag_window(LPC_ORDER).to(reference)
    r[..., 0] = r[..., 0] * 1.0001 + 1e-9
    a, _ = levinson_durbin(r)
    a = a * GAMMA ** torch.arange(LPC_ORDER + 1, device=a.device)
    numerator = torch.fft.rfft(a, N_FFT).abs().square()
    denominator = torch.tensor([1.0, -PRE_EMPHASIS], device=a.device)
    return (numerator / torch.fft.rfft(denominator, N_FFT).abs().square()).transpose(1, 2)


def weighted_error(reference: Tensor, decoded: Tensor) -> Tensor:
    """Return the noise-to-signal ratio under the weighting, shape [B]; pSNR = -10 log10 of it."""
    weight = weighting(reference)
    window = torch.hann_window(FRAME).to(reference).sqrt()

    def energy(x: Tensor) -> Tensor:
        frames = x.unfold(-1, FRAME, HOP) * window
        power = torch.view_as_real(torch.fft.rfft(frames, N_FFT)).square().sum(-1)
        return (power.transpose(1, 2) * weight).sum((1, 2))

    return (energy(decoded - reference) + 1e-9) / (energy(reference) + 1e-9)


def _smoothed(x: Tensor) -> Tensor:
    """Return means over 3 x 3 cells of [..., A, B], one direction after the other."""
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9.0


class SpectralLoss(nn.Module):
    """Mean distance of smoothed log magnitudes at several resolutions.

    Powers are averaged over 3 x 3 bins before the logarithm, so that noise is compared by its
    level, not by its random phase: a stripe or a hole costs, the grain of noise does not.

    Parameters
    ----------
    sizes : tuple of int   FFT lengths; hop is a quarter of each
    """

    def __init__(self, sizes: tuple[int, ...] = (256, 512, 1024)) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """Return the loss per clip, [B, T] x [B, T] -> [B] (nepers)."""
        floor = 1e-6 * reference.square().mean(-1) + 1e-10
        total = reference.new_zeros(reference.shape[0])
        for size in self.sizes:
            window = torch.hann_window(size).to(reference)
            window = window / window.square().sum().sqrt()
            logs = []
            for x in (reference, decoded):
                s = torch.stft(x, size, size // 4, window=window, center=False, return_complex=True)
                power = torch.view_as_real(s).square().sum(-1)
                power = _smoothed(power)
                logs.append(0.5 * torch.log(power + floor[:, None, None]))
            total = total + (logs[0] - logs[1]).abs().mean((1, 2))
        return total / len(self.sizes)


class SimilarityLoss(nn.Module):
    """One minus the structural similarity of gammatone spectrograms (NSIM).

    Energies of 21 gammatone bands over 80 ms, every 20 ms, in logarithms; their local means,
    variances and covariance over 3 x 3 cells give the similarity of level and of structure. It asks
    for what the other losses forget at low rates: that quiet bands rise and fall as they should.
    ViSQOL builds on the same measure, so a codec trained with this loss has practised for it.

    References
    ----------
    Hines & Harte, "Speech intelligibility prediction using a neurogram similarity index measure",
    Speech Communication 54, 2012, eq. (3).
    """

    FRAME, HOP, BANDS = 1280, 320, 21
    FLOOR = 3e-5  # rms below which a band is silent: one step of 16 bits
    NOMINAL = 0.03  # rms
    C1, C3 = 1e-4, 2e-2

    response: Tensor
    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Centres are spaced evenly in equivalent rectangular bandwidths (Glasberg & Moore 1990).
        q, minimum, low, high = 9.26449, 24.7, 50.0, SAMPLE_RATE / 2
        number = torch.arange(1, self.BANDS + 1, dtype=torch.float64)
        ratio = math.log((low + q * minimum) / (high + q * minimum)) / self.BANDS
        centre = ((high + q * minimum) * torch.exp(number * ratio) - q * minimum).flip(0)
        width = 1.019 * (centre / q + minimum)
        frequency = torch.fft.rfftfreq(self.FRAME, 1 / SAMPLE_RATE, dtype=torch.float64)
        # Magnitude of a fourth-order gammatone filter, squared.
        response = (1 + ((frequency[:, None] - centre) / width).square()) ** -4
        self.register_buffer("response", response.float(), persistent=False)
        kernel = torch.exp(-0.5 * (torch.arange(-1.0, 2.0) / 0.5).square())
        kernel = kernel / kernel.sum()
        self.register_buffer("kernel", (kernel[:, None] * kernel)[None, None], persistent=False)

    def _levels(self, x: Tensor) -> Tensor:
        """Return ln of the bands' rms over the floor, [B, 1, F, bands]."""
        frames = x.unfold(-1, self.FRAME, self.HOP)
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1)
        power = power @ self.response * (2.0 / self.FRAME**2)
        return 2.17 * torch.log(power / self.FLOOR**2 + 1.0)[:, None]

    def forward(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """Return the loss per clip, [B, T] x [B, T] -> [B], 0..2; T at least 80 ms + 2 x 20 ms."""
        gain = self.NOMINAL / reference.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-9)
        gain = gain.clamp(1.0, 100.0)  # quiet signals are judged as if they were turned up
        x, y = self._levels(gain * reference), self._levels(gain * decoded)

        def mean(z: Tensor) -> Tensor:
            return torch.nn.functional.conv2d(z, self.kernel)

        mean_x, mean_y = mean(x), mean(y)
        var_x = (mean(x * x) - mean_x.square()).clamp_min(0.0)
        var_y = (mean(y * y) - mean_y.square()).clamp_min(0.0)
        covariance = mean(x * y) - mean_x * mean_y
        level = (2 * mean_x * mean_y + self.C1) / (mean_x.square() + mean_y.square() + self.C1)
        structure = (covariance + self.C3) / ((var_x * var_y + 1e-6).sqrt() + self.C3)
        return 1.0 - (level * structure).mean((1, 2, 3))


class LevelLoss(nn.Module):
    """Mean error of the bands' levels, in dB, where the reference is not silent.

    Powers of the envelope's bands over 24 ms, every 12 ms: what a listener hears as too loud or too
    quiet at the wrong time.
    """

    FRAME, HOP = 384, 192
    RANGE_DB = 60.0  # below the highest level of any band in the clip: silent

    bands: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        frequency = torch.fft.rfftfreq(self.FRAME, 1 / SAMPLE_RATE)
        edges = torch.tensor(BAND_EDGES_HZ)
        inside = (frequency[:, None] >= edges[:-1]) & (frequency[:, None] < edges[1:])
        self.register_buffer("bands", inside.float(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.FRAME), persistent=False)

    def forward(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """Return the loss per clip, [B, T] x [B, T] -> [B] (dB)."""
        floor = 1e-7 * reference.square().mean(-1)[:, None, None] + 1e-12

        def levels(x: Tensor) -> Tensor:
            frames = x.unfold(-1, self.FRAME, self.HOP) * self.window
            power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1) @ self.bands
            return 10.0 * torch.log10(power + floor)

        x, y = levels(reference), levels(decoded)
        heard = (x > x.amax((1, 2), keepdim=True) - self.RANGE_DB).to(x)
        return ((x - y).abs() * heard).sum((1, 2)) / heard.sum((1, 2)).clamp_min(1.0)


class CodecLoss(nn.Module):
    """Sum of the losses with their weights.

    Parameters
    ----------
    pesq, error, spectral : float   weights of PESQ disturbance, ln(weighted error), spectrum
    error_32, spectral_32 : float, optional
        weights at 32 kbit/s, where the first ones hold at 8; between them the weights are
        interpolated geometrically over the logarithm of the rate. None: the same at all rates
    """

    def __init__(
        self,
        pesq: float = 1.0,
        error: float = 0.3,
        spectral: float = 1.0,
        error_32: float | None = None,
        spectral_32: float | None = None,
        similarity: float = 0.0,
        similarity_32: float | None = None,
        level: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights = {"pesq": pesq, "error": error, "spectral": spectral}
        self.weights |= {"similarity": similarity, "level": level}
        self.weights_32 = {
            "pesq": pesq,
            "error": error if error_32 is None else error_32,
            "spectral": spectral if spectral_32 is None else spectral_32,
            "similarity": similarity if similarity_32 is None else similarity_32,
            "level": level,
        }
        self.pesq = PesqLoss(1.0, sample_rate=SAMPLE_RATE)
        self.spectral = SpectralLoss()
        self.similarity = SimilarityLoss()
        self.level = LevelLoss()

    @classmethod
    def from_config(cls, config: TrainConfig) -> CodecLoss:
        """Return the loss with the weights of a training run."""
        return cls(
            config.pesq_weight,
            config.error_weight,
            config.spectral_weight,
            config.error_weight_32,
            config.spectral_weight_32,
            config.similarity_weight,
            config.similarity_weight_32,
            config.level_weight,
        )

    def forward(
        self,
        reference: Tensor,
        decoded: Tensor,
        rate_kbps: Tensor | None = None,
        speech: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss per clip [B] and its unweighted terms, each [B].

        ``rate_kbps`` [B] picks the weights; None takes those of 8 kbit/s. ``speech`` [B] tells what
        PESQ can judge; nor can it judge what is partly digital silence (its gradient is NaN there).
        """
        terms = {
            "pesq": self._disturbance(reference, decoded, speech),
            "error": torch.log(weighted_error(reference, decoded)),
            "spectral": self.spectral(reference, decoded),
            "similarity": self.similarity(reference, decoded),
            "level": self.level(reference, decoded),
        }
        if rate_kbps is None:
            position = torch.zeros_like(terms["error"])
        else:
            position = (0.5 * torch.log2(rate_kbps / 8.0)).clamp(0.0, 1.0)
        total = torch.zeros_like(terms["error"])
        for name, value in terms.items():
            low, high = self.weights[name], self.weights_32[name]
            if low or high:  # between them a straight line of logarithms, in which 0 is next to 0
                low, high = max(low, 1e-6), max(high, 1e-6)
                total = total + low * torch.exp(position * math.log(high / low)) * value
        return total, terms

    def _disturbance(self, reference: Tensor, decoded: Tensor, speech: Tensor | None) -> Tensor:
        """Return the PESQ disturbance per clip [B]; 0 where it cannot be had."""
        blocks = reference.unfold(-1, HOP_LENGTH, HOP_LENGTH)
        judged = (blocks.abs().amax(-1) > 0).all(-1)
        if speech is not None:
            judged = judged & speech
        values = torch.zeros(len(reference), device=reference.device)
        if judged.any():
            some = self.pesq(reference[judged].clone(), decoded[judged].clone())
            values = values.masked_scatter(judged, some.to(values))
        return values
