"""What a coded file says of itself, without torch and numba: it answers at once."""

from __future__ import annotations

import math
from bisect import bisect_right
from pathlib import Path
from typing import Any

from codec.bitstream import check_fingerprint, overhead_bytes, read_header, read_stream
from codec.range_coder import RangeDecoder
from codec.weights import load_side_tables


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
           num_samples, source_sample_rate, num_packets, vbr, num_stages, header_bytes,
           overhead_bytes, file_bytes, share (fractions of the payload: envelope, step, bins)

    Raises
    ------
    BitstreamError   damaged, or coded with other weights

    Notes
    -----
    Envelope and step stand first in every packet, so only a few symbols per packet are decoded;
    each is charged -log2 of its probability, and the rest of the packet belongs to the bins.
    """
    header, packets = read_stream(data)
    path = Path(weights) if weights else None
    index_table, step_table, config, fingerprint = load_side_tables(path)
    check_fingerprint(header, fingerprint)
    limit = config.max_step_delta
    delta, step_bits, envelope_bits = 0, 0.0, 0.0
    for packet in packets:
        decoder = RangeDecoder(packet)
        for stage in range(header.num_stages):
            envelope_bits += _decode(decoder, index_table[stage])[1]
        cdf = step_table[step_context(delta, len(step_table))]
        symbol, bits = _decode(decoder, cdf)
        delta = symbol - limit
        step_bits += bits
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
        "num_stages": header.num_stages,
        "header_bytes": header_bytes,
        "overhead_bytes": overhead_bytes(header),
        "file_bytes": len(data),
        "share": share,
    }
