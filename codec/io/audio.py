"""Read audio files as mono float waveforms, block by block or whole.

Everything that can go wrong with a file is an :class:`AudioError` of one line that names the file
and says what to do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import soundfile

from codec.errors import AudioError
from codec.io.channels import (
    BLOCK_SAMPLES,
    MIX,
    Downmix,
    FloatArray,
    check_samples,
    downmix,
    one_channel,
    to_mono,
)
from codec.io.files import PathLike
from codec.io.flac import resume_flac
from codec.io.media import SUFFIXES as MEDIA_SUFFIXES
from codec.io.media import MediaFile, open_media
from codec.io.mpeg import is_mp3, quiet_mpg123
from codec.io.parts import Part, file_parts
from codec.io.resample import ResampleStream, check_rate, from_codec_rate, resample, to_codec_rate
from codec.io.sniff import LONG_HEAD_BYTES, is_audio_file, media_name

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioReader",
    "ResampleStream",
    "check_rate",
    "from_codec_rate",
    "list_audio",
    "loud_note",
    "read_audio",
    "resample",
    "to_codec_rate",
    "to_mono",
]

AUDIO_SUFFIXES = MEDIA_SUFFIXES | frozenset(
    ".aif .aifc .aiff .au .avr .bwf .caf .flac .mp1 .mp2 .mp3 .mpga .nist .oga .ogg .opus .pvf "
    ".rf64 .snd .sph .voc .w64 .wav .wave".split()
)

_LOUD = 2.0  # decoded files clip at 1, which a lossy source exceeds a little
_UNKNOWN_FRAMES = 1 << 62
_MP3_BLOCK = 9216  # samples that an error in an MP3 file may cost
_MP3_FAILURES = 1024
_FLAC_BLOCK = 4096  # the same in a FLAC file
_FLAC_FAILURES = 64

AudioFile = Any  # a `soundfile.SoundFile`, of a package without types, or a `MediaFile`
_ERRORS = (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError)


class AudioReader:
    """Read any audio file as mono, block by block, at the file's own rate.

    libsndfile reads most; what it does not, PyAV or ffmpeg may (:mod:`codec.io.media`).

    Parameters
    ----------
    path : path of a WAV, FLAC, Ogg, MP3, AIFF, ... file; a regular file
    channel : 'mix' | int   mix all channels (:func:`codec.io.channels.downmix`), or take one,
                            counted from 1
    name : str or None      what messages call the file; None: its path

    Attributes
    ----------
    sample_rate : int       Hz, 1000..768000
    notes : list of str     what was changed on the way or is odd ("downmixed 2 channels to mono");
                            complete when all blocks were read
    num_samples : int       samples read so far

    Raises
    ------
    AudioError   no such file, a directory, empty, not audio, rate out of range
    """

    def __init__(self, path: PathLike, channel: str | int = MIX, name: str | None = None) -> None:
        self.name = os.fspath(path) if name is None else name
        self.notes: list[str] = []
        self.num_samples = 0
        self.channel = channel
        self._peak = 0.0
        self._stack = contextlib.ExitStack()
        _check_readable(path, self.name)
        with open(path, "rb") as file:
            head = file.read(LONG_HEAD_BYTES)
        self._media = media_name(head)
        self._quiet = is_mp3(head, path)
        self._parts = [Part(path)]
        notes: list[str] = []
        try:
            if not self._media:
                self._parts, notes = file_parts(path)
            self._first = self._stack.enter_context(self._open(self._parts[0]))
        except AudioError:
            raise
        except _ERRORS as exc:
            is_audio_file(head, self.name)  # it may be of a kind that has a better name
            raise self._refusal(exc) from exc
        if self._first.channels < 1:
            raise AudioError(f"{self.name}: has no channels; convert it to mono or stereo first")
        self.sample_rate = int(self._first.samplerate)
        try:
            check_rate(self.sample_rate)
        except AudioError as exc:
            raise AudioError(f"{self.name}: {exc}") from exc
        self.notes += notes

    def __enter__(self) -> Self:
        """Return the reader, which the end of the block closes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def blocks(self) -> Iterator[FloatArray]:
        """Yield the signal in float32 arrays of shape [T], long ones: each costs its coder a call.

        Raises
        ------
        AudioError   damaged, NaN, infinite or absurdly large samples
        """
        for number, part in enumerate(self._parts):
            try:
                yield from gathered(self._read_part(part, number), BLOCK_SAMPLES)
            except AudioError:
                raise
            except _ERRORS as exc:
                raise self._refusal(exc, opened=True) from exc
        if isinstance(self._first, MediaFile):
            self.notes += self._first.notes
        if self.num_samples == 0:
            self.notes.append("the file has no samples")
        self.notes += loud_note(self._peak)

    def _read_part(self, part: Part, number: int) -> Iterator[FloatArray]:
        """Yield the mono blocks of one part of the file, at the rate of the first."""
        with contextlib.ExitStack() as stack:
            file = self._first if number == 0 else stack.enter_context(self._open(part))
            gains = self._choose_gains(file, part)
            rate = int(file.samplerate)
            stream = ResampleStream(rate, self.sample_rate)
            if gains.note and gains.note not in self.notes:
                self.notes.append(gains.note)
            if rate != self.sample_rate:
                text = f"part {number + 1} has {rate} Hz: resampled to {self.sample_rate}"
                self.notes.append(text)
            for block in self._read_on(file, part):
                self._peak = max(self._peak, check_samples(block, self.name))
                yield self._count(stream.push(gains(block)))
            yield self._count(stream.finish())

    def _choose_gains(self, file: AudioFile, part: Part) -> Downmix:
        channels = file.channels
        if self.channel != MIX:
            return one_channel(int(self.channel), channels, self.name)
        if channels == 1:
            return Downmix((1.0,))
        with self._open(part) as again:
            return downmix(
                self._read_on(again, part, say=False), channels, ogg=file.format == "OGG"
            )

    def _count(self, samples: FloatArray) -> FloatArray:
        self.num_samples += len(samples)
        return samples

    @contextlib.contextmanager
    def _open(self, part: Part) -> Iterator[AudioFile]:
        if self._media:
            with open_media(part.path, self._media, self.name) as media:
                yield media
            return
        with part.open() as source:
            with quiet_mpg123(self._quiet):
                file = _Sequential(source)
            with file:
                yield file

    def _read_on(self, file: AudioFile, part: Part, say: bool = True) -> Iterator[FloatArray]:
        """Yield what `_read` does, and of a FLAC file what stands behind damage."""
        count = 0
        for block in self._read(file, say):
            count += len(block)
            yield block
        where = part.pieces[0] if part.pieces else range(os.path.getsize(part.path))
        place = 0
        for _ in range(_FLAC_FAILURES):
            if file.format != "FLAC" or count >= file.frames or not isinstance(where, range):
                return
            found = resume_flac(part.path, where, place, count)
            if found is None:
                return
            place = found.place
            rest = Part(part.path, (found.head, range(place, where.stop)))
            with contextlib.suppress(*_ERRORS), self._open(rest) as again:
                for block in self._read(again, say=False):
                    # Silence for what is lost, so that what follows keeps its time.
                    while (gap := min(found.sample - count, _FLAC_BLOCK)) > 0:
                        yield np.zeros((gap, file.channels), np.float32)
                        count += gap
                    count += len(block)
                    yield block

    def _read(self, file: AudioFile, say: bool = True) -> Iterator[FloatArray]:
        """Yield blocks of shape [T, channels], bounded in samples of all channels together.

        A broken header may announce more than memory holds, and a thousand channels.
        """
        kind = file.format
        # Where what was read before an error is lost, blocks are small; a FLAC file is read as far
        # as it announces, whatever stands behind.
        size = {"MP3": _MP3_BLOCK, "FLAC": _FLAC_BLOCK}.get(
            kind, max(1, BLOCK_SAMPLES // file.channels)
        )
        last = file.frames if kind == "FLAC" else _UNKNOWN_FRAMES
        count = failures = 0
        damaged_at = -1
        while count < last:
            try:
                with quiet_mpg123(self._quiet):
                    block = file.read(min(size, last - count), dtype="float32", always_2d=True)
            except soundfile.SoundFileError:
                failures += 1
                if not (count or kind == "MP3"):
                    raise
                damaged_at = count if damaged_at < 0 else damaged_at
                if kind == "MP3" and failures < _MP3_FAILURES:
                    continue  # libmpg123 looks for the next frame, 1 kB further each time
                break
            if not len(block):
                break
            count += len(block)
            failures = 0
            yield block
        if damaged_at < 0 and (
            (kind == "FLAC" and count < file.frames < _UNKNOWN_FRAMES)
            or (kind == "MP3" and count < file.frames - _MP3_BLOCK)
        ):
            damaged_at = count
        if kind in ("FLAC", "MP3") and not count and file.frames:
            raise ValueError("no frame can be read")
        if say and damaged_at >= 0:
            where = f"{damaged_at / file.samplerate:.1f} s after its start"
            self.notes.append(f"the file is damaged {where}: what can be read is used")

    def _refusal(self, error: Exception, opened: bool = False) -> AudioError:
        """Return what to tell the user of an error of libsndfile or the system."""
        if isinstance(error, OSError):
            return AudioError(f"{self.name}: cannot be read ({error.strerror or error})")
        if opened:
            what = "is damaged or cut off; copy it again, or convert what is left of it to WAV"
        else:
            what = (
                "not an audio file that libsndfile can read; convert it to WAV or FLAC first, or "
                "say with --raw what its samples are"
            )
        return AudioError(f"{self.name}: {what}")


class _Sequential(soundfile.SoundFile):
    """A file that is read from start to end, without looking where that is.

    Else `read` would move to the place that it has reached, which fails at the end of a FLAC file
    of unknown length, and would read no more than the header announces.
    """

    def seekable(self) -> bool:
        """Say that there is no other place to go to."""
        return False


def read_audio(
    path: PathLike, channel: str | int = MIX, name: str | None = None
) -> tuple[FloatArray, int, list[str]]:
    """Read a whole audio file; for parameters see :class:`AudioReader`.

    Returns
    -------
    waveform : float32 array, shape [T], full scale ±1; T may be 0
    sample_rate : int, Hz, 1000..768000
    notes : list of str

    Raises
    ------
    AudioError   as `AudioReader`, or more samples than memory holds
    """
    try:
        with AudioReader(path, channel, name) as reader:
            blocks = list(reader.blocks())
            waveform = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
            return waveform, reader.sample_rate, reader.notes
    except MemoryError as exc:
        raise AudioError(f"{name or path}: is too long for the memory; split it first") from exc


def gathered(blocks: Iterable[FloatArray], size: int) -> Iterator[FloatArray]:
    """Yield arrays of shape [T] joined to at least `size` samples each; the last is the rest."""
    held: list[FloatArray] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= size:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def loud_note(peak: float) -> list[str]:
    """Return a note if a signal with this peak will be clipped when it is decoded."""
    if peak <= _LOUD:
        return []
    return [f"the audio reaches {peak:.3g} times full scale; decoding to WAV will clip it"]


def _check_readable(path: PathLike, name: str) -> None:
    """Raise what libsndfile would not tell: no such file, a directory, no permission, empty."""
    if not os.path.exists(path):
        raise AudioError(f"{name}: no such file")
    if os.path.isdir(path):
        raise AudioError(f"{name}: is a directory, expected an audio file")
    if not os.path.isfile(path):
        raise AudioError(f"{name}: is no regular file; pipe it in, with - in place of its name")
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except OSError as exc:
        raise AudioError(f"{name}: cannot be read ({exc.strerror or exc})") from exc
    if empty:
        raise AudioError(f"{name}: is empty, no audio file that libsndfile can read; copy it again")


def list_audio(directory: PathLike, notes: list[str] | None = None) -> list[Path]:
    """Return every audio file below `directory`, sorted by path; hidden files are left out.

    Parameters
    ----------
    directory : where to look; links to directories are followed
    notes : list of str   gets what else is there and was left out

    Raises
    ------
    AudioError   `directory` does not exist, is not a directory or cannot be read
    """
    from codec.io.finder import Finder  # what codes single files need not load it

    if not Path(directory).is_dir():
        raise AudioError(f"{directory}: no such directory")
    finder = Finder(Path(directory), AUDIO_SUFFIXES)
    found = [Path(directory) / file.name for file in finder.files()]
    if notes is not None:
        notes += finder.notes
    return found
