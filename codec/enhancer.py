"""Causal learned enhancer: dequantized coefficients in, enhanced spectrum out.

::

    coefficients, envelope, detail, steps, pitch, losses ─► network (enhancer_network.py) ──┐
         ┌── gain, value [2, N], noise level [2, bands], strengths of envelope and detail, ◄┘
         │   LTPF gain
              ▼
    y = coefficient * gain + envelope * (value + noise level * noise where nothing was coded)
    y ─► bands pulled to the power of envelope and detail, by a learned strength ─► bound ─►
    quantization cell
    y / (1 + LTPF gain) ─► inverse MDCT ─► long-term postfilter (codec/dsp/ltpf.py)

It works on whole frames: block 0 may look at block 1, which the packet holds anyway, so the delay
stays at one frame plus the MDCT overlap. Everything is relative to the envelope, so the output
scales with the input.
"""

from __future__ import annotations

import numpy as np

from codec.config import (
    BAND_EDGES,
    BLOCKS_PER_FRAME,
    DETAIL_EDGES,
    HOP_LENGTH,
    NUM_BANDS,
    NUM_DETAIL_BANDS,
    NUM_LTPF_BANDS,
)
from codec.dsp import noise
from codec.dsp.bands import band_means
from codec.dsp.fixed import exp2, log2, sigmoid
from codec.enhancer_network import (
    ALL_OUTPUTS,
    NUM_LOCAL,
    NUM_OUTPUTS,
    interpolate,
    interpolate_detail,
    run,
)
from codec.jit import kernel

# A coefficient may get a predicted value if one within this many was coded. Elsewhere values could
# only be the same pattern in every frame, which pleases spectral measures and is heard as a buzz.
VALUE_REACH = 4
# Bands are pulled to the envelope's power, by this many octaves at most. The envelope's share in
# the power that is compared with it: an empty band is not pulled up without end.
MAX_PULL, POWER_DOUBT = np.float32(1.5), np.float32(0.01)
STRENGTH_OFFSET = np.float32(-1.0)
# By how much a band may exceed the envelope's power, or the decoded one (3 dB).
HEADROOM = np.float32(2.0)
# The postfilter is shut where the correlation at the lag is below the first value.
PERIODIC_FROM, PERIODIC_RANGE = np.float32(0.3), np.float32(0.5)
NOISE_OFFSET, NOISE_MIN, NOISE_MAX = np.float32(-0.7), np.float32(-8.0), np.float32(2.0)
LOG2_E = np.float32(1.4426950409)
_SPLIT = BLOCKS_PER_FRAME * HOP_LENGTH
_STRENGTHS = NUM_OUTPUTS + BLOCKS_PER_FRAME * NUM_LTPF_BANDS  # where the detail's begin
_EDGES, _DETAIL_EDGES = np.array(BAND_EDGES), np.array(DETAIL_EDGES)
_WIDTH = np.diff(_EDGES).astype(np.float32)


@kernel
def _near_coded(uncoded, out):
    """Write 1 where a coefficient within VALUE_REACH was coded in either block, else 0."""
    for k in range(HOP_LENGTH):
        out[k] = np.float32(0.0)
    for k in range(HOP_LENGTH):
        if uncoded[0, k] == 0 or uncoded[1, k] == 0:
            for i in range(max(k - VALUE_REACH, 0), min(k + VALUE_REACH + 1, HOP_LENGTH)):
                out[i] = np.float32(1.0)


@kernel
def _band_power(x, out):
    """Write the mean square of ``x`` [N] in each band to ``out`` [bands]."""
    for b in range(NUM_BANDS):
        total = np.float32(0.0)
        for k in range(_EDGES[b], _EDGES[b + 1]):
            total += x[k] * x[k]
        out[b] = total / _WIDTH[b]


@kernel
def _way(wanted, strength, power):
    """Replace ``power`` of bands by the octaves that each is pulled to the level ``wanted``.

    What the network says of ``strength``, before its sigmoid, is the share of the way that is gone.
    """
    doubt = np.empty(power.size, np.float32)
    share = np.empty(power.size, np.float32)
    for b in range(power.size):
        doubt[b] = np.float32(2.0) * wanted[b]
        share[b] = strength[b] + STRENGTH_OFFSET
    exp2(doubt, doubt)
    sigmoid(share)
    for b in range(power.size):
        power[b] += POWER_DOUBT * doubt[b]
    log2(power, power)
    for b in range(power.size):
        octaves = wanted[b] - np.float32(0.5) * power[b]
        power[b] = share[b] * min(max(octaves, -MAX_PULL), MAX_PULL)


@kernel
def _obey(model, frame, strength, out):
    """Pull each band's power, of both blocks, towards the envelope's.

    The power of the MDCT alone swings with the phase, so where much was coded it is better left as
    it is: the network sets the ``strength`` [bands].
    """
    power = np.empty((BLOCKS_PER_FRAME, NUM_BANDS), np.float32)
    for block in range(BLOCKS_PER_FRAME):
        _band_power(out[block], power[block])
    way = power[0]
    for b in range(NUM_BANDS):
        way[b] = np.float32(0.5) * (power[0, b] + power[1, b])
    _way(frame.envelope, strength, way)
    gain = np.empty(HOP_LENGTH, np.float32)
    interpolate(model, way, gain)
    exp2(gain, gain)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            out[block, k] *= gain[k]


@kernel
def _has_detail(frame):
    """Return whether a frame has detail, sent or predicted: a lost one has none."""
    for block in range(BLOCKS_PER_FRAME):
        for j in range(NUM_DETAIL_BANDS):
            if frame.detail[block, j] != 0:
                return True
    return False


@kernel
def _follow(model, frame, strength, out):
    """Pull the power of each block's detail bands towards what was sent of it."""
    wanted = np.empty(NUM_DETAIL_BANDS, np.float32)
    way = np.empty(NUM_DETAIL_BANDS, np.float32)
    base = np.empty(NUM_DETAIL_BANDS, np.float32)
    gain = np.empty(HOP_LENGTH, np.float32)
    interpolate(model, frame.envelope, gain)
    band_means(_DETAIL_EDGES, gain, base)
    for block in range(BLOCKS_PER_FRAME):
        for j in range(NUM_DETAIL_BANDS):
            wanted[j] = base[j] + frame.detail[block, j]
        for k in range(HOP_LENGTH):
            gain[k] = out[block, k] * out[block, k]
        band_means(_DETAIL_EDGES, gain, way)
        _way(wanted, strength, way)
        interpolate_detail(model, way, gain)
        exp2(gain, gain)
        for k in range(HOP_LENGTH):
            out[block, k] *= gain[k]


@kernel
def _bound(frame, spectrum, scale, out):
    """Hold each block's bands to HEADROOM over envelope, detail or decoded coefficients.

    Whatever the network makes of a signal that it has never heard, it does not get loud. ``scale``
    [2, N] is the envelope with its detail.
    """
    known = np.empty(NUM_BANDS, np.float32)
    detailed = np.empty(NUM_BANDS, np.float32)
    coded = np.empty(NUM_BANDS, np.float32)
    power = np.empty(NUM_BANDS, np.float32)
    for b in range(NUM_BANDS):
        known[b] = np.float32(2.0) * frame.envelope[b]
    exp2(known, known)
    for block in range(BLOCKS_PER_FRAME):
        _band_power(spectrum[block], coded)
        _band_power(scale[block], detailed)
        _band_power(out[block], power)
        for b in range(NUM_BANDS):
            allowed = HEADROOM * max(known[b], detailed[b], coded[b])
            if power[b] > allowed:
                gain = np.float32(np.sqrt(allowed / power[b]))
                for k in range(_EDGES[b], _EDGES[b + 1]):
                    out[block, k] *= gain


@kernel
def _stay_in_cell(model, frame, spectrum, out):
    """Keep received coefficients within one step of what was decoded.

    The original lies there: what was coded finely is left as it is.
    """
    width = np.empty(HOP_LENGTH, np.float32)
    interpolate(model, frame.log_step, width)
    exp2(width, width)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            low, high = spectrum[block, k] - width[k], spectrum[block, k] + width[k]
            out[block, k] = min(max(out[block, k], low), high)


@kernel
def _combine(model, frame, number, values, spectrum, out):
    """Make a frame's enhanced spectrum, before the postfilter's share is taken off.

    Parameters
    ----------
    model : record
    frame : PARAMETERS
    number : int               of the frame in the file, for its noise
    values : (outputs of the network [ALL_OUTPUTS], of the local branch [4 N], envelope [N])
    spectrum : float32 [2, N]  dequantized
    out : float32 [2, N]       result
    """
    if frame.silent:
        for block in range(BLOCKS_PER_FRAME):
            for k in range(HOP_LENGTH):
                out[block, k] = np.float32(0.0)
        return
    outputs, local, smooth = values
    scale = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)  # the envelope with its detail
    lost = frame.loss[0] > np.float32(0.5)
    near = np.empty(HOP_LENGTH, np.float32)
    filling = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    level = np.empty(NUM_BANDS, np.float32)
    amplitude = np.empty(HOP_LENGTH, np.float32)
    _near_coded(frame.uncoded, near)
    noise.fill(number, frame.periodicity, filling)
    for block in range(BLOCKS_PER_FRAME):
        gain = outputs[block * HOP_LENGTH :]
        value = outputs[_SPLIT + block * HOP_LENGTH :]
        own = outputs[2 * _SPLIT + block * NUM_BANDS :]
        for b in range(NUM_BANDS):
            natural = np.float32(2.0) * own[b] + NOISE_OFFSET
            level[b] = min(max(natural, NOISE_MIN), NOISE_MAX) * LOG2_E
        exp2(level, level)
        interpolate(model, level, amplitude)
        interpolate_detail(model, frame.detail[block], scale[block])
        exp2(scale[block], scale[block])
        for k in range(HOP_LENGTH):
            scale[block, k] *= smooth[k]
        x, y = spectrum[block], out[block]
        for k in range(HOP_LENGTH):
            g = np.float32(1.0) + np.float32(0.5) * gain[k] + local[k * NUM_LOCAL + block]
            v = (value[k] + local[k * NUM_LOCAL + BLOCKS_PER_FRAME + block]) * near[k]
            # Nothing was coded in lost frames: times the noise a value is no pattern.
            v = v * filling[block, k] if lost else v
            bare = np.float32(1.0) if lost else frame.uncoded[block, k]
            y[k] = x[k] * g + scale[block, k] * (v + amplitude[k] * filling[block, k] * bare)
    _obey(model, frame, outputs[2 * _SPLIT + BLOCKS_PER_FRAME * NUM_BANDS :], out)
    if _has_detail(frame):
        _follow(model, frame, outputs[_STRENGTHS:], out)
    _bound(frame, spectrum, scale, out)
    if not lost:
        _stay_in_cell(model, frame, spectrum, out)


@kernel
def _take_off(model, periodicity, gains, spectrum):
    """Shut the postfilter where nothing is periodic, and make room for what it adds."""
    for block in range(BLOCKS_PER_FRAME):
        opening = (periodicity[block] - PERIODIC_FROM) / PERIODIC_RANGE
        opening = min(max(opening, np.float32(0.0)), np.float32(1.0))
        for b in range(NUM_LTPF_BANDS):
            gains[block, b] *= opening
        for k in range(HOP_LENGTH):
            total = np.float32(1.0)
            for b in range(NUM_LTPF_BANDS):
                total += gains[block, b] * model.ltpf_response[b, k]
            spectrum[block, k] /= total


@kernel
def enhance(model, state, parameters, spectrum, enhanced, gains):
    """Enhance consecutive frames; the state moves on.

    Parameters
    ----------
    model, state : records             of the network
    parameters : PARAMETERS [P]
    spectrum : float32 [P, 2, N]       dequantized coefficients
    enhanced : float32 [P, 2, N]       result
    gains : float32 [P, 2, bands]      result: of the long-term postfilter, 0..1
    """
    count = spectrum.shape[0]
    outputs = np.empty(count * ALL_OUTPUTS, np.float32)
    local = np.empty((count, NUM_LOCAL * HOP_LENGTH), np.float32)
    scale = np.empty((count, HOP_LENGTH), np.float32)
    run(model, state, parameters, spectrum, (outputs, local, scale))
    for f in range(count):
        frame = parameters[f]
        own = outputs[f * ALL_OUTPUTS : (f + 1) * ALL_OUTPUTS]
        values = (own, local[f], scale[f])
        _combine(model, frame, state.frame, values, spectrum[f], enhanced[f])
        opening = own[NUM_OUTPUTS:_STRENGTHS]
        sigmoid(opening)
        for block in range(BLOCKS_PER_FRAME):
            for b in range(NUM_LTPF_BANDS):
                gains[f, block, b] = opening[block * NUM_LTPF_BANDS + b]
        _take_off(model, frame.periodicity, gains[f], enhanced[f])
        state.frame += 1
