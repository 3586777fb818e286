"""Records: what kernels take and change, one contiguous piece of memory each.

A model, a state or a work space is a NumPy record, a structure as in C: its fields are numbers,
arrays of fixed shape, or further records. In a kernel ``state.frame.levels[0, k]`` costs what it
costs in C; a record is passed as one pointer, so that kernels compile quickly, and copying or
pickling a state is copying its bytes. In Python, fields are ``state["frame"]["levels"]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes, a cache line: arrays across its borders are read at half the speed


def record(**fields: Any) -> np.dtype[Any]:
    """Return a record type; fields are given as type, or (type, shape).

    Examples
    --------
    >>> point = record(x=np.float32, past=(np.int32, 3))
    >>> new(point)["past"]
    array([0, 0, 0], dtype=int32)
    """
    formats, offsets, end = [], [], 0
    for value in fields.values():
        kind = np.dtype(value)
        align = ALIGNMENT if kind.itemsize >= ALIGNMENT else kind.base.alignment
        start = -(-end // align) * align
        formats.append(kind)
        offsets.append(start)
        end = start + kind.itemsize
    size = -(-end // ALIGNMENT) * ALIGNMENT
    return np.dtype(
        {"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": size}
    )


def new(dtype: np.dtype[Any]) -> Any:
    """Return a record of zeros that begins at a cache line."""
    raw = np.zeros(dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + dtype.itemsize].view(dtype)[0]


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
