"""Rate control: which step fits a packet's bytes (CBR), and which bytes a packet gets (VBR)."""

from __future__ import annotations

import numpy as np
from numba import njit

from codec.packet import (
    COST_ONE,
    NUM_BINS,
    PRICE,
    QUANTIZE,
    TOTAL_BITS,
    code_bins,
    step_context,
)

# The end of the range coder's packet may cost a fraction of a bit.
END_BITS = COST_ONE // 2
# Filling a packet: bits that lowering a magnitude saves, from 1 to 0 and from more.
SAVING_ONE, SAVING_MORE = 5 * COST_ONE, 2 * COST_ONE
FILL_TRIALS = 3
FILL_BELOW = 256  # bits: larger packets gain nothing that can be measured


@njit(cache=True)
def normalise(spectrum, log_step, ratio):
    """Divide both blocks by their steps.

    Parameters
    ----------
    spectrum : float32 [2, N]
    log_step : int32 [N]        Q8 octaves
    ratio : float32 [2, N]      result
    """
    for k in range(NUM_BINS):
        inverse = np.float32(2.0 ** (-log_step[k] / 256.0))
        ratio[0, k] = spectrum[0, k] * inverse
        ratio[1, k] = spectrum[1, k] * inverse


@njit(cache=True)
def step_cost(tables, last_delta, delta):
    """Return the cost of a step delta in 1/256 bit."""
    limit = (tables.step_cdf.shape[1] - 2) // 2
    context = step_context(last_delta)
    frequency = (
        tables.step_cdf[context, delta + limit + 1] - tables.step_cdf[context, delta + limit]
    )
    return np.int64(COST_ONE * (TOTAL_BITS - np.log2(frequency)) + 0.5)


@njit(cache=True)
def packet_cost(
    tables, state, spectrum, log_scale, relative, base, delta, resolution, rdo_lambda, packet_bits,
    log_step, q,
):  # fmt: skip
    """Quantize with a step and return its cost in 1/256 bit; fills ``log_step`` and ``q``."""
    coder = np.empty(0, np.int64)
    buf = np.empty(0, np.uint8)
    dump = np.empty((2, 0, 0), np.int16)
    for k in range(NUM_BINS):
        log_step[k] = base + delta * resolution + relative[k]
    ratio = np.empty((2, NUM_BINS), np.float32)
    normalise(spectrum, log_step, ratio)
    cost = code_bins(
        QUANTIZE, tables, state, coder, buf, log_scale, log_step, packet_bits, delta, ratio,
        rdo_lambda / COST_ONE, q, dump,
    )  # fmt: skip
    return cost + step_cost(tables, state.delta[0], delta)


@njit(cache=True)
def choose_step(
    tables, state, spectrum, log_scale, relative, base, resolution, rdo_lambda, packet_bits,
    envelope_cost, log_step, q,
):  # fmt: skip
    """Find the step whose bins fill the packet, by regula falsi on the true cost.

    ``envelope_cost`` is what the envelope's indices take, 1/256 bit. Fills ``log_step`` int32 [N]
    and ``q`` int32 [2, N].

    Returns
    -------
    delta : int    step delta to transmit
    cost : int     bits x 256 of step and bins
    """
    limit = (tables.step_cdf.shape[1] - 2) // 2
    budget = packet_bits * COST_ONE - envelope_cost - END_BITS
    low, high = -limit - 1, limit + 1  # low does not fit, high does
    low_cost, high_cost = np.int64(0), np.int64(0)
    delta = min(max(state.delta[0], -limit), limit)
    cost = np.int64(0)
    for _ in range(12):
        cost = packet_cost(
            tables, state, spectrum, log_scale, relative, base, delta, resolution, rdo_lambda,
            packet_bits, log_step, q,
        )  # fmt: skip
        if cost <= budget:
            high, high_cost = delta, cost
        else:
            low, low_cost = delta, cost
        if high - low <= 1 or (high == -limit):
            break
        if low < -limit or high > limit:
            # Only one side known: about one bit per octave and coded bin.
            active = 0
            for k in range(NUM_BINS):
                active += (q[0, k] != 0) + (q[1, k] != 0)
            per_step = (1.2 * active + 8.0) * resolution / 256.0 * COST_ONE
            move = (cost - budget) / per_step
            if cost <= budget:
                delta = max(min(int(np.floor(delta + move)), high - 1), low + 1)
            else:
                delta = min(max(int(np.ceil(delta + move)), low + 1), high - 1)
        else:
            t = (low_cost - budget) / max(low_cost - high_cost, 1)
            delta = min(max(int(np.ceil(low + t * (high - low))), low + 1), high - 1)
        delta = min(max(delta, -limit), limit)
    if high > limit:
        # Nothing fits (a click in a tiny packet): the coarsest step, then no bins from the top.
        high = limit
    if high > -limit and packet_bits < FILL_BELOW:
        cost = fill_packet(
            tables, state, spectrum, log_scale, relative, base, high - 1, resolution, packet_bits,
            budget, log_step, q,
        )  # fmt: skip
        if cost <= budget:
            return high - 1, cost
    elif delta == high and cost <= budget:
        return high, cost
    cost = packet_cost(
        tables, state, spectrum, log_scale, relative, base, high, resolution, rdo_lambda,
        packet_bits, log_step, q,
    )  # fmt: skip
    return high, cost


@njit(cache=True)
def fill_packet(
    tables, state, spectrum, log_scale, relative, base, delta, resolution, packet_bits, budget,
    log_step, q,
):  # fmt: skip
    """Quantize with a step that is a little too fine, then lower magnitudes until they fit.

    The finest step that fits leaves 2 % of a packet unused. Lowered are the magnitudes that were
    rounded up by most: where that costs the least quality.

    Returns
    -------
    int   bits x 256 of step and bins; more than ``budget`` if it cannot be done
    """
    cost = packet_cost(
        tables, state, spectrum, log_scale, relative, base, delta, resolution, 0.0, packet_bits,
        log_step, q,
    )  # fmt: skip
    if cost <= budget:
        return cost
    ratio = np.empty((2, NUM_BINS), np.float32)
    normalise(spectrum, log_step, ratio)
    excess = np.empty(2 * NUM_BINS, np.float32)
    for block in range(2):
        for k in range(NUM_BINS):
            i = block * NUM_BINS + k
            if q[block, k] == 0:
                excess[i] = 1e9
            else:
                excess[i] = abs(ratio[block, k]) - abs(q[block, k])
    order = np.argsort(excess)
    coder = np.empty(0, np.int64)
    buf = np.empty(0, np.uint8)
    dump = np.empty((2, 0, 0), np.int16)
    side = step_cost(tables, state.delta[0], delta)
    n = 0
    for _ in range(FILL_TRIALS):
        saved = np.int64(0)
        while saved < cost - budget and n < 2 * NUM_BINS and excess[order[n]] < 1e8:
            block, k = order[n] // NUM_BINS, order[n] % NUM_BINS
            saved += SAVING_ONE if abs(q[block, k]) == 1 else SAVING_MORE
            q[block, k] -= 1 if q[block, k] > 0 else -1
            n += 1
        cost = side + code_bins(
            PRICE, tables, state, coder, buf, log_scale, log_step, packet_bits, delta, ratio, 0.0,
            q, dump,
        )  # fmt: skip
        if cost <= budget:
            break
    return cost


@njit(cache=True)
def drop_top(q, keep):
    """Zero all bins at and above ``keep``."""
    for block in range(2):
        for k in range(keep, NUM_BINS):
            q[block, k] = 0


def vbr_packet_sizes(demand: np.ndarray, total_bytes: int, minimum: int, maximum: int) -> list[int]:
    """Share ``total_bytes`` among packets in proportion to their demand, within limits.

    Parameters
    ----------
    demand : float array, shape [P]   positive
    total_bytes : int                 sum of the result (as far as the limits allow)
    minimum, maximum : int            bytes of a packet

    Returns
    -------
    list of int, length P
    """
    count = len(demand)
    if count == 0:
        return []
    total_bytes = int(min(max(total_bytes, minimum * count), maximum * count))
    low, high = 0.0, float(maximum) / max(float(demand.min()), 1e-9)
    for _ in range(60):
        factor = 0.5 * (low + high)
        if np.clip(demand * factor, minimum, maximum).sum() < total_bytes:
            low = factor
        else:
            high = factor
    wanted = np.clip(demand * high, minimum, maximum)
    # Round the running sum, so that the total is met to the byte.
    edges = np.floor(np.cumsum(wanted) * (total_bytes / wanted.sum()) + 0.5).astype(np.int64)
    sizes = np.clip(np.diff(edges, prepend=0), minimum, maximum)
    return [int(s) for s in sizes]
