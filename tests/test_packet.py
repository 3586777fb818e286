"""Packets: bits to integers to bits at every rate, sizes, costs, and floats against integers."""

import itertools

import numpy as np
import pytest
import torch
from numba import njit

from codec import Codec
from codec.bitstream import cbr_packet_sizes, intra_packets, num_packets
from codec.config import REPORT_RATES_KBPS
from codec.decoder import PacketDecoder, decode_integers
from codec.encoder import (
    SURVIVORS,
    VBR_MINIMUM_BYTES,
    PacketEncoder,
    analyse,
    collect_bins,
    default_stages,
    encode_packets,
    encode_waveform,
)
from codec.packet import (
    ENCODE,
    HIDDEN_LIMIT,
    NUM_FEATURES,
    NUM_SYMBOLS,
    TABLE_COLUMNS,
    TABLE_PARTS,
    TOTAL,
    TOTAL_BITS,
    Tables,
    advance,
    allocate,
    code_bins,
    decode_envelope,
    envelope_cost,
    mixed_cdf,
    new_state,
    prepare,
    read_packet,
    search_envelope,
    step_context,
    write_packet,
)
from codec.range_kernels import enc_init, enc_symbol, enc_tell_bits
from codec.rate_control import choose_step
from models.analysis import band_of_coefficient
from models.training.export import import_context, import_net

RATES = [*REPORT_RATES_KBPS, 8.001, 11.111, 15.999, 29.7]


def sizes_of(rate: float, num_samples: int) -> list[int]:
    return cbr_packet_sizes(round(rate * 1000), num_packets(num_samples))


def stages_of(rate: float) -> int:
    return default_stages(round(rate * 1000))


# --------------------------------------------------------------------------------------------------
# Round trips


# Which packets need no other: none, the first of each group, every one, and a mixture.
KINDS = ("predicted", "groups", "independent", "mixed")


def intra_of(kind: str, count: int) -> np.ndarray:
    if kind == "mixed":
        return np.random.default_rng(0).random(count) < 0.3
    return intra_packets(count, kind == "independent") & (kind != "predicted")


@pytest.mark.parametrize(
    ("rate", "kind"),
    [(rate, "groups") for rate in RATES]
    + [(rate, kind) for rate in (8.0, 13.2, 32.0) for kind in KINDS if kind != "groups"],
)
def test_decoded_integers_are_the_encoders(
    codec: Codec, speech: np.ndarray, rate: float, kind: str
) -> None:
    weights, config = codec.weights, codec.config
    sizes, stages = sizes_of(rate, len(speech)), stages_of(rate)
    intra = intra_of(kind, len(sizes))
    packets, bins = encode_waveform(
        weights.tables, config, codec.analysis, speech, sizes, stages,
        intra_tables=weights.intra, intra=intra,
    )  # fmt: skip
    assert [len(packet) for packet in packets] == sizes

    # The stages of encode_waveform, one by one, for what it does not return.
    envelopes, spectra = analyse(codec.analysis, config, speech, len(sizes))
    out = np.zeros(sum(sizes), np.uint8)
    again = np.zeros_like(bins)
    steps = np.zeros((len(sizes), 2), np.int64)
    encode_packets(
        weights.tables, weights.intra, new_state(weights.tables), envelopes, spectra,
        np.array(sizes), intra, stages, config.intra_stages(stages), config.codebook_bits,
        config.step_resolution, config.rdo_lambda, SURVIVORS, out, again, steps,
    )  # fmt: skip
    assert out.tobytes() == b"".join(packets)

    decoded = decode_integers(weights.tables, config, packets, stages, weights.intra, intra)
    np.testing.assert_array_equal(decoded.bins, bins)
    np.testing.assert_array_equal(decoded.bins, again)
    np.testing.assert_array_equal(decoded.step, steps[:, 0])
    np.testing.assert_array_equal(decoded.packet_bits, 8 * np.array(sizes))
    assert decoded.received.all()
    assert (np.abs(bins).sum((1, 2)) > 0).mean() > 0.9

    last = weights.tables.initial.copy()
    indices, envelope = np.zeros(8, np.int64), np.zeros(20, np.int32)
    for p in range(len(sizes)):
        used = weights.intra if intra[p] else weights.tables
        count = config.intra_stages(stages) if intra[p] else stages
        if intra[p]:
            last[:] = used.initial
        search_envelope(used, last, envelopes[p], count, SURVIVORS, indices)
        decode_envelope(used, last, indices, count, envelope)
        np.testing.assert_array_equal(decoded.envelope[p], envelope)
        last[:] = envelope


@pytest.mark.parametrize("rate", [8.0, 24.4])
def test_packets_that_need_no_other(codec: Codec, speech: np.ndarray, rate: float) -> None:
    """Alone, after other packets or after garbage, such a packet is the same integers."""
    weights, config = codec.weights, codec.config
    sizes, stages = sizes_of(rate, 16000), stages_of(rate)
    intra = np.ones(len(sizes), np.bool_)
    packets, _ = encode_waveform(
        weights.tables, config, codec.analysis, speech[:16000], sizes, stages,
        intra_tables=weights.intra, intra=intra,
    )  # fmt: skip
    wanted = decode_integers(weights.tables, config, packets, stages, weights.intra, intra)
    rng = np.random.default_rng(0)
    for p in range(0, len(packets), 7):
        for before in ([], [rng.bytes(20), rng.bytes(80)], packets[p + 1 :]):
            one = decode_integers(
                weights.tables, config, [*before, packets[p]], stages, weights.intra,
                intra_of("independent", len(before) + 1),
            )  # fmt: skip
            for name in ("envelope", "offset", "step", "bins", "packet_bits"):
                got = getattr(one, name)[-1]
                np.testing.assert_array_equal(got, getattr(wanted, name)[p], err_msg=name)


def test_what_lost_packets_take_with_them(codec: Codec, speech: np.ndarray) -> None:
    """All up to the next packet that needs no other, whose integers are right again."""
    weights, config = codec.weights, codec.config
    sizes, stages = sizes_of(13.2, len(speech)), stages_of(13.2)
    rng = np.random.default_rng(1)
    for kind in ("groups", "mixed", "independent"):
        intra = intra_of(kind, len(sizes))
        packets, _ = encode_waveform(
            weights.tables, config, codec.analysis, speech, sizes, stages,
            intra_tables=weights.intra, intra=intra,
        )  # fmt: skip
        whole = decode_integers(weights.tables, config, packets, stages, weights.intra, intra)
        lost = rng.random(len(packets)) < 0.05
        assert lost.any()
        broken, received = False, []
        for p in range(len(packets)):
            broken = lost[p] or (broken and not intra[p])
            received.append(not broken)
        kept = [None if gone else packet for gone, packet in zip(lost, packets, strict=True)]
        got = decode_integers(weights.tables, config, kept, stages, weights.intra, intra)
        np.testing.assert_array_equal(got.received, received)
        if kind == "independent":
            np.testing.assert_array_equal(got.received, ~lost)
        for name in ("envelope", "offset", "step", "bins"):
            values = getattr(got, name)
            np.testing.assert_array_equal(values[received], getattr(whole, name)[received])
            assert not values[~np.array(received)].any()


@pytest.mark.parametrize("kind", KINDS)
def test_packets_one_by_one(codec: Codec, speech: np.ndarray, kind: str) -> None:
    """Encoder and decoder of packets do not care how many they get at a time."""
    weights, config = codec.weights, codec.config
    sizes, stages = sizes_of(16.4, 16000), stages_of(16.4)
    intra = intra_of(kind, len(sizes))
    envelopes, spectra = analyse(codec.analysis, config, speech[:16000], len(sizes))
    arguments = (weights.tables, config, stages, weights.intra)
    wanted, bins = PacketEncoder(*arguments).encode(envelopes, spectra, sizes, intra)
    encoder, decoder = PacketEncoder(*arguments), PacketDecoder(*arguments)
    packets, start = [], 0
    for count in (0, 1, 1, 2, 7, 0, 1, 100):
        part = slice(start, start + count)
        packets += encoder.encode(envelopes[part], spectra[part], sizes[part], intra[part])[0]
        got = decoder.decode(wanted[part], intra[part])
        np.testing.assert_array_equal(got.bins, bins[part])
        start += count
    assert packets == wanted


@pytest.mark.parametrize("rate", [8.0, 13.2, 32.0])
def test_integers_to_bits_again(codec: Codec, speech: np.ndarray, rate: float) -> None:
    """Coding the decoded integers gives the very bytes they came from."""
    tables, config = codec.weights.tables, codec.config
    sizes, stages = sizes_of(rate, 16000), stages_of(rate)
    packets, _ = encode_waveform(tables, config, codec.analysis, speech[:16000], sizes, stages)
    envelopes, _ = analyse(codec.analysis, config, speech[:16000], len(sizes))
    decoded = decode_integers(tables, config, packets, stages)
    state, buf = new_state(tables), np.zeros(4096, np.uint8)
    indices, offset = np.zeros(8, np.int64), np.zeros(20, np.int32)
    relative, log_scale = np.zeros(160, np.int32), np.zeros(160, np.int32)
    for p, packet in enumerate(packets):
        search_envelope(tables, state.envelope, envelopes[p], stages, SURVIVORS, indices)
        envelope, q = decoded.envelope[p], decoded.bins[p]
        base = prepare(
            tables, state, envelope, 8 * len(packet), stages * 9, offset, relative, log_scale
        )
        np.testing.assert_array_equal(offset, decoded.offset[p])
        delta, rest = divmod(int(decoded.step[p]) - base, config.step_resolution)
        assert rest == 0
        log_step = (decoded.step[p] + relative).astype(np.int32)
        assert write_packet(
            tables, state, buf, len(packet), stages, indices, delta, log_scale, log_step, q,
            8 * len(packet),
        )  # fmt: skip
        assert buf[: len(packet)].tobytes() == packet
        advance(state, envelope, delta, log_step, q)


def extreme(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    n = np.arange(8000)
    clicks = np.zeros(8000)
    clicks[::1777] = 1.0
    clicks[5::1777] = -1.0
    burst = np.where((n > 3000) & (n < 4000), rng.uniform(-1, 1, 8000), 0.0)
    signals = {
        "square": np.where(n // 40 % 2 == 0, 1.0, -1.0),
        "nyquist": np.where(n % 2 == 0, 1.0, -1.0),
        "noise": rng.uniform(-1, 1, 8000),
        "clicks": clicks,
        "burst": burst,
        "silence": np.zeros(8000),
        "denormal": 1e-30 * rng.standard_normal(8000),
        "constant": np.ones(8000),
        "sine": np.sin(0.4 * n),
        "16 bit without scaling": 32767 * np.sin(0.4 * n),
    }
    return signals[name].astype(np.float32)


EXTREMES = (
    "square", "nyquist", "noise", "clicks", "burst", "silence", "denormal", "constant", "sine",
    "16 bit without scaling",
)  # fmt: skip


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("rate", [8.0, 32.0])
def test_extreme_signals(codec: Codec, name: str, rate: float) -> None:
    tables, config = codec.weights.tables, codec.config
    waveform = extreme(name)
    sizes, stages = sizes_of(rate, len(waveform)), stages_of(rate)
    packets, bins = encode_waveform(tables, config, codec.analysis, waveform, sizes, stages)
    assert [len(packet) for packet in packets] == sizes
    decoded = decode_integers(tables, config, packets, stages)
    np.testing.assert_array_equal(decoded.bins, bins)
    if name == "silence":
        assert not bins.any()
    intra, count = codec.weights.intra, config.intra_stages(stages)
    kinds = np.ones(len(sizes), np.bool_)
    packets, bins = encode_waveform(
        tables, config, codec.analysis, waveform, sizes, stages, intra_tables=intra, intra=kinds
    )
    decoded = decode_integers(tables, config, packets, stages, intra, kinds)
    np.testing.assert_array_equal(decoded.bins, bins)
    assert count > stages or stages == config.num_stages
    for independent in (False, True):
        data = codec.encode(waveform, 16000, rate, independent=independent)
        assert np.isfinite(codec.decode(data)).all()


def test_extreme_jumps_in_tiny_packets(codec: Codec) -> None:
    """Packets of the least size that VBR gives hold whatever comes."""
    rng = np.random.default_rng(1)
    waveform = rng.uniform(-1, 1, 32000).astype(np.float32)
    waveform *= np.repeat(10.0 ** rng.uniform(-6, 0, 100), 320).astype(np.float32)
    count = num_packets(len(waveform))
    tables, config = codec.weights.tables, codec.config
    for stages, size in ((1, VBR_MINIMUM_BYTES), (2, VBR_MINIMUM_BYTES), (config.num_stages, 12)):
        packets, bins = encode_waveform(
            tables, config, codec.analysis, waveform, count * [size], stages
        )
        decoded = decode_integers(tables, config, packets, stages)
        np.testing.assert_array_equal(decoded.bins, bins)


def test_huge_magnitudes(codec: Codec) -> None:
    """Every magnitude up to 4095, the escape codes among them, comes back with its sign."""
    tables, config = codec.weights.tables, codec.config
    values = np.arange(-4095, 4096)
    values = np.concatenate([values, np.zeros(-len(values) % 320, np.int64)]).astype(np.int32)
    np.random.default_rng(0).shuffle(values)
    indices = np.array([1, 2, 3, 0, 0, 0, 0, 0])
    offset, relative = np.zeros(20, np.int32), np.zeros(160, np.int32)
    log_scale, envelope = np.zeros(160, np.int32), np.zeros(20, np.int32)
    sent, received = new_state(tables), new_state(tables)
    got, buf = np.zeros((2, 160), np.int32), np.zeros(4096, np.uint8)
    for q in values.reshape(-1, 2, 160):
        decode_envelope(tables, sent.envelope, indices, 3, envelope)
        base = prepare(tables, sent, envelope, 2048, 27, offset, relative, log_scale)
        log_step = (base - 5 * config.step_resolution + relative).astype(np.int32)
        assert write_packet(tables, sent, buf, 2000, 3, indices, -5, log_scale, log_step, q, 2048)
        advance(sent, envelope, -5, log_step, q)
        read_packet(
            tables, received, buf, 0, 2000, False, 3, 9, config.step_resolution,
            np.zeros(20, np.int32), offset, got,
        )  # fmt: skip
        np.testing.assert_array_equal(got, q)
        for a, b in zip(sent, received, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_packet_that_does_not_fit_is_refused(codec: Codec) -> None:
    tables = codec.weights.tables
    state = new_state(tables)
    before = [part.copy() for part in state]
    zeros, buf = np.zeros(160, np.int32), np.zeros(4096, np.uint8)
    q = np.full((2, 160), 9, np.int32)
    arguments = (3, np.zeros(8, np.int64), 0, zeros, zeros, q, 160)
    assert not write_packet(tables, state, buf, 20, *arguments)
    assert write_packet(tables, state, buf, 2000, *arguments)
    for part, old in zip(state, before, strict=True):
        np.testing.assert_array_equal(part, old)


def test_random_bytes_decode_to_something(codec: Codec) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 256, 100).tolist()
    packets = [rng.bytes(size) for size in sizes] + [b"\x00", b"\xff" * 255, b"\xff" * 8]
    weights = codec.weights
    for stages, kind in itertools.product((1, codec.config.num_stages), KINDS):
        arguments = (weights.tables, codec.config, packets, stages, weights.intra)
        first = decode_integers(*arguments, intra_of(kind, len(packets)))
        second = decode_integers(*arguments, intra_of(kind, len(packets)))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
        assert np.abs(first.envelope).max() <= 8192
        assert np.abs(first.bins).max() < 1 << 14


# --------------------------------------------------------------------------------------------------
# Costs


@njit(cache=True)
def encode_and_tell(
    tables, state, envelopes, spectra, packet_bytes, stages, stage_bits, resolution, rdo_lambda,
    survivors, estimated, measured,
):  # fmt: skip
    """Encode packets like the encoder; write estimated and used bits of each."""
    buf = np.zeros(4096, np.uint8)
    dump = np.empty((2, 0, 0), np.int16)
    coder = np.zeros(8, np.int64)
    indices = np.zeros(8, np.int64)
    envelope = np.empty(20, np.int32)
    offset = np.empty(20, np.int32)
    relative = np.empty(160, np.int32)
    log_scale = np.empty(160, np.int32)
    log_step = np.empty(160, np.int32)
    q = np.empty((2, 160), np.int32)
    limit = (tables.step_cdf.shape[1] - 2) // 2
    for p in range(envelopes.shape[0]):
        search_envelope(tables, state.envelope, envelopes[p], stages, survivors, indices)
        decode_envelope(tables, state.envelope, indices, stages, envelope)
        bits = packet_bytes * 8
        base = prepare(
            tables, state, envelope, bits, stages * stage_bits, offset, relative, log_scale
        )
        delta, cost = choose_step(
            tables, state, spectra[p], log_scale, relative, base, resolution, rdo_lambda, bits,
            envelope_cost(tables, indices, stages), log_step, q,
        )  # fmt: skip
        enc_init(coder)
        for s in range(stages):
            row = tables.index_cdf[s]
            enc_symbol(coder, buf, row[indices[s]], row[indices[s] + 1], TOTAL_BITS)
        row = tables.step_cdf[step_context(state.delta[0])]
        enc_symbol(coder, buf, row[delta + limit], row[delta + limit + 1], TOTAL_BITS)
        code_bins(
            ENCODE, tables, state, coder, buf, log_scale, log_step, bits, delta,
            np.empty((2, 0), np.float32), 0.0, q, dump,
        )  # fmt: skip
        estimated[p] = (envelope_cost(tables, indices, stages) + cost) / 256
        measured[p] = enc_tell_bits(coder) / 8
        advance(state, envelope, delta, log_step, q)


@pytest.mark.parametrize("rate", [8.0, 13.2, 32.0])
def test_estimated_bits_are_the_bits_used(codec: Codec, speech: np.ndarray, rate: float) -> None:
    tables, config = codec.weights.tables, codec.config
    count, stages, size = num_packets(len(speech)), stages_of(rate), round(rate * 2.5)
    envelopes, spectra = analyse(codec.analysis, config, speech, count)
    estimated, measured = np.zeros(count), np.zeros(count)
    encode_and_tell(
        tables, new_state(tables), envelopes, spectra, size, stages, config.codebook_bits,
        config.step_resolution, config.rdo_lambda, SURVIVORS, estimated, measured,
    )  # fmt: skip
    assert estimated.sum() == pytest.approx(measured.sum(), rel=0.01)
    assert np.abs(estimated - measured).max() < 1.5
    # The packets are used, and almost never too small for what rate control has planned.
    assert (measured <= 8 * size).mean() > 0.97
    assert np.median(measured) > 0.97 * 8 * size


def integer_position(
    t: Tables, features: np.ndarray, block: np.ndarray, band: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column between the tables, in sixteenths; NumPy twin of the compiled loop."""
    x = features.astype(np.int64)
    first = t.context_band[block, band].astype(np.int64) + x @ t.context_w1
    first = np.clip(first >> 8, 0, HIDDEN_LIMIT)
    second = np.clip((first @ t.context_w2 + t.context_b2) >> 10, 0, HIDDEN_LIMIT)
    out = (second @ t.context_w3 + t.context_b3 + (1 << 13)) >> 14
    row = out[:, 0] + 2 * x[:, 0] + 24 * TABLE_PARTS
    rows = len(t.cdf) // TABLE_COLUMNS
    return (
        np.clip(row, 0, (rows - 1) * TABLE_PARTS),
        np.clip(out[:, 1], 0, (TABLE_COLUMNS - 1) * TABLE_PARTS),
    )


@pytest.fixture(scope="module", params=[False, True], ids=["predicted", "intra"])
def described(
    request: pytest.FixtureRequest, codec: Codec, speech: np.ndarray
) -> tuple:
    """Features [M, features], block [M], band [M], bins [P, 320] and costs [P] at 13.2 kbit/s.

    And first of all, the tables that were used and whether they are those of intra packets.
    """
    tables = codec.weights.intra if request.param else codec.weights.tables
    stages = codec.config.intra_stages(3) if request.param else 3
    found = collect_bins(
        tables, codec.config, codec.analysis, speech, 33, stages, request.param
    )
    count = len(found.bins)
    band = np.tile(band_of_coefficient(codec.config).numpy(), 2 * count)
    block = np.tile(np.repeat(np.arange(2), 160), count)
    features = found.features.reshape(-1, NUM_FEATURES)
    return tables, request.param, features, block, band, found.bins.reshape(count, 320), found.costs


def test_cost_is_that_of_the_mixed_tables(described: tuple) -> None:
    """The price of a packet is the sum over its bins of what the four tables around say."""
    tables, _, features, block, band, bins, costs = described
    row, column = integer_position(tables, features, block, band)
    magnitude = np.abs(bins)
    symbol = np.minimum(magnitude, 15).ravel()
    cdf = tables.cdf.reshape(-1, TABLE_COLUMNS, NUM_SYMBOLS + 1)
    # The exact mixture in floats, where the codec rounds its position and its frequencies.
    lower_row = np.minimum(row // TABLE_PARTS, len(cdf) - 2)
    lower_column = np.minimum(column // TABLE_PARTS, TABLE_COLUMNS - 2)
    part_row, part_column = row / TABLE_PARTS - lower_row, column / TABLE_PARTS - lower_column
    frequency = np.zeros(len(row))
    for i, weight_row in ((0, 1 - part_row), (1, part_row)):
        for j, weight_column in ((0, 1 - part_column), (1, part_column)):
            table = cdf[lower_row + i, lower_column + j]
            each = np.take_along_axis(table, symbol[:, None] + 1, 1) - np.take_along_axis(
                table, symbol[:, None], 1
            )
            frequency += weight_row * weight_column * each[:, 0]
    bits = 15 - np.log2(frequency) + (symbol > 0)
    price = bits.reshape(bins.shape).sum(1)
    plain = (magnitude < 16).all(1)  # no extra bits, no escapes
    assert plain.mean() > 0.5
    # The ratio in the features has a quarter of the resolution that the kernel sees.
    np.testing.assert_allclose(price[plain], costs[plain] / 256, rtol=0.01, atol=0.5)


@pytest.mark.parametrize("kind", ["tables", "intra"])
def test_mixed_tables_are_distributions(codec: Codec, kind: str) -> None:
    cdf = getattr(codec.weights, kind).cdf
    rng = np.random.default_rng(0)
    rows = len(cdf) // TABLE_COLUMNS
    for _ in range(300):
        index = int(rng.integers(rows - 1)) * TABLE_COLUMNS + int(rng.integers(TABLE_COLUMNS - 1))
        fine = [int(x) for x in rng.integers(0, TABLE_PARTS + 1, 2)]
        mixed = [mixed_cdf(cdf, index, fine[0], fine[1], s) for s in range(NUM_SYMBOLS + 1)]
        assert mixed[0] == 0 and mixed[-1] == TOTAL
        assert np.diff(mixed).min() >= 1


# --------------------------------------------------------------------------------------------------
# Integer networks against their float originals


def test_context_model_is_the_float_one(codec: Codec, described: tuple) -> None:
    tables, intra, features, block, band, _, _ = described
    row, column = integer_position(tables, features, block, band)
    with torch.no_grad():
        float_row, float_column = import_context(codec.weights, intra).position(
            torch.from_numpy(features).float(), torch.from_numpy(block), torch.from_numpy(band)
        )
    assert (np.abs(row / TABLE_PARTS - float_row.numpy()) <= 0.25).mean() > 0.999
    assert (np.abs(column / TABLE_PARTS - float_column.numpy()) <= 0.25).mean() > 0.999
    assert len(np.unique(row)) > 100


@pytest.mark.parametrize("size", [20, 33, 80, 255])
def test_allocation_is_the_float_one(codec: Codec, speech: np.ndarray, size: int) -> None:
    tables, config = codec.weights.tables, codec.config
    sizes = num_packets(len(speech)) * [size]
    packets, _ = encode_waveform(tables, config, codec.analysis, speech, sizes, 3)
    envelope = decode_integers(tables, config, packets, 3).envelope
    real = torch.from_numpy(envelope).float() / config.log_scale
    with torch.no_grad():
        wanted = import_net(codec.weights).allocation(
            real[1:], real[:-1], torch.full((len(real) - 1,), float(np.log2(8 * size)))
        )
    offset, errors = np.zeros(20, np.int32), []
    for p in range(1, len(envelope)):
        allocate(tables, envelope[p], envelope[p - 1], 8 * size, offset)
        error = offset / config.log_scale - wanted[p - 1].numpy()
        errors.append(np.abs(error).max())
    assert np.quantile(errors, 0.9) < 0.02 and max(errors) < 0.05  # octaves


@pytest.mark.parametrize(("kind", "part"), [("tables", "msvq"), ("intra", "intra_msvq")])
def test_envelope_is_the_float_one(codec: Codec, kind: str, part: str) -> None:
    net = getattr(import_net(codec.weights), part)
    tables = getattr(codec.weights, kind)
    rng = np.random.default_rng(0)
    stages = codec.config.num_stages
    out = np.zeros(20, np.int32)
    for _ in range(20):
        indices = rng.integers(0, codec.config.codebook_size, 8)
        previous = rng.integers(-14 * 256, 0, 20).astype(np.int32)
        decode_envelope(tables, previous, indices, stages, out)
        with torch.no_grad():
            wanted = net.decode(
                torch.from_numpy(indices[:stages])[None, None],
                torch.from_numpy(previous).float()[None, None] / 256,
                torch.tensor([stages]),
            )[0, 0]
        assert np.abs(out / 256 - wanted.numpy()).max() < 0.01
