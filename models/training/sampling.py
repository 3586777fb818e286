"""What a training step codes: crops, rates, envelope stages, lost frames.

Everything is drawn from (seed, step), for the whole batch of all processes, of which each takes its
part: a resumed run, or one of several processes, sees what an uninterrupted single one would.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from codec.config import FRAME_LENGTH, FRAMES_PER_SECOND, HOP_LENGTH
from models.training.config import TrainConfig
from models.training.data import CropSampler
from models.training.distributed import ProcessGroup

# Without losses, share of sequences of intra frames.
INTRA_SHARE = 0.2
# Losses of a sequence: share of lost frames, probability that a loss goes on; none at the start.
LOSS_RATES, LOSS_BURSTS, LOSS_FREE = (0.02, 0.2), (0.0, 0.4), 5
MIN_FRAMES = 4  # of a crop
# With a preroll, share of steps without one, and its fewest frames otherwise.
NO_PREROLL, MIN_PREROLL = 0.2, 20


class Batch(NamedTuple):
    """Arguments of ``CodecNet.forward``.

    Attributes
    ----------
    waveform : float Tensor, shape [B, T]      T = (2F - 1) * N
    frame_bits : float Tensor, shape [B, F]    whole bytes
    num_stages : int64 Tensor, shape [B]
    intra : bool Tensor, shape [B]
    lost : bool Tensor, shape [B, F]
    speech : bool Tensor, shape [B]            False: nothing that PESQ can judge
    preroll : int                              first frames, which fill the enhancer's memory
    """

    waveform: Tensor
    frame_bits: Tensor
    num_stages: Tensor
    intra: Tensor
    lost: Tensor
    speech: Tensor
    preroll: int = 0

    @property
    def rate_kbps(self) -> Tensor:
        """Return the mean rate of each sequence, shape [B]."""
        return self.frame_bits.mean(-1) * FRAMES_PER_SECOND / 1000


def frame_bytes(rate_kbps: float) -> int:
    """Return the bytes of a frame at a constant rate."""
    return round(rate_kbps * 1000 / FRAMES_PER_SECOND / 8)


def num_samples(frames: int) -> int:
    """Return how many samples some frames code in full: both ends need a block of overlap."""
    return frames * FRAME_LENGTH - HOP_LENGTH


def num_frames(samples: int) -> int:
    """Return the frames that :func:`num_samples` maps to a length."""
    return (samples + HOP_LENGTH) // FRAME_LENGTH


def frames_per_crop(config: TrainConfig) -> int:
    """Return the length of a crop in frames."""
    return max(int(config.crop_seconds * FRAMES_PER_SECOND), MIN_FRAMES)


def draw_rates(
    rng: np.random.Generator, batch_size: int, frames: int, max_stages: int
) -> tuple[Tensor, Tensor]:
    """Draw one rate per crop (stratified, log-uniform from 8 to 32 kbit/s) and MSVQ stages.

    Returns
    -------
    frame_bits : float Tensor, shape [B, F]   whole bytes
    num_stages : int64 Tensor, shape [B]
    """
    position = (rng.permutation(batch_size) + rng.random(batch_size)) / batch_size
    rate = 8.0 * 4.0**position
    bits = np.round(rate * 20 / 8) * 8
    # All stages, as the encoder uses them; in some crops fewer, so that each is of use by itself.
    fewer = rng.integers(1, max_stages + 1, batch_size)
    stages = np.where(rng.random(batch_size) < 0.15, fewer, max_stages)
    # In some crops every frame has its own size, as in a VBR file.
    varied = rng.random((batch_size, 1)) < 0.25
    spread = np.exp2(np.where(varied, rng.normal(0, 0.4, (batch_size, frames)), 0.0))
    bits = np.clip(np.round(bits[:, None] * spread / 8) * 8, 64, 2040)
    frame_bits = torch.from_numpy(bits.astype(np.float32))
    return frame_bits, torch.from_numpy(stages.astype(np.int64))


def draw_losses(
    rng: np.random.Generator, batch_size: int, frames: int, share: float
) -> tuple[Tensor, Tensor]:
    """Draw which sequences consist of intra frames, and which frames get lost.

    Losses come in bursts (Gilbert, 1960): after each frame, a loss goes on or begins with
    probabilities that are drawn for the sequence.

    Returns
    -------
    intra : bool Tensor, shape [B]
    lost : bool Tensor, shape [B, F]
    """
    lossy = rng.random(batch_size) < share
    intra = lossy | (rng.random(batch_size) < INTRA_SHARE)
    rate = rng.uniform(*LOSS_RATES, batch_size)
    stay = rng.uniform(*LOSS_BURSTS, batch_size)
    begin = rate * (1 - stay) / (1 - rate)
    lost = np.zeros((batch_size, frames), np.bool_)
    u = rng.random((batch_size, frames))
    for f in range(LOSS_FREE, frames):
        lost[:, f] = lossy & (u[:, f] < np.where(lost[:, f - 1], stay, begin))
    return torch.from_numpy(intra), torch.from_numpy(lost)


def draw_preroll(config: TrainConfig, sampler: CropSampler, step: int) -> int:
    """Return how many frames come before the crops of a step."""
    spare = (len(sampler.samples) - sampler.crop_samples) // FRAME_LENGTH
    most = min(int(config.preroll_seconds * FRAMES_PER_SECOND), spare)
    rng = np.random.default_rng([config.seed, step, 2])
    if most < MIN_PREROLL or rng.random() < NO_PREROLL:
        return 0
    return int(rng.integers(MIN_PREROLL, most + 1))


def draw_batch(
    config: TrainConfig, sampler: CropSampler, step: int, max_stages: int, group: ProcessGroup
) -> Batch:
    """Return this process's part of the batch of a step, on the device of the run."""
    rng = np.random.default_rng([config.seed, step, 1])
    batch_size = config.batch_size * group.size
    preroll = draw_preroll(config, sampler, step)
    frames = num_frames(sampler.crop_samples) + preroll
    waveform = sampler.batch(step, batch_size, preroll * FRAME_LENGTH)
    frame_bits, stages = draw_rates(rng, batch_size, frames, max_stages)
    intra, lost = draw_losses(rng, batch_size, frames, config.loss_share)

    def own(tensor: Tensor) -> Tensor:
        return group.part(tensor).to(config.device)

    speech = own(sampler.speech(step, batch_size))
    return Batch(
        own(waveform), own(frame_bits), own(stages), own(intra), own(lost), speech, preroll
    )
