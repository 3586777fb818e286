"""What training hears beside clean speech: other levels, noise, silence, gates, clicks, tones.

Every crop is made of speech by :func:`augment`, or, now and then, is a synthetic signal
(:func:`synthetic`), so that the codec knows what is not speech and leaves it whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codec.config import SAMPLE_RATE

# Share of crops that are synthetic signals; of speech, what is done to it (each by itself).
SYNTHETIC = 0.06
NOISY, GATED, CLICKS, CLIPPED, BAND_LIMITED = 0.15, 0.04, 0.03, 0.02, 0.03
# Level of speech: usually near the recording's, else anywhere down to -60 dBFS.
QUIET, GAIN_DB, QUIET_DB = 0.25, (-12.0, 12.0), (-45.0, -12.0)
FULL_SCALE = 32768  # of 16 bits


def coloured_noise(rng: np.random.Generator, length: int, level: float) -> np.ndarray:
    """Return coloured Gaussian noise of the given rms, between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    tilt = np.maximum(np.arange(len(spectrum)), 20.0) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum * tilt, length)
    return (noise * (level / (noise.std() + 1e-12))).astype(np.float32)


def augment(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a crop of speech, float32 [T] within ±1, as it might arrive."""
    if rng.random() < NOISY:
        level = float(crop.std() * 10 ** rng.uniform(-2, -0.4))
        crop = crop + coloured_noise(rng, len(crop), level)
    if rng.random() < BAND_LIMITED:
        crop = _low_pass(crop, rng.uniform(3000, 6500))
    if rng.random() < CLICKS:
        crop = crop.copy()
        place = rng.integers(0, len(crop), rng.integers(2, 12))
        crop[place] += rng.choice([-1, 1], len(place)) * rng.uniform(0.2, 2.0) * np.abs(crop).max()
    if rng.random() < CLIPPED:
        limit = np.quantile(np.abs(crop), rng.uniform(0.95, 0.995))
        crop = np.clip(crop, -limit, limit)
    low, high = QUIET_DB if rng.random() < QUIET else GAIN_DB
    gain = 10 ** (rng.uniform(low, high) / 20)
    crop = crop * min(gain, 0.98 / (np.abs(crop).max() + 1e-9))
    # Even real silence gets the noise of a 16-bit converter; what is gated is digital silence.
    crop = crop + rng.uniform(-1, 1, len(crop)) / FULL_SCALE
    if rng.random() < GATED:
        crop = crop * _gate(len(crop), rng)
    return crop.astype(np.float32)


def _low_pass(x: np.ndarray, cutoff_hz: float) -> np.ndarray:
    spectrum = np.fft.rfft(x)
    frequency = np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE)
    spectrum *= 1 / (1 + (frequency / cutoff_hz) ** 16)
    low: np.ndarray = np.fft.irfft(spectrum, len(x)).astype(np.float32)
    return low


def _gate(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return ones with stretches of zeros, [T]: many short ones, or one that is long."""
    gate = np.ones(length, np.float32)
    if rng.random() < 0.4:
        end = int(rng.uniform(0.1, 0.6) * length)
        gate[max(end - int(rng.uniform(0.1, 1.0) * SAMPLE_RATE), 0) : end] = 0.0
        return gate
    period, off = rng.uniform(0.2, 0.5), rng.uniform(0.05, 0.15)
    phase = (np.arange(length) / SAMPLE_RATE + rng.uniform(0, period)) % period
    gate[phase < off] = 0.0
    return gate


def synthetic(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return a signal that is not speech, float32 [T]: tones, chords, sweeps, pulses or noise."""
    t = np.arange(length) / SAMPLE_RATE
    kind = rng.choice(["tones", "chord", "sweep", "pulses", "noise"], p=[0.4, 0.2, 0.15, 0.1, 0.15])
    if kind == "tones":
        signal = _segments(length, rng, lambda n: _tones(n, rng, int(rng.integers(1, 4))))
    elif kind == "chord":
        signal = _segments(length, rng, lambda n: _chord(n, rng))
    elif kind == "sweep":
        low, high = np.sort(rng.uniform(50, 7800, 2))
        phase = 2 * np.pi * (low * t + (high - low) * t**2 / (2 * t[-1]))
        signal = np.sin(phase)
    elif kind == "pulses":
        signal = np.diff(np.floor(t * rng.uniform(1, 300)), prepend=0.0)
    else:
        signal = coloured_noise(rng, length, 1.0).astype(np.float64)
    signal = signal / (np.abs(signal).max() + 1e-9) * 10 ** (rng.uniform(-50, -1) / 20)
    if rng.random() < 0.5:
        signal = signal + rng.uniform(-1, 1, length) / FULL_SCALE
    return signal.astype(np.float32)


def _segments(
    length: int, rng: np.random.Generator, make: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Return pieces of 0.1 to 1 s one after the other, some of them silent."""
    pieces, total = [], 0
    while total < length:
        n = int(rng.uniform(0.1, 1.0) * SAMPLE_RATE)
        pieces.append(make(n) if rng.random() < 0.85 else np.zeros(n))
        total += n
    return np.concatenate(pieces)[:length]


def _tones(length: int, rng: np.random.Generator, count: int) -> np.ndarray:
    t = np.arange(length)[:, None] / SAMPLE_RATE
    frequency = np.exp(rng.uniform(np.log(60), np.log(7600), count))
    amplitude = 10 ** (rng.uniform(-20, 0, count) / 20)
    phase = rng.uniform(0, 2 * np.pi, count)
    tones: np.ndarray = (amplitude * np.sin(2 * np.pi * frequency * t + phase)).sum(1)
    return tones


def _chord(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return three decaying notes with harmonics."""
    t = np.arange(length) / SAMPLE_RATE
    root = rng.uniform(80, 500)
    total = np.zeros(length)
    for ratio in (1.0, 1.25, 1.5):
        for harmonic in range(1, int(rng.integers(3, 14))):
            f = root * ratio * harmonic
            if f < 7800:
                total += np.sin(2 * np.pi * f * t + rng.uniform(0, 6.3)) / harmonic
    return total * np.exp(-t * rng.uniform(0.5, 8))
