"""Training: one loop over the whole graph, then the context model; logs, checkpoints, export.

Read :func:`train` from top to bottom. Everything random in step ``n`` is drawn from (seed, n), so
``--resume`` continues exactly: 20 steps are bit for bit 10 steps, a restart, and 10 more. The
processes of ``torchrun`` share the batch of a step: it is drawn as for one process, and each takes
its slice.
"""

from __future__ import annotations

import csv
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from codec.config import MAGNITUDE_BASE, REPORT_RATES_KBPS, CodecConfig
from codec.mdct import mdct
from models.allocation import NUM_KNOTS, StepAllocation
from models.codec_net import CodecNet
from models.data import CropSampler, load_directory, load_torchaudio
from models.distributed import ALONE, RANK_SEED, ProcessGroup, process_group
from models.losses import CodecLoss
from models.quantizers import perplexity, reset_moments
from models.search import search_offsets

# Octaves by which a band's step may lie above its envelope for nothing: 1 % of its bins are coded.
DEPTH_LIMIT = 2.5
PARTS = ("analysis", "msvq", "intra_msvq", "allocation", "enhancer", "concealment")
# Parts of the enhancer that only matter where packets are lost.
CONCEALMENT = ("loss_inputs.", "lost_outputs.")
# Without losses, share of sequences whose packets need no other.
INTRA_SHARE = 0.2
# Losses of a sequence: share of lost packets, probability that a loss goes on; none at the start.
LOSS_RATES, LOSS_BURSTS, LOSS_FREE = (0.02, 0.2), (0.0, 0.4), 5
# Batches of crops, and sizes of the moves (octaves), in a search of the offsets by rate.
SEARCH_BATCHES, SEARCH_MOVES = 8, (0.5,)


@dataclass
class TrainConfig:
    """Options of one training run; saved in its checkpoints.

    Attributes
    ----------
    data_dir : str            folder of recordings (with ``dataset``: where the corpus lies)
    out_dir : str             run folder: checkpoints, logs, exported weights
    valid_dir : str | None    folder of validation clips; None skips validation
    dataset : str | None      corpus of torchaudio.datasets, e.g. 'librispeech:train-clean-100'
    steps : int               optimizer steps of the graph
    batch_size : int          crops per step and process
    crop_seconds : float
    learning_rate : float     of Adam, after warm-up and before the decay
    decay_fraction : float    last part of the steps: learning rate falls, the envelope is hard
    warmup_steps : int
    ema : float               decay of the weight average that is validated and exported
    estimator : str           'nsvq', 'ste' or 'diveq'
    pesq_weight, error_weight, spectral_weight : float   weights of the losses at 8 kbit/s
    error_weight_32, spectral_weight_32 : float   at 32 kbit/s; what lies between is interpolated
    similarity_weight, similarity_weight_32 : float      of the gammatone similarity, likewise
    loss_share : float        share of crops in which packets are lost
    freeze : str              parts that are not trained, e.g. 'analysis,msvq,allocation'
    search_every : int        steps between searches of the offsets by rate; 0: never
    depth_weight : float      weight of the squared octaves by which a step is out of reach
    refit_allocation : bool   with ``init_from``: bring steps that are out of reach back first
    envelope_weight : float   weight of the envelope's squared error (octaves)
    replace_every : int       steps between replacements of dead codewords
    context_steps : int       optimizer steps of the context model (second stage)
    context_minutes : float   speech coded to train it on
    seed : int
    device : str              'cpu' or 'cuda'
    num_threads : int         CPU threads of a process; 0 leaves torch's choice
    precision : str           'float32', or 'bfloat16' in linear and convolution layers
    compile : bool            torch.compile of the enhancer and the spectral loss
    init_from : str | None    weights (.safetensors) to start from instead of the seed
    resume : bool             continue from out_dir/latest.pt
    checkpoint_every, validate_every : int   steps
    """

    data_dir: str
    out_dir: str
    valid_dir: str | None = None
    dataset: str | None = None
    steps: int = 10000
    batch_size: int = 8
    crop_seconds: float = 2.0
    learning_rate: float = 8e-4
    decay_fraction: float = 0.3
    warmup_steps: int = 200
    ema: float = 0.998
    estimator: str = "nsvq"
    pesq_weight: float = 1.0
    error_weight: float = 0.16
    spectral_weight: float = 0.7
    error_weight_32: float = 0.05
    spectral_weight_32: float = 1.2
    similarity_weight: float = 0.5
    similarity_weight_32: float = 2.0
    loss_share: float = 0.3
    freeze: str = ""
    search_every: int = 2500
    depth_weight: float = 0.02
    refit_allocation: bool = False
    envelope_weight: float = 0.1
    replace_every: int = 500
    context_steps: int = 4000
    context_minutes: float = 12.0
    seed: int = 0
    device: str = "cpu"
    num_threads: int = 0
    precision: str = "float32"
    compile: bool = False
    init_from: str | None = None
    resume: bool = False
    checkpoint_every: int = 500
    validate_every: int = 2000


@dataclass
class TrainState:
    """What a checkpoint holds beside the configuration.

    ``seconds`` is all of the run; ``step_seconds`` is spent in steps, on ``speech_seconds``.
    """

    net: CodecNet
    average: CodecNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    speech_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    context: dict[str, Any] | None = None


def draw_rates(
    rng: np.random.Generator, batch_size: int, packets: int, max_stages: int
) -> tuple[Tensor, Tensor]:
    """Draw one rate per crop (stratified, log-uniform from 8 to 32 kbit/s) and MSVQ stages.

    Returns
    -------
    packet_bits : float Tensor, shape [B, P]   whole bytes
    num_stages : int64 Tensor, shape [B]
    """
    position = (rng.permutation(batch_size) + rng.random(batch_size)) / batch_size
    rate = 8.0 * 4.0**position
    bits = np.round(rate * 20 / 8) * 8
    stages = np.where(rate < 10, 2 + (rng.random(batch_size) < 0.6), 3)
    stages = np.where((rate > 20) & (rng.random(batch_size) < 0.6), 4, stages)
    other = rng.integers(1, 5, batch_size)
    stages = np.where(rng.random(batch_size) < 0.15, other, stages)
    stages = np.minimum(stages, max_stages)
    # In some crops every packet has its own size, as in a VBR file.
    varied = rng.random((batch_size, 1)) < 0.25
    spread = np.exp2(np.where(varied, rng.normal(0, 0.4, (batch_size, packets)), 0.0))
    bits = np.clip(np.round(bits[:, None] * spread / 8) * 8, 64, 2040)
    packet_bits = torch.from_numpy(bits.astype(np.float32))
    return packet_bits, torch.from_numpy(stages.astype(np.int64))


def draw_losses(
    rng: np.random.Generator, batch_size: int, packets: int, share: float
) -> tuple[Tensor, Tensor]:
    """Draw which sequences have independent packets, and which packets get lost.

    Losses come in bursts (Gilbert, 1960): after each packet, a loss goes on or begins with
    probabilities that are drawn for the sequence.

    Returns
    -------
    intra : bool Tensor, shape [B]
    lost : bool Tensor, shape [B, P]
    """
    lossy = rng.random(batch_size) < share
    intra = lossy | (rng.random(batch_size) < INTRA_SHARE)
    rate = rng.uniform(*LOSS_RATES, batch_size)
    stay = rng.uniform(*LOSS_BURSTS, batch_size)
    begin = rate * (1 - stay) / (1 - rate)
    lost = np.zeros((batch_size, packets), np.bool_)
    u = rng.random((batch_size, packets))
    for p in range(LOSS_FREE, packets):
        lost[:, p] = lossy & (u[:, p] < np.where(lost[:, p - 1], stay, begin))
    return torch.from_numpy(intra), torch.from_numpy(lost)


def freeze_part(net: CodecNet, part: str) -> None:
    """Exclude one of ``PARTS`` from training.

    Raises
    ------
    ValueError   there is no such part
    """
    if part not in PARTS:
        raise ValueError(f"cannot freeze '{part}': use {', '.join(PARTS)}")
    if part in ("enhancer", "concealment"):
        for name, parameter in net.enhancer.named_parameters():
            if name.startswith(CONCEALMENT) == (part == "concealment"):
                parameter.requires_grad_(False)
    else:
        getattr(net, part).requires_grad_(False)
    if part == "allocation":  # the other half of what sets the steps
        net.scale_offset.requires_grad_(False)


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Return the rate at a step: linear warm-up, constant, cosine decay to 2 % at the end."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    start = config.steps * (1 - config.decay_fraction)
    t = min(max((step - start) / max(config.steps - start, 1), 0.0), 1.0)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * t)))


def hard_from(config: TrainConfig) -> int:
    """Return the step from which the envelope is hard-quantized and its quantizer frozen."""
    return int(config.steps * (1 - config.decay_fraction))


@contextmanager
def catch_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag, so that the loop can save before it leaves."""
    stopped = False

    def handler(*_: object) -> None:
        nonlocal stopped
        stopped = True

    old = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, handler)
    except ValueError:  # not in the main thread: leave the signals alone
        old = {}
    try:
        yield lambda: stopped
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def save_checkpoint(path: Path, config: TrainConfig, state: TrainState) -> None:
    """Write a checkpoint atomically."""
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "config": asdict(config),
            "codec": state.net.config.to_dict(),
            "net": state.net.state_dict(),
            "average": state.average.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "seconds": state.seconds,
            "step_seconds": state.step_seconds,
            "speech_seconds": state.speech_seconds,
            "history": state.history,
            "context": state.context,
        },
        temporary,
    )
    temporary.replace(path)


def new_state(config: TrainConfig, codec: CodecConfig) -> TrainState:
    """Build networks and optimizer from the seed."""
    torch.manual_seed(config.seed)
    net = CodecNet(codec, config.estimator).to(config.device)
    average = CodecNet(codec, config.estimator).to(config.device)
    average.load_state_dict(net.state_dict())
    average.requires_grad_(False)
    for part in filter(None, config.freeze.split(",")):
        freeze_part(net, part)
    trained = [p for p in net.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("every part is frozen: nothing is left to train")
    optimizer = torch.optim.Adam(trained, lr=config.learning_rate, betas=(0.9, 0.98))
    return TrainState(net, average, optimizer)


def load_checkpoint(path: Path, config: TrainConfig) -> TrainState:
    """Read a checkpoint of :func:`save_checkpoint`.

    Raises
    ------
    ValueError   no checkpoint there, or one of another model
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint '{path}' to resume from: start without --resume")
    saved = torch.load(path, map_location=config.device, weights_only=True)
    if saved["config"]["estimator"] != config.estimator:
        raise ValueError(
            f"the checkpoint was trained with {saved['config']['estimator']}: "
            f"give --estimator {saved['config']['estimator']}"
        )
    state = new_state(config, CodecConfig.from_dict(saved["codec"]))
    state.net.load_state_dict(saved["net"])
    state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.seconds = saved["step"], saved["seconds"]
    # Checkpoints of older versions have no throughput.
    state.step_seconds = saved.get("step_seconds", 0.0)
    state.speech_seconds = saved.get("speech_seconds", 0.0)
    state.history, state.context = saved["history"], saved["context"]
    return state


@torch.no_grad()
def initialise_msvq(net: CodecNet, sampler: CropSampler, packets: int, crops: int = 240) -> None:
    """Fit predictor and codebooks to the envelopes of some crops (before step 0)."""
    device = next(net.parameters()).device
    waveform = torch.cat([sampler.batch((1 << 40) + i, 8).to(device) for i in range(crops // 8)])
    config = net.config
    spectrum = mdct(waveform, packets * config.blocks_per_packet, config.hop_length)
    spectrum = spectrum.view(len(waveform), packets, config.blocks_per_packet, -1)
    envelope = net.analysis(waveform, spectrum)
    net.msvq.initialise(envelope)
    net.intra_msvq.initialise(envelope)


def refit_allocation(
    net: CodecNet, sampler: CropSampler, packets: int, crops: int = 64, steps: int = 600
) -> float:
    """Fit a fresh allocation network to the present one, with all bands brought into reach.

    A step that lies octaves above its band has lost its gradient. Here it comes back to
    ``DEPTH_LIMIT`` octaves above the envelope at 8 kbit/s, and to 1.2 at 32 kbit/s, where there are
    bits for every band; training then finds out whether they are worth it there.

    Returns
    -------
    float   rms difference from what was asked for, octaves
    """
    device = next(net.parameters()).device
    net.eval()
    inputs, wanted = [], []
    rng = np.random.default_rng([sampler.seed, 11])
    with torch.no_grad():
        for i in range(crops // 8):
            waveform = sampler.batch((1 << 42) + i, 8).to(device)
            bits, stages = draw_rates(rng, 8, packets, net.config.num_stages)
            bits, stages = bits.to(device), stages.to(device)
            out = net(waveform, bits, stages, True)
            envelope = out.vq.quantized
            previous = torch.cat([net.msvq.initial.expand(8, 1, -1), envelope[:, :-1]], 1)
            position = (0.5 * torch.log2(bits / 160)).clamp(0.0, 1.0)[..., None]
            limit = DEPTH_LIMIT + position * (1.2 - DEPTH_LIMIT)
            step = envelope + torch.minimum(out.depth, limit)
            wanted.append((step - step.mean(-1, keepdim=True)).flatten(0, 1))
            inputs.append([x.flatten(0, 1)[None] for x in (envelope, previous, bits.log2())])
        envelope, previous, log_bits = (torch.cat(x, 1) for x in zip(*inputs, strict=True))
        target = torch.cat(wanted)[None].clamp(-3.5, 3.5)
    fresh = StepAllocation(net.config).to(device)
    optimizer = torch.optim.Adam(fresh.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    error = torch.zeros(())
    for _ in range(steps):
        pick = torch.randint(target.shape[1], (512,), device=device)
        got = fresh(envelope[:, pick], previous[:, pick], log_bits[:, pick])
        error = (got - target[:, pick]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        optimizer.step()
        schedule.step()
    net.allocation.load_state_dict(fresh.state_dict())
    return float(error.detach().sqrt())


def update_average(state: TrainState, decay: float) -> None:
    """Move the weight average towards the network; buffers are copied."""
    # A young average must not remember the initial weights.
    decay = min(decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for slow, fast in zip(state.average.parameters(), state.net.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
        for old, new in zip(state.average.buffers(), state.net.buffers(), strict=True):
            old.copy_(new)


def use_bfloat16(net: CodecNet) -> None:
    """Let the linear and convolution layers compute in bfloat16; their outputs are float32.

    The layers, not whole networks: between them lie envelopes in octaves and powers, which the
    8 bits of a bfloat16 would spoil. The GRU stays float32: on CUDA, autocast may give it float16.
    """

    def wrap(layer: nn.Module) -> None:
        inner = layer.forward

        def forward(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16):
                return inner(x).float()

        layer.forward = forward

    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            wrap(layer)


def use_compiler(net: CodecNet, loss_fn: CodecLoss) -> str | None:
    """Compile the enhancer and the spectral loss; returns why not, if that is impossible here.

    The PESQ loss checks its types at run time, which torch.compile cannot trace.
    """
    device = next(net.parameters()).device
    try:  # a trial: compilation is lazy, and would fail in the midst of the first step
        torch.compile(lambda x: (x * 2).sin())(torch.zeros(8, device=device))
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    net.enhancer.compile(dynamic=False)
    loss_fn.spectral.compile(dynamic=False)
    return None


def train_step(
    state: TrainState,
    config: TrainConfig,
    loss_fn: CodecLoss,
    sampler: CropSampler,
    packets: int,
    group: ProcessGroup = ALONE,
) -> dict[str, float]:
    """Run one optimizer step and return what is logged."""
    net, optimizer, step = state.net, state.optimizer, state.step
    rng = np.random.default_rng([config.seed, step, 1])
    # Noise differs from rank to rank, else it would be the same in all slices of the batch.
    seed = config.seed * 1_000_003 + step + group.rank * RANK_SEED
    torch.manual_seed(seed % (1 << 62))
    for param_group in optimizer.param_groups:
        param_group["lr"] = learning_rate_at(config, step)
    batch_size = config.batch_size * group.size
    waveform = group.part(sampler.batch(step, batch_size)).to(config.device)
    packet_bits, stages = map(
        group.part, draw_rates(rng, batch_size, packets, net.config.num_stages)
    )
    packet_bits, stages = packet_bits.to(config.device), stages.to(config.device)
    intra, lost = map(group.part, draw_losses(rng, batch_size, packets, config.loss_share))
    intra, lost = intra.to(config.device), lost.to(config.device)

    net.train()
    hard = step >= hard_from(config)
    usages = net.msvq.usage, net.intra_msvq.usage
    before = [(usage.hits.clone(), usage.total.clone()) for usage in usages]
    out = net(waveform, packet_bits, stages, hard, intra, lost)
    perplexities = out.vq.perplexity
    if group.size > 1:  # count the hits of the whole batch
        for usage, (hits, counted) in zip(usages, before, strict=True):
            new_hits = group.sum_(usage.hits - hits)
            if usage is net.msvq.usage:
                perplexities = perplexity(new_hits)
            usage.hits.copy_(hits + new_hits)
            usage.total.copy_(counted + group.sum_(usage.total - counted))
    rate_kbps = packet_bits.mean(-1) * net.config.packet_rate / 1000
    loss, terms = loss_fn(waveform, out.waveform, rate_kbps)
    distortion = (out.vq.hard - out.envelope).square().mean()
    # A band whose step is far above its envelope is never coded and gets no gradient: stay near.
    depth = (out.depth - DEPTH_LIMIT).clamp_min(0.0).square().mean()
    total = loss.mean() + out.vq.auxiliary_loss + config.depth_weight * depth
    if not hard and any(m.codebooks.requires_grad for m in (net.msvq, net.intra_msvq)):
        total = total + config.envelope_weight * distortion
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    group.average_gradients(net.parameters())
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    # One step on a NaN gradient (PESQ on silence) would ruin the weights. All ranks skip it.
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    update_average(state, config.ema)
    state.step += 1
    if not hard and state.step % config.replace_every == 0 and state.step < 0.6 * config.steps:
        for msvq in (net.msvq, net.intra_msvq):
            if msvq.codebooks.requires_grad:
                dead = msvq.replace_dead()  # the same on all ranks, but for the random choice
                group.broadcast_([msvq.codebooks])
                reset_moments(optimizer, msvq.codebooks, dead)
    means = {name: value.mean() for name, value in terms.items()}
    means |= {
        "total": total,
        "distortion": distortion,
        "bits": out.bits.mean(),
        "stages": stages.float().mean(),
    }
    mean = group.mean(means)
    log = {
        "loss": mean["total"],
        "gradient_norm": float(norm),
        "skipped": float(not finite),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "envelope_rms_db": 6.0206 * math.sqrt(mean["distortion"]),
        "bits_bins": mean["bits"],
        "bits_envelope": net.config.codebook_bits * mean["stages"],
    }
    log |= {name: mean[name] for name in terms}
    for s, value in enumerate(perplexities.tolist()):
        log[f"perplexity_{s + 1}"] = value
    unused = (net.msvq.usage.hits == 0).float().mean(-1)  # since the last replacement
    for s, value in enumerate(unused.tolist()):
        log[f"unused_{s + 1}"] = value
    return log


@torch.no_grad()
def validate(
    net: CodecNet, clips: list[np.ndarray], device: str, max_clips: int = 8, seconds: float = 5.0
) -> list[dict[str, float]]:
    """Score the graph (hard quantization, Laplace bits) at the six report rates.

    Returns
    -------
    list of dict   bitrate_kbps, pesq_wb, psnr_db, one per rate
    """
    from codec.encoder import default_stages
    from evaluation.metrics import MetricError, pesq_wb, psnr

    net.eval()
    rows = []
    length = net.config.packet_length
    for rate in REPORT_RATES_KBPS:
        scores = []
        for clip in clips[:max_clips]:
            packets = int(min(len(clip), seconds * 16000) // length)
            reference = clip[: packets * length - length // 2].astype(np.float32) / 32768
            bits = torch.full((1, packets), round(rate * 20 / 8) * 8.0, device=device)
            used = min(default_stages(round(rate * 1000)), net.config.num_stages)
            stages = torch.tensor([used], device=device)
            torch.manual_seed(0)
            out = net(torch.from_numpy(reference)[None].to(device), bits, stages)
            decoded = out.waveform[0].cpu().numpy()
            try:
                scores.append((pesq_wb(reference, decoded), psnr(reference, decoded)))
            except MetricError:
                continue
        pesq, quality = np.mean(scores, axis=0)
        rows.append({"bitrate_kbps": rate, "pesq_wb": float(pesq), "psnr_db": float(quality)})
    return rows


@torch.no_grad()
def listen(net: CodecNet, clip: np.ndarray, rate_kbps: float = 13.2) -> np.ndarray:
    """Return up to 5 s of a clip (int16) as the graph decodes it, float32."""
    net.eval()
    length = net.config.packet_length
    packets = min(len(clip), 80000) // length
    if packets == 0:
        return np.zeros(0, np.float32)
    reference = torch.from_numpy(clip[: packets * length - length // 2].astype(np.float32) / 32768)
    device = next(net.parameters()).device
    bits = torch.full((1, packets), round(rate_kbps * 20 / 8) * 8.0, device=device)
    stages = torch.full((1,), min(3, net.config.num_stages), device=device)
    return net(reference[None].to(device), bits, stages).waveform[0].cpu().numpy()


class RunLog:
    """TensorBoard beside a CSV of the same numbers."""

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory / "tensorboard"))
        self.path = directory / "train.csv"
        self.columns: list[str] | None = None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Append one row and its TensorBoard scalars."""
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)
        new = not self.path.is_file()
        with self.path.open("a", newline="") as handle:
            writer = csv.DictWriter(handle, ["step", *values])
            if new:
                writer.writeheader()
            writer.writerow({"step": step, **{k: f"{v:.6g}" for k, v in values.items()}})

    def audio(self, step: int, name: str, waveform: np.ndarray) -> None:
        """Write a clip to listen to, float [T] at 16 kHz."""
        clip = torch.from_numpy(np.clip(waveform, -1, 1))[None]
        self.writer.add_audio(name, clip, step, sample_rate=16000)

    def validation(self, step: int, rows: list[dict[str, float]]) -> None:
        """Write PESQ and pSNR per rate."""
        for row in rows:
            for name in ("pesq_wb", "psnr_db"):
                tag = f"valid/{name}_{row['bitrate_kbps']:g}"
                self.writer.add_scalar(tag, row[name], step)


def load_clips(
    config: TrainConfig,
    group: ProcessGroup = ALONE,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return training recordings and, on rank 0, validation clips as int16."""
    if config.dataset:
        recordings = load_torchaudio(config.dataset, Path(config.data_dir), group.main)
    else:
        recordings = load_directory(Path(config.data_dir))
    valid = load_directory(Path(config.valid_dir)) if config.valid_dir and group.main else []
    return recordings, valid


def train(config: TrainConfig, codec: CodecConfig | None = None, quiet: bool = False) -> Path:
    """Train the codec and export its weights.

    Parameters
    ----------
    config : TrainConfig
    codec : CodecConfig, optional   sizes of a new run (a resumed one keeps its own)
    quiet : bool                    no progress bar

    Returns
    -------
    Path   the exported weights, ``out_dir/codec.safetensors`` (its card lies beside it)

    Raises
    ------
    ValueError, AudioError   bad options or data
    KeyboardInterrupt        after Ctrl-C, once the checkpoint is saved
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is available: use --device cpu")
    if config.precision not in ("float32", "bfloat16"):
        raise ValueError(f"unknown precision '{config.precision}': use float32 or bfloat16")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    with process_group(config.device) as group:
        with group.agreement():
            check_run_directory(config)
            # A corpus may have to be downloaded: rank 0 goes first.
            waits = config.dataset and not group.main
            clips = None if waits else load_clips(config, group)
        with group.agreement():
            recordings, valid = clips or load_clips(config, group)
            state, sampler = prepare(config, codec or CodecConfig(), recordings, group)
        for net in (state.net, state.average):
            group.broadcast_([*net.parameters(), *net.buffers()])
        train_graph(config, state, sampler, valid, group, quiet)
    # From here on the other processes have nothing to do: they end, rank 0 goes on.
    if not group.main:
        return Path(config.out_dir) / "codec.safetensors"
    return finish(config, state, sampler, valid, quiet, group.size)


def check_run_directory(config: TrainConfig) -> None:
    """Refuse to resume what is not there, and to overwrite what is."""
    checkpoint = Path(config.out_dir) / "latest.pt"
    if config.resume and not checkpoint.is_file():
        raise ValueError(f"no checkpoint '{checkpoint}' to resume from: start without --resume")
    if checkpoint.is_file() and not config.resume:
        raise ValueError(f"'{config.out_dir}' already holds a run: continue it with --resume")


def packets_per_crop(config: TrainConfig, codec: CodecConfig) -> int:
    """Return the length of a crop in packets."""
    return max(int(config.crop_seconds * codec.packet_rate), 4)


def prepare(
    config: TrainConfig, codec: CodecConfig, recordings: list[np.ndarray], group: ProcessGroup
) -> tuple[TrainState, CropSampler]:
    """Build or load what is trained; a new network is initialised from data on rank 0 only."""
    resumed = load_checkpoint(Path(config.out_dir) / "latest.pt", config) if config.resume else None
    state = resumed or new_state(config, codec)
    packets = packets_per_crop(config, state.net.config)
    crop_samples = (2 * packets - 1) * state.net.config.hop_length
    sampler = CropSampler(recordings, crop_samples, config.seed)
    if group.main:
        Path(config.out_dir).mkdir(parents=True, exist_ok=True)
    if resumed:
        return state, sampler
    if config.init_from:
        from codec.weights import load_weights
        from models.export import load_net

        load_net(state.net, load_weights(Path(config.init_from)))
        if config.refit_allocation:
            refit_allocation(state.net, sampler, packets)
    elif group.main:
        initialise_msvq(state.net, sampler, packets)
    state.average.load_state_dict(state.net.state_dict())
    return state, sampler


def train_graph(
    config: TrainConfig,
    state: TrainState,
    sampler: CropSampler,
    valid: list[np.ndarray],
    group: ProcessGroup,
    quiet: bool,
) -> None:
    """Run the steps that are left; rank 0 logs, validates and saves checkpoints.

    Raises
    ------
    KeyboardInterrupt   on all ranks after Ctrl-C on one of them, once the checkpoint is saved
    """
    out_dir = Path(config.out_dir)
    packets = packets_per_crop(config, state.net.config)
    loss_fn = CodecLoss(
        config.pesq_weight,
        config.error_weight,
        config.spectral_weight,
        config.error_weight_32,
        config.spectral_weight_32,
        config.similarity_weight,
        config.similarity_weight_32,
    )
    loss_fn.to(config.device)
    if config.precision == "bfloat16":
        use_bfloat16(state.net)
    problem = use_compiler(state.net, loss_fn) if config.compile else None
    log = None
    if group.main:
        if problem:
            tqdm.write(f"codec: note: trained without --compile: {problem}", file=sys.stderr)
        log = RunLog(out_dir)
        (out_dir / "config.json").write_text(
            json.dumps({"train": asdict(config), "codec": state.net.config.to_dict()}, indent=2)
        )

    quiet = quiet or not group.main
    bar = tqdm(total=config.steps, initial=state.step, disable=quiet, unit="step", desc="train")
    started = time.monotonic()
    speech = config.batch_size * group.size * sampler.crop_samples / 16000  # seconds, each step
    smooth: dict[str, float] = {}
    with catch_interrupt() as stopped:
        while state.step < config.steps:
            if config.search_every and state.step and state.step % config.search_every == 0:
                search_allocation(config, state, loss_fn, sampler, group)
            begun = time.monotonic()
            values = train_step(state, config, loss_fn, sampler, packets, group)
            taken = time.monotonic() - begun
            state.step_seconds += taken
            state.speech_seconds += speech
            values["throughput_hours_per_hour"] = speech / taken
            if not values["skipped"]:
                for name, value in values.items():
                    smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
            bar.update()
            bar.set_postfix(loss=f"{smooth.get('loss', math.nan):.3f}", refresh=False)
            stop = group.any(stopped())
            last = state.step == config.steps
            if log:
                if state.step % 50 == 0:
                    log.scalars(state.step, smooth)
                if valid and (last or state.step % config.validate_every == 0):
                    log_validation(config, state, valid, log)
                if last or stop or state.step % config.checkpoint_every == 0:
                    state.seconds += time.monotonic() - started
                    started = time.monotonic()
                    save_checkpoint(out_dir / "latest.pt", config, state)
            if stop:
                bar.close()
                group.any(False)  # wait until rank 0 has saved
                raise KeyboardInterrupt
    bar.close()


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
        sampler.batch(first + i, config.batch_size).to(config.device) for i in range(SEARCH_BATCHES)
    ]
    table = state.average.allocation.rate_offsets
    for knot in range(NUM_KNOTS):
        if knot % group.size == group.rank:
            before, after = search_offsets(state.average, loss_fn, batches, knot, SEARCH_MOVES)
            name = f"step {state.step}: offsets of rate {knot + 1} of {NUM_KNOTS}"
            tqdm.write(f"{name}: loss {before:.4f}, now {after:.4f}")
        else:
            table[knot] = 0.0
    group.sum_(table)
    state.net.allocation.rate_offsets.copy_(table)


def log_validation(
    config: TrainConfig, state: TrainState, valid: list[np.ndarray], log: RunLog
) -> None:
    """Score the weight average and write scores and a clip to listen to."""
    rows = validate(state.average, valid, config.device)
    state.history.append({"step": state.step, "valid": rows})
    log.validation(state.step, rows)
    log.audio(state.step, "valid/reference", valid[0][:80000] / np.float32(32768))
    log.audio(state.step, "valid/decoded_13.2", listen(state.average, valid[0]))
    text = "  ".join(f"{r['pesq_wb']:.2f}/{r['psnr_db']:.1f}" for r in rows)
    tqdm.write(f"step {state.step}: PESQ/pSNR {text}")


def finish(
    config: TrainConfig,
    state: TrainState,
    sampler: CropSampler,
    valid: list[np.ndarray],
    quiet: bool,
    processes: int = 1,
) -> Path:
    """Train the context models on the finished graph and export everything.

    With ``init_from`` and no steps for the context models, those of the start are kept.
    """
    from codec.api import Codec
    from models.export import export_weights

    net = state.average.cpu().eval()
    if config.init_from and not config.context_steps:
        from codec.weights import load_weights

        tables = keep_entropy_tables(net, load_weights(Path(config.init_from)))
        fitted = [(value, math.nan) for value in tables]
    else:
        fitted = [fit_tables(config, net, sampler, intra, quiet) for intra in (False, True)]
    (tables, bits), (intra, intra_bits) = fitted
    path = Path(config.out_dir) / "codec.safetensors"
    options = {k: v for k, v in asdict(config).items() if not k.endswith("_dir")}
    if config.init_from:
        options["init_from"] = Path(config.init_from).name  # a card is read on other machines
    card: dict[str, Any] = {
        "name": "NSVQ speech codec weights",
        "licence": "MIT; trained on recordings under CC BY 4.0, CC0, MIT, Apache-2.0 and the CMU "
        "AN4 licence (see README)",
        "training": options,
        "processes": processes,
        "hours_of_speech": round(sampler.hours, 2),
        "training_hours": round(state.seconds / 3600, 2),
        # Hours of crops trained on, in each hour spent in steps.
        "throughput_hours_per_hour": round(state.speech_seconds / max(state.step_seconds, 1e-9), 1),
        "git_commit": git_commit(),
        "torch": torch.__version__,
    }
    if config.context_steps:
        card["context_bits_per_bin"] = round(bits, 4)
        card["intra_context_bits_per_bin"] = round(intra_bits, 4)
    weights = export_weights(path, net, tables, intra, card)
    if valid:
        card["validation"] = score_codec(Codec(weights), valid)
        weights = export_weights(path, net, tables, intra, card)
        rows = card["validation"]
        text = "  ".join(f"{r['pesq_wb']:.2f}/{r['psnr_db']:.1f}" for r in rows)
        tqdm.write(f"exported {path}: PESQ/pSNR {text}")
    return path


def fit_tables(
    config: TrainConfig, net: CodecNet, sampler: CropSampler, intra: bool, quiet: bool
) -> tuple[Any, float]:
    """Train the context model of one kind of packets; returns tables and bits per bin.

    Two rounds: the bins depend on the rate control, which depends on the context model. The first
    round is short and starts from the envelope-only Laplace model.
    """
    from models.context import ContextModel, train_context
    from models.export import build_tables

    torch.manual_seed(config.seed)
    context = ContextModel(net.config)
    nothing = np.zeros((0, 8), np.int64)
    tables = build_tables(net, context, nothing[:, :2], nothing, nothing[:, 0], intra)
    bits = math.nan
    for number, share in enumerate((0.25, 1.0)):
        minutes = config.context_minutes * share
        data = collect_context_data(net, tables, sampler, minutes, number, quiet, intra)
        steps = max(int(config.context_steps * share), 1)
        bits = train_context(context, data, steps, config.seed + number, quiet=quiet)
        tables = build_tables(net, context, data.deltas, data.indices, data.num_stages, intra)
    return tables, bits


def keep_entropy_tables(net: CodecNet, weights: Any) -> tuple[Any, Any]:
    """Return both sets of tables of a network, with the entropy coder's taken from weights."""
    from codec.weights import code_lengths
    from models.export import build_tables, import_context

    names = ("context_w1", "context_w2", "context_b2", "context_w3", "context_b3", "context_band")
    names = (*names, "cdf", "index_cdf", "step_cdf")
    nothing = np.zeros((0, 8), np.int64)
    result = []
    for intra, old in ((False, weights.tables), (True, weights.intra)):
        context = import_context(weights, intra)
        tables = build_tables(net, context, nothing[:, :2], nothing, nothing[:, 0], intra)
        kept = {name: getattr(old, name) for name in names}
        result.append(tables._replace(**kept, index_cost=code_lengths(old.index_cdf)))
    return result[0], result[1]


def collect_context_data(
    net: CodecNet,
    tables: Any,
    sampler: CropSampler,
    minutes: float,
    number: int,
    quiet: bool,
    intra: bool = False,
) -> Any:
    """Code random pieces of the training data at random rates; returns ``context.BinData``."""
    from codec.encoder import collect_bins, default_stages
    from models.context import BinData
    from models.envelope import band_of_bin

    config = net.config
    seconds = 6.0
    length = int(seconds * config.sample_rate)
    length = min(length, len(sampler.samples))
    pieces = CropSampler([sampler.samples], length, sampler.seed, augment=True)
    count = max(int(minutes * 60 / seconds), 1)
    rng = np.random.default_rng([sampler.seed, 7, number])
    features, symbols, deltas, indices, used = [], [], [], [], []
    for i in tqdm(range(count), disable=quiet, unit="piece", desc="collect"):
        rate = 8.0 * 4.0 ** rng.random()
        piece = pieces.batch((1 << 41) + number * (1 << 20) + i, 1)[0].numpy()
        stages = min(default_stages(round(rate * 1000)), config.num_stages)
        if intra:
            stages = config.intra_stages(stages)
        got = collect_bins(tables, config, net.analysis, piece, round(rate * 20 / 8), stages, intra)
        # The first packet has no past: predicted packets always have one.
        magnitude = np.abs(got.bins[1:]).ravel()
        features.append(got.features[1:].reshape(-1, got.features.shape[-1]))
        symbols.append(np.searchsorted(MAGNITUDE_BASE, magnitude, side="right") - 1)
        deltas.append(got.deltas[1:])
        indices.append(got.indices[1:])
        used.append(np.full(len(got.indices) - 1, stages))
    packets = len(np.concatenate(deltas))
    band = np.tile(band_of_bin(config).numpy(), 2 * packets)
    block = np.tile(np.repeat(np.arange(2), config.hop_length), packets)
    return BinData(
        np.concatenate(features),
        block.astype(np.uint8),
        band.astype(np.uint8),
        np.concatenate(symbols).astype(np.uint8),
        np.concatenate(deltas),
        np.concatenate(indices),
        np.concatenate(used),
    )


def score_codec(codec: Any, clips: list[np.ndarray], max_clips: int = 20) -> list[dict[str, float]]:
    """Score the real codec (bytes in between) on validation clips at the report rates."""
    from evaluation.metrics import MetricError, pesq_wb, psnr

    rows = []
    for rate in REPORT_RATES_KBPS:
        scores = []
        for clip in clips[:max_clips]:
            reference = clip.astype(np.float32) / 32768
            decoded = codec.decode(codec.encode(reference, 16000, rate))
            try:
                scores.append((pesq_wb(reference, decoded), psnr(reference, decoded)))
            except MetricError:
                continue
        if scores:
            pesq, quality = np.mean(scores, axis=0)
            rows.append(
                {
                    "bitrate_kbps": rate,
                    "pesq_wb": round(float(pesq), 4),
                    "psnr_db": round(float(quality), 3),
                }
            )
    return rows


def git_commit() -> str:
    """Return the commit of the source tree, or 'unknown'."""
    import subprocess

    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
