"""Range coder: exact round trips, no wasted bits, and the bytes of the plain one."""

import math
import random

import numpy as np
import pytest
from compiled import direct
from compiled import packet_was_finished as enc_finish
from reference.range_coder import RangeDecoder, RangeEncoder
from reference.range_coder import log2_eighths as plain_log2_eighths

from codec.coding import range_coder
from codec.coding.range_coder import (
    ENC_CACHE,
    ENC_OVERFLOW,
    ENC_PENDING,
    ENC_POSITION,
    ENC_RANGE,
    new_state,
)

BUFFER_BYTES = 1024
DECODER = ("init", "target", "consume", "bits", "tell_bits")
ENCODER = ("init", "symbol", "bits", "min_bytes", "tell_bits")
dec_init, dec_target, dec_consume, dec_bits, dec_tell_bits = (
    direct(getattr(range_coder, f"dec_{name}")) for name in DECODER
)
enc_init, enc_symbol, enc_bits, enc_min_bytes, enc_tell_bits = (
    direct(getattr(range_coder, f"enc_{name}")) for name in ENCODER
)
log2_eighths = direct(range_coder.log2_eighths)


def random_cdf(rng: random.Random, total_bits: int) -> list[int]:
    """Return a table of 2.. symbols, some of them very unlikely, some with no width."""
    total = 1 << total_bits
    if rng.random() < 0.4:  # skewed: one symbol owns nearly all
        rare = rng.randint(0, min(4, total - 1))
        inner = [rng.choice([i, total - i]) for i in range(1, rare + 1)]
    else:
        inner = [rng.randint(0, total) for _ in range(rng.randint(1, 16))]
    return [0, *sorted(inner), total]


def random_message(rng: random.Random, length: int) -> list[tuple[int, int, int]]:
    """Return (cum_low, cum_high, total_bits) of symbols drawn by their own tables."""
    message = []
    for _ in range(length):
        total_bits = rng.randint(0, 16)
        cdf = random_cdf(rng, total_bits)
        uniform = rng.random() < 0.2  # sometimes take an unlikely symbol
        symbols = [k for k in range(len(cdf) - 1) if cdf[k] < cdf[k + 1]]
        if uniform:
            k = rng.choice(symbols)
        else:
            k = rng.choices(symbols, [cdf[k + 1] - cdf[k] for k in symbols])[0]
        message.append((cdf[k], cdf[k + 1], total_bits))
    return message


def entropy_bits(message: list[tuple[int, int, int]]) -> float:
    """Return the sum of -log2(probability)."""
    return sum(bits - math.log2(high - low) for low, high, bits in message)


def kernel_encode(message: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return state and buffer of the compiled encoder after a message."""
    state, buf = new_state(), np.full(BUFFER_BYTES, 0xA5, dtype=np.uint8)
    enc_init(state)
    for low, high, bits in message:
        enc_symbol(state, buf, low, high, bits)
    return state, buf


MESSAGES = [random_message(random.Random(seed), seed % 90) for seed in range(250)]


def test_round_trip_and_equal_bytes_of_both_implementations() -> None:
    decoder_state = new_state()
    for message in MESSAGES:
        reference, state = RangeEncoder(), new_state()
        buf = np.full(BUFFER_BYTES, 0xA5, dtype=np.uint8)
        enc_init(state)
        told = []
        for low, high, bits in message:
            reference.encode(low, high, bits)
            enc_symbol(state, buf, low, high, bits)
            told.append(reference.tell_bits())
            assert enc_tell_bits(state) == told[-1]
            assert enc_min_bytes(state) == reference.min_bytes()
        num_bytes = reference.min_bytes() + len(message) % 4
        packet = reference.finish(num_bytes)
        assert len(packet) == num_bytes
        assert enc_finish(state, buf, num_bytes)
        assert buf[:num_bytes].tobytes() == packet

        # each decoder reads what the other implementation wrote (they are the same bytes), here
        # with rubbish before and after the packet
        decoder = RangeDecoder(packet)
        surrounded = np.frombuffer(bytearray(b"\xff" * 3 + packet + b"\xff" * 5), np.uint8)
        dec_init(decoder_state, surrounded, 3, 3 + num_bytes)
        for (low, high, bits), tell in zip(message, told, strict=True):
            target = decoder.decode_target(bits)
            assert low <= target < high
            assert dec_target(decoder_state, bits) == target
            decoder.consume(low, high, bits)
            dec_consume(decoder_state, surrounded, low, high, bits)
            assert decoder.tell_bits() == tell
            assert dec_tell_bits(decoder_state) == tell


def test_decode_symbol_and_raw_bits() -> None:
    rng = random.Random(1)
    cdf = [0, 1, 1, 9000, 32767, 32768]
    symbols = [rng.choice([0, 2, 3, 4]) for _ in range(60)]
    values = [(rng.getrandbits(n) if n else 0, n) for n in range(17)]
    encoder = RangeEncoder()
    state, buf = new_state(), np.zeros(BUFFER_BYTES, dtype=np.uint8)
    enc_init(state)
    for symbol in symbols:
        encoder.encode(cdf[symbol], cdf[symbol + 1], 15)
        enc_symbol(state, buf, cdf[symbol], cdf[symbol + 1], 15)
    for value, num_bits in values:
        encoder.encode_bits(value, num_bits)
        enc_bits(state, buf, value, num_bits)
    packet = encoder.finish()
    assert enc_finish(state, buf, len(packet)) and buf[: len(packet)].tobytes() == packet

    decoder = RangeDecoder(packet)
    assert [decoder.decode_symbol(cdf) for _ in symbols] == symbols
    assert [(decoder.decode_bits(n), n) for _, n in values] == values
    dec_init(state, buf, 0, len(packet))
    for symbol in symbols:
        assert cdf[symbol] <= dec_target(state, 15) < cdf[symbol + 1]
        dec_consume(state, buf, cdf[symbol], cdf[symbol + 1], 15)
    assert [(dec_bits(state, buf, n), n) for _, n in values] == values


@pytest.mark.parametrize("num_bits", [1, 8, 9, 16])
def test_raw_bits_fill_a_packet_completely(num_bits: int) -> None:
    # 144 bits in 18 bytes: no constant first byte, no flush
    count = 144 // num_bits
    state, buf = new_state(), np.zeros(BUFFER_BYTES, dtype=np.uint8)
    enc_init(state)
    rng = random.Random(num_bits)
    values = [rng.getrandbits(num_bits) for _ in range(count - 1)] + [(1 << num_bits) - 1]
    for value in values:
        enc_bits(state, buf, value, num_bits)
    # the remainder of a division may cost or save a few thousandths of a bit
    assert abs(enc_tell_bits(state) - 8 * 144) <= 1
    assert enc_min_bytes(state) <= 18 + (enc_tell_bits(state) > 8 * 144)
    if num_bits != 9:  # no remainders in whole bytes: the packet is the bits themselves
        big = 0
        for value in values:
            big = big << num_bits | value
        assert enc_finish(state, buf, 18)
        assert buf[:18].tobytes() == big.to_bytes(18, "big")


def test_fits_in_min_bytes_and_not_in_one_less() -> None:
    for message in MESSAGES:
        state, buf = kernel_encode(message)
        before_state, before_buf = state.copy(), buf.copy()
        need = enc_min_bytes(state)
        assert not enc_finish(state, buf, need - 1)
        np.testing.assert_array_equal(buf, before_buf)  # a failure leaves no trace
        assert enc_finish(state, buf, need)
        np.testing.assert_array_equal(state, before_state)  # nor does a success in the state
        encoder = RangeEncoder()
        for symbol in message:
            encoder.encode(*symbol)
        assert encoder.finish() == buf[:need].tobytes()
        if need:
            with pytest.raises(ValueError, match="need"):
                encoder.finish(need - 1)


def test_no_shorter_packet_exists() -> None:
    # Exhaustive: of all packets of 0, 1 and 2 bytes, which decode to a given message?
    for seed in range(40):
        message = random_message(random.Random(1000 + seed), 3)
        encoder = RangeEncoder()
        for symbol in message:
            encoder.encode(*symbol)

        def decodes(packet: bytes, message: list[tuple[int, int, int]] = message) -> bool:
            decoder = RangeDecoder(packet)
            for low, high, bits in message:
                if not low <= decoder.decode_target(bits) < high:
                    return False
                decoder.consume(low, high, bits)
            return True

        candidates = [b"", *(bytes([i]) for i in range(256))]
        shortest = min((len(packet) for packet in candidates if decodes(packet)), default=2)
        assert min(encoder.min_bytes(), 2) == shortest


def test_tell_bits_is_a_tight_upper_bound_and_guarantees_the_fit() -> None:
    for message in MESSAGES:
        state, _ = kernel_encode(message)
        told = enc_tell_bits(state)
        assert enc_min_bytes(state) <= -(-told // 64)
        # within 1/8 bit of the exact interval, itself within the truncations of the entropy
        assert told >= 8 * -_exact_log2_range(state) - 1e-6
        assert told < 8 * -_exact_log2_range(state) + 1 + 1e-6


def _exact_log2_range(state: np.ndarray) -> float:
    shifted = state[ENC_POSITION] + state[ENC_PENDING] + (state[ENC_CACHE] >= 0)
    return math.log2(state[ENC_RANGE]) - 32 - 8 * int(shifted)


def test_log2_eighths_of_both_implementations() -> None:
    rng = random.Random(3)
    values = [1, 2, 3, 255, 1 << 24, (1 << 32) - 1, 1 << 32]
    values += [rng.getrandbits(rng.randint(1, 32)) | 1 for _ in range(300)]
    for value in values:
        expected = plain_log2_eighths(value)
        assert log2_eighths(value) == expected
        assert expected <= 8 * math.log2(value) < expected + 1 + 1e-6


def test_overhead_over_entropy() -> None:
    """Fill packets of 20..80 bytes with likely and unlikely symbols; compare with the entropy."""
    rng = random.Random(4)
    losses = []
    for trial in range(60):
        num_bytes = rng.choice([20, 24, 33, 41, 61, 80])
        state, buf = new_state(), np.zeros(BUFFER_BYTES, dtype=np.uint8)
        enc_init(state)
        spent = 0.0
        while True:
            total_bits = 15
            cdf = [0, *sorted(rng.sample(range(1, 1 << 15), 7)), 1 << 15]
            k = rng.choices(range(8), [cdf[i + 1] - cdf[i] for i in range(8)])[0]
            before = state.copy()
            enc_symbol(state, buf, cdf[k], cdf[k + 1], total_bits)
            if enc_min_bytes(state) > num_bytes:
                break
            spent += entropy_bits([(cdf[k], cdf[k + 1], total_bits)])
        # the rest of the packet, bit by bit
        state[:] = before
        while True:
            before = state.copy()
            enc_bits(state, buf, trial & 1, 1)
            if enc_min_bytes(state) > num_bytes:
                break
            spent += 1
        state[:] = before
        assert enc_finish(state, buf, num_bytes)
        losses.append(8 * num_bytes - spent)
    assert np.mean(losses) < 0.5, np.mean(losses)
    assert max(losses) < 1.5, max(losses)


@pytest.mark.parametrize("total_bits", [15, 16])
def test_very_unlikely_symbols(total_bits: int) -> None:
    total = 1 << total_bits
    patterns = {
        "rare first": [(0, 1, total_bits)] * 40,
        "rare last": [(total - 1, total, total_bits)] * 40,
        "likely first": [(0, total - 1, total_bits)] * 3000,
        "likely last": [(1, total, total_bits)] * 3000,
        "mixed": [(0, 1, total_bits), (1, total, total_bits), (0, total - 1, total_bits)] * 30,
    }
    for name, message in patterns.items():
        state, buf = kernel_encode(message)
        assert state[ENC_OVERFLOW] == 0
        told = enc_tell_bits(state) / 8
        assert abs(told - entropy_bits(message)) < 0.01 * entropy_bits(message) + 1, name
        need = enc_min_bytes(state)
        assert enc_finish(state, buf, need)
        decoder = new_state()
        dec_init(decoder, buf, 0, need)
        for low, high, bits in message:
            assert low <= dec_target(decoder, bits) < high, name
            dec_consume(decoder, buf, low, high, bits)


def test_carry_runs_through_bytes_that_were_shifted_out() -> None:
    # The interval straddles 1/2 and stays there: 0x7F FF FF ... has been shifted out, and the last
    # word on it is still to be said.
    for run in range(1, 40):
        straddle = [(32767, 32769, 16)] + [(1, 3, 2)] * run
        state, buf = kernel_encode(straddle)
        assert enc_min_bytes(state) == 1
        assert enc_finish(state, buf, 5) and buf[:5].tobytes() == b"\x80\0\0\0\0"
        for last, first_byte, then in (((0, 1, 2), 0x7F, 0xFF), ((3, 4, 2), 0x80, 0x00)):
            message = straddle + [last] + [(40000, 40001, 16)] * 6
            encoder = RangeEncoder()
            for symbol in message:
                encoder.encode(*symbol)
            packet = encoder.finish()
            assert packet[: 1 + run // 8] == bytes([first_byte] + [then] * (run // 8))
            state, buf = kernel_encode(message)
            assert enc_finish(state, buf, len(packet)) and buf[: len(packet)].tobytes() == packet
            decoder = RangeDecoder(packet)
            for low, high, bits in message:
                assert low <= decoder.decode_target(bits) < high
                decoder.consume(low, high, bits)


def test_state_copy_takes_symbols_back() -> None:
    rng = random.Random(5)
    for message in MESSAGES[::5]:
        plain_state, plain_buf = kernel_encode(message)
        state, buf = new_state(), np.full(BUFFER_BYTES, 0xA5, dtype=np.uint8)
        enc_init(state)
        for low, high, bits in message:
            saved = state.copy()
            for trial in random_message(rng, rng.randint(0, 8)):
                enc_symbol(state, buf, *trial)
            enc_finish(state, buf, enc_min_bytes(state) + rng.randint(0, 3))
            state[:] = saved
            enc_symbol(state, buf, low, high, bits)
        np.testing.assert_array_equal(state, plain_state)
        need = enc_min_bytes(state)
        assert enc_finish(state, buf, need) and enc_finish(plain_state, plain_buf, need)
        np.testing.assert_array_equal(buf[:need], plain_buf[:need])


def test_empty_message_and_certain_symbols_cost_nothing() -> None:
    state, buf = kernel_encode([(0, 1, 0), (0, 256, 8), (0, 65536, 16)])
    assert enc_tell_bits(state) == 0 and enc_min_bytes(state) == 0
    assert enc_finish(state, buf, 3) and buf[:3].tobytes() == b"\0\0\0"
    assert RangeEncoder().finish() == b"" and RangeEncoder().tell_bits() == 0
    assert RangeDecoder(b"").tell_bits() == 0


def test_small_buffer_sets_the_overflow_flag() -> None:
    memory = np.full(16, 0xA5, dtype=np.uint8)
    buf = memory[4:8]
    state = new_state()
    enc_init(state)
    for _ in range(20):
        enc_bits(state, buf, 0xABCD, 16)
    assert state[ENC_OVERFLOW] == 1
    assert not enc_finish(state, buf, 4) and not enc_finish(state, buf, 40)
    assert memory[:4].tobytes() == memory[8:12].tobytes() == b"\xa5" * 4
    assert enc_tell_bits(state) == 8 * 320


@pytest.mark.parametrize("interval", [(3, 3, 4), (5, 3, 4), (-1, 3, 4), (3, 17, 4), (16, 17, 4)])
def test_impossible_intervals(interval: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="not an interval"):
        RangeEncoder().encode(*interval)
    with pytest.raises(ValueError, match="not an interval"):
        RangeDecoder(b"12345").consume(*interval)
    state, buf = kernel_encode([interval])
    assert state[ENC_OVERFLOW] == 1 and not enc_finish(state, buf, 20)
    dec_init(state, buf, 0, 20)
    dec_consume(state, buf, *interval)  # returns
    assert 0 <= dec_target(state, 4) < 16


def test_reference_rejects_wrong_tables_and_intervals() -> None:
    with pytest.raises(ValueError, match="outside 0..16"):
        RangeEncoder().encode(0, 1, 17)
    for table in ([0, 3], [1, 4], [0, 0], [0, 1 << 17]):
        with pytest.raises(ValueError):
            RangeDecoder(b"\x01").decode_symbol(table)
    with pytest.raises(ValueError, match="does not contain"):
        RangeDecoder(b"\xff").consume(0, 1, 8)


def test_garbage_always_decodes() -> None:
    rng = random.Random(6)
    tables = [random_cdf(rng, rng.randint(1, 16)) for _ in range(40)]
    state = new_state()
    packets = [rng.randbytes(rng.randint(0, 80)) for _ in range(40)]
    packets += [b"", b"\0" * 20, b"\xff" * 20, b"\xff" * 80]
    for packet in packets:
        buf = np.frombuffer(packet, dtype=np.uint8)
        decoder = RangeDecoder(packet)
        dec_init(state, buf, 0, len(packet) + 7)  # an end beyond the buffer is clipped
        for i in range(300):  # far beyond the end of the packet
            cdf = tables[i % len(tables)]
            total_bits = cdf[-1].bit_length() - 1
            target = dec_target(state, total_bits)
            symbol = decoder.decode_symbol(cdf)
            assert cdf[symbol] <= target < cdf[symbol + 1]
            dec_consume(state, buf, cdf[symbol], cdf[symbol + 1], total_bits)
        assert dec_tell_bits(state) == decoder.tell_bits()


def test_golden_packet() -> None:
    # Any change of the coder's output is a change of the format.
    encoder = RangeEncoder()
    for value in (0, 511, 300, 17):
        encoder.encode_bits(value, 9)
    for symbol in [(0, 900, 10), (900, 1023, 10), (1, 9, 7)]:
        encoder.encode(*symbol)
    assert encoder.finish(12).hex() == "007fe5811c60000000000000"
    assert encoder.tell_bits() == 346
