"""Measure what each part of the codec is worth: switch it off, score what is left.

    python -m experiments.measure.ablation DATA_DIR [--train TRAIN_DIR] [--steps 300] [--json OUT]

Parts that need no training are replaced in the shipped weights: the context model by the
envelope-only Laplace tables, the enhancer by plain noise filling, the number of envelope stages.
With ``--train`` comes what needs some steps to adapt: the learned step allocation by its fixed rule
(``0.2 * envelope``), with the enhancer retrained. Every row is the real codec: bytes exactly as at
that rate, decoded again, PESQ and pSNR of what comes out.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from codec import Codec
from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH, NUM_BANDS, SAMPLE_RATE
from codec.model import FIELDS
from evaluation.metrics import MetricError, pesq_wb, psnr
from evaluation.scoring import read_reference
from experiments.audio import list_audio
from models.context import ContextModel
from models.runtime import Tensors, file_tensors
from models.training.config import TrainConfig
from models.training.context_training import ENTROPY_TENSORS
from models.training.data import CropSampler, load_directory
from models.training.export import build_tensors, import_context, import_net, net_parameters
from models.training.losses import CodecLoss
from models.training.sampling import num_samples
from models.training.state import ADAM_BETAS, TrainState
from models.training.step import train_step

RATES = (8.0, 13.2, 24.4, 32.0)
FRAMES = 100  # of a crop
# Amplitude of the noise over that of the envelope: the best constant on the validation clips.
PLAIN_NOISE = 0.5
NEVER = -16.0  # a gain whose sigmoid is nothing


def score(
    codec: Codec, clips: list[np.ndarray], rate: float, stages: int | None = None
) -> tuple[float, float]:
    """Return mean PESQ and pSNR of the coded clips."""
    values = []
    for clip in clips:
        header = codec.header(len(clip), SAMPLE_RATE, rate)
        header = replace(header, num_stages=stages or header.num_stages)
        decoded = codec.decode(codec.encode_codec_rate(clip, header))
        try:
            values.append((pesq_wb(clip, decoded), psnr(clip, decoded)))
        except MetricError:
            continue
    pesq, quality = np.mean(values, axis=0)
    return float(pesq), float(quality)


def changed(codec: Codec, change: Callable[[Tensors, bool], Tensors]) -> Codec:
    """Return the codec with other tensors; ``change`` returns those of one kind of frames."""
    weights = codec.weights
    predicted, intra = (
        weights.of_kind(kind) | change(weights.of_kind(kind), kind) for kind in (False, True)
    )
    return Codec(replace(weights, tensors=file_tensors(predicted, intra)))


def without_context(codec: Codec) -> Codec:
    """Return the codec with the tables that its context model starts from: Laplace, by envelope."""
    net, plain = import_net(codec.weights), ContextModel(codec.config)

    def change(_: Tensors, intra: bool) -> Tensors:
        tensors = build_tensors(net, plain, intra=intra)
        return {n: v for n, v in tensors.items() if n.startswith("context.")}

    return changed(codec, change)


def without_enhancer(codec: Codec) -> Codec:
    """Return the codec with plain noise filling: levels as they are, noise where they are 0."""

    def change(tensors: Tensors, _: bool) -> Tensors:
        zeros = {n: np.zeros_like(v) for n, v in tensors.items() if n.startswith("enhancer.")}
        # Gains and values of both blocks come first, then levels of the noise, then strengths.
        levels = 2 * BLOCKS_PER_FRAME * HOP_LENGTH
        strengths = levels + BLOCKS_PER_FRAME * NUM_BANDS
        for name in ("enhancer.outputs.bias", "enhancer.lost_outputs.bias"):
            zeros[name][levels:strengths] = 0.5 * (math.log(PLAIN_NOISE) + 0.7)  # Enhancer.forward
            zeros[name][strengths:] = NEVER
        zeros["enhancer.detail_outputs.bias"][:] = NEVER
        zeros["enhancer.comb_outputs.bias"][:] = NEVER
        return zeros

    return changed(codec, change)


def without_allocation(codec: Codec, train_dir: Path, steps: int) -> Codec:
    """Return the codec with steps that follow 0.2 of the envelope, its enhancer adapted."""
    net = import_net(codec.weights)
    with torch.no_grad():
        for name, parameter in net_parameters(net, False).items():
            if name in ("allocation.w3", "allocation.b3"):
                parameter.zero_()
    for part in (net.allocation, net.analysis, net.msvq, net.intra_msvq):
        part.requires_grad_(False)
    config = TrainConfig(str(train_dir), "", steps=steps, decay_fraction=1.0, warmup_steps=20)
    sampler = CropSampler(load_directory(train_dir), num_samples(FRAMES), config.seed)
    average = copy.deepcopy(net).requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    state = TrainState(net, average, torch.optim.Adam(trained, betas=ADAM_BETAS))
    loss = CodecLoss.from_config(config)
    for _ in range(steps):
        train_step(state, config, loss, sampler)

    def change(_: Tensors, intra: bool) -> Tensors:
        context = import_context(codec.weights, intra)
        tensors = build_tensors(state.average, context, intra=intra)
        return {f.name: tensors[f.name] for f in FIELDS if f.name not in ENTROPY_TENSORS}

    return changed(codec, change)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--train", type=Path, help="recordings to adapt the enhancer on")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--max-clips", type=int, default=10)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)

    codec = Codec.load(options.weights)
    clips = [read_reference(p) for p in list_audio(options.data_dir)[: options.max_clips]]
    if not clips:
        raise SystemExit(f"no recordings in '{options.data_dir}'")
    variants: dict[str, tuple[Callable[[], Codec], int | None]] = {
        "complete": (lambda: codec, None),
        "without context model": (lambda: without_context(codec), None),
        "without enhancer": (lambda: without_enhancer(codec), None),
        "2 envelope stages": (lambda: codec, 2),
        "3 envelope stages": (lambda: codec, 3),
        "4 envelope stages": (lambda: codec, 4),
    }
    if options.train:
        variants["without learned allocation"] = (
            lambda: without_allocation(codec, options.train, options.steps),
            None,
        )
    rows = []
    print(f"{'PESQ / pSNR (dB) at kbit/s':28}" + "".join(f"{r:>14g}" for r in RATES))
    for name, (make, stages) in variants.items():
        made = make()
        scores = [score(made, clips, rate, stages) for rate in RATES]
        rows.append({"variant": name, "rates_kbps": RATES, "pesq_psnr": scores})
        print(f"{name:28}" + "".join(f"   {p:.2f} / {q:4.1f}" for p, q in scores), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
