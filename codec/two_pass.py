"""Encode at a variable bitrate, in two passes: the first one looks at the signal, the second codes.

::

    samples ─► analysis ─┬─► spectra, proposed ─► a temporary file ─► FrameEncoder ─► packets
                         └─► energy of all frames ─► vbr_sizes ────────────┘

What a frame gets depends on all others, so the second pass begins when the signal has ended. In
memory there remain 40 bytes of each frame, 7 MB for an hour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np

from codec.bitstream import Header, intra_packets, num_codec_samples, num_packets
from codec.coding.vbr import frame_energies
from codec.config import BLOCKS_PER_FRAME, FRAME_LENGTH, HOP_LENGTH, NUM_PROPOSED
from codec.errors import AudioError

if TYPE_CHECKING:
    from codec.api import Codec

IN_MEMORY_BYTES = 1 << 22  # of a short signal, for which no temporary file is needed
_FRAMES_AT_ONCE = 1000


class TwoPassEncoder:
    """Encode a 16 kHz signal that comes in pieces, at a variable bitrate.

    The packets are those of :meth:`codec.Codec.encode` of the whole.

    Parameters
    ----------
    codec : Codec
    header : Header   of the stream; its number of samples does not matter yet
    keep_offset : bool   code the mean of the signal (DC) as well
    effort : str         'normal' or 'high'

    Use it in a ``with`` block: its temporary files go when that ends.
    """

    def __init__(
        self, codec: Codec, header: Header, keep_offset: bool = False, effort: str = "normal"
    ) -> None:
        self.codec = codec
        self.header = header
        self._encoder = codec.frame_encoder(header, keep_offset, effort)
        self._rest = np.zeros(0, np.float32)  # samples that do not fill a frame yet
        self._energy: list[np.ndarray] = []
        self._spectra = _Rows((BLOCKS_PER_FRAME, HOP_LENGTH))
        self._proposed = _Rows((NUM_PROPOSED,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._spectra.close()
        self._proposed.close()

    def push(self, samples: np.ndarray) -> None:
        """Take in more of the signal, float32 [T]."""
        samples = np.concatenate([self._rest, samples])
        count = len(samples) // FRAME_LENGTH
        self._rest = samples[count * FRAME_LENGTH :].copy()
        for first in range(0, count, _FRAMES_AT_ONCE):
            last = min(first + _FRAMES_AT_ONCE, count)
            piece = samples[first * FRAME_LENGTH : last * FRAME_LENGTH]
            self._analyse(piece, last - first)

    def _analyse(self, samples: np.ndarray, count: int) -> None:
        """Analyse frames of which only the signal's last ones may not be full."""
        spectra, proposed = self._encoder.analyse(samples, count)
        self._energy.append(frame_energies(spectra))
        self._spectra.append(spectra)
        self._proposed.append(proposed)

    def finish(self, num_samples: int) -> tuple[Header, Iterator[list[bytes]]]:
        """Return the header, and the packets as they are coded; then the encoder is used up.

        Parameters
        ----------
        num_samples : int   of the source, at its own rate
        """
        header = replace(self.header, num_samples=num_samples)
        missing = num_packets(num_codec_samples(header)) - len(self._spectra)
        self._analyse(self._rest, missing)
        return header, self._packets()

    def _packets(self) -> Iterator[list[bytes]]:
        """Code what was analysed."""
        energy = np.concatenate([np.zeros(0, np.float32), *self._energy])
        self._energy.clear()
        sizes = self.codec.vbr_packet_sizes(self.header, self._proposed, energy)
        first = 0
        for spectra, proposed in zip(self._spectra, self._proposed, strict=True):
            last = first + len(spectra)
            intra = intra_packets(last - first, self.header.independent, first)
            yield self._encoder.encode(spectra, proposed, sizes[first:last], intra)
            first = last


class _Rows:
    """Arrays [any, ...] of float32, of which only a short signal's are held in memory."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._row_bytes = 4 * int(np.prod(shape))
        self._count = 0
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Append an array [any, ...]."""
        try:
            self._file.write(rows.tobytes())
            self._file.flush()
        except OSError as error:
            raise AudioError(
                f"{tempfile.gettempdir()}: cannot be written ({error.strerror}), but a variable "
                "bitrate needs room there; name another folder in TMPDIR"
            ) from error
        self._count += len(rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield all rows, so many at once."""
        for first in range(0, self._count, _FRAMES_AT_ONCE):
            self._file.seek(first * self._row_bytes)
            data = bytearray(self._file.read(_FRAMES_AT_ONCE * self._row_bytes))
            yield np.frombuffer(data, np.float32).reshape(-1, *self._shape)
