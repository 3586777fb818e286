"""From trained floats to what is shipped: integer tables, half-precision networks, and the card.

Everything that the range decoder needs becomes an integer here, once, and is stored as such;
:func:`load_net` and :func:`import_context` go the other way, so that training can start from
shipped weights. Both ways go through :func:`shared_parameters`, :func:`envelope_parameters`,
:func:`context_parameters`: which parameter is which table.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from codec.config import HOP_LENGTH, CodecConfig
from models.codec_net import CodecNet
from models.context import ContextModel
from models.rate_model import laplace_code_lengths
from models.runtime import (
    ACCUMULATOR_LIMIT,
    COST_ONE,
    DERIVED_TABLES,
    FEATURE_LIMIT,
    HIDDEN_LIMIT,
    INTRA_PREFIX,
    INTRA_TABLES,
    NUM_STEP_CONTEXTS,
    TABLE_PREFIX,
    TOTAL,
    Tables,
    Weights,
    code_lengths,
    frequency_costs,
    load_weights,
    step_context,
)

# Fractional bits of the tables that are parameters.
Q_BITS = {
    "codebooks": 8, "predictor": 12, "bias": 8, "initial": 8,
    "allocation_w1": 12, "allocation_b1": 22, "allocation_w2": 12, "allocation_b2": 22,
    "allocation_w3": 12, "allocation_b3": 22, "allocation_rate": 8, "scale_offset": 8,
    "context_w1": 10, "context_w2": 10, "context_b2": 18, "context_w3": 10, "context_b3": 18,
    "context_band": 16,
}  # fmt: skip
INT16_TABLES = ("codebooks",)
# What of the network is stored as it is, in half precision.
FLOAT_PARTS = ("analysis", "enhancer")


class SideStatistics(NamedTuple):
    """What frames spent beside their coefficients, from which their tables are counted.

    Attributes
    ----------
    deltas : int64 array, shape [n, 2]    step delta of the frame before, and of the frame
    indices : int64 array, shape [n, 8]   envelope indices
    num_stages : int64 array, shape [n]   how many of them are in use
    """

    deltas: np.ndarray
    indices: np.ndarray
    num_stages: np.ndarray


NO_STATISTICS = SideStatistics(
    np.zeros((0, 2), np.int64), np.zeros((0, 8), np.int64), np.zeros(0, np.int64)
)

# --- which parameter is which table ---------------------------------------------------------------


def _dense(layer: nn.Module, prefix: str, number: int) -> dict[str, Tensor]:
    assert isinstance(layer, nn.Linear)
    tensors = {f"{prefix}_w{number}": layer.weight.T}
    if layer.bias is not None:
        tensors[f"{prefix}_b{number}"] = layer.bias
    return tensors


def shared_parameters(net: CodecNet) -> dict[str, Tensor]:
    """Return the parameters that predicted and intra frames share, by table, as stored."""
    network = net.allocation.network
    return {
        **_dense(network[0], "allocation", 1),
        **_dense(network[2], "allocation", 2),
        **_dense(network[4], "allocation", 3),
        "allocation_rate": net.allocation.rate_offsets,
        "scale_offset": net.scale_offset,
    }


def envelope_parameters(net: CodecNet, intra: bool) -> dict[str, Tensor]:
    """Return the parameters of one envelope quantizer, by table."""
    msvq = net.intra_msvq if intra else net.msvq
    names = ("codebooks", "predictor", "bias", "initial")
    return {name: getattr(msvq, name) for name in names}


def context_parameters(context: ContextModel) -> dict[str, Tensor]:
    """Return the parameters of a context model's network, by table."""
    return {
        **_dense(context.first, "context", 1),
        **_dense(context.second, "context", 2),
        **_dense(context.third, "context", 3),
        "context_band": context.band_bias,
    }


def _to_integers(name: str, parameter: Tensor) -> np.ndarray:
    info = np.iinfo(np.int16 if name in INT16_TABLES else np.int32)
    values = np.round(parameter.detach().cpu().double().numpy() * (1 << Q_BITS[name]))
    return np.ascontiguousarray(np.clip(values, info.min, info.max).astype(info.dtype))


@torch.no_grad()
def _from_integers(parameters: dict[str, Tensor], tables: Tables) -> None:
    """Overwrite parameters by what tables hold of them."""
    for name, parameter in parameters.items():
        value = torch.from_numpy(getattr(tables, name).astype(np.float64) / (1 << Q_BITS[name]))
        if parameter.shape != value.shape:
            raise ValueError(f"'{name}' of the weights does not fit this model")
        parameter.copy_(value)


# --- tables of probabilities and functions --------------------------------------------------------


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
    """Return bits (1/256) of a Laplace coefficient by log2 of its scale in steps, 16 per octave.

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
    deltas : int array, shape [n, 2]   (delta of the frame before, delta)

    Returns
    -------
    int32 array, shape [contexts, 2 * max_delta + 2]
    """
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


def index_cdf(statistics: SideStatistics, config: CodecConfig) -> np.ndarray:
    """Return tables of the envelope's indices, one per stage, int32 [S, K + 1]."""
    counts = np.stack(
        [
            np.bincount(
                statistics.indices[statistics.num_stages > s, s], minlength=config.codebook_size
            )
            for s in range(config.num_stages)
        ]
    )
    # Half a count for what was never seen: no index is impossible.
    return quantize_cdf(counts + 0.5 + 0.02 * counts.mean(-1, keepdims=True))


def constant_tables(net: CodecNet) -> dict[str, np.ndarray]:
    """Return the tables that depend on the config alone."""
    config = net.config
    weights = net.interpolation.cpu().double().numpy()
    interpolation = np.zeros((HOP_LENGTH, 2), np.int32)
    for k in range(HOP_LENGTH):
        band = min(int(np.flatnonzero(weights[k])[0]), config.num_bands - 2)
        interpolation[k] = band, round(weights[k, band + 1] * 256)
    bits = np.arange(2049, dtype=np.float64)
    compress = 64 * np.log2(1 + np.arange(2048) / 8)
    exp2 = 2.0 ** (np.arange(4096) / 256 - 8 + 10)
    return {
        "band_edges": np.array(config.band_edges, np.int32),
        "interpolation": interpolation,
        "log2_bits": np.round(1024 * np.log2(np.maximum(bits, 1))).astype(np.int32),
        "expected_bits": laplace_expected_bits(config.rounding),
        "exp2_table": np.round(exp2).astype(np.int32),
        "compress_table": np.round(compress).astype(np.int32),
        "frequency_cost": frequency_costs(),
    }


# --- export ---------------------------------------------------------------------------------------


def build_tables(
    net: CodecNet,
    context: ContextModel,
    statistics: SideStatistics = NO_STATISTICS,
    intra: bool = False,
) -> Tables:
    """Quantize everything on the entropy path to integers.

    ``intra``: the tables of intra frames; ``context`` and ``statistics`` are theirs, too.

    Raises
    ------
    ValueError   a layer could overflow its accumulator
    """
    parameters = {
        **shared_parameters(net),
        **envelope_parameters(net, intra),
        **context_parameters(context),
    }
    p = torch.softmax(context.logits.detach().double().cpu(), -1).flatten(0, 1).numpy()
    index_table = index_cdf(statistics, net.config)
    tables = Tables(
        **{name: _to_integers(name, value) for name, value in parameters.items()},
        **constant_tables(net),
        index_cdf=index_table,
        step_cdf=step_cdf(statistics.deltas, net.config.max_step_delta),
        cdf=quantize_cdf(p),
        index_cost=code_lengths(index_table),
    )
    check_accumulators(tables)
    return tables


def check_accumulators(tables: Tables) -> None:
    """Raise ``ValueError`` if the context model could overflow its 32-bit accumulators."""
    first = np.abs(tables.context_w1).sum(0) * FEATURE_LIMIT + np.abs(tables.context_band).max()
    second = np.abs(tables.context_w2).sum(0) * HIDDEN_LIMIT + np.abs(tables.context_b2)
    if max(first.max(), second.max()) >= ACCUMULATOR_LIMIT:
        raise ValueError("the context model's weights are too large for 32-bit accumulators")


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
    for part in FLOAT_PARTS:
        for name, value in getattr(net, part).state_dict().items():
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


# --- import ---------------------------------------------------------------------------------------


def load_net(net: CodecNet, weights: Weights) -> None:
    """Copy shipped weights into a float graph, to fine-tune it.

    Parts of the enhancer that the weights do not have keep their initial values.

    Raises
    ------
    ValueError   a tensor has another shape
    """
    _from_integers(shared_parameters(net), weights.tables)
    _from_integers(envelope_parameters(net, False), weights.tables)
    _from_integers(envelope_parameters(net, True), weights.intra)
    state = net.state_dict()
    tensors = {
        name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.networks.items()
    }
    for part in ("weight", "bias"):
        # Weights without concealment start it from what they do with received frames.
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
    tables = weights.intra if intra else weights.tables
    _from_integers(context_parameters(model), tables)
    with torch.no_grad():
        p = torch.from_numpy(np.diff(tables.cdf, axis=-1) / TOTAL).float()
        model.logits.copy_(torch.log(p).view_as(model.logits))
    return model
