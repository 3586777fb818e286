"""Where work is done on many files. What does it there is in ``engines.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Work = Callable[[Any, Any], Any]  # of an item and an event that asks to stop (or None)
Setup = Callable[[], Work]


@dataclass(frozen=True)
class Place:
    """Where work is done.

    Attributes
    ----------
    jobs : int                processes; 1 works in this one
    scheduler : str or None   address of a Dask scheduler, in place of processes: "tcp://host:8786"
    """

    jobs: int = 1
    scheduler: str | None = None
