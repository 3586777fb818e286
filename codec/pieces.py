"""Encode and decode piece by piece, in memory that does not grow with the signal.

::

    blocks ─► ResampleStream ─► StreamEncoder or TwoPassEncoder ─► BitstreamWriter ─► bytes
    sink ◄─── ResampleStream ◄─ StreamDecoder ◄─ BitstreamReader ◄─ bytes

The bytes are those of :meth:`codec.Codec.encode` of the whole signal, the samples those of
:meth:`codec.Codec.decode`. Files and pipes go this way.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from codec.bitstream import (
    BitstreamReader,
    Header,
    num_codec_samples,
    write_header,
)
from codec.bitstream.output import StreamOutput, Unwritable
from codec.config import (
    DEFAULT_KBPS,
    FRAME_LENGTH,
    FRAMES_PER_GROUP,
    HOP_LENGTH,
    SAMPLE_RATE,
)
from codec.errors import BitstreamError
from codec.io.channels import MIX
from codec.io.output import open_sink, output_format
from codec.io.resample import ResampleStream
from codec.piece_decoder import PieceDecoder, output_length
from codec.stream import StreamEncoder
from codec.two_pass import TwoPassEncoder

if TYPE_CHECKING:
    from codec.api import Codec

FloatArray = NDArray[np.float32]

CHUNK_BYTES = 1 << 16  # of audio
CODED_BYTES = 1 << 13  # of a stream: 8 s at 8 kbit/s


class Stopped(Exception):
    """The work was given up, because the user wants it to end."""


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode.

    Attributes
    ----------
    bitrate : float      kbit/s, 8 to 32
    vbr : bool           variable bitrate; the whole signal is looked at first
    intra_only : bool    no packet needs another
    channel : 'mix' | int   of the source: mix all, or take one, counted from 1
    keep_offset : bool   code the mean of the signal (DC) as well
    effort : str         'normal' or 'high', see :meth:`codec.Codec.encode`
    """

    bitrate: float = DEFAULT_KBPS
    vbr: bool = False
    intra_only: bool = False
    channel: str | int = MIX
    keep_offset: bool = False
    effort: str = "normal"


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode.

    Attributes
    ----------
    sample_rate : int or None   Hz of the output; None: that of the source
    salvage : bool              decode what is intact of a damaged stream
    format : str or None        of the output, a key of `codec.io.output.FORMATS`; None: by suffix
    """

    sample_rate: int | None = SAMPLE_RATE
    salvage: bool = False
    format: str | None = None


@dataclass
class Outcome:
    """What became of one file.

    Attributes
    ----------
    source, target : Path, or str for a URL
    num_samples, sample_rate : int   of the audio that was encoded, or written
    num_bytes : int                  of the stream
    notes : list of str              what the user should know
    problems : list of str           what was salvaged
    error : str                      one line, empty if all went well
    """

    source: Path | str
    target: Path | str
    num_samples: int = 0
    sample_rate: int = SAMPLE_RATE
    num_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def seconds(self) -> float:
        """Return the length of the audio in seconds."""
        return self.num_samples / self.sample_rate


# --- encode ---------------------------------------------------------------------------------------


def encode_blocks(
    codec: Codec,
    blocks: Iterable[FloatArray],
    options: EncodeOptions,
    outcome: Outcome,
    write: Callable[[bytes], object],
    seek: Callable[[int], object] | None = None,
    cut: Callable[[Sequence[int]], int] | None = None,
) -> None:
    """Encode a mono signal that comes in blocks, and enter in `outcome` what came of it.

    Parameters
    ----------
    codec : Codec
    blocks : iterable of float32 arrays, shape [T]
    options : EncodeOptions
    outcome : Outcome      its `sample_rate` is that of the blocks
    write : callable       takes the bytes of the coded file, piece by piece
    seek : callable        moves to a place in what was written; None: it cannot, and a stream of
                           constant bitrate ends with its length instead of beginning with it
    cut : callable         cuts what was written to the last of these ends of groups that is there,
                           and returns how many remain: where no more can be written (the disk is
                           full), these are kept, and `outcome` has the error. None: it is raised
    """
    rate = outcome.sample_rate
    resampler = ResampleStream(rate, SAMPLE_RATE)
    out = StreamOutput(write)
    try:
        if options.vbr:
            header = _encode_vbr(codec, blocks, options, resampler, out)
        else:
            header = _encode_cbr(codec, blocks, options, resampler, out, open_end=seek is None)
    except Unwritable as error:
        assert error.__cause__ is not None
        groups = 0
        if cut is not None and seek is not None:
            groups = cut(out.group_ends)
        if out.header is None or groups == 0:
            raise error.__cause__ from None
        outcome.error = str(error.__cause__)
        if isinstance(error.__cause__, OSError):
            outcome.error = f"the output cannot be written ({error.__cause__.strerror})"
        out.size = out.group_ends[groups - 1]
        there = groups * FRAMES_PER_GROUP * FRAME_LENGTH - HOP_LENGTH
        header = replace(out.header, num_samples=there * rate // SAMPLE_RATE)
    if seek is not None:
        seek(0)
        write(write_header(header))
    outcome.num_samples, outcome.num_bytes = header.num_samples, out.size
    if rate != SAMPLE_RATE:
        outcome.notes.append(f"resampled from {rate} to {SAMPLE_RATE} Hz")


def _encode_cbr(
    codec: Codec,
    blocks: Iterable[FloatArray],
    options: EncodeOptions,
    resampler: ResampleStream,
    out: StreamOutput,
    open_end: bool,
) -> Header:
    """Encode at a constant bitrate, while the blocks come in; return the header at the end."""
    encoder = StreamEncoder(
        codec, options.bitrate, options.intra_only, options.keep_offset, options.effort
    )
    header = replace(encoder.header, source_sample_rate=resampler.old, open_end=open_end)
    out.begin(header)
    for block in blocks:
        if packets := encoder.push(resampler.push(block)):
            out.packets(packets)
    out.packets(encoder.push(resampler.finish()) + encoder.finish())
    out.finish(resampler.num_in)
    return replace(header, num_samples=resampler.num_in)


def _encode_vbr(
    codec: Codec,
    blocks: Iterable[FloatArray],
    options: EncodeOptions,
    resampler: ResampleStream,
    out: StreamOutput,
) -> Header:
    """Encode at a variable bitrate, when all blocks have come; return the header."""
    header = codec.header(0, resampler.old, options.bitrate, True, options.intra_only)
    with TwoPassEncoder(codec, header, options.keep_offset, options.effort) as encoder:
        for block in blocks:
            encoder.push(resampler.push(block))
        encoder.push(resampler.finish())
        header, coded = encoder.finish(resampler.num_in)
        out.begin(header)
        for packets in coded:
            out.packets(packets)
    out.finish(resampler.num_in)
    return header


# --- decode ---------------------------------------------------------------------------------------


def decode_stream(
    codec: Codec,
    source: IO[bytes],
    out: BinaryIO,
    options: DecodeOptions,
    outcome: Outcome,
    seekable: bool,
    stop: threading.Event | None = None,
) -> None:
    """Decode from one open file to another, and enter in `outcome` what came of it.

    Parameters
    ----------
    codec : Codec
    source : binary file
    out : binary file       gets the first bytes when there are samples, or the stream is read
    options : DecodeOptions
    outcome : Outcome       its `target` names the format, if the options do not
    seekable : bool         whether `out` can seek; if not, how long the audio is, is looked up
                            before where that can be
    stop : Event            set by another thread to give the work up

    Raises
    ------
    BitstreamError   not a stream of this codec, damaged, cut off, or other weights
    AudioError       the audio cannot be written, or not in this format; nothing was decoded then
    Stopped          `stop` was set
    """
    format = output_format(outcome.target, options.sample_rate, options.format)
    known = None
    if not seekable:
        if options.salvage and not source.seekable():
            source = io.BytesIO(source.read())
        known = _look_ahead(source, options.salvage)
    decoder = PieceDecoder(codec, options.sample_rate, options.salvage)
    sink = None
    for samples in until(stop, _decoded_pieces(decoder, source)):
        if sink is None:
            assert decoder.header is not None
            output_format(outcome.target, decoder.sample_rate, options.format)
            header, there = known or (decoder.header, num_codec_samples(decoder.header))
            length = (
                None
                if header.open_end and known is None
                else output_length(header, decoder.sample_rate, there)
            )
            sink = open_sink(out, format, decoder.sample_rate, length, seekable)
        sink.write(samples)
    assert sink is not None
    sink.finish()
    outcome.problems += decoder.problems
    outcome.num_samples, outcome.sample_rate = decoder.num_samples, decoder.sample_rate


def _decoded_pieces(decoder: PieceDecoder, source: IO[bytes]) -> Iterator[FloatArray]:
    """Yield the samples of a stream; the first piece, which may be empty, comes with the header."""
    read = getattr(source, "read1", source.read)
    while data := read(CODED_BYTES):
        samples = decoder.push(data)
        if decoder.header is not None:
            yield samples
    yield decoder.finish()


def _look_ahead(source: IO[bytes], tolerant: bool) -> tuple[Header, int] | None:
    """Return the header at the end of a regular file, and the samples that are there at 16 kHz.

    None if it is not regular; or if the header at its beginning tells all, or is wrong.
    """
    if not source.seekable():
        return None
    start = source.tell()
    reader, count = BitstreamReader(tolerant), 0
    try:
        while data := source.read(CODED_BYTES):
            count += len(reader.push(data))
            if reader.header is not None and not (reader.header.open_end or tolerant):
                return None
        count += len(reader.finish())
    except BitstreamError:
        return None
    finally:
        source.seek(start)
    assert reader.header is not None
    there = max(count * FRAME_LENGTH - HOP_LENGTH, 0)
    return reader.header, min(there, num_codec_samples(reader.header))


def until(stop: threading.Event | None, pieces: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """Yield the pieces until the event is set."""
    for piece in pieces:
        if stop is not None and stop.is_set():
            raise Stopped
        yield piece
