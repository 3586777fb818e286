"""Ways to train one codebook: moving averages, and the interface that all share."""

from __future__ import annotations

import pytest
import torch

from experiments.nsvq_paper.methods import METHODS, EMAQuantizer, make_quantizer
from models.quantizers import COMMITMENT_WEIGHT, perplexity, reset_moments


def two_codewords(decay: float = 0.9) -> EMAQuantizer:
    ema = EMAQuantizer(3, 2, decay)
    ema.set_codebook(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 100.0]]))
    return ema


def test_cluster_sizes_and_codewords_are_moving_averages() -> None:
    ema = two_codewords()
    x = torch.tensor([[1.0, 1.0], [3.0, -1.0], [9.0, 2.0]])
    out = ema(x)
    assert out.indices[:, 0].tolist() == [0, 0, 1]
    torch.testing.assert_close(out.hard, torch.tensor([[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]]))
    torch.testing.assert_close(ema.cluster_size, torch.tensor([0.9 + 0.2, 0.9 + 0.1, 0.9]))
    torch.testing.assert_close(ema.cluster_sum[0], torch.tensor([0.4, 0.0]))
    torch.testing.assert_close(ema.cluster_sum[1], torch.tensor([9.9, 0.2]))
    torch.testing.assert_close(
        ema.codebook[:2], torch.tensor([[0.4 / 1.1, 0.0], [9.9, 0.2]]), rtol=1e-4, atol=1e-6
    )


def test_codewords_converge_to_the_means_of_their_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    ema = two_codewords(0.95)
    for _ in range(300):
        left = torch.randn(64, 2, generator=generator) + torch.tensor([-1.0, 2.0])
        right = torch.randn(64, 2, generator=generator) + torch.tensor([14.0, 1.0])
        ema(torch.cat([left, right]))
    torch.testing.assert_close(
        ema.codebook[:2], torch.tensor([[-1.0, 2.0], [14.0, 1.0]]), rtol=0, atol=0.1
    )
    torch.testing.assert_close(ema.cluster_size[:2], torch.full((2,), 64.0), rtol=1e-3, atol=0)


def test_codeword_without_hits_stays_in_place() -> None:
    """Also when its cluster size has decayed to nothing, and it is alive at the first hit."""
    ema = two_codewords(0.5)
    for _ in range(300):
        ema(torch.tensor([[1.0, 1.0]]))
    assert ema.cluster_size[2] < 1e-30
    torch.testing.assert_close(ema.codebook[2], torch.tensor([0.0, 100.0]))
    ema(torch.tensor([[4.0, 90.0]]))
    torch.testing.assert_close(ema.codebook[2], torch.tensor([4.0, 90.0]), rtol=1e-3, atol=0)


def test_gradient_passes_straight_through_and_commits_the_input() -> None:
    ema = two_codewords()
    assert not list(ema.parameters())
    x = torch.tensor([[1.0, 1.0], [8.0, 0.0]], requires_grad=True)
    out = ema(x)
    torch.testing.assert_close(out.quantized, out.hard)
    torch.testing.assert_close(
        out.auxiliary_loss, COMMITMENT_WEIGHT * (out.hard - x).square().mean()
    )
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (gradient,) = torch.autograd.grad((out.quantized * weights).sum(), x, retain_graph=True)
    assert torch.equal(gradient, weights)
    (gradient,) = torch.autograd.grad(out.auxiliary_loss, x)
    torch.testing.assert_close(gradient, COMMITMENT_WEIGHT * (x - out.hard).detach() / 2)


def test_shapes_and_perplexity_are_those_of_the_interface() -> None:
    torch.manual_seed(0)
    ema = EMAQuantizer(16, 3)
    x = torch.randn(4, 5, 3)
    out = ema(x)
    assert out.quantized.shape == out.hard.shape == x.shape
    assert out.indices.shape == (4, 5, 1) and out.indices.dtype == torch.int64
    torch.testing.assert_close(
        out.perplexity[0], perplexity(torch.bincount(out.indices.flatten(), minlength=16))
    )
    assert ema(torch.randn(3)).indices.shape == (1,)
    state = ema.state_dict()
    other = EMAQuantizer(16, 3)
    other.load_state_dict(state)
    assert torch.equal(other.encode(x), ema.encode(x))


def test_eval_moves_nothing() -> None:
    ema = two_codewords().eval()
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    out = ema(torch.tensor([[1.0, 1.0]]))
    assert torch.equal(out.quantized, out.hard) and out.auxiliary_loss == 0
    assert all(torch.equal(value, before[name]) for name, value in ema.state_dict().items())


def test_dead_codewords_restart_on_used_ones_or_on_vectors() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 1.0], [9.0, 2.0]]).repeat(20, 1)
    ema = two_codewords()
    ema(x)
    used = ema.codebook[:2].clone()
    dead = ema.replace_dead()
    assert dead.tolist() == [False, False, True]
    distance = (ema.codebook[2] - used).norm(dim=1).min()
    assert 0 < distance < 0.5  # beside a used one, not on it
    torch.testing.assert_close(ema.cluster_sum[2], ema.cluster_size[2] * ema.codebook[2])
    assert torch.equal(ema.codebook[:2], used)
    assert ema.usage.total.item() == 0

    ema = two_codewords()
    ema(x)
    assert ema.replace_dead(vectors=torch.tensor([[[50.0, 60.0]]])).tolist() == [False, False, True]
    assert ema.codebook[2].tolist() == [50.0, 60.0]
    assert not ema.replace_dead(vectors=x).any()  # nothing was counted since


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1, not 1.0"):
        EMAQuantizer(4, 2, decay=1.0)
    with pytest.raises(ValueError, match="epsilon must be positive, not 0"):
        EMAQuantizer(4, 2, epsilon=0)
    with pytest.raises(ValueError, match="unknown method 'lbg': choose one of nsvq, ste, ema"):
        make_quantizer("lbg", 4, 2)


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_start_from_the_given_codebook(method: str) -> None:
    codebook = torch.arange(8.0).view(4, 2)
    quantizer = make_quantizer(method, 4, 2, codebook)
    assert torch.equal(quantizer.decode(torch.arange(4)), codebook)
    quantizer(torch.randn(10, 2))
    assert torch.equal(codebook, torch.arange(8.0).view(4, 2))  # a copy was trained


def test_moments_of_replaced_codewords_are_zeroed() -> None:
    quantizer = make_quantizer("nsvq", 4, 2)
    optimizer = torch.optim.Adam(quantizer.parameters())
    quantizer.codebook.square().sum().backward()
    optimizer.step()
    dead = torch.tensor([True, False, True, False])
    reset_moments(optimizer, quantizer.codebook, dead)
    moments = optimizer.state[quantizer.codebook]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal((moments[key] == 0).all(1), dead)
    reset_moments(optimizer, make_quantizer("ema", 4, 2).codebook, dead)  # no moments, no error


def test_gradients_of_the_error_are_the_same_with_three_estimators() -> None:
    """The finding of toy.md: |x + |e| v/|v| - x|**2 is |e|**2 whatever v is."""
    torch.manual_seed(0)
    codebook, x = torch.randn(16, 2), torch.randn(300, 2)
    gradients = {}
    for method in ("nsvq", "ste", "diveq"):
        quantizer = make_quantizer(method, 16, 2, codebook)
        out = quantizer(x)
        ((out.quantized - x).square().mean() + out.auxiliary_loss).backward()
        gradients[method] = next(iter(quantizer.parameters())).grad
    assert gradients["ste"].abs().max() > 0.01
    for method in ("nsvq", "diveq"):
        torch.testing.assert_close(gradients[method], gradients["ste"], rtol=1e-4, atol=1e-7)
