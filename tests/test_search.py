"""Search of the step offsets by rate: finds what is certain, leaves the rest alone."""

import pytest
import torch
from torch import nn

from codec.config import CodecConfig
from models.allocation import FIRST_KNOT, NUM_KNOTS, StepAllocation
from models.training.allocation_search import crop_losses, search_offsets


class Output:
    def __init__(self, waveform: torch.Tensor) -> None:
        self.waveform = waveform


class FakeNet(nn.Module):
    """Stand in for the graph: its "waveform" is how far the offsets are from the best ones."""

    def __init__(self, wanted: torch.Tensor, noise: float) -> None:
        super().__init__()
        self.config = CodecConfig()
        self.allocation = StepAllocation(self.config)
        self.wanted, self.noise, self.calls = wanted, noise, 0

    def forward(
        self, waveform: torch.Tensor, bits: torch.Tensor, stages: torch.Tensor, hard: bool
    ) -> Output:
        self.calls += 1
        assert hard and (bits == bits[0, 0]).all()
        table = self.allocation.table(bits[:1, :1].log2())[0, 0]
        distance = (table - self.wanted).square().mean()
        generator = torch.Generator().manual_seed(self.calls)
        return Output(distance + self.noise * torch.randn(len(waveform), generator=generator))


def loss(reference: torch.Tensor, decoded: torch.Tensor, rate: torch.Tensor):
    return decoded, {}


BATCHES = [torch.zeros(8, 9 * 160) for _ in range(3)]


def wanted() -> torch.Tensor:
    target = torch.zeros(20)
    target[9:13], target[17] = -1.0, 1.5
    return target - target.mean()


@pytest.mark.parametrize("knot", [0, NUM_KNOTS - 1])
def test_search_finds_the_offsets(knot: int) -> None:
    net = FakeNet(wanted(), 0.0)
    before, after = search_offsets(net, loss, BATCHES, knot)
    assert after < 0.1 * before
    assert (net.allocation.rate_offsets[knot] - wanted()).abs().max() < 0.3
    others = [k for k in range(NUM_KNOTS) if k != knot]
    assert (net.allocation.rate_offsets[others] == 0).all()


def test_search_does_not_believe_in_chance() -> None:
    """Pure noise: among 50 moves some look good; that must not be enough."""
    net = FakeNet(torch.zeros(20), 0.3)
    net.wanted = net.wanted.detach()
    search_offsets(net, loss, BATCHES, 2)
    assert net.allocation.rate_offsets.abs().max() < 1.0
    assert (net.allocation.rate_offsets.abs() > 0.2).float().mean() < 0.15


def test_losses_are_those_of_each_crop() -> None:
    net = FakeNet(torch.zeros(20), 1.0)
    assert crop_losses(net, loss, BATCHES[0], 2.0**FIRST_KNOT, 3).shape == (8,)
    with pytest.raises(ValueError, match="knot is 5"):
        search_offsets(net, loss, BATCHES, NUM_KNOTS)


def test_table_is_interpolated_over_the_rate() -> None:
    allocation = StepAllocation(CodecConfig())
    allocation.rate_offsets[0], allocation.rate_offsets[1] = 1.0, 2.0
    bits = 2.0 ** torch.tensor([[FIRST_KNOT - 3, FIRST_KNOT, FIRST_KNOT + 0.25, FIRST_KNOT + 0.5]])
    got = allocation.table(bits.log2())[0, :, 0]
    torch.testing.assert_close(got, torch.tensor([1.0, 1.0, 1.5, 2.0]), atol=1e-4, rtol=0)
    assert (allocation.table(torch.full((1, 1), 11.0)) == 0).all()  # beyond the last row: that row
