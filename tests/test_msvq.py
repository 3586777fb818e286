"""The envelope's multi-stage quantizer, alone and within the whole graph; the M-best search."""

import numpy as np
import pytest
import torch

from codec import Codec
from codec.config import CodecConfig
from codec.encoder import analyse
from codec.mdct import mdct
from codec.packet import SEARCH_LAMBDA, search_envelope
from codec.weights import Weights
from models.codec_net import CodecNet, CodecOutput, intra_stages
from models.context import ContextModel
from models.training.export import build_tables, import_net
from models.training.losses import CodecLoss
from models.msvq import PredictiveMSVQ

DIM = 6
SMALL = CodecConfig(codebook_bits=4, enhancer_hidden=16, allocation_hidden=16)


def make(num_stages: int = 3, size: int = 8) -> PredictiveMSVQ:
    torch.manual_seed(0)
    msvq = PredictiveMSVQ(num_stages, size, DIM)
    with torch.no_grad():
        msvq.bias.normal_()
        msvq.predictor.add_(0.05 * torch.randn(DIM, DIM))
        msvq.initial.normal_()
    return msvq


# --------------------------------------------------------------------------------------------------
# Alone


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
            torch.testing.assert_close(
                decoded[b, t].detach().double(), value, rtol=1e-4, atol=1e-4
            )
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


# --------------------------------------------------------------------------------------------------
# Within the graph


def speech_batch(speech: np.ndarray, packets: int = 24) -> torch.Tensor:
    length = (2 * packets - 1) * 160
    return torch.from_numpy(np.stack([speech[start : start + length] for start in (3000, 20000)]))


def run_graph(speech: np.ndarray, hard: bool = False) -> tuple[CodecNet, CodecOutput]:
    torch.manual_seed(0)
    net = CodecNet(SMALL)
    waveform = speech_batch(speech)
    with torch.no_grad():
        for parameter in net.parameters():
            # Those that are zero at the start make all gradients before them zero.
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.05)
        spectrum = mdct(waveform, 48, 160).view(2, 24, 2, 160)
        envelope = net.analysis(waveform, spectrum)
        net.msvq.initialise(envelope)
        net.intra_msvq.initialise(envelope)
    net.train()
    bits = torch.full((2, 24), 264.0)
    # Both kinds of packets, and losses: then every part has its use.
    intra = torch.tensor([False, True])
    lost = torch.zeros(2, 24, dtype=torch.bool)
    lost[1, 10:12] = True
    out = net(waveform, bits, torch.tensor([4, 3]), hard, intra, lost)
    loss, terms = CodecLoss()(waveform, out.waveform)
    assert loss.shape == (2,)
    assert all(torch.isfinite(value).all() for value in terms.values())
    (loss.mean() + out.vq.auxiliary_loss).backward()
    return net, out


def test_gradients_reach_every_part(speech: np.ndarray) -> None:
    net, _ = run_graph(speech)
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            assert name == "intra_msvq.predictor" and not parameter.any()
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name
    for part in (net.msvq, net.intra_msvq):
        gradient = part.codebooks.grad
        assert gradient is not None
        assert ((gradient != 0).flatten(1).any(-1)).all()  # every stage


def test_hard_envelope_freezes_its_quantizer(speech: np.ndarray) -> None:
    net, out = run_graph(speech, hard=True)
    assert torch.equal(out.vq.quantized, out.vq.hard)
    for name, parameter in net.named_parameters():
        if name.startswith(("msvq.", "intra_msvq.", "analysis.")):
            assert parameter.grad is None or (parameter.grad == 0).all(), name
        else:
            assert parameter.grad is not None and (parameter.grad != 0).any(), name


def test_packets_that_need_no_other_have_no_prediction(codec: Codec, speech: np.ndarray) -> None:
    """Their envelope is the same, wherever in a sequence they stand."""
    net = import_net(codec.weights)
    with torch.no_grad():
        waveform = speech_batch(speech)
        envelope = net.analysis(waveform, mdct(waveform, 48, 160).view(2, 24, 2, 160))
        stages = torch.tensor([3, 4])
        forwards = net.eval().intra_msvq(envelope, stages).hard
        backwards = net.intra_msvq(envelope.flip(1), stages).hard.flip(1)
        assert torch.equal(forwards, backwards)
        assert not torch.equal(
            net.msvq(envelope, stages).hard, net.msvq(envelope.flip(1), stages).hard.flip(1)
        )


@pytest.mark.parametrize("intra", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_bits_are_met_inside_the_graph(
    codec: Codec,
    demo_speech: np.ndarray,
    training: bool,
    intra: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budgets = []
    original = CodecNet.search_step

    def search_step(net: CodecNet, *arguments: torch.Tensor) -> torch.Tensor:
        budgets.append(arguments[-1])
        return original(net, *arguments)

    monkeypatch.setattr(CodecNet, "search_step", search_step)
    net = import_net(codec.weights).train(training)
    waveform = torch.from_numpy(demo_speech[: 199 * 160])[None].repeat(4, 1)
    stages = torch.tensor([2, 3, 3, 4])
    bits = torch.tensor([[160.0], [264.0], [400.0], [640.0]]).expand(4, 100)
    with torch.no_grad():
        out = net(waveform, bits, stages, intra=torch.full((4,), intra))
    (budget,) = budgets
    if intra:
        stages = intra_stages(stages, net.config)
    # In Laplace bits: what the packet has left beside the envelope, over the model's saving.
    left = bits - net.config.codebook_bits * stages[:, None]
    assert (budget > 0.9 * left).all() and (budget < 1.35 * left).all()
    ratio = out.bits / budget
    assert (ratio < 1 + 1e-4).all()  # never more than the packet holds
    assert (ratio.median(1).values > 0.97).all()
    assert (ratio.mean(1) > 0.95).all()


# --------------------------------------------------------------------------------------------------
# M-best search on the integer tables


def chosen(weights: Weights, target: np.ndarray, previous: np.ndarray, stages: int, survivors: int):
    indices = np.zeros(8, np.int64)
    search_envelope(weights.tables, previous, target, stages, survivors, indices)
    assert not indices[stages:].any()
    return indices[:stages]


def objective(weights: Weights, residual: np.ndarray, stage: int) -> np.ndarray:
    """Return what the search minimises for each codeword of a stage: error and bits, [K]."""
    t = weights.tables
    error = np.square(residual - t.codebooks[stage].astype(np.int64)).sum(-1)
    return error + float(SEARCH_LAMBDA) * t.index_cost[stage]


def predict(weights: Weights, previous: np.ndarray) -> np.ndarray:
    t = weights.tables
    return ((t.predictor.astype(np.int64) @ previous + 2048) >> 12) + t.bias


def cases(codec: Codec, speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return targets, whole so that float32 is exact, and previous envelopes, both [P, bands]."""
    envelopes, _ = analyse(codec.analysis, codec.config, speech[:32000], 101)
    target = np.round(envelopes).astype(np.float32)
    return target[1:], target[:-1].astype(np.int32)


def test_one_stage_is_brute_force(codec: Codec, speech: np.ndarray) -> None:
    for target, previous in zip(*cases(codec, speech), strict=True):
        wanted = objective(codec.weights, target - predict(codec.weights, previous), 0).argmin()
        for survivors in (1, 8):
            assert chosen(codec.weights, target, previous, 1, survivors)[0] == wanted


def test_one_survivor_is_greedy(codec: Codec, speech: np.ndarray) -> None:
    codebooks = codec.weights.tables.codebooks.astype(np.int64)
    for target, previous in zip(*cases(codec, speech), strict=True):
        residual = target - predict(codec.weights, previous)
        for s, index in enumerate(chosen(codec.weights, target, previous, 3, 1)):
            assert index == objective(codec.weights, residual, s).argmin()
            residual = residual - codebooks[s, index]


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_more_survivors_are_better(codec: Codec, speech: np.ndarray, stages: int) -> None:
    totals = {1: 0.0, 8: 0.0}
    for target, previous in zip(*cases(codec, speech), strict=True):
        for survivors in totals:
            residual = target - predict(codec.weights, previous)
            indices = chosen(codec.weights, target, previous, stages, survivors)
            for s, index in enumerate(indices):
                residual = residual - codec.weights.tables.codebooks[s, index]
                totals[survivors] += SEARCH_LAMBDA * codec.weights.tables.index_cost[s, index]
            totals[survivors] += float(np.square(residual).sum())
    assert totals[8] < totals[1]


def test_many_survivors_find_the_best_path() -> None:
    """With as many survivors as codewords, two stages are searched in full."""
    torch.manual_seed(0)
    config = CodecConfig(num_stages=2, codebook_bits=3, allocation_hidden=8, enhancer_hidden=8)
    nothing = np.zeros((0, 8), np.int64)
    drawn = np.random.default_rng(1).geometric(0.5, (500, 2)).clip(1, 8) - 1  # not all alike
    tables = build_tables(
        CodecNet(config), ContextModel(config), nothing[:, :2], drawn, np.full(500, 2)
    )
    codebooks = tables.codebooks.astype(np.int64)
    rng = np.random.default_rng(0)
    previous = tables.initial
    predicted = ((tables.predictor.astype(np.int64) @ previous + 2048) >> 12) + tables.bias
    for _ in range(50):
        target = np.round(predicted + 300 * rng.standard_normal(20)).astype(np.float32)
        indices = np.zeros(8, np.int64)
        search_envelope(tables, previous, target, 2, 8, indices)
        sums = codebooks[0][:, None] + codebooks[1][None]
        bits = tables.index_cost[0][:, None] + tables.index_cost[1]
        total = np.square(target - predicted - sums).sum(-1) + float(SEARCH_LAMBDA) * bits
        assert total[indices[0], indices[1]] == total.min()


def test_equal_codewords_give_the_lowest_index(codec: Codec) -> None:
    tables = codec.weights.tables
    codebooks = tables.codebooks.copy()
    codebooks[:, 1::2] = codebooks[:, 0::2]  # every codeword twice
    cost = tables.index_cost.copy()
    cost[:, 1::2] = cost[:, 0::2]
    doubled = tables._replace(codebooks=codebooks, index_cost=cost)
    rng = np.random.default_rng(0)
    for _ in range(20):
        target = np.round(tables.initial + 500 * rng.standard_normal(20)).astype(np.float32)
        indices = np.zeros(8, np.int64)
        search_envelope(doubled, tables.initial, target, 3, 8, indices)
        assert not (indices[:3] & 1).any()
