"""Causal learned enhancer: dequantized coefficients in, enhanced spectrum out.

::

    coefficients of both blocks / envelope ─┐
    step / envelope per band ───────────────┤► dense ─► conv over 3 frames ─► GRU ─► dense ─┐
    envelope shape, level, rate ────────────┤                                               │
    periodicity, lag, losses ───────────────┘                                               │
    coefficients of 2 frames ─► conv over frequency (local branch) ─► gain, value ─────────(+)
              ┌── gain, value [2, N], noise level [2, bands], strength [bands], LTPF gain ◄─┘
              ▼
    y = coefficient * gain + envelope * (value + noise level * noise where nothing was coded)
    y ─► bands pulled to the envelope's power, by a learned strength ─► bound ─► quantization cell
    y / (1 + LTPF gain) ─► inverse MDCT ─► long-term postfilter (codec/dsp/ltpf.py)

It works on whole frames: block 0 may look at block 1, which the packet holds anyway, so the delay
stays at one frame plus the MDCT overlap. Everything is relative to the envelope, so the output
scales with the input. The recurrent memory leaks (``GRU_LEAK``): what is long past fades from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.config import (
    BAND_EDGES,
    BLOCKS_PER_FRAME,
    GRU_LEAK,
    HOP_LENGTH,
    NUM_BANDS,
    NUM_LOSS_FEATURES,
    NUM_LTPF_BANDS,
    CodecConfig,
)
from codec.dsp import noise
from codec.dsp.fixed import exp2, gelu, log2, sigmoid
from codec.dsp.layers import add_dense, convolve3, convolve7, dense, gru
from codec.dsp.ltpf import band_response
from codec.jit import kernel
from codec.records import new, record

# A coefficient may get a predicted value if one within this many was coded. Elsewhere values could
# only be the same pattern in every frame, which pleases spectral measures and is heard as a buzz.
VALUE_REACH = 4
# Octaves by which the level may change from frame to frame, as far as the network is told.
LEVEL_STEP = np.float32(6.0)
# Bands are pulled to the envelope's power, by this many octaves at most. The envelope's share in
# the power that is compared with it: an empty band is not pulled up without end.
MAX_PULL, POWER_DOUBT = np.float32(1.5), np.float32(0.01)
STRENGTH_OFFSET = np.float32(-1.0)
# By how much a band may exceed the envelope's power, or the decoded one (3 dB).
HEADROOM = np.float32(2.0)
# The postfilter is shut where the correlation at the lag is below the first value.
PERIODIC_FROM, PERIODIC_RANGE = np.float32(0.3), np.float32(0.5)
NOISE_OFFSET, NOISE_MIN, NOISE_MAX = np.float32(-0.7), np.float32(-8.0), np.float32(2.0)
LOG2_E, LN_2 = np.float32(1.4426950409), np.float32(0.6931471806)
LAG_CENTRE = 100.0  # samples
PAD = 3  # zeros beside the spectrum, as the convolutions over frequency want them

NUM_INPUTS = BLOCKS_PER_FRAME * HOP_LENGTH + 2 * NUM_BANDS + 3
NUM_OUTPUTS = BLOCKS_PER_FRAME * (2 * HOP_LENGTH + NUM_BANDS) + NUM_BANDS
_LEAK = np.float32(GRU_LEAK)
_SPLIT = BLOCKS_PER_FRAME * HOP_LENGTH
_EDGES = np.array(BAND_EDGES)
_WIDTH = np.diff(_EDGES).astype(np.float32)

# What the enhancer knows of a frame beside its spectrum.
PARAMETERS = record(
    envelope=(np.float32, NUM_BANDS),  # octaves
    log_step=(np.float32, NUM_BANDS),  # octaves
    log_bits=np.float32,  # log2 of the packet's bits
    long=np.float32,  # 1: one block of 2N was coded
    uncoded=(np.float32, (BLOCKS_PER_FRAME, HOP_LENGTH)),  # 1 where nothing was coded
    lag=(np.int64, BLOCKS_PER_FRAME),  # samples, of the segment that each block completes
    periodicity=(np.float32, BLOCKS_PER_FRAME),  # 0..1
    loss=(np.float32, NUM_LOSS_FEATURES),  # lost; length of the gap; time since
)


def enhancer_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of the network; dense weights are input-major."""
    hidden, local = config.enhancer_hidden, config.local_channels
    comb = BLOCKS_PER_FRAME * NUM_LTPF_BANDS
    return record(
        interpolation=(np.float32, (HOP_LENGTH, 2)),  # band below and weight of the band above
        ltpf_response=(np.float32, (NUM_LTPF_BANDS, HOP_LENGTH)),
        inputs=(np.float32, (NUM_INPUTS, hidden)),
        inputs_bias=(np.float32, hidden),
        pitch=(np.float32, (2 * BLOCKS_PER_FRAME, hidden)),
        loss=(np.float32, (NUM_LOSS_FEATURES, hidden)),
        conv=(np.float32, (3, hidden, hidden)),
        conv_bias=(np.float32, hidden),
        gates=(np.float32, (hidden, 3 * hidden)),
        gates_bias=(np.float32, 3 * hidden),
        memory=(np.float32, (hidden, 3 * hidden)),
        memory_bias=(np.float32, 3 * hidden),
        outputs=(np.float32, (2 * hidden, NUM_OUTPUTS)),
        outputs_bias=(np.float32, NUM_OUTPUTS),
        lost_outputs=(np.float32, (2 * hidden, NUM_OUTPUTS)),
        lost_outputs_bias=(np.float32, NUM_OUTPUTS),
        ltpf=(np.float32, (2 * hidden, comb)),
        ltpf_bias=(np.float32, comb),
        local1=(np.float32, (local, 2 * BLOCKS_PER_FRAME + 1, 7)),
        local1_bias=(np.float32, local),
        local2=(np.float32, (local, local, 7)),
        local2_bias=(np.float32, local),
        local3=(np.float32, (2 * BLOCKS_PER_FRAME, local, 3)),
        local3_bias=(np.float32, 2 * BLOCKS_PER_FRAME),
    )


def state_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of what one frame leaves to the next."""
    hidden = config.enhancer_hidden
    return record(
        frame=np.int64,  # number of the next one, for its noise
        started=np.int64,  # 0 before the first frame
        level=np.float32,  # of the last frame, octaves
        conv=(np.float32, (2, hidden)),  # inputs of the convolution
        memory=(np.float32, (1, hidden)),  # of the recurrent layer
        spectrum=(np.float32, (BLOCKS_PER_FRAME, HOP_LENGTH)),  # coefficients of the last frame
    )


def make_model(
    parameters: dict[str, np.ndarray], interpolation: np.ndarray, config: CodecConfig
) -> Any:
    """Return the record of the parameters of stage ``enhancer``, by field name.

    ``interpolation`` is the field of the allocation: (band, Q8 weight of the band above).
    """

    def of(name: str) -> np.ndarray:
        return parameters[f"enhancer.{name}"]

    model = new(enhancer_dtype(config))
    model["interpolation"] = interpolation * np.array([1.0, 1 / 256])
    model["ltpf_response"] = band_response()
    model["pitch"], model["loss"] = of("pitch_inputs.weight").T, of("loss_inputs.weight").T
    for target, source in (
        ("inputs", "inputs"),
        ("outputs", "outputs"),
        ("lost_outputs", "lost_outputs"),
        ("ltpf", "comb_outputs"),
    ):
        model[target] = of(f"{source}.weight").T
        model[f"{target}_bias"] = of(f"{source}.bias")
    model["conv"], model["conv_bias"] = of("conv.weight").transpose(2, 1, 0), of("conv.bias")
    model["gates"], model["gates_bias"] = of("gru.weight_ih_l0").T, of("gru.bias_ih_l0")
    model["memory"], model["memory_bias"] = of("gru.weight_hh_l0").T, of("gru.bias_hh_l0")
    for target, source in (
        ("local1", "local.0"),
        ("local2", "local.2"),
        ("local3", "local_outputs"),
    ):
        model[target] = of(f"{source}.weight")
        model[f"{target}_bias"] = of(f"{source}.bias")
    return model


@kernel
def _interpolate(model, bands, out):
    """Interpolate band values linearly at each coefficient, [bands] -> [N]."""
    for k in range(HOP_LENGTH):
        b = np.int64(model.interpolation[k, 0])
        t = model.interpolation[k, 1]
        out[k] = (np.float32(1.0) - t) * bands[b] + t * bands[b + 1]


@kernel
def _compress(x, scale, out):
    """Write sign(r) ln(1 + |r|) of r = x / scale to ``out``; [N] each."""
    size = np.empty(HOP_LENGTH, np.float32)
    for k in range(HOP_LENGTH):
        size[k] = abs(x[k] / scale[k]) + np.float32(1.0)
    log2(size, size)
    for k in range(HOP_LENGTH):
        value = size[k] * LN_2
        out[k] = -value if x[k] < 0 else value


@kernel
def _features(state, frame, compressed, out):
    """Write the inputs of the first layer to ``out`` [NUM_INPUTS]; the state's level moves on."""
    mean = np.float32(0.0)
    for b in range(NUM_BANDS):
        mean += frame.envelope[b]
    mean /= np.float32(NUM_BANDS)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            out[block * HOP_LENGTH + k] = compressed[block, k]
    for b in range(NUM_BANDS):
        out[_SPLIT + b] = np.float32(0.25) * (frame.envelope[b] - mean)
        out[_SPLIT + NUM_BANDS + b] = np.float32(0.5) * (frame.log_step[b] - frame.envelope[b])
    change = mean - state.level if state.started != 0 else np.float32(0.0)
    rest = out[_SPLIT + 2 * NUM_BANDS :]
    rest[0] = frame.long
    rest[1] = np.float32(0.25) * min(max(change, -LEVEL_STEP), LEVEL_STEP)
    rest[2] = frame.log_bits - np.float32(8.0)
    state.level = mean
    state.started = 1


@kernel
def _pitch_features(frame, out):
    """Write periodicity, and periodicity times the log of the lag, of both blocks to ``out``."""
    ratio = np.empty(BLOCKS_PER_FRAME, np.float32)
    for block in range(BLOCKS_PER_FRAME):
        ratio[block] = np.float32(frame.lag[block] / LAG_CENTRE)
    log2(ratio, ratio)
    for block in range(BLOCKS_PER_FRAME):
        out[block] = frame.periodicity[block]
        out[BLOCKS_PER_FRAME + block] = frame.periodicity[block] * ratio[block]


@kernel
def _hidden(model, state, inputs, pitch, loss, both):
    """Run the layers that see several frames; ``both`` [frames, 2H] gets what they remember."""
    count, size = inputs.shape[0], model.conv_bias.size
    extended = np.empty((count + 2, size), np.float32)  # two frames of the past come first
    for i in range(2):
        for o in range(size):
            extended[i, o] = state.conv[i, o]
    hidden = extended[2:]
    dense(inputs, model.inputs[:], model.inputs_bias[:], hidden)
    add_dense(pitch, model.pitch[:], hidden)
    add_dense(loss, model.loss[:], hidden)
    for f in range(count):
        gelu(hidden[f])
    convolved = np.empty((count, size), np.float32)
    dense(extended[:count], model.conv[0], model.conv_bias[:], convolved)
    add_dense(extended[1 : count + 1], model.conv[1], convolved)
    add_dense(hidden, model.conv[2], convolved)
    for i in range(2):
        for o in range(size):
            state.conv[i, o] = extended[count + i, o]
    for f in range(count):
        gelu(convolved[f])
        for o in range(size):
            convolved[f, o] += hidden[f, o]
    gates = np.empty((count, 3 * size), np.float32)
    recurrent = np.empty((count, size), np.float32)
    dense(convolved, model.gates[:], model.gates_bias[:], gates)
    gru(gates, model.memory[:], model.memory_bias[:], _LEAK, state.memory[:], recurrent)
    for f in range(count):
        for o in range(size):
            both[f, o] = convolved[f, o]
            both[f, size + o] = recurrent[f, o]


@kernel
def _local_branch(model, frame, compressed, previous, out):
    """Run the convolutions over frequency for one frame; ``out`` [4, N] gets gains and values."""
    channels = model.local1_bias.size
    grid = np.zeros((2 * BLOCKS_PER_FRAME + 1, HOP_LENGTH + 2 * PAD), np.float32)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            grid[block, PAD + k] = compressed[block, k]
            grid[BLOCKS_PER_FRAME + block, PAD + k] = previous[block, k]
    depth = np.empty(NUM_BANDS, np.float32)
    for b in range(NUM_BANDS):
        depth[b] = np.float32(0.5) * (frame.log_step[b] - frame.envelope[b])
    last = grid[2 * BLOCKS_PER_FRAME]
    _interpolate(model, depth, last[PAD : PAD + HOP_LENGTH])
    hidden = np.zeros((channels, HOP_LENGTH + 2 * PAD), np.float32)
    middle = hidden[:, PAD : PAD + HOP_LENGTH]
    result = np.empty((channels, HOP_LENGTH), np.float32)
    convolve7(grid, model.local1, model.local1_bias, result)
    _gelu_into(result, middle)
    convolve7(hidden, model.local2, model.local2_bias, result)
    _gelu_into(result, middle)
    convolve3(hidden, model.local3, model.local3_bias, out)


@kernel
def _gelu_into(x, out):
    for c in range(x.shape[0]):
        gelu(x[c])
        for k in range(x.shape[1]):
            out[c, k] = x[c, k]


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
def _obey(model, frame, strength, out):
    """Pull each band's power, of both blocks, towards the envelope's.

    What the network says of ``strength`` [bands] is the share of the way that is gone: the power of
    the MDCT alone swings with the phase, so where much was coded it is better left as it is.
    """
    power = np.empty((BLOCKS_PER_FRAME, NUM_BANDS), np.float32)
    wanted = np.empty(NUM_BANDS, np.float32)
    share = np.empty(NUM_BANDS, np.float32)
    for block in range(BLOCKS_PER_FRAME):
        _band_power(out[block], power[block])
    for b in range(NUM_BANDS):
        wanted[b] = np.float32(2.0) * frame.envelope[b]
        share[b] = strength[b] + STRENGTH_OFFSET
    exp2(wanted, wanted)
    sigmoid(share)
    way = power[0]
    for b in range(NUM_BANDS):
        way[b] = np.float32(0.5) * (power[0, b] + power[1, b]) + POWER_DOUBT * wanted[b]
    log2(way, way)
    for b in range(NUM_BANDS):
        octaves = frame.envelope[b] - np.float32(0.5) * way[b]
        way[b] = share[b] * min(max(octaves, -MAX_PULL), MAX_PULL)
    gain = np.empty(HOP_LENGTH, np.float32)
    _interpolate(model, way, gain)
    exp2(gain, gain)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            out[block, k] *= gain[k]


@kernel
def _bound(frame, spectrum, out):
    """Hold each block's bands to HEADROOM over the envelope or the decoded coefficients.

    Whatever the network makes of a signal that it has never heard, it does not get loud.
    """
    known = np.empty(NUM_BANDS, np.float32)
    coded = np.empty(NUM_BANDS, np.float32)
    power = np.empty(NUM_BANDS, np.float32)
    for b in range(NUM_BANDS):
        known[b] = np.float32(2.0) * frame.envelope[b]
    exp2(known, known)
    for block in range(BLOCKS_PER_FRAME):
        _band_power(spectrum[block], coded)
        _band_power(out[block], power)
        for b in range(NUM_BANDS):
            allowed = HEADROOM * max(known[b], coded[b])
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
    _interpolate(model, frame.log_step, width)
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
    values : (outputs of the network [NUM_OUTPUTS], of the local branch [4, N], scale [N])
    spectrum : float32 [2, N]  dequantized
    out : float32 [2, N]       result
    """
    outputs, local, scale = values
    lost = frame.loss[0] > np.float32(0.5)
    near = np.empty(HOP_LENGTH, np.float32)
    signs = np.empty(HOP_LENGTH, np.float32)
    level = np.empty(NUM_BANDS, np.float32)
    amplitude = np.empty(HOP_LENGTH, np.float32)
    _near_coded(frame.uncoded, near)
    for block in range(BLOCKS_PER_FRAME):
        noise.fill(number * BLOCKS_PER_FRAME + block, signs)
        gain = outputs[block * HOP_LENGTH :]
        value = outputs[_SPLIT + block * HOP_LENGTH :]
        own = outputs[2 * _SPLIT + block * NUM_BANDS :]
        for b in range(NUM_BANDS):
            natural = np.float32(2.0) * own[b] + NOISE_OFFSET
            level[b] = min(max(natural, NOISE_MIN), NOISE_MAX) * LOG2_E
        exp2(level, level)
        _interpolate(model, level, amplitude)
        x, y = spectrum[block], out[block]
        for k in range(HOP_LENGTH):
            g = np.float32(1.0) + np.float32(0.5) * gain[k] + local[block, k]
            v = (value[k] + local[BLOCKS_PER_FRAME + block, k]) * near[k]
            # Nothing was coded in lost frames: with the noise's signs a value is no pattern.
            v = v * signs[k] if lost else v
            bare = np.float32(1.0) if lost else frame.uncoded[block, k]
            y[k] = x[k] * g + scale[k] * (v + amplitude[k] * signs[k] * bare)
    _obey(model, frame, outputs[2 * _SPLIT + BLOCKS_PER_FRAME * NUM_BANDS :], out)
    _bound(frame, spectrum, out)
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
    model, state : records
    parameters : PARAMETERS [P]
    spectrum : float32 [P, 2, N]       dequantized coefficients
    enhanced : float32 [P, 2, N]       result
    gains : float32 [P, 2, bands]      result: of the long-term postfilter, 0..1
    """
    count, size = spectrum.shape[0], model.conv_bias.size
    scale = np.empty((count, HOP_LENGTH), np.float32)
    inputs = np.empty((count, NUM_INPUTS), np.float32)
    pitch = np.empty((count, 2 * BLOCKS_PER_FRAME), np.float32)
    loss = np.empty((count, NUM_LOSS_FEATURES), np.float32)
    local = np.empty((count, 2 * BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    compressed = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    previous = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    for f in range(count):
        frame = parameters[f]
        _interpolate(model, frame.envelope, scale[f])
        exp2(scale[f], scale[f])
        for block in range(BLOCKS_PER_FRAME):
            _compress(spectrum[f, block], scale[f], compressed[block])
            _compress(state.spectrum[block], scale[f], previous[block])
        _features(state, frame, compressed, inputs[f])
        _pitch_features(frame, pitch[f])
        for i in range(NUM_LOSS_FEATURES):
            loss[f, i] = frame.loss[i]
        _local_branch(model, frame, compressed, previous, local[f])
        for block in range(BLOCKS_PER_FRAME):
            for k in range(HOP_LENGTH):
                state.spectrum[block, k] = spectrum[f, block, k]
    both = np.empty((count, 2 * size), np.float32)
    _hidden(model, state, inputs, pitch, loss, both)
    outputs = np.empty((count, NUM_OUTPUTS), np.float32)
    dense(both, model.outputs[:], model.outputs_bias[:], outputs)
    opening = np.empty((count, BLOCKS_PER_FRAME * NUM_LTPF_BANDS), np.float32)
    dense(both, model.ltpf[:], model.ltpf_bias[:], opening)
    for f in range(count):
        frame = parameters[f]
        if frame.loss[0] > np.float32(0.5):  # lost frames have an output layer of their own
            one, out = both[f : f + 1], outputs[f : f + 1]
            dense(one, model.lost_outputs[:], model.lost_outputs_bias[:], out)
        values = (outputs[f], local[f], scale[f])
        _combine(model, frame, state.frame, values, spectrum[f], enhanced[f])
        sigmoid(opening[f])
        for block in range(BLOCKS_PER_FRAME):
            for b in range(NUM_LTPF_BANDS):
                gains[f, block, b] = opening[f, block * NUM_LTPF_BANDS + b]
        _take_off(model, frame.periodicity, gains[f], enhanced[f])
        state.frame += 1
