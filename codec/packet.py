"""One packet: envelope indices, step and bins to bytes and back, in coding order.

::

    packet (20 ms)   [ envelope: S indices ][ step delta ][ block 0: 160 bins ][ block 1 ]
                                                                 each bin: magnitude, sign

**Only integers reach the range coder.** The decoded envelope is a sum of int16 table rows and an
integer prediction; the step allocation and the context model are small networks with integer
weights and activations. So a packet decodes to the same integers on every machine, whatever its
floating-point unit, thread count or library versions are. The encoder may use floats to *choose*
integers; encoder and decoder run the same compiled functions on them.

Fixed point: logarithms (envelope, steps) are octaves of amplitude x 256 ("Q8"); activations of
the allocation network are Q10, its weights Q12; features of the context model are Q6, its hidden
activations Q8, its weights Q10. Probabilities have 15 bits.

What the context model knows of a bin: the ratio of envelope to step here and in the packet
before, the magnitudes of the bins below it in this block, and those around it in the last two
blocks (rescaled to this packet's step), and how far the step lies from the expected one, which
tells how compressible the whole packet is. From these a network with two hidden layers computes a
position in a table of probability distributions, sorted by scale (rows) and shape (columns); the
four around the position are mixed.

A packet is either predicted from the one before, as described, or an *intra* packet that needs no
other: it has tables of its own (codebooks around a mean envelope, a context model trained without
the past). The first packet of each group in a file is intra; with ``--independent-packets`` all
are.
"""

# numba infers the integer types inside the kernels; mypy cannot follow them.
# mypy: disable-error-code="assignment,arg-type,operator"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from codec.config import MAGNITUDE_BASE, MAGNITUDE_EXTRA_BITS, CodecConfig
from codec.range_kernels import (
    dec_bits,
    dec_consume,
    dec_init,
    dec_target,
    enc_bits,
    enc_finish,
    enc_init,
    enc_symbol,
)

NUM_BINS = 160
NUM_BANDS = 20
LOG_ONE = 256  # one octave
TOTAL_BITS = 15
TOTAL = 1 << TOTAL_BITS
DEAD_ZONE = 0.2  # a bin rounds up from 0.6 on: 1 - 2 * CodecConfig.rounding
OFFSET_LIMIT = 4 * LOG_ONE  # step offsets are limited softly to ± this
SIDE_BITS = 5  # bits kept for the step's symbol and the end of the packet, in the budget
NUM_STEP_CONTEXTS = 7
# Rows of the table of step offsets: 160 bits (log2 in Q10), then every half octave.
FIRST_KNOT, KNOT_SHIFT, NUM_KNOTS = 7498, 9, 5
COST_ONE = 256  # cost tables are in 1/256 bit
# Squared envelope error (Q8 octaves, summed over bands) that is worth 1/256 bit.
SEARCH_LAMBDA = np.float32(30.0)

NUM_FEATURES = 32
TABLE_COLUMNS = 4
TABLE_PARTS = 16  # positions between two rows or columns
FEATURE_LIMIT = 1023  # Q6: ±16
HIDDEN_LIMIT = 4095  # Q8: 16
ACCUMULATOR_LIMIT = 1 << 31

# What a pass over the bins does: choose their values and price them, price given values, write
# them, read them, or write down the context model's inputs.
QUANTIZE, PRICE, ENCODE, DECODE, DUMP = 0, 1, 2, 3, 4

NUM_SYMBOLS = len(MAGNITUDE_BASE)
SYMBOL_BASE = np.array(MAGNITUDE_BASE, np.int64)
SYMBOL_BITS = np.array(MAGNITUDE_EXTRA_BITS, np.int64)
# Raw bits that follow a symbol, sign included, in 1/256 bit.
RAW_COST = COST_ONE * (SYMBOL_BITS + (SYMBOL_BASE > 0))


class Tables(NamedTuple):
    """All integers that encoder and decoder share; made by ``models.training.export``.

    Attributes
    ----------
    band_edges : int32 [bands + 1]           in bins
    codebooks : int16 [S, K, bands]          Q8 octaves
    predictor : int32 [bands, bands]         Q12
    bias : int32 [bands]                     Q8
    initial : int32 [bands]                  Q8, the envelope before the first packet
    interpolation : int32 [N, 2]             (band, Q8 weight of the band above)
    allocation_w1 .. allocation_b3           Q12 weights [in, out], Q22 biases
    allocation_rate : int32 [knots, bands]   Q8, step offsets by packet size, half octaves from 160
    scale_offset : int32 [bands]             Q8
    log2_bits : int32 [2049]                 Q10 log2 of a packet's bits
    expected_bits : int32 [E]                Laplace bits (1/256) per bin, by log2 scale, Q4
    index_cdf : int32 [S, K + 1]             cumulative frequencies of the envelope's indices
    step_cdf : int32 [contexts, deltas + 1]  cumulative frequencies of the step delta
    exp2_table : int32 [4096]                round(2^(i/256 - 8) * 2^10) for rescaling
    compress_table : int32 [2048]            round(64 log2(1 + v / 8)), v a Q4 magnitude
    context_w1, w2, w3                       Q10 weights [in, out]
    context_b2, b3                           Q18 biases
    context_band : int32 [2, bands, H1]      Q16 bias of the first layer by block and band
    cdf : int32 [rows * columns, M + 1]      cumulative frequencies of magnitudes
    frequency_cost : int32 [2^15 + 1]        code length of a frequency, 1/256 bit (encoder only)
    index_cost : int32 [S, K]                code lengths of the indices, 1/256 bit (encoder only)
    """

    band_edges: np.ndarray
    codebooks: np.ndarray
    predictor: np.ndarray
    bias: np.ndarray
    initial: np.ndarray
    interpolation: np.ndarray
    allocation_w1: np.ndarray
    allocation_b1: np.ndarray
    allocation_w2: np.ndarray
    allocation_b2: np.ndarray
    allocation_w3: np.ndarray
    allocation_b3: np.ndarray
    allocation_rate: np.ndarray
    scale_offset: np.ndarray
    log2_bits: np.ndarray
    expected_bits: np.ndarray
    index_cdf: np.ndarray
    step_cdf: np.ndarray
    exp2_table: np.ndarray
    compress_table: np.ndarray
    context_w1: np.ndarray
    context_w2: np.ndarray
    context_b2: np.ndarray
    context_w3: np.ndarray
    context_b3: np.ndarray
    context_band: np.ndarray
    cdf: np.ndarray
    frequency_cost: np.ndarray
    index_cost: np.ndarray


class PacketState(NamedTuple):
    """What one packet leaves to the next; identical in encoder and decoder.

    Attributes
    ----------
    envelope : int32 [bands]    decoded envelope of the last packet, Q8
    delta : int32 [1]           its step delta
    magnitude : int32 [2, N]    |q| of the last block and of the one before it
    log_step : int32 [2, N]     their steps, Q8
    """

    envelope: np.ndarray
    delta: np.ndarray
    magnitude: np.ndarray
    log_step: np.ndarray


def check_tables(tables: Tables, config: CodecConfig) -> None:
    """Raise ``ValueError`` unless every table has the shape and range that the kernels rely on."""
    bands, bins = config.num_bands, config.hop_length
    if (bands, bins) != (NUM_BANDS, NUM_BINS):
        raise ValueError(f"{bands} bands of {bins} bins, expected {NUM_BANDS} of {NUM_BINS}")
    hidden, context = config.allocation_hidden, config.context_hidden
    second = tables.context_w2.shape[-1]
    shapes = {
        "band_edges": (bands + 1,),
        "codebooks": (config.num_stages, config.codebook_size, bands),
        "predictor": (bands, bands),
        "bias": (bands,),
        "initial": (bands,),
        "interpolation": (bins, 2),
        "allocation_w1": (2 * bands + 2, hidden),
        "allocation_b1": (hidden,),
        "allocation_w2": (hidden, hidden),
        "allocation_b2": (hidden,),
        "allocation_w3": (hidden, bands),
        "allocation_b3": (bands,),
        "allocation_rate": (NUM_KNOTS, bands),
        "scale_offset": (bands,),
        "log2_bits": (2049,),
        "expected_bits": (320,),
        "index_cdf": (config.num_stages, config.codebook_size + 1),
        "step_cdf": (NUM_STEP_CONTEXTS, 2 * config.max_step_delta + 2),
        "exp2_table": (4096,),
        "compress_table": (2048,),
        "context_w1": (NUM_FEATURES, context),
        "context_w2": (context, second),
        "context_b2": (second,),
        "context_w3": (second, 2),
        "context_b3": (2,),
        "context_band": (config.blocks_per_packet, bands, context),
        "cdf": (tables.cdf.shape[0], NUM_SYMBOLS + 1),
    }
    for name, shape in shapes.items():
        value = getattr(tables, name)
        wanted = np.int16 if name == "codebooks" else np.int32
        if value.shape != shape or value.dtype != wanted:
            raise ValueError(f"table {name} is {value.dtype} {value.shape}, expected {shape}")
    if tables.cdf.shape[0] % TABLE_COLUMNS:
        raise ValueError("table cdf does not have whole rows")
    if tables.interpolation[:, 0].min() < 0 or tables.interpolation[:, 0].max() > bands - 2:
        raise ValueError("table interpolation points outside the bands")
    for name in ("cdf", "index_cdf", "step_cdf"):
        cdf = getattr(tables, name)
        if (cdf[:, 0] != 0).any() or (cdf[:, -1] != TOTAL).any() or (np.diff(cdf) < 1).any():
            raise ValueError(f"table {name} is not a cumulative distribution")


@njit(cache=True)
def forget(tables, state):
    """Put ``state`` back to what it is before the first packet."""
    for j in range(NUM_BANDS):
        state.envelope[j] = tables.initial[j]
    state.delta[0] = 0
    state.magnitude[:] = 0
    state.log_step[:] = 0


def new_state(tables: Tables) -> PacketState:
    """Return the state before the first packet."""
    return PacketState(
        tables.initial.astype(np.int32).copy(),
        np.zeros(1, np.int32),
        np.zeros((2, NUM_BINS), np.int32),
        np.zeros((2, NUM_BINS), np.int32),
    )


class PacketCoder:
    """What packet encoder and packet decoder have in common: tables, stages and the state.

    Parameters
    ----------
    tables, intra_tables : Tables    of predicted packets, and of those that need no other
    config : CodecConfig
    num_stages : int                 envelope stages of a predicted packet
    """

    def __init__(
        self, tables: Tables, config: CodecConfig, num_stages: int, intra_tables: Tables | None
    ) -> None:
        self.tables = tables
        self.intra_tables = intra_tables if intra_tables is not None else tables
        self.config = config
        self.num_stages = num_stages
        self.intra_stages = config.intra_stages(num_stages)
        self.state = new_state(tables)


@njit(cache=True)
def predict_envelope(tables, previous, out):
    """Write the integer prediction A·previous + b to ``out`` [bands], Q8."""
    for i in range(NUM_BANDS):
        acc = np.int64(2048)
        for j in range(NUM_BANDS):
            acc += np.int64(tables.predictor[i, j]) * np.int64(previous[j])
        out[i] = (acc >> 12) + tables.bias[i]


@njit(cache=True)
def search_envelope(tables, previous, target, num_stages, survivors, indices):
    """Choose codewords by an M-best (tree) search; ties go to the lowest index.

    What is minimised is the squared error plus ``SEARCH_LAMBDA`` times the bits of the indices.

    Parameters
    ----------
    previous : int32 [bands]     decoded envelope of the packet before, Q8
    target : float32 [bands]     proposed envelope, Q8
    num_stages, survivors : int
    indices : int64 [S]          result
    """
    size = tables.codebooks.shape[1]
    predicted = np.empty(NUM_BANDS, np.int64)
    predict_envelope(tables, previous, predicted)
    residual = np.empty((survivors, NUM_BANDS), np.float32)
    for j in range(NUM_BANDS):
        residual[0, j] = target[j] - predicted[j]
    paths = np.zeros((survivors, 8), np.int64)
    path_bits = np.zeros(survivors, np.float32)
    alive = 1
    best_error = np.empty(survivors, np.float32)
    best_parent = np.empty(survivors, np.int64)
    best_index = np.empty(survivors, np.int64)
    for s in range(num_stages):
        keep = 1 if s == num_stages - 1 else survivors
        filled = 0
        for a in range(alive):
            for i in range(size):
                error = np.float32(0)
                for j in range(NUM_BANDS):
                    d = residual[a, j] - np.float32(tables.codebooks[s, i, j])
                    error += d * d
                rate = path_bits[a] + np.float32(tables.index_cost[s, i])
                error += SEARCH_LAMBDA * rate
                if filled < keep or error < best_error[filled - 1]:
                    if filled < keep:
                        filled += 1
                    p = filled - 1
                    while p > 0 and best_error[p - 1] > error:
                        best_error[p] = best_error[p - 1]
                        best_parent[p] = best_parent[p - 1]
                        best_index[p] = best_index[p - 1]
                        p -= 1
                    best_error[p] = error
                    best_parent[p] = a
                    best_index[p] = i
        new_residual = np.empty((survivors, NUM_BANDS), np.float32)
        new_paths = np.zeros((survivors, 8), np.int64)
        new_bits = np.zeros(survivors, np.float32)
        for p in range(filled):
            a = best_parent[p]
            i = best_index[p]
            for j in range(NUM_BANDS):
                new_residual[p, j] = residual[a, j] - np.float32(tables.codebooks[s, i, j])
            new_paths[p, :s] = paths[a, :s]
            new_paths[p, s] = i
            new_bits[p] = path_bits[a] + np.float32(tables.index_cost[s, i])
        residual = new_residual
        paths = new_paths
        path_bits = new_bits
        alive = filled
    indices[:num_stages] = paths[0, :num_stages]


@njit(cache=True)
def envelope_cost(tables, indices, num_stages):
    """Return the code length of an envelope's indices, 1/256 bit."""
    total = np.int64(0)
    for s in range(num_stages):
        total += tables.index_cost[s, indices[s]]
    return total


@njit(cache=True)
def decode_envelope(tables, previous, indices, num_stages, out):
    """Write prediction + table rows to ``out`` int32 [bands], Q8 octaves."""
    predicted = np.empty(NUM_BANDS, np.int64)
    predict_envelope(tables, previous, predicted)
    for j in range(NUM_BANDS):
        acc = predicted[j]
        for s in range(num_stages):
            acc += tables.codebooks[s, indices[s], j]
        out[j] = min(max(acc, -8192), 8191)


@njit(cache=True)
def _dense(x, weights, bias, shift, relu, out):
    """Integer layer: out = (x @ weights + bias) >> shift with rounding, ReLU if asked."""
    n_in, n_out = weights.shape
    half = np.int64(1) << (shift - 1)
    acc = np.empty(n_out, np.int64)
    for o in range(n_out):
        acc[o] = bias[o] + half
    for i in range(n_in):
        v = np.int64(x[i])
        if v != 0:
            for o in range(n_out):
                acc[o] += v * weights[i, o]
    for o in range(n_out):
        v = acc[o] >> shift
        if relu and v < 0:
            v = 0
        out[o] = v


@njit(cache=True)
def allocate(tables, envelope, previous, packet_bits, offset):
    """Write each band's step offset to ``offset`` int32 [bands], Q8 octaves.

    The integer twin of ``models.allocation.StepAllocation``.
    """
    mean = np.int64(0)
    for j in range(NUM_BANDS):
        mean += envelope[j]
    mean //= NUM_BANDS
    x = np.empty(2 * NUM_BANDS + 2, np.int64)
    # A quarter of an octave in Q8 is the same integer as the feature in Q10.
    for j in range(NUM_BANDS):
        x[j] = envelope[j] - mean
        x[NUM_BANDS + j] = previous[j] - mean
    x[2 * NUM_BANDS] = mean + 8 * LOG_ONE
    x[2 * NUM_BANDS + 1] = tables.log2_bits[packet_bits] - 8 * 1024
    hidden = tables.allocation_w1.shape[1]
    h1 = np.empty(hidden, np.int64)
    h2 = np.empty(hidden, np.int64)
    out = np.empty(NUM_BANDS, np.int64)
    _dense(x, tables.allocation_w1, tables.allocation_b1, 12, True, h1)
    _dense(h1, tables.allocation_w2, tables.allocation_b2, 12, True, h2)
    _dense(h2, tables.allocation_w3, tables.allocation_b3, 14, False, out)  # Q10 -> Q8
    size = min(max(tables.log2_bits[packet_bits] - FIRST_KNOT, 0), (NUM_KNOTS - 1) << KNOT_SHIFT)
    row = min(size >> KNOT_SHIFT, NUM_KNOTS - 2)
    t = np.int64(size - (row << KNOT_SHIFT))
    total = np.int64(0)
    for j in range(NUM_BANDS):
        below = np.int64(tables.allocation_rate[row, j])
        above = np.int64(tables.allocation_rate[row + 1, j])
        half = np.int64(1) << (KNOT_SHIFT - 1)
        out[j] += (below * ((1 << KNOT_SHIFT) - t) + above * t + half) >> KNOT_SHIFT
        out[j] += (819 * (envelope[j] - mean) + 2048) >> 12  # 0.2 of the envelope's shape
        total += out[j]
    total //= NUM_BANDS
    for j in range(NUM_BANDS):
        v = out[j] - total
        limited = (abs(v) * OFFSET_LIMIT) // (OFFSET_LIMIT + abs(v))
        offset[j] = limited if v >= 0 else -limited


@njit(cache=True)
def interpolate(tables, bands, out):
    """Interpolate band values (Q8) linearly at each bin, to ``out`` int32 [N]."""
    for k in range(NUM_BINS):
        b = tables.interpolation[k, 0]
        t = tables.interpolation[k, 1]
        out[k] = (bands[b] * (256 - t) + bands[b + 1] * t + 128) >> 8


@njit(cache=True)
def expected_step(tables, log_scale, relative, budget):
    """Return the step (Q8) at which a Laplace source of this envelope needs ``budget`` bits.

    Both sides compute it, so only the small difference to the step in use is transmitted.
    """
    low = np.int64(0)
    for k in range(NUM_BINS):
        low += log_scale[k] - relative[k]
    low = low // NUM_BINS - 16 * LOG_ONE
    high = low + 32 * LOG_ONE
    last = tables.expected_bits.shape[0] - 1
    goal = np.int64(budget) * COST_ONE
    while high - low > 1:
        step = (low + high) >> 1
        total = np.int64(0)
        for k in range(NUM_BINS):
            i = ((log_scale[k] - relative[k] - step) >> 4) + 128
            total += tables.expected_bits[min(max(i, 0), last)]
        if 2 * total <= goal:
            high = step
        else:
            low = step
    return high


@njit(cache=True)
def step_context(delta):
    """Return the table of the step delta that follows ``delta``."""
    return min(max((delta + 15) // 6, 0), NUM_STEP_CONTEXTS - 1)


@njit(cache=True)
def budget_bits(packet_bits, envelope_bits):
    """Return the Laplace bits that the bins may take in a packet (at 0.88 of Laplace)."""
    return max((packet_bits - envelope_bits - SIDE_BITS) * 291 >> 8, 8)


@njit(cache=True)
def _compress(tables, value):
    return tables.compress_table[min(value, 2047)]


@njit(cache=True)
def rescale_history(tables, state_magnitude, state_log_step, log_step, out):
    """Write past magnitudes in units of this packet's step, Q4, to ``out`` int32 [N]."""
    for k in range(NUM_BINS):
        m = np.int64(state_magnitude[k])
        if m == 0:
            out[k] = 0
        else:
            shift = min(max(state_log_step[k] - log_step[k] + 2048, 0), 4095)
            # exp2_table is Q10 of 2^(shift/256 - 8); Q4 of the magnitude wants >> 6.
            out[k] = min((m * tables.exp2_table[shift]) >> 6, 32767)


@njit(cache=True)
def harmonic_lag(past1, past2):
    """Estimate the spacing of harmonics from the last two blocks.

    Returns
    -------
    lag : int        bins, 2..20, that maximise the spectrum's autocorrelation up to 3 kHz
    strength : int   Q6, 0..64: how much of the energy repeats at that lag
    """
    top = 60
    level = np.empty(top, np.int64)
    mean = np.int64(0)
    for k in range(top):
        level[k] = min(past1[k] + past2[k], 1023)
        mean += level[k]
    mean //= top
    energy = np.int64(1)
    for k in range(top):
        level[k] -= mean
        energy += level[k] * level[k]
    best, best_lag = np.int64(0), 2
    for lag in range(2, 21):
        total = np.int64(0)
        for k in range(lag, top):
            total += level[k] * level[k - lag]
        total = total * top // (top - lag)
        if total > best:
            best, best_lag = total, lag
    return best_lag, min((best * 64) // energy, 64)


@njit(cache=True)
def mixed_cdf(cdf, index, fine_row, fine_column, symbol):
    """Return the cumulative frequency below ``symbol`` between four tables.

    Parameters
    ----------
    cdf : int32 [rows * columns, M + 1]
    index : int                           table on the lower side in row and column
    fine_row, fine_column : int           position to the next ones, 0..16

    A mixture of distributions in which every symbol has a frequency of 1 or more has that, too:
    the weights sum to 256, so neighbours differ by at least 256 before the shift.
    """
    low = cdf[index, symbol] * (TABLE_PARTS - fine_column) + cdf[index + 1, symbol] * fine_column
    index += TABLE_COLUMNS
    high = cdf[index, symbol] * (TABLE_PARTS - fine_column) + cdf[index + 1, symbol] * fine_column
    return (low * (TABLE_PARTS - fine_row) + high * fine_row) >> 8


@njit(cache=True)
def symbol_cost(tables, index, fine_row, fine_column, symbol):
    """Return the bits x 256 of a magnitude symbol with its sign and raw bits."""
    frequency = mixed_cdf(tables.cdf, index, fine_row, fine_column, symbol + 1) - mixed_cdf(
        tables.cdf, index, fine_row, fine_column, symbol
    )
    return tables.frequency_cost[frequency] + RAW_COST[symbol]


@njit(cache=True)
def code_block(
    mode, tables, coder, buf, block, log_ratio, last_ratio, past1, past2, log_bits, delta,
    last_delta, ratio, rdo_lambda, q, dump,
):  # fmt: skip
    """Quantize, price, code, decode or describe the 160 bins of one block.

    Parameters
    ----------
    mode : QUANTIZE, PRICE, ENCODE, DECODE or DUMP
    coder, buf : state and bytes of the range coder (ENCODE, DECODE)
    block : int                       0 or 1 in the packet
    log_ratio, last_ratio : int32 [N] Laplace scale over step, Q8: this envelope, the last one
    past1, past2 : int32 [N]          rescaled magnitudes of the last two blocks, Q4
    log_bits : int                    Q10 log2 of the packet's bits
    delta, last_delta : int           step delta of this packet and of the last one
    ratio : float32 [N]               bins over steps (QUANTIZE)
    rdo_lambda : float                price of a bit in squared steps (QUANTIZE): a bin takes the
                                      value that minimises squared error + price x bits
    q : int32 [N]                     bins: read, or written (QUANTIZE, DECODE)
    dump : int16 [N, features]        written (DUMP)

    Returns
    -------
    int   bits x 256 of all symbols (QUANTIZE, PRICE and ENCODE), else 0
    """
    h1_size = tables.context_w1.shape[1]
    h2_size = tables.context_w2.shape[1]
    x = np.empty(NUM_FEATURES, np.int32)
    acc1 = np.empty(h1_size, np.int32)
    acc2 = np.empty(h2_size, np.int32)
    rows = tables.cdf.shape[0] // TABLE_COLUMNS
    band = 0
    m1 = m2 = m3 = m4 = np.int64(0)  # magnitudes of the bins below, Q4
    wide = np.int64(0)  # decaying sums of magnitudes below, Q4, over about 8 and 32 bins,
    wider = np.int64(0)
    expected = np.int64(0)  # and of what the envelope made expect
    expected_wider = np.int64(0)
    current = np.zeros(NUM_BINS + 1, np.int32)
    lag, strength = harmonic_lag(past1, past2)
    total = np.int64(0)
    # Running sums of the last block over k-4..k+4.
    around = np.int64(0)
    for k in range(4):
        around += past1[k]
    for k in range(NUM_BINS):
        if band < NUM_BANDS - 1 and tables.band_edges[band + 1] == k:
            band += 1
        if k + 4 < NUM_BINS:
            around += past1[k + 4]
        if k >= 5:
            around -= past1[k - 5]
        x[0] = log_ratio[k] >> 2
        x[1] = last_ratio[k] >> 2
        x[2] = _compress(tables, m1)
        x[3] = _compress(tables, m2)
        x[4] = _compress(tables, (m3 + m4) >> 1)
        x[5] = _compress(tables, wide >> 3)
        x[6] = _compress(tables, past1[k])
        x[7] = _compress(tables, past1[k - 1]) if k >= 1 else 0
        x[8] = _compress(tables, past1[k + 1]) if k + 1 < NUM_BINS else 0
        x[9] = _compress(tables, past1[k - 2]) if k >= 2 else 0
        x[10] = _compress(tables, past1[k + 2]) if k + 2 < NUM_BINS else 0
        x[11] = _compress(tables, around >> 3)
        x[12] = _compress(tables, past2[k])
        x[13] = _compress(tables, past2[k - 1]) if k >= 1 else 0
        x[14] = _compress(tables, past2[k + 1]) if k + 1 < NUM_BINS else 0
        x[15] = _compress(tables, past1[k - 3] + past1[k - 4]) if k >= 4 else 0
        x[16] = _compress(tables, past1[k + 3] + past1[k + 4]) if k + 4 < NUM_BINS else 0
        x[17] = (log_bits - 8192) >> 4
        x[18] = log_ratio[min(k + 4, NUM_BINS - 1)] >> 2
        x[19] = _compress(tables, (m1 + m2) >> 1)
        x[20] = log_ratio[max(k - 4, 0)] >> 2
        x[21] = _compress(tables, expected >> 3)
        x[22] = _compress(tables, wider >> 5)
        x[23] = _compress(tables, expected_wider >> 5)
        x[24] = _compress(tables, past2[k - 2]) if k >= 2 else 0
        x[25] = _compress(tables, past2[k + 2]) if k + 2 < NUM_BINS else 0
        # One harmonic spacing below: a voiced sound has its peaks there, too.
        x[26] = _compress(tables, current[k - lag]) if k >= lag else 0
        x[27] = _compress(tables, current[k - lag - 1]) if k >= lag + 1 else 0
        x[28] = _compress(tables, current[k - lag + 1]) if k >= lag else 0
        x[29] = strength
        x[30] = delta * 8
        x[31] = last_delta * 8
        for f in range(NUM_FEATURES):
            x[f] = min(max(x[f], -FEATURE_LIMIT), FEATURE_LIMIT)
        if mode == DUMP:
            for f in range(NUM_FEATURES):
                dump[k, f] = x[f]
            index = fine_row = fine_column = 0
        else:
            for o in range(h1_size):
                acc1[o] = tables.context_band[block, band, o]
            for f in range(NUM_FEATURES):
                v = x[f]
                if v != 0:  # most neighbours are zero at low rates
                    for o in range(h1_size):
                        acc1[o] += v * tables.context_w1[f, o]
            for o in range(h2_size):
                acc2[o] = tables.context_b2[o]
            for i in range(h1_size):
                v = min(acc1[i] >> 8, HIDDEN_LIMIT)  # Q16 -> Q8
                if v > 0:
                    for o in range(h2_size):
                        acc2[o] += v * tables.context_w2[i, o]
            row = np.int64(tables.context_b3[0])
            column = np.int64(tables.context_b3[1])
            for i in range(h2_size):
                v = min(acc2[i] >> 10, HIDDEN_LIMIT)  # Q18 -> Q8
                if v > 0:
                    row += v * tables.context_w3[i, 0]
                    column += v * tables.context_w3[i, 1]
            # Rows are an eighth of an octave apart; the envelope's ratio is the baseline.
            row = ((row + (1 << 13)) >> 14) + (log_ratio[k] >> 1) + 24 * TABLE_PARTS
            column = (column + (1 << 13)) >> 14
            row = min(max(row, 0), (rows - 1) * TABLE_PARTS)
            column = min(max(column, 0), (TABLE_COLUMNS - 1) * TABLE_PARTS)
            first_row = min(row // TABLE_PARTS, rows - 2)
            first_column = min(column // TABLE_PARTS, TABLE_COLUMNS - 2)
            fine_row = row - first_row * TABLE_PARTS
            fine_column = column - first_column * TABLE_PARTS
            index = first_row * TABLE_COLUMNS + first_column

        if mode == DECODE:
            target = dec_target(coder, TOTAL_BITS)
            symbol = 0
            low = np.int64(0)
            high = np.int64(mixed_cdf(tables.cdf, index, fine_row, fine_column, 1))
            while high <= target:
                symbol += 1
                low = high
                high = np.int64(mixed_cdf(tables.cdf, index, fine_row, fine_column, symbol + 1))
            dec_consume(coder, buf, low, high, TOTAL_BITS)
            magnitude = SYMBOL_BASE[symbol]
            if symbol == NUM_SYMBOLS - 1:
                magnitude += _decode_escape(coder, buf)
            elif SYMBOL_BITS[symbol] > 0:
                magnitude += dec_bits(coder, buf, SYMBOL_BITS[symbol])
            if magnitude > 0 and dec_bits(coder, buf, 1) == 1:
                q[k] = -magnitude
            else:
                q[k] = magnitude
        else:
            if mode == QUANTIZE:
                value = min(abs(ratio[k]), np.float32(4000))
                below = np.int64(value)
                # (value - below)^2 against (below + 1 - value)^2, each with its bits, and the upper
                # value at a disadvantage.
                price = 0.0
                if rdo_lambda > 0.0:
                    upper = magnitude_symbol(below + 1)
                    lower = magnitude_symbol(below)
                    price = rdo_lambda * (
                        symbol_cost(tables, index, fine_row, fine_column, upper)
                        - symbol_cost(tables, index, fine_row, fine_column, lower)
                    )
                if 2 * (value - below) - 1 > DEAD_ZONE + price:
                    below += 1
                q[k] = -below if ratio[k] < 0 else below
            magnitude = np.int64(abs(q[k]))
            symbol = magnitude_symbol(magnitude)
            if mode != DUMP:
                total += symbol_cost(tables, index, fine_row, fine_column, symbol)
                if symbol == NUM_SYMBOLS - 1:
                    total += _escape_bits(magnitude - SYMBOL_BASE[symbol]) * COST_ONE
            if mode == ENCODE:
                low = mixed_cdf(tables.cdf, index, fine_row, fine_column, symbol)
                high = mixed_cdf(tables.cdf, index, fine_row, fine_column, symbol + 1)
                enc_symbol(coder, buf, low, high, TOTAL_BITS)
                if symbol == NUM_SYMBOLS - 1:
                    _encode_escape(coder, buf, magnitude - SYMBOL_BASE[symbol])
                elif SYMBOL_BITS[symbol] > 0:
                    enc_bits(coder, buf, magnitude - SYMBOL_BASE[symbol], SYMBOL_BITS[symbol])
                if magnitude > 0:
                    enc_bits(coder, buf, 1 if q[k] < 0 else 0, 1)
        m4, m3, m2, m1 = m3, m2, m1, min(magnitude, 2000) << 4
        current[k] = m1
        wide = wide - (wide >> 3) + m1
        wider = wider - (wider >> 5) + m1
        # The mean magnitude of a Laplace bin is about its scale, Q4.
        scale = tables.exp2_table[min(max(log_ratio[k] + 2048, 0), 4095)] >> 6
        expected = expected - (expected >> 3) + scale
        expected_wider = expected_wider - (expected_wider >> 5) + scale
    return total


@njit(cache=True)
def magnitude_symbol(magnitude):
    """Return the symbol of a magnitude >= 0."""
    if magnitude < 16:
        return magnitude
    symbol = 16
    while symbol < NUM_SYMBOLS - 1 and SYMBOL_BASE[symbol + 1] <= magnitude:
        symbol += 1
    return symbol


@njit(cache=True)
def _escape_bits(value):
    """Return the length of the Exp-Golomb code (order 2) of ``value`` >= 0."""
    v = value + 4
    n = 0
    while v >> (n + 1) > 0:
        n += 1
    return 2 * n - 1


@njit(cache=True)
def _encode_escape(coder, buf, value):
    """Write ``value`` >= 0 as an Exp-Golomb code of order 2: zeros, a one, and the rest."""
    v = value + 4
    n = 0
    while v >> (n + 1) > 0:
        n += 1
    for _ in range(n - 2):
        enc_bits(coder, buf, 0, 1)
    enc_bits(coder, buf, 1, 1)
    enc_bits(coder, buf, v - (1 << n), n)


@njit(cache=True)
def _decode_escape(coder, buf):
    n = 2
    while n < 12 and dec_bits(coder, buf, 1) == 0:
        n += 1
    return (1 << n) + dec_bits(coder, buf, n) - 4


@njit(cache=True)
def prepare(tables, state, envelope, packet_bits, envelope_bits, offset, relative, log_scale):
    """Compute what depends on the envelope alone; returns the expected step (Q8).

    Writes ``offset`` int32 [bands], ``relative`` and ``log_scale`` int32 [N], all Q8.
    """
    allocate(tables, envelope, state.envelope, packet_bits, offset)
    interpolate(tables, offset, relative)
    shifted = np.empty(NUM_BANDS, np.int32)
    for j in range(NUM_BANDS):
        shifted[j] = envelope[j] + tables.scale_offset[j]
    interpolate(tables, shifted, log_scale)
    return expected_step(tables, log_scale, relative, budget_bits(packet_bits, envelope_bits))


@njit(cache=True)
def code_bins(
    mode, tables, state, coder, buf, log_scale, log_step, packet_bits, delta, ratio, rdo_lambda, q,
    dump,
):  # fmt: skip
    """Run :func:`code_block` over both blocks of a packet; returns bits x 256.

    ``log_step`` int32 [N], Q8, is the step of each bin; ``ratio`` float32 [2, N] and ``rdo_lambda``
    (per 1/256 bit) are for QUANTIZE; ``q`` int32 [2, N]. The state is read, not changed.
    """
    log_ratio = np.empty(NUM_BINS, np.int32)
    last_ratio = np.empty(NUM_BINS, np.int32)
    past1 = np.empty(NUM_BINS, np.int32)
    past2 = np.empty(NUM_BINS, np.int32)
    shifted = np.empty(NUM_BANDS, np.int32)
    for j in range(NUM_BANDS):
        shifted[j] = state.envelope[j] + tables.scale_offset[j]
    interpolate(tables, shifted, last_ratio)
    for k in range(NUM_BINS):
        log_ratio[k] = log_scale[k] - log_step[k]
        last_ratio[k] = last_ratio[k] - log_step[k]
    log_bits = tables.log2_bits[packet_bits]
    rescale_history(tables, state.magnitude[0], state.log_step[0], log_step, past1)
    rescale_history(tables, state.magnitude[1], state.log_step[1], log_step, past2)
    total = np.int64(0)
    for block in range(2):
        if block == 1:
            for k in range(NUM_BINS):
                past2[k] = past1[k]
                past1[k] = min(np.int64(abs(q[0, k])), 2000) << 4
        total += code_block(
            mode, tables, coder, buf, block, log_ratio, last_ratio, past1, past2, log_bits, delta,
            state.delta[0], ratio[block], rdo_lambda, q[block], dump[block],
        )  # fmt: skip
    return total


@njit(cache=True)
def advance(state, envelope, delta, log_step, q):
    """Move the state past a packet."""
    for j in range(NUM_BANDS):
        state.envelope[j] = envelope[j]
    state.delta[0] = delta
    for k in range(NUM_BINS):
        state.magnitude[0, k] = abs(q[1, k])
        state.magnitude[1, k] = abs(q[0, k])
        state.log_step[0, k] = log_step[k]
        state.log_step[1, k] = log_step[k]


@njit(cache=True)
def write_packet(
    tables, state, buf, num_bytes, num_stages, indices, delta, log_scale, log_step, q, packet_bits,
):  # fmt: skip
    """Encode one packet into ``buf[:num_bytes]``; False if it does not fit (state unchanged)."""
    coder = np.zeros(8, np.int64)
    dump = np.empty((2, 0, 0), np.int16)
    enc_init(coder)
    for s in range(num_stages):
        low, high = tables.index_cdf[s, indices[s]], tables.index_cdf[s, indices[s] + 1]
        enc_symbol(coder, buf, low, high, TOTAL_BITS)
    limit = (tables.step_cdf.shape[1] - 2) // 2
    context = step_context(state.delta[0])
    symbol = delta + limit
    enc_symbol(
        coder, buf, tables.step_cdf[context, symbol], tables.step_cdf[context, symbol + 1],
        TOTAL_BITS,
    )  # fmt: skip
    ratio = np.empty((2, 0), np.float32)
    code_bins(
        ENCODE, tables, state, coder, buf, log_scale, log_step, packet_bits, delta, ratio, 0.0, q,
        dump,
    )  # fmt: skip
    return enc_finish(coder, buf, num_bytes)


@njit(cache=True)
def read_packet(
    tables, state, buf, start, end, intra, num_stages, stage_bits, resolution, envelope, offset, q
):
    """Decode one packet and move the state past it.

    Parameters
    ----------
    tables : Tables                          those of its kind, predicted or intra
    intra : bool                             the packet needs no other
    buf : uint8 array, start, end : int      the packet is buf[start:end]
    envelope, offset : int32 [bands]         results, Q8
    q : int32 [2, N]                         result

    Returns
    -------
    int   the packet's step, Q8
    """
    if intra:
        forget(tables, state)
    coder = np.zeros(8, np.int64)
    dump = np.empty((2, 0, 0), np.int16)
    dec_init(coder, buf, start, end)
    indices = np.zeros(8, np.int64)
    for s in range(num_stages):
        target = dec_target(coder, TOTAL_BITS)
        first, last = 0, (1 << stage_bits) - 1
        while first < last:
            middle = (first + last) >> 1
            if tables.index_cdf[s, middle + 1] <= target:
                first = middle + 1
            else:
                last = middle
        indices[s] = first
        dec_consume(
            coder, buf, tables.index_cdf[s, first], tables.index_cdf[s, first + 1], TOTAL_BITS
        )
    context = step_context(state.delta[0])
    target = dec_target(coder, TOTAL_BITS)
    symbol = 0
    while tables.step_cdf[context, symbol + 1] <= target:
        symbol += 1
    dec_consume(
        coder, buf, tables.step_cdf[context, symbol], tables.step_cdf[context, symbol + 1],
        TOTAL_BITS,
    )  # fmt: skip
    delta = symbol - (tables.step_cdf.shape[1] - 2) // 2

    decode_envelope(tables, state.envelope, indices, num_stages, envelope)
    if intra:
        state.envelope[:] = envelope
    relative = np.empty(NUM_BINS, np.int32)
    log_scale = np.empty(NUM_BINS, np.int32)
    log_step = np.empty(NUM_BINS, np.int32)
    packet_bits = min((end - start) * 8, 2048)
    base = prepare(
        tables, state, envelope, packet_bits, num_stages * stage_bits, offset, relative, log_scale
    )
    step = base + delta * resolution
    for k in range(NUM_BINS):
        log_step[k] = step + relative[k]
    ratio = np.empty((2, 0), np.float32)
    code_bins(
        DECODE, tables, state, coder, buf, log_scale, log_step, packet_bits, delta, ratio, 0.0, q,
        dump,
    )  # fmt: skip
    advance(state, envelope, delta, log_step, q)
    return step
