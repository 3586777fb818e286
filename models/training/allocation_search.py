"""Search of the step offsets by rate: coordinate descent on the true loss.

The gradient of a step has to guess what happens when coefficients begin to be coded, and gets
stuck: a band far above its envelope feels nothing, and one octave less may be better on every
measure at once. So the offsets that depend on the rate alone (``StepAllocation.rate_offsets``) are
found without a gradient: move a group of bands up or down, code the same crops at the same rate,
keep what lowers the loss. Quantization is hard, the rate is met, and noise is the same in all
trials. :func:`refit_allocation` does what a search cannot: it brings the learned part back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from codec.config import (
    DETAIL_BITS,
    FRAMES_PER_SECOND,
    INITIAL_LEVEL,
    NUM_BANDS,
    NUM_RATE_KNOTS,
)
from models.allocation import FIRST_KNOT, KNOTS_PER_OCTAVE, StepAllocation
from models.codec_net import LEVELS_PER_OCTAVE, CodecNet
from models.detail import rest_bits
from models.training.config import TrainConfig
from models.training.data import CropSampler
from models.training.distributed import ProcessGroup
from models.training.losses import CodecLoss
from models.training.sampling import draw_rates, num_frames
from models.training.state import TrainState
from models.training.step import DEPTH_LIMIT

# Neighbouring bands that move together first; then each band by itself.
GROUPS = ((0, 9), (9, 15), (15, 20), (20, 26), (11, 15), (15, 19))
# A move must lower the mean loss by this much, and by this many standard errors of the mean over
# the crops. Without the second condition the search finds what suits these crops and no others.
THRESHOLD, SIGNIFICANCE = 2e-4, 2.0
# Batches of crops, and sizes of the moves (octaves), in a search of the offsets by rate.
SEARCH_BATCHES, SEARCH_MOVES = 8, (0.5,)
# Octaves that a refitted step may lie above its envelope at 32 kbit/s; DEPTH_LIMIT at 8.
DEPTH_LIMIT_32 = 1.2
REFIT_RANGE = 3.5  # octaves


class Crops(NamedTuple):
    """Crops of one batch: float Tensor [B, T], T = (2F - 1) * N, and bool [B], which are speech."""

    waveform: Tensor
    speech: Tensor


@torch.no_grad()
def crop_losses(
    net: CodecNet, loss_fn: CodecLoss, crops: Crops, frame_bits: float, num_stages: int
) -> Tensor:
    """Return the losses [B] of crops coded with frames of one size."""
    batch = crops.waveform
    bits = torch.full((len(batch), num_frames(batch.shape[1])), frame_bits, device=batch.device)
    stages = torch.full((len(batch),), num_stages, device=batch.device)
    rate = torch.full((len(batch),), frame_bits * FRAMES_PER_SECOND / 1000)
    torch.manual_seed(0)
    out = net(batch, bits, stages, hard=True)
    return loss_fn(batch, out.waveform, rate.to(batch), crops.speech)[0]


def bits_of_row(knot: int) -> float:
    """Return the bits of frames whose rest, without detail, is where a row of the table holds."""
    wanted = 2.0 ** (FIRST_KNOT + knot / KNOTS_PER_OCTAVE)
    bits = wanted + torch.arange(0, 12 * DETAIL_BITS, 0.5, dtype=torch.float64)
    return float(bits[(rest_bits(bits) - wanted).abs().argmin()])


class _Trials:
    """Losses of the crops with the best offsets so far, and the test whether others are better."""

    def __init__(self, net: CodecNet, loss_fn: CodecLoss, batches: list[Crops], knot: int) -> None:
        self.net, self.loss_fn, self.batches = net, loss_fn, batches
        self.frame_bits = bits_of_row(knot)
        self.stages = net.config.num_stages
        self.best = [self.score(batch) for batch in batches]

    def score(self, batch: Crops) -> Tensor:
        return crop_losses(self.net, self.loss_fn, batch, self.frame_bits, self.stages)

    def mean(self) -> float:
        return float(torch.cat(self.best).mean())

    def improve(self) -> bool:
        """Return whether the losses are now lower for certain; most moves fail early."""
        losses: list[Tensor] = []
        for batch in self.batches:
            losses.append(self.score(batch))
            gain = torch.cat(self.best[: len(losses)]) - torch.cat(losses)
            error = gain.std() / len(gain) ** 0.5
            last = len(losses) == len(self.batches)
            if gain.mean() < THRESHOLD or (last and gain.mean() < SIGNIFICANCE * error):
                return False
        self.best = losses
        return True


def search_offsets(
    net: CodecNet,
    loss_fn: CodecLoss,
    batches: list[Crops],
    knot: int,
    moves: tuple[float, ...] = SEARCH_MOVES,
) -> tuple[float, float]:
    """Improve one row of the table of offsets, in place.

    Parameters
    ----------
    batches : list of Crops
    knot : int               0..NUM_RATE_KNOTS - 1
    moves : tuple of float   sizes of the moves to try, octaves, largest first

    Returns
    -------
    before, after : float   mean loss
    """
    if not 0 <= knot < NUM_RATE_KNOTS:
        raise ValueError(f"knot is {knot}, outside 0..{NUM_RATE_KNOTS - 1}")
    training = net.training
    net.eval()
    trials = _Trials(net, loss_fn, batches, knot)
    before = trials.mean()
    groups = [range(*g) for g in GROUPS] + [range(b, b + 1) for b in range(NUM_BANDS)]
    row = net.allocation.rate_offsets[knot]
    for move in moves:
        for group in groups:
            if not _move_on(row, list(group), move, trials):
                _move_on(row, list(group), -move, trials)
    row -= row.mean()
    net.train(training)
    return before, trials.mean()


def _move_on(row: Tensor, bands: list[int], move: float, trials: _Trials) -> bool:
    """Move bands of a row as long as that helps; returns whether it ever did."""
    moved = False
    while True:
        old = row.clone()
        row[bands] += move
        if not trials.improve():
            row.copy_(old)
            return moved
        moved = True


def search_allocation(
    config: TrainConfig,
    state: TrainState,
    loss_fn: CodecLoss,
    sampler: CropSampler,
    group: ProcessGroup,
) -> None:
    """Search the offsets by rate on the weight average; each process takes some of the rates."""
    first = (1 << 43) + state.step
    batches = [
        Crops(
            sampler.batch(first + i, config.batch_size).to(config.device),
            sampler.speech(first + i, config.batch_size).to(config.device),
        )
        for i in range(SEARCH_BATCHES)
    ]
    table = state.average.allocation.rate_offsets
    for knot in range(NUM_RATE_KNOTS):
        if knot % group.size == group.rank:
            before, after = search_offsets(state.average, loss_fn, batches, knot)
            name = f"step {state.step}: offsets of rate {knot + 1} of {NUM_RATE_KNOTS}"
            tqdm.write(f"{name}: loss {before:.4f}, now {after:.4f}")
        else:
            table[knot] = 0.0
    group.sum_(table)
    state.net.allocation.rate_offsets.copy_(table)


@torch.no_grad()
def _wanted_offsets(
    net: CodecNet, sampler: CropSampler, crops: int
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return inputs of the allocation for some crops, and offsets within reach, all [1, M, ...]."""
    device = next(net.parameters()).device
    rng = np.random.default_rng([sampler.seed, 11])
    frames = num_frames(sampler.crop_samples)
    inputs: list[list[Tensor]] = []
    wanted: list[Tensor] = []
    for i in range(crops // 8):
        waveform = sampler.batch((1 << 42) + i, 8).to(device)
        bits, stages = draw_rates(rng, 8, frames, net.config.num_stages)
        bits = bits.to(device)
        out = net(waveform, bits, stages.to(device), True)
        envelope = out.vq.quantized
        initial = net.msvq.initial.expand(8, 1, -1) + INITIAL_LEVEL / LEVELS_PER_OCTAVE
        previous = torch.cat([initial, envelope[:, :-1]], 1)
        position = (0.5 * torch.log2(bits / 160)).clamp(0.0, 1.0)[..., None]
        limit = DEPTH_LIMIT + position * (DEPTH_LIMIT_32 - DEPTH_LIMIT)
        step = envelope + torch.minimum(out.depth, limit)
        wanted.append((step - step.mean(-1, keepdim=True)).flatten(0, 1))
        inputs.append([x.flatten(0, 1)[None] for x in (envelope, previous, rest_bits(bits).log2())])
    together = tuple(torch.cat(x, 1) for x in zip(*inputs, strict=True))
    return together, torch.cat(wanted)[None].clamp(-REFIT_RANGE, REFIT_RANGE)


def refit_allocation(
    net: CodecNet, sampler: CropSampler, crops: int = 64, steps: int = 600
) -> float:
    """Fit a fresh allocation network to the present one, with all bands brought into reach.

    A step that lies octaves above its band has lost its gradient. Here it comes back to
    ``DEPTH_LIMIT`` octaves above the envelope at 8 kbit/s, and to ``DEPTH_LIMIT_32`` at 32, where
    there are bits for every band; training then finds out whether they are worth it there.

    Returns
    -------
    float   rms difference from what was asked for, octaves
    """
    inputs, target = _wanted_offsets(net.eval(), sampler, crops)
    fresh = StepAllocation(net.config).to(target.device)
    optimizer = torch.optim.Adam(fresh.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    error = torch.zeros(())
    for _ in range(steps):
        pick = torch.randint(target.shape[1], (512,), device=target.device)
        error = (fresh(*(x[:, pick] for x in inputs)) - target[:, pick]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        optimizer.step()
        schedule.step()
    net.allocation.load_state_dict(fresh.state_dict())
    return float(error.detach().sqrt())
