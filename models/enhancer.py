"""Causal learned enhancer: dequantized coefficients in, enhanced spectrum out.

::

    coefficients of both blocks / envelope ─┐
    step / envelope per band ───────────────┤► dense ─► conv over 3 frames ─► GRU ─► dense ─┐
    envelope shape, level, rate ────────────┤                                               │
    periodicity, lag, losses ───────────────┘                                               │
    coefficients of 2 frames ─► conv over frequency (local branch) ─► gain, value ─────────(+)
              ┌── gain [2, N], value [2, N], noise level [2, bands], comb [2, 3] ◄──────────┘
              ▼
    y = coefficient * gain + envelope * (value + noise level * noise where the level was zero)
    y ─► band powers pulled to the envelope's, by a learned strength ─► bounded ─► quantization cell
    y / (1 + comb) ─► inverse MDCT ─► comb filter

It works on whole frames: block 0 may look at block 1, which the packet holds anyway, so the delay
stays at one frame plus the MDCT overlap. Everything is relative to the envelope, so the output
scales with the input. The recurrent memory leaks: what is long past fades from it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.config import (
    BLOCKS_PER_FRAME,
    DETAIL_EDGES,
    DETAIL_SIZE,
    HOP_LENGTH,
    NUM_BANDS,
    NUM_DETAIL_BANDS,
    NUM_LOSS_FEATURES,
    NUM_LTPF_BANDS,
    CodecConfig,
)
from codec.dsp.ltpf import band_response
from codec.enhancer import (
    HEADROOM,
    MAX_PULL,
    NOISE_MAX,
    NOISE_MIN,
    NOISE_OFFSET,
    PERIODIC_FROM,
    PERIODIC_RANGE,
    POWER_DOUBT,
    STRENGTH_OFFSET,
    VALUE_REACH,
)
from codec.enhancer_network import LAG_CENTRE, LEVEL_STEP, NUM_INPUTS, NUM_OUTPUTS
from models.dsp import (
    band_interpolation,
    band_matrix,
    band_of_coefficient,
)
from models.leaky_gru import LeakyGRU

# Of the inputs: what brings them to about ±1.
SHAPE_SCALE, STEP_SCALE, LEVEL_SCALE, SIZE_CENTRE = 0.25, 0.5, 0.25, 8.0
DETAIL_SCALE = 0.5
SPLIT = BLOCKS_PER_FRAME * HOP_LENGTH  # outputs: gains, values, levels of the noise, strengths
LEVELS = BLOCKS_PER_FRAME * NUM_BANDS


class DecodedFrames(NamedTuple):
    """What the decoder has of each frame, received or concealed.

    Attributes
    ----------
    coefficients : float Tensor, shape [B, F, 2, N]     dequantized
    uncoded : float Tensor, shape [B, F, 2, N]          1 where noise goes: where levels are 0
    envelope, band_step : float Tensor, shape [B, F, bands]   octaves
    log_bits : float Tensor, shape [B, F]               log2 of the packet's bits, without
                                                        those of its detail
    long : bool Tensor, shape [B, F]                    one block of 2N was coded
    lag, periodicity : Tensors, shape [B, F, 2]         of the segments that the blocks complete
    detail : float Tensor, shape [B, F, 2, detail bands]   octaves over the envelope; 0: none sent
    loss : float Tensor, shape [B, F, NUM_LOSS_FEATURES]   None: no frame is lost
    """

    coefficients: Tensor
    uncoded: Tensor
    envelope: Tensor
    band_step: Tensor
    log_bits: Tensor
    long: Tensor
    lag: Tensor
    periodicity: Tensor
    detail: Tensor
    loss: Tensor | None = None

    def cut(self, begin: int | None, end: int | None) -> DecodedFrames:
        """Return some of the frames."""
        part = slice(begin, end)
        return DecodedFrames(
            self.coefficients[:, part],
            self.uncoded[:, part],
            self.envelope[:, part],
            self.band_step[:, part],
            self.log_bits[:, part],
            self.long[:, part],
            self.lag[:, part],
            self.periodicity[:, part],
            self.detail[:, part],
            None if self.loss is None else self.loss[:, part],
        )


class EnhancerState(NamedTuple):
    """What the frames of one call leave to the next.

    Attributes
    ----------
    level : float Tensor, shape [B, 1]               of the last frame, octaves; NaN: none yet
    conv : float Tensor, shape [B, 2, H]             last inputs of the convolution
    memory : float Tensor, shape [B, H]              of the recurrent layer
    coefficients : float Tensor, shape [B, 2, N]     of the last frame
    """

    level: Tensor
    conv: Tensor
    memory: Tensor
    coefficients: Tensor


def compress(x: Tensor) -> Tensor:
    """Return sign(x) ln(1 + |x|)."""
    return x.sign() * torch.log1p(x.abs())


def way_to(wanted: Tensor, power: Tensor) -> Tensor:
    """Return the octaves from bands of some power to the levels that are wanted, limited."""
    level = 0.5 * torch.log2(power + float(POWER_DOUBT) * torch.exp2(2.0 * wanted))
    return (wanted - level).clamp(-float(MAX_PULL), float(MAX_PULL))


class Enhancer(nn.Module):
    """Turn dequantized coefficients into the spectrum that is inverse-transformed.

    Parameters
    ----------
    config : CodecConfig

    Notes
    -----
    The noise level is set per band, not per coefficient: with one level per coefficient the network
    learns to please PESQ with noise in a few of each Bark band, which is heard (and seen) as
    stripes. For a like reason ``value`` is confined to the neighbourhood of what was coded: where
    nothing was, it could only be the same pattern in every frame, which pleases spectral measures,
    and is heard as a 50 Hz buzz.
    """

    interpolation: Tensor
    bands: Tensor
    band_of: Tensor
    comb_response: Tensor
    detail_bands: Tensor
    detail_interpolation: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.register_buffer("interpolation", band_interpolation(), persistent=False)
        self.register_buffer("bands", band_matrix(), persistent=False)
        self.register_buffer("band_of", band_of_coefficient(), persistent=False)
        self.register_buffer("detail_bands", band_matrix(DETAIL_EDGES), persistent=False)
        self.register_buffer(
            "detail_interpolation", band_interpolation(DETAIL_EDGES), persistent=False
        )
        self.register_buffer("comb_response", torch.from_numpy(band_response()), persistent=False)
        hidden, channels, blocks = config.enhancer_hidden, config.local_channels, BLOCKS_PER_FRAME
        self.hidden = hidden
        self.inputs = nn.Linear(NUM_INPUTS, hidden)
        self.conv = nn.Conv1d(hidden, hidden, 3)
        self.gru = LeakyGRU(hidden)
        self.outputs = nn.Linear(2 * hidden, NUM_OUTPUTS)
        with torch.no_grad():
            self.outputs.weight.mul_(0.1)
            self.outputs.bias.zero_()
        self.pitch_inputs = nn.Linear(2 * blocks, hidden, bias=False)
        self.comb_outputs = nn.Linear(2 * hidden, blocks * NUM_LTPF_BANDS)
        # Lost frames have an output layer of their own; what is learned of losses leaves a file
        # without them as it is.
        self.loss_inputs = nn.Linear(NUM_LOSS_FEATURES, hidden, bias=False)
        nn.init.zeros_(self.loss_inputs.weight)
        self.lost_outputs = nn.Linear(2 * hidden, NUM_OUTPUTS)
        self.lost_outputs.load_state_dict(self.outputs.state_dict())
        # Detail of the envelope, and how far the spectrum is pulled to it.
        self.detail_inputs = nn.Linear(DETAIL_SIZE, hidden, bias=False)
        self.detail_outputs = nn.Linear(2 * hidden, NUM_DETAIL_BANDS)
        for layer in (self.detail_inputs, self.detail_outputs):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.detail_outputs.bias)
        nn.init.zeros_(self.pitch_inputs.weight)
        nn.init.zeros_(self.comb_outputs.weight)
        nn.init.constant_(self.comb_outputs.bias, -2.0)
        # Per coefficient: both blocks of this frame and of the last one, and step over envelope.
        self.local = nn.Sequential(
            nn.Conv1d(2 * blocks + 1, channels, 7, padding=3),
            nn.GELU(),
            nn.Conv1d(channels, channels, 7, padding=3),
            nn.GELU(),
        )
        self.local_outputs = nn.Conv1d(channels, 2 * blocks, 3, padding=1)
        nn.init.zeros_(self.local_outputs.weight)
        if self.local_outputs.bias is not None:
            nn.init.zeros_(self.local_outputs.bias)

    def new_state(self, batch: int = 1, device: torch.device | str = "cpu") -> EnhancerState:
        """Return the state before the first frame."""
        return EnhancerState(
            torch.full((batch, 1), torch.nan, device=device),
            torch.zeros(batch, 2, self.hidden, device=device),
            torch.zeros(batch, self.hidden, device=device),
            torch.zeros(batch, BLOCKS_PER_FRAME, HOP_LENGTH, device=device),
        )

    def forward(
        self, frames: DecodedFrames, noise: Tensor, state: EnhancerState | None = None
    ) -> tuple[Tensor, Tensor, EnhancerState]:
        """Return the enhanced spectrum, the comb filter's gains and the state for what follows.

        Parameters
        ----------
        frames : DecodedFrames
        noise : float Tensor, shape [B, F, 2, N]   of ``models.dsp.random_noise``
        state : EnhancerState, None at the start

        Returns
        -------
        spectrum : shape [B, F, 2, N]
        comb : shape [B, F, 2, comb bands]   gains 0..1 for ``models.dsp.comb_filter``
        state : as the argument
        """
        coefficients, loss = frames.coefficients, frames.loss
        if state is None:
            state = self.new_state(len(coefficients), coefficients.device)
        scale = torch.exp2(frames.envelope @ self.interpolation.T)[:, :, None]  # [B, F, 1, N]
        features, level = self._features(frames, coefficients / scale, state)
        hidden, conv, memory = self._remember(features, state)
        out = self.outputs(hidden)
        # In training all parameters have a gradient, whether a frame is lost or not.
        if loss is not None and (self.training or (loss[..., 0] > 0.5).any()):
            out = torch.where(loss[..., :1] > 0.5, self.lost_outputs(hidden), out)
        local = self._local(frames, scale, state)
        shape = coefficients.shape
        gain = 1.0 + 0.5 * out[..., :SPLIT].view(shape) + local[:, :, 0]
        value = self._confine(out[..., SPLIT : 2 * SPLIT].view(shape) + local[:, :, 1], frames)
        noise_level = out[..., 2 * SPLIT : 2 * SPLIT + LEVELS]
        noise_level = noise_level.unflatten(-1, (BLOCKS_PER_FRAME, NUM_BANDS))
        noise_level = 2.0 * noise_level + float(NOISE_OFFSET)
        amplitude = noise_level.clamp(float(NOISE_MIN), float(NOISE_MAX)).exp()
        amplitude = amplitude @ self.interpolation.T
        uncoded = frames.uncoded
        if loss is not None:
            lost = loss[..., :1, None] > 0.5  # [B, F, 1, 1]
            # By itself the value would be the same in all lost frames, and was learned to be a
            # click. Times the noise it is not.
            value = torch.where(lost, value * noise, value)
            uncoded = torch.where(lost, 1.0, uncoded)
        scale = scale * torch.exp2(frames.detail @ self.detail_interpolation.T)  # [B, F, 2, N]
        spectrum = coefficients * gain + scale * (value + amplitude * noise * uncoded)
        strength = torch.sigmoid(out[..., 2 * SPLIT + LEVELS :] + float(STRENGTH_OFFSET))
        spectrum = self._obey(spectrum, frames.envelope, strength)
        strength = torch.sigmoid(self.detail_outputs(hidden) + float(STRENGTH_OFFSET))
        spectrum = self._follow(spectrum, frames, strength)
        spectrum = self._bound(spectrum, frames, scale)
        spectrum = self._stay_in_cell(spectrum, frames)
        comb = torch.sigmoid(self.comb_outputs(hidden)).unflatten(-1, (BLOCKS_PER_FRAME, -1))
        voiced = (frames.periodicity - float(PERIODIC_FROM)) / float(PERIODIC_RANGE)
        comb = comb * voiced.clamp(0.0, 1.0)[..., None]
        spectrum = spectrum / (1.0 + comb @ self.comb_response)
        return spectrum, comb, EnhancerState(level, conv, memory, coefficients[:, -1])

    def _features(
        self, frames: DecodedFrames, relative: Tensor, state: EnhancerState
    ) -> tuple[Tensor, Tensor]:
        """Return the first layer's output [B, F, H] and the level of the last frame [B, 1]."""
        envelope = frames.envelope
        mean = envelope.mean(-1, keepdim=True)
        last = torch.where(state.level.isnan(), mean[:, 0], state.level)
        change = mean - torch.cat([last[:, None], mean[:, :-1]], 1)
        features = torch.cat(
            [
                compress(relative).flatten(2),
                SHAPE_SCALE * (envelope - mean),
                STEP_SCALE * (frames.band_step - envelope),
                frames.long[..., None].to(envelope),
                LEVEL_SCALE * change.clamp(-float(LEVEL_STEP), float(LEVEL_STEP)),
                frames.log_bits[..., None] - SIZE_CENTRE,
            ],
            dim=-1,
        )
        octaves = torch.log2(frames.lag.to(envelope) / LAG_CENTRE)
        pitch = torch.cat([frames.periodicity, frames.periodicity * octaves], -1)
        hidden = self.inputs(features) + self.pitch_inputs(pitch)
        hidden = hidden + self.detail_inputs(DETAIL_SCALE * frames.detail.flatten(2))
        if frames.loss is not None:
            hidden = hidden + self.loss_inputs(frames.loss)
        return nn.functional.gelu(hidden), mean[:, -1]

    def _remember(self, hidden: Tensor, state: EnhancerState) -> tuple[Tensor, Tensor, Tensor]:
        """Return what convolution and recurrent layer make of [B, F, H], [B, F, 2H], and states."""
        extended = torch.cat([state.conv, hidden], 1)
        # The convolution as one matrix product: four times as fast on short stretches.
        stretches = extended.unfold(1, self.conv.kernel_size[0], 1).flatten(2)
        weight = self.conv.weight.flatten(1)
        convolved = nn.functional.linear(stretches, weight, self.conv.bias)
        hidden = hidden + nn.functional.gelu(convolved)
        recurrent, memory = self.gru(hidden, state.memory)
        return torch.cat([hidden, recurrent], -1), extended[:, -2:], memory

    def _local(self, frames: DecodedFrames, scale: Tensor, state: EnhancerState) -> Tensor:
        """Return what the convolutions over frequency add, [B, F, (gain, value), 2, N]."""
        coefficients = frames.coefficients
        previous = torch.cat([state.coefficients[:, None], coefficients[:, :-1]], 1)
        ratio = STEP_SCALE * ((frames.band_step - frames.envelope) @ self.interpolation.T)
        grid = torch.cat(
            [compress(coefficients / scale), compress(previous / scale), ratio[:, :, None]], 2
        )
        local = self.local_outputs(self.local(grid.flatten(0, 1)))  # [B * F, 4, N]
        batch, count = coefficients.shape[:2]
        return local.view(batch, count, 2, BLOCKS_PER_FRAME, HOP_LENGTH)

    def _confine(self, value: Tensor, frames: DecodedFrames) -> Tensor:
        """Return values [B, F, 2, N] near coded coefficients only."""
        coded = (frames.uncoded < 0.5).any(2).to(value).flatten(0, 1)[:, None]  # [B * F, 1, N]
        near = nn.functional.max_pool1d(coded, 2 * VALUE_REACH + 1, 1, VALUE_REACH)
        return value * near.view(*value.shape[:2], 1, HOP_LENGTH)

    def _obey(self, spectrum: Tensor, envelope: Tensor, strength: Tensor) -> Tensor:
        """Pull each band's power, of both blocks, towards the envelope's.

        ``strength`` [B, F, bands] is the share of the way that is gone: the power of the MDCT alone
        swings with the phase, so where much was coded it is better left as it is.
        """
        power = (spectrum.square() @ self.bands.T).mean(2)
        gain = torch.exp2((strength * way_to(envelope, power)) @ self.interpolation.T)
        return spectrum * gain[:, :, None]

    def _follow(self, spectrum: Tensor, frames: DecodedFrames, strength: Tensor) -> Tensor:
        """Pull the power of each block's detail bands towards what was sent of it.

        ``strength`` [B, F, detail bands] is the share of the way that is gone.
        """
        smooth = (frames.envelope @ self.interpolation.T)[:, :, None]
        wanted = smooth @ self.detail_bands.T + frames.detail
        way = strength[:, :, None] * way_to(wanted, spectrum.square() @ self.detail_bands.T)
        sent = (frames.detail != 0).flatten(2).any(-1)[..., None, None]
        way = torch.where(sent, way, 0.0)
        return spectrum * torch.exp2(way @ self.detail_interpolation.T)

    def _bound(self, spectrum: Tensor, frames: DecodedFrames, scale: Tensor) -> Tensor:
        """Hold each block's bands to HEADROOM over envelope, detail or decoded coefficients.

        Whatever the network makes of a signal that it has never heard, it does not get loud.
        ``scale`` [B, F, 2, N] is the envelope with its detail.
        """
        known = torch.exp2(2.0 * frames.envelope)[:, :, None]
        known = torch.maximum(known, scale.square() @ self.bands.T)
        known = torch.maximum(known, frames.coefficients.square() @ self.bands.T)
        power = spectrum.square() @ self.bands.T
        gain = (float(HEADROOM) * known / power.clamp_min(1e-30)).clamp_max(1.0).sqrt()
        return spectrum * gain[..., self.band_of]

    def _stay_in_cell(self, spectrum: Tensor, frames: DecodedFrames) -> Tensor:
        """Keep received coefficients within one step of what was decoded.

        The original lies there: what was coded finely is left as it is.
        """
        width = torch.exp2(frames.band_step @ self.interpolation.T)[:, :, None]
        low, high = frames.coefficients - width, frames.coefficients + width
        inside = torch.minimum(torch.maximum(spectrum, low), high)
        if frames.loss is None:
            return inside
        return torch.where(frames.loss[..., :1, None] > 0.5, spectrum, inside)
