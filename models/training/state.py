"""State of a run: network, weight average, optimizer; how it begins, is saved and comes back."""

from __future__ import annotations

import copy
import errno
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from codec.config import CodecConfig
from models.codec_net import CodecNet, quantize_level
from models.detail import with_last
from models.training.config import PARTS, TrainConfig
from models.training.data import CropSampler
from models.training.distributed import ALONE, ProcessGroup
from models.training.sampling import num_frames

# Parts of the enhancer that only matter where frames are lost.
CONCEALMENT = ("loss_inputs.", "lost_outputs.")
ADAM_BETAS = (0.9, 0.98)
# Crops from which predictor and codebooks start; from which those of the detail are fitted again.
FIRST_CROPS, DETAIL_CROPS = 240, 960
# Quantizers of details, and of the envelopes that they refine.
ENVELOPE_OF = {"detail": "msvq", "intra_detail": "intra_msvq"}


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


# Options of a run that goes on: another value would make another run of it.
SAME = ("estimator", "freeze", "init_from", "seed", "batch_size", "crop_seconds", "coded")
COUNTERS = ("step", "seconds", "step_seconds", "speech_seconds", "history")


def check_part(part: str) -> None:
    """Raise a `ValueError` unless it is one of ``PARTS``."""
    if part not in PARTS:
        raise ValueError(f"cannot freeze '{part}': use {', '.join(PARTS)}")


def frozen_parts(config: TrainConfig) -> list[str]:
    """Return the parts that are not trained.

    Raises
    ------
    ValueError   there is no such part, or no other
    """
    parts = [part for part in config.freeze.split(",") if part]
    for part in parts:
        check_part(part)
    if set(parts) == set(PARTS):
        raise ValueError("every part is frozen: nothing is left to train")
    return parts


def freeze_part(net: CodecNet, part: str) -> None:
    """Exclude one of ``PARTS`` from training.

    Raises
    ------
    ValueError   there is no such part
    """
    check_part(part)
    if part in ("enhancer", "concealment"):
        for name, parameter in net.enhancer.named_parameters():
            if name.startswith(CONCEALMENT) == (part == "concealment"):
                parameter.requires_grad_(False)
    else:
        getattr(net, part).requires_grad_(False)
    if part == "allocation":  # the other half of what sets the steps
        net.scale_offset.requires_grad_(False)


def new_state(config: TrainConfig, codec: CodecConfig) -> TrainState:
    """Build networks and optimizer from the seed.

    Raises
    ------
    ValueError   there is no such part to freeze, or no other
    """
    torch.manual_seed(config.seed)
    net = CodecNet(codec, config.estimator).to(config.device)
    average = copy.deepcopy(net).requires_grad_(False)
    for part in frozen_parts(config):
        freeze_part(net, part)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=config.learning_rate, betas=ADAM_BETAS)
    return TrainState(net, average, optimizer)


def draw_crops(net: CodecNet, sampler: CropSampler, crops: int) -> Iterator[Tensor]:
    """Yield crops that no step trains on, in batches of 8."""
    for i in range(crops // 8):
        yield sampler.batch((1 << 40) + i, 8).to(net.scale_offset.device)


@torch.no_grad()
def initialise_msvq(net: CodecNet, sampler: CropSampler, crops: int = FIRST_CROPS) -> None:
    """Fit predictors and codebooks to envelopes and details of some crops (before step 0)."""
    waveform = torch.cat(list(draw_crops(net, sampler, crops)))
    _, envelope = net.analyse(waveform, num_frames(sampler.crop_samples))
    shape = envelope - quantize_level(envelope)
    net.msvq.initialise(shape)
    net.intra_msvq.initialise(shape)
    fit_detail(net, sampler, crops)


@torch.no_grad()
def fit_detail(
    net: CodecNet, sampler: CropSampler, crops: int, parts: Collection[str] = tuple(ENVELOPE_OF)
) -> None:
    """Fit predictors and codebooks of details to envelopes as they are quantized.

    Parameters
    ----------
    crops : int     a multiple of 8
    parts : names   of ``ENVELOPE_OF``
    """
    examples: dict[str, tuple[list[Tensor], list[Tensor]]] = {part: ([], []) for part in parts}
    for waveform in draw_crops(net, sampler, crops):
        _, envelope = net.analyse(waveform, num_frames(waveform.shape[1]))
        level = quantize_level(envelope)
        stages = torch.full((len(envelope),), net.config.num_stages, device=level.device)
        for part, (wanted, shapes) in examples.items():
            msvq = getattr(net, ENVELOPE_OF[part])
            coded = msvq.decode(*msvq.search(envelope - level, stages), stages)
            # Not of the envelopes as they are: detail mends the errors of their quantizer as well.
            wanted.append(getattr(net, part).find(waveform, coded + level))
            shapes.append(with_last(coded, net.msvq.initial))
    for part, (wanted, shapes) in examples.items():
        getattr(net, part).initialise_from(torch.cat(wanted), torch.cat(shapes))


@torch.no_grad()
def refit_detail(
    config: TrainConfig,
    state: TrainState,
    sampler: CropSampler,
    group: ProcessGroup = ALONE,
    crops: int = DETAIL_CROPS,
) -> None:
    """Fit the detail that is trained once more, to envelopes whose quantizer is now fixed.

    Codebooks of detail that gradients train end .15 dB (of intra frames .4 dB) above k-means.
    """
    net = state.net
    parts = [part for part in ENVELOPE_OF if getattr(net, part).codebooks.requires_grad]
    if parts and group.main:
        torch.manual_seed(config.seed + 1)
        fit_detail(net, sampler, crops, parts)
    for part in parts:
        group.broadcast_(getattr(net, part).parameters())
        getattr(state.average, part).load_state_dict(getattr(net, part).state_dict())


@torch.no_grad()
def update_average(state: TrainState, decay: float) -> None:
    """Move the weight average towards the network; buffers are copied.

    By hand and not by ``torch.optim.swa_utils``, whose decay is constant: a young average must not
    remember the initial weights.
    """
    decay = min(decay, (1 + state.step) / (10 + state.step))
    for slow, fast in zip(state.average.parameters(), state.net.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for old, new in zip(state.average.buffers(), state.net.buffers(), strict=True):
        old.copy_(new)


def save_checkpoint(path: Path, config: TrainConfig, state: TrainState) -> None:
    """Write a checkpoint atomically.

    Raises
    ------
    OSError   it cannot be written; the former one stays
    """
    temporary = path.with_suffix(".tmp")
    content = {
        "config": asdict(config),
        "codec": state.net.config.to_dict(),
        "net": state.net.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    try:
        torch.save(content | {name: getattr(state, name) for name in COUNTERS}, temporary)
        temporary.replace(path)
    except RuntimeError as error:  # a full disk, in torch's words
        temporary.unlink(missing_ok=True)
        raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from error
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path, config: TrainConfig) -> TrainState:
    """Read a checkpoint of :func:`save_checkpoint`.

    Raises
    ------
    ValueError   no checkpoint there, a damaged one, or one of another model or other options
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint '{path}' to resume from: start without --resume")
    try:
        saved = torch.load(path, map_location=config.device, weights_only=True)
        former = saved["config"]
    except (RuntimeError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"'{path}' is damaged: begin again in another --out") from error
    for name in SAME:
        before, now = former.get(name), getattr(config, name)
        if name == "init_from":  # it may lie elsewhere now
            before, now = (value and Path(value).name for value in (before, now))
        if name in former and before != now:
            option = name.replace("_", "-")
            raise ValueError(f"the checkpoint was trained with --{option} {before}: give the same")
    state = new_state(config, CodecConfig.from_dict(saved["codec"]))
    try:
        for part in ("net", "average", "optimizer"):
            getattr(state, part).load_state_dict(saved[part])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"'{path}' is of another version: begin again in another --out") from error
    for name in COUNTERS:
        # Checkpoints of older versions have no throughput.
        setattr(state, name, saved.get(name, getattr(state, name)))
    return state
