"""One optimizer step: batch, forward, loss, backward, step, average, log."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from codec.config import FRAME_LENGTH
from models.codec_net import CodecNet, CodecOutput
from models.dsp import random_noise
from models.enhancer import DecodedFrames
from models.quantizers import perplexity, reset_moments
from models.training.coded import CodedBatches
from models.training.config import TrainConfig
from models.training.data import CropSampler
from models.training.distributed import ALONE, RANK_SEED, ProcessGroup
from models.training.losses import CodecLoss
from models.training.sampling import Batch, draw_batch
from models.training.state import TrainState, update_average

# Octaves by which a band's step may lie above its envelope for nothing: 1 % of its coefficients
# are coded.
DEPTH_LIMIT = 2.5
# Weight of the detail's error over that of the envelope: with the same, the losses of the waveform
# made codebooks of it that told PESQ's levels and not the true ones.
DETAIL_WEIGHT = 10.0
GRADIENT_NORM = 1.0  # gradients are clipped to it
REPLACE_UNTIL = 0.6  # part of the steps after which no codeword is replaced
OCTAVE_DB = 6.0206  # of amplitude


class Objective(NamedTuple):
    """What is minimised, and what it consists of.

    Attributes
    ----------
    total : float Tensor, scalar
    terms : dict of float Tensors, shape [B]   unweighted losses of the waveform
    distortion : float Tensor, scalar          squared error of the envelope, octaves
    """

    total: Tensor
    terms: dict[str, Tensor]
    distortion: Tensor


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Return the rate at a step: linear warm-up, constant, cosine decay to 2 % at the end."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    start = config.steps * (1 - config.decay_fraction)
    t = min(max((step - start) / max(config.steps - start, 1), 0.0), 1.0)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * t)))


def hard_from(config: TrainConfig) -> int:
    """Return the step from which the envelope is hard-quantized and its quantizer frozen."""
    return int(config.steps * (1 - config.decay_fraction))


def seed_noise(config: TrainConfig, step: int, group: ProcessGroup) -> None:
    """Seed torch for a step: noise differs from rank to rank, else all slices had the same."""
    seed = config.seed * 1_000_003 + step + group.rank * RANK_SEED
    torch.manual_seed(seed % (1 << 62))


def train_step(
    state: TrainState,
    config: TrainConfig,
    loss_fn: CodecLoss,
    sampler: CropSampler,
    group: ProcessGroup = ALONE,
    coded: CodedBatches | None = None,
) -> dict[str, float]:
    """Run one optimizer step and return what is logged."""
    net, step = state.net.train(), state.step
    hard = step >= hard_from(config)
    seed_noise(config, step, group)
    if coded:
        return decoder_step(state, config, loss_fn, *coded.draw(step), group)
    batch = draw_batch(config, sampler, step, net.config.num_stages, group)
    counted = usage_of(net)
    out = net(
        batch.waveform, batch.frame_bits, batch.num_stages, hard, batch.intra, batch.lost,
        batch.preroll,
    )  # fmt: skip
    perplexities = share_usage(net, counted, out.vq.perplexity, group)
    loss = objective(config, net, loss_fn, batch, out, hard)
    norm = descend(state, loss.total, learning_rate_at(config, step), group)
    update_average(state, config.ema)
    state.step += 1
    if not hard and state.step % config.replace_every == 0:
        replace_dead_codewords(state, config, group)
    return summarise(state, batch, out, loss, norm, perplexities, group)


def decoder_step(
    state: TrainState,
    config: TrainConfig,
    loss_fn: CodecLoss,
    batch: Batch,
    frames: DecodedFrames,
    group: ProcessGroup,
) -> dict[str, float]:
    """Run a step of the decoder alone, on frames that the runtime has coded."""
    net, begin = state.net, batch.preroll * FRAME_LENGTH
    spectrum, comb = net.enhance(frames, random_noise(frames.periodicity), batch.preroll)
    out = net.synthesize(spectrum, frames, comb, batch.waveform.shape[1])
    loss, terms = loss_fn(batch.waveform[:, begin:], out[:, begin:], batch.rate_kbps, batch.speech)
    norm = descend(state, loss.mean(), learning_rate_at(config, state.step), group)
    update_average(state, config.ema)
    state.step += 1
    mean = group.mean({"loss": loss.mean()} | {name: x.mean() for name, x in terms.items()})
    return mean | {
        "gradient_norm": norm,
        "skipped": float(not math.isfinite(norm)),
        "learning_rate": state.optimizer.param_groups[0]["lr"],
    }


def usage_of(net: CodecNet) -> list[tuple[Tensor, Tensor]]:
    """Return how often codewords have been used up to now: hits and total of all quantizers."""
    return [(vq.usage.hits.clone(), vq.usage.total.clone()) for vq in net.quantizers]


def share_usage(
    net: CodecNet, before: list[tuple[Tensor, Tensor]], own: Tensor, group: ProcessGroup
) -> Tensor:
    """Count the hits of all processes on each; returns the perplexities of the whole batch."""
    if group.size == 1:
        return own
    perplexities = own
    for msvq, (hits, total) in zip(net.quantizers, before, strict=True):
        new_hits = group.sum_(msvq.usage.hits - hits)
        msvq.usage.hits.copy_(hits + new_hits)
        msvq.usage.total.copy_(total + group.sum_(msvq.usage.total - total))
        if msvq is net.msvq:
            perplexities = perplexity(new_hits)
    return perplexities


def objective(
    config: TrainConfig,
    net: CodecNet,
    loss_fn: CodecLoss,
    batch: Batch,
    out: CodecOutput,
    hard: bool,
) -> Objective:
    """Return the loss of a batch."""
    begin = batch.preroll * FRAME_LENGTH
    loss, terms = loss_fn(
        batch.waveform[:, begin:], out.waveform[:, begin:], batch.rate_kbps, batch.speech
    )
    distortion = (out.vq.hard - out.envelope).square().mean()
    detail = (out.detail.hard - out.wanted_detail).square().mean()
    # A band whose step is far above its envelope is never coded and gets no gradient: stay near.
    depth = (out.depth - DEPTH_LIMIT).clamp_min(0.0).square().mean()
    auxiliary = out.vq.auxiliary_loss + out.detail.auxiliary_loss
    total = loss.mean() + auxiliary + config.depth_weight * depth
    if not hard and any(m.codebooks.requires_grad for m in (net.msvq, net.intra_msvq)):
        total = total + config.envelope_weight * distortion
    if not hard and any(m.codebooks.requires_grad for m in (net.detail, net.intra_detail)):
        total = total + config.envelope_weight * DETAIL_WEIGHT * detail
    return Objective(total, terms, distortion)


def descend(state: TrainState, loss: Tensor, learning_rate: float, group: ProcessGroup) -> float:
    """Go one step down the gradient; returns its norm, which is not finite if the step is skipped.

    One step on a NaN gradient (PESQ on silence) would ruin the weights. All ranks skip it.
    """
    optimizer = state.optimizer
    for param_group in optimizer.param_groups:
        param_group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    group.average_gradients(state.net.parameters())
    norm = float(torch.nn.utils.clip_grad_norm_(state.net.parameters(), GRADIENT_NORM))
    if math.isfinite(norm):
        optimizer.step()
    return norm


def replace_dead_codewords(state: TrainState, config: TrainConfig, group: ProcessGroup) -> None:
    """Replace hardly used codewords, the same on all ranks, while there is time to settle."""
    if state.step >= REPLACE_UNTIL * config.steps:
        return
    for msvq in state.net.quantizers:
        if msvq.codebooks.requires_grad:
            dead = msvq.replace_dead()  # the same on all ranks, but for the random choice
            group.broadcast_([msvq.codebooks])
            reset_moments(state.optimizer, msvq.codebooks, dead)


def summarise(
    state: TrainState,
    batch: Batch,
    out: CodecOutput,
    loss: Objective,
    norm: float,
    perplexities: Tensor,
    group: ProcessGroup,
) -> dict[str, float]:
    """Return what is logged of a step, means over all processes."""
    means = {name: value.mean() for name, value in loss.terms.items()} | {
        "total": loss.total,
        "distortion": loss.distortion,
        "bits": out.bits.mean(),
        "stages": batch.num_stages.float().mean(),
    }
    mean = group.mean(means)
    log = {
        "loss": mean["total"],
        "gradient_norm": norm,
        "skipped": float(not math.isfinite(norm)),
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "envelope_rms_db": OCTAVE_DB * math.sqrt(mean["distortion"]),
        "bits_coefficients": mean["bits"],
        "bits_envelope": state.net.config.codebook_bits * mean["stages"],
    }
    log |= {name: mean[name] for name in loss.terms}
    unused = (state.net.msvq.usage.hits == 0).float().mean(-1)  # since the last replacement
    for name, values in (("perplexity", perplexities), ("unused", unused)):
        log |= {f"{name}_{s + 1}": value for s, value in enumerate(values.tolist())}
    return log
