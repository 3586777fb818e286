"""What is compared in the speech experiment, with which settings, and what the paper has."""

from __future__ import annotations

from dataclasses import dataclass

from codec.config import REPORT_RATES_KBPS as RATES

CODEBOOK_BITS = 12
# Means of the paper's Figure 1, on its own test set and with its own codec.
PAPER = {
    "nsvq": {
        "pesq_wb": (2.47, 2.68, 3.05, 3.30, 3.74, 4.01),
        "psnr_db": (5.7, 6.6, 8.4, 9.8, 12.7, 15.2),
    },
    "ste": {
        "pesq_wb": (2.33, 2.54, 2.93, 3.20, 3.67, 3.95),
        "psnr_db": (5.3, 6.1, 7.8, 9.1, 12.0, 14.4),
    },
}


@dataclass(frozen=True)
class VQSettings:
    """What is done with the VQ alone."""

    steps: int = 800
    batch: int = 1024
    seeds: int = 5
    learning_rate: float = 2e-2
    network_learning_rate: float = 2e-3  # of the small encoder and decoder
    hidden_size: int = 128
    latent_size: int = 8
    replace_every: int = 100
    train_crops: int = 2000
    test_crops: int = 100


@dataclass(frozen=True)
class CodecSettings:
    """What is done with the codec."""

    steps: int = 700
    seeds: int = 2
    batch_size: int = 8
    learning_rate: float = 5e-4
    codebook_learning_rate: float = 1e-2
    envelope_weight: float = 0.1
    hard_fraction: float = 0.3  # last part of the steps: the envelope is the hard one
    replace_every: int = 100
    rates: tuple[float, ...] = RATES
    max_clips: int = 0  # 0: all


QUICK_VQ = VQSettings(steps=8, batch=128, replace_every=2, train_crops=16, test_crops=4)
QUICK_CODEC = CodecSettings(
    steps=3, seeds=1, batch_size=2, replace_every=2, rates=(8.0, 32.0), max_clips=1
)
