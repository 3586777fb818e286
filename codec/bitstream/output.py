"""Write a coded file to a place that may take no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codec.bitstream.header import Header
from codec.bitstream.writer import BitstreamWriter
from codec.config import FRAMES_PER_GROUP
from codec.errors import AudioError


class Unwritable(Exception):
    """The output takes no more; why is in the error's cause."""


class StreamOutput:
    """Write a coded file piece by piece, and remember where its groups end.

    Parameters
    ----------
    write : callable   takes bytes

    Attributes
    ----------
    header : Header or None     None until `begin`
    size : int                  bytes that were written
    group_ends : list of int    where in the file each group ends that is, or was to be, written
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.size = 0
        self.group_ends: list[int] = []
        self.header: Header | None = None

    def begin(self, header: Header) -> None:
        """Write the header.

        Raises
        ------
        Unwritable   as all that follows
        """
        self.header, self._writer, self._count = header, BitstreamWriter(header), 0
        self._put(self._writer.header_bytes)

    def packets(self, packets: Sequence[bytes]) -> None:
        """Write packets, and the CRCs of groups that they complete."""
        pieces, end = [], self.size
        for packet in packets:
            pieces.append(self._writer.packet(packet))
            end += len(pieces[-1])
            self._count += 1
            if self._count % FRAMES_PER_GROUP == 0:
                self.group_ends.append(end)
        self._put(b"".join(pieces))

    def finish(self, num_samples: int) -> None:
        """Write what follows the packets of a signal of so many samples."""
        self._put(self._writer.finish(num_samples))

    def _put(self, data: bytes) -> None:
        try:
            self._write(data)
        except BrokenPipeError:
            raise  # whoever reads it has enough
        except (AudioError, OSError) as error:
            raise Unwritable from error
        self.size += len(data)
