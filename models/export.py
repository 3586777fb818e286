"""From trained floats to what is shipped: integer tables, half-precision networks, and the card.

Everything that the range decoder needs becomes an integer here, once, and is stored as such;
``import_net`` goes the other way, so that training can start from shipped weights.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from codec.config import CodecConfig
from codec.packet import (
    ACCUMULATOR_LIMIT,
    COST_ONE,
    FEATURE_LIMIT,
    HIDDEN_LIMIT,
    NUM_STEP_CONTEXTS,
    TOTAL,
    Tables,
)
from codec.weights import (
    DERIVED_TABLES,
    INTRA_PREFIX,
    INTRA_TABLES,
    TABLE_PREFIX,
    Weights,
    code_lengths,
    frequency_costs,
    load_weights,
)
from models.codec_net import CodecNet, laplace_code_lengths
from models.context import ContextModel


def _fixed(x: torch.Tensor, bits: int, dtype: type = np.int32) -> np.ndarray:
    values = np.round(x.detach().cpu().double().numpy() * (1 << bits))
    info = np.iinfo(dtype)
    return np.ascontiguousarray(np.clip(values, info.min, info.max).astype(dtype))


def quantize_cdf(probabilities: np.ndarray) -> np.ndarray:
    """Return cumulative frequencies that sum to 2^15, every symbol at least 1.

    Parameters
    ----------
    probabilities : float array, shape [..., M]

    Returns
    -------
    int32 array, shape [..., M + 1]
    """
    p = probabilities / probabilities.sum(-1, keepdims=True)
    size = p.shape[-1]
    frequency = 1 + np.floor(p * (TOTAL - size)).astype(np.int64)
    # What rounding left over goes to the most probable symbol.
    top = frequency.argmax(-1)[..., None]
    missing = TOTAL - frequency.sum(-1, keepdims=True)
    np.put_along_axis(frequency, top, np.take_along_axis(frequency, top, -1) + missing, -1)
    cdf = np.zeros((*p.shape[:-1], size + 1), np.int32)
    cdf[..., 1:] = frequency.cumsum(-1)
    return cdf


def laplace_expected_bits(rounding: float) -> np.ndarray:
    """Return bits (1/256) of a Laplace bin by log2 of its scale in steps, 16 entries per octave.

    Entry 128 is scale 1; the table spans 2^-8 to 2^12.
    """
    log_scale = torch.arange(-128, 192, dtype=torch.float64) / 16
    zero, one, slope = laplace_code_lengths(log_scale, rounding)
    inverse = torch.exp2(-log_scale)
    p_zero = -torch.expm1(-(1 - rounding) * inverse)
    mean_further = 1 / torch.expm1(inverse)  # of |q| - 1, given |q| >= 1
    bits = p_zero * zero + (1 - p_zero) * (one + slope * mean_further)
    return np.round(bits.numpy() * COST_ONE).astype(np.int32)


def step_cdf(deltas: np.ndarray, max_delta: int) -> np.ndarray:
    """Return tables of the step delta given the last one.

    Parameters
    ----------
    deltas : int array, shape [n, 2]   (delta of the packet before, delta)

    Returns
    -------
    int32 array, shape [contexts, 2 * max_delta + 2]
    """
    from codec.packet import step_context

    size = 2 * max_delta + 1
    positions = np.arange(size) - max_delta
    counts = np.zeros((NUM_STEP_CONTEXTS, size))
    for last, delta in deltas:
        counts[step_context(last), delta + max_delta] += 1
    # Smoothed with a narrow and a broad kernel: no delta is impossible.
    kernel = np.exp(-np.abs(positions) / 1.0)
    prior = 40 * np.exp(-np.abs(positions) / 8.0) / 16 + 0.02
    smooth = np.stack([np.convolve(c, kernel / kernel.sum(), "same") for c in counts])
    return quantize_cdf(smooth + prior)


def index_cdf(indices: np.ndarray, num_stages: np.ndarray, config: CodecConfig) -> np.ndarray:
    """Return tables of the envelope's indices, one per stage.

    Parameters
    ----------
    indices : int array, shape [n, >= S]
    num_stages : int array, shape [n]      stages in use in each row

    Returns
    -------
    int32 array, shape [S, K + 1]
    """
    counts = np.stack(
        [
            np.bincount(indices[num_stages > s, s], minlength=config.codebook_size)
            for s in range(config.num_stages)
        ]
    )
    # Half a count for what was never seen: no index is impossible.
    return quantize_cdf(counts + 0.5 + 0.02 * counts.mean(-1, keepdims=True))


def build_tables(
    net: CodecNet,
    context: ContextModel,
    deltas: np.ndarray,
    indices: np.ndarray,
    num_stages: np.ndarray,
    intra: bool = False,
) -> Tables:
    """Quantize everything on the entropy path to integers (see ``codec.packet``).

    ``intra``: the tables of packets that need no other; ``context`` and the arrays are theirs, too.

    Raises
    ------
    ValueError   a layer could overflow its accumulator
    """
    config = net.config
    scale = config.log_scale
    msvq, allocation = net.intra_msvq if intra else net.msvq, net.allocation.network
    weights = net.interpolation.cpu().double().numpy()
    interpolation = np.zeros((config.hop_length, 2), np.int32)
    for k in range(config.hop_length):
        band = min(int(np.flatnonzero(weights[k])[0]), config.num_bands - 2)
        interpolation[k] = band, round(weights[k, band + 1] * 256)
    bits = np.arange(2049, dtype=np.float64)
    compress = 64 * np.log2(1 + np.arange(2048) / 8)
    exp2 = 2.0 ** (np.arange(4096) / 256 - 8 + 10)
    p = torch.softmax(context.logits.detach().double().cpu(), -1).flatten(0, 1).numpy()
    cdf = quantize_cdf(p)
    index_table = index_cdf(indices, num_stages, config)
    band_bias = context.band_bias
    tables = Tables(
        band_edges=np.array(config.band_edges, np.int32),
        codebooks=np.round(msvq.codebooks.detach().cpu().numpy() * scale).astype(np.int16),
        predictor=_fixed(msvq.predictor, 12),
        bias=_fixed(msvq.bias, 8),
        initial=_fixed(msvq.initial, 8),
        interpolation=interpolation,
        allocation_w1=_fixed(allocation[0].weight.T, 12),
        allocation_b1=_fixed(allocation[0].bias, 22),
        allocation_w2=_fixed(allocation[2].weight.T, 12),
        allocation_b2=_fixed(allocation[2].bias, 22),
        allocation_w3=_fixed(allocation[4].weight.T, 12),
        allocation_b3=_fixed(allocation[4].bias, 22),
        allocation_rate=_fixed(net.allocation.rate_offsets, 8),
        scale_offset=_fixed(net.scale_offset, 8),
        log2_bits=np.round(1024 * np.log2(np.maximum(bits, 1))).astype(np.int32),
        expected_bits=laplace_expected_bits(config.rounding),
        index_cdf=index_table,
        step_cdf=step_cdf(deltas, config.max_step_delta),
        exp2_table=np.round(exp2).astype(np.int32),
        compress_table=np.round(compress).astype(np.int32),
        context_w1=_fixed(context.first.weight.T, 10),
        context_w2=_fixed(context.second.weight.T, 10),
        context_b2=_fixed(context.second.bias, 18),
        context_w3=_fixed(context.third.weight.T, 10),
        context_b3=_fixed(context.third.bias, 18),
        context_band=_fixed(band_bias, 16),
        cdf=cdf,
        frequency_cost=frequency_costs(),
        index_cost=code_lengths(index_table),
    )
    first = np.abs(tables.context_w1).sum(0) * FEATURE_LIMIT + np.abs(tables.context_band).max()
    second = np.abs(tables.context_w2).sum(0) * HIDDEN_LIMIT + np.abs(tables.context_b2)
    if max(first.max(), second.max()) >= ACCUMULATOR_LIMIT:
        raise ValueError("the context model's weights are too large for 32-bit accumulators")
    return tables


def export_weights(
    path: Path, net: CodecNet, tables: Tables, intra: Tables, card: dict[str, Any]
) -> Weights:
    """Write ``path`` (safetensors) and its card (``.json`` beside it), and load them again.

    The card's fields are kept as given, with config, fingerprint and SHA-256 added.
    """
    tensors = {
        TABLE_PREFIX + name: value
        for name, value in tables._asdict().items()
        if name not in DERIVED_TABLES
    }
    tensors |= {INTRA_PREFIX + name: getattr(intra, name) for name in INTRA_TABLES}
    for part in ("analysis", "enhancer"):
        module = getattr(net, part)
        for name, value in module.state_dict().items():
            tensors[f"{part}.{name}"] = value.detach().cpu().half().numpy()
    config = json.dumps(net.config.to_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    # One metadata key only: several are stored in random order, which would change the fingerprint.
    save_file(tensors, str(temporary), metadata={"config": config})
    temporary.chmod(0o644)  # safetensors writes it for the owner only
    temporary.replace(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    full = {"fingerprint": digest[:8], "sha256": digest, **card, "config": net.config.to_dict()}
    path.with_suffix(".json").write_text(json.dumps(full, indent=2) + "\n")
    return load_weights(path)


def _real(x: np.ndarray, bits: int) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float64) / (1 << bits)).float()


def load_net(net: CodecNet, weights: Weights) -> None:
    """Copy shipped weights into a float graph, to fine-tune it.

    Parts of the enhancer that the weights do not have keep their initial values.

    Raises
    ------
    ValueError   a tensor has another shape
    """
    t = weights.tables
    layers = net.allocation.network
    tensors = {
        f"{part}.{name}": _real(getattr(tables, name), bits)
        for part, tables in (("msvq", t), ("intra_msvq", weights.intra))
        for name, bits in (("codebooks", 8), ("predictor", 12), ("bias", 8), ("initial", 8))
    } | {
        "scale_offset": _real(t.scale_offset, 8),
        "allocation.rate_offsets": _real(t.allocation_rate, 8),
    }
    dense = (
        (t.allocation_w1, t.allocation_b1),
        (t.allocation_w2, t.allocation_b2),
        (t.allocation_w3, t.allocation_b3),
    )
    assert len(layers) == 2 * len(dense) - 1
    for i, (weight, bias) in enumerate(dense):
        tensors[f"allocation.network.{2 * i}.weight"] = _real(weight, 12).T
        tensors[f"allocation.network.{2 * i}.bias"] = _real(bias, 22)
    for name, value in weights.networks.items():
        tensors[name] = torch.from_numpy(value.astype(np.float32))
    state = net.state_dict()
    for part in ("weight", "bias"):
        # Weights without concealment start it from what they do with received packets.
        tensors.setdefault(f"enhancer.lost_outputs.{part}", tensors[f"enhancer.outputs.{part}"])
    for name, value in tensors.items():
        if name not in state or state[name].shape != value.shape:
            raise ValueError(f"'{name}' of the weights does not fit this model")
        state[name] = value
    net.load_state_dict(state)


def import_net(weights: Weights, estimator: str = "nsvq") -> CodecNet:
    """Rebuild the float graph from shipped weights."""
    net = CodecNet(CodecConfig.from_dict(weights.config.to_dict()), estimator)
    load_net(net, weights)
    return net


def import_context(weights: Weights, intra: bool = False) -> ContextModel:
    """Rebuild one of the two float context models from shipped weights."""
    model = ContextModel(weights.config)
    t = weights.intra if intra else weights.tables

    with torch.no_grad():
        model.first.weight.copy_(_real(t.context_w1, 10).T)
        model.band_bias.copy_(_real(t.context_band, 16))
        model.second.weight.copy_(_real(t.context_w2, 10).T)
        model.second.bias.copy_(_real(t.context_b2, 18))
        model.third.weight.copy_(_real(t.context_w3, 10).T)
        model.third.bias.copy_(_real(t.context_b3, 18))
        p = torch.from_numpy(np.diff(t.cdf, axis=-1) / TOTAL).float()
        model.logits.copy_(torch.log(p).view_as(model.logits))
    return model
