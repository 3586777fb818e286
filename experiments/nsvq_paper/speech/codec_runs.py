"""The codec with one 12-bit codebook: trained end to end, exported, scored as any other."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec import Codec
from codec.config import FRAMES_PER_SECOND, NUM_BANDS
from evaluation.arrays import records
from evaluation.config import EvalConfig
from evaluation.run import run as evaluate
from experiments.measure.estimators import FRAMES, OCTAVE_DB
from experiments.nsvq_paper.methods import METHOD_NAMES as LABELS
from experiments.nsvq_paper.speech.settings import CODEBOOK_BITS, CodecSettings
from experiments.nsvq_paper.speech.vq import random_codewords
from models.codec_net import CodecNet, CodecOutput
from models.context import ContextModel
from models.msvq import PredictiveMSVQ
from models.quantizers import reset_moments
from models.runtime import load_weights
from models.training.config import TrainConfig
from models.training.data import CropSampler, load_directory
from models.training.export import build_tensors, export_weights, import_net
from models.training.losses import CodecLoss
from models.training.sampling import draw_rates, num_samples
from models.training.state import ADAM_BETAS, TrainState, update_average
from models.training.step import learning_rate_at

LOG_EVERY = 20  # steps


def build_net(estimator: str, train: np.ndarray, seed: int) -> CodecNet:
    """Return the shipped graph with one 12-bit codebook of random codewords, without prediction."""
    shipped = import_net(load_weights())
    config = replace(shipped.config, num_stages=1, codebook_bits=CODEBOOK_BITS)
    net = CodecNet(config, estimator)
    for part in ("analysis", "allocation", "enhancer"):
        getattr(net, part).load_state_dict(getattr(shipped, part).state_dict())
    net.scale_offset.data.copy_(shipped.scale_offset)
    torch.manual_seed(seed)
    known = torch.from_numpy(train)
    net.msvq = PredictiveMSVQ(1, config.codebook_size, NUM_BANDS, estimator, predictive=False)
    with torch.no_grad():
        net.msvq.bias.copy_(known.mean(0))
        codewords = random_codewords(known, config.codebook_size)
        net.msvq.codebooks.copy_((codewords - net.msvq.bias)[None])
        net.msvq.initial.copy_(known.quantile(0.05, dim=0))
    net.intra_msvq = net.msvq  # nothing is predicted: all frames are alike
    return net


def begin(
    task: tuple[str, int], settings: CodecSettings, data_dir: Path, train: np.ndarray
) -> tuple[TrainConfig, TrainState]:
    """Return options and state of a run; the codebook has a learning rate of its own."""
    estimator, seed = task
    net = build_net(estimator, train, seed).train()
    average = copy.deepcopy(net).requires_grad_(False)
    codebook = net.msvq.codebooks
    others = [p for p in net.parameters() if p.requires_grad and p is not codebook]
    optimizer = torch.optim.Adam([{"params": others}, {"params": [codebook]}], betas=ADAM_BETAS)
    config = TrainConfig(
        str(data_dir), "", steps=settings.steps, learning_rate=settings.learning_rate, seed=seed,
        decay_fraction=settings.hard_fraction, warmup_steps=min(50, settings.steps), ema=0.99,
        batch_size=settings.batch_size,
    )  # fmt: skip
    return config, TrainState(net, average, optimizer)


def codec_step(
    config: TrainConfig,
    settings: CodecSettings,
    state: TrainState,
    loss_fn: CodecLoss,
    sampler: CropSampler,
) -> tuple[CodecOutput, Tensor, dict[str, Tensor]]:
    """Run one step; returns what came out, the losses of the waveforms and their terms."""
    net, optimizer = state.net, state.optimizer
    rng = np.random.default_rng([config.seed, state.step, 1])
    torch.manual_seed(config.seed * 1_000_003 + state.step)
    rate = learning_rate_at(config, state.step)
    optimizer.param_groups[0]["lr"] = rate
    factor = settings.codebook_learning_rate / settings.learning_rate
    optimizer.param_groups[1]["lr"] = rate * factor
    waveform = sampler.batch(state.step, config.batch_size)
    frame_bits, stages = draw_rates(rng, config.batch_size, FRAMES, 1)
    hard = state.step >= settings.steps * (1 - settings.hard_fraction)
    out = net(waveform, frame_bits, stages, hard)
    loss, terms = loss_fn(waveform, out.waveform, frame_bits.mean(-1) * FRAMES_PER_SECOND / 1000)
    # The envelope's error as each estimator passes it on: within the substituted value (NSVQ,
    # DiVeQ), or as codebook and commitment loss (STE, whose substituted value has no gradient).
    envelope_loss = (out.vq.quantized - out.envelope).square().mean() + out.vq.auxiliary_loss
    total = loss.mean() + settings.envelope_weight * (0.0 if hard else envelope_loss)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    if bool(torch.isfinite(norm)):  # else PESQ met silence
        optimizer.step()
    update_average(state, config.ema)
    state.step += 1
    if not hard and state.step % settings.replace_every == 0:
        reset_moments(optimizer, net.msvq.codebooks, net.msvq.replace_dead())
    return out, loss, terms


def train_codec(
    task: tuple[str, int], settings: CodecSettings, data_dir: Path, train: np.ndarray, work: Path
) -> dict[str, Any]:
    """Train the codec with one estimator and seed; its weights go to ``work``."""
    estimator, seed = task
    started, cpu = time.monotonic(), time.process_time()
    torch.set_num_threads(1)
    config, state = begin(task, settings, data_dir, train)
    loss_fn = CodecLoss.from_config(config)
    sampler = CropSampler(load_directory(data_dir), num_samples(FRAMES), seed)
    curve: list[dict[str, float]] = []
    while state.step < settings.steps:
        out, loss, terms = codec_step(config, settings, state, loss_fn, sampler)
        if state.step % LOG_EVERY == 1 or state.step == settings.steps:
            error = float((out.vq.hard - out.envelope).detach().square().mean().sqrt())
            row = {"step": state.step, "loss": float(loss.detach().mean())}
            row |= {"envelope_rms_db": error * OCTAVE_DB, "perplexity": float(out.vq.perplexity[0])}
            row |= {name: float(value.detach().mean()) for name, value in terms.items()}
            curve.append({name: round(value, 4) for name, value in row.items()})
            print(
                f"{LABELS[estimator]} seed {seed}: step {state.step} of {settings.steps}, "
                f"loss {row['loss']:.3f}, envelope {row['envelope_rms_db']:.2f} dB, "
                f"perplexity {row['perplexity']:.0f}, {time.monotonic() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    final = state.average.eval()
    context = ContextModel(final.config)
    predicted, intra = (build_tensors(final, context, intra=kind) for kind in (False, True))
    card = {"name": f"12-bit VQ by {LABELS[estimator]}", "settings": asdict(settings), "seed": seed}
    export_weights(work / f"{estimator}_{seed}.safetensors", final.config, predicted, intra, card)
    return {
        "estimator": estimator,
        "seed": seed,
        "curve": curve,
        "wall_s": round(time.monotonic() - started),
        "cpu_s": round(time.process_time() - cpu),
    }


def score_codec(weights: Path, files: Sequence[Path], rates: Sequence[float]) -> dict[str, Any]:
    """Return PESQ and pSNR of every clip, by rate, as ``codec eval`` has them."""
    result = evaluate(EvalConfig(partial(Codec.load, weights), files, rates))
    table = result.scores
    return {
        "scores": {
            f"{rate:g}": {
                metric: [
                    None if np.isnan(value) else value
                    for value in table[(table.rate == rate) & (table.metric == metric)].value
                ]
                for metric in ("pesq_wb", "psnr_db")
            }
            for rate in rates
        },
        "failures": records(result.failures),
    }
