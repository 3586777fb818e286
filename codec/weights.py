"""Trained weights: one safetensors file with a JSON card beside it, known by its fingerprint.

The file holds ``tables.*`` (integers of the entropy path), ``intra.*`` (those that differ for
packets that need no other) and the half-precision networks
``analysis.*`` (encoder) and ``enhancer.*`` (decoder). Reading it needs neither torch nor numba.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def code_lengths(cdf: np.ndarray) -> np.ndarray:
    """Return code lengths in 1/256 bit of cumulative frequencies [..., M + 1] (total 2^15)."""
    frequency = np.maximum(np.diff(cdf, axis=-1), 1)
    return np.round(256 * (15 - np.log2(frequency))).astype(np.int32)


def frequency_costs() -> np.ndarray:
    """Return the code length in 1/256 bit of every frequency 0..2^15, int32 [2^15 + 1]."""
    frequency = np.maximum(np.arange((1 << 15) + 1), 1)
    return np.round(256 * (15 - np.log2(frequency))).astype(np.int32)


def read_weights_file(path: Path | None = None) -> tuple[Path, bytes]:
    """Return the path of the weights (the shipped ones for None) and their fingerprint."""
    path = Path(path) if path is not None else DEFAULT_WEIGHTS
    try:
        data = path.read_bytes()
    except OSError:
        raise WeightsError(
            f"cannot read the weights '{path}': name a .safetensors file made by 'codec train'"
        ) from None
    return path, hashlib.sha256(data).digest()[:FINGERPRINT_BYTES]


def load_weights(path: Path | None = None) -> Weights:
    """Load and check a weights file; None loads the shipped one.

    Raises
    ------
    WeightsError   not readable, not safetensors, or tables missing or of a wrong shape
    """
    from safetensors import SafetensorError, safe_open

    from codec.packet import Tables, check_tables

    path, fingerprint = read_weights_file(path)
    try:
        with safe_open(str(path), framework="numpy") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"'{path}' is not a weights file of this codec: {error}") from None
    try:
        config = CodecConfig.from_dict(json.loads(metadata["config"]))
        values = {
            name: np.ascontiguousarray(tensors[TABLE_PREFIX + name])
            for name in Tables._fields
            if name not in DERIVED_TABLES
        }
        tables = Tables(
            **values,
            frequency_cost=frequency_costs(),
            index_cost=code_lengths(values["index_cdf"]),
        )
        check_tables(tables, config)
        own = {
            name: np.ascontiguousarray(tensors[INTRA_PREFIX + name]) for name in INTRA_TABLES
        }
        intra = tables._replace(**own, index_cost=code_lengths(own["index_cdf"]))
        check_tables(intra, config)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"'{path}' does not hold the weights of this codec version ({error}): "
            "use the weights of this release or train new ones"
        ) from None
    networks = {n: v for n, v in tensors.items() if not n.startswith((TABLE_PREFIX, INTRA_PREFIX))}
    card_path = path.with_suffix(".json")
    card: dict[str, Any] = {}
    if card_path.is_file():
        card = json.loads(card_path.read_text())
    return Weights(config, tables, intra, networks, fingerprint, card)


def load_side_tables(
    path: Path | None = None,
) -> tuple[list[list[int]], list[list[int]], CodecConfig, bytes]:
    """Return the tables of indices and steps, the config and the fingerprint, and nothing else.

    ``codec info`` needs no more, and answers at once.
    """
    from safetensors import SafetensorError, safe_open

    path, fingerprint = read_weights_file(path)
    try:
        with safe_open(str(path), framework="numpy") as handle:
            config = CodecConfig.from_dict(json.loads((handle.metadata() or {})["config"]))
            index_table = handle.get_tensor(TABLE_PREFIX + "index_cdf").tolist()
            step_table = handle.get_tensor(TABLE_PREFIX + "step_cdf").tolist()
    except (SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"'{path}' is not a weights file of this codec: {error}") from None
    return index_table, step_table, config, fingerprint
