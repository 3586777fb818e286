"""Step allocation: decoded envelope and frame size in, step offset of each band out.

The network is small because the decoder evaluates it in integers before it can read a single
coefficient: every band's step decides which probability table applies
(``codec/coding/allocation.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.coding import allocation as integer
from codec.config import (
    BAND_EDGES_HZ,
    LOG_ONE,
    NUM_BANDS,
    NUM_RATE_KNOTS,
    CodecConfig,
)

LOG2_ONE = 1 << 10  # log2 of frame sizes is Q10 in integers
# Inputs of the network: envelope shape, previous envelope on the same mean, frame size.
SIZE_CENTRE = integer.SIZE_CENTRE / LOG2_ONE
SHAPE_SHARE = 0.2  # of the envelope's shape that goes into the step
# Offsets lie within ± this many octaves. Without a limit a band whose levels are all zero has no
# gradient, drifts ever farther and never comes back.
OFFSET_LIMIT = integer.OFFSET_LIMIT / LOG_ONE
# The table of offsets by rate: its first row holds at 8 kbit/s, each further one half an octave on.
FIRST_KNOT = integer.FIRST_KNOT / LOG2_ONE  # log2 of 160 bits
KNOTS_PER_OCTAVE = LOG2_ONE >> integer.KNOT_SHIFT
# Octaves by which steps are finer where a listener hears more than the losses do: lowest and
# highest Hz of bands' centres, and a number for each row of the table. Found on validation clips
# (docs/history.md, "bits that no loss asks for").
FINER = ((3000, 3800, (0.0, 1.5, 3.0, 0.0, 0.0)), (3800, 7200, (1.0, 1.5, 3.0, 3.5, 3.9)))


def first_offsets() -> Tensor:
    """Return the table of offsets that training begins with, [NUM_RATE_KNOTS, bands] octaves."""
    edges = torch.tensor(BAND_EDGES_HZ)
    centres = (edges[:-1] + edges[1:]) / 2
    offsets = torch.zeros(NUM_RATE_KNOTS, NUM_BANDS)
    for low, high, octaves in FINER:
        offsets[:, (centres >= low) & (centres < high)] -= torch.tensor(octaves)[:, None]
    return offsets


class StepAllocation(nn.Module):
    """Map the decoded envelope and the frame's bits to step offsets in octaves.

    ``offset = 0.2 * (envelope - mean) + table(rate) + MLP(...)``: the exponent 0.2 is the best one
    found by hand for PESQ (a step that follows the envelope weakly); the network learns the rest.
    The table begins with finer steps above 3 kHz, and may be changed by a search on the true loss
    (``models/training/allocation_search.py``), since the gradient of a step in which hardly
    anything is coded is a guess. The mean over the bands is taken off (the frame's step takes it
    up), and what is left is limited softly, ``x / (1 + |x| / 4)``.

    Attributes
    ----------
    rate_offsets : buffer, shape [NUM_RATE_KNOTS, bands]   octaves
    """

    rate_offsets: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        hidden = config.allocation_hidden
        self.network = nn.Sequential(
            nn.Linear(2 * NUM_BANDS + 1, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, NUM_BANDS),
        )
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("rate_offsets", first_offsets())

    def features(self, envelope: Tensor, previous: Tensor, log_bits: Tensor) -> Tensor:
        """Return the network's input, shape [B, F, 2 * bands + 1], all within about ±4."""
        mean = envelope.mean(-1, keepdim=True)
        return torch.cat(
            [
                0.25 * (envelope - mean),
                0.25 * (previous - mean),
                log_bits[..., None] - SIZE_CENTRE,
            ],
            dim=-1,
        )

    def table(self, log_bits: Tensor) -> Tensor:
        """Return the table's offsets at a frame size, [B, F] -> [B, F, bands]."""
        position = ((log_bits - FIRST_KNOT) * KNOTS_PER_OCTAVE).clamp(0.0, NUM_RATE_KNOTS - 1)
        row = position.floor().clamp_max(NUM_RATE_KNOTS - 2).long()
        t = (position - row)[..., None]
        return (1 - t) * self.rate_offsets[row] + t * self.rate_offsets[row + 1]

    def forward(self, envelope: Tensor, previous: Tensor, log_bits: Tensor) -> Tensor:
        """Return the step offset of each band.

        Parameters
        ----------
        envelope, previous : float Tensor, shape [B, F, bands]   octaves; this frame, the last
        log_bits : float Tensor, shape [B, F]                    log2 of the frame's bits

        Returns
        -------
        float Tensor, shape [B, F, bands]   octaves, to be added to the frame's step
        """
        offset = SHAPE_SHARE * (envelope - envelope.mean(-1, keepdim=True))
        offset = offset + self.table(log_bits)
        offset = offset + self.network(self.features(envelope, previous, log_bits))
        offset = offset - offset.mean(-1, keepdim=True)
        return offset / (1.0 + offset.abs() / OFFSET_LIMIT)
