"""Training: one loop over the whole graph, then the context model; logs, checkpoints, export.

Read :func:`train` from top to bottom. Everything random in step ``n`` is drawn from (seed, n), so
``--resume`` continues exactly: 20 steps are bit for bit 10 steps, a restart, and 10 more.
"""

from __future__ import annotations

import csv
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from codec.config import MAGNITUDE_BASE, REPORT_RATES_KBPS, CodecConfig
from codec.mdct import mdct
from models.codec_net import CodecNet
from models.data import CropSampler, load_directory, load_torchaudio
from models.losses import CodecLoss


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
    batch_size : int          crops per step
    crop_seconds : float
    learning_rate : float     of Adam, after warm-up and before the decay
    decay_fraction : float    last part of the steps: learning rate falls, the envelope is hard
    warmup_steps : int
    ema : float               decay of the weight average that is validated and exported
    estimator : str           'nsvq', 'ste' or 'diveq'
    pesq_weight, error_weight, spectral_weight : float   weights of the losses
    envelope_weight : float   weight of the envelope's squared error (octaves)
    replace_every : int       steps between replacements of dead codewords
    context_steps : int       optimizer steps of the context model (second stage)
    context_minutes : float   speech coded to train it on
    seed : int
    device : str              'cpu' or 'cuda'
    num_threads : int         CPU threads; 0 leaves torch's choice
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
    error_weight: float = 0.3
    spectral_weight: float = 1.0
    envelope_weight: float = 0.1
    replace_every: int = 500
    context_steps: int = 4000
    context_minutes: float = 12.0
    seed: int = 0
    device: str = "cpu"
    num_threads: int = 0
    init_from: str | None = None
    resume: bool = False
    checkpoint_every: int = 500
    validate_every: int = 2000


@dataclass
class TrainState:
    """What a checkpoint holds beside the configuration."""

    net: CodecNet
    average: CodecNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
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
    optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
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
    net.msvq.initialise(net.analysis(waveform, spectrum))


def update_average(state: TrainState, decay: float) -> None:
    """Move the weight average towards the network; buffers are copied."""
    # A young average must not remember the initial weights.
    decay = min(decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for slow, fast in zip(state.average.parameters(), state.net.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
        for slow, fast in zip(state.average.buffers(), state.net.buffers(), strict=True):
            slow.copy_(fast)


def reset_moments(optimizer: torch.optim.Optimizer, parameter: Tensor, mask: Tensor) -> None:
    """Zero Adam's moments of replaced codewords."""
    moments = optimizer.state.get(parameter, {})
    for key in ("exp_avg", "exp_avg_sq"):
        if key in moments:
            moments[key][mask] = 0.0


def train_step(
    state: TrainState, config: TrainConfig, loss_fn: CodecLoss, sampler: CropSampler, packets: int
) -> dict[str, float]:
    """Run one optimizer step and return what is logged."""
    net, optimizer, step = state.net, state.optimizer, state.step
    rng = np.random.default_rng([config.seed, step, 1])
    torch.manual_seed((config.seed * 1_000_003 + step) % (1 << 62))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(config, step)
    waveform = sampler.batch(step, config.batch_size).to(config.device)
    packet_bits, stages = draw_rates(rng, config.batch_size, packets, net.config.num_stages)
    packet_bits, stages = packet_bits.to(config.device), stages.to(config.device)

    net.train()
    hard = step >= hard_from(config)
    out = net(waveform, packet_bits, stages, hard)
    loss, terms = loss_fn(waveform, out.waveform)
    distortion = (out.vq.hard - out.envelope).square().mean()
    total = loss.mean() + out.vq.auxiliary_loss
    if not hard:
        total = total + config.envelope_weight * distortion
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    # One step on a NaN gradient (PESQ on silence) would ruin the weights.
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    update_average(state, config.ema)
    state.step += 1
    if not hard and state.step % config.replace_every == 0 and state.step < 0.6 * config.steps:
        dead = net.msvq.replace_dead()
        reset_moments(optimizer, net.msvq.codebooks, dead)
    log = {
        "loss": float(total.detach()),
        "gradient_norm": float(norm),
        "skipped": float(not finite),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "envelope_rms_db": 6.0206 * float(distortion.detach().sqrt()),
        "bits_bins": float(out.bits.mean()),
        "bits_envelope": float(net.config.codebook_bits * stages.float().mean()),
    }
    log |= {name: float(value.detach().mean()) for name, value in terms.items()}
    for s, value in enumerate(out.vq.perplexity.tolist()):
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
    from codec.metrics import MetricError, pesq_wb, psnr

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


def load_clips(config: TrainConfig) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return training recordings and validation clips as int16."""
    if config.dataset:
        recordings = load_torchaudio(config.dataset, Path(config.data_dir))
    else:
        recordings = load_directory(Path(config.data_dir))
    valid = load_directory(Path(config.valid_dir)) if config.valid_dir else []
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
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    out_dir = Path(config.out_dir)
    checkpoint = out_dir / "latest.pt"
    if config.resume and not checkpoint.is_file():
        raise ValueError(f"no checkpoint '{checkpoint}' to resume from: start without --resume")
    if checkpoint.is_file() and not config.resume:
        raise ValueError(f"'{out_dir}' already holds a run: continue it with --resume")
    recordings, valid = load_clips(config)
    codec = codec or CodecConfig()
    packets = max(int(config.crop_seconds * codec.packet_rate), 4)
    sampler = CropSampler(recordings, (2 * packets - 1) * codec.hop_length, config.seed)
    out_dir.mkdir(parents=True, exist_ok=True)

    if config.resume:
        state = load_checkpoint(checkpoint, config)
    else:
        state = new_state(config, codec)
        if config.init_from:
            from codec.weights import load_weights
            from models.export import load_net

            load_net(state.net, load_weights(Path(config.init_from)))
        else:
            initialise_msvq(state.net, sampler, packets)
        state.average.load_state_dict(state.net.state_dict())
    loss_fn = CodecLoss(config.pesq_weight, config.error_weight, config.spectral_weight)
    loss_fn.to(config.device)
    log = RunLog(out_dir)
    (out_dir / "config.json").write_text(
        json.dumps({"train": asdict(config), "codec": state.net.config.to_dict()}, indent=2)
    )

    bar = tqdm(total=config.steps, initial=state.step, disable=quiet, unit="step", desc="train")
    started = time.monotonic()
    smooth: dict[str, float] = {}
    with catch_interrupt() as stopped:
        while state.step < config.steps:
            values = train_step(state, config, loss_fn, sampler, packets)
            if not values["skipped"]:
                for name, value in values.items():
                    smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
            bar.update()
            bar.set_postfix(loss=f"{smooth.get('loss', math.nan):.3f}", refresh=False)
            if state.step % 50 == 0:
                log.scalars(state.step, smooth)
            last = state.step == config.steps
            if valid and (last or state.step % config.validate_every == 0):
                rows = validate(state.average, valid, config.device)
                state.history.append({"step": state.step, "valid": rows})
                log.validation(state.step, rows)
                log.audio(state.step, "valid/reference", valid[0][:80000] / np.float32(32768))
                log.audio(state.step, "valid/decoded_13.2", listen(state.average, valid[0]))
                text = "  ".join(f"{r['pesq_wb']:.2f}/{r['psnr_db']:.1f}" for r in rows)
                tqdm.write(f"step {state.step}: PESQ/pSNR {text}")
            if last or stopped() or state.step % config.checkpoint_every == 0:
                state.seconds += time.monotonic() - started
                started = time.monotonic()
                save_checkpoint(checkpoint, config, state)
            if stopped():
                bar.close()
                raise KeyboardInterrupt
    bar.close()
    return finish(config, state, sampler, valid, quiet)


def finish(
    config: TrainConfig,
    state: TrainState,
    sampler: CropSampler,
    valid: list[np.ndarray],
    quiet: bool,
) -> Path:
    """Train the context model on the finished graph and export everything.

    Two rounds: the bins depend on the rate control, which depends on the context model. The first
    round is short and starts from the envelope-only Laplace model.
    """
    from codec.api import Codec
    from models.context import ContextModel, train_context
    from models.export import build_tables, export_weights

    net = state.average.cpu().eval()
    torch.manual_seed(config.seed)
    context = ContextModel(net.config)
    nothing = np.zeros((0, 8), np.int64)
    tables = build_tables(net, context, nothing[:, :2], nothing, nothing[:, 0])
    bits = math.nan
    for number, share in enumerate((0.25, 1.0)):
        minutes = config.context_minutes * share
        data = collect_context_data(net, tables, sampler, minutes, number, quiet)
        steps = max(int(config.context_steps * share), 1)
        bits = train_context(context, data, steps, config.seed + number, quiet=quiet)
        tables = build_tables(net, context, data.deltas, data.indices, data.num_stages)
    path = Path(config.out_dir) / "codec.safetensors"
    options = {k: v for k, v in asdict(config).items() if not k.endswith("_dir")}
    card: dict[str, Any] = {
        "name": "NSVQ speech codec weights",
        "licence": "MIT; trained on recordings under CC BY 4.0, CC0, MIT, Apache-2.0 and the CMU "
        "AN4 licence (see README)",
        "training": options,
        "hours_of_speech": round(sampler.hours, 2),
        "training_hours": round(state.seconds / 3600, 2),
        "git_commit": git_commit(),
        "torch": torch.__version__,
        "context_bits_per_bin": round(bits, 4),
    }
    weights = export_weights(path, net, tables, card)
    if valid:
        card["validation"] = score_codec(Codec(weights), valid)
        weights = export_weights(path, net, tables, card)
        rows = card["validation"]
        text = "  ".join(f"{r['pesq_wb']:.2f}/{r['psnr_db']:.1f}" for r in rows)
        tqdm.write(f"exported {path}: PESQ/pSNR {text}")
    return path


def collect_context_data(
    net: CodecNet, tables: Any, sampler: CropSampler, minutes: float, number: int, quiet: bool
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
        got = collect_bins(tables, config, net.analysis, piece, round(rate * 20 / 8), stages)
        # The first packet has no past; it is rare in use, too.
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
    from codec.metrics import MetricError, pesq_wb, psnr

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
