"""What trained weights consist of: one list of every tensor, and the records that kernels take.

``FIELDS`` is the only place that says which tensors there are, of which shape and type, how many
fractional bits an integer has, and which values it may take. Loading checks by it, training
exports by it, and training imports by it.

Integers first (``codec.coding``: whatever the range decoder depends on), then the float networks
(``analysis`` of the encoder, ``enhancer`` of the decoder), stored in half precision.

A predicted frame and an intra frame have the same records with other values where a field says
``own``; the rest is shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_BITS,
    DETAIL_KNOWN,
    DETAIL_SIZE,
    HOP_LENGTH,
    MAX_FRAME_BITS,
    MAX_LEVEL_DELTA,
    MAX_STEP_DELTA,
    NUM_BANDS,
    NUM_BLOCK_KINDS,
    NUM_DETAIL_BANDS,
    NUM_DETAIL_STAGES,
    NUM_FEATURES,
    NUM_LEVEL_CONTEXTS,
    NUM_LOSS_FEATURES,
    NUM_LTPF_BANDS,
    NUM_RATE_KNOTS,
    NUM_STEP_CONTEXTS,
    NUM_SYMBOLS,
    RECENT_FEATURES,
    TABLE_COLUMNS,
    CodecConfig,
)
from codec.product import pack, packed_size, padded
from codec.records import fill, new, record

TOTAL_BITS = 15  # of probabilities
TOTAL = 1 << TOTAL_BITS
COST_ONE = 256  # code lengths are in 1/256 bit
LAPLACE_COLUMN = 1  # of the tables: the shape that a Laplace distribution started from
ENVELOPE_LIMIT = 8192  # |decoded shape|, Q8 octaves
FEATURE_LIMIT = 1023  # of the context model, Q6: ±16
HIDDEN_LIMIT = 4095  # its activations, Q8: 16
ACCUMULATOR_LIMIT = 1 << 31  # its sums
MSVQ_STAGES = ("envelope", "detail")
NETWORK_LIMIT = 16.0  # |parameter| of the float networks; trained ones stay below 3


@dataclass(frozen=True)
class Field:
    """One tensor of the weights.

    Attributes
    ----------
    name : str          'stage.tensor'
    shape : tuple       ints, or names of sizes of the config (see :func:`sizes`)
    dtype : type        of the tensor
    q : int             fractional bits of an integer
    low, high : float   smallest and largest value
    own : bool          an intra frame has one of its own
    cdf : bool          rows are cumulative frequencies, 0 to 2^15, rising
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: Any = np.int32
    q: int = 0
    low: float = -(2.0**31)
    high: float = 2.0**31 - 1
    own: bool = False
    cdf: bool = False

    @property
    def stored(self) -> Any:
        """Return the type in a weights file, which keeps frequencies in 16 bits."""
        return np.uint16 if self.cdf else self.dtype


def _network(stage: str, **shapes: tuple[int | str, ...]) -> list[Field]:
    """Return the fields of a float network; '__' in a name stands for a dot."""
    limit = NETWORK_LIMIT
    return [
        Field(f"{stage}.{name.replace('__', '.')}", shape, np.float16, 0, -limit, limit)
        for name, shape in shapes.items()
    ]


_WORDS = 1 << DETAIL_BITS
_SPECTRUM = BLOCKS_PER_FRAME * HOP_LENGTH
_OUTPUTS = BLOCKS_PER_FRAME * (2 * HOP_LENGTH + NUM_BANDS) + NUM_BANDS

FIELDS: tuple[Field, ...] = (
    Field("level.cdf", (NUM_LEVEL_CONTEXTS, 2 * MAX_LEVEL_DELTA + 2), cdf=True, own=True),
    Field("envelope.codebooks", ("stages", "codewords", NUM_BANDS), np.int16, 8, own=True),
    Field("envelope.predictor", (NUM_BANDS, NUM_BANDS), q=12, own=True),
    Field("envelope.bias", (NUM_BANDS,), q=8, own=True),
    Field("envelope.initial", (NUM_BANDS,), np.int32, 8, -ENVELOPE_LIMIT, ENVELOPE_LIMIT, own=True),
    Field("envelope.index_cdf", ("stages", "codewords + 1"), cdf=True, own=True),
    Field("detail.codebooks", (NUM_DETAIL_STAGES, _WORDS, DETAIL_SIZE), np.int16, 8, own=True),
    Field("detail.predictor", (DETAIL_SIZE, DETAIL_KNOWN), np.int16, 12, own=True),
    Field("detail.bias", (DETAIL_SIZE,), q=8, own=True),
    Field("detail.index_cdf", (NUM_DETAIL_STAGES, _WORDS + 1), cdf=True, own=True),
    # Of 16 bits, so that no sum needs more than 64, whatever the weights.
    Field("allocation.w1", (2 * NUM_BANDS + 1, "allocation"), np.int16, 12),
    Field("allocation.b1", ("allocation",), q=22),
    Field("allocation.w2", ("allocation", "allocation"), np.int16, 12),
    Field("allocation.b2", ("allocation",), q=22),
    Field("allocation.w3", ("allocation", NUM_BANDS), np.int16, 12),
    Field("allocation.b3", (NUM_BANDS,), q=22),
    Field("allocation.rate_offsets", (NUM_RATE_KNOTS, NUM_BANDS), np.int32, 8, -(2**15), 2**15),
    Field("allocation.scale_offset", (NUM_BANDS,), np.int32, 8, -2048, 2048),
    Field("allocation.interpolation", (HOP_LENGTH, 2), np.int32, 8, 0, 256),
    Field("allocation.log2_bits", (MAX_FRAME_BITS + 1,), np.int32, 10, 0, 2**14),
    Field("allocation.expected_bits", (320,), np.int32, 8, 0, 2**20),
    Field("blocks.cdf", (2, 3), cdf=True, own=True),
    Field("step.cdf", (NUM_STEP_CONTEXTS, 2 * MAX_STEP_DELTA + 2), cdf=True, own=True),
    Field("context.w1", (NUM_FEATURES, "context"), np.int32, 10, -(2**15), 2**15 - 1, own=True),
    Field("context.band", (2 * NUM_BLOCK_KINDS, NUM_BANDS, "context"), q=16, own=True),
    Field("context.w2", ("context", "context / 2"), np.int32, 10, -(2**15), 2**15 - 1, own=True),
    Field("context.b2", ("context / 2",), q=18, own=True),
    Field("context.w3", ("context / 2", 2), q=10, own=True),
    Field("context.b3", (2,), q=18, own=True),
    Field("context.cdf", ("rows", TABLE_COLUMNS, NUM_SYMBOLS + 1), cdf=True, own=True),
    # Negative values of these two would be negative indices into the next table.
    Field("context.exp2", (4096,), np.int32, 10, 0, 2**18),
    Field("context.compress", (2048,), np.int32, 6, 0, 2**10),
    *_network(
        "analysis",
        network__0__weight=("analysis", NUM_BANDS * (BLOCKS_PER_FRAME + 1)),
        network__0__bias=("analysis",),
        network__2__weight=(NUM_BANDS, "analysis"),
        network__2__bias=(NUM_BANDS,),
    ),
    *_network(
        "enhancer",
        inputs__weight=("enhancer", _SPECTRUM + 2 * NUM_BANDS + 3),
        inputs__bias=("enhancer",),
        pitch_inputs__weight=("enhancer", 2 * BLOCKS_PER_FRAME),
        detail_inputs__weight=("enhancer", DETAIL_SIZE),
        loss_inputs__weight=("enhancer", NUM_LOSS_FEATURES),
        conv__weight=("enhancer", "enhancer", 3),
        conv__bias=("enhancer",),
        gru__weight_ih_l0=("3 enhancer", "enhancer"),
        gru__weight_hh_l0=("3 enhancer", "enhancer"),
        gru__bias_ih_l0=("3 enhancer",),
        gru__bias_hh_l0=("3 enhancer",),
        outputs__weight=(_OUTPUTS, "2 enhancer"),
        outputs__bias=(_OUTPUTS,),
        lost_outputs__weight=(_OUTPUTS, "2 enhancer"),
        lost_outputs__bias=(_OUTPUTS,),
        comb_outputs__weight=(BLOCKS_PER_FRAME * NUM_LTPF_BANDS, "2 enhancer"),
        comb_outputs__bias=(BLOCKS_PER_FRAME * NUM_LTPF_BANDS,),
        detail_outputs__weight=(NUM_DETAIL_BANDS, "2 enhancer"),
        detail_outputs__bias=(NUM_DETAIL_BANDS,),
        local__0__weight=("local", 2 * BLOCKS_PER_FRAME + 1, 7),
        local__0__bias=("local",),
        local__2__weight=("local", "local", 7),
        local__2__bias=("local",),
        local_outputs__weight=(2 * BLOCKS_PER_FRAME, "local", 3),
        local_outputs__bias=(2 * BLOCKS_PER_FRAME,),
    ),
)


def sizes(config: CodecConfig) -> dict[str, int]:
    """Return what the names in the fields' shapes stand for."""
    return {
        "stages": config.num_stages,
        "codewords": config.codebook_size,
        "codewords + 1": config.codebook_size + 1,
        "allocation": config.allocation_hidden,
        "context": config.context_hidden,
        "context / 2": config.context_hidden // 2,
        "rows": config.table_rows,
        "analysis": config.analysis_hidden,
        "enhancer": config.enhancer_hidden,
        "2 enhancer": 2 * config.enhancer_hidden,
        "3 enhancer": 3 * config.enhancer_hidden,
        "local": config.local_channels,
    }


def field_shape(field: Field, config: CodecConfig) -> tuple[int, ...]:
    """Return a field's shape under a config."""
    names = sizes(config)
    return tuple(names[size] if isinstance(size, str) else size for size in field.shape)


# --- records of the integer stages ----------------------------------------------------------------


def coding_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of all integers that encoder and decoder share.

    Stages and tensors are those of :data:`FIELDS`, and derived from them:

    ==================  ===========================================================
    envelope.index_cost  int32 [S, K], code lengths of the indices, 1/256 bit
    envelope.columns     float32 [S, bands, K], codebooks, bands first, for the search
    detail.index_cost, detail.columns    likewise
    level.cost, step.cost, blocks.cost   int32 [contexts, symbols], 1/256 bit
    context.cdf          rows and columns in one dimension
    context.cost         int32 [2^15 + 1], code length of a frequency, 1/256 bit
    context.laplace_cost  int32 [rows, symbols], of magnitudes' symbols in column LAPLACE_COLUMN
    context.known, .recent, .whole, .second   int16, packed (see ``product.py``): the rows of w1
                         whose features are known before a block's levels, the others, all; and w2
    context.bias         int32, b2 in whole tiles
    ==================  ===========================================================
    """
    stages: dict[str, dict[str, Any]] = {}
    for field in FIELDS:
        stage, name = field.name.split(".", 1)
        if field.dtype != np.float16:
            stages.setdefault(stage, {})[name] = (field.dtype, field_shape(field, config))
    for stage in MSVQ_STAGES:
        count, codewords, dim = stages[stage]["codebooks"][1]
        stages[stage]["index_cost"] = (np.int32, (count, codewords))
        stages[stage]["columns"] = (np.float32, (count, dim, codewords))
    for stage in ("level", "step", "blocks"):
        contexts, edges = stages[stage]["cdf"][1]
        stages[stage]["cost"] = (np.int32, (contexts, edges - 1))
    tables = config.table_rows * TABLE_COLUMNS
    stages["context"]["cdf"] = (np.int32, (tables, NUM_SYMBOLS + 1))
    stages["context"]["cost"] = (np.int32, TOTAL + 1)
    stages["context"]["laplace_cost"] = (np.int32, (config.table_rows, NUM_SYMBOLS))
    hidden = config.context_hidden
    stages["context"]["known"] = (np.int16, packed_size(NUM_FEATURES, hidden))
    stages["context"]["recent"] = (np.int16, packed_size(len(RECENT_FEATURES), hidden))
    stages["context"]["whole"] = (np.int16, packed_size(NUM_FEATURES, hidden))
    stages["context"]["bias"] = (np.int32, padded(hidden // 2))
    stages["context"]["second"] = (np.int16, packed_size(hidden, hidden // 2))
    return record(**{stage: record(**fields) for stage, fields in stages.items()})


def code_lengths(cdf: np.ndarray) -> np.ndarray:
    """Return code lengths in 1/256 bit of cumulative frequencies [..., M + 1], int32 [..., M]."""
    return frequency_costs()[np.maximum(np.diff(cdf, axis=-1), 1)]


@lru_cache(maxsize=1)
def frequency_costs() -> np.ndarray:
    """Return the code length in 1/256 bit of every frequency 0..2^15, int32 [2^15 + 1]."""
    frequency = np.maximum(np.arange(TOTAL + 1), 1)
    return np.round(COST_ONE * (TOTAL_BITS - np.log2(frequency))).astype(np.int32)


def coding_model(tensors: dict[str, np.ndarray], config: CodecConfig) -> Any:
    """Return the record of one kind of frame from its integer tensors, by field name."""
    model = new(coding_dtype(config))
    known, half = tensors["context.w1"].copy(), config.context_hidden // 2
    known[list(RECENT_FEATURES)] = 0
    derived = {
        **{f"{s}.index_cost": code_lengths(tensors[f"{s}.index_cdf"]) for s in MSVQ_STAGES},
        **{f"{s}.columns": tensors[f"{s}.codebooks"].transpose(0, 2, 1) for s in MSVQ_STAGES},
        **{f"{s}.cost": code_lengths(tensors[f"{s}.cdf"]) for s in ("level", "step", "blocks")},
        "context.cdf": tensors["context.cdf"].reshape(-1, NUM_SYMBOLS + 1),
        "context.cost": frequency_costs(),
        "context.laplace_cost": code_lengths(tensors["context.cdf"][:, LAPLACE_COLUMN]),
        "context.known": pack(known),
        "context.recent": pack(tensors["context.w1"][list(RECENT_FEATURES)]),
        "context.whole": pack(tensors["context.w1"]),
        "context.bias": np.pad(tensors["context.b2"], (0, padded(half) - half)),
        "context.second": pack(tensors["context.w2"]),
    }
    values = tensors | derived
    for stage in model.dtype.names:
        names = model[stage].dtype.names
        fill(model[stage], {name: values[f"{stage}.{name}"] for name in names})
    return model
