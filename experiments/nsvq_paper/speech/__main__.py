"""Reproduce Figure 1 of the NSVQ paper: a speech codec with a 12-bit VQ, by gradient estimator.

    python experiments/speech.py TRAIN_DIR TEST_DIR [--out docs/experiments] [--jobs 2] [--quick]

Two parts. First the VQ alone: 12-bit codebooks learn the envelopes that the shipped analysis
proposes, from random codewords, with at least five seeds for each estimator, with and without the
replacement of unused codewords; what counts is the error of the hard quantizer on TEST_DIR, and how
much it varies from seed to seed. Once bare, where the codebook's gradient is the same for all three
estimators (all of them minimise the squared error), and once between a small encoder and decoder,
which is where estimators differ: through them the encoder learns. Then the codec: its multi-stage
quantizer is taken out, a single 12-bit codebook of random codewords takes its place, and the whole
graph is trained end to end, with the same steps, crops, rates and seeds for NSVQ, STE and DiVeQ.
Each of them ends as a weights file, and that is scored as any other: encoded to bytes, decoded from
them, PESQ and pSNR at six rates.

Networks start from the shipped weights, except for the quantizer: an hour on two cores would not
train them from nothing. Packets always spend 12 bits on the envelope: indices are not entropy
coded, and there is no context model (but the Laplace tables it starts from), as in the paper.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.estimators import OCTAVE_DB, PACKETS, envelopes
from experiments.vq_methods import METHOD_COLORS as COLORS
from experiments.vq_methods import METHOD_NAMES as LABELS
from models.quantizers import ESTIMATORS

RATES = (8.0, 9.6, 13.2, 16.4, 24.4, 32.0)
CODEBOOK_BITS = 12
STATS = ("_mean", "_std", "_min", "_max")
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


# --------------------------------------------------------------------------------------------------
# The VQ alone


def random_codewords(like: Any, count: int) -> Any:
    """Return codewords [count, D] of a Gaussian with the mean and covariance of ``like`` [M, D]."""
    import torch

    factor = torch.linalg.cholesky(like.T.cov() + 1e-6 * torch.eye(like.shape[-1]))
    return like.mean(0) + torch.randn(count, like.shape[-1]) @ factor.T


def train_vq(
    task: tuple[str, bool, bool, int], settings: VQSettings, train: np.ndarray, test: np.ndarray
) -> dict[str, Any]:
    """Train one codebook; ``task`` is (estimator, between networks, replacement, seed).

    Replacement is that of codewords that are hardly used.
    """
    import torch
    from torch import nn

    from models.quantizers import VectorQuantizer, reset_moments

    estimator, networks, replacement, seed = task
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, held_out = torch.from_numpy(train), torch.from_numpy(test)
    mean, spread, bands = x.mean(0), x.std(0), x.shape[-1]
    hidden = settings.hidden_size

    def network(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ELU(), nn.Linear(hidden, outputs))

    encoder: nn.Module = nn.Identity()
    decoder: nn.Module = nn.Identity()
    size = bands
    if networks:
        size = settings.latent_size
        encoder, decoder = network(bands, size), network(size, bands)
    quantizer = VectorQuantizer(1 << CODEBOOK_BITS, size, estimator)
    with torch.no_grad():
        latents = encoder((x - mean) / spread)
        quantizer.codebook.copy_(random_codewords(latents, 1 << CODEBOOK_BITS))
    rates = settings.learning_rate, settings.network_learning_rate
    groups = [{"params": quantizer.parameters(), "lr": rates[0]}]
    if networks:
        groups.append({"params": [*encoder.parameters(), *decoder.parameters()], "lr": rates[1]})
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    rng = np.random.default_rng(seed)
    curve = []

    def error(quantized: Any, batch: Any) -> Any:  # squared, octaves
        return ((decoder(quantized) * spread + mean) - batch).square().mean()

    quantizer.train()
    for step in range(settings.steps):
        batch = x[torch.from_numpy(rng.integers(0, len(x), settings.batch))]
        out = quantizer(encoder((batch - mean) / spread))
        loss = error(out.quantized, batch) + out.auxiliary_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        late = step >= 0.8 * settings.steps
        if replacement and not late and step % settings.replace_every == settings.replace_every - 1:
            dead = quantizer.replace_dead()
            reset_moments(optimizer, quantizer.codebook, dead)
        if step % max(settings.steps // 40, 1) == 0:
            with torch.no_grad():
                rms = float(error(out.hard, batch).sqrt()) * OCTAVE_DB
            curve.append((step, round(rms, 4), round(float(out.perplexity[0]), 1)))
    quantizer.eval()
    with torch.no_grad():
        out = quantizer(encoder((held_out - mean) / spread))
        rms = float(error(out.hard, held_out).sqrt()) * OCTAVE_DB
        used = len(torch.unique(quantizer.encode(encoder((x - mean) / spread))))
    return {
        "estimator": estimator,
        "networks": networks,
        "replacement": replacement,
        "seed": seed,
        "rms_db": rms,
        "perplexity": float(out.perplexity[0]),
        "dead": (1 << CODEBOOK_BITS) - used,  # codewords that no training vector is nearest to
        "curve": curve,
    }


# --------------------------------------------------------------------------------------------------
# The codec


def build_net(estimator: str, train: np.ndarray, seed: int) -> Any:
    """Return the shipped graph with one 12-bit codebook of random codewords, without prediction."""
    import torch

    from codec.weights import load_weights
    from models.codec_net import CodecNet
    from models.msvq import PredictiveMSVQ
    from models.training.export import import_net

    shipped = import_net(load_weights())
    config = replace(shipped.config, num_stages=1, codebook_bits=CODEBOOK_BITS)
    net = CodecNet(config, estimator)
    for part in ("analysis", "allocation", "enhancer"):
        getattr(net, part).load_state_dict(getattr(shipped, part).state_dict())
    net.scale_offset.data.copy_(shipped.scale_offset)
    torch.manual_seed(seed)
    known = torch.from_numpy(train)
    net.msvq = PredictiveMSVQ(
        1, config.codebook_size, config.num_bands, estimator, predictive=False
    )
    with torch.no_grad():
        net.msvq.bias.copy_(known.mean(0))
        codewords = random_codewords(known, config.codebook_size)
        net.msvq.codebooks.copy_((codewords - net.msvq.bias)[None])
        net.msvq.initial.copy_(known.quantile(0.05, dim=0))
    net.intra_msvq = net.msvq  # nothing is predicted: all packets are alike
    return net


def train_codec(
    task: tuple[str, int], settings: CodecSettings, data_dir: Path, train: np.ndarray, work: Path
) -> dict[str, Any]:
    """Train the codec with one estimator and seed; its weights go to ``work``."""
    import torch

    from models.context import ContextModel
    from models.quantizers import reset_moments
    from models.training.config import TrainConfig
    from models.training.data import CropSampler, load_directory
    from models.training.export import build_tables, export_weights
    from models.training.losses import CodecLoss
    from models.training.sampling import draw_rates
    from models.training.state import TrainState, update_average
    from models.training.step import learning_rate_at

    estimator, seed = task
    started, cpu = time.monotonic(), time.process_time()
    torch.set_num_threads(1)
    net = build_net(estimator, train, seed)
    average = copy.deepcopy(net).requires_grad_(False)
    codebook = net.msvq.codebooks
    others = [p for p in net.parameters() if p.requires_grad and p is not codebook]
    optimizer = torch.optim.Adam([{"params": others}, {"params": [codebook]}], betas=(0.9, 0.98))
    state = TrainState(net, average, optimizer)
    config = TrainConfig(
        str(data_dir), "", steps=settings.steps, learning_rate=settings.learning_rate, seed=seed,
        decay_fraction=settings.hard_fraction, warmup_steps=min(50, settings.steps), ema=0.99,
    )  # fmt: skip
    loss_fn = CodecLoss(
        config.pesq_weight, config.error_weight, config.spectral_weight, config.error_weight_32,
        config.spectral_weight_32, config.similarity_weight, config.similarity_weight_32,
    )  # fmt: skip
    sampler = CropSampler(load_directory(data_dir), (2 * PACKETS - 1) * net.config.hop_length, seed)
    curve: list[dict[str, float]] = []
    net.train()
    while state.step < settings.steps:
        rng = np.random.default_rng([seed, state.step, 1])
        torch.manual_seed(seed * 1_000_003 + state.step)
        rate = learning_rate_at(config, state.step)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.param_groups[1]["lr"] = (
            rate * settings.codebook_learning_rate / settings.learning_rate
        )
        waveform = sampler.batch(state.step, settings.batch_size)
        packet_bits, stages = draw_rates(rng, settings.batch_size, PACKETS, 1)
        hard = state.step >= settings.steps * (1 - settings.hard_fraction)
        out = net(waveform, packet_bits, stages, hard)
        kbps = packet_bits.mean(-1) * net.config.packet_rate / 1000
        loss, terms = loss_fn(waveform, out.waveform, kbps)
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
            reset_moments(optimizer, codebook, net.msvq.replace_dead())
        if state.step % 20 == 1 or state.step == settings.steps:
            error = float((out.vq.hard - out.envelope).detach().square().mean().sqrt())
            row = {"step": state.step, "loss": float(loss.detach().mean())}
            row |= {"envelope_rms_db": error * OCTAVE_DB, "perplexity": float(out.vq.perplexity[0])}
            row |= {name: float(value.detach().mean()) for name, value in terms.items()}
            curve.append({name: round(value, 4) for name, value in row.items()})
            seconds = time.monotonic() - started
            print(
                f"{LABELS[estimator]} seed {seed}: step {state.step} of {settings.steps}, "
                f"loss {row['loss']:.3f}, envelope {row['envelope_rms_db']:.2f} dB, "
                f"perplexity {row['perplexity']:.0f}, {seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    final = state.average.eval()
    context = ContextModel(final.config)
    nothing = np.zeros((0, 8), np.int64)
    tables, intra = (
        build_tables(final, context, nothing[:, :2], nothing, nothing[:, 0], kind)
        for kind in (False, True)
    )
    card = {"name": f"12-bit VQ by {LABELS[estimator]}", "settings": asdict(settings), "seed": seed}
    export_weights(work / f"{estimator}_{seed}.safetensors", final, tables, intra, card)
    return {
        "estimator": estimator,
        "seed": seed,
        "curve": curve,
        "wall_s": round(time.monotonic() - started),
        "cpu_s": round(time.process_time() - cpu),
    }


def score_codec(weights: Path, files: Sequence[Path], rates: Sequence[float]) -> dict[str, Any]:
    """Return PESQ and pSNR of every clip, by rate, as ``codec eval`` has them."""
    from codec import Codec
    from evaluation.run import EvalConfig, run

    result = run(EvalConfig(partial(Codec.load, weights), files, rates))
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
        "failures": result.failures.to_dict("records"),
    }


# --------------------------------------------------------------------------------------------------
# Results


def interval(values: list[float]) -> dict[str, float]:
    """Return the mean and the quantiles between which 95 % of the values lie."""
    low, high = np.quantile(values, (0.025, 0.975))
    return {
        "mean": round(float(np.mean(values)), 4),
        "q025": round(float(low), 4),
        "q975": round(float(high), 4),
    }


def summarise_vq(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per way of training: mean, spread and extremes over the seeds."""
    rows = []
    keys = ("networks", "replacement", "estimator")
    for key in dict.fromkeys(tuple(run[k] for k in keys) for run in runs):
        own = [run for run in runs if tuple(run[k] for k in keys) == key]
        rms = np.array([run["rms_db"] for run in own])
        row = dict(zip(keys, key, strict=True)) | {
            "rms_db_mean": rms.mean(),
            "rms_db_std": rms.std(ddof=1),
            "rms_db_min": rms.min(),
            "rms_db_max": rms.max(),
            "perplexity_mean": np.mean([run["perplexity"] for run in own]),
            "dead_mean": np.mean([run["dead"] for run in own]),
        }
        rows.append({k: round(float(v), 4) if k.endswith(STATS) else v for k, v in row.items()})
    return rows


def summarise_codec(runs: list[dict[str, Any]], rates: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return a row per estimator and rate: over all clips and seeds, and the seeds' means."""
    rows = []
    for estimator in dict.fromkeys(run["estimator"] for run in runs):
        for rate in rates:
            row: dict[str, Any] = {"estimator": estimator, "bitrate_kbps": rate}
            for metric in ("pesq_wb", "psnr_db"):
                seeds = [
                    [v for v in run["scores"][f"{rate:g}"][metric] if v is not None]
                    for run in runs
                    if run["estimator"] == estimator
                ]
                row[metric] = interval([v for values in seeds for v in values])
                row[metric]["seed_means"] = [round(float(np.mean(values)), 4) for values in seeds]
            rows.append(row)
    return rows


def differences(runs: list[dict[str, Any]], rates: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return NSVQ minus each other estimator: mean over seeds and clips, 95 % interval."""
    from evaluation.bootstrap import bootstrap_mean

    def clip_means(estimator: str, rate: float, metric: str) -> np.ndarray:
        own = [run["scores"][f"{rate:g}"][metric] for run in runs if run["estimator"] == estimator]
        return np.mean(np.array(own, dtype=np.float64), axis=0)  # a clip that failed is NaN

    rows = []
    for other in dict.fromkeys(run["estimator"] for run in runs if run["estimator"] != "nsvq"):
        for rate in rates:
            row: dict[str, Any] = {"other": other, "bitrate_kbps": rate}
            for metric in ("pesq_wb", "psnr_db"):
                values = clip_means("nsvq", rate, metric) - clip_means(other, rate, metric)
                values = values[np.isfinite(values)]
                low, high = bootstrap_mean(values)
                row[metric] = [round(float(v), 4) for v in (values.mean(), low, high)]
            rows.append(row)
    return rows


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    lines = ["12-bit VQ alone: rms error on held-out envelopes (dB), over seeds"]
    lines.append(
        "between         replacement  estimator     mean    std    min    max  perplexity  dead"
    )
    for row in result["vq"]["summary"]:
        lines.append(
            f"{'networks' if row['networks'] else 'nothing':15} "
            f"{'yes' if row['replacement'] else 'no':12} {LABELS[row['estimator']]:9} "
            f"{row['rms_db_mean']:8.3f} {row['rms_db_std']:6.3f} {row['rms_db_min']:6.3f} "
            f"{row['rms_db_max']:6.3f} {row['perplexity_mean']:11.0f} {row['dead_mean']:5.0f}"
        )
    lines.append("")
    lines.append("codec: mean [95 % of clips], all seeds")
    for row in result["codec"]["summary"]:
        pesq, psnr = row["pesq_wb"], row["psnr_db"]
        paper = ""
        if row["estimator"] in PAPER:
            own = PAPER[row["estimator"]]
            at = RATES.index(row["bitrate_kbps"])
            paper = f"   paper {own['pesq_wb'][at]:.2f}, {own['psnr_db'][at]:.1f}"
        lines.append(
            f"{LABELS[row['estimator']]:6} {row['bitrate_kbps']:5.1f} kbit/s  "
            f"PESQ {pesq['mean']:.3f} [{pesq['q025']:.2f}, {pesq['q975']:.2f}]  "
            f"pSNR {psnr['mean']:6.2f} [{psnr['q025']:.1f}, {psnr['q975']:.1f}]{paper}"
        )
    lines.append("")
    lines.append("NSVQ minus others, same clips: mean [95 % confidence interval]")
    for row in result["codec"]["differences"]:
        pesq, psnr = row["pesq_wb"], row["psnr_db"]
        lines.append(
            f"{LABELS[row['other']]:6} {row['bitrate_kbps']:5.1f} kbit/s  "
            f"PESQ {pesq[0]:+.3f} [{pesq[1]:+.3f}, {pesq[2]:+.3f}]  "
            f"pSNR {psnr[0]:+.2f} [{psnr[1]:+.2f}, {psnr[2]:+.2f}]"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw PESQ and pSNR over the rate, the VQ's error by seed, and the training of the codec."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    rows = result["codec"]["summary"]
    for axes, (metric, label) in zip(
        panels[0], (("pesq_wb", "PESQ"), ("psnr_db", "pSNR (dB)")), strict=True
    ):
        for estimator in dict.fromkeys(row["estimator"] for row in rows):
            own = [row for row in rows if row["estimator"] == estimator]
            x = [row["bitrate_kbps"] for row in own]
            color = COLORS[estimator]
            band = [[row[metric][q] for row in own] for q in ("q025", "q975")]
            axes.fill_between(x, *band, color=color, alpha=0.10, linewidth=0)
            axes.plot(
                x, [row[metric]["mean"] for row in own], "o-", color=color, markersize=5,
                label=f"{LABELS[estimator]}, here",
            )  # fmt: skip
        for estimator, values in PAPER.items():
            axes.plot(
                RATES, values[metric], "s--", color=COLORS[estimator], markersize=4, linewidth=1.2,
                markerfacecolor="white", label=f"{LABELS[estimator]}, the paper's codec and clips",
            )  # fmt: skip
        axes.set_title(f"{label}: mean and 95 % quantiles", loc="left", fontweight="bold")
        axes.set_xlabel("bitrate (kbit/s)")
        axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES], fontsize=8)
        axes.grid(alpha=0.3)
    panels[0][0].legend(frameon=False, fontsize=8.5)

    axes = panels[1][0]
    ways = list(dict.fromkeys((r["networks"], r["replacement"]) for r in result["vq"]["runs"]))
    for place, way in enumerate(ways):
        for i, estimator in enumerate(ESTIMATORS):
            values = [
                run["rms_db"]
                for run in result["vq"]["runs"]
                if (run["networks"], run["replacement"], run["estimator"]) == (*way, estimator)
            ]
            x = place + 0.25 * (i - 1)
            axes.plot(np.full(len(values), x), values, "o", color=COLORS[estimator], alpha=0.6)
            axes.hlines(np.mean(values), x - 0.1, x + 0.1, color="#333333", linewidth=1.2)
    labels = [
        f"{'between networks' if networks else 'bare'}\n{'' if replacement else 'no '}replacement"
        for networks, replacement in ways
    ]
    axes.set_xticks(range(len(ways)), labels, fontsize=8.5)
    axes.set_title("12-bit VQ alone: error of each seed (dB)", loc="left", fontweight="bold")
    axes.grid(axis="y", alpha=0.3)

    axes = panels[1][1]
    for run in result["codec"]["runs"]:
        x = [row["step"] for row in run["curve"]]
        y = [row["envelope_rms_db"] for row in run["curve"]]
        first = run["seed"] == 0
        axes.plot(
            x, y, color=COLORS[run["estimator"]], linewidth=1.3, alpha=0.9 if first else 0.45,
            label=LABELS[run["estimator"]] if first else None,
        )  # fmt: skip
    axes.set_title("Codec: envelope error in training (dB)", loc="left", fontweight="bold")
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    for axes in panels.flat:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path)


def kept(path: Path, settings: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what an interrupted run has left at ``path`` with these settings, or do the work."""
    from codec.io.files import atomic_write

    wanted = json.loads(json.dumps(asdict(settings)))
    if path.is_file():
        found = json.loads(path.read_text())
        if found["settings"] == wanted:
            return dict(found["result"])
    result = work()
    text = json.dumps({"settings": wanted, "result": result})
    atomic_write(path, text.encode())
    return result


def vq_task(
    task: tuple[str, bool, bool, int],
    settings: VQSettings,
    train: np.ndarray,
    test: np.ndarray,
    work: Path,
) -> dict[str, Any]:
    """Run :func:`train_vq`, or return what it gave before."""
    estimator, networks, replacement, seed = task
    name = f"vq_{estimator}_{networks:d}{replacement:d}_{seed}.json"
    return kept(work / name, settings, partial(train_vq, task, settings, train, test))


def codec_task(
    task: tuple[str, int],
    settings: CodecSettings,
    data_dir: Path,
    files: Sequence[Path],
    train: np.ndarray,
    work: Path,
) -> dict[str, Any]:
    """Train and score a codec, or return what that gave before."""

    def both() -> dict[str, Any]:
        result = train_codec(task, settings, data_dir, train, work)
        weights = work / f"{task[0]}_{task[1]}.safetensors"
        return result | score_codec(weights, files, settings.rates)

    return kept(work / f"codec_{task[0]}_{task[1]}.json", settings, both)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run both parts; returns what is written as JSON."""
    from codec.io.audio import list_audio

    vq = QUICK_VQ if options.quick else VQSettings()
    codec = QUICK_CODEC if options.quick else CodecSettings()
    codec = replace(codec, steps=options.steps or codec.steps, seeds=options.seeds or codec.seeds)
    options.work.mkdir(parents=True, exist_ok=True)
    train = envelopes(options.train_dir, vq.train_crops, 1).flatten(0, 1).numpy()
    test = envelopes(options.test_dir, vq.test_crops, 2).flatten(0, 1).numpy()
    files = [Path(path) for path in list_audio(options.test_dir)]
    files = files[: codec.max_clips or None]
    vq_tasks = [
        (estimator, networks, replacement, seed)
        for networks in (False, True)
        for replacement in (True, False)
        for estimator in ESTIMATORS
        for seed in range(vq.seeds)
    ]
    tasks = [(estimator, seed) for seed in range(codec.seeds) for estimator in ESTIMATORS]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context) as pool:
        train_and_score = partial(
            codec_task, settings=codec, data_dir=options.train_dir, files=files, train=train,
            work=options.work,
        )  # fmt: skip
        codec_runs = pool.map(train_and_score, tasks)
        train_alone = partial(vq_task, settings=vq, train=train, test=test, work=options.work)
        vq_runs = list(pool.map(train_alone, vq_tasks))
        codec_runs = list(codec_runs)
    return {
        "settings": {"vq": asdict(vq), "codec": asdict(codec)},
        "clips": [path.relative_to(options.test_dir).as_posix() for path in files],
        "paper": PAPER,
        "vq": {"bands": int(train.shape[-1]), "summary": summarise_vq(vq_runs), "runs": vq_runs},
        "codec": {
            "summary": summarise_codec(codec_runs, codec.rates),
            "differences": differences(codec_runs, codec.rates),
            "runs": codec_runs,
        },
    }


def main() -> None:
    """Write ``speech.json`` and ``speech.png``; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train_dir", type=Path, help="recordings to train on")
    parser.add_argument("test_dir", type=Path, help="clips to score")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    parser.add_argument("--work", type=Path, default=Path("runs/speech"), help="trained weights")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="a look at whether it runs: no result")
    parser.add_argument("--steps", type=int, help="optimizer steps of the codec")
    parser.add_argument("--seeds", type=int, help="seeds of the codec")
    options = parser.parse_args()
    from codec.errors import AudioError
    from codec.io.audio import list_audio
    from codec.io.files import atomic_write

    for folder in (options.train_dir, options.test_dir):
        if not folder.is_dir():
            parser.error(f"{folder}: no such directory; name one with recordings")
        if not list_audio(folder):
            parser.error(f"{folder}: no audio files in this directory; check the path")
    for name in ("jobs", "steps", "seeds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name}: {value} is less than 1")
    started = time.monotonic()
    try:
        result = run(options)
    except AudioError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    atomic_write(
        options.out / "speech.json", (json.dumps(result, separators=(",", ":")) + "\n").encode()
    )
    draw(result, options.out / "speech.png")
    print(table(result))
    print(f"speech.json and speech.png are in {options.out} ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
