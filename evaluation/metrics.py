"""Score decoded speech against its reference: PESQ, pSNR, ESTOI, and optional further metrics.

All functions take mono waveforms at 16 kHz, float, full scale ±1, shape [T]. A metric that cannot
be computed for a clip raises :class:`MetricError` with one line that says why; none returns a
made-up number. `METRICS` is the one list of them: tables, plots, page and command line take names,
units and decimals from it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, signal

from codec.config import SAMPLE_RATE

FloatArray = NDArray[np.float64]

# pSNR: perceptually weighted SNR, with the weighting filter of AMR-WB (3GPP TS 26.190)
_FRAME_LENGTH = 640
_HOP_LENGTH = 320
_FFT_LENGTH = 1024
_LPC_ORDER = 16
_PRE_EMPHASIS = 0.68
_GAMMA = 0.92
_LAG_WINDOW_HZ = 40.0


class MetricError(ValueError):
    """A metric is undefined for this clip, or the package that computes it is missing."""


def as_pair(reference: ArrayLike, decoded: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both waveforms as finite float64 vectors of one length, or raise MetricError."""
    ref = np.asarray(reference, dtype=np.float64)
    dec = np.asarray(decoded, dtype=np.float64)
    if ref.ndim != 1 or dec.ndim != 1:
        raise MetricError(f"waveforms must have shape [T], got {ref.shape} and {dec.shape}")
    if ref.size != dec.size:
        raise MetricError(f"reference has {ref.size} samples, decoded has {dec.size}")
    if ref.size == 0:
        raise MetricError("clip is empty")
    if not (np.isfinite(ref).all() and np.isfinite(dec).all()):
        raise MetricError("waveform has NaN or infinite samples")
    return ref, dec


# ---------------------------------------------------------------------------- pSNR


def _frames(x: FloatArray) -> FloatArray:
    """Cut `x` into overlapping frames, zero-padded so that every sample is in two of them.

    Returns
    -------
    float64 array, shape [F, 640], F = ceil(T / 320) + 1
    """
    num_hops = -(-x.size // _HOP_LENGTH)
    padded = np.zeros((num_hops + 2) * _HOP_LENGTH)
    padded[_HOP_LENGTH : _HOP_LENGTH + x.size] = x
    return np.lib.stride_tricks.sliding_window_view(padded, _FRAME_LENGTH)[::_HOP_LENGTH]


def _levinson(autocorrelation: FloatArray) -> FloatArray:
    """Solve the LPC normal equations of all frames at once (Levinson-Durbin).

    Parameters
    ----------
    autocorrelation : float64 array, shape [F, P + 1], lag 0 positive

    Returns
    -------
    float64 array, shape [F, P + 1]: 1, a_1, ..., a_P of A(z) = 1 + sum a_k z^-k
    """
    num_frames, num_lags = autocorrelation.shape
    a = np.zeros((num_frames, num_lags))
    a[:, 0] = 1.0
    error = autocorrelation[:, 0].copy()
    for i in range(1, num_lags):
        acc = np.einsum("fk,fk->f", a[:, :i], autocorrelation[:, i:0:-1])
        reflection = -acc / error
        a[:, 1 : i + 1] += reflection[:, None] * a[:, i - 1 :: -1][:, :i]
        error *= 1.0 - reflection**2
    return a


@lru_cache(maxsize=1)
def _psnr_tables() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the Hann window [640], the lag window [17] and |1 / (1 - 0.68 z^-1)|^2 [513].

    The last is already doubled for the bins that stand for a conjugate pair.
    """
    hann = signal.get_window("hann", _FRAME_LENGTH)  # periodic: overlaps to one at half hop
    lags = np.arange(_LPC_ORDER + 1)
    lag_window = np.exp(-0.5 * (2.0 * np.pi * _LAG_WINDOW_HZ * lags / SAMPLE_RATE) ** 2)
    omega = 2.0 * np.pi * np.arange(_FFT_LENGTH // 2 + 1) / _FFT_LENGTH
    de_emphasis = 1.0 / np.abs(1.0 - _PRE_EMPHASIS * np.exp(-1j * omega)) ** 2
    de_emphasis[1:-1] *= 2.0
    return hann, lag_window, de_emphasis


def _power(frames: FloatArray) -> FloatArray:
    """Return the power spectrum of each frame, shape [F, 513]."""
    spectrum = fft.rfft(frames, _FFT_LENGTH, axis=-1)
    return spectrum.real**2 + spectrum.imag**2


def psnr(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Return the perceptually weighted signal-to-noise ratio in dB.

    The reference x is pre-emphasised with 1 - 0.68 z^-1; LPC of order 16 on its Hann-windowed
    frames (640 samples, hop 320) gives A(z), and the weight is W(z) = A(z / 0.92) /
    (1 - 0.68 z^-1). Then pSNR = 10 log10(sum |W X|^2 / sum |W E|^2) over all frames and all bins
    of a 1024-point FFT of sqrt-Hann-windowed frames of x and of the error x - y. The clip is
    padded with zeros so that its ends, and clips shorter than a frame, count in full.

    Parameters
    ----------
    reference, decoded : float arrays, shape [T], 16 kHz, full scale ±1

    Returns
    -------
    float, dB; inf where decoded equals reference

    Raises
    ------
    MetricError   lengths differ, clip empty, not finite, or the reference is digital silence
    """
    x, y = as_pair(reference, decoded)
    if not x.any():
        raise MetricError("reference is digital silence, pSNR is undefined")
    hann, lag_window, de_emphasis = _psnr_tables()

    emphasised = x.copy()
    emphasised[1:] -= _PRE_EMPHASIS * x[:-1]
    # Lags up to 1024 - 640 are free of aliasing in this circular autocorrelation.
    autocorrelation = fft.irfft(_power(_frames(emphasised) * hann), _FFT_LENGTH, axis=-1)
    autocorrelation = autocorrelation[:, : _LPC_ORDER + 1]  # [F, 17]
    autocorrelation[:, 0] = autocorrelation[:, 0] * 1.0001 + 1e-9
    a = _levinson(autocorrelation * lag_window)

    weight = _power(a * _GAMMA ** np.arange(_LPC_ORDER + 1)) * de_emphasis  # [F, 513]
    window = np.sqrt(hann)
    wanted = float(np.vdot(weight, _power(_frames(x) * window)))
    unwanted = float(np.vdot(weight, _power(_frames(x - y) * window)))
    if unwanted == 0.0:
        return float("inf")
    return float(10.0 * np.log10(wanted / unwanted))


# ---------------------------------------------------------------------------- PESQ, ESTOI


# PESQ's own program holds 50 utterances, of 0.2 s at least with pauses of 0.2 s between them, and
# writes the next ones over what is not its own.
_MANY_UTTERANCES = 20 * SAMPLE_RATE
_PESQ_REFUSED = 3
_PESQ_PROGRAM = f"""
import sys
import numpy as np
from evaluation.metrics import MetricError, _pesq
try:
    print(repr(_pesq(np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(2, -1))))
except MetricError as error:
    print(error, end="")
    sys.exit({_PESQ_REFUSED})
"""


def pesq_wb(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Return wideband PESQ (ITU-T P.862.2), about 1.04 to 4.64.

    Parameters
    ----------
    reference, decoded : float arrays, shape [T], 16 kHz, full scale ±1

    Raises
    ------
    MetricError   clip under 0.25 s, no speech found in it, or any other failure of PESQ
    """
    x, y = as_pair(reference, decoded)
    if x.size < SAMPLE_RATE // 4:
        raise MetricError(f"PESQ needs at least 0.25 s, clip has {x.size / SAMPLE_RATE:.3f} s")
    if not x.any():
        raise MetricError("reference is digital silence, PESQ is undefined")
    if not y.any():
        raise MetricError("decoded is digital silence, PESQ is undefined")
    signals = np.stack([x, y]).astype(np.float32)
    score = _pesq_apart(signals) if x.size >= _MANY_UTTERANCES else _pesq(signals)
    if not np.isfinite(score):
        raise MetricError("PESQ gave no finite score")
    return score


def _pesq(signals: NDArray[np.float32]) -> float:
    from pesq import PesqError, pesq

    try:
        return float(pesq(SAMPLE_RATE, *signals, "wb"))
    except (PesqError, ValueError) as exc:
        text = exc.args[0] if exc.args else type(exc).__name__
        text = text.decode() if isinstance(text, bytes) else str(text)
        raise MetricError(f"PESQ failed: {text}") from exc


def _pesq_apart(signals: NDArray[np.float32]) -> float:
    """Return PESQ computed in a process of its own, which it may crash."""
    done = subprocess.run(
        [sys.executable, "-c", _PESQ_PROGRAM], input=signals.tobytes(), capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    if done.returncode == 0:
        return float(done.stdout)
    if done.returncode == _PESQ_REFUSED:
        raise MetricError(done.stdout.decode())
    if done.returncode > 0:
        raise MetricError(f"PESQ failed: {done.stderr.decode(errors='replace').strip()[-200:]}")
    raise MetricError(
        "PESQ crashed: it takes about 50 utterances, between pauses; cut the clip into shorter ones"
    )


def estoi(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Return extended short-time objective intelligibility, about 0 to 1.

    Parameters
    ----------
    reference, decoded : float arrays, shape [T], 16 kHz

    Raises
    ------
    MetricError   less than 30 active frames (about 0.4 s of speech), or no finite score
    """
    x, y = as_pair(reference, decoded)
    if not x.any():
        raise MetricError("reference is digital silence, ESTOI is undefined")
    from pystoi import stoi

    too_short = "ESTOI needs about 0.4 s of speech, clip has less"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            score = float(stoi(x, y, SAMPLE_RATE, extended=True))
        except (ValueError, IndexError) as exc:  # not even one analysis frame
            raise MetricError(too_short) from exc
    if any("Not enough STFT frames" in str(w.message) for w in caught):
        raise MetricError(too_short)  # pystoi would return 1e-5
    if not np.isfinite(score):
        raise MetricError("ESTOI gave no finite score")
    return score


# ---------------------------------------------------------------------------- optional metrics


def _extra(module: str, label: str) -> Any:
    """Import a package of the extra `eval`."""
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MetricError(f"{label} is not installed: pip install '.[eval]'") from exc
    except OSError as exc:  # torchaudio was built for another torch
        raise MetricError(f"{label} does not load ({exc}): pip install '.[eval]'") from exc


def _finite(score: float, label: str) -> float:
    if not np.isfinite(score):
        raise MetricError(f"{label} gave no finite score")
    return score


@lru_cache(maxsize=1)
def _visqol_api() -> Any:
    """Load ViSQOL once per process, speech mode with the lattice mapping."""
    api = _extra("visqol", "ViSQOL").VisqolApi()
    try:
        api.create(mode="speech", use_lattice_model=True)
    except (ImportError, RuntimeError) as exc:  # without the extra "lattice" of the package
        raise MetricError("ViSQOL is not installed: pip install '.[eval]'") from exc
    return api


def visqol(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Return ViSQOL MOS-LQO in speech mode (lattice mapping), 1 to 5.

    Parameters
    ----------
    reference, decoded : float arrays, shape [T], 16 kHz

    Raises
    ------
    MetricError   the `eval` extra is not installed, or ViSQOL fails on this clip
    """
    x, y = as_pair(reference, decoded)
    api = _visqol_api()
    try:
        score = float(api.measure_from_arrays(x, y, SAMPLE_RATE).moslqo)
    except Exception as exc:  # whatever the package raises, the clip is listed with it
        raise MetricError(f"ViSQOL failed: {exc}") from exc
    return _finite(score, "ViSQOL")


def _dnsmos_package() -> Any:
    return _extra("speechmos.dnsmos", "DNSMOS")


def dnsmos(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Return DNSMOS P.835 overall of `decoded`, 1 to 5; `reference` is not looked at.

    Parameters
    ----------
    decoded : float array, shape [T], 16 kHz, clipped to ±1

    Raises
    ------
    MetricError   the `eval` extra is not installed, or DNSMOS fails on this clip
    """
    _, y = as_pair(decoded, decoded)
    package = _dnsmos_package()
    try:
        scores = package.run(np.clip(y, -1.0, 1.0).astype(np.float32), SAMPLE_RATE)
    except Exception as exc:  # as above
        raise MetricError(f"DNSMOS failed: {exc}") from exc
    return _finite(float(scores["ovrl_mos"]), "DNSMOS")


@lru_cache(maxsize=1)
def _distillmos_model() -> Callable[[FloatArray], float]:
    """Load DistillMOS once per process; its torch is needed nowhere else in this package."""
    package = _extra("distillmos", "DistillMOS")
    torch = _extra("torch", "DistillMOS")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights are
        model = package.ConvTransformerSQAModel().eval()

    def score(wave: FloatArray) -> float:
        with torch.inference_mode():
            return float(model(torch.from_numpy(wave.astype(np.float32))[None]))

    return score


def distillmos(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Return Distill-MOS of `decoded`, 1 to 5; `reference` is not looked at.

    Parameters
    ----------
    decoded : float array, shape [T], 16 kHz

    Raises
    ------
    MetricError   the `eval` extra is not installed, or DistillMOS fails on this clip

    References
    ----------
    Stahl & Gamper, Distillation and Pruning for Scalable Self-Supervised Representation-Based
    Speech Quality Assessment, ICASSP 2025.
    """
    _, y = as_pair(decoded, decoded)
    model = _distillmos_model()
    try:
        score = model(y)
    except Exception as exc:  # as above
        raise MetricError(f"DistillMOS failed: {exc}") from exc
    return _finite(score, "DistillMOS")


# ---------------------------------------------------------------------------- the registry


@dataclass(frozen=True)
class Metric:
    """One metric: how it is computed and how it is shown.

    name : key in results and files
    label, unit, decimals : in tables, plots and page
    function : ``function(reference, decoded)``, see the module
    package : distribution that computes it, whose version belongs to the scores; "" for our own
    scale : what its values are, where there is room to say so
    load : loads what an optional metric needs, or raises MetricError; None: always computed
    aliases : further columns of published scores that hold it
    """

    name: str
    label: str
    unit: str
    decimals: int
    function: Callable[[ArrayLike, ArrayLike], float]
    package: str = ""
    scale: str = ""
    load: Callable[[], Any] | None = None
    aliases: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Label and unit, "pSNR dB"."""
        return f"{self.label} {self.unit}".rstrip()


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("pesq_wb", "PESQ", "", 2, pesq_wb, "pesq", "P.862.2, MOS-LQO"),
        Metric("psnr_db", "pSNR", "dB", 2, psnr),
        Metric("estoi", "ESTOI", "", 3, estoi, "pystoi"),
        Metric("visqol", "ViSQOL", "", 2, visqol, "visqol-python", "MOS-LQO", _visqol_api,
               ("visqol_speech",)),
        Metric("dnsmos", "DNSMOS", "", 2, dnsmos, "speechmos", "P.835 overall", _dnsmos_package,
               ("dnsmos_ovrl",)),
        Metric("distillmos", "DistillMOS", "", 2, distillmos, "distillmos", "MOS",
               _distillmos_model),
    )
}  # fmt: skip
DEFAULT_METRICS = tuple(name for name, metric in METRICS.items() if metric.load is None)
OPTIONAL_METRICS = tuple(name for name, metric in METRICS.items() if metric.load is not None)


def optional_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Return the optional metrics of that name in order, each once, ready to be computed.

    Raises
    ------
    ValueError    there is no optional metric of a name
    MetricError   its package is not installed
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in OPTIONAL_METRICS:
            raise ValueError(f"unknown metric {name!r}; choose from {', '.join(OPTIONAL_METRICS)}")
        if (load := METRICS[name].load) is not None:
            load()
    return chosen
