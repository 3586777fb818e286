"""The envelope's multi-stage quantizer in training."""

import torch

from models.msvq import PredictiveMSVQ

DIM = 6


def make(num_stages: int = 3, size: int = 8) -> PredictiveMSVQ:
    torch.manual_seed(0)
    msvq = PredictiveMSVQ(num_stages, size, DIM)
    with torch.no_grad():
        msvq.bias.normal_()
        msvq.predictor.add_(0.05 * torch.randn(DIM, DIM))
        msvq.initial.normal_()
    return msvq


def test_search_agrees_with_brute_force() -> None:
    msvq = make()
    envelope = 2 * torch.randn(4, 10, DIM)
    stages = torch.tensor([1, 2, 3, 3])
    indices, previous = msvq.search(envelope, stages)
    decoded = msvq.decode(indices, previous, stages)
    predictor, bias = msvq.predictor.detach().double(), msvq.bias.detach().double()
    codebooks = msvq.codebooks.detach().double()
    for b, count in enumerate(stages.tolist()):
        last = msvq.initial.double()
        for t in range(10):
            torch.testing.assert_close(previous[b, t].double(), last, rtol=1e-4, atol=1e-4)
            value = predictor @ last + bias
            for s in range(count):
                distance = (envelope[b, t].double() - value - codebooks[s]).square().sum(-1)
                assert indices[b, t, s] == distance.argmin()
                value = value + codebooks[s, indices[b, t, s]]
            torch.testing.assert_close(decoded[b, t].detach().double(), value, rtol=1e-4, atol=1e-4)
            last = value


def test_eval_is_hard_without_side_effects() -> None:
    msvq = make()
    envelope, stages = torch.randn(2, 5, DIM), torch.tensor([3, 2])
    msvq(envelope, stages)
    msvq.eval()
    before = {name: value.clone() for name, value in msvq.state_dict().items()}
    out = msvq(envelope, stages)
    assert torch.equal(out.quantized, out.hard)
    assert torch.equal(out.quantized, msvq.decode(*msvq.search(envelope, stages), stages))
    assert all(torch.equal(before[name], value) for name, value in msvq.state_dict().items())


def test_training_error_norm_is_the_hard_one() -> None:
    msvq = make()
    envelope = torch.randn(2, 5, DIM)
    out = msvq(envelope, torch.tensor([3, 1]))
    torch.testing.assert_close(
        (out.quantized - envelope).norm(dim=-1),
        (out.hard - envelope).norm(dim=-1),
        rtol=1e-4,
        atol=1e-5,
    )
    assert not torch.allclose(out.quantized, out.hard, atol=0.1)


def test_stage_dropout() -> None:
    """Stages that no sequence uses get no gradient and no hits; the others get both."""
    msvq = make(num_stages=4)
    out = msvq(torch.randn(3, 7, DIM), torch.tensor([1, 2, 2]))
    out.quantized.square().sum().backward()
    gradient = msvq.codebooks.grad
    assert gradient is not None
    assert (gradient[0] != 0).any() and (gradient[1] != 0).any()
    assert (gradient[2:] == 0).all()
    assert msvq.usage.total.tolist() == [21, 14, 0, 0]
    assert msvq.usage.hits.sum(-1).tolist() == [21, 14, 0, 0]
    assert torch.equal(out.perplexity[2:], torch.ones(2))


def test_more_stages_make_a_smaller_error() -> None:
    torch.manual_seed(0)
    walk = torch.randn(20, 50, DIM).cumsum(1) * 0.3
    msvq = PredictiveMSVQ(3, 32, DIM)
    rms = msvq.initialise(walk)
    assert rms[0] > rms[1] > rms[2]
    msvq.eval()
    errors = [
        float((msvq(walk, torch.full((20,), s)).quantized - walk).square().mean())
        for s in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.5 * float(walk.var())
