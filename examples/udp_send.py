"""Speak over UDP: encode a file (or standard input) and send one packet per datagram.

Two terminals::

    python examples/udp_receive.py --port 5004 --out received.wav
    python examples/udp_send.py speech.wav --port 5004 --loss 5 --reorder 5

A datagram is a 4-byte sequence number (big-endian) and one codec packet; datagram 0 carries the
stream's header, and is sent several times. Packets are independent, so a lost one is all that is
lost. ``--loss`` and ``--reorder`` stand in for a bad network. An empty packet ends the stream.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import time
from collections.abc import Iterator

import numpy as np

from codec import Codec, StreamEncoder
from codec.bitstream import write_header
from codec.errors import AudioError
from codec.io.audio import read_audio
from codec.io.resample import to_codec_rate

SEQUENCE = struct.Struct(">I")
PACKET_SECONDS = 0.020
HEADER_COPIES = 3


def read_signal(source: str) -> Iterator[np.ndarray]:
    """Yield pieces of 20 ms of a file, or of raw 16-bit samples (16 kHz) from standard input."""
    if source == "-":
        while data := sys.stdin.buffer.read(640):
            yield np.frombuffer(data[: len(data) // 2 * 2], "<i2") / np.float32(32768)
        return
    waveform, rate, _ = read_audio(source)
    waveform = to_codec_rate(waveform, rate)
    for start in range(0, len(waveform), 320):
        yield waveform[start : start + 320]


def packets_of(encoder: StreamEncoder, pieces: Iterator[np.ndarray]) -> Iterator[bytes]:
    """Yield packets as soon as the pieces are there that complete them."""
    for piece in pieces:
        yield from encoder.push(piece)
    yield from encoder.finish()


class BadNetwork:
    """Send datagrams, but lose some and deliver some late."""

    def __init__(self, address: tuple[str, int], loss: float, reorder: float, seed: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = address
        self.loss, self.reorder = loss / 100, reorder / 100
        self.random = random.Random(seed)
        self.late: bytes | None = None
        self.sent = self.lost = self.reordered = 0

    def send(self, datagram: bytes) -> None:
        """Send a datagram, or lose it, or keep it back until the next one has gone."""
        kept, self.late = self.late, None
        if self.random.random() < self.loss:
            self.lost += 1
        elif kept is None and self.random.random() < self.reorder:
            self.late = datagram
            self.reordered += 1
        else:
            self.send_now(datagram)
        if kept is not None:
            self.send_now(kept)

    def send_now(self, datagram: bytes) -> None:
        """Send a datagram, whatever the network is like."""
        self.socket.sendto(datagram, self.address)
        self.sent += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="audio file, or - for raw 16-bit samples at 16 kHz")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5004)
    parser.add_argument("--bitrate", type=float, default=16.4, help="kbit/s, 8 to 32")
    parser.add_argument("--loss", type=float, default=0.0, help="percent of packets to lose")
    parser.add_argument("--reorder", type=float, default=0.0, help="percent to deliver late")
    parser.add_argument("--seed", type=int, default=0, help="of losses and delays")
    parser.add_argument("--fast", action="store_true", help="do not wait 20 ms between packets")
    options = parser.parse_args()
    try:
        encoder = StreamEncoder(Codec.load(), options.bitrate, independent=True)
    except ValueError as error:
        sys.exit(f"udp_send: error: {error}")
    network = BadNetwork((options.host, options.port), options.loss, options.reorder, options.seed)
    try:
        for _ in range(HEADER_COPIES):
            network.send_now(SEQUENCE.pack(0) + write_header(encoder.header))
    except (OSError, OverflowError) as error:  # no such host, no such port
        sys.exit(f"udp_send: error: {options.host}:{options.port}: {error}")
    number = 0
    start = time.monotonic()
    try:
        for packet in packets_of(encoder, read_signal(options.source)):
            number += 1
            if not options.fast:
                time.sleep(max(start + number * PACKET_SECONDS - time.monotonic(), 0.0))
            network.send(SEQUENCE.pack(number) + packet)
    except KeyboardInterrupt:
        pass  # the end is sent all the same
    except (AudioError, OSError) as error:
        sys.exit(f"udp_send: error: {error}")
    if network.late is not None:
        network.send_now(network.late)
    for _ in range(HEADER_COPIES):
        network.send_now(SEQUENCE.pack(number + 1))
    print(f"{number} packets: {network.lost} lost, {network.reordered} delivered late")


if __name__ == "__main__":
    main()
