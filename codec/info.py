"""What a coded file says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from codec import __version__, decoder
from codec.bitstream import (
    MAGIC,
    check_weights,
    intra_packets,
    overhead_bytes,
    read_header,
    read_stream,
)
from codec.config import FRAMES_PER_SECOND, HEADER_BYTES
from codec.decoder import FrameDecoder
from codec.errors import CodecError, WeightsError
from codec.io.storage import Location, fetched
from codec.weights import Weights, load_weights


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
    codec.errors.WeightsError     the weights cannot be read
    """
    read_header(data)  # what is not ours at all is said before the weights are looked for
    return describe_stream(data, load_weights(Path(weights) if weights else None))


def read_coded(place: Location) -> bytes:
    """Return the bytes of a stream; of anything else only the start, which is enough to refuse it.

    Else a huge file, or /dev/zero, would fill the memory before it is refused.
    """
    with fetched(place) as path, path.open("rb") as file:
        return read_stream_bytes(file)


def read_stream_bytes(file: BinaryIO) -> bytes:
    """Return all bytes of an open stream, or the start of what is none; see `read_coded`."""
    start = file.read(64)
    return start + file.read() if start.startswith(MAGIC) else start


@dataclass(frozen=True)
class StreamReader:
    """Describe many files, in any process; a `runner.Setup`.

    Attributes
    ----------
    weights : path or None   as for `stream_info`
    fingerprint : str        hex, of the weights that are meant
    version : str            of this package
    """

    weights: Path | None
    fingerprint: str
    version: str = __version__

    def __call__(self) -> Callable[[Location, object], dict[str, Any] | str]:
        """Load the weights; return what describes a file, or says in one line what is wrong."""
        weights = load_weights(self.weights)
        check_same(weights.fingerprint.hex(), self.fingerprint, self.version)

        def work(place: Location, stop: object) -> dict[str, Any] | str:
            try:
                return describe_stream(read_coded(place), weights)
            except CodecError as error:
                text = str(error)
                return text if str(place) in text else f"{place}: {text}"
            except OSError as error:
                return f"{place}: {error.strerror or error}"

        return work


def check_same(fingerprint: str, wanted: str | None, version: str) -> None:
    """Check in a worker process that it has the weights and the version that are meant.

    Raises
    ------
    WeightsError   it has others
    """
    import socket

    where = f"worker process on {socket.gethostname()}"
    if version != __version__:
        raise WeightsError(
            f"{where}: has version {__version__} of this package, here is {version}; "
            "install the same everywhere"
        )
    if wanted is not None and fingerprint != wanted:
        raise WeightsError(
            f"{where}: has weights {fingerprint}, here are {wanted}; "
            "install the same everywhere, or name one file with --weights"
        )


def describe_stream(data: bytes, weights: Weights) -> dict[str, Any]:
    """Describe a coded file with weights that are loaded already; see :func:`stream_info`.

    Notes
    -----
    Envelope and step stand first in every packet, so only a few symbols per packet are decoded;
    each is charged -log2 of its probability, and the rest of the packet belongs to the levels.
    """
    header, packets = read_stream(data)
    check_weights(header, weights.fingerprint, weights.config.num_stages)
    header_bytes = read_header(data)[1]  # more than today's where a later writer added fields
    payload = 8 * sum(len(p) for p in packets)
    duration = header.num_samples / header.source_sample_rate
    return {
        "version": header.version,
        "fingerprint": header.fingerprint.hex(),
        "nominal_kbps": header.nominal_bitrate_bps / 1000,
        "measured_kbps": 8 * len(data) / duration / 1000 if duration else 0.0,
        "payload_kbps": payload * FRAMES_PER_SECOND / len(packets) / 1000 if packets else 0.0,
        "duration_s": duration,
        "num_samples": header.num_samples,
        "source_sample_rate": header.source_sample_rate,
        "num_packets": len(packets),
        "vbr": header.vbr,
        "independent": header.independent,
        "open_end": header.open_end,
        "num_stages": header.num_stages,
        "header_bytes": header_bytes,
        "overhead_bytes": overhead_bytes(header) + header_bytes - HEADER_BYTES,
        "file_bytes": len(data),
        "share": _shares(weights, header.num_stages, packets, header.independent),
    }


def _shares(
    weights: Weights, num_stages: int, packets: list[bytes], independent: bool
) -> dict[str, float]:
    """Return which fractions of the packets envelope, step and levels ("bins") take."""
    share = {"envelope": 0.0, "step": 0.0, "bins": 0.0}
    payload = 8.0 * sum(len(p) for p in packets)
    if payload:
        reader = FrameDecoder(decoder.make_model(weights), weights.config, num_stages)
        costs = reader.side_costs(packets, intra_packets(len(packets), independent))
        envelope = step = 0.0
        for packet, (of_envelope, of_step) in zip(packets, costs.tolist(), strict=True):
            # Beyond a packet's end there are only zeros, which take no bits of the file.
            of_envelope = min(of_envelope, 8.0 * len(packet))
            envelope += of_envelope
            step += min(of_step, 8.0 * len(packet) - of_envelope)
        share["envelope"], share["step"] = envelope / payload, step / payload
        share["bins"] = 1.0 - share["envelope"] - share["step"]
    return share
