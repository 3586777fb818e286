"""What training uses of the runtime's insides: weights files, and rules of the encoder.

Training knows tensors by the names of ``codec.model.FIELDS``, and ``models/training/collect.py``
runs the encoder's own kernels; beside that, ``models`` takes constants and tables only.
"""

from __future__ import annotations

import numpy as np

from codec.coding.allocation import step_context
from codec.coding.envelope import level_context
from codec.model import FIELDS
from codec.weights import INTRA_PREFIX, Weights, load_weights

__all__ = ["Tensors", "Weights", "file_tensors", "level_context", "load_weights", "step_context"]

# Tensors of one kind of frames, by the names of FIELDS.
Tensors = dict[str, np.ndarray]


def file_tensors(predicted: Tensors, intra: Tensors) -> Tensors:
    """Return the tensors of a weights file by their names there."""
    own = {INTRA_PREFIX + f.name: intra[f.name].astype(f.stored) for f in FIELDS if f.own}
    return {f.name: predicted[f.name].astype(f.stored) for f in FIELDS} | own
