"""Encode and decode while the signal comes in: packets in, packets out, 30 ms of delay.

::

    samples ─► StreamEncoder ─► packets ─► a network, or BitstreamWriter ─► bytes
    samples ◄─ StreamDecoder ◄─ packets or None ◄─ a network, or BitstreamReader ◄─ bytes

What comes out does not depend on how the signal is cut, and is what :class:`codec.Codec` makes of
the whole: the same bytes, the same samples to the last bit. Memory does not grow.

Packet p holds what the 480 samples [320 p - 160, 320 p + 320) need; with it the samples up to
320 p + 160 are complete. From a sample's arrival at the encoder to its departure from the decoder:
480 samples, 30 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from codec.bitstream import Header, cbr_bytes, intra_packets, num_packets
from codec.decoder import PacketDecoder, Synthesis
from codec.encoder import ANALYSIS_PACKETS, PacketEncoder, analyse_unit
from codec.errors import AudioError

if TYPE_CHECKING:
    from codec.api import Codec

DELAY_SAMPLES = 480


class StreamEncoder:
    """Encode a 16 kHz signal as it comes in, at a constant bitrate.

    Parameters
    ----------
    codec : Codec
    bitrate : float      kbit/s, 8 to 32
    independent : bool   no packet needs another to be decoded: for networks that lose packets

    Attributes
    ----------
    num_samples : int    samples taken in so far
    header : Header      what the decoder must know, with an open end

    Raises
    ------
    ValueError   bitrate out of range

    Examples
    --------
    >>> from codec import Codec, StreamDecoder, StreamEncoder
    >>> c = Codec.load()
    >>> encoder = StreamEncoder(c, bitrate=16.4, independent=True)
    >>> decoder = StreamDecoder(c, encoder.header)
    >>> packets = encoder.push(np.zeros(1000, np.float32))
    >>> samples = [decoder.push(packet) for packet in packets]
    >>> len(packets), sum(map(len, samples))
    (3, 800)
    """

    def __init__(self, codec: Codec, bitrate: float = 13.2, independent: bool = False) -> None:
        self.codec = codec
        self.header = codec.header(0, 16000, bitrate, independent=independent, open_end=True)
        self.num_samples = 0
        self._coder = PacketEncoder(
            codec.weights.tables, codec.config, self.header.num_stages, codec.weights.intra
        )
        self._packet = 0  # number of the next one
        length, hop = codec.config.packet_length, codec.config.hop_length
        # The samples of the unit of packets that is analysed, and how many of them are there; one
        # hop of silence lies before the signal.
        self._unit = np.zeros(hop + ANALYSIS_PACKETS * length, np.float32)
        self._filled = hop

    def push(self, samples: Any) -> list[bytes]:
        """Take in more of the signal and return the packets that it completes.

        Parameters
        ----------
        samples : float array, shape [T]   ±1, any length, 0 included

        Raises
        ------
        ValueError                 not floats of shape [T]
        codec.AudioError     NaN or infinite samples
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(
                f"samples are {samples.dtype} of shape {samples.shape}: give floats of shape [T]"
            )
        if not np.isfinite(samples).all():
            raise AudioError("the signal holds NaN or infinite samples: repair it before encoding")
        self.num_samples += len(samples)
        return self._take(samples.astype(np.float32))

    def finish(self) -> list[bytes]:
        """Return the last packets, the rest of the signal in them; then the encoder is used up."""
        packets = []
        for _ in range(num_packets(self.num_samples) - self._packet):
            missing = self.codec.config.packet_length
            missing -= (self._filled - self.codec.config.hop_length) % missing
            packets += self._take(np.zeros(missing, np.float32))
        return packets

    def _take(self, samples: np.ndarray) -> list[bytes]:
        length, hop = self.codec.config.packet_length, self.codec.config.hop_length
        packets: list[bytes] = []
        while len(samples):
            taken = min(len(samples), len(self._unit) - self._filled)
            self._unit[self._filled : self._filled + taken] = samples[:taken]
            samples = samples[taken:]
            first = self._packet % ANALYSIS_PACKETS
            self._filled += taken
            last = (self._filled - hop) // length
            if last > first:
                packets += self._encode(first, last)
            if self._filled == len(self._unit):
                self._unit[:hop] = self._unit[-hop:]
                self._unit[hop:] = 0.0
                self._filled = hop
        return packets

    def _encode(self, first: int, last: int) -> list[bytes]:
        """Encode packets first..last - 1 of the unit."""
        rate, number = self.header.nominal_bitrate_bps, self._packet
        count = last - first
        envelopes, spectra = analyse_unit(self.codec.analysis, self.codec.config, self._unit)
        edges = [cbr_bytes(rate, number + i) for i in range(count + 1)]
        sizes = [b - a for a, b in zip(edges[:-1], edges[1:], strict=True)]
        intra = intra_packets(count, self.header.independent, number)
        packets, _ = self._coder.encode(envelopes[first:last], spectra[first:last], sizes, intra)
        self._packet += count
        return packets


class StreamDecoder:
    """Decode packets as they arrive; conceal those that do not.

    Parameters
    ----------
    codec : Codec
    header : Header   of the stream: from a file, or `StreamEncoder.header`

    Raises
    ------
    BitstreamError   the stream was coded with other weights
    """

    def __init__(self, codec: Codec, header: Header) -> None:
        codec.check_header(header)
        self.codec = codec
        self.header = header
        self._coder = PacketDecoder(
            codec.weights.tables, codec.config, header.num_stages, codec.weights.intra
        )
        self._synthesis = Synthesis(codec.enhancer, codec.config)
        self._packet = 0
        self._num_samples = 0

    def push(self, packet: bytes | None) -> np.ndarray:
        """Return the samples that a packet completes.

        Parameters
        ----------
        packet : bytes or None   None: it is lost

        Returns
        -------
        float32 array   320 samples, 160 for the first packet
        """
        return self.push_all([packet])

    def push_all(self, packets: Sequence[bytes | None]) -> np.ndarray:
        """Return the samples that several packets complete; faster than one by one."""
        if not packets:
            return np.zeros(0, np.float32)
        intra = intra_packets(len(packets), self.header.independent, self._packet)
        samples = self._synthesis.push(self._coder.decode(packets, intra))
        if self._packet == 0:  # these lie before the signal
            samples = samples[self.codec.config.hop_length :]
        self._packet += len(packets)
        self._num_samples += len(samples)
        return samples

    def finish(self, num_samples: int) -> np.ndarray:
        """Return what is left of a signal of ``num_samples`` samples (may be none).

        The last packet holds all that the signal needs; a signal whose packets are not all there is
        filled up with silence.
        """
        return np.zeros(max(num_samples - self._num_samples, 0), np.float32)
