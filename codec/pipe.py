"""Standard input and output: encode and decode while the signal passes through.

Sound is 16-bit PCM, raw or as WAV. Signed 16-bit WAV at 16 kHz and raw samples pass through in
constant memory, with 30 ms of delay; anything else is read to its end first.
"""

from __future__ import annotations

import struct
import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import numpy as np

from codec.bitstream import BitstreamReader, BitstreamWriter, num_codec_samples, write_header
from codec.config import SAMPLE_RATE as CODEC_RATE
from codec.errors import AudioError
from codec.io.audio import read_audio
from codec.io.wav import to_int16
from codec.stream import StreamDecoder, StreamEncoder

if TYPE_CHECKING:
    from codec.api import Codec

CHUNK_BYTES = 1 << 16
# What the first bytes of audio files look like; everything else is raw samples.
_CONTAINERS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b"caff", b"riff", b".snd")
# Samples by which the last packet of a stream may reach beyond its end.
_LONGEST_REST = 319


class _Pieces:
    """A readable pipe to which bytes that were looked at can be given back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._first = b""

    def peek(self, size: int) -> bytes:
        """Return the first bytes, fewer at the end of the pipe, and leave them there."""
        while len(self._first) < size:
            piece = self._file.read(size - len(self._first))
            if not piece:
                break
            self._first += piece
        return self._first

    def read(self, size: int = -1) -> bytes:
        """Return exactly ``size`` bytes, fewer at the end only; all of them for -1."""
        first, self._first = self._first, b""
        if size < 0:
            return first + self._file.read()
        if len(first) >= size:
            self._first = first[size:]
            return first[:size]
        return first + self._file.read(size - len(first))

    def read_some(self, size: int) -> bytes:
        """Return what is there, at least one byte but at the end."""
        if self._first:
            first, self._first = self._first[:size], self._first[size:]
            return first
        read = getattr(self._file, "read1", self._file.read)
        return bytes(read(size))


def _wav_format(pipe: _Pieces) -> tuple[int, int] | None:
    """Read a WAV header up to its samples; return channels and bytes that the samples take.

    None if it is not 16-bit PCM at 16 kHz; then nothing has been read. A length that is not known
    (0 or the largest number, as programs write into pipes) comes back as -1.
    """
    head = pipe.peek(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    position, channels = 12, 0
    while position < CHUNK_BYTES:
        chunk = pipe.peek(position + 8)[position:]
        if len(chunk) < 8:
            return None
        name, size = chunk[:4], int.from_bytes(chunk[4:8], "little")
        if name == b"data":
            if not channels:
                return None
            pipe.read(position + 8)
            return channels, size if 0 < size < 0x7FFFF000 else -1
        if name == b"fmt ":
            fields = pipe.peek(position + 24)[position + 8 : position + 24]
            if size < 16 or len(fields) < 16:
                return None
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", fields)
            if (kind, rate, bits) != (wave.WAVE_FORMAT_PCM, CODEC_RATE, 16) or not channels:
                return None
        position += 8 + size + size % 2
    return None


def _samples(pipe: _Pieces, channels: int, num_bytes: int) -> Iterator[np.ndarray]:
    """Yield mono float samples of interleaved 16-bit PCM as they come in, ``num_bytes`` or -1."""
    frame = 2 * channels
    rest = b""
    while num_bytes:
        size = CHUNK_BYTES if num_bytes < 0 else min(CHUNK_BYTES, num_bytes)
        data = pipe.read_some(size)
        if not data:
            break
        if num_bytes > 0:
            num_bytes -= len(data)
        data = rest + data
        whole = len(data) - len(data) % frame
        rest = data[whole:]
        pcm = np.frombuffer(data[:whole], "<i2").reshape(-1, channels)
        samples = pcm.astype(np.float32) / np.float32(32768)
        yield samples[:, 0] if channels == 1 else samples.mean(1, dtype=np.float64).astype("f4")


def encode_pipe(
    codec: Codec,
    source: IO[bytes],
    write: Callable[[bytes], object],
    bitrate: float,
    vbr: bool = False,
    independent: bool = False,
    seek: Callable[[int], object] | None = None,
) -> tuple[int, int, list[str]]:
    """Encode what comes in from a pipe.

    Parameters
    ----------
    codec : Codec
    source : binary file         raw 16-bit samples (16 kHz, mono, little-endian), or an audio file
    write : callable             takes the bytes of the coded file, piece by piece
    bitrate : float              kbit/s
    vbr, independent : bool      as for ``Codec.encode``; VBR looks at the whole signal first
    seek : callable              moves to a place in what was written; None: it cannot, and the
                                 stream ends with its length instead of beginning with it

    Returns
    -------
    num_samples, sample_rate : int
    notes : list of str

    Raises
    ------
    AudioError   not audio
    """
    pipe = _Pieces(source)
    head = pipe.peek(4)
    contained = head.startswith(_CONTAINERS)
    layout = _wav_format(pipe) if contained else (1, -1)
    if layout is None or vbr:
        return _encode_whole(codec, pipe, write, bitrate, vbr, independent, layout)
    encoder = StreamEncoder(codec, bitrate, independent)
    header = encoder.header if seek is None else replace(encoder.header, open_end=False)
    writer = BitstreamWriter(header)
    write(writer.header_bytes)
    for samples in _samples(pipe, *layout):
        packets = encoder.push(samples)
        if packets:
            write(b"".join(map(writer.packet, packets)))
    write(b"".join(map(writer.packet, encoder.finish())) + writer.finish(encoder.num_samples))
    if seek is not None:
        seek(0)
        write(write_header(replace(header, num_samples=encoder.num_samples)))
    channels = layout[0]
    notes = [f"downmixed {channels} channels to mono"] if channels > 1 else []
    return encoder.num_samples, CODEC_RATE, notes


def _encode_whole(
    codec: Codec,
    pipe: _Pieces,
    write: Callable[[bytes], object],
    bitrate: float,
    vbr: bool,
    independent: bool,
    layout: tuple[int, int] | None,
) -> tuple[int, int, list[str]]:
    """Encode what cannot be coded while it comes in."""
    if layout is not None:
        pieces = list(_samples(pipe, *layout))
        waveform = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        rate, notes = CODEC_RATE, list[str]()
    else:
        with tempfile.NamedTemporaryFile() as file:
            while data := pipe.read_some(CHUNK_BYTES):
                file.write(data)
            file.flush()
            try:
                waveform, rate, notes = read_audio(file.name)
            except AudioError as error:
                message = str(error).replace(file.name, "standard input")
                raise AudioError(message) from None
        notes.append("standard input is not 16-bit PCM at 16 kHz: read to its end before coding")
    write(codec.encode(waveform, rate, bitrate=bitrate, vbr=vbr, independent=independent))
    return len(waveform), rate, notes


def decode_pipe(codec: Codec, source: IO[bytes], write: Callable[[bytes], object]) -> int:
    """Decode what comes in from a pipe to raw 16-bit samples, 16 kHz, little-endian.

    A stream with an open end tells its length last, so its last 20 ms are held back until then.

    Parameters
    ----------
    codec : Codec
    source : binary file   a coded file or stream
    write : callable       takes samples, as bytes

    Returns
    -------
    int   samples written

    Raises
    ------
    BitstreamError   not a file of this codec, damaged, cut off, or other weights; samples that came
                     before the fault have been written
    """
    pipe, reader = _Pieces(source), BitstreamReader()
    decoder: StreamDecoder | None = None
    kept = np.zeros(0, np.float32)
    written = 0
    while data := pipe.read_some(CHUNK_BYTES):
        packets = reader.push(data)
        if decoder is None and reader.header is not None:
            decoder = StreamDecoder(codec, reader.header)
        if decoder is None or not packets:
            continue
        kept = np.concatenate([kept, decoder.push_all(packets)])
        ready = kept[: max(len(kept) - _LONGEST_REST, 0)]
        if len(ready):
            write(to_int16(ready).astype("<i2").tobytes())
        kept = kept[len(ready) :]
        written += len(ready)
    reader.finish()
    assert reader.header is not None
    kept = kept[: num_codec_samples(reader.header) - written]
    write(to_int16(kept).astype("<i2").tobytes())
    return written + len(kept)
