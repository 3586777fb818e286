"""Codecs that are small enough for tests, and clips for them; picklable for worker processes."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.fft import dct, idct
from scipy.signal import lfilter

from evaluation.baselines.base import Coded
from evaluation.baselines.programs import BaselineError
from evaluation.config import EvalConfig
from evaluation.results import EvalResult
from evaluation.run import run

RATE = 16000
HEADER = 6


class ToyCodec:
    """Keep the first DCT coefficients of each 20 ms, one byte each and one for the scale."""

    fingerprint = bytes.fromhex("c0dec123")

    def __init__(self, flaw: str = "") -> None:
        self.flaw = flaw

    def encode(
        self,
        wave: np.ndarray,
        rate: int,
        bitrate: float,
        vbr: bool = False,
        independent: bool = False,
    ) -> bytes:
        assert rate == RATE and wave.dtype == np.float32 and wave.ndim == 1
        if self.flaw == "raise" and np.abs(wave).max(initial=0) > 0.9:
            raise RuntimeError("too\nloud")
        if self.flaw == "die" and np.abs(wave).max(initial=0) > 0.9:
            os._exit(1)
        size = round(bitrate * 20 / 8) - (1 if vbr else 0)
        blocks = np.pad(wave, (0, -wave.size % 320)).reshape(-1, 320)
        packets = []
        for block in dct(blocks, axis=1, norm="ortho"):
            level = int(np.ceil(np.log2(np.abs(block[: size - 1]).max() + 1e-9)))
            quantized = np.clip(np.rint(block[: size - 1] / 2.0**level * 127), -127, 127)
            packets.append(struct.pack("b", level) + quantized.astype(np.int8).tobytes())
        return struct.pack(">IH", wave.size, size) + b"".join(packets)

    def decode_lossy(self, data: bytes, lost: np.ndarray) -> np.ndarray:
        wave = self.decode(data)
        gone = np.repeat(lost, 320)[: wave.size]
        return np.where(gone, 0, wave).astype(np.float32)

    def decode(self, data: bytes) -> np.ndarray:
        assert isinstance(data, bytes)
        num_samples, size = struct.unpack_from(">IH", data)
        if self.flaw == "short":
            num_samples -= 1
        blocks = []
        for packet in toy_packets(data):
            block = np.zeros(320)
            levels = np.frombuffer(packet[1:], np.int8)
            block[: size - 1] = levels * 2.0 ** struct.unpack_from("b", packet)[0] / 127
            blocks.append(idct(block, norm="ortho"))
        return np.concatenate([*blocks, np.zeros(0)])[:num_samples].astype(np.float32)


def toy_packets(data: bytes) -> list[bytes]:
    size = struct.unpack_from(">H", data, 4)[0]
    return [data[i : i + size] for i in range(HEADER, len(data), size)]


def syllables(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 110 + 10 * seed
    voice = sum(np.sin(2 * np.pi * pitch * k * t + k * k) / k for k in range(1, 30))
    wave = voice * np.clip(np.sin(2 * np.pi * 1.5 * t), 0, None)
    return (0.5 * wave / np.abs(wave).max() + 1e-3 * rng.standard_normal(t.size)).astype("f4")


class ToyBaseline:
    """Another codec: late, filtered, with half a dB less; it breaks on loud clips if told to."""

    name = "toy"

    def __init__(self, delay: int = 37, flaw: bool = False) -> None:
        self.delay, self.flaw = delay, flaw

    def rates(self, asked: Sequence[float]) -> list[float]:
        return sorted({8 * max(1, round(rate / 8)) + 0.5 for rate in asked})

    def code(self, wave: np.ndarray, kbps: float) -> Coded:
        if self.flaw and np.abs(wave).max() > 0.9:
            raise BaselineError("toy: toyenc failed with exit code 1")
        codec = ToyCodec()
        decoded = codec.decode(codec.encode(wave, RATE, kbps))
        late = np.concatenate([np.zeros(self.delay), decoded, np.zeros(100)])
        late = np.rint(lfilter([0.7, 0.2], [1], late) * 32768) / 32768
        num_bytes = round(kbps * 250)
        return Coded(late.astype(np.float32), num_bytes, 100, 0.020, 0.25, 0.125)


def toy(files: Sequence[Path], rates: Sequence[float], **options: Any) -> EvalResult:
    """Evaluate the toy codec."""
    options = {"codec_loader": ToyCodec, "packets_of": toy_packets} | options
    progress = options.pop("progress", None)
    return run(EvalConfig(files=files, rates=rates, **options), progress)


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
        source = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], source)
    wave = source * np.clip(np.sin(2 * np.pi * 2.0 * t), 0, None)
    return 0.3 * wave / np.abs(wave).max() + 1e-4 * rng.standard_normal(t.size)
