"""Read what libsndfile does not: M4A, MP4, AAC, AMR, WebM, the sound of videos.

PyAV does it where it is installed, else the program ffmpeg; both decode piece by piece.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from codec.errors import AudioError
from codec.io.channels import FloatArray
from codec.io.files import PathLike
from codec.io.wav import WavHeader, parse_wav

SUFFIXES = frozenset(
    ".3ga .3gp .aac .ac3 .amr .ape .asf .avi .awb .dts .eac3 .flv .m4a .m4b .m4v .mka .mkv .mov "
    ".mp4 .mpc .mpeg .mpg .mts .ra .spx .tta .weba .webm .wma .wmv .wv".split()
)
_LEAST_PART = 0.99  # of the announced length that a whole file has
_SPARE_SECONDS = 0.5
_PIPE_BYTES = 1 << 16


class MediaFile:
    """The first sound track of a file, read from start to end.

    It has what is used of a `soundfile.SoundFile`.

    Attributes
    ----------
    samplerate, channels : int
    frames : int            not known before: very many
    format : str            'MEDIA'
    notes : list of str     what is odd; complete when all was read
    """

    format = "MEDIA"
    frames = 1 << 62

    def __init__(self, blocks: Iterator[FloatArray], notes: list[str]) -> None:
        self._blocks = blocks
        self._rest = np.zeros((0, 1), np.float32)
        self.samplerate = self.channels = 0
        self.notes = notes

    def read(self, size: int, dtype: str = "float32", always_2d: bool = True) -> FloatArray:
        """Return float32 samples of shape [T, channels], T <= size; T is 0 at the end."""
        while not len(self._rest):
            block = next(self._blocks, None)
            if block is None:
                return np.zeros((0, self.channels), np.float32)
            self._rest = block
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


@contextlib.contextmanager
def open_media(path: PathLike, what: str, name: str) -> Iterator[MediaFile]:
    """Open the first sound track of a file.

    Parameters
    ----------
    path : a regular file
    what : str   what the file is
    name : str   what messages call it

    Raises
    ------
    AudioError   no track, damaged from the start, or neither PyAV nor ffmpeg is installed
    """
    try:
        import av
    except ImportError:
        if shutil.which("ffmpeg") is None:
            raise AudioError(
                f"{name}: is {what}, which libsndfile cannot read; install PyAV (pip install "
                "'.[media]') or ffmpeg, or convert it to WAV first"
            ) from None
        with _open_ffmpeg(path, what, name) as file:
            yield file
        return
    with _open_pyav(av, path, what, name) as file:
        yield file


def _refusal(name: str, what: str, reader: str, reason: object) -> AudioError:
    text = " ".join(str(reason).split()) or "no reason given"
    return AudioError(
        f"{name}: is {what}, which neither libsndfile nor {reader} can read ({text}); "
        "copy it again, or convert it to WAV first"
    )


# --- PyAV -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_pyav(av: Any, path: PathLike, what: str, name: str) -> Iterator[MediaFile]:
    # Not by its path: a hostile file could name others, or addresses, to be opened.
    with open(path, "rb") as source, contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(source, metadata_errors="ignore"))
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise _refusal(name, what, "PyAV", getattr(error, "strerror", error)) from error
        if not container.streams.audio:
            raise AudioError(f"{name}: is {what} without a sound track; choose another file")
        notes = _track_note(len(container.streams.audio))
        frames = _pyav_frames(av, container, notes)
        try:
            first = next(frames, None)
        except (av.FFmpegError, ValueError) as error:
            raise _refusal(name, what, "PyAV", getattr(error, "strerror", error)) from error
        if first is None:
            raise _refusal(name, what, "PyAV", notes[-1] if notes else "it holds no sound")
        file = MediaFile(_pyav_blocks(av, first, frames), notes)
        file.samplerate, file.channels = first.sample_rate, first.layout.nb_channels
        yield file


def _track_note(count: int) -> list[str]:
    return [f"has {count} sound tracks: took the first"] if count > 1 else []


def _pyav_frames(av: Any, container: Any, notes: list[str]) -> Iterator[Any]:
    """Yield decoded frames; note where that fails, and go on."""
    stream = container.streams.audio[0]
    announced = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if not announced and container.duration:
        announced = container.duration / av.time_base
    seconds, damaged = 0.0, False
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            decoded = packet.decode()
        except av.FFmpegError as error:
            if not damaged:
                where = f"{seconds:.1f} s after its start ({error.strerror})"
                notes.append(f"the file is damaged {where}: what can be read is used")
            damaged = True
            if packet is None or isinstance(error, av.EOFError):
                break
            continue
        for frame in decoded:
            seconds += frame.samples / frame.sample_rate
            yield frame
    if not damaged and seconds < _LEAST_PART * announced - _SPARE_SECONDS:
        notes.append(
            f"the file is cut off: {seconds:.1f} of {announced:.1f} s are there and are used"
        )


def _pyav_blocks(av: Any, first: Any, frames: Iterator[Any]) -> Iterator[FloatArray]:
    """Yield samples, shape [T, channels], all in the rate and layout of the first frame."""
    wanted = {"format": "flt", "layout": first.layout.name, "rate": first.sample_rate}
    resampler, kind, frame = None, None, first
    while frame is not None:
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or found != kind:
            if resampler is not None:
                yield from _arrays(resampler.resample(None))
            resampler, kind = av.AudioResampler(**wanted), found
        frame.pts = None  # gaps in the time stamps are not filled up
        yield from _arrays(resampler.resample(frame))
        frame = next(frames, None)
    if resampler is not None:
        yield from _arrays(resampler.resample(None))


def _arrays(frames: list[Any]) -> Iterator[FloatArray]:
    for frame in frames:
        yield frame.to_ndarray().reshape(-1, frame.layout.nb_channels)


# --- ffmpeg ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_ffmpeg(path: PathLike, what: str, name: str) -> Iterator[MediaFile]:
    command: list[str | bytes] = [
        "ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file",
        "-i", b"file:" + os.fsencode(path), "-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav",
        "pipe:1",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as errors, contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        stack.callback(_end, process)
        header, start = _wav_header(process)
        if header is None or header.samples is None:
            process.wait()
            complaint = _complaint(errors, path)
            if "matches no streams" in complaint:
                raise AudioError(f"{name}: is {what} without a sound track; choose another file")
            raise _refusal(name, what, "ffmpeg", complaint)
        notes: list[str] = []
        file = MediaFile(_ffmpeg_blocks(process, header, start, errors, path, notes), notes)
        file.samplerate, file.channels = header.samples.rate, header.samples.channels
        yield file


def _end(process: subprocess.Popen[bytes]) -> None:
    """End ffmpeg where it has not ended, and let go of its pipe."""
    process.kill()
    assert process.stdout is not None
    process.stdout.close()
    process.wait()


def _wav_header(process: subprocess.Popen[bytes]) -> tuple[WavHeader | None, bytes]:
    """Return the header that ffmpeg writes, and the first samples that were read with it."""
    assert process.stdout is not None
    start = bytearray()

    def read(position: int, size: int) -> bytes:
        assert process.stdout is not None
        while len(start) < position + size and (data := process.stdout.read(_PIPE_BYTES)):
            start.extend(data)
        return bytes(start[position : position + size])

    header = parse_wav(read, _PIPE_BYTES)
    return header, bytes(start[header.offset :]) if header else b""


def _ffmpeg_blocks(
    process: subprocess.Popen[bytes], header: WavHeader, start: bytes,
    errors: Any, path: PathLike, notes: list[str],
) -> Iterator[FloatArray]:  # fmt: skip
    assert process.stdout is not None and header.samples is not None
    data = start
    while True:
        whole = len(data) - len(data) % header.samples.frame_bytes
        if whole:
            yield header.samples.to_float(data[:whole])
        more = process.stdout.read(_PIPE_BYTES)
        if not more:
            break
        data = data[whole:] + more
    code = process.wait()
    complaint = _complaint(errors, path)
    if code or complaint:
        notes.append(f"ffmpeg says: {complaint or f'ended with {code}'}; what can be read is used")


def _complaint(errors: Any, path: PathLike) -> str:
    """Return the first line that ffmpeg said, and how many followed."""
    errors.seek(0)
    text = errors.read(1 << 16).decode("utf-8", "replace").strip()
    text = text.replace(f"file:{os.fspath(path)}: ", "")
    lines = [re.sub(r"^\[(\S+) @ 0x[0-9a-f]+\]", r"\1:", line) for line in text.splitlines()]
    more = f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
    return lines[0] + more if lines else ""
