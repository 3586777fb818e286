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
# Squared envelope error (Q8 octaves, summed over bands) that is worth 1/256 bit.
RATE_WEIGHT = np.float32(30.0)


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
    for i in range(error.size):
        if filled < best_error.size or error[i] < best_error[filled - 1]:
            if filled < best_error.size:
                filled += 1
            p = filled - 1
            while p > 0 and best_error[p - 1] > error[i]:
                best_error[p] = best_error[p - 1]
                best[p, 0], best[p, 1] = best[p - 1, 0], best[p - 1, 1]
                p -= 1
            best_error[p] = error[i]
            best[p, 0], best[p, 1] = parent, i
    return filled


@kernel
def search(model, known, target, num_stages, indices):
    """Choose codewords by an M-best search; ties go to the lowest index.

    What is minimised is the squared error plus ``RATE_WEIGHT`` times the bits of the indices.

    Parameters
    ----------
    model : record               stage ``envelope`` of the coding model, or ``detail``
    known : int32 [bands]        what it is predicted from: the decoded shape before, Q8; for
                                 detail, that of the same frame
    target : float32             wanted shape, Q8
    num_stages : int
    indices : int64 [>= S]       result
    """
    size, dim = model.columns.shape[2], target.size
    predicted = np.empty(dim, np.int64)
    predict(model, known, predicted)
    residual = np.empty((2, BEAM, dim), np.float32)  # of this stage and the next
    paths = np.zeros((2, BEAM, MAX_STAGES), np.int64)
    rates = np.zeros((2, BEAM), np.float32)
    for j in range(dim):
        residual[0, 0, j] = target[j] - np.float32(predicted[j])
    alive = 1
    error = np.empty(size, np.float32)
    best_error = np.empty(BEAM, np.float32)
    best = np.empty((BEAM, 2), np.int64)  # parent, index
    for s in range(num_stages):
        here, there = s % 2, 1 - s % 2
        keep = 1 if s == num_stages - 1 else BEAM
        filled = 0
        for a in range(alive):
            for i in range(size):
                error[i] = 0.0
            for j in range(dim):
                column, value = model.columns[s, j], residual[here, a, j]
                for i in range(size):
                    d = value - column[i]
                    error[i] += d * d
            for i in range(size):
                error[i] += RATE_WEIGHT * (rates[here, a] + np.float32(model.index_cost[s, i]))
            filled = _keep_best(error, a, best_error[:keep], best, filled)
        for p in range(filled):
            a, i = best[p, 0], best[p, 1]
            for j in range(dim):
                residual[there, p, j] = residual[here, a, j] - model.columns[s, j, i]
            for t in range(s):
                paths[there, p, t] = paths[here, a, t]
            paths[there, p, s] = i
            rates[there, p] = rates[here, a] + np.float32(model.index_cost[s, i])
        alive = filled
    for s in range(num_stages):
        indices[s] = paths[num_stages % 2, 0, s]


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
