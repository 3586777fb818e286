"""Decode a stream whose bytes come in pieces of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.bitstream import BitstreamReader, Header, num_codec_samples
from codec.config import SAMPLE_RATE
from codec.io.resample import ResampleStream
from codec.stream import StreamDecoder

if TYPE_CHECKING:
    from codec.api import Codec

FloatArray = NDArray[np.float32]

# Samples by which the last packet of a stream may reach beyond its end.
_LONGEST_REST = 319
_PACKETS_AT_ONCE = 500


class PieceDecoder:
    """Decode a stream piece by piece: bytes in, samples out.

    Parameters
    ----------
    codec : Codec
    sample_rate : int or None   Hz of the samples; None: that of the source
    tolerant : bool             decode what is intact of a damaged stream, and conceal the rest

    Attributes
    ----------
    header : Header or None     None until it has come
    sample_rate : int           of the samples, once there is a header
    num_samples : int           samples given out so far
    problems : list of str      what is wrong with the stream, if that is tolerated
    """

    def __init__(
        self, codec: Codec, sample_rate: int | None = SAMPLE_RATE, tolerant: bool = False
    ) -> None:
        self.sample_rate = sample_rate or 0
        self.num_samples = 0
        self._codec = codec
        self._reader = BitstreamReader(tolerant)
        self._decoder: StreamDecoder | None = None
        self._written = 0  # samples at 16 kHz
        self._kept = np.zeros(0, np.float32)

    @property
    def header(self) -> Header | None:
        """Return the header, once it has come."""
        return self._reader.header

    @property
    def problems(self) -> list[str]:
        """Return what is wrong with the stream."""
        return self._reader.problems

    def push(self, data: bytes) -> FloatArray:
        """Take in bytes and return the samples that they complete.

        Raises
        ------
        BitstreamError   not a stream of this codec, damaged, or coded with other weights
        """
        return self._decode(self._reader.push(data))

    def finish(self) -> FloatArray:
        """Return the last samples.

        Raises
        ------
        BitstreamError   the stream is cut off or damaged
        """
        last = self._decode(self._reader.finish())
        assert self.header is not None
        there = min(num_codec_samples(self.header), self._written + len(self._kept))
        last = np.concatenate([last, self._give(self._kept[: max(there - self._written, 0)])])
        rest = self._resampler.finish(output_length(self.header, self.sample_rate, there))
        self.num_samples += len(rest)
        return np.concatenate([last, rest])

    def _decode(self, packets: Sequence[bytes | None]) -> FloatArray:
        if self._decoder is None:
            if self.header is None:
                return np.zeros(0, np.float32)
            self._decoder = StreamDecoder(self._codec, self.header)
            self.sample_rate = self.sample_rate or self.header.source_sample_rate
            self._resampler = ResampleStream(SAMPLE_RATE, self.sample_rate)
        samples = [self._kept]
        for first in range(0, len(packets), _PACKETS_AT_ONCE):
            samples.append(self._decoder.push_all(packets[first : first + _PACKETS_AT_ONCE]))
        # An open end tells last where within its last 20 ms the signal ends.
        whole = np.concatenate(samples)
        ready, self._kept = np.split(whole, [max(len(whole) - _LONGEST_REST, 0)])
        return self._give(ready)

    def _give(self, samples: FloatArray) -> FloatArray:
        self._written += len(samples)
        out = self._resampler.push(samples)
        self.num_samples += len(out)
        return out


def output_length(header: Header, sample_rate: int, at_codec_rate: int) -> int:
    """Return the samples at `sample_rate` of a stream of which so many are there at 16 kHz."""
    there = -(-at_codec_rate * sample_rate // SAMPLE_RATE)
    return min(header.num_samples, there) if sample_rate == header.source_sample_rate else there
