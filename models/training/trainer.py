"""Training: one loop over the whole graph, then the context models, then the export.

Read :func:`train` from top to bottom. Everything random in step ``n`` is drawn from (seed, n), so
``--resume`` continues exactly: 20 steps are bit for bit 10 steps, a restart, and 10 more. The
processes of ``torchrun`` share the batch of a step: it is drawn as for one process, and each takes
its slice.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from codec.api import Codec
from codec.config import SAMPLE_RATE, CodecConfig
from models.codec_net import CodecNet
from models.runtime import Tensors, load_weights
from models.training.acceleration import use_bfloat16, use_compiler
from models.training.allocation_search import refit_allocation, search_allocation
from models.training.coded import CodedBatches, check_coded
from models.training.config import TrainConfig
from models.training.context_training import fit_context, keep_context
from models.training.data import CropSampler, load_directory, load_torchaudio, say
from models.training.distributed import ALONE, ProcessGroup, process_group
from models.training.export import export_weights, load_net
from models.training.log import RunLog
from models.training.losses import CodecLoss
from models.training.sampling import frames_per_crop, num_samples
from models.training.state import (
    TrainState,
    frozen_parts,
    initialise_msvq,
    load_checkpoint,
    new_state,
    refit_detail,
    save_checkpoint,
)
from models.training.step import hard_from, train_step
from models.training.validation import (
    CODEC_CLIPS,
    GRAPH_CLIPS,
    GRAPH_SECONDS,
    LISTEN_KBPS,
    describe,
    graph_coder,
    score_clips,
    to_float,
)

CHECKPOINT, EXPORT = "latest.pt", "codec.safetensors"
LOG_EVERY = 50  # steps
SHORTEST_CLIP = SAMPLE_RATE // 2  # to validate on
SMOOTHING = 0.98  # of what is logged, per step
LICENCE = "not stated: it depends on the recordings"


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
    check_machine(config)
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
        return Path(config.out_dir) / EXPORT
    return finish(config, state, sampler, valid, quiet, group.size)


# --- before the first step ------------------------------------------------------------------------


def check_machine(config: TrainConfig) -> None:
    """Refuse what this machine or torch cannot do; set the number of threads."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is available: use --device cpu")
    if config.precision not in ("float32", "bfloat16"):
        raise ValueError(f"unknown precision '{config.precision}': use float32 or bfloat16")
    if config.coded:
        check_coded(config)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)


def check_run_directory(config: TrainConfig) -> None:
    """Refuse to resume what is not there, and to overwrite what is."""
    checkpoint = Path(config.out_dir) / CHECKPOINT
    if config.resume and not checkpoint.is_file():
        raise ValueError(f"no checkpoint '{checkpoint}' to resume from: start without --resume")
    if checkpoint.is_file() and not config.resume:
        raise ValueError(f"'{config.out_dir}' already holds a run: continue it with --resume")


def load_clips(
    config: TrainConfig, group: ProcessGroup = ALONE
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return training recordings and, on rank 0, validation clips as int16."""
    report = say if group.main else bool  # one voice is enough
    if config.dataset:
        recordings = load_torchaudio(config.dataset, Path(config.data_dir), group.main, report)
    else:
        recordings = load_directory(Path(config.data_dir), report=report)
    valid: list[np.ndarray] = []
    if config.valid_dir and group.main:
        found = load_directory(Path(config.valid_dir), report=report)
        valid = [clip for clip in found if len(clip) >= SHORTEST_CLIP]
        if len(valid) < len(found):
            report(f"{len(found) - len(valid)} clips in {config.valid_dir} are too short for PESQ")
        if not valid:
            raise ValueError(f"--valid: {config.valid_dir} has no clip of half a second or more")
    return recordings, valid


def prepare(
    config: TrainConfig, codec: CodecConfig, recordings: list[np.ndarray], group: ProcessGroup
) -> tuple[TrainState, CropSampler]:
    """Build or load what is trained; a new network is initialised from data on rank 0 only."""
    out_dir = Path(config.out_dir)
    resumed = load_checkpoint(out_dir / CHECKPOINT, config) if config.resume else None
    state = resumed or new_state(config, codec)
    sampler = CropSampler(recordings, num_samples(frames_per_crop(config)), config.seed)
    if group.main:
        out_dir.mkdir(parents=True, exist_ok=True)
    if resumed:
        return state, sampler
    if config.init_from:
        load_net(state.net, load_weights(Path(config.init_from)))
        if config.refit_allocation:
            refit_allocation(state.net, sampler)
    elif group.main:
        initialise_msvq(state.net, sampler)
    state.average.load_state_dict(state.net.state_dict())
    return state, sampler


# --- the graph ------------------------------------------------------------------------------------


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


def open_log(config: TrainConfig, codec: CodecConfig, step: int) -> RunLog:
    """Return the log of a run that is at a step; writes its settings beside it."""
    out_dir = Path(config.out_dir)
    settings = {"train": asdict(config), "codec": codec.to_dict()}
    (out_dir / "config.json").write_text(json.dumps(settings, indent=2))
    return RunLog(out_dir, step)


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
    loss_fn = CodecLoss.from_config(config).to(config.device)
    if config.precision == "bfloat16":
        use_bfloat16(state.net)
    problem = use_compiler(state.net, loss_fn) if config.compile else None
    if problem and group.main:
        tqdm.write(f"codec: note: trained without --compile: {problem}", file=sys.stderr)
    log = open_log(config, state.net.config, state.step) if group.main else None
    coded = None
    if config.coded and config.init_from:
        coded = CodedBatches(config, sampler, load_weights(Path(config.init_from)), group)
    # What is frozen stays, and coded crops have the steps that they were coded with.
    fixed = config.coded or "allocation" in frozen_parts(config)
    searches = config.search_every and not fixed
    hidden = quiet or not group.main
    bar = tqdm(total=config.steps, initial=state.step, disable=hidden, unit="step", desc="train")
    started = time.monotonic()
    smooth: dict[str, float] = {}
    with catch_interrupt() as stopped, bar:
        while state.step < config.steps:
            if searches and state.step and state.step % config.search_every == 0:
                search_allocation(config, state, loss_fn, sampler, group)
            if state.step == hard_from(config):
                refit_detail(config, state, sampler, group)
            values = timed_step(config, state, loss_fn, sampler, group, coded)
            if not values["skipped"]:
                for name, value in values.items():
                    smooth[name] = SMOOTHING * smooth.get(name, value) + (1 - SMOOTHING) * value
            bar.update()
            bar.set_postfix(loss=f"{smooth.get('loss', math.nan):.3f}", refresh=False)
            stop = group.any(stopped())
            last = state.step == config.steps
            if log:
                if state.step % LOG_EVERY == 0:
                    log.scalars(state.step, smooth)
                validates = valid and (last or state.step % config.validate_every == 0)
                if validates or last or stop or state.step % config.checkpoint_every == 0:
                    state.seconds += time.monotonic() - started
                    started = time.monotonic()
                    save_checkpoint(Path(config.out_dir) / CHECKPOINT, config, state)
                if validates:
                    log_validation(state, valid, log)
                    save_checkpoint(Path(config.out_dir) / CHECKPOINT, config, state)
            if stop:
                group.any(False)  # wait until rank 0 has saved
                raise KeyboardInterrupt


def timed_step(
    config: TrainConfig,
    state: TrainState,
    loss_fn: CodecLoss,
    sampler: CropSampler,
    group: ProcessGroup,
    coded: CodedBatches | None,
) -> dict[str, float]:
    """Run one step and count its time; returns what is logged."""
    speech = config.batch_size * group.size * sampler.crop_samples / SAMPLE_RATE  # seconds
    begun = time.monotonic()
    values = train_step(state, config, loss_fn, sampler, group, coded)
    taken = time.monotonic() - begun
    state.step_seconds += taken
    state.speech_seconds += speech
    return values | {"throughput_hours_per_hour": speech / taken}


def log_validation(state: TrainState, valid: list[np.ndarray], log: RunLog) -> None:
    """Score the weight average and write scores and a clip to listen to."""
    coder = graph_coder(state.average)
    clips = to_float(valid[:GRAPH_CLIPS], GRAPH_SECONDS)
    rows = score_clips(coder, clips)
    state.history.append({"step": state.step, "valid": rows})
    log.validation(state.step, rows)
    log.audio(state.step, "valid/reference", clips[0])
    log.audio(state.step, f"valid/decoded_{LISTEN_KBPS:g}", coder(clips[0], LISTEN_KBPS))
    tqdm.write(f"step {state.step}: PESQ/pSNR {describe(rows)}")


# --- after the last step --------------------------------------------------------------------------


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
    net = state.average.cpu().eval()
    predicted, intra, bits = finished_tensors(config, net, sampler, quiet)
    card = describe_run(config, state, sampler, processes) | bits
    path = Path(config.out_dir) / EXPORT
    if valid:  # before the file is there, which says that the run is done
        with tempfile.TemporaryDirectory() as folder:
            unscored = Path(folder) / EXPORT
            codec = Codec(export_weights(unscored, net.config, predicted, intra, card))

        def code(clip: np.ndarray, rate_kbps: float) -> np.ndarray:
            return codec.decode(codec.encode(clip, SAMPLE_RATE, rate_kbps))

        card["validation"] = score_clips(code, to_float(valid[:CODEC_CLIPS]))
        tqdm.write(f"PESQ/pSNR of {path}: {describe(card['validation'])}")
    export_weights(path, net.config, predicted, intra, card)
    return path


def finished_tensors(
    config: TrainConfig, net: CodecNet, sampler: CropSampler, quiet: bool
) -> tuple[Tensors, Tensors, dict[str, float]]:
    """Return the tensors of predicted and intra frames, and what the card says of their bits."""
    if config.init_from and not config.context_steps:
        start = load_weights(Path(config.init_from))
        return keep_context(net, start, False), keep_context(net, start, True), {}
    predicted, bits = fit_context(config, net, sampler, False, quiet)
    intra, intra_bits = fit_context(config, net, sampler, True, quiet)
    card = {"context_bits_per_bin": bits, "intra_context_bits_per_bin": intra_bits}
    return predicted, intra, {name: round(value, 4) for name, value in card.items()}


def describe_run(
    config: TrainConfig, state: TrainState, sampler: CropSampler, processes: int
) -> dict[str, Any]:
    """Return what the card says of a run; cards are read on other machines, so without folders."""
    options = {k: v for k, v in asdict(config).items() if not k.endswith("_dir")}
    if config.init_from:
        options["init_from"] = Path(config.init_from).name
    return {
        "name": "NSVQ speech codec weights",
        "licence": LICENCE,
        "training": options,
        "processes": processes,
        "hours_of_speech": round(sampler.hours, 2),
        "training_hours": round(state.seconds / 3600, 2),
        # Hours of crops trained on, in each hour spent in steps.
        "throughput_hours_per_hour": round(state.speech_seconds / max(state.step_seconds, 1e-9), 1),
        "git_commit": git_commit(),
        "torch": torch.__version__,
    }


def git_commit() -> str:
    """Return the commit of the source tree, or 'unknown'."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
