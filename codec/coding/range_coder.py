"""Integer range coder: symbols and their probabilities become bytes, and symbols again.

How a range coder works
-----------------------
Think of a whole packet as one binary fraction in [0, 1). Coding starts with the interval [0, 1),
and every symbol narrows it: the interval is divided in proportion to the probabilities of the
possible symbols, and the part of the symbol that did occur is kept. For an alphabet
a (1/2), b (1/4), c (1/4) the message "b a" is coded as

::

    0             1/2     3/4      1
    |------a-------|---b---|---c---|        "b": keep [1/2, 3/4)
                   |--a|-b-|                "a": keep [1/2, 5/8)

In the end any fraction inside the interval identifies the message, so one sends the shortest:
1/2, or in binary 0.1, one single bit here. The width of the interval is the product of the
probabilities, so the number of bits is the sum of -log2(probability), the entropy, plus at most one
for the whole packet. A likely symbol may cost a hundredth of a bit.

The decoder knows the same probabilities. It sees which part of the interval the fraction lies in,
which tells it the first symbol; then it narrows its interval in the same way, and goes on.

Integers only
-------------
``low`` and ``range`` hold a 32-bit window of the interval. Whenever the width falls below 2^24, the
top byte of ``low`` is settled and is shifted out. Settled but for a carry: a later addition to
``low`` may still overflow into it. So the last byte is held back (``cache``), together with the
number of 0xFF bytes after it (``pending``), through which a carry would run.

Probabilities are cumulative frequencies with a total of 2^total_bits. A symbol owns
[cum_low, cum_high). ``range >> total_bits`` is the width of one unit; what the division leaves over
goes to the last symbol, so that no part of the interval is lost.

Nothing wasted at the ends
--------------------------
The first byte is not a constant (as it is in LZMA). :func:`enc_finish` takes the number in
[low, low + range) with most trailing zero bits; zero bytes at the end need not be sent, since the
decoder reads zeros beyond the end of its packet.

In compiled loops
-----------------
The coder is a handful of functions on a small int64 array, so that loops can try something out and
take it back::

    trial[:] = state            # everything the encoder remembers is in the state,
    ...                         # and bytes of `buf` that it still needs are never rewritten,
    state[:] = trial            # so this undoes all symbols since (`buf` needs no copy)

Everything is int64 (never uint64: numba turns uint64 + int64 into a float).

Encoder state, int64, shape [STATE_SIZE]
    ENC_LOW       low end of the interval; bit 32 is a carry that is not yet propagated
    ENC_RANGE     width of the interval, 2^24..2^32
    ENC_CACHE     last byte shifted out that a carry can still change, -1 when there is none
    ENC_PENDING   number of 0xFF bytes after it, which a carry would turn into 0x00
    ENC_POSITION  number of final bytes in `buf`
    ENC_USED      the same without trailing zero bytes
    ENC_OVERFLOW  1 after `buf` was too small, or an impossible interval was asked for

Decoder state, int64, shape [STATE_SIZE]
    DEC_CODE      value of the packet relative to the low end of the interval
    DEC_RANGE     width of the interval, 2^24..2^32
    DEC_NEXT      index in `buf` of the next byte to read
    DEC_END       index in `buf` of the end of the packet; beyond it, zeros are read
    DEC_SHIFTED   number of bytes shifted in since the start

References
----------
G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a digitised message",
Video & Data Recording Conference, Southampton, 1979.
RFC 6716 (Opus), section 4.1: the range decoder, and how to tell the bits used so far.
"""

import numpy as np

from codec.jit import kernel

STATE_SIZE = 8

CODE_BITS = 32
CODE_TOP = 1 << CODE_BITS
RANGE_BOTTOM = 1 << (CODE_BITS - 8)
CODE_MASK = CODE_TOP - 1

ENC_LOW = 0
ENC_RANGE = 1
ENC_CACHE = 2
ENC_PENDING = 3
ENC_POSITION = 4
ENC_USED = 5
ENC_OVERFLOW = 6

DEC_CODE = 0
DEC_RANGE = 1
DEC_NEXT = 2
DEC_END = 3
DEC_SHIFTED = 4


def new_state() -> np.ndarray:
    """Return an empty state: int64, shape [STATE_SIZE] (then call `enc_init` or `dec_init`)."""
    return np.zeros(STATE_SIZE, dtype=np.int64)


@kernel
def log2_eighths(value):
    """Return log2(value) in 1/8 bit, rounded down, for 1 <= value <= 2^32.

    Three squarings of the normalised mantissa give the three bits after the point
    (RFC 6716, section 4.1.6.2).
    """
    exponent = 0
    while (value >> exponent) > 1:
        exponent += 1
    # mantissa in [1, 2), with 30 fractional bits
    mantissa = value << (30 - exponent) if exponent <= 30 else value >> (exponent - 30)
    result = exponent
    for _ in range(3):
        mantissa = (mantissa * mantissa) >> 30
        bit = mantissa >> 31
        mantissa >>= bit
        result = 2 * result + bit
    return result


@kernel
def enc_init(state):
    """Start a packet: nothing written, the whole interval [0, 2^32)."""
    for i in range(STATE_SIZE):
        state[i] = 0
    state[ENC_RANGE] = CODE_TOP
    state[ENC_CACHE] = -1


@kernel
def _commit_byte(state, buf, value):
    """Append one final byte to `buf`, or set the overflow flag."""
    position = state[ENC_POSITION]
    state[ENC_POSITION] = position + 1
    if position >= buf.size:
        state[ENC_OVERFLOW] = 1
        return
    buf[position] = value
    if value != 0:
        state[ENC_USED] = position + 1


@kernel
def _shift_low(state, buf):
    """Shift the top byte out of `low`; hold it back while a carry could still change it."""
    low = state[ENC_LOW]
    top = low >> (CODE_BITS - 8)  # 0..0x1FF: bit 8 is the carry
    if top == 0xFF:
        state[ENC_PENDING] += 1
    else:
        carry = top >> 8
        if state[ENC_CACHE] >= 0:
            _commit_byte(state, buf, state[ENC_CACHE] + carry)
        for _ in range(state[ENC_PENDING]):
            _commit_byte(state, buf, (0xFF + carry) & 0xFF)
        state[ENC_PENDING] = 0
        state[ENC_CACHE] = top & 0xFF
    state[ENC_LOW] = (low & (RANGE_BOTTOM - 1)) << 8


@kernel
def enc_symbol(state, buf, cum_low, cum_high, total_bits):
    """Code the symbol that owns [cum_low, cum_high) of [0, 1 << total_bits).

    Parameters
    ----------
    state : int64 array, shape [STATE_SIZE]      changed in place
    buf : uint8 array, at least 1024 bytes       receives the final bytes
    cum_low, cum_high : int                      0 <= cum_low < cum_high <= 1 << total_bits
    total_bits : int, 0..16

    An impossible interval, or a `buf` that is too small, sets state[ENC_OVERFLOW]; `enc_finish`
    then returns False.
    """
    total = 1 << total_bits
    if cum_low < 0 or cum_high <= cum_low or cum_high > total:
        state[ENC_OVERFLOW] = 1
        return
    unit = state[ENC_RANGE] >> total_bits
    start = unit * cum_low
    state[ENC_LOW] += start
    if cum_high == total:  # the last symbol also owns the remainder of the division
        state[ENC_RANGE] -= start
    else:
        state[ENC_RANGE] = unit * (cum_high - cum_low)
    while state[ENC_RANGE] < RANGE_BOTTOM:
        _shift_low(state, buf)
        state[ENC_RANGE] <<= 8


@kernel
def enc_bits(state, buf, value, nbits):
    """Code `nbits` (0..16) equiprobable bits."""
    enc_symbol(state, buf, value, value + 1, nbits)


@kernel
def enc_tell_bits(state):
    """Return the number of bits used so far, in 1/8 bit, rounded up.

    While it is at most `64 * n`, `enc_finish` into n bytes cannot fail.
    """
    shifted = state[ENC_POSITION] + state[ENC_PENDING]
    if state[ENC_CACHE] >= 0:
        shifted += 1
    return 64 * shifted + 8 * CODE_BITS - log2_eighths(state[ENC_RANGE])


@kernel
def _final_value(state):
    """Return the number in [low, low + range) with most trailing zero bits (33 bits)."""
    low = state[ENC_LOW]
    end = low + state[ENC_RANGE]
    for zeros in range(CODE_BITS, 0, -1):
        mask = (1 << zeros) - 1
        value = (low + mask) & ~mask
        if value < end:
            return value
    return low


@kernel
def enc_min_bytes(state):
    """Return the fewest bytes that `enc_finish` would need now; changes nothing."""
    value = _final_value(state)
    window = value & CODE_MASK
    position = state[ENC_POSITION]
    shifted = position + state[ENC_PENDING]
    if state[ENC_CACHE] >= 0:
        shifted += 1
    if window != 0:
        length = 4
        while window & 0xFF == 0:
            window >>= 8
            length -= 1
        return shifted + length
    if value != 0:  # the carry turns the pending 0xFF bytes into zeros, and ends in the cache
        return position + 1
    if state[ENC_PENDING] > 0:
        return shifted
    if state[ENC_CACHE] > 0:
        return position + 1
    return state[ENC_USED]


@kernel
def enc_finish(state, buf, num_bytes):
    """Close the packet in exactly `num_bytes` bytes.

    Returns
    -------
    bool   True: buf[:num_bytes] is the packet, zero padded.  False: it does not fit (or the
           overflow flag is set).  The state is not changed, and neither are the bytes of `buf`
           that it needs, so that one may go on, go back, or try another size.
    """
    if state[ENC_OVERFLOW] != 0 or num_bytes > buf.size or enc_min_bytes(state) > num_bytes:
        return False
    value = _final_value(state)
    carry = value >> CODE_BITS
    position = state[ENC_POSITION]
    # What lies past num_bytes is zero (enc_min_bytes says so), and need not be written.
    if state[ENC_CACHE] >= 0:
        if position < num_bytes:
            buf[position] = state[ENC_CACHE] + carry
        position += 1
    for _ in range(state[ENC_PENDING]):
        if position < num_bytes:
            buf[position] = (0xFF + carry) & 0xFF
        position += 1
    for i in range(4):
        if position < num_bytes:
            buf[position] = (value >> (CODE_BITS - 8 - 8 * i)) & 0xFF
        position += 1
    while position < num_bytes:
        buf[position] = 0
        position += 1
    return True


@kernel
def _next_byte(state, buf):
    """Return the next byte of the packet, 0 beyond its end."""
    index = state[DEC_NEXT]
    if index >= state[DEC_END]:
        return 0
    state[DEC_NEXT] = index + 1
    return int(buf[index])


@kernel
def dec_init(state, buf, start, end):
    """Start to decode the packet buf[start:end] (clipped to the buffer)."""
    for i in range(STATE_SIZE):
        state[i] = 0
    state[DEC_RANGE] = CODE_TOP
    state[DEC_NEXT] = max(start, 0)
    state[DEC_END] = min(end, buf.size)
    code = 0
    for _ in range(CODE_BITS // 8):
        code = (code << 8) | _next_byte(state, buf)
    state[DEC_CODE] = code


@kernel
def dec_target(state, total_bits):
    """Return the cumulative frequency in [0, 1 << total_bits) that the packet points at."""
    unit = state[DEC_RANGE] >> total_bits
    return max(0, min(state[DEC_CODE] // unit, (1 << total_bits) - 1))


@kernel
def dec_consume(state, buf, cum_low, cum_high, total_bits):
    """Remove the symbol [cum_low, cum_high) that contains the target.

    An interval that does not contain it (a bug in the caller's table) gives garbage, but neither
    a crash nor an endless loop.
    """
    total = 1 << total_bits
    if cum_low < 0 or cum_high <= cum_low or cum_high > total:
        return
    unit = state[DEC_RANGE] >> total_bits
    start = unit * cum_low
    state[DEC_CODE] -= start
    if cum_high == total:
        state[DEC_RANGE] -= start
    else:
        state[DEC_RANGE] = unit * (cum_high - cum_low)
    while state[DEC_RANGE] < RANGE_BOTTOM:
        state[DEC_CODE] = (state[DEC_CODE] << 8) | _next_byte(state, buf)
        state[DEC_RANGE] <<= 8
        state[DEC_SHIFTED] += 1


@kernel
def dec_bits(state, buf, nbits):
    """Return `nbits` (0..16) equiprobable bits as an integer."""
    value = dec_target(state, nbits)
    dec_consume(state, buf, value, value + 1, nbits)
    return value


@kernel
def dec_tell_bits(state):
    """Return the number of bits used so far, in 1/8 bit: equal to `enc_tell_bits`."""
    return 64 * state[DEC_SHIFTED] + 8 * CODE_BITS - log2_eighths(state[DEC_RANGE])
