"""Step allocation: what training begins with."""

import torch

from codec.config import BAND_EDGES_HZ, NUM_BANDS, NUM_RATE_KNOTS, CodecConfig
from models.allocation import OFFSET_LIMIT, StepAllocation


def test_steps_begin_finer_above_3_khz() -> None:
    """More so at higher rates; nothing of it is beyond what the soft limit lets through."""
    table = StepAllocation(CodecConfig()).rate_offsets
    assert table.shape == (NUM_RATE_KNOTS, NUM_BANDS)
    low = torch.tensor(BAND_EDGES_HZ[1:]) <= 3000
    assert (table[:, low] == 0).all() and (table <= 0).all()
    assert (table > -OFFSET_LIMIT).all()
    finest = table.amin(1)
    assert (finest < 0).all() and (finest.diff() <= 0).all()


def test_steps_follow_envelope_and_table_at_first() -> None:
    """The network adds nothing yet."""
    allocation = StepAllocation(CodecConfig())
    envelope = torch.randn(2, 3, NUM_BANDS, generator=torch.Generator().manual_seed(0))
    log_bits = torch.full((2, 3), 8.0)
    offset = 0.2 * (envelope - envelope.mean(-1, keepdim=True)) + allocation.table(log_bits)
    offset = offset - offset.mean(-1, keepdim=True)
    got = allocation(envelope, torch.zeros_like(envelope), log_bits)
    torch.testing.assert_close(got, offset / (1 + offset.abs() / OFFSET_LIMIT))
