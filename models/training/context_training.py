"""Second stage: the context models, trained on what the finished graph codes.

Two rounds for each kind of frames: the coefficients depend on the rate control, which depends on
the context model. The first round is short and starts from the envelope-only Laplace model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH, MAGNITUDE_BASE, SAMPLE_RATE, CodecConfig
from codec.model import FIELDS
from models.codec_net import CodecNet
from models.context import ContextModel
from models.dsp import band_of_coefficient
from models.runtime import Tensors, Weights
from models.training.collect import collect
from models.training.config import TrainConfig
from models.training.data import CropSampler
from models.training.export import SideStatistics, build_tensors, import_context
from models.training.sampling import frame_bytes

# Share of minutes and steps in each round.
ROUNDS = (0.25, 1.0)
PIECE_SECONDS = 6.0
BATCH_SIZE, LEARNING_RATE, LOGITS_FACTOR = 16384, 4e-3, 4.0
# Tensors that the entropy coder has for itself: kept where it is not trained again.
ENTROPY_TENSORS = tuple(
    field.name for field in FIELDS
    if field.cdf or (field.own and field.name.startswith("context."))
)  # fmt: skip


@dataclass
class ContextData:
    """Features and magnitudes of coded coefficients, as the encoder saw them.

    Attributes
    ----------
    features : int16 array, shape [M, features]
    block : uint8 array, shape [M]    kinds of block, above those of the last frame
    band : uint8 array, shape [M]
    symbol : uint8 array, shape [M]   magnitude symbols
    side : SideStatistics             of the same frames
    """

    features: np.ndarray
    block: np.ndarray
    band: np.ndarray
    symbol: np.ndarray
    side: SideStatistics


def train_context(
    model: ContextModel, data: ContextData, steps: int, seed: int, quiet: bool = False
) -> float:
    """Fit network and tables by minimising the bits; returns the last mean bits a coefficient."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.from_numpy(data.features)
    block, band = torch.from_numpy(data.block), torch.from_numpy(data.band)
    symbol = torch.from_numpy(data.symbol)
    network = [p for n, p in model.named_parameters() if n != "logits"]
    rates = [LEARNING_RATE, LOGITS_FACTOR * LEARNING_RATE]
    optimizer = torch.optim.Adam([{"params": network}, {"params": [model.logits]}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 1))
    smooth = math.nan
    bar = tqdm(range(steps), disable=quiet, unit="step", desc="context")
    for _ in bar:
        pick = torch.randint(len(features), (BATCH_SIZE,), generator=generator)
        bits = model(
            features[pick].float(), block[pick].long(), band[pick].long(), symbol[pick].long()
        ).mean()
        optimizer.zero_grad(set_to_none=True)
        bits.backward()
        optimizer.step()
        schedule.step()
        value = float(bits.detach())
        smooth = value if math.isnan(smooth) else 0.99 * smooth + 0.01 * value
        bar.set_postfix(bits_per_coefficient=f"{smooth:.4f}", refresh=False)
    return smooth


def collect_context_data(
    codec: CodecConfig,
    tensors: Tensors,
    sampler: CropSampler,
    minutes: float,
    number: int,
    intra: bool,
    quiet: bool,
) -> ContextData:
    """Code random pieces of the training data at random rates; ``number`` is that of the round."""
    length = min(int(PIECE_SECONDS * SAMPLE_RATE), len(sampler.samples))
    pieces = CropSampler([sampler.samples], length, sampler.seed, augment=True)
    count = max(int(minutes * 60 / PIECE_SECONDS), 1)
    rng = np.random.default_rng([sampler.seed, 7, number])
    parts = []
    for i in tqdm(range(count), disable=quiet, unit="piece", desc="collect"):
        rate = 8.0 * 4.0 ** rng.random()
        piece = pieces.batch((1 << 41) + number * (1 << 20) + i, 1)[0].numpy()
        parts.append(_collect_piece(codec, tensors, piece, rate, intra))
    features, symbols, kinds, *side = map(np.concatenate, zip(*parts, strict=True))
    frames = len(kinds)
    band = np.tile(band_of_coefficient().numpy(), BLOCKS_PER_FRAME * frames)
    block = (kinds[:, None] + np.arange(BLOCKS_PER_FRAME)).repeat(HOP_LENGTH)
    return ContextData(
        features,
        block.astype(np.uint8),
        band.astype(np.uint8),
        symbols.astype(np.uint8),
        SideStatistics(kinds, *side),
    )


def _collect_piece(
    config: CodecConfig, tensors: Tensors, piece: np.ndarray, rate_kbps: float, intra: bool
) -> tuple[np.ndarray, ...]:
    """Return features and symbols of a piece's frames, then ``SideStatistics``."""
    stages = config.num_stages
    if intra:
        stages = config.intra_stages(stages)
    got = collect(tensors, config, piece, frame_bytes(rate_kbps), stages, intra)
    # The first frame has no past: predicted frames always have one.
    magnitude = np.abs(got.levels[1:]).ravel()
    return (
        got.features[1:].reshape(-1, got.features.shape[-1]),
        np.searchsorted(MAGNITUDE_BASE, magnitude, side="right") - 1,
        got.kinds[1:],
        got.deltas[1:],
        got.level_deltas[1:],
        got.indices[1:],
        np.full(len(got.indices) - 1, stages),
        got.detail_indices[1:],
        got.detail_stages[1:],
    )


def fit_context(
    config: TrainConfig, net: CodecNet, sampler: CropSampler, intra: bool, quiet: bool
) -> tuple[Tensors, float]:
    """Train the context model of one kind of frames; returns tensors and bits per coefficient."""
    torch.manual_seed(config.seed)
    context = ContextModel(net.config)
    tensors = build_tensors(net, context, intra=intra)
    bits = math.nan
    for number, share in enumerate(ROUNDS):
        minutes = config.context_minutes * share
        data = collect_context_data(net.config, tensors, sampler, minutes, number, intra, quiet)
        steps = max(int(config.context_steps * share), 1)
        bits = train_context(context, data, steps, config.seed + number, quiet=quiet)
        tensors = build_tensors(net, context, data.side, intra)
    return tensors, bits


def keep_context(net: CodecNet, weights: Weights, intra: bool) -> Tensors:
    """Return the tensors of a network, with the entropy coder's taken from weights."""
    tensors = build_tensors(net, import_context(weights, intra), intra=intra)
    old = weights.of_kind(intra)
    return tensors | {name: old[name] for name in ENTROPY_TENSORS}
