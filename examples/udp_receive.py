"""Listen over UDP: put datagrams in order, conceal what is missing, and write a WAV file.

See ``udp_send.py`` for the other side. A packet is waited for until ``--wait`` later ones have
come (the jitter buffer, 20 ms each); then it counts as lost, and the decoder conceals it.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
from pathlib import Path

import numpy as np

from codec import BitstreamError, Codec, StreamDecoder
from codec.bitstream import read_header
from codec.io.wav import write_wav

SEQUENCE = struct.Struct(">I")
LONGEST_GAP = 500  # packets: a sequence number farther ahead than 10 s is not believed,
BELIEVED = 5  # unless so many come one after the other: then the sound goes on there


class JitterBuffer:
    """Give packets out in order; None stands for one that is given up."""

    def __init__(self, wait: int) -> None:
        self.wait = wait
        self.next = 1
        self.packets: dict[int, bytes] = {}
        self.lost = self.late = self.ahead = 0

    def push(self, number: int, packet: bytes) -> list[bytes | None]:
        """Take in a packet and return those whose time has come."""
        if number < self.next:
            self.late += 1  # or a copy
            return []
        if number >= self.next + LONGEST_GAP:
            self.ahead += 1
            if self.ahead < BELIEVED:
                return []
            out = self.pop(max(self.packets, default=0))
            self.next = number
            return out + self.push(number, packet)
        self.ahead = 0
        self.packets[number] = packet
        return self.pop(max(self.packets) - self.wait)

    def pop(self, last: int) -> list[bytes | None]:
        """Return the packets up to ``last``, and those after it that are in order."""
        out: list[bytes | None] = []
        while self.next <= last or self.next in self.packets:
            packet = self.packets.pop(self.next, None)
            self.lost += packet is None
            out.append(packet)
            self.next += 1
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="WAV file to write")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5004)
    parser.add_argument("--wait", type=int, default=2, help="packets to wait for a late one")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds of silence to give up")
    options = parser.parse_args()
    codec = Codec.load()
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        receiver.bind((options.host, options.port))
        Path(options.out).open("ab").close()  # not when the call is over
    except (OSError, OverflowError) as error:
        sys.exit(f"udp_receive: error: {error}")
    receiver.settimeout(options.timeout)
    print(f"listening on {options.host}:{receiver.getsockname()[1]}", flush=True)
    buffer = JitterBuffer(options.wait)
    decoder: StreamDecoder | None = None
    pieces: list[np.ndarray] = []
    ended = False
    while not ended:
        try:
            datagram = receiver.recv(2048)
        except (TimeoutError, KeyboardInterrupt):
            if decoder is not None:
                pieces += [
                    decoder.push(packet) for packet in buffer.pop(max(buffer.packets, default=0))
                ]
            break
        if len(datagram) < SEQUENCE.size:
            continue
        (number,) = SEQUENCE.unpack_from(datagram)
        payload = datagram[SEQUENCE.size :]
        if number == 0:
            if decoder is None:
                try:
                    decoder = StreamDecoder(codec, read_header(payload)[0])
                except BitstreamError as error:
                    sys.exit(f"udp_receive: error: {error}")
            continue
        if decoder is None:
            continue  # the header has not come yet
        if payload:
            ready = buffer.push(number, payload)
        else:  # the end: whatever has not come by now is lost
            ready, ended = buffer.pop(min(number, buffer.next + LONGEST_GAP) - 1), True
        pieces += [decoder.push(packet) for packet in ready]
    if not pieces:
        sys.exit(f"udp_receive: error: nothing came within {options.timeout:g} s")
    waveform = np.concatenate(pieces)
    write_wav(options.out, waveform, 16000)
    print(
        f"{options.out}: {len(waveform) / 16000:.2f} s, {buffer.lost} packets concealed, "
        f"{buffer.late} came too late"
    )


if __name__ == "__main__":
    main()
