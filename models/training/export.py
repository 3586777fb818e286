"""From trained floats to what is shipped: integers, half-precision networks, and the card.

Everything that the range decoder needs becomes an integer here, once, and is stored as such, as
``codec.model.FIELDS`` says; :func:`load_net` and :func:`import_context` go the other way, so that
training can start from shipped weights. Both ways go through :func:`net_parameters` and
:func:`context_parameters`: which parameter is which tensor.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from torch import Tensor, nn

from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_BITS,
    HOP_LENGTH,
    MAX_FRAME_BITS,
    MAX_LEVEL_DELTA,
    MAX_STEP_DELTA,
    NUM_BANDS,
    NUM_BLOCK_KINDS,
    NUM_DETAIL_STAGES,
    NUM_LEVEL_CONTEXTS,
    NUM_STEP_CONTEXTS,
    CodecConfig,
)
from codec.model import FIELDS, TOTAL
from models.codec_net import CodecNet
from models.context import ContextModel
from models.rate_model import expected_bits
from models.runtime import (
    Tensors,
    Weights,
    file_tensors,
    level_context,
    load_weights,
    step_context,
)

FIELD = {field.name: field for field in FIELDS}


class SideStatistics(NamedTuple):
    """What frames spent beside their coefficients, from which their tables are counted.

    Attributes
    ----------
    kinds : int64 array, shape [n]        of the first block, above those of the last frame
    deltas : int64 array, shape [n, 2]    step delta of the frame before, and of the frame
    level_deltas : int64 array, shape [n, 2]   likewise, of the level
    indices : int64 array, shape [n, 8]   envelope indices
    num_stages : int64 array, shape [n]   how many of them are in use
    detail_indices, detail_stages : likewise, of the detail
    """

    kinds: np.ndarray
    deltas: np.ndarray
    level_deltas: np.ndarray
    indices: np.ndarray
    num_stages: np.ndarray
    detail_indices: np.ndarray
    detail_stages: np.ndarray


NO_STATISTICS = SideStatistics(
    np.zeros(0, np.int64),
    np.zeros((0, 2), np.int64),
    np.zeros((0, 2), np.int64),
    *(2 * (np.zeros((0, 8), np.int64), np.zeros(0, np.int64))),
)

# --- which parameter is which tensor --------------------------------------------------------------


def _dense(layer: nn.Module, stage: str, number: int) -> dict[str, Tensor]:
    assert isinstance(layer, nn.Linear)
    tensors = {f"{stage}.w{number}": layer.weight.T}
    if layer.bias is not None:
        tensors[f"{stage}.b{number}"] = layer.bias
    return tensors


def net_parameters(net: CodecNet, intra: bool) -> dict[str, Tensor]:
    """Return the parameters of the graph by field; ``intra``: with the quantizer of such frames."""
    msvq, layers = net.intra_msvq if intra else net.msvq, net.allocation.network
    detail = net.intra_detail if intra else net.detail
    return {
        **{
            f"envelope.{n}": getattr(msvq, n) for n in ("codebooks", "predictor", "bias", "initial")
        },
        **{f"detail.{n}": getattr(detail, n) for n in ("codebooks", "predictor", "bias")},
        **_dense(layers[0], "allocation", 1),
        **_dense(layers[2], "allocation", 2),
        **_dense(layers[4], "allocation", 3),
        "allocation.rate_offsets": net.allocation.rate_offsets,
        "allocation.scale_offset": net.scale_offset,
        **{f"analysis.{name}": value for name, value in net.analysis.named_parameters()},
        **{f"enhancer.{name}": value for name, value in net.enhancer.named_parameters()},
    }


def context_parameters(context: ContextModel) -> dict[str, Tensor]:
    """Return the parameters of a context model's network, by field."""
    return {
        **_dense(context.first, "context", 1),
        **_dense(context.second, "context", 2),
        **_dense(context.third, "context", 3),
        "context.band": context.band_bias,
    }


def stored(name: str, values: Tensor | np.ndarray) -> np.ndarray:
    """Return real values as the field stores them: integers with its fractional bits, or halves."""
    field = FIELD[name]
    real = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    if np.issubdtype(field.dtype, np.integer):
        info = np.iinfo(field.dtype)
        low, high = max(field.low, info.min), min(field.high, info.max)
        real = np.clip(np.round(real * (1 << field.q)), low, high)
    result: np.ndarray = np.ascontiguousarray(real.astype(field.dtype))
    return result


@torch.no_grad()
def restore(parameters: dict[str, Tensor], tensors: Tensors) -> None:
    """Overwrite parameters by what is stored of them.

    Raises
    ------
    ValueError   one has another shape
    """
    for name, parameter in parameters.items():
        if name not in tensors or parameter.shape != tensors[name].shape:
            raise ValueError(f"'{name}' of the weights does not fit this model")
        real = tensors[name].astype(np.float64) / (1 << FIELD[name].q)
        parameter.copy_(torch.from_numpy(real))


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


def delta_cdf(
    deltas: np.ndarray, largest: int, contexts: int, context: Callable[[int], int]
) -> np.ndarray:
    """Return tables of a delta given the last one.

    Parameters
    ----------
    deltas : int array, shape [n, 2]   (delta of the frame before, delta)
    largest : int                      largest |delta|
    contexts : int                     number of tables
    context : callable                 which of them follows a delta

    Returns
    -------
    int32 array, shape [contexts, 2 * largest + 2]
    """
    size = 2 * largest + 1
    positions = np.arange(size) - largest
    counts = np.zeros((contexts, size))
    for last, delta in deltas:
        counts[context(last), delta + largest] += 1
    # Smoothed with a narrow and a broad kernel: no delta is impossible.
    kernel = np.exp(-np.abs(positions) / 1.0)
    prior = 40 * np.exp(-np.abs(positions) / 8.0) / 16 + 0.02
    smooth = np.stack([np.convolve(c, kernel / kernel.sum(), "same") for c in counts])
    return quantize_cdf(smooth + prior)


def blocks_cdf(kinds: np.ndarray) -> np.ndarray:
    """Return tables of the block length given the last one, int32 [2, 3]."""
    last, now = kinds // NUM_BLOCK_KINDS, kinds % NUM_BLOCK_KINDS // BLOCKS_PER_FRAME
    counts = np.full((2, 2), 4.0)
    np.add.at(counts, (last, now), 1.0)
    return quantize_cdf(counts)


def index_cdf(
    indices: np.ndarray, num_stages: np.ndarray, stages: int, codewords: int
) -> np.ndarray:
    """Return tables of codewords' indices, one per stage, int32 [S, K + 1].

    Parameters
    ----------
    indices : int64 array, shape [n, >= S]
    num_stages : int64 array, shape [n]     how many of them are in use
    stages, codewords : int                 S, K
    """
    counts = np.stack(
        [np.bincount(indices[num_stages > s, s], minlength=codewords) for s in range(stages)]
    )
    # Half a count for what was never seen: no index is impossible.
    return quantize_cdf(counts + 0.5 + 0.02 * counts.mean(-1, keepdims=True))


def interpolation_table(net: CodecNet) -> np.ndarray:
    """Return (band, weight of the band above in 1/256) of each coefficient, [N, 2]."""
    weights = net.interpolation.cpu().double().numpy()
    table = np.zeros((HOP_LENGTH, 2), np.int32)
    for k in range(HOP_LENGTH):
        band = min(int(np.flatnonzero(weights[k])[0]), NUM_BANDS - 2)
        table[k] = band, round(weights[k, band + 1] * 256)
    return table


def constant_tensors(net: CodecNet) -> Tensors:
    """Return the tensors that are not trained: interpolation, and tables of functions."""
    bits = np.arange(MAX_FRAME_BITS + 1, dtype=np.float64)
    functions = {
        "allocation.log2_bits": np.log2(np.maximum(bits, 1)),
        "allocation.expected_bits": expected_bits(torch.zeros((), dtype=torch.float64)).numpy(),
        "context.exp2": np.exp2(np.arange(4096) / 256 - 8),
        "context.compress": np.log2(1 + np.arange(2048) / 8),
    }
    tensors = {name: stored(name, values) for name, values in functions.items()}
    return tensors | {"allocation.interpolation": interpolation_table(net)}


# --- export ---------------------------------------------------------------------------------------


def build_tensors(
    net: CodecNet,
    context: ContextModel,
    statistics: SideStatistics = NO_STATISTICS,
    intra: bool = False,
) -> Tensors:
    """Return all tensors of one kind of frames, as they are stored, by field.

    ``context`` and ``statistics`` are of that kind, too.
    """
    parameters = net_parameters(net, intra) | context_parameters(context)
    config, seen = net.config, statistics
    p = torch.softmax(context.logits.detach().double().cpu(), -1).numpy()
    return {
        **{name: stored(name, value) for name, value in parameters.items()},
        **constant_tensors(net),
        "envelope.index_cdf": index_cdf(
            seen.indices, seen.num_stages, config.num_stages, config.codebook_size
        ),
        "detail.index_cdf": index_cdf(
            seen.detail_indices, seen.detail_stages, NUM_DETAIL_STAGES, 1 << DETAIL_BITS
        ),
        "level.cdf": delta_cdf(
            statistics.level_deltas, MAX_LEVEL_DELTA, NUM_LEVEL_CONTEXTS, level_context
        ),
        "blocks.cdf": blocks_cdf(statistics.kinds),
        "step.cdf": delta_cdf(statistics.deltas, MAX_STEP_DELTA, NUM_STEP_CONTEXTS, step_context),
        "context.cdf": quantize_cdf(p),
    }


def export_weights(
    path: Path, config: CodecConfig, predicted: Tensors, intra: Tensors, card: dict[str, Any]
) -> Weights:
    """Write ``path`` (safetensors) and its card (``.json`` beside it), and load them again.

    The card's fields are kept as given, with config, fingerprint and SHA-256 added.

    Raises
    ------
    WeightsError   values that the runtime refuses, such as weights that overflow an accumulator;
                   there is no file then
    OSError        it cannot be written
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    # One metadata key only: several are stored in random order, which would change the fingerprint.
    metadata = {"config": json.dumps(config.to_dict())}
    try:
        save_file(file_tensors(predicted, intra), str(temporary), metadata=metadata)
        temporary.chmod(0o644)  # safetensors writes it for the owner only
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        full = {"fingerprint": digest[:8], "sha256": digest, **card, "config": config.to_dict()}
        load_weights(temporary)  # nothing is there that the runtime refuses
        path.with_suffix(".json").write_text(json.dumps(full, indent=2) + "\n")
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return load_weights(path)


# --- import ---------------------------------------------------------------------------------------


def load_net(net: CodecNet, weights: Weights) -> None:
    """Copy shipped weights into a float graph, to fine-tune it.

    Raises
    ------
    ValueError   a tensor is missing or has another shape
    """
    for intra in (False, True):
        restore(net_parameters(net, intra), weights.of_kind(intra))


def import_net(weights: Weights, estimator: str = "nsvq") -> CodecNet:
    """Rebuild the float graph from shipped weights."""
    net = CodecNet(CodecConfig.from_dict(weights.config.to_dict()), estimator)
    load_net(net, weights)
    return net


def import_context(weights: Weights, intra: bool = False) -> ContextModel:
    """Rebuild one of the two float context models from shipped weights."""
    model = ContextModel(weights.config)
    tensors = weights.of_kind(intra)
    restore(context_parameters(model), tensors)
    with torch.no_grad():
        p = torch.from_numpy(np.diff(tensors["context.cdf"], axis=-1) / TOTAL).float()
        model.logits.copy_(torch.log(p))
    return model
