"""Metrics: pSNR against a second implementation, its invariances, guards, the registry."""

from __future__ import annotations

import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from scipy import signal
from toys import RATE, speech_like

from evaluation import metrics
from evaluation.metrics import METRICS, OPTIONAL_METRICS, MetricError, estoi, pesq_wb, psnr


def slow_psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Write the definition out frame by frame: normal equations solved, z-transforms summed."""
    e = x - y
    emphasised = np.array([x[n] - 0.68 * (x[n - 1] if n else 0.0) for n in range(x.size)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(640) / 640)
    z = np.exp(2j * np.pi * np.arange(1024) / 1024)
    wanted = unwanted = 0.0
    for start in range(-320, x.size, 320):
        index = np.arange(start, start + 640)
        inside = (index >= 0) & (index < x.size)

        def cut(v: np.ndarray, index=index, inside=inside) -> np.ndarray:
            return np.where(inside, v[np.clip(index, 0, v.size - 1)], 0.0)

        frame = cut(emphasised) * window
        r = np.array([frame[: 640 - k] @ frame[k:] for k in range(17)])
        r[0] = r[0] * 1.0001 + 1e-9
        r *= np.exp(-0.5 * (2 * np.pi * 40 / RATE * np.arange(17)) ** 2)
        matrix = r[np.abs(np.subtract.outer(np.arange(16), np.arange(16)))]
        a = np.concatenate([[1.0], -np.linalg.solve(matrix, r[1:])])
        w = sum(a[k] * 0.92**k * z ** -float(k) for k in range(17)) / (1 - 0.68 / z)
        wanted += np.sum(np.abs(w * np.fft.fft(cut(x) * np.sqrt(window), 1024)) ** 2)
        unwanted += np.sum(np.abs(w * np.fft.fft(cut(e) * np.sqrt(window), 1024)) ** 2)
    return 10 * np.log10(wanted / unwanted)


# ---------------------------------------------------------------------------- pSNR


@pytest.mark.parametrize("num_samples", [1, 2, 319, 320, 321, 640, 641, 7777])
def test_psnr_follows_its_definition(num_samples: int) -> None:
    x = speech_like(1.0)[2000 : 2000 + num_samples]
    y = x + 0.01 * np.random.default_rng(1).standard_normal(num_samples)
    assert psnr(x, y) == pytest.approx(slow_psnr(x, y), abs=1e-6)


def test_psnr_of_scaled_error_and_scaled_clip() -> None:
    x = speech_like(2.0)
    error = 0.003 * np.random.default_rng(2).standard_normal(x.size)
    at_0 = psnr(x, x + error)
    assert psnr(x, x + error * 10**0.5) == pytest.approx(at_0 - 10.0, abs=1e-9)
    assert psnr(x, x - error) == pytest.approx(at_0, abs=1e-9)
    loud = x + 0.01 * np.random.default_rng(7).standard_normal(x.size)  # 1e-9 is nothing to it
    at_0 = psnr(loud, loud + error)
    assert psnr(0.25 * loud, 0.25 * (loud + error)) == pytest.approx(at_0, abs=1e-3)
    assert psnr(x, np.zeros_like(x)) == pytest.approx(0.0, abs=1e-12)
    assert psnr(x, x) == np.inf


def test_psnr_counts_both_ends() -> None:
    x = speech_like(1.0)
    x[:] += 0.01 * np.random.default_rng(3).standard_normal(x.size)
    for where in (0, -1):
        y = x.copy()
        y[where] += 0.5
        assert psnr(x, y) < 60


def test_psnr_forgives_noise_under_a_formant() -> None:
    """Noise at the formant scores higher than noise of the same energy an octave above it."""
    rng = np.random.default_rng(4)
    x = signal.lfilter([1.0], [1.0, -1.9 * np.cos(np.pi / 4), 0.9025], rng.standard_normal(32000))
    noise = rng.standard_normal(x.size)
    at_formant = signal.sosfilt(signal.butter(4, (1700, 2300), "bp", fs=RATE, output="sos"), noise)
    above = signal.sosfilt(signal.butter(4, (3700, 4300), "bp", fs=RATE, output="sos"), noise)
    at_formant, above = (0.1 * v / np.std(v) for v in (at_formant, above))
    assert psnr(x, x + at_formant) > psnr(x, x + above) + 2.0


def test_psnr_is_fast() -> None:
    x = speech_like(10.0)
    y = x + 1e-3
    psnr(x, y)
    best = min(_timed(psnr, x, y) for _ in range(5))
    assert best < 0.2  # about 0.02 s on an idle core


def _timed(function, *args) -> float:
    start = time.process_time()
    function(*args)
    return time.process_time() - start


# ---------------------------------------------------------------------------- PESQ, ESTOI


def test_pesq_of_many_utterances_is_an_error() -> None:
    """PESQ's program writes beyond its table of utterances, and is ended by the system for it."""
    burst = np.concatenate([0.3 * np.sin(np.arange(4800) * 0.3), np.zeros(6000)])
    many = np.tile(burst, 75) + 1e-4 * np.random.default_rng(0).standard_normal(75 * len(burst))
    with pytest.raises(MetricError, match="PESQ crashed: it takes about 50 utterances"):
        pesq_wb(many, 0.9 * many)


def test_long_clips_have_the_pesq_of_short_ones() -> None:
    """They are scored in another process."""
    long = speech_like(21.0)
    noisy = long + 0.01 * np.random.default_rng(0).standard_normal(len(long))
    assert len(long) >= 20 * 16000
    from pesq import pesq

    wanted = pesq(16000, long.astype(np.float32), noisy.astype(np.float32), "wb")
    assert pesq_wb(long, noisy) == wanted


@pytest.mark.parametrize("metric, top", [(pesq_wb, 4.64), (estoi, 1.0)])
def test_scores_fall_with_noise(metric, top: float) -> None:
    x = speech_like(3.0)
    noise = np.random.default_rng(5).standard_normal(x.size)
    clean, some, much = (metric(x, x + level * noise) for level in (0.0, 0.003, 0.05))
    assert clean == pytest.approx(top, abs=0.01)
    assert clean > some + 0.05
    assert some > much + 0.05


@pytest.mark.parametrize("num_samples", [1, 100, 3999])
@pytest.mark.parametrize("metric", [pesq_wb, estoi])
def test_too_short(metric, num_samples: int) -> None:
    x = speech_like(1.0)[2000 : 2000 + num_samples]
    with pytest.raises(MetricError, match="needs"):
        metric(x, x)


@pytest.mark.parametrize("metric", [psnr, pesq_wb, estoi])
def test_undefined_inputs(metric) -> None:
    x = speech_like(1.0)
    silence = np.zeros_like(x)
    with pytest.raises(MetricError, match="digital silence"):
        metric(silence, x)
    with pytest.raises(MetricError, match="16000 samples, decoded has 15999"):
        metric(x, x[:-1])
    with pytest.raises(MetricError, match="empty"):
        metric(x[:0], x[:0])
    with pytest.raises(MetricError, match="NaN"):
        metric(x, np.where(np.arange(x.size) == 5, np.nan, x))
    with pytest.raises(MetricError, match="shape"):
        metric(x[None], x[None])


def test_pesq_of_silent_output() -> None:
    x = speech_like(1.0)
    with pytest.raises(MetricError, match="decoded is digital silence"):
        pesq_wb(x, np.zeros_like(x))


# ---------------------------------------------------------------------------- optional


@pytest.mark.parametrize(
    "name, module", [("visqol", "visqol"), ("dnsmos", "speechmos"), ("distillmos", "distillmos")]
)
def test_missing_extras_say_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics._visqol_api.cache_clear()
    metrics._distillmos_model.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    x = speech_like(0.5)
    for call in (lambda: metrics.optional_metrics([name]), lambda: METRICS[name].function(x, x)):
        with pytest.raises(MetricError, match=r"pip install '\.\[eval\]'"):
            call()


def test_distillmos_is_asked_once_loaded(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The model is made once, says nothing, and gets one waveform in a batch."""
    torch = pytest.importorskip("torch")
    made = []

    class Model:
        def __init__(self) -> None:
            print("weights loaded")
            made.append(self)

        def eval(self):
            return self

        def __call__(self, batch):
            assert batch.shape == (1, 8000) and batch.dtype == torch.float32
            return torch.tensor([[3.5]])

    package = types.SimpleNamespace(ConvTransformerSQAModel=Model)
    monkeypatch.setitem(sys.modules, "distillmos", package)
    metrics._distillmos_model.cache_clear()
    x = speech_like(0.5)
    assert metrics.optional_metrics(["distillmos"]) == ("distillmos",)
    assert METRICS["distillmos"].function(x, x) == 3.5
    assert len(made) == 1 and capsys.readouterr().out == ""
    metrics._distillmos_model.cache_clear()


# ---------------------------------------------------------------------------- the registry


def test_registry() -> None:
    assert list(METRICS) == ["pesq_wb", "psnr_db", "estoi", "visqol", "dnsmos", "distillmos"]
    assert OPTIONAL_METRICS == ("visqol", "dnsmos", "distillmos")
    for name, metric in METRICS.items():
        assert metric.name == name and metric.label and 1 <= metric.decimals <= 3
    names = [*METRICS, *(alias for metric in METRICS.values() for alias in metric.aliases)]
    assert len(set(names)) == len(names)
    assert METRICS["psnr_db"].heading == "pSNR dB" and METRICS["pesq_wb"].heading == "PESQ"
    for unknown in ("polqa", "pesq_wb"):  # what is always computed is no further metric
        with pytest.raises(ValueError, match=f"{unknown!r}; choose from visqol, dnsmos"):
            metrics.optional_metrics([unknown])


def test_evaluation_brings_no_torch() -> None:
    code = (
        "import sys\n"
        "import evaluation.run, evaluation.tables, evaluation.listening.mushra\n"
        "sys.exit(sorted({'torch', 'torchaudio', 'matplotlib', 'models'} & set(sys.modules)) or 0)"
    )
    root = Path(metrics.__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
