"""Audio files as they arrive: containers, headers that are wrong, damage, other things."""

from __future__ import annotations

import functools
import gzip
import io
import shutil
import struct
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import soundfile

RATE, LENGTH = 16000, 12_001  # neither whole packets nor an even number of bytes per channel
ENDLESS = 0xFFFFFFFF
PCM_GUID = struct.pack("<IHH8s", 1, 0, 16, b"\x80\0\0\xaa\0\x38\x9b\x71")


class Case(NamedTuple):
    """One input.

    Attributes
    ----------
    item : int             of the list of cases in docs/reliability.md
    name, suffix : str     of the file
    make : callable        returns its bytes; none: a program is missing
    samples : int or None  that are to be read; None: it is refused
    word : str             part of a note, or of the error
    exact : bool           the samples are those of `signal`
    pipe : bool            on standard input it is the same
    slack : int            samples by which coders may lengthen it
    """

    item: int
    name: str
    suffix: str
    make: Callable[[], bytes]
    samples: int | None = LENGTH
    word: str = ""
    exact: bool = True
    pipe: bool = True
    slack: int = 0


@functools.cache
def signal() -> np.ndarray:
    """Return what most files hold: a gliding buzz, int16 [LENGTH]."""
    t = np.arange(LENGTH) / RATE
    phase = 2 * np.pi * (120 * t + 5 * np.sin(2 * np.pi * 2 * t))
    wave = sum(np.cos(k * phase) / (1 + ((k * 120 - 600) / 250) ** 2) for k in range(1, 20))
    wave = wave + 0.02 * np.random.default_rng(0).standard_normal(LENGTH)
    return (9000 * wave / np.abs(wave).max()).astype("<i2")


def encoded(container: str, subtype: str | None = None, x: np.ndarray | None = None) -> bytes:
    """Return a file that libsndfile writes."""
    buffer = io.BytesIO()
    wave = signal() if x is None else x
    if subtype in ("FLOAT", "DOUBLE") or container == "MAT5":
        wave = wave / 32768  # else libsndfile would write the numbers as they are
    soundfile.write(buffer, wave, RATE, format=container, subtype=subtype)
    return buffer.getvalue()


def run(*command: str) -> bytes:
    """Return what a program makes of the signal as WAV, empty where there is no such program."""
    if shutil.which(command[0]) is None:
        return b""
    return subprocess.run(command, input=encoded("WAV"), capture_output=True, check=False).stdout


def ffmpeg(*options: str) -> bytes:
    """Return what ffmpeg writes into a pipe."""
    return run("ffmpeg", "-loglevel", "error", "-i", "-", *options, "-")


# --- WAV ------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes, size: int | None = None, pad: bool = True) -> bytes:
    """Return a RIFF chunk, whose size may lie."""
    size = len(data) if size is None else size
    return name + struct.pack("<I", size) + data + b"\0" * (pad and len(data) % 2)


def fmt(tag: int = 1, bits: int = 16, extra: bytes = b"", align: int | None = None) -> bytes:
    """Return the chunk that says what mono samples are."""
    align = bits // 8 if align is None else align
    head = struct.pack("<HHIIHH", tag, 1, RATE, RATE * align, align, bits)
    return chunk(b"fmt ", head + extra)


def riff(*chunks: bytes, size: int | None = None, form: bytes = b"RIFF") -> bytes:
    """Return a WAV file of these chunks."""
    body = b"WAVE" + b"".join(chunks)
    return form + struct.pack("<I", len(body) if size is None else size) + body


def samples() -> bytes:
    """Return the signal without a header."""
    return signal().tobytes()


def wav(size: int | None = None, riff_size: int | None = None, *before: bytes) -> bytes:
    """Return a WAV file with the sizes of a recorder that died, or of a pipe."""
    return riff(fmt(), *before, chunk(b"data", samples(), size), size=riff_size)


def rf64(ds64: tuple[int, int, int] | None, form: bytes = b"RF64") -> bytes:
    """Return a WAV file with sizes of 64 bits: of the file, of the samples, and their number."""
    sizes = [chunk(b"ds64", struct.pack("<QQQI", *ds64, 0))] if ds64 else []
    return riff(*sizes, fmt(), chunk(b"data", samples(), ENDLESS), size=ENDLESS, form=form)


def extensible(mask: int) -> bytes:
    """Return a WAV file of the extensible format, for these loudspeakers."""
    return riff(
        fmt(0xFFFE, extra=struct.pack("<HHI", 22, 16, mask) + PCM_GUID), chunk(b"data", samples())
    )


def patched(data: bytes, place: int, value: bytes) -> bytes:
    """Return a file with some bytes replaced."""
    return data[:place] + value + data[place + len(value) :]


def patched_at(container: str, name: bytes, offset: int, value: bytes) -> bytes:
    """Return a file with bytes replaced behind the name of a chunk."""
    data = encoded(container)
    return patched(data, data.index(name) + offset, value)


def surround(channels: int, place: int) -> np.ndarray:
    """Return the signal in one channel of several."""
    x = np.zeros((LENGTH, channels), "<i2")
    x[:, place] = signal()
    return x


WAV_CASES = [
    Case(3, "data size 0", ".wav", lambda: wav(0), word="announces no audio"),
    Case(3, "data and RIFF size 0", ".wav", lambda: wav(0, 0), word="announces no audio"),
    Case(3, "data size 0, RIFF size 36", ".wav", lambda: wav(0, 36), word="announces no audio"),
    Case(3, "data size 0 behind LIST", ".wav",
         lambda: wav(0, None, chunk(b"LIST", b"INFO")), word="announces no audio"),
    Case(3, "data size 4 GB", ".wav", lambda: wav(ENDLESS, ENDLESS)),
    Case(3, "data size 2 GB", ".wav", lambda: wav(0x7FFFFFFF, ENDLESS)),
    Case(3, "no samples, but chunks", ".wav",
         lambda: riff(fmt(), chunk(b"data", b""), chunk(b"LIST", b"INFO")), 0, exact=False),
    Case(3, "RF64", ".rf64", lambda: rf64((2 * LENGTH + 72, 2 * LENGTH, LENGTH))),
    Case(3, "RF64 with sizes of -1", ".rf64", lambda: rf64((2**64 - 1,) * 3)),
    Case(3, "RF64 with sizes of 0", ".rf64", lambda: rf64((0, 0, 0)), word="announces no audio"),
    Case(3, "RF64 without sizes", ".rf64", lambda: rf64(None)),
    Case(3, "BW64", ".wav", lambda: rf64((2 * LENGTH + 72, 2 * LENGTH, LENGTH), b"BW64")),
    Case(3, "cut WAV", ".wav", lambda: wav()[:10044], 5000, "10000 of 24002 bytes"),
    Case(3, "cut RF64", ".rf64",
         lambda: rf64((2 * LENGTH + 72, 2 * LENGTH, LENGTH))[:10080], 5000, "10000 of 24002"),
    Case(3, "odd chunk without its pad byte", ".wav",
         lambda: wav(None, None, chunk(b"note", b"abc", pad=False))),
    Case(3, "odd chunk", ".wav", lambda: wav(None, None, chunk(b"note", b"abc"))),
    Case(3, "100 kB before the samples", ".wav",
         lambda: wav(None, None, chunk(b"JUNK", bytes(100_001)))),
    Case(3, "bytes behind the samples", ".wav", lambda: wav() + b"\xee" * 1000,
         word="1000 bytes behind the announced audio"),
    Case(16, "a large chunk behind the samples", ".wav",
         lambda: riff(fmt(), chunk(b"data", samples()), chunk(b"LIST", bytes(200_000)))),
    Case(2, "RIFX", ".wav", lambda: _rifx()),
    *(Case(2, f"extensible, mask {mask:x}", ".wav", functools.partial(extensible, mask))
      for mask in (0, 4, 3, ENDLESS)),
    *(Case(2, f"WAV {subtype}", ".wav", functools.partial(encoded, "WAV", subtype))
      for subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *(Case(2, f"WAV {subtype}", ".wav", functools.partial(encoded, "WAV", subtype), exact=False)
      for subtype in ("PCM_U8", "ALAW", "ULAW")),
    *(Case(2, f"WAV {subtype}", ".wav", functools.partial(encoded, "WAV", subtype), exact=False,
           slack=1000) for subtype in ("IMA_ADPCM", "MS_ADPCM", "GSM610")),
]  # fmt: skip


def _rifx() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, signal(), RATE, format="WAV", subtype="PCM_16", endian="BIG")
    return buffer.getvalue()


# --- other containers -----------------------------------------------------------------------------


CONTAINER_CASES = [
    *(Case(2, kind, f".{kind.lower()}", functools.partial(encoded, kind))
      for kind in ("AIFF", "AU", "CAF", "W64", "FLAC", "AVR", "PAF", "PVF", "VOC", "IRCAM",
                   "HTK", "MAT5", "MPC2K")),
    Case(2, "NIST SPHERE", ".sph", lambda: encoded("NIST")),
    Case(2, "8SVX", ".svx", lambda: encoded("SVX")),
    Case(2, "Matlab 4", ".mat", lambda: encoded("MAT4", "PCM_16")),
    Case(3, "AIFF without a count", ".aiff", lambda: _aiff(bytes(4), bytes(4)),
         word="announces no audio"),
    Case(3, "AIFF, no count", ".aiff", lambda: _aiff(bytes(4), None)),
    Case(3, "AIFF, too large a count", ".aiff", lambda: _aiff(b"\x7f\xff\xff\xff", None)),
    Case(3, "AIFF of half the count", ".aiff", lambda: _aiff(b"\0\0\x10\0", None)),
    Case(3, "AIFF of 4 GB", ".aiff", lambda: _aiff(None, b"\xff" * 4)),
    Case(3, "cut AIFF", ".aiff", lambda: encoded("AIFF")[:10_054], 5000, "10000 of 24002"),
    Case(3, "AU of size 0", ".au", lambda: patched(encoded("AU"), 8, bytes(4)),
         word="announces no audio"),
    Case(3, "AU of size -1", ".au", lambda: patched(encoded("AU"), 8, b"\xff" * 4)),
    Case(3, "cut AU", ".au", lambda: encoded("AU")[:10_024], 5000, "10000 of 24002"),
    Case(3, "CAF of size -1", ".caf", lambda: patched_at("CAF", b"data", 4, b"\xff" * 8)),
    Case(3, "CAF of size 0", ".caf", lambda: patched_at("CAF", b"data", 4, bytes(8)),
         word="announces no audio"),
    Case(3, "cut CAF", ".caf", lambda: _cut_caf(), 5000, "10000 of 24002"),
    Case(3, "W64 of size -1", ".w64", lambda: patched_at("W64", b"data", 16, b"\xff" * 8)),
    Case(3, "W64 of size 0", ".w64",
         lambda: patched_at("W64", b"data", 16, struct.pack("<Q", 24)), word="announces no audio"),
    Case(3, "cut SPHERE", ".sph", lambda: encoded("NIST")[:11_024], 5000, "10000 of 24002"),
]  # fmt: skip


def _aiff(count: bytes | None, size: bytes | None) -> bytes:
    data = encoded("AIFF")
    if count is not None:
        data = patched(data, data.index(b"COMM") + 10, count)
    return data if size is None else patched(data, data.index(b"SSND") + 4, size)


def _cut_caf() -> bytes:
    data = encoded("CAF")
    return data[: data.index(b"data") + 16 + 10_000]


# --- FLAC, Ogg, MP3 -------------------------------------------------------------------------------


def flac(known: bool = False) -> bytes:
    """Return a FLAC file as an encoder writes it into a pipe: of unknown length."""
    data = bytearray(encoded("FLAC"))
    if not known:
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    return bytes(data)


def mp3(tagged: bool = True) -> bytes:
    """Return an MP3 file, without the frame that counts the others if it is not tagged."""
    data = encoded("MP3")
    return data if tagged else data[data.index(b"\xff\xf3", 4) :]


ID3V1, ID3V2 = b"TAG" + bytes(125), b"ID3\3\0\0\0\0\x01\0" + bytes(128)

CODED_CASES = [
    Case(4, "FLAC of unknown length", ".flac", flac),
    Case(4, "FLAC with ID3 tags", ".flac", lambda: ID3V2 + flac() + ID3V1),
    Case(4, "joined FLAC", ".flac", lambda: flac(True) * 2, 2 * LENGTH, "a chain of 2"),
    Case(4, "FLAC cut in the middle", ".flac", lambda: flac()[: len(flac()) // 2], 4096,
         "damaged 0.3 s after", slack=4096),
    Case(4, "FLAC with a hole", ".flac",
         lambda: patched(flac(), len(flac()) // 2, bytes(50)), LENGTH, "damaged", exact=False),
    Case(4, "chained Ogg Vorbis", ".ogg", lambda: encoded("OGG") * 2, 2 * LENGTH, "a chain of 2",
         exact=False),
    Case(4, "chained Ogg Opus", ".opus", lambda: encoded("OGG", "OPUS") * 2, 2 * LENGTH,
         "a chain of 2", exact=False),
    Case(4, "chained Ogg with junk", ".ogg",
         lambda: encoded("OGG") + b"junk" * 10 + encoded("OGG"), 2 * LENGTH, "40 bytes",
         exact=False),
    Case(3, "cut Ogg", ".ogg", lambda: encoded("OGG")[:-300], 0, "cut off", exact=False,
         slack=LENGTH),
    Case(2, "MP3", ".mp3", mp3, exact=False),
    Case(2, "MP3 without a tag", ".mp3", lambda: mp3(False), exact=False, slack=3000),
    Case(2, "MP3 behind zeros", ".mp3", lambda: bytes(3000) + mp3(), word="3000 bytes between",
         exact=False),
    Case(4, "joined MP3", ".mp3", lambda: mp3() + ID3V1 + ID3V2 + mp3(), 2 * LENGTH,
         "a chain of 2", exact=False),
    Case(17, "MP3 with junk", ".mp3",
         lambda: mp3()[:1500] + b"junk" * 1000 + mp3()[1500:], word="bytes between its frames",
         exact=False),
]  # fmt: skip


# --- channels -------------------------------------------------------------------------------------


def antiphase() -> np.ndarray:
    """Return stereo whose channels cancel each other."""
    return np.stack([signal(), -signal()], 1)


CHANNEL_CASES = [
    Case(6, "antiphase stereo", ".wav", lambda: encoded("WAV", x=antiphase()), word="sign changed"),
    Case(6, "one-sided stereo", ".wav", lambda: encoded("WAV", x=surround(2, 1)),
         word="only channel 2 has sound"),
    *(Case(6, f"{name} with a voice in the centre", ".wav",
           functools.partial(lambda n, c: encoded("WAV", x=surround(n, c)), count, 2),
           word="only channel 3") for name, count in (("5.1", 6), ("7.1", 8), ("16 channels", 16))),
    Case(6, "5.1 Vorbis with a voice in the centre", ".ogg",
         lambda: encoded("OGG", x=surround(6, 1)), word="only channel 2", exact=False),
]  # fmt: skip

# --- no audio, or none that is known --------------------------------------------------------------


def media(suffix: str, *options: str) -> Case:
    """Return a case that needs ffmpeg to be made."""
    make = functools.partial(ffmpeg, *options)
    return Case(18, f"media {suffix}", suffix, make, exact=False, slack=3000)


OTHER_CASES = [
    Case(2, "a web page", ".wav", lambda: b"<!DOCTYPE html><html>404</html>\n", None, "HTML"),
    Case(2, "a short text", ".wav", lambda: b"not found\n", None, "text"),
    Case(2, "a text in UTF-16", ".wav", lambda: "not found here".encode("utf-16"), None, "text"),
    Case(2, "an archive", ".wav.gz", lambda: gzip.compress(encoded("WAV")), None, "gzip"),
    Case(2, "a coded stream", ".wav", lambda: b"NSVQ" + bytes(100), None, "coded stream already"),
    Case(2, "samples that begin with -1", ".sln", lambda: b"\xff\xff\4\0" + samples(), None,
         "--raw", pipe=False),
    Case(2, "NaN", ".wav", lambda: encoded("WAV", "FLOAT", np.full(100, np.nan)), None, "NaN"),
    Case(2, "no samples", ".wav", lambda: encoded("WAV", x=signal()[:0]), 0, "no samples",
         exact=False, pipe=False),
    Case(2, "one sample", ".wav", lambda: encoded("WAV", x=signal()[:1]), 1),
    media(".m4a", "-f", "ipod", "-movflags", "frag_keyframe+empty_moov", "-c:a", "aac"),
    media(".aac", "-f", "adts"), media(".webm", "-f", "webm", "-c:a", "libvorbis"),
    media(".mkv", "-f", "matroska", "-c:a", "libmp3lame"), media(".ts", "-f", "mpegts"),
    media(".avi", "-f", "avi"), media(".flac", "-f", "flac"),
    media(".caf", "-f", "caf"), media(".wav", "-f", "wav"), media(".aiff", "-f", "aiff"),
]  # fmt: skip

CASES = [*WAV_CASES, *CONTAINER_CASES, *CODED_CASES, *CHANNEL_CASES, *OTHER_CASES]
