"""Network of the enhancer: what it sees of some frames, its layers, and what they say.

::

    coefficients of both blocks / envelope ─┐
    step / envelope per band ───────────────┤► dense ─► conv over 3 frames ─► GRU ─┬─► outputs
    envelope shape, block length, rate ─────┤                                      └─► LTPF
    periodicity, lag, detail, losses ───────┘
    coefficients of 2 frames ─► convolutions over frequency (local branch) ─► gain, value

Everything is relative to the envelope, so the output does not depend on the level. The recurrent
memory leaks (``GRU_LEAK``): what is long past fades from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_EDGES,
    DETAIL_SIZE,
    GRU_LEAK,
    HOP_LENGTH,
    NUM_BANDS,
    NUM_DETAIL_BANDS,
    NUM_LOSS_FEATURES,
    NUM_LTPF_BANDS,
    CodecConfig,
)
from codec.dsp import bands
from codec.dsp.fixed import exp2, gelu, log2
from codec.dsp.layers import (
    ACTIVATION_ONE,
    MEMORY_ONE,
    apply,
    fill_layer,
    gru,
    layer_dtype,
    to_integers,
)
from codec.dsp.ltpf import band_response
from codec.jit import kernel
from codec.records import record

# Octaves by which the level may change from frame to frame, as far as the network is told.
LEVEL_STEP = np.float32(6.0)
LAG_CENTRE = 100.0  # samples
LN_2 = np.float32(0.6931471806)
PAD = 3  # zeros beside the spectrum, as the convolutions over frequency want them

GRID = 2 * BLOCKS_PER_FRAME + 2  # numbers at each frequency of the local branch, one of them spare
NUM_LOCAL = 2 * BLOCKS_PER_FRAME  # what it says: gain and value of each block
NUM_INPUTS = BLOCKS_PER_FRAME * HOP_LENGTH + 2 * NUM_BANDS + 3
ALL_INPUTS = NUM_INPUTS + 2 * BLOCKS_PER_FRAME + DETAIL_SIZE + NUM_LOSS_FEATURES  # pitch, losses
# Gains, values and noise levels of each block; strengths.
NUM_OUTPUTS = BLOCKS_PER_FRAME * (2 * HOP_LENGTH + NUM_BANDS) + NUM_BANDS
# With the postfilter's opening, and the detail's strengths.
ALL_OUTPUTS = NUM_OUTPUTS + BLOCKS_PER_FRAME * NUM_LTPF_BANDS + NUM_DETAIL_BANDS
_LEAK = np.float32(GRU_LEAK)
_SPLIT = BLOCKS_PER_FRAME * HOP_LENGTH

# What the enhancer knows of a frame beside its spectrum.
PARAMETERS = record(
    envelope=(np.float32, NUM_BANDS),  # octaves
    log_step=(np.float32, NUM_BANDS),  # octaves
    log_bits=np.float32,  # log2 of the packet's bits without those of its detail
    long=np.float32,  # 1: one block of 2N was coded
    uncoded=(np.float32, (BLOCKS_PER_FRAME, HOP_LENGTH)),  # 1 where nothing was coded
    lag=(np.int64, BLOCKS_PER_FRAME),  # samples, of the segment that each block completes
    periodicity=(np.float32, BLOCKS_PER_FRAME),  # 0..1
    detail=(np.float32, (BLOCKS_PER_FRAME, NUM_DETAIL_BANDS)),  # octaves, sent or predicted
    loss=(np.float32, NUM_LOSS_FEATURES),  # lost; length of the gap; time since
    silent=np.int64,  # 1: the lowest level and nothing coded, which is digital silence
)


def network_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of the network."""
    hidden, local = config.enhancer_hidden, config.local_channels
    return record(
        interpolation=(np.float32, (HOP_LENGTH, 2)),  # band below and weight of the band above
        detail=(np.float32, (HOP_LENGTH, 2)),  # the same, of the detail's bands
        ltpf_response=(np.float32, (NUM_LTPF_BANDS, HOP_LENGTH)),
        inputs=layer_dtype(ALL_INPUTS, hidden),
        conv=layer_dtype(3 * hidden, hidden),
        gates=layer_dtype(hidden, 3 * hidden),
        memory=layer_dtype(hidden, 3 * hidden),
        outputs=layer_dtype(hidden, ALL_OUTPUTS),  # from what the convolution says,
        memory_outputs=layer_dtype(hidden, ALL_OUTPUTS),  # and from the memory
        lost_outputs=layer_dtype(hidden, ALL_OUTPUTS),  # of lost frames
        lost_memory_outputs=layer_dtype(hidden, ALL_OUTPUTS),
        local1=layer_dtype(7 * GRID, local),
        local2=layer_dtype(7 * local, local),
        local3=layer_dtype(3 * local, NUM_LOCAL),
    )


def state_dtype(config: CodecConfig) -> np.dtype[Any]:
    """Return the record type of what one frame leaves to the next."""
    hidden = config.enhancer_hidden
    return record(
        frame=np.int64,  # number of the next one, for its noise
        started=np.int64,  # 0 before the first frame
        level=np.float32,  # of the last frame, octaves
        conv=(np.int16, 2 * hidden),  # inputs of the convolution
        memory=(np.float32, hidden),  # of the recurrent layer
        spectrum=(np.float32, (BLOCKS_PER_FRAME, HOP_LENGTH)),  # coefficients of the last frame
    )


def fill_model(
    model: Any, parameters: dict[str, np.ndarray], interpolation: np.ndarray, config: CodecConfig
) -> None:
    """Fill a record of :func:`network_dtype` with the parameters of stage ``enhancer``.

    ``interpolation`` is the field of the allocation: (band, Q8 weight of the band above).
    """

    def of(name: str) -> np.ndarray:
        return parameters[f"enhancer.{name}"].astype(np.float32)

    def weights(*names: str) -> np.ndarray:  # [outputs, inputs] of layers that stand together
        return np.concatenate([of(f"{name}.weight") for name in names]).T

    def bias(*names: str) -> np.ndarray:
        return np.concatenate([of(f"{name}.bias") for name in names])

    def over_frequency(name: str) -> np.ndarray:  # [outputs, channels, taps]: channels side by side
        taps = of(f"{name}.weight").transpose(2, 1, 0)
        spare = taps.shape[1] % 2
        return np.pad(taps, ((0, 0), (0, spare), (0, 0))).reshape(-1, taps.shape[2])

    hidden = config.enhancer_hidden
    model["interpolation"] = interpolation * np.array([1.0, 1 / 256])
    model["ltpf_response"] = band_response()
    model["detail"] = bands.interpolation(DETAIL_EDGES)
    names = ("inputs", "pitch_inputs", "detail_inputs", "loss_inputs")
    first = np.concatenate([of(f"{name}.weight") for name in names], 1).T
    last = ("comb_outputs", "detail_outputs")
    both, lost = weights("outputs", *last), weights("lost_outputs", *last)
    nothing = np.zeros(ALL_OUTPUTS, np.float32)
    conv = of("conv.weight").transpose(2, 1, 0).reshape(-1, hidden)
    for name, one, matrix, offset in (
        ("inputs", ACTIVATION_ONE, first, bias("inputs")),
        ("conv", ACTIVATION_ONE, conv, bias("conv")),
        ("gates", ACTIVATION_ONE, of("gru.weight_ih_l0").T, of("gru.bias_ih_l0")),
        ("memory", MEMORY_ONE, of("gru.weight_hh_l0").T, of("gru.bias_hh_l0")),
        ("outputs", ACTIVATION_ONE, both[:hidden], bias("outputs", *last)),
        ("memory_outputs", MEMORY_ONE, both[hidden:], nothing),
        ("lost_outputs", ACTIVATION_ONE, lost[:hidden], bias("lost_outputs", *last)),
        ("lost_memory_outputs", MEMORY_ONE, lost[hidden:], nothing),
        ("local1", ACTIVATION_ONE, over_frequency("local.0"), bias("local.0")),
        ("local2", ACTIVATION_ONE, over_frequency("local.2"), bias("local.2")),
        ("local3", ACTIVATION_ONE, over_frequency("local_outputs"), bias("local_outputs")),
    ):
        fill_layer(model[name], matrix, offset, one)


@kernel
def _between(table, bands, out):
    """Interpolate values of bands as a table of ``bands.interpolation`` says."""
    for k in range(HOP_LENGTH):
        b = np.int64(table[k, 0])
        t = table[k, 1]
        out[k] = (np.float32(1.0) - t) * bands[b] + t * bands[b + 1]


@kernel
def interpolate(model, bands, out):
    """Interpolate band values linearly at each coefficient, [bands] -> [N]."""
    _between(model.interpolation, bands, out)


@kernel
def interpolate_detail(model, bands, out):
    """Interpolate values of detail bands linearly at each coefficient; 0 below them."""
    _between(model.detail, bands, out)
    for k in range(DETAIL_EDGES[0]):
        out[k] = np.float32(0.0)


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
    """Write the inputs of the first layer to ``out`` [ALL_INPUTS]; the state's level moves on."""
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
    _pitch_features(frame, rest[3:])
    rest = rest[3 + 2 * BLOCKS_PER_FRAME :]
    for block in range(BLOCKS_PER_FRAME):
        for j in range(NUM_DETAIL_BANDS):
            rest[block * NUM_DETAIL_BANDS + j] = np.float32(0.5) * frame.detail[block, j]
    for i in range(NUM_LOSS_FEATURES):
        rest[DETAIL_SIZE + i] = frame.loss[i]
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
def _hidden(model, state, inputs, now, remembered):
    """Run the layers that see several frames, up to the integer inputs of the last ones.

    Parameters
    ----------
    model, state : records
    inputs : int16 [frames * ALL_INPUTS]
    now, remembered : int16 [frames * H]   results: of the convolution and of the recurrent layer
    """
    size = state.memory.size
    extended = np.empty(2 * size + now.size, np.int16)  # two frames of the past come first
    hidden = np.empty(now.size, np.float32)
    convolved = np.empty(now.size, np.float32)
    gates = np.empty(3 * now.size, np.float32)
    for i in range(2 * size):
        extended[i] = state.conv[i]
    apply(model.inputs, inputs, 0, ALL_INPUTS, hidden)
    gelu(hidden)
    to_integers(hidden, ACTIVATION_ONE, extended[2 * size :])
    apply(model.conv, extended, 0, size, convolved)
    for i in range(2 * size):
        state.conv[i] = extended[now.size + i]
    gelu(convolved)
    for i in range(now.size):
        convolved[i] += hidden[i]
    to_integers(convolved, ACTIVATION_ONE, now)
    apply(model.gates, now, 0, size, gates)
    gru(gates, model.memory, _LEAK, state.memory[:], hidden)
    to_integers(hidden, MEMORY_ONE, remembered)


@kernel
def _local_branch(model, frame, compressed, previous, out):
    """Run the convolutions over frequency for one frame; ``out`` [4 N] gets gains and values."""
    channels = model.local1.scale.size
    depth = np.empty(NUM_BANDS, np.float32)
    for b in range(NUM_BANDS):
        depth[b] = np.float32(0.5) * (frame.log_step[b] - frame.envelope[b])
    smooth = np.empty(HOP_LENGTH, np.float32)
    interpolate(model, depth, smooth)
    grid = np.zeros(HOP_LENGTH * GRID, np.float32)
    for k in range(HOP_LENGTH):
        for block in range(BLOCKS_PER_FRAME):
            grid[k * GRID + block] = compressed[block, k]
            grid[k * GRID + BLOCKS_PER_FRAME + block] = previous[block, k]
        grid[k * GRID + 2 * BLOCKS_PER_FRAME] = smooth[k]
    x = np.zeros((HOP_LENGTH + 2 * PAD) * GRID, np.int16)
    y = np.zeros((HOP_LENGTH + 2 * PAD) * channels, np.int16)
    hidden = np.empty(HOP_LENGTH * channels, np.float32)
    to_integers(grid, ACTIVATION_ONE, x[PAD * GRID :])
    apply(model.local1, x, 0, GRID, hidden)
    gelu(hidden)
    to_integers(hidden, ACTIVATION_ONE, y[PAD * channels :])
    apply(model.local2, y, 0, channels, hidden)
    gelu(hidden)
    to_integers(hidden, ACTIVATION_ONE, y[PAD * channels :])
    apply(model.local3, y, (PAD - 1) * channels, channels, out)


@kernel
def _look(model, state, frame, spectrum, results):
    """Write what the network sees of a frame; the state's last spectrum and level move on.

    ``results`` are the envelope at each coefficient [N], the inputs of the first layer as int16
    [ALL_INPUTS], and the gains and values of the local branch [4 N], coefficient by coefficient.
    """
    scale, inputs, local = results
    compressed = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    previous = np.empty((BLOCKS_PER_FRAME, HOP_LENGTH), np.float32)
    features = np.empty(ALL_INPUTS, np.float32)
    interpolate(model, frame.envelope, scale)
    exp2(scale, scale)
    for block in range(BLOCKS_PER_FRAME):
        _compress(spectrum[block], scale, compressed[block])
        _compress(state.spectrum[block], scale, previous[block])
    _features(state, frame, compressed, features)
    to_integers(features, ACTIVATION_ONE, inputs)
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
    results : float32 arrays       outputs [P * ALL_OUTPUTS], of the local branch [P, 4 N], scale
                                   (the envelope at each coefficient) [P, N]
    """
    outputs, local, scale = results
    count, size = spectrum.shape[0], state.memory.size
    inputs = np.empty(count * ALL_INPUTS, np.int16)
    now, remembered = np.empty(count * size, np.int16), np.empty(count * size, np.int16)
    more = np.empty(count * ALL_OUTPUTS, np.float32)
    for f in range(count):
        own = inputs[f * ALL_INPUTS : (f + 1) * ALL_INPUTS]
        _look(model, state, parameters[f], spectrum[f], (scale[f], own, local[f]))
    _hidden(model, state, inputs, now, remembered)
    apply(model.outputs, now, 0, size, outputs)
    apply(model.memory_outputs, remembered, 0, size, more)
    for f in range(count):
        if parameters[f].loss[0] > np.float32(0.5):  # lost frames have an output layer of their own
            first, last = f * ALL_OUTPUTS, (f + 1) * ALL_OUTPUTS
            apply(model.lost_outputs, now, f * size, size, outputs[first:last])
            apply(model.lost_memory_outputs, remembered, f * size, size, more[first:last])
    for i in range(outputs.size):
        outputs[i] += more[i]
