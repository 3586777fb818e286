"""Lost packets: what was there stays exact, the rest is filled in, and soon all is well again."""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from compiled import direct
from conftest import synthetic_speech

from codec import Codec, StreamDecoder, plc
from codec.bitstream import intra_packets, read_stream
from codec.config import BLOCKS_PER_FRAME, FRAMES_PER_GROUP, HOP_LENGTH, NUM_BANDS
from codec.dsp import ltpf, mdct
from codec.enhancer_network import PARAMETERS
from codec.records import new

SPEECH = synthetic_speech(4.0, seed=5)
PACKETS = 201
# A concealed voiced sound may be in phase with the next one: some more than the clean peak.
PEAK, JUMP = 2.0, 2.0
KINDS = [(8.0, True), (24.4, True), (13.2, False)]


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


WORST = ("0.2", "0.5", "bursts of 3", "bursts of 30")


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
    intra = intra_packets(PACKETS, header.independent)
    got = codec.frame_decoder(header).integers(kept, intra)
    there = ~gone(lost, independent)
    np.testing.assert_array_equal(got.received, there)
    if independent:
        np.testing.assert_array_equal(got.received, ~lost)
    else:  # all groups that begin after the last loss are there
        after = -(-(int(np.flatnonzero(lost)[-1]) + 1) // FRAMES_PER_GROUP) * FRAMES_PER_GROUP
        assert got.received[after:].all()
    for part in ("envelope", "offset", "step", "levels"):
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


def test_what_is_left_of_long_losses_fades(codec: Codec) -> None:
    """The enhancer's memory leaks: a second after a gap it is hardly heard any more."""
    for independent in (True, False):
        data, wanted = coded(codec, 13.2, independent), clean(codec, 13.2, independent)
        lost = np.zeros(PACKETS, np.bool_)
        lost[52:90] = True
        got = codec.decode_lossy(data, lost)
        assert snr(wanted[samples_of(150).start :], got[samples_of(150).start :]) > 35


# --------------------------------------------------------------------------------------------------
# What is heard


# Of the kinds of files all in one pass, of the losses all: the others are slow.
HEARD = [
    pytest.param(kind, name, marks=() if kind == KINDS[0] or name in WORST else pytest.mark.slow)
    for kind in KINDS
    for name in LOSSES
]


@pytest.mark.parametrize("file, name", HEARD, indirect=["file"])
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
        assert np.sqrt(np.square(late).mean()) < 0.003 * before
        pieces = late[: len(late) // 320 * 320].reshape(-1, 320)
        assert np.sqrt(np.square(pieces).mean(1).max()) < 0.003 * before


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

    The packet that ends the gap overlaps with it; the next one is the first whole one.
    """
    for rate in (8.0, 24.4):
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
        assert medians[0] > 14 and medians[1] > 15, (rate, medians)
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

start, receive, conceal_frame = map(direct, (plc.start, plc.receive, plc.conceal))
inverse = direct(mdct.inverse)


@pytest.fixture(scope="module")
def transform() -> Any:
    return mdct.make_transform()


def started() -> Any:
    state = new(plc.STATE)
    start(state)
    return state


def conceal(state: Any, transform: Any, history: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return what stands in for a lost frame."""
    parameters = new(PARAMETERS)
    spectrum = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    conceal_frame(state, transform, history, parameters, spectrum)
    return parameters, spectrum


def received(value: float) -> Any:
    """Return the parameters of a frame that arrived."""
    parameters = new(PARAMETERS)
    parameters["envelope"], parameters["log_step"] = value, value - 1
    parameters["log_bits"] = 8.5
    return parameters


@pytest.mark.parametrize("period", [ltpf.MIN_LAG, 57, 100, 160, 159, 300])
def test_a_period_goes_on(transform: Any, period: int) -> None:
    """A periodic signal is continued without an error, whatever the lag."""
    signal = np.random.default_rng(period).standard_normal(period)
    signal = np.tile(signal, 50)[:1600].astype(np.float32)
    history, coming = signal[: ltpf.FRAME].copy(), signal[ltpf.FRAME :]
    state = started()
    parameters, spectrum = conceal(state, transform, history)
    assert state["lag"] % period == 0 and state["periodicity"] > 0.999
    assert (parameters["lag"] == state["lag"]).all()
    samples = np.empty(BLOCKS_PER_FRAME * HOP_LENGTH, np.float32)
    inverse(transform, spectrum, np.zeros(HOP_LENGTH, np.float32), samples)
    # The first block's first half lacks the block before it.
    np.testing.assert_allclose(samples[HOP_LENGTH:], coming[HOP_LENGTH : 2 * HOP_LENGTH], atol=1e-4)


def test_a_gap_is_described_and_fades(transform: Any) -> None:
    state, history = started(), np.random.default_rng(0).standard_normal(ltpf.FRAME)
    history = history.astype(np.float32)
    receive(state, received(-3.0))
    length = plc.LONGEST_GAP + 4
    gap = [conceal(state, transform, history) for _ in range(length)]
    for i, (parameters, _) in enumerate(gap):
        wanted = [1.0, min(i, plc.LONGEST_GAP) / plc.LONGEST_GAP, 0.0]
        assert parameters["loss"].tolist() == wanted
        # Held, then fading to the floor.
        assert (parameters["envelope"] == max(-3.0 - i * plc.FADE, plc.SILENCE)).all()
        assert (parameters["log_step"] == -4.0).all() and parameters["log_bits"] == 8.5
        assert (parameters["lag"] == state["lag"]).all()  # found once
    power = [np.square(spectrum).sum() for _, spectrum in gap]
    np.testing.assert_allclose(power[1] / power[0], 0.5, rtol=1e-5)
    assert state["gap"] == length and state["since"] == 0


def test_the_frames_after_a_gap_are_told(transform: Any) -> None:
    state, history = started(), np.zeros(ltpf.FRAME, np.float32)
    for lost in (1, 3):
        for _ in range(lost):
            conceal(state, transform, history)
        told = []
        for _ in range(plc.RECOVERY + 2):
            parameters = received(-5.0)
            receive(state, parameters)
            assert not parameters["loss"][:2].any()
            told.append(float(parameters["loss"][2]))
        assert told == [0.5**i for i in range(plc.RECOVERY)] + [0.0, 0.0]
        assert state["gap"] == 0


def test_before_the_first_frame_there_is_silence(transform: Any) -> None:
    parameters, spectrum = conceal(started(), transform, np.zeros(ltpf.FRAME, np.float32))
    assert not spectrum.any()
    assert parameters["envelope"].tolist() == NUM_BANDS * [plc.SILENCE]
    assert parameters["log_bits"] == plc.FIRST_LOG_BITS
