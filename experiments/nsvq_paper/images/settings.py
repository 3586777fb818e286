"""What is compared in the image experiment, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.nsvq_paper.methods import METHOD_COLORS

PATCH = 32  # pixels; as CIFAR
GRID = 8  # latent vectors per side of a patch
BITS = (8, 9, 10, 11, 12)


@dataclass(frozen=True)
class Row:
    """One way to train: an estimator, and whether hardly used codewords are replaced."""

    name: str
    method: str
    replaces: bool
    in_paper: bool

    @property
    def style(self) -> dict[str, Any]:
        """How it is drawn: colour by estimator, full line for what the paper compares."""
        color = METHOD_COLORS[self.method]
        if self.name == "NSVQ, no replacement":
            return {"color": color, "linestyle": ":", "marker": "x"}
        if self.in_paper:
            return {"color": color, "linestyle": "-", "marker": "o"}
        return {"color": color, "linestyle": "--", "marker": "s"}


ROWS = (
    Row("NSVQ", "nsvq", True, True),
    Row("STE", "ste", False, True),
    Row("EMA", "ema", False, True),
    Row("NSVQ, no replacement", "nsvq", False, True),
    Row("STE + replacement", "ste", True, False),
    Row("EMA + replacement", "ema", True, False),
    Row("DiVeQ + replacement", "diveq", True, False),
)


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's result, but for its row, bits, seed and the pictures.

    Attributes
    ----------
    steps, batch : int            optimizer steps, patches per step
    channels, dim : int           width of the network, dimension of the latent vectors (D)
    learning_rate : float         of Adam; falls linearly to 0 over the last ``decay`` of the steps
    codebook_scale : float        standard deviation of the first codewords, the same in all rows:
                                  of 1, 0.1 and 0.01, 0.1 was the best one for STE and EMA
    replace_every : int           steps between replacements, in the rows that have them
    replace_until : float         part of the steps after which no codeword is replaced
    log_every : int               steps per point of the curves
    check_every : int             steps between looks at the error of held-out patches
    """

    steps: int = 1200
    batch: int = 32
    channels: int = 32
    dim: int = 16
    learning_rate: float = 1e-3
    decay: float = 0.5
    codebook_scale: float = 0.1
    replace_every: int = 50
    replace_until: float = 0.7
    log_every: int = 25
    check_every: int = 100
