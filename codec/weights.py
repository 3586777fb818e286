"""Trained weights: one safetensors file with a JSON card beside it, known by its fingerprint.

The file holds ``tables.*`` (integers of the entropy path), ``intra.*`` (those that differ for
packets that need no other) and the half-precision networks
``analysis.*`` (encoder) and ``enhancer.*`` (decoder). What ``codec info`` needs of it is read with
neither torch nor numba.

A weights file may come from anywhere, so all of it is checked before use: the config against what
the compiled loops are made for, every tensor's type and shape against the config, and the values
against what keeps those loops inside their tables and integers. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from codec.config import CodecConfig

if TYPE_CHECKING:
    from codec.packet import Tables

WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "models" / "weights"
DEFAULT_WEIGHTS = WEIGHTS_DIR / "codec.safetensors"
TABLE_PREFIX, INTRA_PREFIX = "tables.", "intra."
FINGERPRINT_BYTES = 4
DERIVED_TABLES = ("frequency_cost", "index_cost")  # computed when loading
# Tables that packets which need no other have for themselves; they share the rest.
INTRA_TABLES = (
    "codebooks", "predictor", "bias", "initial", "index_cdf", "step_cdf", "context_w1",
    "context_w2", "context_b2", "context_w3", "context_b3", "context_band", "cdf",
)  # fmt: skip

# No file is read beyond this; the shipped weights take 5.5 MB.
MAX_WEIGHTS_BYTES = 256 << 20
MAX_CARD_BYTES = 1 << 20
_DTYPES = {"I16": np.int16, "I32": np.int32, "F16": np.float16}

# The compiled loops are written for these.
_FIXED = {
    "sample_rate": 16000, "hop_length": 160, "blocks_per_packet": 2, "num_bands": 20,
    "log_scale": 256,
}  # fmt: skip
# The largest networks are a few times as large as the shipped ones, so that a config alone cannot
# claim much memory.
_RANGES = {
    "lpc_order": (1, 64), "num_stages": (1, 8), "codebook_bits": (1, 12),
    "log_floor": (-8192, 0), "step_resolution": (1, 256), "max_step_delta": (1, 255),
    "rounding": (0.0, 0.5), "rdo_lambda": (0.0, 10.0), "allocation_hidden": (1, 1024),
    "enhancer_hidden": (1, 1024), "local_channels": (1, 256), "context_hidden": (1, 512),
}  # fmt: skip

# Limits of table values beside those of their shapes, see _check_ranges.
ENVELOPE_LIMIT = 8192  # |decoded envelope|, Q8: decode_envelope clips to it
MIN_TABLE_ROWS = 2
_TABLE_RANGES = {
    "initial": (-ENVELOPE_LIMIT, ENVELOPE_LIMIT),
    "interpolation": (0, 256),
    "scale_offset": (-2048, 2048),
    "allocation_rate": (-(1 << 15), 1 << 15),
    "log2_bits": (0, 1 << 14),
    "expected_bits": (0, 1 << 20),
    # Negative ones would be negative indices into the next table.
    "exp2_table": (0, 1 << 18),
    "compress_table": (0, 1 << 10),
}
# Of the transmitted step delta, Q8. With the table ranges, a step is then at most 2^68.
STEP_DELTA_LIMIT = 1024
# Of the networks' parameters; trained ones stay below 3. If all are as large as this, samples reach
# 10^36 with the most extreme packets: float32 holds them.
NETWORK_LIMIT = 16.0


class WeightsError(ValueError):
    """A weights file is missing, damaged or of another format."""


@dataclass
class Weights:
    """Content of a weights file.

    Attributes
    ----------
    config : CodecConfig
    tables : Tables                  integers shared by encoder and decoder
    intra : Tables                   the same for packets that need no other
    networks : dict of arrays        float16 parameters by name
    fingerprint : bytes              first 4 bytes of the file's SHA-256
    card : dict                      the JSON card, empty if there is none
    """

    config: CodecConfig
    tables: Tables
    intra: Tables
    networks: dict[str, np.ndarray]
    fingerprint: bytes
    card: dict[str, Any]


class SideTables(NamedTuple):
    """What is needed to read the beginning of each packet.

    Attributes
    ----------
    config : CodecConfig
    fingerprint : bytes
    index_cdf, intra_index_cdf : list [S][K + 1]          tables of the envelope's indices
    step_cdf, intra_step_cdf : list [contexts][deltas + 1]
    """

    config: CodecConfig
    fingerprint: bytes
    index_cdf: list[list[int]]
    intra_index_cdf: list[list[int]]
    step_cdf: list[list[int]]
    intra_step_cdf: list[list[int]]


def code_lengths(cdf: np.ndarray) -> np.ndarray:
    """Return code lengths in 1/256 bit of cumulative frequencies [..., M + 1] (total 2^15)."""
    frequency = np.maximum(np.diff(cdf, axis=-1), 1)
    return np.round(256 * (15 - np.log2(frequency))).astype(np.int32)


def frequency_costs() -> np.ndarray:
    """Return the code length in 1/256 bit of every frequency 0..2^15, int32 [2^15 + 1]."""
    frequency = np.maximum(np.arange((1 << 15) + 1), 1)
    return np.round(256 * (15 - np.log2(frequency))).astype(np.int32)


# --- the file -------------------------------------------------------------------------------------


def _one_line(error: object) -> str:
    """Return an error's text on one line and not too long: it may quote the file."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _read_limited(path: Path, limit: int) -> bytes:
    """Return the bytes of a file; a few more than ``limit`` say that it is too large."""
    parts, size = [], 0
    with open(path, "rb") as file:
        # In pieces, since `read` takes the memory that it is asked for at once. No file size is
        # asked for: a pipe or device has none.
        while size <= limit and (part := file.read(1 << 20)):
            parts.append(part)
            size += len(part)
    return b"".join(parts)


def _parse(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the config's values and all tensors of a safetensors file.

    Raises
    ------
    ValueError, KeyError, TypeError   it is not one, or holds types that weights do not have
    """
    from safetensors import SafetensorError, deserialize

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
        name, value = field.name, getattr(config, field.name)
        if name == "band_edges":
            ends = (value[0], value[-1]) if value else None
            if any(type(edge) is not int for edge in value) or ends != (0, config.hop_length):
                raise ValueError("config: band_edges are not whole numbers from 0 to hop_length")
            if any(b <= a for a, b in zip(value[:-1], value[1:], strict=True)):
                raise ValueError("config: band_edges do not rise")
            continue
        wanted = (int, float) if isinstance(field.default, float) else (int,)
        if type(value) not in wanted:
            raise ValueError(f"config: {name} is a {type(value).__name__}")
        low, high = _RANGES[name] if name in _RANGES else (_FIXED[name], _FIXED[name])
        if not low <= value <= high:  # NaN fails as well
            expected = f"{low}..{high}" if low != high else f"{low}"
            raise ValueError(f"config: {name} is {value}, expected {expected}")
    if config.max_step_delta * config.step_resolution > STEP_DELTA_LIMIT:
        raise ValueError(
            f"config: step deltas reach {config.max_step_delta} x {config.step_resolution}, "
            f"beyond {STEP_DELTA_LIMIT}"
        )


def _largest(weights: np.ndarray, bias: np.ndarray, inputs: Any) -> float:
    """Return the largest |accumulator| of a layer whose inputs are at most ``inputs``."""
    weights, bias = np.abs(weights.astype(np.float64)), np.abs(bias.astype(np.float64))
    return float((inputs * weights.sum(0) + bias).max())


def _check_ranges(tables: Tables, config: CodecConfig) -> None:
    """Raise ``ValueError`` unless the values keep the compiled loops within their bounds.

    `codec.packet.check_tables` has checked the shapes.
    """
    from codec.packet import ACCUMULATOR_LIMIT, FEATURE_LIMIT, HIDDEN_LIMIT, TABLE_COLUMNS

    if tables.cdf.shape[0] < MIN_TABLE_ROWS * TABLE_COLUMNS:
        raise ValueError(f"table cdf has fewer than {MIN_TABLE_ROWS} rows")
    if tuple(tables.band_edges.tolist()) != config.band_edges:
        raise ValueError("table band_edges are not those of the config")
    for name, (low, high) in _TABLE_RANGES.items():
        value = getattr(tables, name)
        if value.min() < low or value.max() > high:
            raise ValueError(f"table {name} has values outside {low}..{high}")
    # The context model's first two layers add up in 32 bits.
    first = _largest(tables.context_w1, tables.context_band.reshape(-1, config.context_hidden), 0)
    first += _largest(tables.context_w1, np.zeros(1), FEATURE_LIMIT)
    second = _largest(tables.context_w2, tables.context_b2, HIDDEN_LIMIT)
    if max(first, second) >= ACCUMULATOR_LIMIT:
        raise ValueError("the context model's weights are too large for 32-bit accumulators")
    # The step allocation, and what multiplies its result, in 64 bits; features are differences of
    # two envelopes, or a rate or a level.
    largest = 2.0 * ENVELOPE_LIMIT
    for layer, shift in ((1, 12), (2, 12), (3, 14)):
        weights = getattr(tables, f"allocation_w{layer}")
        largest = _largest(weights, getattr(tables, f"allocation_b{layer}"), largest)
        if largest >= 2.0**62:
            raise ValueError("the step allocation's weights are too large for 64 bits")
        largest = largest / (1 << shift) + 1
    if largest >= 2.0**48:
        raise ValueError("the step allocation's weights are too large for 64 bits")


def _check_networks(networks: dict[str, np.ndarray], config: CodecConfig) -> None:
    """Raise ``ValueError`` unless the networks' parameters are those of this config, and finite."""
    # Built here rather than listed: it cannot disagree with the modules.
    from models.enhancer import Enhancer
    from models.envelope import EnvelopeAnalysis

    expected = {}
    for part, module in (("analysis", EnvelopeAnalysis), ("enhancer", Enhancer)):
        for name, value in module(config).state_dict().items():
            expected[f"{part}.{name}"] = tuple(value.shape)
    for name in [*expected, *networks]:
        if name not in networks:
            raise KeyError(name)
        if name not in expected:
            raise ValueError(f"unknown tensor {name!r}")
        value = networks[name]
        if value.shape != expected[name] or value.dtype != np.float16:
            raise ValueError(
                f"tensor {name} is {value.dtype} {value.shape}, expected float16 {expected[name]}"
            )
        # Written so that NaN fails as well.
        if not (value.size == 0 or np.abs(value.astype(np.float32)).max() <= NETWORK_LIMIT):
            raise ValueError(f"tensor {name} has values beyond ±{NETWORK_LIMIT:g}")


def _side_table(tensors: dict[str, np.ndarray], name: str, size: int) -> list[list[int]]:
    """Return the cumulative frequencies ``name`` as lists, checked."""
    cdf = tensors[name]
    if cdf.dtype != np.int32 or cdf.ndim != 2 or cdf.shape[0] == 0 or cdf.shape[1] != size:
        raise ValueError(f"table {name} is {cdf.dtype} {cdf.shape}")
    if (cdf[:, 0] != 0).any() or (cdf[:, -1] != 1 << 15).any() or (cdf[:, 1:] <= cdf[:, :-1]).any():
        raise ValueError(f"table {name} is not a cumulative distribution")
    rows: list[list[int]] = cdf.tolist()
    return rows


# --- loading --------------------------------------------------------------------------------------


def load_weights(path: Path | None = None) -> Weights:
    """Load and check a weights file; None loads the shipped one.

    Raises
    ------
    WeightsError   not readable, not safetensors, or tensors or config values that are missing,
                   unknown, of a wrong shape or out of their range
    """
    from codec.packet import Tables, check_tables

    path, fingerprint, config, tensors = _read(path)
    networks = {n: v for n, v in tensors.items() if not n.startswith((TABLE_PREFIX, INTRA_PREFIX))}
    names = [name for name in Tables._fields if name not in DERIVED_TABLES]
    known = {TABLE_PREFIX + name for name in names} | {INTRA_PREFIX + n for n in INTRA_TABLES}
    try:
        for name in tensors:
            if name not in known and name not in networks:
                raise ValueError(f"unknown table {name!r}")
        values = {name: tensors[TABLE_PREFIX + name] for name in names}
        own = {name: tensors[INTRA_PREFIX + name] for name in INTRA_TABLES}
        for cdf in (values["index_cdf"], own["index_cdf"], values["cdf"], own["cdf"]):
            if cdf.ndim != 2 or cdf.shape[-1] < 2:
                raise ValueError(f"a table of frequencies has the shape {cdf.shape}")
        tables = Tables(
            **values,
            frequency_cost=frequency_costs(),
            index_cost=code_lengths(values["index_cdf"]),
        )
        intra = tables._replace(**own, index_cost=code_lengths(own["index_cdf"]))
        for each in (tables, intra):
            if each.context_w2.ndim != 2 or each.context_w2.shape[1] == 0:
                raise ValueError(f"table context_w2 has the shape {each.context_w2.shape}")
            check_tables(each, config)
            _check_ranges(each, config)
        _check_networks(networks, config)
    except (KeyError, TypeError, ValueError) as error:
        raise _unfit(path, error) from None
    return Weights(config, tables, intra, networks, fingerprint, _read_card(path))


def load_side_tables(path: Path | None = None) -> SideTables:
    """Return the tables of indices and steps, the config and the fingerprint, and nothing else.

    ``codec info`` needs no more, and answers at once.

    Raises
    ------
    WeightsError   as `load_weights`, as far as these tables are concerned
    """
    path, fingerprint, config, tensors = _read(path)
    sizes = {"index_cdf": config.codebook_size + 1, "step_cdf": 2 * config.max_step_delta + 2}
    try:
        tables = {
            prefix + name: _side_table(tensors, prefix + name, size)
            for prefix in (TABLE_PREFIX, INTRA_PREFIX)
            for name, size in sizes.items()
        }
        for prefix in (TABLE_PREFIX, INTRA_PREFIX):
            if len(tables[prefix + "index_cdf"]) != config.num_stages:
                raise ValueError(f"table {prefix}index_cdf does not have a row for every stage")
    except (KeyError, TypeError, ValueError) as error:
        raise _unfit(path, error) from None
    return SideTables(
        config, fingerprint, tables["tables.index_cdf"], tables["intra.index_cdf"],
        tables["tables.step_cdf"], tables["intra.step_cdf"],
    )  # fmt: skip
