"""Spectral envelope: a level, and a shape by predictive multi-stage vector quantization (MSVQ).

The level is the mean of the envelope's log2 amplitudes, in steps of 1.5 dB, coded as the difference
from the last one. The shape is what is left of the 26 bands, ``A previous + b + sum of one codeword
per stage`` in Q8. Everything behind it sees shapes and ratios only, so that the codec works the
same on loud and on quiet signals. The encoder searches the codewords stage by stage and keeps the M
best paths (tree search).

References
----------
Juang & Gray, "Multiple stage vector quantization for speech coding", ICASSP 1982.
LeBlanc, Bhattacharya, Mahmoud & Cuperman, "Efficient search and design procedures for robust
multi-stage VQ of LPC parameters for 4 kb/s speech coding", IEEE Trans. SAP 1(4), 1993 (M-best).
"""

from __future__ import annotations

import numpy as np

from codec.coding.range_coder import dec_consume, dec_target, enc_symbol
from codec.config import (
    LEVEL_RESOLUTION,
    MAX_LEVEL,
    MAX_LEVEL_DELTA,
    MIN_LEVEL,
    NUM_BANDS,
    NUM_LEVEL_CONTEXTS,
)
from codec.jit import kernel
from codec.model import ENVELOPE_LIMIT, TOTAL_BITS

MAX_STAGES = 8
BEAM = 8  # paths that the search keeps
AT_ONCE = 16  # codewords that are compared with the worst of them
# Squared envelope error (Q8 octaves, summed over bands) that is worth 1/256 bit.
RATE_WEIGHT = np.float32(30.0)
_NONE_YET = np.float32(np.inf)


@kernel
def find_level(proposed):
    """Return the level of a proposed envelope, float32 [>= bands] in Q8, in its steps."""
    total = np.float32(0.0)
    for b in range(NUM_BANDS):
        total += proposed[b]
    mean = total / np.float32(NUM_BANDS * LEVEL_RESOLUTION)
    return min(max(np.int64(np.floor(mean + np.float32(0.5))), MIN_LEVEL), MAX_LEVEL)


@kernel
def level_context(delta):
    """Return the distribution of the level delta that follows ``delta``."""
    return min(max((delta + 7) // 2, 0), NUM_LEVEL_CONTEXTS - 1)


@kernel
def put_level(model, past_delta, delta, coder, data):
    """Code a level delta, given the last one; ``model`` is stage ``level``."""
    cdf, symbol = model.cdf[level_context(past_delta)], delta + MAX_LEVEL_DELTA
    enc_symbol(coder, data, np.int64(cdf[symbol]), np.int64(cdf[symbol + 1]), TOTAL_BITS)


@kernel
def get_level(model, past_delta, coder, data):
    """Decode a level delta."""
    cdf = model.cdf[level_context(past_delta)]
    target = dec_target(coder, TOTAL_BITS)
    symbol = 0
    while cdf[symbol + 1] <= target:
        symbol += 1
    dec_consume(coder, data, np.int64(cdf[symbol]), np.int64(cdf[symbol + 1]), TOTAL_BITS)
    return symbol - MAX_LEVEL_DELTA


@kernel
def level_cost(model, past_delta, delta):
    """Return the code length of a level delta, 1/256 bit."""
    return np.int64(model.cost[level_context(past_delta), delta + MAX_LEVEL_DELTA])


@kernel
def predict(model, known, out):
    """Write the integer prediction A·known + b to ``out`` int64, Q8."""
    for i in range(out.size):
        total = np.int64(2048)
        for j in range(known.size):
            total += np.int64(model.predictor[i, j]) * np.int64(known[j])
        out[i] = (total >> 12) + model.bias[i]


@kernel
def _keep_best(error, parent, best_error, best, filled):
    """Sort a path's continuations into the best ones so far; returns how many these are now.

    Parameters
    ----------
    error : float32 [size]        of the path with each codeword
    parent : int                  number of the path
    best_error : float32 [kept]   from small to large, the first ``filled`` of them
    best : int64 [>= kept, 2]     parent and codeword
    """
    worst = best_error[filled - 1] if filled == best_error.size else _NONE_YET
    for begin in range(0, error.size, AT_ONCE):
        some = error[begin : begin + AT_ONCE]
        better = np.int32(0)
        for i in range(some.size):
            better += np.int32(some[i] < worst)
        if better == 0:
            continue
        for i in range(some.size):
            if some[i] >= worst:
                continue
            if filled < best_error.size:
                filled += 1
            p = filled - 1
            while p > 0 and best_error[p - 1] > some[i]:
                best_error[p] = best_error[p - 1]
                best[p, 0], best[p, 1] = best[p - 1, 0], best[p - 1, 1]
                p -= 1
            best_error[p] = some[i]
            best[p, 0], best[p, 1] = parent, begin + i
            if filled == best_error.size:
                worst = best_error[filled - 1]
    return filled


@kernel
def _distances(columns, residual, error):
    """Write the squared distances of two paths to all codewords, dimension by dimension.

    Parameters
    ----------
    columns : float32 [dim, size]   codewords, dimensions first
    residual : float32 [2, dim]
    error : float32 [2, size]       result
    """
    dim, first, second = residual.shape[1], error[0], error[1]
    for i in range(first.size):
        first[i] = second[i] = 0.0
    whole = dim - dim % 4
    for j in range(0, whole, 4):  # four at a time, to touch the errors less often
        c0, c1, c2, c3 = columns[j], columns[j + 1], columns[j + 2], columns[j + 3]
        a0, a1, a2, a3 = residual[0, j], residual[0, j + 1], residual[0, j + 2], residual[0, j + 3]
        b0, b1, b2, b3 = residual[1, j], residual[1, j + 1], residual[1, j + 2], residual[1, j + 3]
        for i in range(first.size):
            p, q, r, s = a0 - c0[i], a1 - c1[i], a2 - c2[i], a3 - c3[i]
            first[i] = (((first[i] + p * p) + q * q) + r * r) + s * s
            p, q, r, s = b0 - c0[i], b1 - c1[i], b2 - c2[i], b3 - c3[i]
            second[i] = (((second[i] + p * p) + q * q) + r * r) + s * s
    for j in range(whole, dim):
        column, a, b = columns[j], residual[0, j], residual[1, j]
        for i in range(first.size):
            first[i] += (a - column[i]) * (a - column[i])
            second[i] += (b - column[i]) * (b - column[i])


@kernel
def search(model, known, target, num_stages, indices):
    """Choose codewords, to ``indices`` int64 [>= S]; else as :func:`search_best`."""
    choices, costs = np.zeros((1, MAX_STAGES), np.int64), np.empty(1, np.float32)
    search_best(model, known, target, num_stages, (choices, costs))
    for s in range(num_stages):
        indices[s] = choices[0, s]


@kernel
def search_best(model, known, target, num_stages, results):
    """Find the best choices of codewords by an M-best search; ties go to the lowest index.

    What is minimised is the squared error plus ``RATE_WEIGHT`` times the bits of the indices.

    Parameters
    ----------
    model : record               stage ``envelope`` of the coding model, or ``detail``
    known : int32                what it is predicted from, Q8: the decoded shape before; for
                                 detail, what `known_of_detail` writes
    target : float32             wanted shape, Q8
    num_stages : int
    results : int64 [K, >= S], float32 [K]   indices of the K <= BEAM best choices, the best one
                                 first, and what was minimised

    Returns
    -------
    int   how many there are: K, or fewer where there are not so many codewords
    """
    choices, costs = results
    size, dim = model.columns.shape[2], target.size
    predicted = np.empty(dim, np.int64)
    predict(model, known, predicted)
    residual = np.zeros((2, BEAM, dim), np.float32)  # of this stage and the next
    paths = np.zeros((2, BEAM, MAX_STAGES), np.int64)
    rates = np.zeros((2, BEAM), np.float32)
    for j in range(dim):
        residual[0, 0, j] = target[j] - np.float32(predicted[j])
    alive = 1
    error = np.empty((2, size), np.float32)
    best_error = np.empty(BEAM, np.float32)
    best = np.empty((BEAM, 2), np.int64)  # parent, index
    for s in range(num_stages):
        here, there = s % 2, 1 - s % 2
        keep = costs.size if s == num_stages - 1 else BEAM
        filled = 0
        for a in range(0, alive, 2):
            _distances(model.columns[s], residual[here, a : a + 2], error)
            for one in range(min(2, alive - a)):
                row, rate = error[one], rates[here, a + one]
                for i in range(size):
                    row[i] += RATE_WEIGHT * (rate + np.float32(model.index_cost[s, i]))
                filled = _keep_best(row, a + one, best_error[:keep], best, filled)
        for p in range(filled):
            a, i = best[p, 0], best[p, 1]
            for j in range(dim):
                residual[there, p, j] = residual[here, a, j] - model.columns[s, j, i]
            for t in range(s):
                paths[there, p, t] = paths[here, a, t]
            paths[there, p, s] = i
            rates[there, p] = rates[here, a] + np.float32(model.index_cost[s, i])
        alive = filled
    for p in range(alive):
        costs[p] = best_error[p]
        for s in range(num_stages):
            choices[p, s] = paths[num_stages % 2, p, s]
    return alive


@kernel
def reconstruct(model, known, indices, num_stages, out):
    """Write prediction + codewords to ``out`` int32, Q8 octaves."""
    predicted = np.empty(out.size, np.int64)
    predict(model, known, predicted)
    for j in range(out.size):
        total = predicted[j]
        for s in range(num_stages):
            total += model.codebooks[s, indices[s], j]
        out[j] = min(max(total, -ENVELOPE_LIMIT), ENVELOPE_LIMIT - 1)


@kernel
def price(model, indices, num_stages):
    """Return the code length of a shape's indices, 1/256 bit."""
    total = np.int64(0)
    for s in range(num_stages):
        total += model.index_cost[s, indices[s]]
    return total


@kernel
def put(model, indices, num_stages, coder, data):
    """Code the indices."""
    for s in range(num_stages):
        i = indices[s]
        low, high = np.int64(model.index_cdf[s, i]), np.int64(model.index_cdf[s, i + 1])
        enc_symbol(coder, data, low, high, TOTAL_BITS)


@kernel
def get(model, num_stages, coder, data, indices):
    """Decode the indices, to ``indices`` int64 [>= S]."""
    for s in range(num_stages):
        target = dec_target(coder, TOTAL_BITS)
        first, last = 0, model.codebooks.shape[1] - 1
        while first < last:
            middle = (first + last) >> 1
            if model.index_cdf[s, middle + 1] <= target:
                first = middle + 1
            else:
                last = middle
        indices[s] = first
        low, high = np.int64(model.index_cdf[s, first]), np.int64(model.index_cdf[s, first + 1])
        dec_consume(coder, data, low, high, TOTAL_BITS)
