"""What several tests share: one thread, the shipped codec, and speech-like signals."""

import os
import signal
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from compiled import compile_entries

from codec import Codec
from codec.io.audio import read_audio
from codec.io.resample import to_codec_rate

# Tests that run in the background ignore these, and the programs that they start would, too.
for _number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        default = signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, default)

# Read by torch, where a test imports it: small tensors are faster on one thread, and tests that run
# side by side do not take each other's processors.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files that take longest. They begin first, so that no process is left alone with one at the end.
LONG = ("test_cluster", "test_distributed", "test_listening", "test_recipe", "test_run")

DEMO_SPEECH = Path(__file__).resolve().parent.parent / "demo" / "speech"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """What coding begins with: processes of pytest-xdist compile each kernel once."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        compile_entries(int(worker.removeprefix("gw")))


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The codec with the shipped weights."""
    return Codec.load()


@lru_cache(maxsize=8)
def synthetic_speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Return something like speech: voiced syllables, fricatives and pauses.

    Glottal pulses of a gliding pitch and noise run through three resonators whose frequencies
    move; everything is drawn from `seed`.

    Returns
    -------
    float32 array, shape [T], 16 kHz, peak 0.5; shared, so do not change it
    """
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * 16000)
    time = np.arange(num_samples) / 16000
    pitch = 130 + 30 * np.sin(2 * np.pi * 0.7 * time) + 10 * np.sin(2 * np.pi * 2.3 * time)
    pulses = np.diff(np.floor(np.cumsum(pitch) / 16000), prepend=0.0)
    voiced = np.zeros(num_samples)
    hiss = np.zeros(num_samples)
    position = 800
    while position < num_samples:
        length = int(rng.integers(1600, 4000))
        window = np.hanning(length)[: num_samples - position]
        kind = rng.random()
        target = voiced if kind < 0.65 else hiss
        if kind < 0.85:  # else a pause
            target[position : position + len(window)] += window
        position += int(0.8 * length)
    source = voiced * (pulses + 0.02 * rng.standard_normal(num_samples))
    out = np.zeros(num_samples)
    for centre, swing, bandwidth, gain in (
        (550, 250, 80, 1.0), (1500, 500, 120, 0.6), (2700, 300, 200, 0.3),
    ):  # fmt: skip
        speed, start = rng.uniform(1, 3), rng.uniform(0, 6)
        frequency = centre + swing * np.sin(2 * np.pi * speed * time + start)
        radius = np.exp(-np.pi * bandwidth / 16000)
        out += gain * _resonate(source, 2 * np.pi * frequency / 16000, radius)
    # Fricatives: noise above 2.5 kHz or so.
    noise = rng.standard_normal(num_samples)
    out += 0.15 * hiss * (noise - np.roll(noise, 1))
    out += 3e-5 * rng.standard_normal(num_samples)
    return (0.5 * out / np.abs(out).max()).astype(np.float32)


def _resonate(source: np.ndarray, angle: np.ndarray, radius: float) -> np.ndarray:
    a1, a2 = (2 * radius * np.cos(angle)).tolist(), -radius * radius
    y1 = y2 = 0.0
    out = []
    for x, a in zip(source.tolist(), a1, strict=True):
        y1, y2 = x * (1 - radius) + a * y1 + a2 * y2, y1
        out.append(y1)
    return np.array(out)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Three seconds of synthetic speech, float32, 16 kHz."""
    return synthetic_speech(3.0)


@pytest.fixture(scope="session")
def demo_speech() -> np.ndarray:
    """Two seconds of each recording of the demo, float32, 16 kHz."""
    pieces = []
    for path in sorted(DEMO_SPEECH.glob("*.flac")):
        waveform, rate, _ = read_audio(path)
        pieces.append(to_codec_rate(waveform, rate)[8000:40000])
    if not pieces:
        pytest.skip("demo/speech is not there")
    return np.concatenate(pieces)
