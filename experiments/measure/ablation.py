"""Measure what each part of the codec is worth: switch it off, score what is left.

    python experiments/ablation.py DATA_DIR [--train TRAIN_DIR] [--steps 300] [--json OUT]

Parts that need no training are replaced in the shipped weights: the context model by the
envelope-only Laplace tables, the enhancer by plain noise filling, the number of envelope stages.
With ``--train`` comes what needs some steps to adapt: the learned step allocation by its fixed rule
(``0.2 * envelope``), with the enhancer retrained. Every row is the real codec: bytes exactly as at
that rate, integers decoded, PESQ and pSNR of what comes out.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codec import Codec
from codec.bitstream import cbr_packet_sizes, num_packets
from codec.decoder import decode_integers, synthesise
from codec.encoder import default_stages, encode_waveform
from codec.io.audio import list_audio, read_audio
from codec.io.resample import to_codec_rate
from evaluation.metrics import MetricError, pesq_wb, psnr
from models.context import ContextModel
from models.dsp import NUM_COMB_BANDS
from models.enhancer import Enhancer
from models.training.export import build_tables, import_context, import_net

RATES = (8.0, 13.2, 24.4, 32.0)


class PlainFilling(nn.Module):
    """Stand in for the enhancer: bins as they are, noise of the envelope's level between them.

    Noise is 0.35 of the envelope where the step is not far above it: the best constant on the
    validation clips.
    """

    def __init__(self, enhancer: Enhancer) -> None:
        super().__init__()
        self.interpolation = enhancer.interpolation

    def forward(
        self,
        bins: Tensor,
        envelope: Tensor,
        log_step: Tensor,
        log_bits: Tensor,
        noise: Tensor,
        lag: Tensor,
        periodicity: Tensor,
        state: object = None,
    ) -> tuple[Tensor, Tensor, object]:
        """Return bins with noise where they are 0, no comb; arguments as ``Enhancer.forward``."""
        step = torch.exp2(log_step @ self.interpolation.T)[:, :, None]
        level = torch.exp2(envelope @ self.interpolation.T)[:, :, None]
        level = torch.minimum(0.35 * level, 0.3 * step)
        comb = bins.new_zeros(*lag.shape, NUM_COMB_BANDS)
        return torch.where(bins == 0, level * noise, bins), comb, state


def score(
    codec: Codec, clips: list[np.ndarray], rate: float, stages: int | None = None
) -> tuple[float, float]:
    """Return mean PESQ and pSNR of the coded clips."""
    stages = stages or min(default_stages(round(rate * 1000)), codec.config.num_stages)
    values = []
    for clip in clips:
        sizes = cbr_packet_sizes(round(rate * 1000), num_packets(len(clip)))
        tables, config = codec.weights.tables, codec.config
        packets, _ = encode_waveform(tables, config, codec.analysis, clip, sizes, stages)
        integers = decode_integers(tables, config, packets, stages)
        decoded = synthesise(codec.enhancer, config, integers, len(clip))
        try:
            values.append((pesq_wb(clip, decoded), psnr(clip, decoded)))
        except MetricError:
            continue
    pesq, quality = np.mean(values, axis=0)
    return float(pesq), float(quality)


def without_context(codec: Codec) -> Codec:
    """Return the codec with the tables that its context model starts from: Laplace, by envelope."""
    other = copy.copy(codec)
    other.weights = copy.copy(codec.weights)
    t = codec.weights.tables
    nothing = np.zeros((0, 8), np.int64)
    plain = build_tables(
        import_net(codec.weights), ContextModel(codec.config), nothing[:, :2], nothing,
        nothing[:, 0],
    )  # fmt: skip
    other.weights.tables = plain._replace(
        index_cdf=t.index_cdf, index_cost=t.index_cost, step_cdf=t.step_cdf
    )
    return other


def without_enhancer(codec: Codec) -> Codec:
    """Return the codec with plain noise filling."""
    other = copy.copy(codec)
    other.enhancer = PlainFilling(codec.enhancer)  # type: ignore[assignment]
    return other


def without_allocation(codec: Codec, train_dir: Path, steps: int) -> Codec:
    """Return the codec with steps that follow 0.2 of the envelope, its enhancer adapted."""
    from models.training.data import CropSampler, load_directory
    from models.training.losses import CodecLoss
    from models.training.config import TrainConfig
    from models.training.state import TrainState
    from models.training.step import train_step

    net = import_net(codec.weights)
    with torch.no_grad():
        net.allocation.network[4].weight.zero_()
        net.allocation.network[4].bias.zero_()
    for part in (net.allocation, net.analysis, net.msvq):
        part.requires_grad_(False)
    config = TrainConfig(str(train_dir), "", steps=steps, decay_fraction=1.0, warmup_steps=20)
    crop = (2 * 100 - 1) * net.config.hop_length
    sampler = CropSampler(load_directory(train_dir), crop, config.seed)
    average = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    state = TrainState(net, average, optimizer)
    loss = CodecLoss(config.pesq_weight, config.error_weight, config.spectral_weight)
    for _ in range(steps):
        train_step(state, config, loss, sampler)
    other = copy.copy(codec)
    other.weights = copy.copy(codec.weights)
    nothing = np.zeros((0, 8), np.int64)
    tables = build_tables(
        net, import_context(codec.weights), nothing[:, :2], nothing, nothing[:, 0]
    )
    t = codec.weights.tables
    other.weights.tables = tables._replace(
        index_cdf=t.index_cdf, index_cost=t.index_cost, step_cdf=t.step_cdf
    )
    other.enhancer = state.average.enhancer.eval()
    return other


def main() -> None:
    """Print one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--train", type=Path, help="recordings to adapt the enhancer on")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--max-clips", type=int, default=10)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    codec = Codec.load(options.weights)
    clips = []
    for path in list_audio(options.data_dir)[: options.max_clips]:
        waveform, rate, _ = read_audio(path)
        clips.append(to_codec_rate(waveform, rate))
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
