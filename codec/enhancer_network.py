"""Network of the enhancer: what it sees of some frames, its layers, and what they say.

::

    coefficients of both blocks / envelope ─┐
    step / envelope per band ───────────────┤► dense ─► conv over 3 frames ─► GRU ─┬─► outputs
    envelope shape, block length, rate ─────┤                                      └─► LTPF
    periodicity, lag, losses ───────────────┘
    coefficients of 2 frames ─► convolutions over frequency (local branch) ─► gain, value

Everything is relative to the envelope, so the output does not depend on the level. The recurrent
memory leaks (``GRU_LEAK``): what is long past fades from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.config import (
    BLOCKS_PER_FRAME,
    GRU_LEAK,
    HOP_LENGTH,
    NUM_BANDS,
    NUM_LOSS_FEATURES,
    NUM_LTPF_BANDS,
    CodecConfig,
)
from codec.dsp.fixed import exp2, gelu, log2
from codec.dsp.layers import add_dense, convolve3, convolve7, dense, gru
from codec.dsp.ltpf import band_response
from codec.jit import kernel
from codec.records import new, record

# Octaves by which the level may change from frame to frame, as far as the network is told.
LEVEL_STEP = np.float32(6.0)
LAG_CENTRE = 100.0  # samples
LN_2 = np.float32(0.6931471806)
PAD = 3  # zeros beside the spectrum, as the convolutions over frequency want them

NUM_INPUTS = BLOCKS_PER_FRAME * HOP_LENGTH + 2 * NUM_BANDS + 3
NUM_OUTPUTS = BLOCKS_PER_FRAME * (2 * HOP_LENGTH + NUM_BANDS) + NUM_BANDS
_LEAK = np.float32(GRU_LEAK)
_SPLIT = BLOCKS_PER_FRAME * HOP_LENGTH

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


def network_dtype(config: CodecConfig) -> np.dtype[Any]:
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

    model = new(network_dtype(config))
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
def interpolate(model, bands, out):
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
    interpolate(model, depth, last[PAD : PAD + HOP_LENGTH])
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
def _look(model, state, frame, spectrum, results):
    """Write what the network sees of a frame; the state's last spectrum and level move on.

    ``results`` are the envelope at each coefficient [N], the inputs of the first layer [NUM_INPUTS]
    and of pitch [4], and the gains and values of the local branch [4, N].
    """
    scale, inputs, pitch, local = results
    compressed = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    previous = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    interpolate(model, frame.envelope, scale)
    exp2(scale, scale)
    for block in range(BLOCKS_PER_FRAME):
        _compress(spectrum[block], scale, compressed[block])
        _compress(state.spectrum[block], scale, previous[block])
    _features(state, frame, compressed, inputs)
    _pitch_features(frame, pitch)
    _local_branch(model, frame, compressed, previous, local)
    for block in range(BLOCKS_PER_FRAME):
        for k in range(HOP_LENGTH):
            state.spectrum[block, k] = spectrum[block, k]


@kernel
def run(model, state, parameters, spectrum, results):
    """Run the network on consecutive frames; the state moves on.

    Parameters
    ----------
    model, state : records
    parameters : PARAMETERS [P]
    spectrum : float32 [P, 2, N]   dequantized coefficients
    results : float32 arrays       outputs [P, NUM_OUTPUTS], of the local branch [P, 4, N], scale
                                   (the envelope at each coefficient) [P, N], opening of the
                                   postfilter before the logistic function [P, 2 * bands]
    """
    outputs, local, scale, opening = results
    count, size = spectrum.shape[0], model.conv_bias.size
    inputs = np.empty((count, NUM_INPUTS), np.float32)
    pitch = np.empty((count, 2 * BLOCKS_PER_FRAME), np.float32)
    loss = np.empty((count, NUM_LOSS_FEATURES), np.float32)
    for f in range(count):
        frame = parameters[f]
        _look(model, state, frame, spectrum[f], (scale[f], inputs[f], pitch[f], local[f]))
        for i in range(NUM_LOSS_FEATURES):
            loss[f, i] = frame.loss[i]
    both = np.empty((count, 2 * size), np.float32)
    _hidden(model, state, inputs, pitch, loss, both)
    dense(both, model.outputs[:], model.outputs_bias[:], outputs)
    dense(both, model.ltpf[:], model.ltpf_bias[:], opening)
    for f in range(count):
        if parameters[f].loss[0] > np.float32(0.5):  # lost frames have an output layer of their own
            one, out = both[f : f + 1], outputs[f : f + 1]
            dense(one, model.lost_outputs[:], model.lost_outputs_bias[:], out)
