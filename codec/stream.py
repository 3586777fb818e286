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
from codec.config import DELAY_SAMPLES, FRAME_LENGTH, HOP_LENGTH
from codec.io.channels import check_samples

if TYPE_CHECKING:
    from codec.api import Codec

__all__ = ["DELAY_SAMPLES", "StreamDecoder", "StreamEncoder"]


class StreamEncoder:
    """Encode a 16 kHz signal as it comes in, at a constant bitrate.

    Parameters
    ----------
    codec : Codec
    bitrate : float      kbit/s, 8 to 32
    independent : bool   no packet needs another to be decoded: for networks that lose packets
    keep_offset : bool   code the mean of the signal (DC) as well
    effort : str         'normal' or 'high', see :meth:`codec.Codec.encode`

    Attributes
    ----------
    num_samples : int    samples taken in so far
    header : Header      what the decoder must know, with an open end

    Raises
    ------
    ValueError   bitrate out of range, unknown effort

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

    def __init__(
        self,
        codec: Codec,
        bitrate: float = 13.2,
        independent: bool = False,
        keep_offset: bool = False,
        effort: str = "normal",
    ) -> None:
        self.codec = codec
        self.header = codec.header(0, 16000, bitrate, independent=independent, open_end=True)
        self.num_samples = 0
        self._encoder = codec.frame_encoder(self.header, keep_offset, effort)
        self._ended = False
        self._frame = 0  # number of the next one
        self._rest = np.zeros(0, np.float32)  # samples that do not fill a frame yet

    def push(self, samples: Any) -> list[bytes]:
        """Take in more of the signal and return the packets that it completes.

        Parameters
        ----------
        samples : float array, shape [T]   ±1, any length, 0 included

        Raises
        ------
        ValueError                 not floats of shape [T]; after `finish`
        codec.AudioError           NaN, infinite or absurdly large samples
        """
        if self._ended:
            raise ValueError("the stream is finished: begin another one")
        samples = np.asarray(samples)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(
                f"samples are {samples.dtype} of shape {samples.shape}: give floats of shape [T]"
            )
        check_samples(samples, "the signal")
        self.num_samples += len(samples)
        return self._take(samples.astype(np.float32))

    def finish(self) -> list[bytes]:
        """Return the last packets, the rest of the signal in them; then the encoder is used up."""
        self._ended = True
        missing = num_packets(self.num_samples) - self._frame
        return self._encode(self._rest, missing)

    def _take(self, samples: np.ndarray) -> list[bytes]:
        """Encode the frames that the samples complete, and keep what is left."""
        samples = np.concatenate([self._rest, samples])
        count = len(samples) // FRAME_LENGTH
        self._rest = samples[count * FRAME_LENGTH :]
        return self._encode(samples[: count * FRAME_LENGTH], count)

    def _encode(self, samples: np.ndarray, count: int) -> list[bytes]:
        """Encode frames of which only the signal's last ones may not be full."""
        if not count:
            return []
        spectra, proposed = self._encoder.analyse(samples, count)
        rate, first = self.header.nominal_bitrate_bps, self._frame
        edges = [cbr_bytes(rate, first + i) for i in range(count + 1)]
        intra = intra_packets(count, self.header.independent, first)
        self._frame += count
        return self._encoder.encode(spectra, proposed, np.diff(edges), intra)


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
        self._decoder = codec.frame_decoder(header)
        self._frame = 0
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
        intra = intra_packets(len(packets), self.header.independent, self._frame)
        samples = self._decoder.decode(packets, intra)
        if self._frame == 0:  # these lie before the signal
            samples = samples[HOP_LENGTH:]
        self._frame += len(packets)
        self._num_samples += len(samples)
        return samples

    def finish(self, num_samples: int) -> np.ndarray:
        """Return what is left of a signal of ``num_samples`` samples (may be none).

        The last packet holds all that the signal needs; a signal whose packets are not all there is
        filled up with silence.
        """
        return np.zeros(max(num_samples - self._num_samples, 0), np.float32)
