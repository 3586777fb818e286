"""Signals that a speech codec meets and was not made for: tones, DTMF, hum, clicks, gates, levels.

    python -m experiments.measure.signals [--speech DIR] [--nonspeech DIR] [--rates 8,13.2,24.4,32]
                                          [--opus] [--max-clips 8] [--weights FILE]

Signals are made here. Prints one table per kind:

tones       30 sines, 100 Hz to 7.5 kHz: level error and signal-to-noise ratio, worst and median
dtmf        keys that a Goertzel detector finds, of 16
bounded     sweep, square wave, clicks, noise, full scale, -70 dBFS, constant: peak of the output
            over that of the input, and the packet that is loudest against the input's
speech      with --speech: PESQ of the same clips quiet, with an offset, after silence, gated by a
            voice activity detector, with clicks, and at the end of a minute of speech
nonspeech   with --nonspeech: pSNR of music and noise

``--opus`` sets Opus (opus-tools) beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from codec import Codec
from codec.config import FRAME_LENGTH, SAMPLE_RATE
from evaluation.alignment import align, mapped_psnr
from evaluation.baselines.codecs import make_baseline
from evaluation.metrics import MetricError, pesq_wb, psnr
from evaluation.scoring import read_reference
from experiments.audio import list_audio

# Waveform [T] at 16 kHz and kbit/s in, decoded waveform [T] out.
Coder = Callable[[np.ndarray, float], np.ndarray]

TONES_HZ = np.round(np.geomspace(100, 7500, 30), 1)
DTMF_LOW, DTMF_HIGH = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
KEY, PAUSE = 0.08, 0.06  # seconds
NOTHING = 1e-6  # of what was there: -120 dB


def our_coder(codec: Codec) -> Coder:
    return lambda x, kbps: codec.decode(codec.encode(x, SAMPLE_RATE, kbps))


def opus_coder() -> Coder:
    """Return Opus as a coder; what comes out is aligned."""
    opus = make_baseline("opus")

    def code(x: np.ndarray, kbps: float) -> np.ndarray:
        return align(x, opus.code(x, kbps).wave)[0].astype(np.float32)

    return code


def sine(hz: float, seconds: float = 1.0, amplitude: float = 0.3) -> np.ndarray:
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def fit_tone(y: np.ndarray, hz: float) -> tuple[float, float]:
    """Return amplitude and signal-to-noise ratio (dB) of the sine of this frequency in ``y``."""
    t = 2 * np.pi * hz * np.arange(len(y)) / SAMPLE_RATE
    basis = np.stack([np.sin(t), np.cos(t)], 1)
    solution = np.linalg.lstsq(basis, y.astype(np.float64), rcond=None)[0]
    tone = basis @ solution
    noise = np.square(y - tone).sum() + 1e-12
    return float(np.hypot(*solution)), float(10 * np.log10(np.square(tone).sum() / noise))


def tone_scores(code: Coder, kbps: float) -> np.ndarray:
    """Return level error (dB) and signal-to-noise ratio (dB) of all tones, [tones, 2]."""
    scores = []
    for hz in TONES_HZ:
        x = sine(hz)
        middle = slice(SAMPLE_RATE // 5, -SAMPLE_RATE // 5)
        amplitude, snr = fit_tone(code(x, kbps)[middle], hz)
        scores.append((20 * np.log10(amplitude / 0.3 + 1e-9), snr))
    return np.array(scores)


def dtmf(keys: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return keys one after the other, float32 [T]."""
    pause = np.zeros(int(PAUSE * SAMPLE_RATE), np.float32)
    pieces = [pause]
    for low, high in keys:
        pieces += [sine(low, KEY, 0.2) + sine(high, KEY, 0.2), pause]
    return np.concatenate(pieces)


def detect(key: np.ndarray) -> tuple[int, int]:
    """Return the pair of frequencies that is strongest in ``key`` (Goertzel)."""

    def strongest(choice: Sequence[int]) -> int:
        t = -2j * np.pi * np.arange(len(key)) / SAMPLE_RATE
        return choice[int(np.argmax([abs(np.exp(t * hz) @ key) for hz in choice]))]

    return strongest(DTMF_LOW), strongest(DTMF_HIGH)


def detected_keys(code: Coder, kbps: float) -> int:
    """Return how many of the 16 keys are detected."""
    keys = [(low, high) for low in DTMF_LOW for high in DTMF_HIGH]
    y = code(dtmf(keys), kbps)
    found = 0
    for i, key in enumerate(keys):
        start = int((PAUSE + i * (KEY + PAUSE) + 0.01) * SAMPLE_RATE)
        found += detect(y[start : start + int((KEY - 0.02) * SAMPLE_RATE)]) == key
    return found


def bounded_signals() -> dict[str, np.ndarray]:
    """Return signals whose output must stay bounded, float32 [T] by name."""
    rng = np.random.default_rng(0)
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    white = rng.standard_normal(len(t))
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.maximum(np.arange(len(t) // 2 + 1), 20)))
    clicks = np.zeros(len(t))
    clicks[1600::3200] = 0.9
    signals = {
        "sweep": 0.5 * np.sin(2 * np.pi * (50 * t + 7900 / (2 * t[-1]) * t**2)),
        "square": 0.5 * np.sign(np.sin(2 * np.pi * 220 * t)),
        "clicks": clicks,
        "white": 0.1 * white,
        "pink": 0.2 * pink / np.std(pink),
        "full scale": np.sin(2 * np.pi * 440 * t),
        "-70 dBFS": 10**-3.5 * np.sin(2 * np.pi * 440 * t),
        "constant": np.full(len(t), 0.3),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * t) + 0.1 * np.sin(2 * np.pi * 150 * t),
        "gated tone": 0.3 * np.sin(2 * np.pi * 1000 * t) * (t % 0.3 < 0.2),
    }
    return {name: np.clip(x, -1, 1).astype(np.float32) for name, x in signals.items()}


def excess(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return by how many dB the output's peak, and its loudest packet, exceed the input's.

    A packet is compared with the loudest of the input within one packet of it.
    """
    peak = 20 * np.log10(max(np.abs(y).max() / np.abs(x).max(), NOTHING))
    frames = len(x) // FRAME_LENGTH
    level = [
        np.square(z[: frames * FRAME_LENGTH].reshape(frames, -1).astype(np.float64)).mean(1)
        for z in (x, y)
    ]
    padded = np.pad(level[0], 1)
    around = np.maximum.reduce([padded[:-2], padded[1:-1], padded[2:]])
    floor = 1e-9 + 1e-6 * level[0].max()
    loudest = (level[1] / (around + floor)).max()
    return float(peak), float(10 * np.log10(max(loudest, NOTHING**2)))


def spoilt_speech(x: np.ndarray, others: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (what is coded, what it is compared with) of a clip, by name; ``others``: clips."""
    rms = float(np.sqrt(np.square(x).mean()))
    silence = np.zeros(SAMPLE_RATE, np.float32)
    dither = np.random.default_rng(0).uniform(-1, 1, SAMPLE_RATE).astype(np.float32) / 32768
    t = np.arange(len(x))
    gate = (t % 4800 < 3200).astype(np.float32)
    clicks = np.zeros(len(x), np.float32)
    clicks[4000::8000] = 0.5
    cases = {"as it is": (x, x)}
    for level in (-20, -40, -55):
        scaled = (x * np.float32(10 ** (level / 20) / rms)).clip(-1, 1)
        cases[f"{level} dBFS"] = (scaled, scaled)
    cases["offset 0.2"] = ((x + np.float32(0.2)).clip(-1, 1), x)
    cases["after silence"] = (np.concatenate([silence, x]), x)
    cases["after dither"] = (np.concatenate([dither, x]), x)
    cases["after a minute"] = (np.concatenate([np.resize(others, 55 * SAMPLE_RATE), x]), x)
    cases["gated"] = (x * gate, x * gate)
    cases["clicks"] = ((x + clicks).clip(-1, 1), (x + clicks).clip(-1, 1))
    return cases


def speech_scores(code: Coder, clips: list[np.ndarray], kbps: float) -> dict[str, float]:
    """Return the mean PESQ of each case of :func:`spoilt_speech`."""
    scores: dict[str, list[float]] = {}
    for i, clip in enumerate(clips):
        others = np.concatenate(clips[i + 1 :] + clips[:i] or [clip])
        for name, (coded, reference) in spoilt_speech(clip, others).items():
            decoded = code(coded, kbps)[-len(reference) :]
            try:
                scores.setdefault(name, []).append(pesq_wb(reference, decoded))
            except MetricError:
                continue
    return {name: float(np.mean(values)) for name, values in scores.items()}


def print_row(name: str, *cells: str) -> None:
    print(f"{name:16}" + "".join(f"{cell:>26}" for cell in cells))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--nonspeech", type=Path)
    parser.add_argument("--rates", default="8,13.2,24.4,32")
    parser.add_argument("--max-clips", type=int, default=8)
    parser.add_argument("--opus", action="store_true")
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(arguments)
    rates = [float(rate) for rate in options.rates.split(",")]
    coders = {"codec": our_coder(Codec.load(options.weights))}
    if options.opus:
        coders["opus"] = opus_coder()

    for name, code in coders.items():
        print(f"\n{name}: kbit/s")
        print_row("", *(f"{rate:g}" for rate in rates))
        low = TONES_HZ <= 6500
        tones = [tone_scores(code, rate) for rate in rates]
        worst = [t[low, 0][np.abs(t[low, 0]).argmax()] for t in tones]
        middle = [np.median(t[low], 0) for t in tones]
        cells = [f"worst {w:+.1f}, median {m[0]:+.1f}" for w, m in zip(worst, middle, strict=True)]
        print_row("tones, level dB", *cells)
        lowest = [t[low, 1].min() for t in tones]
        cells = [f"worst {w:.1f}, median {m[1]:.1f}" for w, m in zip(lowest, middle, strict=True)]
        print_row("tones, SNR dB", *cells)
        cells = [f"level {t[~low, 0].min():+.1f}, SNR {t[~low, 1].min():.1f}" for t in tones]
        print_row("above 6.5 kHz", *cells)
        print_row("dtmf", *(f"{detected_keys(code, rate)} of 16" for rate in rates))
        print("excess of peak, loudest packet, dB:")
        for kind, x in bounded_signals().items():
            both = [excess(x, code(x, rate)) for rate in rates]
            print_row(kind, *(f"{peak:+.1f}, {packet:+.1f}" for peak, packet in both))
        if options.speech:
            clips = [read_reference(p) for p in list_audio(options.speech)[: options.max_clips]]
            print(f"PESQ of {len(clips)} clips:")
            columns = [speech_scores(code, clips, rate) for rate in rates]
            for case in columns[0]:
                print_row(case, *(f"{column[case]:.2f}" for column in columns))
        if options.nonspeech:
            print("pSNR, dB:")
            score = psnr if name == "codec" else mapped_psnr
            for path in list_audio(options.nonspeech):
                x = read_reference(path)
                print_row(path.stem[:15], *(f"{score(x, code(x, rate)):.1f}" for rate in rates))


if __name__ == "__main__":
    main()
