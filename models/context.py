"""Context model: a small network that picks the probability table of every coefficient.

::

    integer features of a coefficient ─► 64 ReLU ─► 32 ReLU ─► row, column ─► table [rows, columns]
    (ratio, neighbours)                                       (scale, shape)   of magnitudes

The network corrects a baseline: with all weights zero, a coefficient's table is that of a Laplace
distribution whose scale is envelope / step, the envelope-only model. Tables and network are
trained together: the fractional row and column mix the four tables around them, in training with
real weights, at inference with multiples of 1/16, and then everything is an integer
(``models/training/export.py``).

References
----------
Ballé et al., "Integer networks for data compression with latent-variable models", ICLR 2019 (why
the entropy model must be integer).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.coding.context import ROW_OFFSET
from codec.config import (
    MAGNITUDE_BASE,
    NUM_BANDS,
    NUM_BLOCK_KINDS,
    NUM_FEATURES,
    ROUNDING,
    TABLE_COLUMNS,
    CodecConfig,
)
from codec.model import HIDDEN_LIMIT

ROWS_PER_OCTAVE = 8
FEATURE_ONE = 64.0  # features are Q6,
ACTIVATION_LIMIT = HIDDEN_LIMIT / 256  # hidden activations Q8


def laplace_log_probabilities(num_rows: int) -> Tensor:
    """Return log-probabilities of magnitude symbols [rows, M] of Laplace coefficients."""
    rows = torch.arange(num_rows, dtype=torch.float64)
    inverse = torch.exp2(-(rows - ROW_OFFSET) / ROWS_PER_OCTAVE)[:, None]
    # P(|q| >= m) = exp(-(m - rounding) / scale) for m >= 1, and 1 for m = 0.
    base = torch.tensor(MAGNITUDE_BASE, dtype=torch.float64)
    survival = torch.exp(-(base - ROUNDING).clamp_min(0.0) * inverse)
    survival = torch.cat([survival, torch.zeros_like(survival[:, :1])], 1)
    p = (survival[:, :-1] - survival[:, 1:]).clamp_min(1e-7)
    return torch.log(p / p.sum(-1, keepdim=True)).float()


class ContextModel(nn.Module):
    """Map features of coefficients to distributions over their magnitudes.

    Parameters
    ----------
    config : CodecConfig

    Attributes
    ----------
    logits : Parameter, shape [rows, columns, M]
    band_bias : Parameter, shape [2 x kinds, bands, hidden]   first-layer bias by kind of block
        (above those, the same after a long block) and band
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.num_rows = config.table_rows
        hidden = config.context_hidden
        self.first = nn.Linear(NUM_FEATURES, hidden, bias=False)
        self.band_bias = nn.Parameter(torch.zeros(2 * NUM_BLOCK_KINDS, NUM_BANDS, hidden))
        self.second = nn.Linear(hidden, hidden // 2)
        self.third = nn.Linear(hidden // 2, 2)
        nn.init.zeros_(self.third.weight)
        with torch.no_grad():
            self.band_bias.uniform_(-0.2, 0.2)
            self.third.bias.copy_(torch.tensor([0.0, 1.0]))
        laplace = laplace_log_probabilities(self.num_rows)
        # Shapes to start from: more peaked, Laplace, flatter.
        shapes = [1.1 * laplace, laplace, 0.9 * laplace, 0.8 * laplace]
        self.logits = nn.Parameter(torch.stack(shapes[:TABLE_COLUMNS], 1))

    def position(self, features: Tensor, block: Tensor, band: Tensor) -> tuple[Tensor, Tensor]:
        """Return fractional row and column of each coefficient, each shape [M].

        Parameters
        ----------
        features : float Tensor, shape [M, features]   integer values as in the bitstream (Q6)
        block, band : int64 Tensor, shape [M]
        """
        x = features / FEATURE_ONE
        h = (self.first(x) + self.band_bias[block, band]).clamp(0.0, ACTIVATION_LIMIT)
        h = self.second(h).clamp(0.0, ACTIVATION_LIMIT)
        out = self.third(h)
        row = out[:, 0] + ROWS_PER_OCTAVE * x[:, 0] + ROW_OFFSET
        return row.clamp(0.0, self.num_rows - 1.001), out[:, 1].clamp(0.0, TABLE_COLUMNS - 1.001)

    def forward(self, features: Tensor, block: Tensor, band: Tensor, symbol: Tensor) -> Tensor:
        """Return the code length in bits of each magnitude symbol, shape [M] (no signs)."""
        row, column = self.position(features, block, band)
        r, c = row.floor(), column.floor()
        fr, fc = row - r, column - c
        index = r.long() * TABLE_COLUMNS + c.long()
        probability = torch.softmax(self.logits, -1).flatten(0, 1)
        size = probability.shape[-1]
        flat = probability.flatten()

        def pick(offset: int) -> Tensor:
            return flat[(index + offset) * size + symbol]

        low = (1 - fc) * pick(0) + fc * pick(1)
        high = (1 - fc) * pick(TABLE_COLUMNS) + fc * pick(TABLE_COLUMNS + 1)
        # Every symbol keeps a frequency of at least 1 of 2^15.
        return -torch.log2((1 - fr) * low + fr * high + 2.0**-15)
