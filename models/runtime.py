"""The names of the runtime's insides that training knows, all in one place.

Training writes the tables that the runtime reads, and lets the runtime's encoder collect what the
context models are trained on. Beside that, ``models`` takes constants from ``codec.config`` only.
"""

from __future__ import annotations

from codec.config import CodecConfig
from codec.encoder import collect_bins, default_stages
from codec.packet import (
    ACCUMULATOR_LIMIT,
    COST_ONE,
    FEATURE_LIMIT,
    HIDDEN_LIMIT,
    NUM_FEATURES,
    NUM_STEP_CONTEXTS,
    TABLE_COLUMNS,
    TOTAL,
    Tables,
    step_context,
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

__all__ = [
    "ACCUMULATOR_LIMIT", "COST_ONE", "DERIVED_TABLES", "FEATURE_LIMIT", "HIDDEN_LIMIT",
    "INTRA_PREFIX", "INTRA_TABLES", "NUM_FEATURES", "NUM_STEP_CONTEXTS", "TABLE_COLUMNS",
    "TABLE_PREFIX", "TOTAL", "Tables", "Weights", "code_lengths", "collect_bins",
    "frequency_costs", "load_weights", "stages_at", "step_context",
]  # fmt: skip


def stages_at(rate_kbps: float, config: CodecConfig) -> int:
    """Return the envelope stages that the encoder uses at a rate."""
    return min(default_stages(round(rate_kbps * 1000)), config.num_stages)
