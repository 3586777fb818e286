"""What a coded file says of itself, without torch and numba: it answers at once."""

from __future__ import annotations

import math
from bisect import bisect_right
from pathlib import Path
from typing import Any

from codec.bitstream import (
    check_weights,
    intra_packets,
    overhead_bytes,
    read_header,
    read_stream,
)
from codec.range_coder import RangeDecoder
from codec.weights import SideTables, load_side_tables


def step_context(delta: int, contexts: int) -> int:
    """Return the step table that follows ``delta`` (as in ``codec.packet``)."""
    return min(max((delta + 15) // 6, 0), contexts - 1)


def _decode(decoder: RangeDecoder, cdf: list[int]) -> tuple[int, float]:
    """Decode one symbol by bisection; returns it and its code length in bits."""
    symbol = bisect_right(cdf, decoder.decode_target(15)) - 1
    decoder.consume(cdf[symbol], cdf[symbol + 1], 15)
    return symbol, 15 - math.log2(cdf[symbol + 1] - cdf[symbol])


def stream_info(data: bytes, weights: str | Path | None = None) -> dict[str, Any]:
    """Describe a coded file.

    Parameters
    ----------
    data : bytes
    weights : path or None   weights the file was coded with; None for the shipped ones

    Returns
    -------
    dict   version, fingerprint, nominal_kbps, measured_kbps, payload_kbps, duration_s,
           num_samples, source_sample_rate, num_packets, vbr, independent, open_end, num_stages,
           header_bytes, overhead_bytes, file_bytes, share (fractions of the payload: envelope,
           step, bins)

    Raises
    ------
    BitstreamError                damaged, or coded with other weights
    codec.weights.WeightsError    the weights cannot be read
    """
    read_header(data)  # what is not ours at all is said before the weights are looked for
    return describe_stream(data, load_side_tables(Path(weights) if weights else None))


def describe_stream(data: bytes, side: SideTables) -> dict[str, Any]:
    """Describe a coded file with tables that are loaded already; see :func:`stream_info`.

    Notes
    -----
    Envelope and step stand first in every packet, so only a few symbols per packet are decoded;
    each is charged -log2 of its probability, and the rest of the packet belongs to the bins.
    """
    header, packets = read_stream(data)
    config = side.config
    check_weights(header, side.fingerprint, config.num_stages)
    intra_stages = config.intra_stages(header.num_stages)
    needs_no_other = intra_packets(len(packets), header.independent)
    delta, step_bits, envelope_bits = 0, 0.0, 0.0
    for packet, intra in zip(packets, needs_no_other, strict=True):
        index_table, step_table = side.index_cdf, side.step_cdf
        if intra:
            index_table, step_table, delta = side.intra_index_cdf, side.intra_step_cdf, 0
        decoder = RangeDecoder(packet)
        of_envelope = 0.0
        for stage in range(intra_stages if intra else header.num_stages):
            of_envelope += _decode(decoder, index_table[stage])[1]
        cdf = step_table[step_context(delta, len(step_table))]
        symbol, of_step = _decode(decoder, cdf)
        delta = symbol - config.max_step_delta
        # Beyond a packet's end there are only zeros, which take no bits of the file.
        of_envelope = min(of_envelope, 8.0 * len(packet))
        envelope_bits += of_envelope
        step_bits += min(of_step, 8.0 * len(packet) - of_envelope)
    payload_bits = 8 * sum(len(p) for p in packets)
    _, header_bytes = read_header(data)
    duration = header.num_samples / header.source_sample_rate
    share = {"envelope": 0.0, "step": 0.0, "bins": 0.0}
    if payload_bits:
        share["envelope"] = envelope_bits / payload_bits
        share["step"] = step_bits / payload_bits
        share["bins"] = 1.0 - share["envelope"] - share["step"]
    return {
        "version": header.version,
        "fingerprint": header.fingerprint.hex(),
        "nominal_kbps": header.nominal_bitrate_bps / 1000,
        "measured_kbps": 8 * len(data) / duration / 1000 if duration else 0.0,
        "payload_kbps": payload_bits / (0.020 * len(packets)) / 1000 if packets else 0.0,
        "duration_s": duration,
        "num_samples": header.num_samples,
        "source_sample_rate": header.source_sample_rate,
        "num_packets": len(packets),
        "vbr": header.vbr,
        "independent": header.independent,
        "open_end": header.open_end,
        "num_stages": header.num_stages,
        "header_bytes": header_bytes,
        "overhead_bytes": overhead_bytes(header),
        "file_bytes": len(data),
        "share": share,
    }
