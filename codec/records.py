"""Records: what kernels take and change, one contiguous piece of memory each.

A model, a state or a work space is a NumPy record, a structure as in C: its fields are numbers,
arrays of fixed shape, or further records. In a kernel ``state.frame.levels[0, k]`` costs what it
costs in C; a record is passed as one pointer, so that kernels compile quickly, and copying or
pickling a state is copying its bytes. In Python, fields are ``state["frame"]["levels"]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Shape = int | tuple[int, ...]


def record(**fields: Any) -> np.dtype[Any]:
    """Return a record type; fields are given as type, or (type, shape).

    Examples
    --------
    >>> point = record(x=np.float32, past=(np.int32, 3))
    >>> new(point)["past"]
    array([0, 0, 0], dtype=int32)
    """
    described = []
    for name, value in fields.items():
        kind, shape = value if isinstance(value, tuple) else (value, ())
        described.append((name, kind, (shape,) if isinstance(shape, int) else shape))
    return np.dtype(described, align=True)


def new(dtype: np.dtype[Any]) -> Any:
    """Return a record of zeros."""
    return np.zeros((), dtype)[()]


def fill(target: Any, values: dict[str, np.ndarray]) -> None:
    """Copy arrays into a record's fields.

    Raises
    ------
    ValueError   a field is missing or of another shape
    """
    for name in target.dtype.names:
        if name not in values:
            raise ValueError(f"no values for {name}")
        field, value = target[name], np.asarray(values[name])
        if field.shape != value.shape:
            raise ValueError(f"{name} has the shape {value.shape}, expected {field.shape}")
        target[name] = value
