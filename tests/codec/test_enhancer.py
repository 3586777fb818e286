"""Enhancer: bounded, relative to the envelope, noise where nothing was coded, any pieces."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from codec import Codec
from codec import enhancer as e
from codec.bitstream import intra_packets, read_stream
from codec.config import (
    BAND_EDGES,
    BLOCKS_PER_FRAME,
    DETAIL_EDGES,
    HOP_LENGTH,
    NUM_BANDS,
    NUM_LTPF_BANDS,
)
from codec.decoder import _joined, decode_spectra, enhance_spectra
from codec.dsp import noise
from codec.enhancer_network import PARAMETERS
from codec.plc import SILENCE

FRAMES = 60
LAST_BAND_CENTRE = 143  # beyond it, the envelope is extrapolated by its last value


def enhance(
    codec: Codec, parameters: np.ndarray, spectra: np.ndarray, cuts: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return enhanced spectra and gains of the postfilter, computed in pieces."""
    frames = codec.frame_decoder(codec.header(0, 16000, 13.2))
    enhanced = np.empty_like(spectra)
    gains = np.empty((len(spectra), BLOCKS_PER_FRAME, NUM_LTPF_BANDS), np.float32)
    edges = [0, *cuts, len(spectra)]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        part = slice(first, last)
        enhance_spectra(
            frames.model, frames.state, parameters[part], spectra[part], enhanced[part], gains[part]
        )
    assert frames.state["enhancer"]["frame"] == len(spectra)
    return enhanced, gains


@pytest.fixture(scope="module")
def decoded(codec: Codec, speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the enhancer is given of speech at 9.6 kbit/s; some frames are lost."""
    data = codec.encode(speech[: FRAMES * 320 - 160], 16000, 9.6, independent=True)
    header, packets = read_stream(data)
    kept = [None if p in (20, 21, 22, 40) else packet for p, packet in enumerate(packets)]
    frames = codec.frame_decoder(header)
    parameters = np.zeros(FRAMES, PARAMETERS)
    spectra = np.empty((FRAMES, BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    intra = intra_packets(FRAMES, True)
    decode_spectra(frames.model, frames.state, _joined(kept), intra, parameters, spectra)
    return parameters, spectra


def steady(envelope: float, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return frames of a flat envelope in which nothing is coded."""
    parameters = np.zeros(count, PARAMETERS)
    parameters["envelope"], parameters["log_step"] = envelope, envelope + 1
    parameters["log_bits"], parameters["lag"], parameters["uncoded"] = 8.0, 100, 1
    return parameters, np.zeros((count, BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)


def noise_of(parameters: np.ndarray) -> np.ndarray:
    """Return the noise of the first frames of a file."""
    out = np.empty((len(parameters), BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    for number, frame in enumerate(out):
        noise.fill(number, parameters["periodicity"][number], frame)
    return out


@pytest.mark.parametrize("cuts", [(1, 2, 3), (7, 8, 24, 25), tuple(range(1, FRAMES))])
def test_frames_in_any_pieces(codec: Codec, decoded: tuple, cuts: tuple[int, ...]) -> None:
    whole = enhance(codec, *decoded)
    pieces = enhance(codec, *decoded, cuts)
    assert np.array_equal(whole[0], pieces[0]) and np.array_equal(whole[1], pieces[1])


def test_gains_are_bounded_and_shut_where_nothing_is_periodic(codec: Codec, decoded: tuple) -> None:
    parameters, spectra = decoded
    _, gains = enhance(codec, parameters, spectra)
    assert gains.min() >= 0 and gains.max() <= 1
    shut = parameters["periodicity"] <= e.PERIODIC_FROM
    assert 0 < shut.sum() < shut.size
    assert not gains[shut].any() and (gains[~shut] > 0).all()


def test_noise_where_nothing_was_coded(codec: Codec) -> None:
    """Far from coded coefficients there is the file's noise, and no fixed pattern."""
    parameters, spectra = steady(-5.0)
    spectra[:, 0, 80] = 0.1
    parameters["uncoded"] = 1
    parameters["uncoded"][:, 0, 80] = 0
    enhanced, _ = enhance(codec, parameters, spectra)
    far = np.abs(np.arange(HOP_LENGTH) - 80) > e.VALUE_REACH
    assert np.array_equal(np.sign(enhanced)[..., far], np.sign(noise_of(parameters))[..., far])
    # Between the least and the largest level that it can have.
    power = np.square(enhanced) / 2.0**-10
    level = np.add.reduceat(power, BAND_EDGES[:-1], axis=-1) / np.diff(BAND_EDGES)
    assert level.min() > 0 and level.max() <= 1.02 * e.HEADROOM


def test_silence_stays_silent(codec: Codec) -> None:
    enhanced, _ = enhance(codec, *steady(float(SILENCE), 100))
    assert np.abs(enhanced).max() < np.exp(e.NOISE_MAX) * 2.0**SILENCE
    assert np.sqrt(np.square(enhanced).mean()) < 4 * 2.0**SILENCE


def test_output_scales_with_the_envelope(codec: Codec, decoded: tuple) -> None:
    """The enhancer knows nothing of the level, here as 96 dB lower."""
    scaled = []
    for octaves in (0, 16):
        parameters, spectra = decoded[0].copy(), decoded[1] * np.float32(2.0**-octaves)
        parameters["envelope"] -= octaves
        parameters["log_step"] -= octaves
        scaled.append(enhance(codec, parameters, spectra)[0])
    error = np.square(scaled[0] - 2.0**16 * scaled[1]).sum() / np.square(scaled[0]).sum()
    assert error < 1e-6


def band_power(x: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.square(x[..., a:b].astype(np.float64)).mean(-1) for a, b in pairwise(BAND_EDGES)], -1
    )


def detailed_envelope(codec: Codec, parameters: Any) -> np.ndarray:
    """Return the envelope with its detail at each coefficient, [P, 2, N]."""
    model = codec._decoder["enhancer"]
    envelope, detail = parameters["envelope"], parameters["detail"]
    band, above = model["interpolation"].T
    band = band.astype(int)
    octaves = (1 - above) * envelope[:, band] + above * envelope[:, band + 1]
    band, above = model["detail"].T
    band = band.astype(int)
    finer = (1 - above) * detail[:, :, band] + above * detail[:, :, band + 1]
    finer[:, :, : DETAIL_EDGES[0]] = 0
    return np.exp2((octaves[:, None] + finer).astype(np.float64))


@pytest.mark.parametrize("gain", [1.0, 1000.0])
def test_no_band_gets_loud(codec: Codec, decoded: tuple, gain: float) -> None:
    """At most 3 dB over envelope, detail or decoded coefficients, whatever the network makes."""
    parameters, spectra = decoded[0].copy(), decoded[1].copy()
    spectra[:20] *= np.float32(gain)  # far from what was trained
    enhanced, gains = enhance(codec, parameters, spectra)
    envelope = 2.0 ** (2.0 * parameters["envelope"].astype(np.float64))[:, None]
    detailed = band_power(detailed_envelope(codec, parameters))
    allowed = e.HEADROOM * np.maximum(np.maximum(envelope, detailed), band_power(spectra))
    assert (band_power(enhanced) <= 1.001 * allowed).all()


def test_received_coefficients_stay_in_their_cells(codec: Codec, decoded: tuple) -> None:
    """Within one step of what was decoded, but for the share of the postfilter."""
    parameters, spectra = decoded
    shut = parameters.copy()
    shut["periodicity"] = 0
    enhanced, gains = enhance(codec, shut, spectra)
    assert not gains.any()
    received = parameters["loss"][:, 0] < 0.5
    width = 2.0 ** parameters["log_step"].max(1)  # of the coarsest band
    moved = np.abs(enhanced - spectra).max((1, 2))
    assert (moved[received] <= 1.001 * width[received]).all()
    assert (enhanced != spectra).any((1, 2)).all()


@pytest.mark.parametrize("octaves", [-23.0, 0.0, 23.0])
def test_extremes_are_finite(codec: Codec, octaves: float) -> None:
    rng = np.random.default_rng(0)
    parameters: Any = np.zeros(30, PARAMETERS)
    parameters["envelope"] = octaves + rng.uniform(-1, 1, (30, NUM_BANDS))
    parameters["log_step"] = rng.uniform(-40, 40, (30, NUM_BANDS))
    parameters["log_bits"] = rng.uniform(0, 11, 30)
    parameters["lag"] = rng.integers(32, 320, (30, BLOCKS_PER_FRAME))
    parameters["periodicity"] = rng.random((30, BLOCKS_PER_FRAME))
    parameters["loss"] = rng.random((30, 3)) * (rng.random((30, 1)) < 0.3)
    spectra = rng.standard_normal((30, BLOCKS_PER_FRAME, HOP_LENGTH)) * 1e7
    spectra = (spectra * (rng.random(spectra.shape) < 0.3)).astype(np.float32)
    enhanced, gains = enhance(codec, parameters, spectra)
    assert np.isfinite(enhanced).all() and np.isfinite(gains).all()
