"""Frames: bits to integers to bits at every rate, of every kind, in any pieces, with losses."""

from typing import Any

import numpy as np
import pytest
from frames import (
    coding_state,
    frame_encoder,
    price,
    put_frame,
    rest_of,
    set_frame,
    sizes_of,
    update,
)

from codec import Codec
from codec.bitstream import Header, intra_packets
from codec.coding.frame import HIGHEST_ENVELOPE
from codec.config import BLOCKS_PER_FRAME, FRAME_LENGTH, HOP_LENGTH, MAX_FRAME_BITS
from codec.decoder import FrameDecoder

FIELDS = ("envelope", "detail", "offset", "step", "long", "levels")
# Which frames need no other: none, the first of each group, every one, and a mixture.
KINDS = ("predicted", "groups", "independent", "mixed")
COUNT = 60  # frames: a border of groups lies in them


def intra_of(kind: str, count: int = COUNT) -> np.ndarray:
    if kind == "mixed":
        return np.random.default_rng(0).random(count) < 0.3
    return intra_packets(count, kind == "independent") & (kind != "predicted")


def header_of(codec: Codec, rate: float) -> Header:
    return codec.header(0, 16000, rate)


def encoded(
    codec: Codec, wave: np.ndarray, rate: float, kind: str
) -> tuple[list[bytes], np.ndarray]:
    encoder = frame_encoder(codec, rate)
    count = len(wave) // FRAME_LENGTH
    spectra, envelopes = encoder.analyse(np.ascontiguousarray(wave[: count * FRAME_LENGTH]))
    intra = intra_of(kind, count)
    return encoder.encode(spectra, envelopes, sizes_of(rate, count), intra), intra


def decoder_of(codec: Codec, rate: float = 13.2) -> FrameDecoder:
    return codec.frame_decoder(header_of(codec, rate))


def same_past(a: Any, b: Any) -> bool:
    return all(np.array_equal(a["past"][name], b["past"][name]) for name in a["past"].dtype.names)


@pytest.mark.parametrize(
    ("rate", "kind"),
    [(rate, "groups") for rate in (8.0, 11.111, 16.4, 24.4, 32.0)]
    + [(13.2, kind) for kind in KINDS],
)
def test_decoded_integers_are_the_encoders(
    codec: Codec, speech: np.ndarray, rate: float, kind: str
) -> None:
    encoder, decoder = frame_encoder(codec, rate), decoder_of(codec, rate)
    wave = np.ascontiguousarray(speech[: COUNT * FRAME_LENGTH])
    spectra, envelopes = encoder.analyse(wave)
    sizes, intra = sizes_of(rate, COUNT), intra_of(kind)
    coded, long = 0, []
    for p in range(COUNT):
        one = slice(p, p + 1)
        (packet,) = encoder.encode(spectra[one], envelopes[one], sizes[one], intra[one])
        assert len(packet) == sizes[p]
        integers = decoder.integers([packet], intra[one])
        sent = encoder.state["coding"]
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(integers, name)[0], sent["frame"][name], name)
        # All that the next frame knows of this one is the same on both sides.
        assert same_past(sent, decoder.state["coding"])
        assert integers.received.all()
        coded += bool(integers.levels.any())
        long.append(int(integers.long[0]))
    assert coded > 0.9 * COUNT
    assert 0 < sum(long) < COUNT  # both kinds of blocks


@pytest.mark.parametrize("kind", KINDS)
def test_frames_in_any_pieces(codec: Codec, speech: np.ndarray, kind: str) -> None:
    """Encoder and decoder do not care how many frames they get at a time."""
    wave = speech[: COUNT * FRAME_LENGTH]
    wanted, intra = encoded(codec, wave, 16.4, kind)
    whole = decoder_of(codec, 16.4).integers(wanted, intra)
    encoder, decoder = frame_encoder(codec, 16.4), decoder_of(codec, 16.4)
    packets, start, sizes = [], 0, sizes_of(16.4, COUNT)
    for count in (0, 1, 1, 2, 7, 0, 1, 48):
        part = slice(start, start + count)
        samples = np.ascontiguousarray(wave[start * 320 : (start + count) * 320])
        spectra, envelopes = encoder.analyse(samples)
        packets += encoder.encode(spectra, envelopes, sizes[part], intra[part])
        got = decoder.integers(wanted[part], intra[part])
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(got, name), getattr(whole, name)[part])
        start += count
    assert packets == wanted and start == COUNT


@pytest.mark.parametrize("rate", [8.0, 24.4])
def test_intra_frames_need_no_other(codec: Codec, speech: np.ndarray, rate: float) -> None:
    """Alone, after other frames or after garbage, such a frame is the same integers."""
    packets, intra = encoded(codec, speech[:16000], rate, "independent")
    wanted = decoder_of(codec, rate).integers(packets, intra)
    rng = np.random.default_rng(0)
    for p in range(0, len(packets), 9):
        for before in ([], [rng.bytes(20), rng.bytes(80)], [None], packets[p + 1 :]):
            kinds = intra_of("independent", len(before) + 1)
            got = decoder_of(codec, rate).integers([*before, packets[p]], kinds)
            for name in FIELDS:
                np.testing.assert_array_equal(getattr(got, name)[-1], getattr(wanted, name)[p])


@pytest.mark.parametrize("kind", ["groups", "mixed", "independent"])
def test_what_lost_frames_take_with_them(codec: Codec, speech: np.ndarray, kind: str) -> None:
    """All up to the next intra frame, whose integers are right again."""
    packets, intra = encoded(codec, speech[: COUNT * FRAME_LENGTH], 13.2, kind)
    whole = decoder_of(codec).integers(packets, intra)
    lost = np.random.default_rng(1).random(COUNT) < 0.1
    broken, received = False, []
    for p in range(COUNT):
        broken = lost[p] or (broken and not intra[p])
        received.append(not broken)
    kept = [None if gone else packet for gone, packet in zip(lost, packets, strict=True)]
    got = decoder_of(codec).integers(kept, intra)
    np.testing.assert_array_equal(got.received, received)
    assert 0 < sum(received) < COUNT
    for name in FIELDS:
        values = getattr(got, name)
        np.testing.assert_array_equal(values[received], getattr(whole, name)[received])
        assert not values[~np.array(received)].any()


@pytest.mark.parametrize("rate", [8.0, 13.2, 32.0])
def test_integers_to_bits_again(codec: Codec, speech: np.ndarray, rate: float) -> None:
    """Writing the decoded integers gives the very bytes they came from."""
    packets, intra = encoded(codec, speech[:16000], rate, "groups")
    decoder, again = decoder_of(codec, rate), coding_state(codec)
    stages = codec.config.num_stages
    for packet, own in zip(packets, intra, strict=True):
        model = codec._encoder["intra" if own else "coding"]
        count = codec.config.intra_stages(stages) if own else stages
        decoder.integers([packet], np.array([own]))
        again["frame"] = decoder.state["coding"]["frame"]
        if own:
            again["past"] = coding_state(codec)["past"]
            again["past"]["envelope"] = again["frame"]["envelope"]
        price(model, again, rest_of(8 * len(packet)))
        data = np.zeros(len(packet), np.uint8)
        assert put_frame(model, again, count, data)
        assert data.tobytes() == packet
        update(again)


def test_a_frame_that_does_not_fit_is_refused(codec: Codec) -> None:
    model, state = codec._encoder["coding"], coding_state(codec)
    kind = (MAX_FRAME_BITS, False, 3)
    set_frame(model, state, kind, 0, np.full((BLOCKS_PER_FRAME, HOP_LENGTH), 9, np.int32))
    price(model, state, rest_of(MAX_FRAME_BITS))
    small, large = np.full(20, 7, np.uint8), np.full(2000, 7, np.uint8)
    assert not put_frame(model, state, 3, small) and (small == 7).all()
    assert put_frame(model, state, 3, large) and not (large == 7).all()
    with pytest.raises(ValueError, match="packet 0 of 1 bytes is too small: use 12 or more"):
        encoder = frame_encoder(codec)
        noise = np.random.default_rng(0).uniform(-1, 1, 320).astype(np.float32)
        encoder.encode(*encoder.analyse(noise), np.array([1]), np.array([False]))


def test_random_bytes_decode_to_bounded_integers(codec: Codec) -> None:
    rng = np.random.default_rng(0)
    packets = [rng.bytes(size) for size in rng.integers(1, 256, 60)]
    packets += [b"\x00", b"\xff" * 255, b"\xff" * 8, bytes(80), b"\x01"]
    for rate in (8.0, 32.0):
        for kind in KINDS:
            intra = intra_of(kind, len(packets))
            first = decoder_of(codec, rate).integers(packets, intra)
            second = decoder_of(codec, rate).integers(packets, intra)
            for a, b in zip(first, second, strict=True):
                np.testing.assert_array_equal(a, b)
            assert np.abs(first.envelope).max() <= HIGHEST_ENVELOPE
            assert np.abs(first.offset).max() < 1024
            assert np.abs(first.levels).max() <= 8443


@pytest.mark.parametrize("packet", [b"\xff" * 40, bytes(40), b"\x01", b"\xff" * 255])
def test_hostile_bytes_do_not_drift(codec: Codec, packet: bytes) -> None:
    """Predicted frames without end, each the same bytes."""
    decoder = decoder_of(codec, 32.0)
    integers = decoder.integers([packet] * 300, np.arange(300) == 0)
    assert np.abs(integers.envelope).max() <= HIGHEST_ENVELOPE
    assert np.abs(integers.step).max() < 1 << 14


def extreme(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    n = np.arange(25 * FRAME_LENGTH)
    clicks = np.zeros(len(n))
    clicks[::1777] = 1.0
    clicks[5::1777] = -1.0
    signals = {
        "square": np.where(n // 40 % 2 == 0, 1.0, -1.0),
        "nyquist": np.where(n % 2 == 0, 1.0, -1.0),
        "noise": rng.uniform(-1, 1, len(n)),
        "clicks": clicks,
        "burst": np.where((n > 3000) & (n < 4000), rng.uniform(-1, 1, len(n)), 0.0),
        "silence": np.zeros(len(n)),
        "denormal": 1e-30 * rng.standard_normal(len(n)),
        "constant": np.ones(len(n)),
        "16 bit without scaling": 32767 * np.sin(0.4 * n),
    }
    return signals[name].astype(np.float32)


EXTREMES = (
    "square", "nyquist", "noise", "clicks", "burst", "silence", "denormal", "constant",
    "16 bit without scaling",
)  # fmt: skip


@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_signals(codec: Codec, name: str) -> None:
    for rate in (8.0, 32.0):
        for kind in ("predicted", "independent"):
            packets, intra = encoded(codec, extreme(name), rate, kind)
            assert [len(packet) for packet in packets] == sizes_of(rate, 25).tolist()
            integers = decoder_of(codec, rate).integers(packets, intra)
            if name != "16 bit without scaling":  # far beyond what the envelope can say
                assert integers.levels.any() != (name in ("silence", "denormal", "constant"))
            assert np.isfinite(decoder_of(codec, rate).decode(packets, intra)).all()


def test_jumps_in_tiny_frames(codec: Codec) -> None:
    """Frames of the least size that VBR gives hold whatever comes."""
    rng = np.random.default_rng(1)
    wave = rng.uniform(-1, 1, 40 * FRAME_LENGTH).astype(np.float32)
    wave *= np.repeat(10.0 ** rng.uniform(-6, 0, 40), FRAME_LENGTH).astype(np.float32)
    for rate in (8.0, 32.0):
        for kind in ("predicted", "independent"):
            encoder, decoder = frame_encoder(codec, rate), decoder_of(codec, rate)
            intra = intra_of(kind, 40)
            packets = encoder.encode(*encoder.analyse(wave), np.full(40, 12), intra)
            decoder.integers(packets, intra)
            assert same_past(encoder.state["coding"], decoder.state["coding"])
