"""Encoder: waveform to packets, one call per stage of the signal path.

::

    waveform ─► MDCT ─► envelope analysis (float network) ─► M-best search ─► indices
                  └──────────────► step search with the context model ─► bins ─► range coder
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numba import njit

from codec.config import CodecConfig
from codec.mdct import mdct_matrix
from codec.packet import (
    COST_ONE,
    DUMP,
    NUM_BANDS,
    NUM_BINS,
    NUM_FEATURES,
    PRICE,
    PacketCoder,
    Tables,
    advance,
    allocate,
    code_bins,
    decode_envelope,
    envelope_cost,
    forget,
    interpolate,
    new_state,
    prepare,
    search_envelope,
    write_packet,
)
from codec.rate_control import choose_step, drop_top, vbr_packet_sizes

if TYPE_CHECKING:
    from models.envelope import EnvelopeAnalysis

SURVIVORS = 8
ANALYSIS_PACKETS = 25  # that are analysed at once, by streams and for files alike
VBR_MINIMUM_BYTES = 12
# VBR: powers of a packet's level, chosen on the validation clips (see vbr_demand).
VBR_POWER = 0.5
VBR_EXPONENT = 0.12


def default_stages(bitrate_bps: int) -> int:
    """Return the envelope stages used at a rate (chosen on the validation clips)."""
    return 3 if bitrate_bps < 22000 else 4


@njit(cache=True)
def choose_packet(
    tables, state, proposed, spectrum, packet_bits, intra, num_stages, stage_bits, resolution,
    rdo_lambda, survivors, indices, envelope, log_scale, log_step, q,
):  # fmt: skip
    """Choose all integers of a packet: envelope indices, step and bins.

    Parameters
    ----------
    tables : Tables                   those of the packet's kind
    intra : bool                      the packet needs no other: the state is forgotten first
    proposed : float32 [bands]        proposed envelope, Q8
    spectrum : float32 [2, N]
    indices : int64 [8], envelope : int32 [bands]             results
    log_scale, log_step : int32 [N], q : int32 [2, N]         results

    Returns
    -------
    step : int    Q8, before the bands' offsets
    delta : int   step delta to transmit
    """
    offset = np.empty(NUM_BANDS, np.int32)
    relative = np.empty(NUM_BINS, np.int32)
    if intra:
        forget(tables, state)
    search_envelope(tables, state.envelope, proposed, num_stages, survivors, indices)
    decode_envelope(tables, state.envelope, indices, num_stages, envelope)
    if intra:
        state.envelope[:] = envelope
    base = prepare(
        tables, state, envelope, packet_bits, num_stages * stage_bits, offset, relative, log_scale
    )
    delta, _ = choose_step(
        tables, state, spectrum, log_scale, relative, base, resolution, rdo_lambda, packet_bits,
        envelope_cost(tables, indices, num_stages), log_step, q,
    )  # fmt: skip
    return base + delta * resolution, delta


@njit(cache=True)
def encode_packets(
    tables, intra_tables, state, envelopes, spectra, sizes, intra, num_stages, intra_stages,
    stage_bits, resolution, rdo_lambda, survivors, out, bins, steps,
):  # fmt: skip
    """Encode consecutive packets and move ``state`` past them.

    Parameters
    ----------
    tables, intra_tables : Tables
    envelopes : float32 [P, bands]    proposed envelopes, Q8
    spectra : float32 [P, 2, N]
    sizes : int64 [P]                 bytes of each packet
    intra : bool [P]                  packets that need no other
    num_stages, intra_stages : int    envelope stages of the two kinds
    out : uint8 [sum of sizes]        result: the packets one after the other
    bins : int32 [P, 2, N]            result: what was coded
    steps : int64 [P, 2]              result: step (Q8) and delta
    """
    position = 0
    buf = np.zeros(4096, np.uint8)
    indices = np.zeros(8, np.int64)
    envelope = np.empty(NUM_BANDS, np.int32)
    log_scale = np.empty(NUM_BINS, np.int32)
    log_step = np.empty(NUM_BINS, np.int32)
    for p in range(envelopes.shape[0]):
        packet_bits = min(sizes[p] * 8, 2048)
        q = bins[p]
        used = intra_tables if intra[p] else tables
        stages = intra_stages if intra[p] else num_stages
        step, delta = choose_packet(
            used, state, envelopes[p], spectra[p], packet_bits, intra[p], stages, stage_bits,
            resolution, rdo_lambda, survivors, indices, envelope, log_scale, log_step, q,
        )  # fmt: skip
        keep = NUM_BINS
        while not write_packet(
            used, state, buf, sizes[p], stages, indices, delta, log_scale, log_step, q,
            packet_bits,
        ):  # fmt: skip
            keep -= 4
            drop_top(q, max(keep, 0))
            if keep < -8:
                raise ValueError("a packet is too small for its envelope")
        out[position : position + sizes[p]] = buf[: sizes[p]]
        position += sizes[p]
        steps[p, 0] = step
        steps[p, 1] = delta
        advance(state, envelope, delta, log_step, q)


@njit(cache=True)
def describe_packets(
    tables, state, envelopes, spectra, sizes, intra, num_stages, stage_bits, resolution,
    rdo_lambda, survivors, features, bins, deltas, chosen, costs,
):  # fmt: skip
    """Encode as :func:`encode_packets`, but keep the context model's inputs, not the bytes.

    All packets are of one kind, ``intra`` or not, and use the one set of ``tables``.

    ``features`` int16 [P, 2, N, features], ``bins`` int32 [P, 2, N], ``deltas`` int64 [P, 2] (the
    step delta of the packet before and of this one), ``chosen`` int64 [P, 8] (envelope indices) and
    ``costs`` int64 [P] (bits x 256 of the bins) are the results.
    """
    coder = np.empty(0, np.int64)
    buf = np.empty(0, np.uint8)
    ratio = np.empty((2, 0), np.float32)
    indices = np.zeros(8, np.int64)
    envelope = np.empty(NUM_BANDS, np.int32)
    log_scale = np.empty(NUM_BINS, np.int32)
    log_step = np.empty(NUM_BINS, np.int32)
    for p in range(envelopes.shape[0]):
        packet_bits = min(sizes[p] * 8, 2048)
        q = bins[p]
        _, delta = choose_packet(
            tables, state, envelopes[p], spectra[p], packet_bits, intra, num_stages, stage_bits,
            resolution, rdo_lambda, survivors, indices, envelope, log_scale, log_step, q,
        )  # fmt: skip
        code_bins(
            DUMP, tables, state, coder, buf, log_scale, log_step, packet_bits, delta, ratio, 0.0,
            q, features[p],
        )  # fmt: skip
        costs[p] = code_bins(
            PRICE, tables, state, coder, buf, log_scale, log_step, packet_bits, delta, ratio, 0.0,
            q, features[p],
        )  # fmt: skip
        chosen[p] = indices
        deltas[p, 0] = state.delta[0]
        deltas[p, 1] = delta
        advance(state, envelope, delta, log_step, q)


class DescribedBins(NamedTuple):
    """What :func:`collect_bins` returns.

    Attributes
    ----------
    features : int16 [P, 2, N, features]
    bins : int32 [P, 2, N]
    deltas : int64 [P, 2]     step delta of the packet before, and of this one
    indices : int64 [P, 8]    envelope indices (of the stages in use)
    costs : int64 [P]         bits x 256 of the bins
    """

    features: np.ndarray
    bins: np.ndarray
    deltas: np.ndarray
    indices: np.ndarray
    costs: np.ndarray


def analyse_unit(
    analysis: EnvelopeAnalysis, config: CodecConfig, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return proposed envelopes (Q8) and MDCT spectra of ``ANALYSIS_PACKETS`` packets.

    Always the same shapes: then a packet gets the same floats, to the last bit, whether it is
    analysed while the signal comes in (the samples after it are zeros) or with all that follows.

    Parameters
    ----------
    samples : float32 array, shape [N + ANALYSIS_PACKETS * 2N]   one hop before the first packet

    Returns
    -------
    envelopes : float32 array, shape [ANALYSIS_PACKETS, bands]
    spectra : float32 array, shape [ANALYSIS_PACKETS, 2, N]
    """
    hop = config.hop_length
    with torch.inference_mode():
        piece = torch.from_numpy(samples)
        frames = piece.unfold(0, 2 * hop, hop)[None]  # [1, 2P, 2N]
        spectrum = frames @ mdct_matrix(hop)
        spectrum = spectrum.view(1, ANALYSIS_PACKETS, config.blocks_per_packet, hop)
        packet_frames = piece.unfold(0, 3 * hop, 2 * hop)[None]  # [1, P, 3N]
        envelope = analysis.propose(packet_frames, spectrum)
        return envelope[0].numpy() * np.float32(config.log_scale), spectrum[0].numpy()


def analyse(
    analysis: EnvelopeAnalysis, config: CodecConfig, waveform: np.ndarray, packets: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return proposed envelopes (Q8) and MDCT spectra of a waveform.

    Parameters
    ----------
    waveform : float32 array, shape [T]   16 kHz
    packets : int                         P, enough to cover it

    Returns
    -------
    envelopes : float32 array, shape [P, bands]
    spectra : float32 array, shape [P, 2, N]
    """
    length, hop = config.packet_length, config.hop_length
    envelopes = np.zeros((packets, config.num_bands), np.float32)
    spectra = np.zeros((packets, config.blocks_per_packet, hop), np.float32)
    # Packet p sees the samples [320 p - 160, 320 p + 320): one hop before it, none after.
    units = -(-packets // ANALYSIS_PACKETS)
    padded = np.zeros(units * ANALYSIS_PACKETS * length + hop, np.float32)
    padded[hop : hop + len(waveform)] = waveform
    for start in range(0, packets, ANALYSIS_PACKETS):
        stop = min(start + ANALYSIS_PACKETS, packets)
        piece = padded[start * length : (start + ANALYSIS_PACKETS) * length + hop]
        envelope, spectrum = analyse_unit(analysis, config, piece)
        envelopes[start:stop] = envelope[: stop - start]
        spectra[start:stop] = spectrum[: stop - start]
    return envelopes, spectra


@njit(cache=True)
def _expected_bits(tables, envelopes, levels, nominal_bits, step, bits):
    """Write the Laplace bits of every packet at ``step`` + its level, both Q8, to ``bits`` [P]."""
    envelope = np.empty(NUM_BANDS, np.int32)
    previous = tables.initial.astype(np.int32)
    offset = np.empty(NUM_BANDS, np.int32)
    relative = np.empty(NUM_BINS, np.int32)
    log_scale = np.empty(NUM_BINS, np.int32)
    last = tables.expected_bits.shape[0] - 1
    for p in range(envelopes.shape[0]):
        for j in range(NUM_BANDS):
            envelope[j] = np.int32(envelopes[p, j])
        allocate(tables, envelope, previous, nominal_bits, offset)
        interpolate(tables, offset, relative)
        interpolate(tables, envelope, log_scale)
        total = 0.0
        for k in range(NUM_BINS):
            ratio = log_scale[k] - relative[k] - step - levels[p]
            total += tables.expected_bits[min(max((np.int64(ratio) >> 4) + 128, 0), last)]
        bits[p] = 2.0 * total / COST_ONE
        previous[:] = envelope


def vbr_demand(
    tables: Tables,
    envelopes: np.ndarray,
    spectra: np.ndarray,
    total_bytes: int,
    envelope_bits: int,
) -> np.ndarray:
    """Return what share of the bits each packet wants, shape [P].

    The geometric mean of two rules, better together than either (docs/design.md). First, the bits
    that the envelope needs at a step of constant distance to the packet's level to the power
    ``VBR_POWER``: with 0 the noise would have one level in the whole file, and pauses no bits; with
    1 every packet would have the same signal-to-noise ratio. Second, the level itself: energy to
    the power ``VBR_EXPONENT``.

    Parameters
    ----------
    tables : Tables
    envelopes : float32 [P, bands]    proposed envelopes, Q8
    spectra : float32 [P, 2, N]
    total_bytes : int                 of all packets
    envelope_bits : int               of the indices of a packet
    """
    count = len(spectra)
    if count == 0:
        return np.zeros(0)
    energy = np.square(spectra).mean((1, 2), dtype=np.float64) + 1e-9
    levels = 128 * VBR_POWER * np.log2(energy)
    nominal = int(np.clip(8 * total_bytes // count, 64, 2048))
    bits = np.zeros(count)
    low, high = -20.0 * 256, 20.0 * 256
    for _ in range(24):
        step = 0.5 * (low + high)
        _expected_bits(tables, envelopes, levels, nominal, step, bits)
        sizes = np.clip((0.9 * bits + envelope_bits) / 8, VBR_MINIMUM_BYTES, 255)
        if sizes.sum() > total_bytes:
            low = step
        else:
            high = step
    wanted = np.maximum((0.9 * bits + envelope_bits) / 8, 1.0)
    loud = max(float(np.quantile(energy, 0.95)), 1e-7)
    share = np.maximum(energy / loud, 1e-3) ** VBR_EXPONENT
    return np.sqrt(wanted * share)


def encode_waveform(
    tables: Tables,
    config: CodecConfig,
    analysis: EnvelopeAnalysis,
    waveform: np.ndarray,
    sizes: list[int] | None,
    num_stages: int,
    vbr_total_bytes: int = 0,
    packets: int = 0,
    intra_tables: Tables | None = None,
    intra: np.ndarray | None = None,
) -> tuple[list[bytes], np.ndarray]:
    """Encode a 16 kHz waveform to packets.

    Parameters
    ----------
    tables : Tables               of predicted packets
    waveform : float32 array, shape [T]
    sizes : list of int or None   bytes of each packet; None lets VBR choose them
    num_stages : int              envelope stages
    vbr_total_bytes : int         with ``sizes=None``: bytes of all packets together
    packets : int                 with ``sizes=None``: number of packets
    intra_tables : Tables         of packets that need no other
    intra : bool array, shape [P] which ones those are; None for both: there are none

    Returns
    -------
    packets : list of bytes
    bins : int32 array, shape [P, 2, N]   what was coded
    """
    count = len(sizes) if sizes is not None else packets
    envelopes, spectra = analyse(analysis, config, waveform, count)
    if sizes is None:
        bits = num_stages * (config.codebook_bits - 1)
        demand = vbr_demand(tables, envelopes, spectra, vbr_total_bytes, bits)
        sizes = vbr_packet_sizes(demand, vbr_total_bytes, VBR_MINIMUM_BYTES, 255)
    coder = PacketEncoder(tables, config, num_stages, intra_tables)
    return coder.encode(envelopes, spectra, sizes, intra)


class PacketEncoder(PacketCoder):
    """Encode packets one after the other, as many at a time as there are."""

    def encode(
        self,
        envelopes: np.ndarray,
        spectra: np.ndarray,
        sizes: Sequence[int],
        intra: np.ndarray | None = None,
    ) -> tuple[list[bytes], np.ndarray]:
        """Return the packets of some spectra, and the bins that were coded.

        Parameters
        ----------
        envelopes : float32 array, shape [P, bands]    as :func:`analyse` returns them
        spectra : float32 array, shape [P, 2, N]
        sizes : P ints                                 bytes
        intra : bool array, shape [P]                  None: all are predicted

        Returns
        -------
        packets : list of bytes
        bins : int32 array, shape [P, 2, N]
        """
        config, count = self.config, len(sizes)
        size_array = np.array(sizes, np.int64)
        out = np.zeros(int(size_array.sum()), np.uint8)
        bins = np.zeros((count, config.blocks_per_packet, config.hop_length), np.int32)
        steps = np.zeros((count, 2), np.int64)
        encode_packets(
            self.tables, self.intra_tables, self.state, envelopes, spectra, size_array,
            np.zeros(count, np.bool_) if intra is None else intra, self.num_stages,
            self.intra_stages, config.codebook_bits, config.step_resolution, config.rdo_lambda,
            SURVIVORS, out, bins, steps,
        )  # fmt: skip
        data = out.tobytes()
        edges = np.concatenate([[0], np.cumsum(size_array)])
        return [data[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)], bins


def collect_bins(
    tables: Tables,
    config: CodecConfig,
    analysis: EnvelopeAnalysis,
    waveform: np.ndarray,
    packet_bytes: int,
    num_stages: int,
    intra: bool = False,
) -> DescribedBins:
    """Code a waveform at a rate and return what the context model sees, instead of bytes.

    ``tables`` and ``num_stages`` are those of the packets' kind, ``intra`` or predicted.
    """
    count = len(waveform) // config.packet_length
    envelopes, spectra = analyse(analysis, config, waveform[: count * config.packet_length], count)
    result = DescribedBins(
        np.zeros((count, 2, NUM_BINS, NUM_FEATURES), np.int16),
        np.zeros((count, 2, NUM_BINS), np.int32),
        np.zeros((count, 2), np.int64),
        np.zeros((count, 8), np.int64),
        np.zeros(count, np.int64),
    )
    describe_packets(
        tables, new_state(tables), envelopes, spectra, np.full(count, packet_bytes, np.int64),
        intra, num_stages, config.codebook_bits, config.step_resolution, config.rdo_lambda,
        SURVIVORS, *result,
    )  # fmt: skip
    return result
