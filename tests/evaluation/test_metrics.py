"""Metrics: pSNR against a second implementation, its invariances, guards, alignment of peers."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from scipy import signal

from evaluation import metrics
from evaluation.metrics import MetricError, align, estoi, fir_map, pesq_wb, psnr

RATE = 16000


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Pulses and noise through resonances, switched on and off like syllables."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)
    source = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0) * 10
    source += rng.standard_normal(t.size)
    for frequency, bandwidth in ((600, 90), (1400, 120), (2600, 160)):
        radius = np.exp(-np.pi * bandwidth / RATE)
        angle = 2 * np.pi * frequency / RATE
        source = signal.lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], source)
    wave = source * np.clip(np.sin(2 * np.pi * 2.0 * t), 0, None)
    return 0.3 * wave / np.abs(wave).max() + 1e-4 * rng.standard_normal(t.size)


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


# ---------------------------------------------------------------------------- peers


@pytest.mark.parametrize("delay", [-700, -1, 0, 1, 137, 3999])
def test_align_finds_the_delay(delay: int) -> None:
    x = speech_like(1.0)
    y = np.zeros_like(x)
    if delay >= 0:
        y[delay:] = x[: x.size - delay]
    else:
        y[:delay] = x[-delay:]
    aligned, found = align(x, -0.5 * -y + 0.001)
    assert found == delay
    same = slice(max(0, -delay), x.size - max(0, delay))
    np.testing.assert_allclose(aligned[same], 0.5 * x[same] + 0.001, atol=1e-12)


def test_align_takes_any_length() -> None:
    x = speech_like(1.0)
    longer, delay = align(x, np.concatenate([np.zeros(312), x, np.zeros(100)]))
    assert delay == 312
    np.testing.assert_array_equal(longer, x)
    shorter, delay = align(x, x[:9000])
    assert delay == 0
    np.testing.assert_array_equal(shorter, np.concatenate([x[:9000], np.zeros(7000)]))


def test_fir_map_undoes_a_fixed_filter() -> None:
    x = speech_like(2.0)
    y = signal.lfilter([0.0, 0.0, 0.6, 0.3], [1.0, -0.5], x)  # delay, gain and tilt
    before, after = psnr(x, y), psnr(x, fir_map(x, y))
    assert before < 5.0
    assert after > 40.0


def test_fir_map_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((2, 400))
    columns = np.stack([np.convolve(y, np.eye(5)[k]) for k in range(5)], axis=1)  # [404, 5]
    target = np.concatenate([np.zeros(2), x, np.zeros(2)])
    best, *_ = np.linalg.lstsq(columns, target, rcond=None)
    np.testing.assert_allclose(fir_map(x, y, taps=5), (columns @ best)[2:-2], atol=1e-6)


def test_fir_map_guards() -> None:
    x = speech_like(0.5)
    assert not fir_map(x, np.zeros_like(x)).any()
    for taps in (0, 512, -3):
        with pytest.raises(ValueError, match="odd"):
            fir_map(x, x, taps)


# ---------------------------------------------------------------------------- optional


@pytest.mark.parametrize("name, module", [("visqol", "visqol"), ("dnsmos", "speechmos")])
def test_missing_extras_say_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics._visqol_api.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    x = speech_like(0.5)
    for call in (lambda: metrics.require(name), lambda: getattr(metrics, name)(x, x)):
        with pytest.raises(MetricError, match=r"pip install '\.\[eval\]'"):
            call()
