"""Lost packets: what was there stays exact, the rest is filled in, and soon all is well again."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from conftest import synthetic_speech

from codec import Codec, StreamDecoder
from codec.bitstream import read_stream
from codec.concealment import Concealment, repeat_period
from codec.config import FRAMES_PER_GROUP
from codec.decoder import Synthesis
from codec.mdct import inverse_mdct
from models.codec_net import conceal

SPEECH = synthetic_speech(4.0, seed=5)
PACKETS = 201
# A concealed voiced sound may be in phase with the next one: some more than the clean peak.
PEAK, JUMP = 2.0, 2.0
KINDS = [(8.0, True), (13.2, True), (24.4, True), (13.2, False)]


@lru_cache(maxsize=8)
def coded(codec: Codec, rate: float, independent: bool) -> bytes:
    return codec.encode(SPEECH, 16000, rate, independent=independent)


@lru_cache(maxsize=8)
def clean(codec: Codec, rate: float, independent: bool) -> np.ndarray:
    return codec.decode(coded(codec, rate, independent))


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]:g}-{kind[1]}")
def file(request: pytest.FixtureRequest, codec: Codec) -> tuple[bytes, np.ndarray, bool]:
    """A coded file, its samples, and whether its packets are independent."""
    return coded(codec, *request.param), clean(codec, *request.param), request.param[1]


def random_losses(share: float) -> np.ndarray:
    return np.random.default_rng(round(100 * share)).random(PACKETS) < share


def bursts(length: int) -> np.ndarray:
    lost = np.zeros(PACKETS, np.bool_)
    for start in (23, 60, 115, 160):
        lost[start : start + length] = True
    return lost


def only(*numbers: int) -> np.ndarray:
    return np.isin(np.arange(PACKETS), numbers)


LOSSES = {
    **{f"{share:g}": random_losses(share) for share in (0.03, 0.1, 0.2, 0.35, 0.5)},
    **{f"bursts of {length}": bursts(length) for length in (1, 2, 3, 5, 10, 20, 30)},
    "all": np.ones(PACKETS, np.bool_),
    "all but the first five": np.arange(PACKETS) >= 5,
    "the first": only(0),
    "the last": only(PACKETS - 1),
    "every other": np.arange(PACKETS) % 2 == 1,
}


def samples_of(packet: int) -> slice:
    """Where the samples lie that a packet completes."""
    return slice(max(320 * packet - 160, 0), 320 * packet + 160)


def gone(lost: np.ndarray, independent: bool) -> np.ndarray:
    """Tell which packets cannot be decoded: lost, or waiting for the next group."""
    out, broken = [], False
    for p, missing in enumerate(lost):
        broken = missing or (broken and not independent and p % FRAMES_PER_GROUP != 0)
        out.append(broken)
    return np.array(out)


def snr(reference: np.ndarray, signal: np.ndarray) -> float:
    error = np.square(reference - signal).sum() + 1e-12
    return float(10 * np.log10(np.square(reference).sum() / error))


# --------------------------------------------------------------------------------------------------
# What is exact


def test_no_losses(codec: Codec, file: tuple) -> None:
    data, wanted, _ = file
    for lost in (np.zeros(PACKETS, np.bool_), np.zeros(0, np.bool_), np.zeros(999, np.bool_)):
        assert np.array_equal(codec.decode_lossy(data, lost), wanted)


def test_losses_behind_the_end_do_not_matter(codec: Codec, file: tuple) -> None:
    data, wanted, _ = file
    assert np.array_equal(codec.decode_lossy(data, np.arange(300) >= PACKETS), wanted)


@pytest.mark.parametrize("first", [1, 9, 10, 37, 120, 200])
def test_what_was_before_a_loss_is_untouched(codec: Codec, file: tuple, first: int) -> None:
    data, wanted, _ = file
    got = codec.decode_lossy(data, np.arange(PACKETS) >= first)
    end = samples_of(first).start
    assert np.array_equal(got[:end], wanted[:end])
    if first < PACKETS - 2:
        assert not np.array_equal(got[end:], wanted[end:])


@pytest.mark.parametrize("name", ["0.1", "0.5", "bursts of 3", "bursts of 30", "the first"])
def test_integers_of_received_packets_are_exact(codec: Codec, file: tuple, name: str) -> None:
    data, _, independent = file
    header, packets = read_stream(data)
    assert len(packets) == PACKETS
    lost = LOSSES[name]
    kept = [None if missing else packet for missing, packet in zip(lost, packets, strict=True)]
    _, whole = codec.decode_integers(data)
    got = codec._integers(header, kept)
    there = ~gone(lost, independent)
    np.testing.assert_array_equal(got.received, there)
    if independent:
        np.testing.assert_array_equal(got.received, ~lost)
    else:  # all groups that begin after the last loss are there
        after = -(-(int(np.flatnonzero(lost)[-1]) + 1) // FRAMES_PER_GROUP) * FRAMES_PER_GROUP
        assert got.received[after:].all()
    for part in ("envelope", "offset", "step", "bins", "packet_bits"):
        np.testing.assert_array_equal(getattr(got, part)[there], getattr(whole, part)[there])


@pytest.mark.parametrize("name", LOSSES)
def test_offline_is_the_stream(codec: Codec, name: str) -> None:
    for independent in (True, False) if name in ("0.1", "bursts of 3") else (True,):
        data = coded(codec, 13.2, independent)
        header, packets = read_stream(data)
        decoder = StreamDecoder(codec, header)
        pieces = [
            decoder.push(None if missing else packet)
            for missing, packet in zip(LOSSES[name][:70], packets, strict=False)
        ]
        got = np.concatenate(pieces)
        assert np.array_equal(got, codec.decode_lossy(data, LOSSES[name])[: len(got)])


def test_the_end_of_long_losses_is_exact_again(codec: Codec) -> None:
    """The enhancer's memory starts afresh between the groups' ends; then nothing is left."""
    for independent in (True, False):
        data, wanted = coded(codec, 13.2, independent), clean(codec, 13.2, independent)
        lost = np.zeros(PACKETS, np.bool_)
        lost[52:90] = True
        got = codec.decode_lossy(data, lost)
        same = got == wanted
        # From packet 130 on, where a new run of the enhancer begins, warmed up on sound packets.
        assert same[samples_of(132).start :].all()


# --------------------------------------------------------------------------------------------------
# What is heard


@pytest.mark.parametrize("name", LOSSES)
def test_never_clicks_or_explodes(codec: Codec, file: tuple, name: str) -> None:
    data, wanted, _ = file
    got = codec.decode_lossy(data, LOSSES[name])
    assert got.shape == wanted.shape and got.dtype == np.float32 and np.isfinite(got).all()
    assert np.abs(got).max() < PEAK * np.abs(wanted).max()
    assert np.abs(np.diff(got)).max() < JUMP * np.abs(np.diff(wanted)).max()
    if name == "all":
        assert np.abs(got).max() < 1e-3


def test_a_gap_fades_away(codec: Codec, file: tuple) -> None:
    """After 400 ms there is hardly anything left, and it stays so."""
    data, wanted, _ = file
    energy = np.square(wanted[: len(wanted) // 320 * 320].reshape(-1, 320)).mean(1)
    for start in (40, 60, 75):
        got = codec.decode_lossy(data, np.arange(PACKETS) >= start)
        before = np.sqrt(energy[start - 6 : start].max())
        gap = got[samples_of(start).start :]
        late = gap[6400:]  # 400 ms
        assert np.sqrt(np.square(late).mean()) < 0.05 * before
        pieces = late[: len(late) // 320 * 320].reshape(-1, 320)
        assert np.sqrt(np.square(pieces).mean(1).max()) < 0.1 * before


def test_a_short_gap_is_filled(codec: Codec) -> None:
    """One lost packet of a voiced sound leaves no hole."""
    data, wanted = coded(codec, 24.4, True), clean(codec, 24.4, True)
    energy = np.array([np.square(wanted[samples_of(p)]).mean() for p in range(1, PACKETS - 1)])
    loud = [p for p in range(10, PACKETS - 10) if energy[p - 3 : p + 2].min() > 1e-4]
    assert len(loud) > 30
    ratios = []
    for p in loud[::6]:
        got = codec.decode_lossy(data, only(p))
        ratios.append(np.square(got[samples_of(p)]).mean() / energy[p - 1])
    assert 0.25 < np.median(ratios) < 2.0


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_recovery_within_two_packets(codec: Codec, length: int) -> None:
    """Independent packets: SNR against what is decoded without losses, packets after the gap.

    Measured with weights whose concealment was not trained yet (medians, worst rate): 22 dB in the
    first whole packet after the gap, 29 dB in the next one. The packet that ends the gap overlaps
    with it.
    """
    for rate in (8.0, 13.2, 24.4):
        data, wanted = coded(codec, rate, True), clean(codec, rate, True)
        found: list[list[float]] = [[], []]
        for shift in (0, 5, 11):
            lost = np.zeros(PACKETS, np.bool_)
            for start in range(12 + shift, PACKETS - 12, 17):
                lost[start : start + length] = True
            got = codec.decode_lossy(data, lost)
            for p in np.flatnonzero(lost[:-1] & ~lost[1:]) + 1:
                for k in range(2):
                    place = samples_of(p + 1 + k)
                    if np.square(wanted[place]).mean() > 1e-5:
                        found[k].append(snr(wanted[place], got[place]))
        medians = [float(np.median(values)) for values in found]
        assert min(map(len, found)) > 10
        assert medians[0] > 15 and medians[1] > 20, (rate, medians)
        assert np.mean(np.array(found[1]) > 6) > 0.9


def test_predicted_packets_recover_with_the_next_group(codec: Codec) -> None:
    data, wanted = coded(codec, 13.2, False), clean(codec, 13.2, False)
    got = codec.decode_lossy(data, only(70))
    # Lost from 70 to 99; packet 100 overlaps with the gap.
    place = slice(samples_of(102).start, samples_of(110).stop)
    assert snr(wanted[place], got[place]) > 10
    waiting = slice(samples_of(92).start, samples_of(99).stop)
    assert snr(wanted[waiting], got[waiting]) < 3


# --------------------------------------------------------------------------------------------------
# The parts


@pytest.mark.parametrize("lag", [32, 57, 100, 160, 159, 300])
def test_a_period_goes_on(lag: int) -> None:
    """A periodic signal is continued without an error, whatever the lag."""
    rng = np.random.default_rng(lag)
    signal = np.tile(rng.standard_normal(lag), 50)[:1600]
    history, coming = signal[:-480], signal[-480:]
    blocks = repeat_period(history, lag, 160)
    out = inverse_mdct(torch.from_numpy(blocks)[None], 160)[0].numpy()
    np.testing.assert_allclose(out, coming[160:320], atol=1e-6)


@pytest.mark.parametrize("name", ["0.2", "0.5", "bursts of 10", "bursts of 30", "the first"])
def test_training_conceals_as_the_decoder_does(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`models.codec_net.conceal` on a whole sequence is what `Synthesis` does unit by unit."""
    count, config = 120, codec.config
    header, packets = read_stream(coded(codec, 13.2, True))
    lost = LOSSES[name][:count]
    kept = [None if g else packet for g, packet in zip(lost, packets[:count], strict=True)]
    integers = codec._integers(header, kept)

    units: list[tuple] = []
    original: Callable = Concealment.fill

    def fill(self, received, coded, spectrum, envelope, band_step, log_bits):
        got = original(self, received, coded, spectrum, envelope, band_step, log_bits)
        arrays = (spectrum, envelope, band_step, log_bits, got.features)
        units.append((*(array.copy() for array in arrays), got.pitch))
        return got

    with monkeypatch.context() as patch:
        patch.setattr(Concealment, "fill", fill)
        Synthesis(codec.enhancer, config).push(integers)
    assert len(units) == count // 10
    wanted = [np.concatenate([unit[i] for unit in units]) for i in range(5)]

    envelope = torch.from_numpy(integers.envelope).float()[None] / 256
    band_step = torch.from_numpy(integers.step[:, None] + integers.offset).float()[None] / 256
    width = torch.exp2(band_step @ codec.enhancer.interpolation.T)[:, :, None]
    bins = (torch.from_numpy(integers.bins).float()[None] * width).flatten(1, 2)
    log_bits = torch.log2(torch.from_numpy(integers.packet_bits).float().clamp_min(1))[None]
    got = conceal(config, bins, torch.from_numpy(lost)[None], envelope, band_step, log_bits)

    def of_lost(values: np.ndarray) -> np.ndarray:
        return values.reshape(count, -1)[lost]

    names = ("bins", "envelope", "band_step", "log_bits")
    for field, value in zip(names, wanted, strict=False):
        np.testing.assert_allclose(
            of_lost(getattr(got, field)[0].numpy()), of_lost(value), atol=1e-4, err_msg=field
        )
    np.testing.assert_array_equal(got.features[0].numpy(), wanted[4])
    pitches = {10 * u + p: pitch for u, unit in enumerate(units) for p, pitch in unit[5].items()}
    assert sorted(pitches) == np.flatnonzero(lost).tolist()
    for p, pitch in pitches.items():
        assert int(got.lag[0, p]) == pitch.lag
        assert float(got.periodicity[0, p]) == pytest.approx(pitch.periodicity, abs=1e-4)
    # Received packets are as they were.
    received = np.repeat(~lost, 2)
    np.testing.assert_array_equal(got.bins[0].numpy()[received], bins[0].numpy()[received])
