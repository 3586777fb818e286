"""Variable bitrate: the total to the byte, the limits of a frame, and bytes where they help."""

import numpy as np
import pytest
from frames import frame_encoder

from codec import Codec
from codec.coding.vbr import (
    MIN_FRAME_BYTES,
    find_demand,
    frame_energies,
    share_bytes,
    vbr_sizes,
)
from codec.config import MAX_FRAME_BYTES, NUM_BANDS

ENVELOPE_BITS = 24


@pytest.mark.parametrize("seed", range(12))
def test_shares_meet_the_total_within_the_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 400))
    demand = np.exp(rng.normal(0, (0.1, 1, 4)[seed % 3], count))
    for average in (5, 12, 13, 33, 80, 254, 255, 400):
        sizes = np.zeros(count, np.int64)
        share_bytes(demand, average * count, sizes)
        wanted = min(max(average, MIN_FRAME_BYTES), MAX_FRAME_BYTES) * count
        assert sizes.min() >= MIN_FRAME_BYTES and sizes.max() <= MAX_FRAME_BYTES
        # The limits may cut a byte off what rounding the running sum gives.
        assert abs(int(sizes.sum()) - wanted) <= 1 + 0.001 * count
        order = np.argsort(demand, kind="stable")
        assert (np.diff(sizes[order]) >= -1).all()  # who wants more gets no less


def test_shares_are_in_proportion() -> None:
    sizes = np.zeros(4, np.int64)
    share_bytes(np.array([1.0, 2.0, 3.0, 4.0]), 200, sizes)
    assert sizes.tolist() == [20, 40, 60, 80]
    share_bytes(np.array([1.0, 1.0, 1.0, 100.0]), 150, sizes)
    assert sizes.tolist() == [12, 12, 12, 114]


@pytest.fixture(scope="module")
def analysed(codec: Codec, speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectra and envelopes: a second of speech, one of silence, one of quiet speech."""
    part = speech[:16000]
    wave = np.concatenate([part, np.zeros(16000, np.float32), 0.05 * part])
    return frame_encoder(codec).analyse(wave)


@pytest.mark.parametrize("rate", [8.0, 13.2, 32.0])
def test_silence_gets_least_and_loud_speech_most(
    codec: Codec, analysed: tuple, rate: float
) -> None:
    spectra, envelopes = analysed
    total = round(2.5 * rate * 150)
    model = codec._encoder["coding"]
    energy = frame_energies(spectra)
    sizes = vbr_sizes(model, [envelopes], energy, total, ENVELOPE_BITS)
    assert sizes.sum() == total
    loud, silent, quiet = sizes[:50].mean(), sizes[52:98].mean(), sizes[100:].mean()
    assert loud > quiet > silent and silent < 0.8 * loud
    pieces = [envelopes[:1], envelopes[1:70], envelopes[70:70], envelopes[70:]]
    again = vbr_sizes(model, pieces, energy, total, ENVELOPE_BITS)
    np.testing.assert_array_equal(again, sizes)


def test_level_of_the_whole_does_not_matter(codec: Codec, speech: np.ndarray) -> None:
    model, sizes = codec._encoder["coding"], []
    for gain in (1.0, 0.25):
        spectra, envelopes = frame_encoder(codec).analyse(np.float32(gain) * speech[:16000])
        energy = frame_energies(spectra)
        sizes.append(vbr_sizes(model, [envelopes], energy, 50 * 33, ENVELOPE_BITS))
    assert np.abs(sizes[0] - sizes[1]).mean() < 1.5


def test_demand_and_energy(codec: Codec, analysed: tuple) -> None:
    spectra, envelopes = analysed
    energy = frame_energies(spectra)
    exact = np.square(spectra.astype(np.float64)).mean((1, 2)) + 1e-9
    np.testing.assert_allclose(energy, exact, rtol=1e-6)
    demand = find_demand(codec._encoder["coding"], [envelopes], energy, 150 * 33, ENVELOPE_BITS)
    assert demand.shape == energy.shape and (demand > 0).all() and np.isfinite(demand).all()


def test_no_frames(codec: Codec) -> None:
    nothing = np.zeros((0, NUM_BANDS), np.float32)
    energy = frame_energies(np.zeros((0, 2, 160), np.float32))
    assert len(vbr_sizes(codec._encoder["coding"], [nothing], energy, 0, 24)) == 0
