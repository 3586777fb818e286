"""Trained weights: one safetensors file with a JSON card beside it, known by its fingerprint.

The file holds every tensor of ``codec.model.FIELDS`` by its name, and those that an intra frame has
for itself a second time under ``intra.``.

A weights file may come from anywhere, so all of it is checked before use: the config against what
the compiled loops are made for, every tensor's type, shape and values against its field, and the
integer networks against what keeps their sums inside their integers. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from codec.config import FINGERPRINT_BYTES, NUM_BANDS, CodecConfig
from codec.errors import WeightsError
from codec.model import (
    ACCUMULATOR_LIMIT,
    FEATURE_LIMIT,
    FIELDS,
    HIDDEN_LIMIT,
    TOTAL,
    Field,
    field_shape,
)

DEFAULT_WEIGHTS = Path(__file__).resolve().parent / "data" / "codec.safetensors"
INTRA_PREFIX = "intra."

# No file is read beyond this; the shipped weights take 6 MB.
MAX_WEIGHTS_BYTES = 256 << 20
MAX_CARD_BYTES = 1 << 20
_DTYPES = {"I16": np.int16, "U16": np.uint16, "I32": np.int32, "F16": np.float16}

# The largest networks are a few times as large as the shipped ones, so that a config alone cannot
# claim much memory.
_RANGES = {
    "num_stages": (1, 8), "codebook_bits": (1, 12), "table_rows": (2, 512),
    "analysis_hidden": (1, 1024), "allocation_hidden": (1, 1024), "context_hidden": (8, 512),
    "enhancer_hidden": (1, 1024), "local_channels": (1, 256),
}  # fmt: skip


@dataclass(eq=False)
class Weights:
    """Content of a weights file.

    Attributes
    ----------
    config : CodecConfig
    tensors : dict of arrays   by the names of ``FIELDS``, and ``intra.`` names
    fingerprint : bytes        first 4 bytes of the file's SHA-256
    card : dict                the JSON card, empty if there is none
    """

    config: CodecConfig
    tensors: dict[str, np.ndarray]
    fingerprint: bytes
    card: dict[str, Any]

    def of_kind(self, intra: bool) -> dict[str, np.ndarray]:
        """Return the tensors of one kind of frames by the names of ``FIELDS``."""
        names = {field.name: (INTRA_PREFIX if intra and field.own else "") for field in FIELDS}
        return {name: self.tensors[prefix + name] for name, prefix in names.items()}


# --- the file -------------------------------------------------------------------------------------


def _one_line(error: object) -> str:
    """Return an error's text on one line and not too long: it may quote the file."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _read_limited(path: Path, limit: int) -> bytes:
    """Return the bytes of a file; a few more than ``limit`` say that it is too large."""
    parts, size = [], 0
    with open(path, "rb") as file:
        # In pieces, since `read` takes the memory that it is asked for at once: one for a file,
        # several for a pipe or device, which has no size.
        piece = min(max(os.fstat(file.fileno()).st_size + 1, 1 << 20), limit + 1)
        while size <= limit and (part := file.read(piece)):
            parts.append(part)
            size += len(part)
    return b"".join(parts)


def _parse(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the config's values and all tensors of a safetensors file.

    Raises
    ------
    ValueError, KeyError, TypeError   it is not one, or holds types that weights do not have
    """
    try:
        entries = deserialize(data)
    except SafetensorError as error:
        raise ValueError(error) from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"tensor {name!r} has type {entry['dtype']}")
        values = np.frombuffer(entry["data"], np.dtype(_DTYPES[entry["dtype"]]).newbyteorder("<"))
        values = values.astype(_DTYPES[entry["dtype"]])  # own, writable, in native order
        tensors[name] = values.reshape(entry["shape"])
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    try:
        config = json.loads(header["__metadata__"]["config"])
    except RecursionError:
        raise ValueError("its config is nested too deeply") from None
    if not isinstance(config, dict):
        raise ValueError("its config is not a JSON object")
    return config, tensors


def _foreign(path: Path, error: object) -> WeightsError:
    return WeightsError(f"'{path}' is not a weights file of this codec: {_one_line(error)}")


def _unfit(path: Path, error: object) -> WeightsError:
    what = f"no {error}" if isinstance(error, KeyError) else error
    return WeightsError(
        f"'{path}' does not hold the weights of this codec version ({_one_line(what)}): "
        "use the weights of this release or train new ones"
    )


def _read(path: Path | None) -> tuple[Path, bytes, CodecConfig, dict[str, np.ndarray]]:
    """Return path, fingerprint, checked config and unchecked tensors of a weights file."""
    path = Path(path) if path is not None else DEFAULT_WEIGHTS
    try:
        data = _read_limited(path, MAX_WEIGHTS_BYTES)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise WeightsError(
            f"cannot read the weights '{path}': name a .safetensors file made by 'codec train'"
        ) from None
    if len(data) > MAX_WEIGHTS_BYTES:
        raise _foreign(path, f"it has more than {MAX_WEIGHTS_BYTES >> 20} MiB")
    try:
        values, tensors = _parse(data)
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(path, f"no {error}" if isinstance(error, KeyError) else error) from None
    try:
        config = CodecConfig.from_dict(values)
        check_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise _unfit(path, error) from None
    return path, hashlib.sha256(data).digest()[:FINGERPRINT_BYTES], config, tensors


def _read_card(path: Path) -> dict[str, Any]:
    """Return the JSON card beside a weights file, empty if there is none."""
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        return {}
    try:
        raw = _read_limited(card_path, MAX_CARD_BYTES)
        if len(raw) > MAX_CARD_BYTES:
            raise ValueError("it is too large")
        card = json.loads(raw)
        if not isinstance(card, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"the card '{card_path}' cannot be read ({_one_line(error)}): remove or replace it"
        ) from None
    return card


# --- checks ---------------------------------------------------------------------------------------


def check_config(config: CodecConfig) -> None:
    """Raise ``ValueError`` unless the compiled loops can work with this config.

    With it, sizes that the config names are bounded, too.
    """
    for field in fields(CodecConfig):
        value, (low, high) = getattr(config, field.name), _RANGES[field.name]
        if type(value) is not int:
            raise ValueError(f"config: {field.name} is a {type(value).__name__}")
        if not low <= value <= high:
            raise ValueError(f"config: {field.name} is {value}, expected {low}..{high}")
    if config.context_hidden % 8:
        raise ValueError(f"config: context_hidden is {config.context_hidden}, no multiple of 8")


def _within(value: np.ndarray, field: Field) -> bool:
    """Tell whether all numbers (one at least) lie in the field's range; NaN does not."""
    if value.dtype == np.float16:
        # Without their signs, bits are in the order of the numbers, and quicker to compare. Ranges
        # of networks are symmetric.
        size = (value.view(np.uint16) & 0x7FFF).max().view(np.float16)
        return bool(size <= field.high)
    return float(value.min()) >= field.low and float(value.max()) <= field.high


def _checked(name: str, stored: np.ndarray, field: Field, config: CodecConfig) -> np.ndarray:
    """Return a tensor in its field's type; raises ``ValueError`` unless it is what that says."""
    shape = field_shape(field, config)
    if stored.shape != shape or stored.dtype != field.stored:
        wanted = f"{np.dtype(field.stored)} {shape}"
        raise ValueError(f"tensor {name} is {stored.dtype} {stored.shape}, expected {wanted}")
    value = stored.astype(field.dtype, copy=False)
    if value.size and not _within(value, field):
        raise ValueError(f"tensor {name} has values outside {field.low:g}..{field.high:g}")
    if field.cdf and (
        (value[..., 0] != 0).any()
        or (value[..., -1] != TOTAL).any()
        or (np.diff(value, axis=-1) < 1).any()
    ):
        raise ValueError(f"tensor {name} is not a cumulative distribution")
    return value


def _largest(weights: np.ndarray, bias: np.ndarray, inputs: float) -> float:
    """Return the largest |accumulator| of a layer whose inputs are at most ``inputs``."""
    weights, bias = np.abs(weights.astype(np.float64)), np.abs(bias.astype(np.float64))
    return float((inputs * weights.sum(0)).max() + bias.max())


def _check_sums(tensors: dict[str, np.ndarray]) -> None:
    """Raise ``ValueError`` unless the integer networks' sums fit their integers."""
    bands = tensors["allocation.interpolation"][:, 0]
    if bands.max() > NUM_BANDS - 2:
        raise ValueError("tensor allocation.interpolation points outside the bands")
    first = _largest(tensors["context.w1"], tensors["context.band"], FEATURE_LIMIT)
    second = _largest(tensors["context.w2"], tensors["context.b2"], HIDDEN_LIMIT)
    if max(first, second) >= ACCUMULATOR_LIMIT:
        raise ValueError("the context model's weights are too large for 32-bit accumulators")


# --- loading --------------------------------------------------------------------------------------


def load_weights(path: Path | None = None) -> Weights:
    """Load and check a weights file; None loads the shipped one.

    Raises
    ------
    WeightsError   not readable, not safetensors, or tensors or config values that are missing,
                   unknown, of a wrong shape or out of their range
    """
    path, fingerprint, config, tensors = _read(path)
    known = {field.name: field for field in FIELDS}
    known |= {INTRA_PREFIX + field.name: field for field in FIELDS if field.own}
    try:
        for name in tensors:
            if name not in known:
                raise ValueError(f"unknown tensor {name!r}")
        for name, field in known.items():
            tensors[name] = _checked(name, tensors[name], field, config)
        weights = Weights(config, tensors, fingerprint, _read_card(path))
        for intra in (False, True):
            _check_sums(weights.of_kind(intra))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise _unfit(path, error) from None
    return weights
