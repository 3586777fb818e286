"""Search of the step offsets by rate: finds what is certain, leaves the rest alone."""

from pathlib import Path

import pytest
import torch
from small_runs import begin, make_config, write_speech
from torch import nn

from codec.config import NUM_BANDS, NUM_RATE_KNOTS, CodecConfig
from models.allocation import FIRST_KNOT, StepAllocation
from models.detail import rest_bits
from models.training.allocation_search import (
    Crops,
    crop_losses,
    refit_allocation,
    search_offsets,
)


class Output:
    def __init__(self, waveform: torch.Tensor) -> None:
        self.waveform = waveform


class FakeNet(nn.Module):
    """Stand in for the graph: its "waveform" is how far the offsets are from the best ones."""

    def __init__(self, wanted: torch.Tensor, noise: float) -> None:
        super().__init__()
        self.config = CodecConfig()
        self.allocation = StepAllocation(self.config)
        self.allocation.rate_offsets.zero_()
        self.wanted, self.noise, self.calls = wanted, noise, 0

    def forward(
        self, waveform: torch.Tensor, bits: torch.Tensor, stages: torch.Tensor, hard: bool
    ) -> Output:
        self.calls += 1
        assert hard and (bits == bits[0, 0]).all()
        table = self.allocation.table(rest_bits(bits[:1, :1]).log2())[0, 0]
        distance = (table - self.wanted).square().mean()
        generator = torch.Generator().manual_seed(self.calls)
        return Output(distance + self.noise * torch.randn(len(waveform), generator=generator))


def loss(reference: torch.Tensor, decoded: torch.Tensor, rate: torch.Tensor, speech: torch.Tensor):
    assert speech.all()
    return decoded, {}


BATCHES = [Crops(torch.zeros(8, 9 * 160), torch.ones(8, dtype=torch.bool)) for _ in range(3)]


def wanted() -> torch.Tensor:
    target = torch.zeros(NUM_BANDS)
    target[11:15], target[22] = -1.0, 1.5
    return target - target.mean()


@pytest.mark.parametrize("knot", [0, NUM_RATE_KNOTS - 1])
def test_search_finds_the_offsets(knot: int) -> None:
    net = FakeNet(wanted(), 0.0)
    before, after = search_offsets(net, loss, BATCHES, knot)
    assert after < 0.1 * before
    # Frames are of the size, without their detail, at which this row holds alone.
    assert (net.allocation.rate_offsets[knot] - wanted()).abs().max() < 0.26
    others = [k for k in range(NUM_RATE_KNOTS) if k != knot]
    assert (net.allocation.rate_offsets[others] == 0).all()


def test_search_does_not_believe_in_chance() -> None:
    """Pure noise: among 50 moves some look good; that must not be enough."""
    net = FakeNet(torch.zeros(NUM_BANDS), 0.3)
    net.wanted = net.wanted.detach()
    search_offsets(net, loss, BATCHES, 2)
    assert net.allocation.rate_offsets.abs().max() < 1.0
    assert (net.allocation.rate_offsets.abs() > 0.2).float().mean() < 0.15


def test_losses_are_those_of_each_crop() -> None:
    net = FakeNet(torch.zeros(NUM_BANDS), 1.0)
    assert crop_losses(net, loss, BATCHES[0], 2.0**FIRST_KNOT, 3).shape == (8,)
    with pytest.raises(ValueError, match="knot is 5"):
        search_offsets(net, loss, BATCHES, NUM_RATE_KNOTS)


def test_table_is_interpolated_over_the_rate() -> None:
    allocation = StepAllocation(CodecConfig())
    allocation.rate_offsets.zero_()
    allocation.rate_offsets[0], allocation.rate_offsets[1] = 1.0, 2.0
    bits = 2.0 ** torch.tensor([[FIRST_KNOT - 3, FIRST_KNOT, FIRST_KNOT + 0.25, FIRST_KNOT + 0.5]])
    got = allocation.table(bits.log2())[0, :, 0]
    torch.testing.assert_close(got, torch.tensor([1.0, 1.0, 1.5, 2.0]), atol=1e-4, rtol=0)
    assert (allocation.table(torch.full((1, 1), 11.0)) == 0).all()  # beyond the last row: that row


def test_refit_brings_steps_back_into_reach(tmp_path: Path) -> None:
    state, sampler = begin(make_config(write_speech(tmp_path), tmp_path))
    net = state.net
    with torch.no_grad():
        net.allocation.network[4].bias[-3:] = 40.0  # the upper bands are never coded
    waveform = sampler.batch(0, 4)
    bits, stages = torch.full((4, 20), 400.0), torch.full((4,), 3)

    def depth() -> torch.Tensor:
        with torch.no_grad():
            return net.eval()(waveform, bits, stages, True).depth.mean((0, 1))

    before = depth()
    refit_allocation(net, sampler, crops=16, steps=300)
    after = depth()
    assert before[-3:].min() > 4.0
    assert after[-3:].max() < before[-3:].min() - 1.5 and after[-3:].max() < 4.0
