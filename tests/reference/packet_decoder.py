"""Second decoder of the integers of packets, in NumPy: the formulas of docs/bitstream.md.

Sections have the numbers of the page. Only the page, the weights file and the range decoder beside
this are used; it takes a twentieth of a second per frame.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from reference.range_coder import RangeDecoder

Tensors = dict[str, np.ndarray]
EDGES = (
    0, 2, 4, 6, 8, 10, 12, 14, 17, 20, 23, 27, 31, 36, 41, 47, 53, 60, 68, 76, 85, 95, 106, 118,
    130, 144, 160,
)  # fmt: skip
BAND = np.repeat(np.arange(26), np.diff(EDGES))
BASE = (*range(16), 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256)
RAW_BITS = (*(16 * (0,)), 2, 2, 2, 2, 3, 3, 3, 3, 5, 5, 6, 6, 0)


class Frame(NamedTuple):
    """Integers of a frame, in Q8 where logarithms; what the next one needs of it."""

    level: int
    level_delta: int
    shape: np.ndarray
    detail: np.ndarray
    envelope: np.ndarray
    long: int
    offset: np.ndarray
    step: int
    delta: int
    log_step: np.ndarray
    levels: np.ndarray


def clip(x, low, high):
    return np.minimum(np.maximum(x, low), high)


def interpolate(w: Tensors, bands: np.ndarray) -> np.ndarray:
    b, t = w["allocation.interpolation"].T
    return (bands[b] * (256 - t) + bands[b + 1] * t + 128) >> 8


# --- 1. envelope and detail, 2. step offsets, 3. blocks and expected step ------------------------


def read_level_delta(w: Tensors, coder: RangeDecoder, last_delta: int) -> int:
    return symbol(coder, w["level.cdf"][min(max((last_delta + 7) // 2, 0), 6)]) - 104


def read_shape(w: Tensors, coder: RangeDecoder, stages: int, before: np.ndarray) -> np.ndarray:
    shape = ((2048 + w["envelope.predictor"] @ before) >> 12) + w["envelope.bias"]
    for s in range(stages):
        shape = shape + w["envelope.codebooks"][s, symbol(coder, w["envelope.index_cdf"][s])]
    return clip(shape, -8192, 8191)


def read_detail(
    w: Tensors, coder: RangeDecoder, bits: int, shape: np.ndarray, past: Frame
) -> np.ndarray:
    """The shape is decoded before its detail is."""
    known = np.concatenate([shape, past.shape, past.detail])
    detail = ((2048 + w["detail.predictor"] @ known) >> 12) + w["detail.bias"]
    for s in range(detail_stages(bits)):
        detail = detail + w["detail.codebooks"][s, symbol(coder, w["detail.index_cdf"][s])]
    return clip(detail, -8192, 8191)


def detail_stages(bits: int) -> int:
    return sum(bits >= first for first in (150, 170, 230, 300))


def step_offsets(w: Tensors, e: np.ndarray, before: np.ndarray, bits: int) -> np.ndarray:
    q, mean = int(w["allocation.log2_bits"][bits]), e.sum() // 26
    x = np.concatenate([e - mean, before - mean, [q - 8192]])
    for layer in (1, 2):
        x = x @ w[f"allocation.w{layer}"] + w[f"allocation.b{layer}"]
        x = np.maximum((x + (1 << 11)) >> 12, 0)
    out = (x @ w["allocation.w3"] + w["allocation.b3"] + (1 << 13)) >> 14
    s = min(max(q - 7498, 0), 2048)
    r = min(s >> 9, 3)
    t, table = s - 512 * r, w["allocation.rate_offsets"]
    out = out + ((table[r] * (512 - t) + table[r + 1] * t + 256) >> 9)
    out = out + ((819 * (e - mean) + 2048) >> 12)
    v = out - out.sum() // 26
    return np.sign(v) * (1024 * abs(v) // (1024 + abs(v)))


def expected_step(
    w: Tensors, scale: np.ndarray, relative: np.ndarray, bits: int, stages: int
) -> int:
    budget = max(((bits - 9 * stages - 9) * 291) >> 8, 8)
    d, table = scale - relative, w["allocation.expected_bits"]
    low = int(d.sum()) // 160 - 4096
    high = low + 8192
    while high - low > 1:
        g = (low + high) >> 1
        if 2 * table[clip(((d - g) >> 4) + 128, 0, 319)].sum() <= 256 * budget:
            high = g
        else:
            low = g
    return max(high, int(d.max()) - 2560)


# --- 4. what is known of a coefficient ------------------------------------------------------------


def harmonics(p0: np.ndarray, p1: np.ndarray) -> tuple[int, int]:
    a = np.minimum(p0[:60] + p1[:60], 1023)
    a = a - a.sum() // 60
    best, lag = 0, 2
    for at in range(2, 21):
        c = 60 * int((a[at:] * a[:-at]).sum()) // (60 - at)
        if c > best:
            best, lag = c, at
    return lag, min(64 * best // (1 + int((a * a).sum())), 64)


class Block(NamedTuple):
    """What is known before a block's first level."""

    ratio: np.ndarray
    last_ratio: np.ndarray
    p0: np.ndarray
    p1: np.ndarray
    size: int  # log2 of the packet's bits, Q10
    deltas: tuple[int, int]  # of this frame and of the last one


def features(w: Tensors, known: Block) -> Generator[np.ndarray, int, None]:
    """Yield the features of each coefficient; send its magnitude."""
    exp2, compress = w["context.exp2"], w["context.compress"]

    def z(value) -> int:
        return int(compress[min(int(value), 2047)])

    def limit(value) -> int:
        return min(max(int(value), -1023), 1023)

    lag, strength = harmonics(known.p0, known.p1)
    ratio = known.ratio
    y = (exp2[clip(ratio + 2048, 0, 4095)] >> 6).tolist()
    p, o = np.pad(known.p0, 4), np.pad(known.p1, 4)  # offset 4
    m1 = m2 = m3 = m4 = r8 = r32 = e8 = e32 = 0
    below = np.zeros(184, np.int64)  # z, offset 24
    for k in range(160):
        i, j = k + 4, k + 24
        magnitude = yield np.array([
            limit(ratio[k] >> 2), limit(known.last_ratio[k] >> 2), below[j - 1], below[j - 2],
            z((m3 + m4) >> 1), z(r8 >> 3), z(p[i]), z(p[i - 1]),
            z(p[i + 1]), z(p[i - 2]), z(p[i + 2]), z(p[i - 4 : i + 5].sum() >> 3),
            z(o[i]), z(o[i - 1]), z(o[i + 1]), z(p[i - 3] + p[i - 4]) if k >= 4 else 0,
            z(p[i + 3] + p[i + 4]) if k + 4 < 160 else 0, limit((known.size - 8192) >> 4),
            limit(ratio[min(k + 4, 159)] >> 2), z((m1 + m2) >> 1),
            limit(ratio[max(k - 4, 0)] >> 2), z(e8 >> 3), z(r32 >> 5), z(e32 >> 5),
            z(o[i - 2]), z(o[i + 2]), below[j - lag], below[j - lag - 1],
            below[j - lag + 1] if k >= lag else 0, strength,
            limit(8 * known.deltas[0]), limit(8 * known.deltas[1]),
        ])  # fmt: skip
        m = 16 * min(magnitude, 2000)
        m4, m3, m2, m1 = m3, m2, m1, m
        r8, r32 = r8 + m - (r8 >> 3), r32 + m - (r32 >> 5)
        e8, e32 = e8 + y[k] - (e8 >> 3), e32 + y[k] - (e32 >> 5)
        below[j] = z(m)


# --- 5. network and tables, 6. levels -------------------------------------------------------------


def distribution(w: Tensors, f: np.ndarray, ratio: int, kind: int, band: int) -> np.ndarray:
    h = clip((f @ w["context.w1"] + w["context.band"][kind, band]) >> 8, 0, 4095)
    h = clip((h @ w["context.w2"] + w["context.b2"]) >> 10, 0, 4095)
    u, v = (h @ w["context.w3"] + w["context.b3"]).tolist()
    table = w["context.cdf"]
    rows = len(table)
    row = min(max(((u + (1 << 13)) >> 14) + (ratio >> 1) + 384, 0), 16 * (rows - 1))
    column = min(max((v + (1 << 13)) >> 14, 0), 48)
    r, c = min(row >> 4, rows - 2), min(column >> 4, 2)
    i, j = row - 16 * r, column - 16 * c
    low = (16 - j) * table[r, c] + j * table[r, c + 1]
    high = (16 - j) * table[r + 1, c] + j * table[r + 1, c + 1]
    return (low * (16 - i) + high * i) >> 8


def symbol(coder: RangeDecoder, cdf: np.ndarray) -> int:
    return coder.decode_symbol(cdf.tolist())


def read_level(coder: RangeDecoder, cdf: np.ndarray) -> int:
    s = symbol(coder, cdf)
    magnitude = BASE[s]
    if s == 28:
        n = 2
        while n < 12 and coder.decode_bits(1) == 0:
            n += 1
        magnitude += (1 << n) + coder.decode_bits(n) - 4
    elif RAW_BITS[s]:
        magnitude += coder.decode_bits(RAW_BITS[s])
    return -magnitude if magnitude and coder.decode_bits(1) else magnitude


def read_levels(w: Tensors, coder: RangeDecoder, kind: int, known: Block) -> np.ndarray:
    levels = np.zeros(160, np.int64)
    source = features(w, known)
    f = next(source)
    for k in range(160):
        cdf = distribution(w, f, int(known.ratio[k]), kind, BAND[k])
        levels[k] = read_level(coder, cdf)
        if k < 159:
            f = source.send(abs(int(levels[k])))
    return levels


# --- the packet -----------------------------------------------------------------------------------


def first_past(w: Tensors) -> Frame:
    zeros, initial = np.zeros(160, np.int64), w["envelope.initial"]
    envelope = initial - 40 * 64
    levels = np.zeros((2, 160), np.int64)
    none = np.zeros(44, np.int64)
    return Frame(-40, 0, initial, none, envelope, 0, zeros[:26], 0, 0, zeros, levels)


def decode_frame(w: Tensors, packet: bytes, stages: int, past: Frame, intra: bool) -> Frame:
    """Decode a packet; ``w`` are the tensors of its kind, ``past`` is the frame before."""
    coder, bits = RangeDecoder(packet), min(8 * len(packet), 2048)
    level_delta = read_level_delta(w, coder, past.level_delta)
    level = min(max(past.level + level_delta, -72), 32)
    shape = read_shape(w, coder, stages, past.shape)
    detail = read_detail(w, coder, bits, shape, past)
    bits -= 8 * detail_stages(bits)
    long = symbol(coder, w["blocks.cdf"][past.long])
    delta = symbol(coder, w["step.cdf"][min(max((past.delta + 15) // 6, 0), 6)]) - 63
    envelope = clip(shape + 64 * level, -6144, 6144)
    before = envelope if intra else past.envelope
    offset = step_offsets(w, envelope, before, bits)
    relative = interpolate(w, offset)
    scale = interpolate(w, envelope + w["allocation.scale_offset"])
    step = expected_step(w, scale, relative, bits, stages) + 16 * delta
    log_step = step + relative

    def rescaled(block: int) -> np.ndarray:
        magnitude = abs(past.levels[block])
        factor = w["context.exp2"][clip(past.log_step - log_step + 2048, 0, 4095)]
        return np.where(magnitude == 0, 0, np.minimum((magnitude * factor) >> 6, 32767))

    known = Block(
        scale - log_step,
        interpolate(w, before + w["allocation.scale_offset"]) - log_step,
        rescaled(1),
        rescaled(0),
        int(w["allocation.log2_bits"][bits]),
        (delta, past.delta),
    )
    kind = 4 * past.long + 2 * long
    first = read_levels(w, coder, kind, known)
    known = known._replace(p0=16 * np.minimum(abs(first), 2000), p1=known.p0)
    second = read_levels(w, coder, kind + 1, known)
    levels = np.stack([first, second])
    return Frame(
        level, level_delta, shape, detail, envelope, long, offset, step, delta, log_step, levels
    )


# --- 8. coefficients ------------------------------------------------------------------------------


def basis(size: int, window: np.ndarray) -> np.ndarray:
    """Return windowed MDCT functions of ``size`` coefficients, [2 size, size]."""
    n, k = np.arange(2 * size)[:, None], np.arange(size)
    angle = np.pi / size * (n + 0.5 + size / 2) * (k + 0.5)
    return np.sqrt(2 / size) * window[:, None] * np.cos(angle)


def short_from_long() -> np.ndarray:
    """Return the matrix from a long block, its even and then its odd coefficients, to two blocks.

    Row i of [320, 320] is what the i-th coefficient of the long block adds to those of the two.
    """
    rise = np.sin(np.pi * (np.arange(160) + 0.5) / 320)
    edge = np.zeros(80)
    flat = np.concatenate([edge, rise, np.ones(160), rise[::-1], edge])
    long = basis(320, flat)[80:560]
    long = np.concatenate([long[:, 0::2], long[:, 1::2]], 1)
    one, short = basis(160, np.concatenate([rise, rise[::-1]])), np.zeros((480, 320))
    short[:320, :160] = short[160:, 160:] = one
    return long.T @ short


def coefficients(frame: Frame) -> np.ndarray:
    """Return the coefficients of a frame's two blocks, float64 [2, 160]."""
    values = frame.levels * np.exp2(frame.log_step / 256)
    if frame.long:
        values = (values.ravel() @ short_from_long()).reshape(2, 160)
    return values
