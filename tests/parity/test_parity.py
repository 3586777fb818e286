"""Runtime against training graph: each stage's kernel and its torch twin on the demo's speech.

Training is only worth something if what it improves is what the codec computes.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "codec" / "coding"))

from frames import chosen_frames, frame_encoder  # noqa: E402

from codec import Codec, decoder  # noqa: E402
from codec.bitstream import intra_packets, read_stream  # noqa: E402
from codec.coding import context as c  # noqa: E402
from codec.coding.allocation import allocate  # noqa: E402
from codec.coding.detail import DETAIL_LIMIT  # noqa: E402
from codec.coding.frame import look_around  # noqa: E402
from codec.coding.spectrum import price  # noqa: E402
from codec.config import (  # noqa: E402
    BLOCKS_PER_FRAME,
    FRAME_LENGTH,
    HOP_LENGTH,
    LOG_ONE,
    NUM_BANDS,
    NUM_LTPF_BANDS,
    TABLE_COLUMNS,
)
from codec.dsp import lpc, ltpf, mdct, noise  # noqa: E402
from codec.encoder import block_dc  # noqa: E402
from codec.enhancer_network import PARAMETERS  # noqa: E402
from codec.records import new  # noqa: E402
from models import dsp as twin  # noqa: E402
from models.codec_net import CodecNet, Quantized  # noqa: E402
from models.enhancer import DecodedFrames  # noqa: E402
from models.training.coded import decoded_frames  # noqa: E402
from models.training.export import import_context, import_net  # noqa: E402

FRAMES = 150  # 3 s


@pytest.fixture(scope="module")
def wave(demo_speech: np.ndarray) -> np.ndarray:
    """Three seconds of all speakers; the last block is silent, as the graph's is."""
    half = FRAMES * FRAME_LENGTH // 2
    cut = np.concatenate([demo_speech[16000 : 16000 + half], demo_speech[80000 : 80000 + half]])
    cut[-HOP_LENGTH:] = 0
    return cut


@pytest.fixture(scope="module")
def net(codec: Codec) -> CodecNet:
    return import_net(codec.weights).eval()


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.inference_mode():
        yield


def snr(wanted: np.ndarray, got: np.ndarray) -> float:
    error = np.square(wanted.astype(np.float64) - got).sum()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / error))


def tensor(values: np.ndarray) -> Any:
    """Return a batch of one."""
    return torch.from_numpy(np.ascontiguousarray(values))[None]


# --------------------------------------------------------------------------------------------------
# Signal processing


def test_mdct(wave: np.ndarray) -> None:
    blocks = FRAMES * BLOCKS_PER_FRAME
    padded = np.concatenate([np.zeros(HOP_LENGTH, np.float32), wave])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP_LENGTH)[::HOP_LENGTH].copy()
    transform, spectrum = mdct.make_transform(), np.empty((blocks, HOP_LENGTH), np.float32)
    mdct.forward(transform, windows, spectrum)
    length = len(wave) - HOP_LENGTH
    wanted = twin.mdct(tensor(wave[:length]), blocks)
    np.testing.assert_allclose(spectrum, wanted[0].numpy(), atol=1e-5)
    samples = np.empty(blocks * HOP_LENGTH, np.float32)
    mdct.inverse(transform, spectrum, np.zeros(HOP_LENGTH, np.float32), samples)
    back = twin.inverse_mdct(tensor(spectrum), length)[0].numpy()
    np.testing.assert_allclose(samples[HOP_LENGTH:], back, atol=1e-5)


def test_lpc_envelope(wave: np.ndarray) -> None:
    frames = wave[: len(wave) // lpc.FRAME * lpc.FRAME].reshape(-1, lpc.FRAME)
    prediction, got = lpc.make_prediction(), np.empty((len(frames), HOP_LENGTH), np.float32)
    for frame, out in zip(frames, got, strict=True):
        lpc.envelope(prediction, frame, out)
    wanted = twin.lpc_envelope(torch.from_numpy(frames)).numpy()
    # Octaves; both add in float32, in another order.
    np.testing.assert_allclose(got, wanted, atol=0.1)
    assert np.abs(got - wanted).mean() < 0.005


def test_pitch(wave: np.ndarray) -> None:
    lags, periodicities = twin.track_pitch(tensor(wave))
    got = [
        ltpf.track_pitch(wave[start : start + ltpf.FRAME])
        for start in range(0, len(wave) - ltpf.FRAME + 1, HOP_LENGTH)
    ]
    same = np.array([lag for _, lag in got]) == lags[0].numpy()
    assert same.mean() > 0.98  # two lags may be equally good but for rounding
    values = np.array([periodicity for periodicity, _ in got])
    np.testing.assert_allclose(values[same], periodicities[0].numpy()[same], atol=1e-3)


def test_postfilter(wave: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    segments = 100
    x = wave[: segments * HOP_LENGTH]
    lag = rng.integers(ltpf.MIN_LAG, ltpf.MAX_LAG, segments)
    gain = rng.random((segments, NUM_LTPF_BANDS), np.float32)
    state, got = new(ltpf.FILTER_STATE), np.empty_like(x)
    for i in range(segments):
        part = slice(i * HOP_LENGTH, (i + 1) * HOP_LENGTH)
        ltpf.postfilter(state, x[part], lag[i], gain[i], got[part])
    lags = np.concatenate([[ltpf.MIN_LAG], lag])
    gains = np.concatenate([np.zeros((1, NUM_LTPF_BANDS), np.float32), gain])
    history = np.zeros(ltpf.HISTORY, np.float32)
    wanted = twin.comb_filter(tensor(np.concatenate([history, x])), tensor(lags), tensor(gains))
    assert snr(wanted[0].numpy()[:-HOP_LENGTH], got[:-HOP_LENGTH]) > 90


# --------------------------------------------------------------------------------------------------
# Encoder


def test_encoder_front_end(codec: Codec, net: CodecNet, wave: np.ndarray) -> None:
    """Both cut the same frames, propose the same envelopes, and see the same detail."""
    spectra, proposed = frame_encoder(codec).analyse(wave)
    state, clean = frame_encoder(codec).state, np.empty_like(wave)
    for start in range(0, len(wave), FRAME_LENGTH):
        part = slice(start, start + FRAME_LENGTH)
        block_dc(state, wave[part], clean[part])
    clean[-HOP_LENGTH:] = 0
    spectrum, envelope = net.analyse(tensor(clean[:-HOP_LENGTH]), FRAMES)
    spectra, proposed = spectra[:-1], proposed[:-1]  # the graph's last block is silent
    detail = net.detail.find(tensor(clean), torch.zeros_like(envelope), limit=99.0)[0, :-1]
    spectrum, envelope = spectrum[:, :-1], envelope[:, :-1]
    np.testing.assert_allclose(proposed[:, NUM_BANDS:], LOG_ONE * detail.numpy(), atol=2)
    envelopes = proposed[:, :NUM_BANDS]
    np.testing.assert_allclose(spectra, spectrum[0].numpy(), atol=1e-5)
    wanted = LOG_ONE * envelope[0].numpy()
    np.testing.assert_allclose(envelopes, wanted, atol=8)
    assert np.abs(envelopes - wanted).mean() < 0.5


@pytest.mark.parametrize("rate", [8.0, 13.2, 32.0])
def test_step_offsets(codec: Codec, net: CodecNet, wave: np.ndarray, rate: float) -> None:
    """Integer network against the float one, both with the stored weights; Q8 octaves."""
    data = codec.encode(wave, 16000, rate)
    integers = codec.decode_integers(data)[1]
    envelope = integers.envelope[1:]
    previous = integers.envelope[:-1]
    bits = round(20 * rate) // 8 * 8
    model = codec._encoder["coding"]["allocation"]
    got = np.empty_like(envelope)
    for now, before, out in zip(envelope, previous, got, strict=True):
        allocate(model, now, before, bits, out)
    log_bits = torch.full((1, len(envelope)), float(np.log2(bits)))
    octaves = [tensor(values).float() / LOG_ONE for values in (envelope, previous)]
    wanted = LOG_ONE * net.allocation(*octaves, log_bits)[0].numpy()
    np.testing.assert_allclose(got, wanted, atol=6)
    assert np.abs(got - wanted).mean() < 1.5


@pytest.mark.parametrize("intra", [False, True])
def test_context_positions(codec: Codec, wave: np.ndarray, intra: bool) -> None:
    """Row and column between the tables, in sixteenths of their distance."""
    features, positions, kinds, frame_bytes = [], [], [], 33
    for model, state, _ in chosen_frames(codec, wave[:16000], frame_bytes, intra):
        coding = state["coding"]
        look_around(model, coding, 8 * frame_bytes)
        price(model["context"], coding)
        features.append(coding["context"]["features"].copy())
        positions.append(coding["positions"].copy())
        kinds.append(int(coding["known"]["kind"]))
    seen, got = np.stack(features), np.stack(positions)
    shape = seen.shape[:-1]  # frames, blocks, coefficients
    block = np.add.outer(kinds, np.arange(BLOCKS_PER_FRAME))
    block = np.broadcast_to(block[..., None], shape)
    band = np.broadcast_to(c.BAND_OF_BIN, shape)
    wanted = import_context(codec.weights, intra).position(
        torch.from_numpy(seen.reshape(-1, seen.shape[-1])).float(),
        torch.from_numpy(block.reshape(-1).copy()),
        torch.from_numpy(band.reshape(-1).copy()),
    )
    index, row, column = got.reshape(-1, 3).T
    tables = codec._encoder["coding"]["context"]["cdf"].shape[0] // TABLE_COLUMNS
    row = row / c.TABLE_PARTS + index // TABLE_COLUMNS
    column = column / c.TABLE_PARTS + index % TABLE_COLUMNS
    # The graph stops a little before the last table, the kernel at it.
    inner = row < tables - 1.1
    assert inner.mean() > 0.9
    for mine, theirs in ((row[inner], wanted[0].numpy()[inner]), (column, wanted[1].numpy())):
        error = np.abs(mine - theirs)
        assert np.mean(error) < 1 / 16
        assert np.quantile(error, 0.999) < 0.25


# --------------------------------------------------------------------------------------------------
# Decoder


class Decoded(NamedTuple):
    """What the decoder has after its first stage, and what it makes of it."""

    lost: np.ndarray
    integers: decoder.DecodedIntegers
    parameters: np.ndarray
    spectra: np.ndarray
    enhanced: np.ndarray
    gains: np.ndarray
    samples: np.ndarray


def losses(name: str) -> np.ndarray:
    lost = np.zeros(FRAMES, np.bool_)
    if name == "bursts":
        for start, length in ((12, 1), (30, 3), (70, 12), (110, 2)):
            lost[start : start + length] = True
    elif name == "random":
        lost = np.random.default_rng(3).random(FRAMES) < 0.2
        lost[0] = True
    return lost


@pytest.fixture(scope="module", params=["none", "bursts", "random"])
def decoded(request: pytest.FixtureRequest, codec: Codec, wave: np.ndarray) -> Decoded:
    data = codec.encode(wave, 16000, 16.4, independent=True)
    header, packets = read_stream(data)
    lost, packets = losses(request.param), packets[:FRAMES]
    kept = [None if gone else packet for gone, packet in zip(lost, packets, strict=True)]
    intra = intra_packets(FRAMES, True)
    integers = codec.frame_decoder(header).integers(kept, intra)
    frames = codec.frame_decoder(header)
    parameters = np.zeros(FRAMES, PARAMETERS)
    spectra = np.empty((FRAMES, BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    enhanced, samples = np.empty_like(spectra), np.empty(FRAMES * FRAME_LENGTH, np.float32)
    gains = np.empty((FRAMES, BLOCKS_PER_FRAME, NUM_LTPF_BANDS), np.float32)
    model, state = frames.model, frames.state
    decoder.decode_spectra(model, state, decoder._joined(kept), intra, parameters, spectra)
    decoder.enhance_spectra(model, state, parameters, spectra, enhanced, gains)
    decoder.synthesize(model, state, parameters, enhanced, gains, samples)
    return Decoded(lost, integers, parameters, spectra, enhanced, gains, samples)


def graph_frames(net: CodecNet, decoded: Decoded) -> DecodedFrames:
    """Return what the graph's decoder has after its first stage."""
    integers, lost = decoded.integers, decoded.lost
    envelope = tensor(integers.envelope).float() / LOG_ONE
    band_step = tensor(integers.step[:, None] + integers.offset).float() / LOG_ONE
    width = torch.exp2(band_step @ net.interpolation.T)[:, :, None]
    coefficients = tensor(integers.levels).float() * width
    uncoded = tensor(integers.levels == 0).float()
    long = tensor(integers.long == 1)
    blocks = long[..., None, None]
    coefficients = torch.where(blocks, twin.to_short(coefficients), coefficients)
    uncoded = torch.where(blocks, uncoded.prod(2, keepdim=True), uncoded)
    quantized = Quantized(coefficients, coefficients, uncoded)
    detail = tensor(integers.detail).float().unflatten(-1, (BLOCKS_PER_FRAME, -1)) / LOG_ONE
    log_bits = tensor(np.where(lost, 8.0, decoded.parameters["log_bits"])).float()
    return net.conceal(quantized, detail, envelope, band_step, log_bits, long, tensor(lost))


def test_spectra_and_concealment(net: CodecNet, decoded: Decoded) -> None:
    """Dequantized or concealed coefficients, and all that the enhancer is told of each frame."""
    wanted, got, lost = graph_frames(net, decoded), decoded.parameters, decoded.lost
    assert (decoded.integers.received == ~lost).all()
    assert wanted.loss is not None
    np.testing.assert_array_equal(got["loss"], wanted.loss[0].numpy())
    np.testing.assert_array_equal(got["envelope"], wanted.envelope[0].numpy())
    np.testing.assert_array_equal(got["log_step"], wanted.band_step[0].numpy())
    np.testing.assert_array_equal(got["log_bits"], wanted.log_bits[0].numpy())
    np.testing.assert_array_equal(got["long"], wanted.long[0].numpy())
    np.testing.assert_array_equal(got["uncoded"], wanted.uncoded[0].numpy())
    detail = wanted.detail[0].numpy().clip(-DETAIL_LIMIT, DETAIL_LIMIT)
    np.testing.assert_array_equal(got["detail"], detail)
    assert got["detail"].any((1, 2)).sum() == (~lost).sum()
    assert 0.1 < got["long"].mean() < 0.9
    # The kernel rounds the interpolated steps to 1/256 octave.
    relative = (decoded.spectra - wanted.coefficients[0].numpy())[~lost]
    assert np.abs(relative).max() < 0.003 * np.abs(decoded.spectra).max()
    assert snr(wanted.coefficients[0].numpy(), decoded.spectra) > 45
    same = got["lag"] == wanted.lag[0].numpy()
    assert same.mean() > 0.97 and (not lost.any() or same[lost].mean() > 0.9)
    error = np.abs(got["periodicity"] - wanted.periodicity[0].numpy())[same]
    assert np.quantile(error, 0.99) < 0.01


def test_enhancer(net: CodecNet, decoded: Decoded) -> None:
    filling = np.empty((FRAMES, BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    for number, out in enumerate(filling):
        noise.fill(number, decoded.parameters["periodicity"][number], out)
    lossy = bool(decoded.lost.any())
    frames = decoded_frames(decoded.parameters[None], decoded.spectra[None], lossy)
    spectrum, comb = net.enhance(frames, tensor(filling))
    assert snr(spectrum[0].numpy(), decoded.enhanced) > 45
    np.testing.assert_allclose(decoded.gains, comb[0].numpy(), atol=0.01)


def test_synthesis(net: CodecNet, decoded: Decoded) -> None:
    """Inverse transform and postfilter of the same spectra and gains."""
    frames = decoded_frames(decoded.parameters[None], decoded.spectra[None], True)
    length = len(decoded.samples) - HOP_LENGTH
    got = decoded.samples[HOP_LENGTH:]
    # The graph's segments begin one hop later than the decoder's: 2F - 1 blocks are complete.
    comb = tensor(decoded.gains)
    wanted = net.synthesize(tensor(decoded.enhanced), frames, comb, length)[0].numpy()
    assert snr(wanted, got) > 80


def test_envelope_decoding(codec: Codec, net: CodecNet, wave: np.ndarray) -> None:
    """Prediction and codewords in integers against the float quantizer."""
    encoder = frame_encoder(codec)
    spectra, envelopes = encoder.analyse(wave[: 50 * FRAME_LENGTH])
    stages = int(encoder.state["stages"][0])
    indices, got, previous = [], [], [encoder.state["coding"]["past"]["shape"].copy()]
    for p in range(50):
        encoder.encode(spectra[p : p + 1], envelopes[p : p + 1], np.array([33]), np.array([False]))
        frame = encoder.state["coding"]["frame"]
        indices.append(frame["indices"][: codec.config.num_stages].copy())
        got.append(frame["shape"].copy())
        previous.append(got[-1])
    before = tensor(np.stack(previous[:-1])).float() / LOG_ONE
    chosen = tensor(np.stack(indices)).long()
    chosen[..., stages:] = 0
    wanted = net.msvq.decode(chosen, before, torch.tensor([stages]))
    assert wanted.shape == (1, 50, NUM_BANDS)
    np.testing.assert_allclose(np.stack(got), LOG_ONE * wanted[0].numpy(), atol=1.0)
