"""Decoder: packets to integers, integers to a waveform.

The integers (envelope, step, bins) are complete before the first float is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from codec.config import CodecConfig
from codec.mdct import inverse_mdct
from codec.noise import fill_noise
from codec.packet import NUM_BANDS, NUM_BINS, Tables, new_state, read_packet
from codec.postfilter import (
    FRAME,
    HISTORY,
    MIN_LAG,
    NUM_COMB_BANDS,
    comb_filter,
    track_pitch,
)
from models.enhancer import Enhancer

# Packets that go through the enhancer at once. Part of the decoder's definition: with each of these
# runs the enhancer's memory starts afresh, warmed up on the packets before.
RUN_PACKETS = 50


class DecodedIntegers(NamedTuple):
    """All integers of a file, exact on every machine.

    Attributes
    ----------
    envelope : int32 [P, bands]    Q8 octaves
    offset : int32 [P, bands]      step offsets, Q8
    step : int64 [P]               Q8
    bins : int32 [P, 2, N]
    packet_bits : int64 [P]
    """

    envelope: np.ndarray
    offset: np.ndarray
    step: np.ndarray
    bins: np.ndarray
    packet_bits: np.ndarray


@njit(cache=True)
def _decode_packets(
    tables, state, data, sizes, num_stages, stage_bits, resolution, envelope, offset, step, bins
):
    position = 0
    for p in range(sizes.shape[0]):
        step[p] = read_packet(
            tables, state, data, position, position + sizes[p], num_stages, stage_bits,
            resolution, envelope[p], offset[p], bins[p],
        )  # fmt: skip
        position += sizes[p]


def decode_integers(
    tables: Tables, config: CodecConfig, packets: list[bytes], num_stages: int
) -> DecodedIntegers:
    """Run the range decoder over all packets; integers only."""
    count = len(packets)
    # A copy, since the compiled functions want a writable array.
    data = np.frombuffer(b"".join(packets), np.uint8).copy()
    sizes = np.array([len(p) for p in packets], np.int64)
    result = DecodedIntegers(
        np.zeros((count, NUM_BANDS), np.int32),
        np.zeros((count, NUM_BANDS), np.int32),
        np.zeros(count, np.int64),
        np.zeros((count, config.blocks_per_packet, NUM_BINS), np.int32),
        np.minimum(sizes * 8, 2048),
    )
    _decode_packets(
        tables, new_state(tables), data, sizes, num_stages, config.codebook_bits,
        config.step_resolution, result.envelope, result.offset, result.step, result.bins,
    )  # fmt: skip
    return result


def synthesise(
    enhancer: Enhancer, config: CodecConfig, integers: DecodedIntegers, num_samples: int
) -> np.ndarray:
    """Dequantize, enhance and inverse-transform; the float part of the decoder.

    Returns
    -------
    float32 array, shape [num_samples], 16 kHz
    """
    packets = len(integers.step)
    if packets == 0 or num_samples == 0:
        return np.zeros(0, np.float32)
    blocks, hop = config.blocks_per_packet, config.hop_length
    scale = config.log_scale
    pieces = []
    state = None
    with torch.inference_mode():
        # What a run leaves to the next: its last block, dequantized and enhanced, and the
        # samples, the lag and the gains that the pitch tracker and the comb filter look back at.
        last_bins = torch.zeros(1, 1, hop, dtype=torch.float64)
        last_spectrum = torch.zeros(1, 1, hop)
        coded = torch.zeros(1, FRAME - hop, dtype=torch.float64)
        past = torch.zeros(1, HISTORY)
        last_lag = torch.full((1, 1), MIN_LAG)
        last_comb = torch.zeros(1, 1, NUM_COMB_BANDS)
        for start in range(0, packets, RUN_PACKETS):
            part = slice(start, min(start + RUN_PACKETS, packets))
            count = part.stop - part.start
            envelope = torch.from_numpy(integers.envelope[part]).float()[None] / scale
            band_step = torch.from_numpy(
                integers.step[part, None] + integers.offset[part].astype(np.int64)
            )
            band_step = band_step.float()[None] / scale  # [1, P, bands]
            width = torch.exp2(band_step @ enhancer.interpolation.T)[:, :, None]
            bins = torch.from_numpy(integers.bins[part]).float()[None] * width
            log_bits = torch.log2(torch.from_numpy(integers.packet_bits[part]).float())[None]
            fill = torch.from_numpy(fill_noise(start, count, blocks, hop))[None]

            # In double precision, so that every machine finds the same lags.
            spectrum = torch.cat([last_bins, bins.flatten(1, 2).double()], 1)
            coded = torch.cat([coded, inverse_mdct(spectrum, count * blocks * hop)], 1)
            lag, periodicity = track_pitch(coded, hop)
            last_bins, coded = spectrum[:, -1:], coded[:, hop - FRAME :]
            shape = (1, count, blocks)
            enhanced, comb, state = enhancer(
                bins, envelope, band_step, log_bits, fill, lag.view(shape),
                periodicity.float().view(shape), state,
            )  # fmt: skip

            enhanced = torch.cat([last_spectrum, enhanced.flatten(1, 2)], 1)
            piece = torch.cat([past, inverse_mdct(enhanced, count * blocks * hop)], 1)
            last_spectrum, past = enhanced[:, -1:], piece[:, -HISTORY:]
            lag = torch.cat([last_lag, lag], 1)
            comb = torch.cat([last_comb, comb.flatten(1, 2)], 1)
            pieces.append(comb_filter(piece, lag, comb, hop))
            last_lag, last_comb = lag[:, -1:], comb[:, -1:]
    # The first block's first half lies before the signal.
    waveform = torch.cat(pieces, 1)[0, hop : hop + num_samples]
    return waveform.numpy()
