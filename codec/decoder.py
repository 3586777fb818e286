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
from models.enhancer import Enhancer

CHUNK_PACKETS = 500


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
    blocks = config.blocks_per_packet
    scale = config.log_scale
    spectra = []
    state = None
    with torch.inference_mode():
        for start in range(0, packets, CHUNK_PACKETS):
            part = slice(start, min(start + CHUNK_PACKETS, packets))
            count = part.stop - part.start
            envelope = torch.from_numpy(integers.envelope[part]).float()[None] / scale
            band_step = torch.from_numpy(
                integers.step[part, None] + integers.offset[part].astype(np.int64)
            )
            band_step = band_step.float()[None] / scale  # [1, P, bands]
            width = torch.exp2(band_step @ enhancer.interpolation.T)[:, :, None]
            bins = torch.from_numpy(integers.bins[part]).float()[None] * width
            log_bits = torch.log2(torch.from_numpy(integers.packet_bits[part]).float())[None]
            fill = torch.from_numpy(fill_noise(start, count, blocks, config.hop_length))[None]
            spectrum, state = enhancer(bins, envelope, band_step, log_bits, fill, state)
            spectra.append(spectrum.flatten(1, 2))
        waveform = inverse_mdct(torch.cat(spectra, 1), num_samples)[0]
    return waveform.numpy()
