"""Write decoded audio piece by piece, in the format that a file's name or the user asks for."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from codec.errors import AudioError
from codec.io.files import PathLike
from codec.io.wav import from_float, to_int16, wav_header

FloatArray = NDArray[np.float32]


class Format(NamedTuple):
    """A container and coding of libsndfile; WAV and raw samples are written without it.

    `takes` tells whether there is a sample rate (Hz), `rates` in words which there are.
    """

    container: str
    subtype: str = "PCM_16"
    takes: Callable[[int], bool] = lambda rate: True
    rates: str = ""


WAV, RAW = Format("WAV"), Format("RAW")
_HEADERLESS = ("s16le", "f32le", "alaw", "mulaw")
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_VORBIS_RATE = 200_000  # libvorbis crashes above
_FLAC_RATE, _FLAC_RATE_10 = 65_535, 655_350  # above the one in steps of 10 Hz, to the other
_PIECE = 1 << 16  # samples at a time: libvorbis puts the first ones on its stack


def _of_rates(container: str, subtype: str, rates: tuple[int, ...]) -> Format:
    """Return a format that has these sample rates only."""
    return Format(container, subtype, rates.__contains__, f"one of {', '.join(map(str, rates))}")


# By the name that `--format` takes, and by suffix.
FORMATS = {
    "wav": WAV,
    "raw": RAW,
    **{name: Format("RAW", name) for name in _HEADERLESS},
    "flac": Format(
        "FLAC",
        takes=lambda rate: rate <= _FLAC_RATE or (rate <= _FLAC_RATE_10 and rate % 10 == 0),
        rates=f"up to {_FLAC_RATE} Hz, or multiples of 10 up to {_FLAC_RATE_10} Hz",
    ),
    "ogg": Format("OGG", "VORBIS", lambda rate: rate <= _VORBIS_RATE, f"up to {_VORBIS_RATE} Hz"),
    "opus": _of_rates("OGG", "OPUS", _OPUS_RATES),
    "mp3": _of_rates("MP3", "MPEG_LAYER_III", _MP3_RATES),
    "aiff": Format("AIFF"),
    "au": Format("AU"),
    "caf": Format("CAF"),
    "w64": Format("W64"),
    "rf64": Format("RF64"),
    "sph": Format("NIST"),
}
_NEVER_EMPTY = [FORMATS[name] for name in ("flac", "mp3", "opus")]
_SUFFIXES = {"aif": "aiff", "aifc": "aiff", "snd": "au", "oga": "ogg", "wave": "wav"}
_SUFFIXES |= {"pcm": "raw", "al": "alaw", "ul": "mulaw", "ulaw": "mulaw"}


def output_format(path: PathLike, rate: int | None = None, name: str | None = None) -> Format:
    """Return the format that an output is to have: of its suffix, WAV without one.

    Parameters
    ----------
    path : output file
    rate : int or None   sample rate in Hz, if it is known
    name : str or None   of a format, in place of the suffix: a key of `FORMATS`

    Raises
    ------
    AudioError   a format that cannot be written, or not at this rate
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
    key = name or _SUFFIXES.get(suffix, suffix) or "wav"
    if key not in FORMATS:
        raise AudioError(
            f"{path}: audio cannot be written as .{suffix}; name a file .wav, .flac, .ogg, .opus, "
            ".mp3, .aiff, .au, .caf, .w64 or .rf64"
        )
    found = FORMATS[key]
    if rate is not None and not found.takes(rate):
        raise AudioError(f"{path}: {key} has no {rate} Hz; use {found.rates}, or another format")
    return found


class Sink(Protocol):
    """Where decoded samples go."""

    def write(self, samples: FloatArray) -> None:
        """Write float samples, shape [T], full scale ±1, clipped."""

    def finish(self) -> None:
        """Write what is still to be written; the file is complete then, and stays open."""


def open_sink(
    file: BinaryIO, format: Format, rate: int, num_samples: int | None, seekable: bool
) -> Sink:
    """Return what writes mono audio to an open file.

    Parameters
    ----------
    file : binary file        at its start
    format : Format
    rate : int                Hz
    num_samples : int or None   how many will come, if that is known
    seekable : bool           the header may be put right at the end
    """
    if format.container == "RAW":
        return _RawSink(file, "s16le" if format == RAW else format.subtype)
    if format == WAV:
        return _WavSink(file, rate, num_samples, seekable)
    return _LibsndfileSink(file, format, rate, seekable)


class _RawSink:
    """Samples without a header, as :class:`codec.io.wav.Samples` names them."""

    def __init__(self, file: BinaryIO, encoding: str = "s16le") -> None:
        self._file, self._encoding = file, encoding

    def write(self, samples: FloatArray) -> None:
        if len(samples):
            self._file.write(from_float(samples, self._encoding))
            self._file.flush()  # so that the next program has them at once

    def finish(self) -> None:
        self._file.flush()


class _WavSink(_RawSink):
    """The same behind a WAV header, which comes with the first of them."""

    def __init__(self, file: BinaryIO, rate: int, num_samples: int | None, seekable: bool) -> None:
        super().__init__(file)
        self._rate, self._announced, self._seekable = rate, num_samples, seekable
        self._num_samples = 0
        self._begun = False

    def write(self, samples: FloatArray) -> None:
        if not len(samples):
            return
        self._begin()
        self._num_samples += len(samples)
        super().write(samples)

    def finish(self) -> None:
        if not self._begun and self._announced is None:
            self._announced = 0
        self._begin()
        right = wav_header(self._rate, self._num_samples)
        if self._seekable and self._num_samples != self._announced:
            if len(right) != len(wav_header(self._rate, self._announced)):
                raise AudioError("the audio is too long for a WAV file; name the output .rf64")
            end = self._file.tell()
            self._file.seek(0)
            self._file.write(right)
            self._file.seek(end)
        super().finish()

    def _begin(self) -> None:
        if not self._begun:
            self._file.write(wav_header(self._rate, self._announced))
            self._begun = True


class _LibsndfileSink:
    """Anything else; it seeks, so that a pipe gets it when it is complete."""

    def __init__(self, file: BinaryIO, format: Format, rate: int, seekable: bool) -> None:
        import soundfile  # decoding to WAV does without

        self._target = file
        self._file = _Kept(file if seekable else tempfile.TemporaryFile())
        self._exact = format.subtype == "PCM_16"
        self._format, self._empty = format, True
        with self._file.raising():
            self._sound = soundfile.SoundFile(
                self._file, "w", rate, 1, format.subtype, format=format.container
            )

    def write(self, samples: FloatArray) -> None:
        self._empty = self._empty and not len(samples)
        data = to_int16(samples) if self._exact else np.clip(samples, -1, 1)
        with self._file.raising():
            for start in range(0, len(data), _PIECE):
                self._sound.write(data[start : start + _PIECE])

    def finish(self) -> None:
        with self._file.raising():
            self._sound.close()
        if self._empty and self._format in _NEVER_EMPTY:
            raise AudioError(
                f"there are no samples, and {self._format.container} files of none cannot be read; "
                "write WAV"
            )
        if self._file.file is not self._target:
            self._file.file.seek(0)
            shutil.copyfileobj(self._file.file, self._target)
            self._file.file.close()
        self._target.flush()


class _Kept:
    """A file for libsndfile to write to, which keeps what goes wrong.

    libsndfile calls back to write; an exception in there would be printed and forgotten, and some
    of its formats do not look whether a write has failed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            self.file.write(data)
            return len(data)
        except BaseException as error:
            self._error = self._error or error
            return 0

    # libsndfile also comes to close what was given up, when the file is closed already.

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return 0 if self.file.closed else self.file.seek(offset, whence)

    def tell(self) -> int:
        return 0 if self.file.closed else self.file.tell()

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Raise what was kept within the block, rather than what libsndfile made of it."""
        try:
            yield
            self.file.flush()
        except Exception as error:
            if self._error is None and isinstance(error, RuntimeError):  # soundfile's own
                raise AudioError(f"libsndfile does not write it ({error})") from error
            if self._error is None:
                raise
        if self._error is not None:
            raise self._error
