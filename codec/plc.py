"""Packet loss concealment (PLC): what stands in for frames that did not arrive.

::

    samples before the loss ─► lag ─► last period repeated ─► MDCT ─► coefficients of the lost frame
    last envelope ─► held, then fading; last step ─► held ──────────► its envelope, step
    lost, length of the gap, time since ────────────────────────────► enhancer, which knows

The enhancer, trained with losses, does the rest: it turns the repeated coefficients down where the
signal was not periodic and puts noise there, and mends the frames that follow.

References
----------
ITU-T G.711 Appendix I, 1999 (pitch waveform repetition).
Lecomte et al., "Packet-loss concealment technology advances in EVS", ICASSP 2015 (concealment in
the MDCT domain of a codec with both).
"""

from __future__ import annotations

import numpy as np

from codec.config import (
    BLOCKS_PER_FRAME,
    HOP_LENGTH,
    LOG_FLOOR,
    LOG_ONE,
    NUM_BANDS,
    NUM_DETAIL_BANDS,
)
from codec.dsp import mdct
from codec.dsp.ltpf import MIN_LAG, track_pitch
from codec.jit import kernel
from codec.records import record

# Octaves of amplitude by which each further frame of a gap is lower: -3 dB every 20 ms.
FADE = np.float32(0.5)
FADE_GAIN = np.float32(2.0**-0.5)
RECOVERY = 8  # frames after a gap of which the enhancer is told that it was there
LONGEST_GAP = 8  # frames; longer ones look like it to the enhancer
SILENCE = np.float32(LOG_FLOOR / LOG_ONE)  # octaves: the envelope's floor
FIRST_LOG_BITS = np.float32(8.0)

STATE = record(
    gap=np.int64,  # frames lost in a row, up to now
    since=np.int64,  # frames received in a row since a gap; RECOVERY without one
    lag=np.int64,  # of the signal before the gap,
    periodicity=np.float32,  # and its periodicity, 0..1
    envelope=(np.float32, NUM_BANDS),  # of the last frame, octaves,
    log_step=(np.float32, NUM_BANDS),  # and its steps
    log_bits=np.float32,
)


def start(state: np.ndarray) -> None:
    """Set a record of zeros to what holds before the first frame."""
    state["since"], state["lag"], state["log_bits"] = RECOVERY, MIN_LAG, FIRST_LOG_BITS
    state["envelope"], state["log_step"] = SILENCE, SILENCE


@kernel
def receive(state, parameters):
    """Take note of a frame that arrived, and tell the enhancer of a gap before it.

    Parameters
    ----------
    state : STATE
    parameters : enhancer_network.PARAMETERS   with envelope, steps and size; ``loss`` is set
    """
    value = np.float32(0.0)
    if state.since < RECOVERY:  # 1 in the first frame after a gap, half of it in each further one
        value = np.float32(1.0)
        for _ in range(state.since):
            value *= np.float32(0.5)
    parameters.loss[0] = parameters.loss[1] = np.float32(0.0)
    parameters.loss[2] = value
    state.gap = 0
    state.since = min(state.since + 1, RECOVERY)
    for b in range(NUM_BANDS):
        state.envelope[b] = parameters.envelope[b]
        state.log_step[b] = parameters.log_step[b]
    state.log_bits = parameters.log_bits


@kernel
def conceal(state, transform, history, parameters, spectrum):
    """Stand in for a lost frame.

    Parameters
    ----------
    state : STATE                      moves on
    transform : mdct.TRANSFORM
    history : float32 [ltpf.FRAME]     finished samples before the frame
    parameters : enhancer_network.PARAMETERS   result
    spectrum : float32 [2, N]          result: the last period goes on
    """
    if state.gap == 0:
        periodicity, lag = track_pitch(history)
        state.periodicity = periodicity
        state.lag = lag
    else:
        for b in range(NUM_BANDS):
            state.envelope[b] = max(state.envelope[b] - FADE, SILENCE)
    windows = np.empty((BLOCKS_PER_FRAME, 2 * HOP_LENGTH), np.float32)
    first = history.size - state.lag
    for block in range(BLOCKS_PER_FRAME):
        for n in range(2 * HOP_LENGTH):
            windows[block, n] = history[first + (block * HOP_LENGTH + n) % state.lag]
    mdct.forward(transform, windows, spectrum)
    if state.gap > 0:
        for block in range(BLOCKS_PER_FRAME):
            for k in range(HOP_LENGTH):
                spectrum[block, k] *= FADE_GAIN
    _describe(state, parameters)
    state.gap += 1
    state.since = 0


@kernel
def _describe(state, parameters):
    """Tell the enhancer what stands in for a lost frame's parameters."""
    for b in range(NUM_BANDS):
        parameters.envelope[b] = state.envelope[b]
        parameters.log_step[b] = state.log_step[b]
    parameters.log_bits = state.log_bits
    parameters.long = np.float32(0.0)
    for block in range(BLOCKS_PER_FRAME):
        for j in range(NUM_DETAIL_BANDS):
            parameters.detail[block, j] = np.float32(0.0)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            parameters.uncoded[block, k] = np.float32(0.0)
    for block in range(BLOCKS_PER_FRAME):
        parameters.lag[block] = state.lag
        parameters.periodicity[block] = state.periodicity
    parameters.silent = 0
    parameters.loss[0] = np.float32(1.0)
    parameters.loss[1] = np.float32(min(state.gap, LONGEST_GAP)) / np.float32(LONGEST_GAP)
    parameters.loss[2] = np.float32(0.0)
