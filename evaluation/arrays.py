"""Tables as NumPy record arrays.

``table.rate`` is a column, ``table[0]`` a row, ``table[0].rate`` a cell. A column is float64 (NaN
where there is no value), int64, bool or, for text, references.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Table = np.recarray

TEXT = "O"


def make_table(columns: Mapping[str, str], rows: Iterable[Sequence[Any]] = ()) -> Table:
    """Return a table of rows.

    Parameters
    ----------
    columns : name and dtype of each
    rows : one value per column; None is NaN in a column of float64
    """
    return np.array([tuple(row) for row in rows], dtype=list(columns.items())).view(np.recarray)


def distinct(column: np.ndarray) -> list[Any]:
    """Return the values of a column, each once, in the order in which they come."""
    return list(dict.fromkeys(column.tolist()))


def grouped(table: Table, names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], Table]]:
    """Yield the rows that have the same values in some columns, with these, as they come first."""
    places: dict[tuple[Any, ...], array[int]] = {}
    for place, key in enumerate(zip(*(table[name].tolist() for name in names), strict=True)):
        places.setdefault(key, array("q")).append(place)
    for key, rows in places.items():
        yield key, table[np.array(rows)]


def records(table: np.ndarray) -> list[dict[str, Any]]:
    """Return the rows as dicts of plain values for JSON: four decimals, None for NaN."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 4) if np.isfinite(value) else None
        return value

    names = table.dtype.names or ()
    return [dict(zip(names, map(plain, row), strict=True)) for row in table.tolist()]
