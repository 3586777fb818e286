"""The bytes of WAV files and of samples without a header, for pipes as for files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec.errors import AudioError
from codec.io.files import PathLike, atomic_open

FloatArray = NDArray[np.float32]

UNKNOWN_SIZE = 0x7FFFF000  # about 2 GB stand for "unknown" in piped files
_ENDLESS = 0xFFFFFFFF
_MAX_BYTES = _ENDLESS - 4096  # of samples, in a header whose sizes have 32 bits
_LONGEST_CHUNK = 1 << 10  # of those that are looked into
_FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_KNOWN_CHUNKS = (b"data", b"fmt ", b"fact", b"LIST", b"bext", b"JUNK", b"PEAK", b"cue ", b"iXML")
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE


def _expand_alaw() -> FloatArray:
    """Return the sample of each A-law byte (ITU-T G.711, table 1), full scale ±1."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, code & 15
    linear = np.where(
        exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent - 1, 0)
    )
    return (np.where(code & 0x80, 1, -1) * linear * 8 / 32768).astype(np.float32)


def _expand_mulaw() -> FloatArray:
    """Return the sample of each mu-law byte (ITU-T G.711, table 2), full scale ±1."""
    code = ~np.arange(256) & 255
    linear = (((code & 15) * 2 + 33) << ((code >> 4) & 7)) - 33
    return (np.where(code & 0x80, -1, 1) * linear * 4 / 32768).astype(np.float32)


def _expand_24_bits(data: bytes) -> FloatArray:
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return padded.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)


# Bytes per sample, and what turns them into floats with full scale ±1.
_FORMATS: dict[str, tuple[int, Callable[[bytes], FloatArray]]] = {
    "u8": (1, lambda data: (np.frombuffer(data, "u1").astype(np.float32) - 128) / np.float32(128)),
    "s16le": (2, lambda data: np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)),
    "s24le": (3, _expand_24_bits),
    "s32le": (4, lambda data: np.frombuffer(data, "<i4").astype(np.float32) / np.float32(1 << 31)),
    "f32le": (4, lambda data: np.frombuffer(data, "<f4").astype(np.float32)),
    "f64le": (8, lambda data: np.frombuffer(data, "<f8").astype(np.float32)),
    "alaw": (1, lambda data: _expand_alaw()[np.frombuffer(data, np.uint8)]),
    "mulaw": (1, lambda data: _expand_mulaw()[np.frombuffer(data, np.uint8)]),
}
_WAV_FORMATS = {
    (_PCM, 8): "u8",
    (_PCM, 16): "s16le",
    (_PCM, 24): "s24le",
    (_PCM, 32): "s32le",
    (_FLOAT, 32): "f32le",
    (_FLOAT, 64): "f64le",
    (_ALAW, 8): "alaw",
    (_MULAW, 8): "mulaw",
}


class Samples(NamedTuple):
    """What samples without a header are: ``s16le``, ``f32le``, ``alaw``, ``mulaw``, ..."""

    encoding: str
    rate: int
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Return the bytes of one sample of all channels."""
        return _FORMATS[self.encoding][0] * self.channels

    def to_float(self, data: bytes) -> FloatArray:
        """Return whole frames as float32, shape [T, channels], full scale ±1."""
        with np.errstate(over="ignore"):  # doubles beyond float32 become infinite, and are refused
            return _FORMATS[self.encoding][1](data).reshape(-1, self.channels)


class WavHeader(NamedTuple):
    """Where the samples of a WAV file begin, and what they are."""

    samples: Samples | None  # None: of a kind that :class:`Samples` does not know
    offset: int  # of the first sample
    size: int | None  # bytes of samples that it announces; None: it leaves that open
    form: bytes = b"RIFF"
    chunks: bytes = b""  # those that say what the samples are
    usual: bool = True  # apart from its sizes, it is as libsndfile needs it

    def with_size(self, num_bytes: int) -> bytes:
        """Return the bytes of a header that announces so many bytes of samples."""
        if self.form == b"RIFX":
            head = struct.pack(">4sI4s", self.form, 12 + len(self.chunks) + num_bytes, b"WAVE")
            return head + self.chunks + struct.pack(">4sI", b"data", num_bytes)
        align = int.from_bytes(self.chunks[20:22], "little") or 1
        return _riff_header(self.chunks, num_bytes, num_bytes // align)


def parse_wav(read: Callable[[int, int], bytes], limit: int | None = None) -> WavHeader | None:
    """Read the header of a WAV file: RIFF, RIFX (big-endian), RF64 or BW64.

    Parameters
    ----------
    read : callable       takes a place and a number of bytes; returns fewer if there are no more
    limit : int or None   a header that is longer is given up

    Returns
    -------
    WavHeader or None   None: no WAV file
    """
    head = read(0, 12)
    form = head[:4]
    if form not in _FORMS or head[8:] != b"WAVE":
        return None
    order: Literal["little", "big"] = "big" if form == b"RIFX" else "little"
    found: dict[bytes, bytes] = {}
    position, usual = 12, form != b"BW64"
    while limit is None or position < limit:
        chunk = read(position, 8)
        if len(chunk) < 8:
            return None
        name, size = chunk[:4], int.from_bytes(chunk[4:], order)
        position += 8
        if name == b"data":
            if b"fmt " not in found:
                return None
            samples = _parse_format(found[b"fmt "]) if order == "little" else None
            chunks = b"".join(found.pop(kind, b"") for kind in (b"fmt ", b"fact"))
            long_size = found.get(b"ds64", b"")[16:24]
            announced = _announced(form, size, int.from_bytes(long_size, "little"))
            usual = usual and (form != b"RF64" or (len(long_size) == 8 and bool(announced)))
            return WavHeader(samples, position, announced, form, chunks, usual)
        if name in (b"fmt ", b"fact", b"ds64"):
            if size > _LONGEST_CHUNK:
                return None
            found[name] = chunk + read(position, size) + bytes(size % 2)
        position += size
        if size % 2:
            # Some programs leave the pad byte out.
            padded = read(position + 1, 4) not in _KNOWN_CHUNKS
            if padded and read(position, 4) in _KNOWN_CHUNKS:
                usual = False
            else:
                position += 1
    return None


def _announced(form: bytes, size: int, long_size: int) -> int | None:
    """Return the bytes of samples that a header announces, None where it leaves them open."""
    if form in (b"RF64", b"BW64") and size == _ENDLESS:
        return long_size if long_size < 1 << 63 else None
    # What programs write that do not know: 4 GB, or about 2.
    is_open = size >= _ENDLESS - 0xFF or UNKNOWN_SIZE <= size <= 0x80000100
    return None if is_open else size


def _parse_format(chunk: bytes) -> Samples | None:
    body = chunk[8:]
    if len(body) < 16:
        return None
    tag, channels, rate, _, align, bits = struct.unpack("<HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = int.from_bytes(body[24:26], "little")
    encoding = _WAV_FORMATS.get((tag, bits))
    if encoding is None or not channels or align * 8 != channels * bits:
        return None
    return Samples(encoding, rate, channels)


# --- writing --------------------------------------------------------------------------------------


def to_int16(waveform: ArrayLike) -> NDArray[np.int16]:
    """Quantize to 16 bits: round(x * 32768), ties to even, clipped to -32768..32767."""
    scaled = np.rint(np.asarray(waveform, dtype=np.float64) * 32768.0)
    if not np.isfinite(scaled).all():
        raise AudioError("waveform has NaN or infinite samples")
    return np.clip(scaled, -32768, 32767).astype("<i2")


def from_float(waveform: FloatArray, encoding: str) -> bytes:
    """Return samples without a header: s16le, f32le, alaw or mulaw.

    Parameters
    ----------
    waveform : float array, shape [T], full scale ±1, clipped
    encoding : str   as in :class:`Samples`
    """
    if encoding == "s16le":
        return to_int16(waveform).tobytes()
    if encoding == "f32le":
        return np.clip(waveform, -1, 1).astype("<f4").tobytes()
    # G.711: the byte whose sample is nearest.
    values = (_expand_alaw() if encoding == "alaw" else _expand_mulaw()).astype(np.float64)
    order = np.argsort(values, kind="stable").astype(np.uint8)
    limits = (values[order][1:] + values[order][:-1]) / 2
    return order[np.searchsorted(limits, np.asarray(waveform, np.float64))].tobytes()


def wav_header(rate: int, num_samples: int | None = None) -> bytes:
    """Return the bytes before 16-bit mono WAV samples: 44, or 80 of RF64 from 4 GB on.

    Parameters
    ----------
    rate : int, Hz
    num_samples : int or None   None: as many as will come
    """
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, _PCM, 1, rate, 2 * rate, 2, 16)
    if num_samples is None:
        return struct.pack("<4sI4s", b"RIFF", _ENDLESS, b"WAVE") + fmt + b"data" + b"\xff" * 4
    return _riff_header(fmt, 2 * num_samples, num_samples)


def _riff_header(chunks: bytes, num_bytes: int, num_samples: int) -> bytes:
    """Return a header that has these chunks, whole ones, and announces so many bytes."""
    size = 12 + len(chunks) + num_bytes
    if num_bytes <= _MAX_BYTES:
        riff = struct.pack("<4sI4s", b"RIFF", size, b"WAVE")
        return riff + chunks + struct.pack("<4sI", b"data", num_bytes)
    # EBU Tech 3306: the sizes of 64 bits stand in a chunk of their own.
    riff = struct.pack("<4sI4s", b"RF64", _ENDLESS, b"WAVE")
    ds64 = struct.pack("<4sIQQQI", b"ds64", 28, size + 36, num_bytes, num_samples, 0)
    return riff + ds64 + chunks + struct.pack("<4sI", b"data", _ENDLESS)


def write_wav(path: PathLike, waveform: ArrayLike, rate: int) -> None:
    """Write a mono 16-bit PCM WAV file, all or nothing; RF64 from 4 GB on.

    Parameters
    ----------
    path : output file; replaced if it exists
    waveform : float array, shape [T], full scale ±1, clipped
    rate : int, Hz

    Raises
    ------
    AudioError   not finite, or the file cannot be written; nothing is left behind then
    """
    samples = to_int16(waveform)
    # Not by libsndfile, which calls back to write: an error of the disk or a Ctrl-C in there would
    # be printed and forgotten, and a half file kept.
    with atomic_open(path) as file:
        file.write(wav_header(rate, samples.size))
        file.write(samples.data)
