"""Causal learned enhancer: dequantized bins in, enhanced spectrum out (the decoder's float side).

::

    bins of both blocks / envelope ─┐
    step / envelope per band ───────┤► linear ─► causal conv (3 packets) ─► GRU ─► linear ─┐
    envelope shape, level, rate ────┘                                                      │
    periodicity, lag ───────────────┘                                                      │
    bins of 2 packets ─► conv over frequency (local branch) ─► gain, value ──────────────(+)
              ┌── gain [2, N], value [2, N], noise level [2, bands], comb [2, 3] ◄─────────┘
              ▼
    y = bins * gain + envelope * (value + noise level * noise where the bin was zero)
    y / (1 + comb) ─► inverse MDCT ─► comb filter

It works on whole packets: block 0 may look at block 1, which the packet holds anyway, so the
algorithmic delay stays at one packet plus the MDCT overlap. Everything is relative to the
envelope, so the output scales with the input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.config import NUM_LOSS_FEATURES, NUM_LTPF_BANDS, CodecConfig
from codec.dsp.ltpf import band_response
from models.dsp import band_interpolation

# A bin may get a predicted value if one within this many bins of it was coded.
VALUE_REACH = 4
# Packets that the recurrent layer looks back at after a restart. It is trained on 2 s, its memory
# drifts in longer runs: at 8 kbit/s that costs 0.1 PESQ. So no memory gets old (codec/decoder.py).
WARM_UP = 20
# Octaves: quieter packets than this look like it to the enhancer, whose training had hardly any. In
# the digital silence between words of synthetic speech it lost its bearings for a second
# (PESQ 1.5 instead of 3.2 at 13.2 kbit/s).
LEVEL_FLOOR = -11.0
# Packets that suffer from losses: by how much their energy, over so many bins, may exceed what is
# known of it (1.5 dB).
LOSS_HEADROOM, LIMIT_BINS = 1.4, 9
# The comb filter is shut where the correlation at the lag is below the first value.
PERIODIC_FROM, PERIODIC_RANGE = 0.3, 0.5


class EnhancerState(NamedTuple):
    """What the packets of one call leave to the next.

    Attributes
    ----------
    level : float Tensor, shape [B, 1]            mean envelope of the last packet; NaN: none yet
    conv : float Tensor, shape [B, 2, H]          input of the convolution
    gru : float Tensor, shape [1, B, H]           memory of the recurrent layer
    before : float Tensor, shape [B, <= WARM_UP, H]   its last inputs
    bins : float Tensor, shape [B, 2, N]          of the last packet
    """

    level: Tensor
    conv: Tensor
    gru: Tensor
    before: Tensor
    bins: Tensor


class Enhancer(nn.Module):
    """Turn dequantized bins into the spectrum that is inverse-transformed.

    Parameters
    ----------
    config : CodecConfig

    Notes
    -----
    The noise level is set per band, not per bin: with one level per bin the network learns to
    please PESQ with noise in a few bins of each Bark band, which is heard (and seen) as stripes.
    For a like reason ``value`` is confined to the neighbourhood of coded bins.
    """

    interpolation: Tensor
    comb_response: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("interpolation", band_interpolation(), persistent=False)
        self.register_buffer("comb_response", torch.from_numpy(band_response()), persistent=False)
        hidden, bins, bands = config.enhancer_hidden, config.hop_length, config.num_bands
        blocks = config.blocks_per_packet
        self.inputs = nn.Linear(blocks * bins + 2 * bands + 3, hidden)
        self.conv = nn.Conv1d(hidden, hidden, 3)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.outputs = nn.Linear(2 * hidden, blocks * (2 * bins + bands))
        with torch.no_grad():
            self.outputs.weight.mul_(0.1)
            self.outputs.bias.zero_()
        self.pitch_inputs = nn.Linear(2 * blocks, hidden, bias=False)
        self.comb_outputs = nn.Linear(2 * hidden, blocks * NUM_LTPF_BANDS)
        # Packets that are lost have an output layer of their own; what is learned of losses leaves
        # a file without them as it is.
        self.loss_inputs = nn.Linear(NUM_LOSS_FEATURES, hidden, bias=False)
        nn.init.zeros_(self.loss_inputs.weight)
        self.lost_outputs = nn.Linear(2 * hidden, blocks * (2 * bins + bands))
        self.lost_outputs.load_state_dict(self.outputs.state_dict())
        nn.init.zeros_(self.pitch_inputs.weight)
        nn.init.zeros_(self.comb_outputs.weight)
        nn.init.constant_(self.comb_outputs.bias, -2.0)
        channels = config.local_channels
        # Per bin: both blocks of this packet and of the last one, and the step over the envelope.
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
        """Return the state before the first packet."""
        config = self.config
        hidden = config.enhancer_hidden
        return EnhancerState(
            torch.full((batch, 1), torch.nan, device=device),
            torch.zeros(batch, 2, hidden, device=device),
            torch.zeros(1, batch, hidden, device=device),
            torch.zeros(batch, 0, hidden, device=device),
            torch.zeros(batch, config.blocks_per_packet, config.hop_length, device=device),
        )

    def restart(self, state: EnhancerState) -> EnhancerState:
        """Return the state with a fresh memory that has seen the last WARM_UP packets only."""
        return state._replace(gru=self.gru(state.before)[1])

    def _limit(self, spectrum: Tensor, bins: Tensor, scale: Tensor, loss: Tensor) -> Tensor:
        """Hold lost packets, and those after them, to the level that is known of them.

        A gap can leave the memory where it was never trained, and the first packet after it would
        be a click. The energy in a stretch of a few bins may exceed that of the envelope or of the
        decoded bins, whichever is more, by LOSS_HEADROOM.
        """

        def energy(x: Tensor) -> Tensor:  # in double: hostile files have magnitudes of 1e26
            squared = x.double().square().flatten(0, 1)
            return torch.nn.functional.avg_pool1d(
                squared, LIMIT_BINS, 1, LIMIT_BINS // 2, count_include_pad=False
            ).view(x.shape)

        allowed = LOSS_HEADROOM * torch.maximum(energy(scale.expand_as(bins)), energy(bins))
        gain = (allowed / energy(spectrum).clamp_min(1e-30)).clamp_max(1.0).sqrt()
        affected = (loss != 0).any(-1)[..., None, None]
        return torch.where(affected, spectrum * gain.to(spectrum), spectrum)

    def forward(
        self,
        bins: Tensor,
        envelope: Tensor,
        log_step: Tensor,
        log_bits: Tensor,
        noise: Tensor,
        lag: Tensor,
        periodicity: Tensor,
        state: EnhancerState | None = None,
        uncoded: Tensor | None = None,
        loss: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, EnhancerState]:
        """Return the enhanced spectrum, the comb filter's gains and the state for what follows.

        Parameters
        ----------
        bins : float Tensor, shape [B, P, 2, N]       dequantized MDCT bins
        envelope : float Tensor, shape [B, P, bands]  decoded envelope, octaves
        log_step : float Tensor, shape [B, P, bands]  quantizer step, octaves
        log_bits : float Tensor, shape [B, P]         log2 of the packet's bits
        noise : float Tensor, shape [B, P, 2, N]      noise, random signs
        lag, periodicity : Tensors, shape [B, P, 2]   of the segments that each block completes
        state : EnhancerState, None at the start
        uncoded : float Tensor, shape [B, P, 2, N]    1 where noise goes; None: where bins are 0
        loss : float Tensor, shape [B, P, NUM_LOSS_FEATURES]   of ``models.plc``; None: no
                loss; noise goes into all bins of lost packets

        Returns
        -------
        spectrum : shape [B, P, 2, N]
        comb : shape [B, P, 2, comb bands]   gains 0..1 for ``models.dsp.comb_filter``
        state : as the argument
        """
        config = self.config
        batch, packets = bins.shape[:2]
        blocks, num_bins = config.blocks_per_packet, config.hop_length
        fine = (envelope @ self.interpolation.T)[:, :, None]  # [B, P, 1, N]
        scale = torch.exp2(fine)
        mean = envelope.mean(-1, keepdim=True)
        heard = mean.clamp_min(LEVEL_FLOOR)
        if state is None:
            state = self.new_state(batch, bins.device)
        last_level = torch.where(state.level.isnan(), heard[:, 0], state.level)

        relative = bins / scale
        compressed = relative.sign() * torch.log1p(relative.abs())
        change = heard - torch.cat([last_level[:, None], heard[:, :-1]], 1)
        features = torch.cat(
            [
                compressed.flatten(2),
                0.25 * (envelope - mean),
                0.5 * (log_step - envelope),
                0.25 * (heard + 8.0),
                0.25 * change,
                log_bits[..., None] - 8.0,
            ],
            dim=-1,
        )
        pitch = torch.cat([periodicity, periodicity * torch.log2(lag.to(bins) / 100.0)], -1)
        hidden = self.inputs(features) + self.pitch_inputs(pitch)
        if loss is not None:
            hidden = hidden + self.loss_inputs(loss)
        hidden = torch.nn.functional.gelu(hidden)  # [B, P, H]
        extended = torch.cat([state.conv, hidden], 1)
        # The convolution as one matrix product: four times as fast on short stretches.
        width = self.conv.kernel_size[0]
        stretches = extended.unfold(1, width, 1).flatten(2)  # [B, P, H * width]
        convolved = torch.nn.functional.linear(
            stretches, self.conv.weight.flatten(1), self.conv.bias
        )
        hidden = hidden + torch.nn.functional.gelu(convolved)
        before = torch.cat([state.before, hidden], 1)[:, -WARM_UP:]
        recurrent, memory = self.gru(hidden, state.gru)
        hidden = torch.cat([hidden, recurrent], -1)
        out = self.outputs(hidden)
        if loss is not None:
            lost = loss[..., :1] > 0.5  # [B, P, 1]
            if self.training or lost.any():  # in training: every parameter has a gradient
                out = torch.where(lost, self.lost_outputs(hidden), out)

        split = blocks * num_bins
        gain = 1.0 + 0.5 * out[..., :split].view(batch, packets, blocks, num_bins)
        value = out[..., split : 2 * split].view(batch, packets, blocks, num_bins)
        level = out[..., 2 * split :].view(batch, packets, blocks, config.num_bands)
        amplitude = torch.exp((2.0 * level - 0.7).clamp(-8.0, 2.0)) @ self.interpolation.T

        previous = torch.cat([state.bins[:, None], bins[:, :-1]], 1) / scale
        previous = previous.sign() * torch.log1p(previous.abs())
        ratio = 0.5 * ((log_step - envelope) @ self.interpolation.T)[:, :, None]
        grid = torch.cat([compressed, previous, ratio], 2).flatten(0, 1)  # [B*P, 5, N]
        local = self.local_outputs(self.local(grid)).view(batch, packets, 2, blocks, num_bins)
        gain = gain + local[:, :, 0]
        value = value + local[:, :, 1]
        # Values only near coded bins. Where nothing was coded they could only be the same pattern
        # in every packet, which pleases spectral measures, and is heard as a 50 Hz buzz.
        coded = (bins != 0).any(2).to(bins).flatten(0, 1)[:, None]  # [B*P, 1, N]
        near = torch.nn.functional.max_pool1d(coded, 2 * VALUE_REACH + 1, 1, VALUE_REACH)
        value = value * near.view(batch, packets, 1, num_bins)
        if loss is not None:
            # Nothing was coded in lost packets, either: with signs of its own the value would be
            # the same in all of them, and was learned to be a click. With the noise's it is not.
            value = torch.where(lost[..., None], value * noise, value)
        if uncoded is None:
            uncoded = (bins == 0).to(bins)
        if loss is not None:
            uncoded = torch.where(lost[..., None], 1.0, uncoded)
        spectrum = bins * gain + scale * (value + amplitude * noise * uncoded)
        if loss is not None and not self.training:
            spectrum = self._limit(spectrum, bins, scale, loss)
        comb = torch.sigmoid(self.comb_outputs(hidden)).view(batch, packets, blocks, -1)
        comb = comb * ((periodicity - PERIODIC_FROM) / PERIODIC_RANGE).clamp(0.0, 1.0)[..., None]
        spectrum = spectrum / (1.0 + comb @ self.comb_response)
        return (
            spectrum,
            comb,
            EnhancerState(heard[:, -1], extended[:, -2:], memory, before, bins[:, -1]),
        )
