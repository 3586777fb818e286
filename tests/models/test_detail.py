"""Detail of the envelope in the graph, and that the runtime has the same."""

import numpy as np
import pytest
import torch

from codec import Codec
from codec.coding.detail import DETAIL_LIMIT
from codec.config import LOG_ONE, NUM_DETAIL_STAGES
from models.detail import DetailMSVQ, detail_stages, rest_bits
from models.training.export import import_net


def test_larger_frames_have_more_stages() -> None:
    bits = torch.tensor([96.0, 160.0, 239.0, 240.0, 264.0, 488.0, 640.0, 2048.0])
    stages = detail_stages(bits)
    assert stages[0] == 0 and stages[-1] == NUM_DETAIL_STAGES
    assert (stages.diff() >= 0).all()
    assert torch.equal(rest_bits(bits), bits - 8 * stages)


@pytest.mark.parametrize("rate", [8.0, 13.2, 32.0])
def test_decoded_detail_is_near_the_signals(codec: Codec, speech: np.ndarray, rate: float) -> None:
    """What was sent is what the graph finds in the speech, the nearer the higher the rate."""
    wave = np.ascontiguousarray(speech[: 100 * 320])
    got = codec.decode_integers(codec.encode(wave, 16000, rate, keep_offset=True))[1]
    detail = import_net(codec.weights).detail
    envelope = torch.from_numpy((got.envelope[None] / LOG_ONE).astype(np.float32))
    wanted = detail.find(torch.from_numpy(wave)[None], envelope)[0].numpy()
    sent = got.detail / LOG_ONE
    loud = got.envelope.mean(1) > got.envelope.mean(1).max() - 6 * LOG_ONE
    without, error = (np.square(wanted - x)[loud].mean() for x in (wanted.mean(0), sent))
    assert error < {8.0: 0.75, 13.2: 0.6, 32.0: 0.4}[rate] * without
    assert np.abs(sent).max() <= DETAIL_LIMIT + 3


def test_the_graph_decodes_indices_as_the_runtime(codec: Codec, speech: np.ndarray) -> None:
    net = import_net(codec.weights)
    encoder = codec.frame_encoder(codec.header(0, 16000, 32.0))
    spectra, proposed = encoder.analyse(np.ascontiguousarray(speech[: 12 * 320]))
    frame = encoder.state["coding"]["frame"]

    def real(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32))

    for p in range(12):
        one, past = slice(p, p + 1), encoder.state["coding"]["past"].copy()
        encoder.encode(spectra[one], proposed[one], np.array([80]), np.array([p == 0]))
        indices = torch.from_numpy(frame["detail_indices"][:NUM_DETAIL_STAGES].copy())
        own = net.intra_detail if p == 0 else net.detail
        shapes = np.concatenate([frame["shape"], past["shape"]]) / LOG_ONE
        known = own.known(real(shapes), real(past["detail"] / LOG_ONE))
        with torch.no_grad():
            value = own.decode(indices[None, None], known[None, None], torch.tensor([4]))
        np.testing.assert_allclose(LOG_ONE * value[0, 0].numpy(), frame["detail"], atol=1.0)


def test_quantization_of_frames_of_several_sizes() -> None:
    torch.manual_seed(0)
    detail = DetailMSVQ()
    shapes = torch.randn(3, 400, 52)
    waveform = 0.1 * torch.randn(3, 799 * 160)
    envelope = torch.full((3, 400, 26), -3.0)
    wanted = detail.find(waveform, envelope)
    errors = detail.initialise_from(wanted, shapes, iterations=3)
    assert all(b < a for a, b in zip(errors[:-1], errors[1:], strict=True))
    bits = torch.tensor([[96.0], [264.0], [640.0]]).expand(3, 400)
    for mode in ("train", "eval"):
        getattr(detail, mode)()
        sent = detail.quantize(wanted, shapes, bits, hard=False).quantized
        error = (sent - wanted).square().mean((1, 2))
        assert error[2] < error[1] < 2 * error[0]
        assert sent.requires_grad == (mode == "train")
    assert detail.usage.total.tolist() == [800, 800, 800, 400]


@pytest.mark.parametrize("predictive", [True, False])
def test_the_past_tells_of_the_detail_but_in_intra_frames(predictive: bool) -> None:
    """A detail that hardly moves is predicted from itself; an intra frame knows nothing of it."""
    torch.manual_seed(0)
    detail = DetailMSVQ(predictive=predictive)
    wanted = torch.randn(64, 1, 44) + 0.1 * torch.randn(64, 20, 44)
    shapes = torch.randn(64, 20, 52)
    detail.initialise_from(wanted, shapes, iterations=2)
    known = detail.known(shapes[:, 1:], wanted[:, :-1])
    left = (detail.predict(known) - wanted[:, 1:]).square().mean()
    assert left < 0.5 if predictive else left > 0.8
    assert predictive or not detail.predictor[:, 26:].any()
