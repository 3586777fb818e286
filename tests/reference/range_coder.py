"""Range coder in plain Python, with big integers where it likes: the oracle of the compiled one.

It is written for its own sake, not for speed: bytes that are not settled yet are a list and a
counter, the shortest packet is made and counted. How a range coder works is told in
``codec/coding/range_coder.py``.

Examples
--------
>>> encoder = RangeEncoder()
>>> encoder.encode(2, 3, total_bits=2)   # "b" of the alphabet a (1/2), b (1/4), c (1/4)
>>> encoder.encode(0, 2, total_bits=2)   # "a"
>>> encoder.tell_bits() / 8              # -log2(1/4) - log2(1/2)
3.0
>>> encoder.finish(1).hex()
'80'
>>> decoder = RangeDecoder(bytes([0x80]))
>>> [decoder.decode_symbol([0, 2, 3, 4]) for _ in range(2)]
[1, 0]
"""

from bisect import bisect_right
from collections.abc import Sequence

CODE_BITS = 32
CODE_TOP = 1 << CODE_BITS
RANGE_BOTTOM = 1 << (CODE_BITS - 8)
MAX_TOTAL_BITS = 16


def log2_eighths(value: int) -> int:
    """Return log2(value) in 1/8 bit, rounded down, for 1 <= value <= 2^32.

    Three squarings of the normalised mantissa give the three bits after the point
    (RFC 6716, section 4.1.6.2).
    """
    exponent = value.bit_length() - 1
    # mantissa in [1, 2), with 30 fractional bits
    mantissa = value << (30 - exponent) if exponent <= 30 else value >> (exponent - 30)
    result = exponent
    for _ in range(3):
        mantissa = (mantissa * mantissa) >> 30
        bit = mantissa >> 31
        mantissa >>= bit
        result = 2 * result + bit
    return result


def _check_interval(cum_low: int, cum_high: int, total_bits: int) -> None:
    """Raise ValueError unless 0 <= cum_low < cum_high <= 2^total_bits."""
    if not 0 <= total_bits <= MAX_TOTAL_BITS:
        raise ValueError(f"total_bits is {total_bits}, outside 0..{MAX_TOTAL_BITS}")
    if not 0 <= cum_low < cum_high <= 1 << total_bits:
        raise ValueError(
            f"[{cum_low}, {cum_high}) is not an interval of [0, {1 << total_bits}) with some width"
        )


class RangeEncoder:
    """Code symbols into one packet (see the module docstring)."""

    def __init__(self) -> None:
        self._low = 0  # bit 32 is a carry that is not yet propagated
        self._range = CODE_TOP
        self._cache = -1  # last byte shifted out, -1: none yet
        self._pending = 0  # 0xFF bytes after the cache
        self._bytes = bytearray()

    def encode(self, cum_low: int, cum_high: int, total_bits: int) -> None:
        """Code the symbol that owns [cum_low, cum_high) of [0, 1 << total_bits).

        Raises
        ------
        ValueError   not 0 <= cum_low < cum_high <= 1 << total_bits, or total_bits outside 0..16
        """
        _check_interval(cum_low, cum_high, total_bits)
        unit = self._range >> total_bits
        start = unit * cum_low
        self._low += start
        if cum_high == 1 << total_bits:  # the last symbol also owns the remainder of the division
            self._range -= start
        else:
            self._range = unit * (cum_high - cum_low)
        while self._range < RANGE_BOTTOM:
            self._shift_low()
            self._range <<= 8

    def encode_bits(self, value: int, num_bits: int) -> None:
        """Code `num_bits` (0..16) equiprobable bits."""
        self.encode(value, value + 1, num_bits)

    def tell_bits(self) -> int:
        """Return the number of bits used so far, in 1/8 bit, rounded up.

        While it is at most `64 * n`, `finish(n)` cannot fail.
        """
        return 64 * self._num_shifted() + 8 * CODE_BITS - log2_eighths(self._range)

    def min_bytes(self) -> int:
        """Return the fewest bytes that `finish` would need now."""
        return len(self._shortest())

    def finish(self, num_bytes: int | None = None) -> bytes:
        """Return the packet in exactly `num_bytes` bytes (default: as few as possible).

        The encoder is not changed: one may go on, or try another size.

        Raises
        ------
        ValueError   the symbols do not fit in `num_bytes` bytes
        """
        packet = self._shortest()
        if num_bytes is None:
            return packet
        if len(packet) > num_bytes:
            raise ValueError(f"the symbols need {len(packet)} bytes, {num_bytes} were given")
        return packet.ljust(num_bytes, b"\0")

    def _num_shifted(self) -> int:
        return len(self._bytes) + (self._cache >= 0) + self._pending

    def _shift_low(self) -> None:
        """Shift the top byte out of `low`; hold it back while a carry could still change it."""
        top = self._low >> (CODE_BITS - 8)  # 0..0x1FF: bit 8 is the carry
        if top == 0xFF:
            self._pending += 1
        else:
            self._bytes += self._held_back(carry=top >> 8)
            self._pending = 0
            self._cache = top & 0xFF
        self._low = (self._low & (RANGE_BOTTOM - 1)) << 8

    def _held_back(self, carry: int) -> bytes:
        """Return the cached byte and the pending 0xFF bytes after a carry of 0 or 1."""
        cached = bytes([self._cache + carry]) if self._cache >= 0 else b""
        return cached + bytes([(0xFF + carry) & 0xFF]) * self._pending

    def _shortest(self) -> bytes:
        """Return the number in [low, low + range) with most trailing zeros, without zero bytes."""
        for zeros in range(CODE_BITS, -1, -1):
            mask = (1 << zeros) - 1
            value = (self._low + mask) & ~mask
            if value < self._low + self._range:
                break
        carry, window = divmod(value, CODE_TOP)
        packet = bytes(self._bytes) + self._held_back(carry) + window.to_bytes(4, "big")
        return packet.rstrip(b"\0")


class RangeDecoder:
    """Decode the symbols of one packet.

    Any bytes decode to some symbols: damage is not seen here, but by the CRCs of the bitstream.

    Parameters
    ----------
    data : bytes   the packet; zeros are read beyond its end
    """

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._next = 4
        self._code = int.from_bytes(self._data[:4].ljust(4, b"\0"), "big")  # relative to `low`
        self._range = CODE_TOP
        self._num_shifted = 0

    def decode_target(self, total_bits: int) -> int:
        """Return the cumulative frequency in [0, 1 << total_bits) that the packet points at."""
        unit = self._range >> total_bits
        return min(self._code // unit, (1 << total_bits) - 1)

    def consume(self, cum_low: int, cum_high: int, total_bits: int) -> None:
        """Remove the symbol [cum_low, cum_high) that contains the target.

        Raises
        ------
        ValueError   the interval is impossible, or does not contain the target
        """
        _check_interval(cum_low, cum_high, total_bits)
        target = self.decode_target(total_bits)
        if not cum_low <= target < cum_high:
            raise ValueError(f"[{cum_low}, {cum_high}) does not contain the target {target}")
        unit = self._range >> total_bits
        start = unit * cum_low
        self._code -= start
        if cum_high == 1 << total_bits:
            self._range -= start
        else:
            self._range = unit * (cum_high - cum_low)
        while self._range < RANGE_BOTTOM:
            byte = self._data[self._next] if self._next < len(self._data) else 0
            self._next += 1
            self._code = (self._code << 8) | byte
            self._range <<= 8
            self._num_shifted += 1

    def decode_symbol(self, cdf: Sequence[int]) -> int:
        """Decode one symbol of a table of cumulative frequencies.

        Parameters
        ----------
        cdf : ints, 0 = cdf[0] <= cdf[1] <= ... <= cdf[-1] = a power of two, at most 2^16;
            symbol k owns [cdf[k], cdf[k + 1])

        Returns
        -------
        int, 0..len(cdf) - 2

        Raises
        ------
        ValueError   the last entry is not a power of two, or is too large
        """
        total_bits = cdf[-1].bit_length() - 1
        if cdf[-1] != 1 << max(total_bits, 0) or cdf[0] != 0:
            raise ValueError(f"the table runs from {cdf[0]} to {cdf[-1]}, not 0 to a power of two")
        symbol = bisect_right(cdf, self.decode_target(total_bits)) - 1
        self.consume(cdf[symbol], cdf[symbol + 1], total_bits)
        return symbol

    def decode_bits(self, num_bits: int) -> int:
        """Return `num_bits` (0..16) equiprobable bits as an integer."""
        value = self.decode_target(num_bits)
        self.consume(value, value + 1, num_bits)
        return value

    def tell_bits(self) -> int:
        """Return the number of bits used so far, in 1/8 bit: equal to the encoder's."""
        return 64 * self._num_shifted + 8 * CODE_BITS - log2_eighths(self._range)
