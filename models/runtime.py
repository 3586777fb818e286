"""What training uses of the runtime's insides: weights files, and rules of the encoder.

Training knows tensors by the names of ``codec.model.FIELDS``, and ``models/training/collect.py``
runs the encoder's own kernels; beside that, ``models`` takes constants and tables only.
"""

from __future__ import annotations

import numpy as np

from codec.coding.allocation import step_context
from codec.coding.envelope import level_context
from codec.config import CodecConfig
from codec.encoder import default_stages
from codec.model import FIELDS
from codec.weights import INTRA_PREFIX, Weights, load_weights

__all__ = [
    "Tensors", "Weights", "file_tensors", "level_context", "load_weights", "stages_at",
    "step_context",
]  # fmt: skip

# Tensors of one kind of frames, by the names of FIELDS.
Tensors = dict[str, np.ndarray]


def stages_at(rate_kbps: float, config: CodecConfig) -> int:
    """Return the envelope stages that the encoder uses at a rate."""
    return min(default_stages(round(rate_kbps * 1000)), config.num_stages)


def file_tensors(predicted: Tensors, intra: Tensors) -> Tensors:
    """Return the tensors of a weights file by their names there."""
    own = {INTRA_PREFIX + f.name: intra[f.name] for f in FIELDS if f.own}
    return {f.name: predicted[f.name] for f in FIELDS} | own
