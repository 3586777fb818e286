"""The graph of the whole codec: gradients, freezing, intra frames, rates."""

import numpy as np
import pytest
import torch
from conftest import synthetic_speech

from codec import Codec
from codec.config import CodecConfig
from models import rate_model
from models.codec_net import CodecNet, CodecOutput, intra_stages
from models.detail import rest_bits
from models.training.export import import_net
from models.training.losses import CodecLoss

SMALL = CodecConfig(codebook_bits=4, enhancer_hidden=16, allocation_hidden=16)
FRAMES = 24


def speech_batch(speech: np.ndarray) -> torch.Tensor:
    length = (2 * FRAMES - 1) * 160
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
        _, envelope = net.analyse(waveform, FRAMES)
        net.msvq.initialise(envelope)
        net.intra_msvq.initialise(envelope)
        shapes = torch.cat([envelope, envelope], -1)
        for detail in (net.detail, net.intra_detail):
            detail.initialise_from(detail.find(waveform, envelope), shapes)
    net.train()
    bits = torch.tensor([[400.0], [640.0]]).expand(2, FRAMES)  # all stages of detail
    # Both kinds of frames, and losses: then every part has its use.
    intra = torch.tensor([False, True])
    lost = torch.zeros(2, FRAMES, dtype=torch.bool)
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
    for part in net.quantizers:
        gradient = part.codebooks.grad
        assert gradient is not None
        assert ((gradient != 0).flatten(1).any(-1)).all()  # every stage


def test_hard_envelope_freezes_its_quantizer(speech: np.ndarray) -> None:
    net, out = run_graph(speech, hard=True)
    assert torch.equal(out.vq.quantized, out.vq.hard)
    for name, parameter in net.named_parameters():
        if name.startswith(("msvq.", "intra_msvq.", "detail.", "intra_detail.", "analysis.")):
            assert parameter.grad is None or (parameter.grad == 0).all(), name
        else:
            assert parameter.grad is not None and (parameter.grad != 0).any(), name


def test_intra_frames_have_no_prediction(codec: Codec, speech: np.ndarray) -> None:
    """Their envelope is the same, wherever in a sequence they stand."""
    net = import_net(codec.weights).eval()
    with torch.no_grad():
        _, envelope = net.analyse(speech_batch(speech), FRAMES)
        stages = torch.tensor([3, 4])
        forwards = net.intra_msvq(envelope, stages).hard
        backwards = net.intra_msvq(envelope.flip(1), stages).hard.flip(1)
        assert torch.equal(forwards, backwards)
        assert not torch.equal(
            net.msvq(envelope, stages).hard, net.msvq(envelope.flip(1), stages).hard.flip(1)
        )


@pytest.mark.parametrize("intra", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_bits_are_met(codec: Codec, demo_speech: np.ndarray, training: bool, intra: bool) -> None:
    net = import_net(codec.weights).train(training)
    waveform = torch.from_numpy(demo_speech[: 199 * 160])[None].repeat(4, 1)
    stages = torch.tensor([2, 3, 3, 4])
    bits = torch.tensor([[160.0], [264.0], [400.0], [640.0]]).expand(4, 100)
    with torch.no_grad():
        out = net(waveform, bits, stages, intra=torch.full((4,), intra))
    if intra:
        stages = intra_stages(stages, net.config)
    budget = rate_model.coefficient_budget(rest_bits(bits), stages, net.config.codebook_bits)
    # In Laplace bits: what the frame has left beside the envelope, over the model's saving.
    left = bits - net.config.codebook_bits * stages[:, None]
    assert (budget > 0.9 * left).all() and (budget < 1.35 * left).all()
    ratio = out.bits / budget
    assert (ratio < 1 + 1e-4).all()  # never more than the frame holds
    assert (ratio.median(1).values > 0.97).all()
    assert (ratio.mean(1) > 0.95).all()


def test_a_finer_step_takes_noise_away() -> None:
    """The gradient knows that levels near the threshold lose their noise when they are coded."""
    waveform = torch.from_numpy(synthetic_speech(0.49, 3))[None, :7840]
    bits, stages = torch.full((1, 25), 320.0), torch.tensor([3])
    gradients = []
    for detach in (False, True):
        torch.manual_seed(0)
        net = CodecNet(SMALL).train()
        original = net.quantize

        def quantize(*arguments: torch.Tensor, original=original, detach=detach):
            result = original(*arguments)
            return result._replace(uncoded=result.uncoded.detach()) if detach else result

        net.quantize = quantize
        net(waveform, bits, stages, True).waveform.square().mean().backward()
        gradients.append(net.allocation.network[4].bias.grad)
    assert gradients[0].abs().min() > 0.0
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("preroll", [1, 10])
def test_a_preroll_only_fills_the_memory(speech: np.ndarray, preroll: int) -> None:
    """What comes out is the same; what the enhancer learns is not."""
    waveform, stages = speech_batch(speech), torch.tensor([4, 3])
    bits = torch.full((2, FRAMES), 264.0)
    lost = torch.zeros(2, FRAMES, dtype=torch.bool)
    lost[1, preroll - 1 : preroll + 2] = True
    outputs, gradients = [], []
    for frames in (0, preroll):
        torch.manual_seed(0)
        net = CodecNet(SMALL).train()
        torch.manual_seed(1)
        out = net(waveform, bits, stages, True, torch.tensor([True, True]), lost, frames).waveform
        out[:, preroll * 320 :].square().mean().backward()
        outputs.append(out.detach())
        gradients.append(net.enhancer.inputs.weight.grad)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    assert not torch.equal(*gradients)
