"""Decoder: packets to integers, integers to a waveform.

The integers (envelope, step, bins) are complete before the first float is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from codec.concealment import Concealment
from codec.config import CodecConfig
from codec.mdct import inverse_mdct
from codec.noise import fill_noise
from codec.packet import NUM_BANDS, NUM_BINS, PacketCoder, Tables, read_packet
from codec.postfilter import (
    FRAME,
    HISTORY,
    MIN_LAG,
    NUM_COMB_BANDS,
    comb_filter,
    track_pitch,
)
from models.enhancer import Enhancer, EnhancerState

# Packets that are computed at once, see Synthesis.
UNIT_PACKETS = 10
# Every RUN_PACKETS the enhancer's memory starts afresh, warmed up on the 20 packets before; first
# at packet RUN_OFFSET. Between the ends of the file's groups, so that after a damaged group all is
# as it would have been no later than in the second half of the next one.
RUN_PACKETS, RUN_OFFSET = 50, 30


class DecodedIntegers(NamedTuple):
    """All integers of a file, exact on every machine.

    Attributes
    ----------
    envelope : int32 [P, bands]    Q8 octaves
    offset : int32 [P, bands]      step offsets, Q8
    step : int64 [P]               Q8
    bins : int32 [P, 2, N]
    packet_bits : int64 [P]
    received : bool [P]            False: lost, or coded in terms of a lost one; all else is 0 then
    """

    envelope: np.ndarray
    offset: np.ndarray
    step: np.ndarray
    bins: np.ndarray
    packet_bits: np.ndarray
    received: np.ndarray


@njit(cache=True)
def _decode_packets(
    tables, intra_tables, state, broken, data, sizes, intra, num_stages, num_intra_stages,
    stage_bits, resolution, envelope, offset, step, bins, received,
):  # fmt: skip
    """Decode consecutive packets; size 0 stands for a lost one. Returns the new ``broken``.

    After a loss, nothing can be decoded before the next packet that needs no other.
    """
    position = 0
    for p in range(sizes.shape[0]):
        if sizes[p] == 0:
            broken = True
        elif intra[p]:
            broken = False
        if not broken:
            step[p] = read_packet(
                intra_tables if intra[p] else tables, state, data, position, position + sizes[p],
                intra[p], num_intra_stages if intra[p] else num_stages, stage_bits, resolution,
                envelope[p], offset[p], bins[p],
            )  # fmt: skip
            received[p] = True
        position += sizes[p]
    return broken


class PacketDecoder(PacketCoder):
    """Decode packets to integers one after the other, as many at a time as there are.

    Attributes
    ----------
    broken : bool   a packet was lost, and none that needs no other has come since
    """

    broken = False

    def decode(
        self, packets: Sequence[bytes | None], intra: np.ndarray | None = None
    ) -> DecodedIntegers:
        """Run the range decoder over the next packets; integers only.

        Parameters
        ----------
        packets : list of bytes or None   None is a lost packet
        intra : bool array, shape [P]     packets that need no other; None: there are none
        """
        config, count = self.config, len(packets)
        # A copy, since the compiled functions want a writable array.
        data = np.frombuffer(b"".join(p or b"" for p in packets), np.uint8).copy()
        sizes = np.array([len(p or b"") for p in packets], np.int64)
        result = DecodedIntegers(
            np.zeros((count, NUM_BANDS), np.int32),
            np.zeros((count, NUM_BANDS), np.int32),
            np.zeros(count, np.int64),
            np.zeros((count, config.blocks_per_packet, NUM_BINS), np.int32),
            np.minimum(sizes * 8, 2048),
            np.zeros(count, np.bool_),
        )
        self.broken = _decode_packets(
            self.tables, self.intra_tables, self.state, self.broken, data, sizes,
            np.zeros(count, np.bool_) if intra is None else intra, self.num_stages,
            self.intra_stages, config.codebook_bits, config.step_resolution,
            result.envelope, result.offset, result.step, result.bins, result.received,
        )  # fmt: skip
        return result


def decode_integers(
    tables: Tables,
    config: CodecConfig,
    packets: Sequence[bytes | None],
    num_stages: int,
    intra_tables: Tables | None = None,
    intra: np.ndarray | None = None,
) -> DecodedIntegers:
    """Run the range decoder over all packets; see :class:`PacketDecoder`."""
    return PacketDecoder(tables, config, num_stages, intra_tables).decode(packets, intra)


class _Memory(NamedTuple):
    """What the packets of one unit leave to the next one.

    Attributes
    ----------
    enhancer : EnhancerState
    bins : float64 [1, 1, N]         last block, dequantized or concealed,
    spectrum : float32 [1, 1, N]     and enhanced
    coded : float64 [1, FRAME]       finished samples before the enhancer,
    past : float32 [1, HISTORY]      and after it, before the comb filter
    lag : int64 [1, 1], comb : float32 [1, 1, comb bands]   of the last segment
    concealment : Concealment
    """

    enhancer: EnhancerState
    bins: torch.Tensor
    spectrum: torch.Tensor
    coded: torch.Tensor
    past: torch.Tensor
    lag: torch.Tensor
    comb: torch.Tensor
    concealment: Concealment


class Synthesis:
    """Dequantize, enhance and inverse-transform: the float part of the decoder.

    Packets are computed in units of ``UNIT_PACKETS``, always with the same array shapes: where a
    unit is not complete yet, the rest is zeros and is computed again later. So every sample comes
    out the same to the last bit, however the packets arrive. All is causal: what comes later in a
    unit does not touch what comes first.

    Parameters
    ----------
    enhancer : Enhancer
    config : CodecConfig
    """

    def __init__(self, enhancer: Enhancer, config: CodecConfig) -> None:
        self.enhancer = enhancer
        self.config = config
        self.packet = 0  # number of the next one
        hop = config.hop_length
        self._memory = _Memory(
            enhancer.new_state(),
            torch.zeros(1, 1, hop, dtype=torch.float64),
            torch.zeros(1, 1, hop),
            torch.zeros(1, FRAME, dtype=torch.float64),
            torch.zeros(1, HISTORY),
            torch.full((1, 1), MIN_LAG),
            torch.zeros(1, 1, NUM_COMB_BANDS),
            Concealment(config),
        )
        self._unit = _empty_unit(config)

    def push(self, integers: DecodedIntegers) -> np.ndarray:
        """Return the samples that the next packets complete.

        Parameters
        ----------
        integers : DecodedIntegers of P packets

        Returns
        -------
        float32 array, shape [P * 2N]   the first N of a file's lie before its signal
        """
        length = self.config.packet_length
        pieces = []
        position, count = 0, len(integers.step)
        while position < count:
            filled = self.packet % UNIT_PACKETS
            taken = min(UNIT_PACKETS - filled, count - position)
            for unit, values in zip(self._unit, integers, strict=True):
                unit[filled : filled + taken] = values[position : position + taken]
            samples, memory = self._run_unit(self.packet - filled, filled + taken)
            pieces.append(samples[filled * length : (filled + taken) * length])
            position += taken
            self.packet += taken
            if filled + taken == UNIT_PACKETS:
                self._memory = memory
                self._unit = _empty_unit(self.config)
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    @torch.inference_mode()
    def _run_unit(self, first: int, count: int) -> tuple[np.ndarray, _Memory]:
        """Return all samples of the unit that begins with packet ``first``, and its memory.

        Only the first ``count`` packets of it are there.
        """
        config, enhancer, memory = self.config, self.enhancer, self._memory
        blocks, hop, scale = config.blocks_per_packet, config.hop_length, config.log_scale
        samples = UNIT_PACKETS * blocks * hop
        unit = self._unit
        state = memory.enhancer
        if first % RUN_PACKETS == RUN_OFFSET:
            state = enhancer.restart(state)

        envelope = torch.from_numpy(unit.envelope).float()[None] / scale
        band_step = torch.from_numpy(unit.step[:, None] + unit.offset).float()[None] / scale
        width = torch.exp2(band_step @ enhancer.interpolation.T)[:, :, None]
        bins = torch.from_numpy(unit.bins).float()[None] * width  # [1, P, 2, N]
        log_bits = torch.log2(torch.from_numpy(unit.packet_bits).float())[None]
        fill = torch.from_numpy(fill_noise(first, UNIT_PACKETS, blocks, hop))[None]

        # In double precision, so that every machine finds the same lags.
        spectrum = torch.cat([memory.bins, bins.flatten(1, 2).double()], 1)
        coded = torch.cat([memory.coded, inverse_mdct(spectrum, samples)], 1)
        concealment = memory.concealment.copy()
        concealed = concealment.fill(
            unit.received[:count], coded[0].numpy(), spectrum[0, 1:].numpy(), envelope[0].numpy(),
            band_step[0].numpy(), log_bits[0].numpy(),
        )  # fmt: skip
        bins = spectrum[:, 1:].float().view(bins.shape)
        lag, periodicity = track_pitch(coded[:, hop:], hop)
        shape = (1, UNIT_PACKETS, blocks)
        lag, periodicity = lag.view(shape).clone(), periodicity.float().view(shape).clone()
        for p, pitch in concealed.pitch.items():
            lag[0, p], periodicity[0, p] = pitch.lag, pitch.periodicity
        enhanced, comb, state = enhancer(
            bins, envelope, band_step, log_bits, fill, lag, periodicity, state,
            loss=torch.from_numpy(concealed.features)[None] if concealed.features.any() else None,
        )  # fmt: skip

        enhanced = torch.cat([memory.spectrum, enhanced.flatten(1, 2)], 1)
        piece = torch.cat([memory.past, inverse_mdct(enhanced, samples)], 1)
        lags = torch.cat([memory.lag, lag.flatten(1)], 1)
        gains = torch.cat([memory.comb, comb.flatten(1, 2)], 1)
        out = comb_filter(piece, lags, gains, hop)
        return out[0].numpy(), _Memory(
            state, spectrum[:, -1:], enhanced[:, -1:], coded[:, -FRAME:], piece[:, -HISTORY:],
            lags[:, -1:], gains[:, -1:], concealment,
        )  # fmt: skip


def _empty_unit(config: CodecConfig) -> DecodedIntegers:
    return DecodedIntegers(
        np.zeros((UNIT_PACKETS, NUM_BANDS), np.int32),
        np.zeros((UNIT_PACKETS, NUM_BANDS), np.int32),
        np.zeros(UNIT_PACKETS, np.int64),
        np.zeros((UNIT_PACKETS, config.blocks_per_packet, NUM_BINS), np.int32),
        np.full(UNIT_PACKETS, 256, np.int64),
        np.ones(UNIT_PACKETS, np.bool_),
    )


def synthesise(
    enhancer: Enhancer, config: CodecConfig, integers: DecodedIntegers, num_samples: int
) -> np.ndarray:
    """Return the waveform of all packets of a file; see :class:`Synthesis`.

    Returns
    -------
    float32 array, shape [num_samples], 16 kHz
    """
    if len(integers.step) == 0 or num_samples == 0:
        return np.zeros(0, np.float32)
    waveform = Synthesis(enhancer, config).push(integers)
    # The first block's first half lies before the signal.
    return waveform[config.hop_length : config.hop_length + num_samples]
