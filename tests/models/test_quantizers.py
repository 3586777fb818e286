"""NSVQ, STE and DiVeQ with a single codebook: values, gradients, usage, replacement."""

import math

import pytest
import torch

from models.quantizers import (
    DIVEQ_VARIANCE,
    ESTIMATORS,
    CodebookUsage,
    VectorQuantizer,
    nearest,
    perplexity,
    substitute,
)


def make(estimator: str = "nsvq", size: int = 32, dim: int = 4) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(size, dim, estimator)


# --------------------------------------------------------------------------------------------------
# Values and gradients


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_error_norm_is_that_of_the_hard_value(estimator: str) -> None:
    quantizer = make(estimator)
    x = torch.randn(500, 4)
    out = quantizer(x)
    hard_error = (out.hard - x).norm(dim=-1)
    torch.testing.assert_close((out.quantized - x).norm(dim=-1), hard_error, rtol=1e-4, atol=1e-5)
    assert torch.equal(out.hard, quantizer.decode(out.indices[..., 0]))


def test_nsvq_noise_has_no_preferred_direction() -> None:
    quantizer = make()
    x = torch.randn(20000, 4)
    out = quantizer(x)
    noise = torch.nn.functional.normalize(out.quantized - x, dim=-1)
    assert noise.mean(0).abs().max() < 0.03
    hard = torch.nn.functional.normalize(out.hard - x, dim=-1)
    assert (noise * hard).sum(-1).mean().abs() < 0.03


def test_ste_and_diveq_stay_close_to_the_hard_value() -> None:
    x = torch.randn(500, 4)
    out = make("ste")(x)
    torch.testing.assert_close(out.quantized, out.hard)
    out = make("diveq")(x)
    miss = (out.quantized - out.hard).norm(dim=-1)
    assert miss.mean() < 3 * math.sqrt(4 * DIVEQ_VARIANCE)
    assert miss.mean() > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_reach_input_and_codebook(estimator: str) -> None:
    quantizer = make(estimator)
    x = torch.randn(100, 4, requires_grad=True)
    out = quantizer(x)
    ((out.quantized - 1).square().sum() + out.auxiliary_loss).backward()
    assert x.grad is not None and (x.grad != 0).any(-1).all()
    gradient = quantizer.codebook.grad
    assert gradient is not None
    hit = torch.zeros(32, dtype=torch.bool)
    hit[out.indices.flatten()] = True
    assert torch.equal((gradient != 0).any(-1), hit)  # those in use, and only those


def test_only_ste_has_an_auxiliary_loss() -> None:
    x = torch.randn(100, 4)
    assert make("nsvq")(x).auxiliary_loss == 0
    assert make("diveq")(x).auxiliary_loss == 0
    out = make("ste")(x)
    torch.testing.assert_close(out.auxiliary_loss, 1.25 * (out.hard - x).square().mean())


def test_nsvq_gradient_is_that_of_the_norm() -> None:
    """With the noise fixed, d|e|/dc = (c - x)/|e| is all that the codeword feels."""
    x = torch.tensor([[1.0, 0.0]])
    hard = torch.tensor([[4.0, 4.0]], requires_grad=True)
    torch.manual_seed(5)
    quantized, _ = substitute(x, hard, "nsvq")
    quantized[0, 0].backward()
    torch.manual_seed(5)
    noise = torch.nn.functional.normalize(torch.randn(1, 2), dim=-1)
    assert hard.grad is not None
    torch.testing.assert_close(hard.grad[0], noise[0, 0] * torch.tensor([3.0, 4.0]) / 5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_exact_hit_has_finite_gradients(estimator: str) -> None:
    quantizer = make(estimator)
    x = quantizer.codebook.detach()[:3].clone().requires_grad_(True)
    out = quantizer(x)
    (out.quantized.sum() + out.auxiliary_loss).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    assert torch.isfinite(quantizer.codebook.grad).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_eval_is_hard_and_has_no_side_effects(estimator: str) -> None:
    quantizer = make(estimator)
    quantizer(torch.randn(50, 4))
    quantizer.eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    random = torch.get_rng_state()
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    out = quantizer(x)
    assert torch.equal(out.quantized, out.hard)
    assert torch.equal(out.quantized, quantizer.decode(quantizer.encode(x)))
    assert out.auxiliary_loss == 0
    assert torch.equal(torch.get_rng_state(), random)
    after = quantizer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_unknown_estimator() -> None:
    with pytest.raises(ValueError, match="unknown estimator 'gumbel': choose one of nsvq"):
        VectorQuantizer(4, 2, "gumbel")


# --------------------------------------------------------------------------------------------------
# Nearest neighbour


def test_encode_agrees_with_brute_force() -> None:
    quantizer = make(size=64, dim=8)
    x = 3 * torch.randn(4, 50, 8)
    indices = quantizer.encode(x)
    assert indices.shape == (4, 50) and indices.dtype == torch.int64
    distance = torch.cdist(x.double(), quantizer.codebook.detach().double())
    assert torch.equal(indices, distance.argmin(-1))
    assert torch.equal(quantizer.decode(indices), quantizer.codebook[indices])


def test_ties_go_to_the_lowest_index() -> None:
    codebook = torch.tensor([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [0.0, 5.0], [0.5, 0.5]])
    assert nearest(x, codebook).tolist() == [1, 1, 2, 4, 1]
    assert nearest(torch.zeros(7, 2), torch.ones(100, 2)).tolist() == 7 * [0]


# --------------------------------------------------------------------------------------------------
# Usage and replacement


def test_usage_counts_every_hit() -> None:
    usage = CodebookUsage(2, 4)
    batch = usage.count(torch.tensor([[0, 1], [1, 1]]), 1)
    assert batch.tolist() == [1, 3, 0, 0]
    usage.count(torch.tensor([3]), 1)
    assert usage.hits.tolist() == [[0, 0, 0, 0], [1, 3, 0, 1]]
    assert usage.total.tolist() == [0, 5]
    usage.eval()
    assert usage.count(torch.tensor([2]), 1).tolist() == [0, 0, 1, 0]
    assert usage.total.tolist() == [0, 5]


def test_dead_is_relative_to_uniform_use() -> None:
    usage = CodebookUsage(2, 10, threshold=0.05)
    # 10000 vectors: uniform use is 1000 hits, the threshold 50, whatever the number of batches.
    usage.hits[0] = torch.tensor([9801.0, 0, 49, 50, 51, 49, 0, 0, 0, 0])
    usage.total[0] = 10000
    dead = usage.dead()
    assert dead[0].tolist() == [False, True, True, False, False, True, True, True, True, True]
    assert not dead[1].any()  # a stage that has seen nothing has no dead codewords


def test_counters_are_in_the_state_dict() -> None:
    quantizer = make()
    quantizer(torch.randn(77, 4))
    state = quantizer.state_dict()
    assert state["usage.hits"].sum() == 77
    assert state["usage.total"].tolist() == [77]
    other = make()
    other.load_state_dict(state)
    assert torch.equal(other.usage.hits, quantizer.usage.hits)
    assert "usage.hits" not in dict(quantizer.named_parameters())


def test_replacement_takes_used_codewords_with_jitter_of_their_size() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(400, 8)
    with torch.no_grad():
        quantizer.codebook.zero_()
        quantizer.codebook[0] = 1e6
        quantizer.codebook[1] = -1e-6
    quantizer.usage.hits[0, :2] = 500
    quantizer.usage.total[0] = 1000
    dead = quantizer.replace_dead(jitter=0.01)
    assert dead.tolist() == [False, False] + 398 * [True]
    codebook = quantizer.codebook.detach()
    assert (codebook[0] == 1e6).all() and (codebook[1] == -1e-6).all()  # the used ones stay
    copies = codebook[2:]
    large = copies[:, 0] > 0
    assert 120 < large.sum() < 280  # both are drawn, in proportion to their hits
    for group, source in ((copies[large], codebook[0]), (copies[~large], codebook[1])):
        relative = (group - source).norm(dim=-1) / source.norm()
        assert (relative > 1e-3).all()  # float32 has not swallowed it
        assert relative.mean() == pytest.approx(0.01, rel=0.1)
    assert quantizer.usage.hits.sum() == 0 and quantizer.usage.total.sum() == 0


def test_replacement_is_drawn_by_hits() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(1000, 1)
    with torch.no_grad():
        quantizer.codebook[:2] = torch.tensor([[1.0], [-1.0]])
    quantizer.usage.hits[0, :2] = torch.tensor([900.0, 100.0])
    quantizer.usage.total[0] = 1000
    quantizer.replace_dead()
    assert (quantizer.codebook[2:] > 0).float().mean() == pytest.approx(0.9, abs=0.03)


def test_nothing_dead_nothing_replaced() -> None:
    quantizer = make(size=2, dim=4)
    before = quantizer.codebook.detach().clone()
    assert not quantizer.replace_dead().any()  # nothing counted yet
    quantizer.usage.hits[0] = torch.tensor([50.0, 50.0])
    quantizer.usage.total[0] = 100
    assert not quantizer.replace_dead().any()
    assert torch.equal(quantizer.codebook.detach(), before)


# --------------------------------------------------------------------------------------------------
# Perplexity and training


def test_perplexity_of_known_distributions() -> None:
    counts = torch.tensor([[5, 5, 5, 5], [7, 0, 0, 0], [3, 3, 0, 0], [2, 1, 1, 0], [0, 0, 0, 0]])
    wanted = torch.tensor([4.0, 1.0, 2.0, 2**1.5, 1.0])
    torch.testing.assert_close(perplexity(counts), wanted)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_training_on_a_mixture(estimator: str) -> None:
    """A few hundred steps on 16 clusters find nearly all of them."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.arange(4.0) * 4
    centres = torch.cartesian_prod(grid, grid) - 20  # far from the initial codebook

    def draw(count: int) -> torch.Tensor:
        pick = torch.randint(16, (count,), generator=generator)
        return centres[pick] + 0.2 * torch.randn(count, 2, generator=generator)

    torch.manual_seed(1)
    quantizer = VectorQuantizer(16, 2, estimator)
    data = draw(2000)

    def error() -> float:
        quantizer.eval()
        with torch.no_grad():
            value = float((quantizer(data).quantized - data).square().sum(-1).mean())
        quantizer.train()
        return value

    before = error()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    for step in range(300):
        x = draw(128)
        out = quantizer(x)
        loss = (out.quantized - x).square().sum(-1).mean() + out.auxiliary_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 24 and step < 200:
            quantizer.replace_dead()
    # 0.08 is the variance inside the clusters, about 200 that of the data about the start.
    assert before > 100
    assert error() < 3
    assert quantizer(data).perplexity[0] > 10
