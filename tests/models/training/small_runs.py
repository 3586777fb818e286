"""A codec so small, and runs so short, that training them takes a second."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import soundfile
from conftest import synthetic_speech

from codec.config import CodecConfig
from models.training import trainer
from models.training.config import TrainConfig
from models.training.data import CropSampler, load_directory
from models.training.sampling import frames_per_crop, num_samples
from models.training.state import TrainState, initialise_msvq, new_state, refit_detail

TINY = CodecConfig(num_stages=3, codebook_bits=6, enhancer_hidden=16, allocation_hidden=16)
# Sizes of the shipped weights, for runs that export: kernels are compiled for each set of sizes,
# and these are needed anyway.
FULL = CodecConfig()


def write_speech(directory: Path) -> Path:
    """Write two short recordings."""
    for seed in (1, 2):
        soundfile.write(directory / f"{seed}.wav", synthetic_speech(3.0, seed), 16000)
    return directory


def make_config(data_dir: Path, out_dir: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        data_dir=str(data_dir), out_dir=str(out_dir), steps=8, batch_size=2, crop_seconds=0.4,
        warmup_steps=4, replace_every=3, context_steps=4, context_minutes=0.1, num_threads=1,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def start_fast(patch: pytest.MonkeyPatch) -> None:
    """Let runs initialise their codebooks from few crops."""
    patch.setattr(trainer, "initialise_msvq", partial(initialise_msvq, crops=32))
    patch.setattr(trainer, "refit_detail", partial(refit_detail, crops=32))


def begin(config: TrainConfig, codec: CodecConfig = TINY) -> tuple[TrainState, CropSampler]:
    """Return what a run begins with, without a run directory."""
    recordings = load_directory(Path(config.data_dir))
    sampler = CropSampler(recordings, num_samples(frames_per_crop(config)), config.seed)
    state = new_state(config, codec)
    initialise_msvq(state.net, sampler, crops=16)
    state.average.load_state_dict(state.net.state_dict())
    return state, sampler
