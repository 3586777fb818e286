"""Read audio files as mono float waveforms, resample them, and write results atomically.

Everything that can go wrong with a file is an :class:`AudioError` of one line that names the file
and says what to do. This module knows files, channels and rates, but no frames or packets.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import stat
import struct
from collections.abc import Iterator
from math import ceil, gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import soundfile

FloatArray = NDArray[np.float32]
PathLike = str | os.PathLike[str]

CODEC_RATE = 16000
MIN_RATE = 1000
MAX_RATE = 768000
AUDIO_SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .oga .ogg .opus .rf64 .snd .sph .w64 .wav".split()
)

_BLOCK_SAMPLES = 1 << 16  # of all channels together
_MAX_PEAK = 65536.0  # full scale is 1; beyond this, squares of spectra leave float32
_LOUD = 2.0  # decoded WAVs clip at 1, which a lossy source exceeds a little
_MAX_WAV_SAMPLES = (1 << 31) - 64  # sizes in a WAV header have 32 bits
_ENDLESS = 0xFFFFFFFF
# A line of libsndfile's log of the header; sizes from 2 GB on stand for "unknown" in piped files.
_CUT_OFF = re.compile(r"^ *(?:data|SSND|riff|Riff size) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_SIZE = 0x7FFFF000
# Resampler: Hann-windowed sinc, zero crossings on each side, cut-off as a share of Nyquist.
_FILTER_WIDTH = 32
_ROLLOFF = 0.99
_MAX_KERNEL = 1 << 22  # entries; torchaudio builds the polyphase kernel in full


class AudioError(ValueError):
    """An audio file cannot be read, used or written; the message is one line for the user."""


# ---------------------------------------------------------------------------- reading


def read_audio(path: PathLike) -> tuple[FloatArray, int, list[str]]:
    """Read any file that libsndfile reads as one mono waveform at the file's own rate.

    Parameters
    ----------
    path : path of a WAV, FLAC, Ogg, MP3, AIFF, ... file

    Returns
    -------
    waveform : float32 array, shape [T], full scale ±1; T may be 0
    sample_rate : int, Hz, 1000..768000
    notes : list of str, what was changed on the way or is odd ("downmixed 2 channels to mono")

    Raises
    ------
    AudioError   no such file, a directory, empty, not audio, damaged, rate out of range, NaN,
                 infinite or absurdly large samples, more of them than memory holds
    """
    import soundfile

    _check_readable(path)
    opened = False
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            opened = True
            sample_rate, channels = int(file.samplerate), int(file.channels)
            if channels < 1:
                raise AudioError(f"{path}: has no channels; convert it to mono or stereo first")
            if not MIN_RATE <= sample_rate <= MAX_RATE:
                raise AudioError(
                    f"{path}: sample rate {sample_rate} Hz is outside {MIN_RATE}..{MAX_RATE} Hz; "
                    "resample it first"
                )
            notes = [f"downmixed {channels} channels to mono"] if channels > 1 else []
            notes += _cut_off_notes(file)
            blocks = list(_mono_blocks(file, path))
        waveform = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    except AudioError:
        raise
    except OSError as exc:
        raise AudioError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except MemoryError as exc:
        raise AudioError(f"{path}: is too long for the memory; split it first") from exc
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as exc:
        if opened:
            what = "is damaged or cut off; copy it again, or convert what is left of it to WAV"
        else:
            what = "not an audio file that libsndfile can read; convert it to WAV or FLAC first"
        raise AudioError(f"{path}: {what}") from exc
    if waveform.size == 0:
        notes.append("the file has no samples")
    elif (peak := float(max(waveform.max(), -waveform.min()))) > _LOUD:
        notes.append(f"the audio reaches {peak:.3g} times full scale; decoding to WAV will clip it")
    return waveform, sample_rate, notes


def _check_readable(path: PathLike) -> None:
    """Raise what libsndfile would not tell: no such file, a directory, no permission, empty."""
    if not os.path.exists(path):
        raise AudioError(f"{path}: no such file")
    if os.path.isdir(path):
        raise AudioError(f"{path}: is a directory, expected an audio file")
    if not os.path.isfile(path):
        return  # a pipe: opening it twice would take its data
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except OSError as exc:
        raise AudioError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    if empty:
        raise AudioError(f"{path}: is empty, no audio file that libsndfile can read; copy it again")


def _cut_off_notes(file: soundfile.SoundFile) -> list[str]:
    """Return a note if the header announces more audio than the file has."""
    found = _CUT_OFF.search(file.extra_info)
    if found is None:
        return []
    announced, there = int(found[1]), int(found[2])
    if announced >= _UNKNOWN_SIZE or announced <= there + 1:  # one: a pad byte left out
        return []
    return [f"the file is cut off: {there} of {announced} bytes of audio are there and are used"]


def _mono_blocks(file: soundfile.SoundFile, path: PathLike) -> Iterator[FloatArray]:
    """Yield the mean of all channels, in pieces.

    A broken header may announce more than memory holds, and a thousand channels: a piece is
    bounded in samples of all channels together.
    """
    num_frames = max(1, _BLOCK_SAMPLES // file.channels)
    while len(block := file.read(num_frames, dtype="float32", always_2d=True)):
        peak = np.abs(block).max()
        if not np.isfinite(peak):
            raise AudioError(f"{path}: has NaN or infinite samples; repair the file first")
        if peak > _MAX_PEAK:
            raise AudioError(
                f"{path}: has samples of {peak:.3g}, where full scale is 1; scale it first"
            )
        mono = block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float64)
        yield mono.astype(np.float32, copy=False)


def list_audio(directory: PathLike) -> list[Path]:
    """Return every audio file below `directory`, sorted by path; hidden files are left out.

    Raises
    ------
    AudioError   `directory` does not exist or is not a directory
    """
    root = Path(directory)
    if not root.is_dir():
        raise AudioError(f"{directory}: no such directory")
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
                found.append(Path(folder) / name)
    return sorted(found)


# ---------------------------------------------------------------------------- resampling


def _sinc_resample(waveform: FloatArray, old: int, new: int) -> FloatArray:
    """Resample by evaluating the windowed sinc at each output instant.

    The same filter as torchaudio's, for pairs of rates with a small common divisor (44101 and
    16000 Hz, say), where the polyphase kernel would take gigabytes.
    """
    cutoff = min(old, new) * _ROLLOFF
    half = ceil(_FILTER_WIDTH * old / cutoff)  # input samples on each side
    num_out = -(-waveform.size * new // old)
    padded = np.pad(waveform.astype(np.float64), (half, half + 1))
    offsets = np.arange(-half, half + 2)
    out = np.empty(num_out, np.float32)
    chunk = max(1, (1 << 20) // offsets.size)
    for start in range(0, num_out, chunk):
        ticks = np.arange(start, min(start + chunk, num_out), dtype=np.int64) * old
        nearest, rest = ticks // new, ticks % new  # exact instants, whatever the file's length
        t = (offsets - (rest / new)[:, None]) * (cutoff / old)  # [chunk, 2 half + 2]
        t = np.clip(t, -_FILTER_WIDTH, _FILTER_WIDTH)
        kernel = np.sinc(t) * np.cos(t * (np.pi / (2 * _FILTER_WIDTH))) ** 2 * (cutoff / old)
        taken = padded[np.minimum(nearest[:, None] + offsets + half, padded.size - 1)]
        out[start : start + ticks.size] = np.einsum("nk,nk->n", kernel, taken)
    return out


def _resample(waveform: ArrayLike, old: int, new: int) -> FloatArray:
    """Return the waveform at the new rate, exactly ceil(T * new / old) samples."""
    x = np.ascontiguousarray(waveform, dtype=np.float32)
    if x.ndim != 1:
        raise AudioError(f"waveform must have shape [T], got {x.shape}")
    for rate in (old, new):
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError(f"sample rate {rate} Hz is outside {MIN_RATE}..{MAX_RATE} Hz")
    if old == new or x.size == 0:
        return x
    num_out = -(-x.size * new // old)
    common = gcd(old, new)
    up, down = new // common, old // common
    if up * (2 * _FILTER_WIDTH * down / min(up, down) + down) > _MAX_KERNEL:
        return _sinc_resample(x, old, new)
    import torch

    try:
        from torchaudio.functional import resample
    except (ImportError, OSError):  # decoding must not need it: the same filter, slower
        return _sinc_resample(x, old, new)

    with torch.no_grad():
        y = resample(
            torch.from_numpy(x.copy()),
            old,
            new,
            lowpass_filter_width=_FILTER_WIDTH,
            rolloff=_ROLLOFF,
        )
    return np.ascontiguousarray(y.numpy()[:num_out], dtype=np.float32)


def to_codec_rate(waveform: ArrayLike, rate: int) -> FloatArray:
    """Resample a waveform to 16 kHz.

    Parameters
    ----------
    waveform : float array, shape [T]
    rate : int, Hz, 1000..768000

    Returns
    -------
    float32 array, shape [ceil(T * 16000 / rate)]
    """
    return _resample(waveform, rate, CODEC_RATE)


def from_codec_rate(waveform: ArrayLike, rate: int, num_samples: int) -> FloatArray:
    """Resample a 16 kHz waveform back to `rate` and to exactly `num_samples` samples."""
    y = _resample(waveform, CODEC_RATE, rate)[:num_samples]
    if y.size < num_samples:
        y = np.pad(y, (0, num_samples - y.size))
    return y


# ---------------------------------------------------------------------------- writing


def to_int16(waveform: ArrayLike) -> NDArray[np.int16]:
    """Quantize to 16 bits: round(x * 32768), ties to even, clipped to -32768..32767."""
    scaled = np.rint(np.asarray(waveform, dtype=np.float64) * 32768.0)
    if not np.isfinite(scaled).all():
        raise AudioError("waveform has NaN or infinite samples")
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def write_wav(path: PathLike, waveform: ArrayLike, rate: int) -> None:
    """Write a mono 16-bit PCM WAV file, all or nothing.

    Parameters
    ----------
    path : output file; replaced if it exists
    waveform : float array, shape [T], full scale ±1, clipped
    rate : int, Hz

    Raises
    ------
    AudioError   not finite, too long for a WAV file, or the file cannot be written; nothing is
                 left behind then
    """
    samples = to_int16(waveform)
    if samples.size > _MAX_WAV_SAMPLES:
        raise AudioError(
            f"{path}: {samples.size} samples are more than a WAV file can hold (4 GB); "
            "use a lower sample rate or split the recording"
        )
    # Not by libsndfile, which calls back to write: an error of the disk or a Ctrl-C in there would
    # be printed and forgotten, and a half file kept.
    with atomic_open(path) as file:
        file.write(wav_header(rate, samples.size))
        file.write(samples.astype("<i2", copy=False).data)


def wav_header(rate: int, num_samples: int | None = None) -> bytes:
    """Return the 44 bytes before 16-bit mono WAV samples.

    Parameters
    ----------
    rate : int, Hz
    num_samples : int or None   None, or more than a WAV file can hold: as many as will come
    """
    endless = num_samples is None or num_samples > _MAX_WAV_SAMPLES
    num_bytes = _ENDLESS if endless else 2 * (num_samples or 0)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", min(36 + num_bytes, _ENDLESS), b"WAVE"),
        *(b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16),  # PCM, mono
        *(b"data", num_bytes),
    )


def atomic_write(path: PathLike, data: bytes) -> None:
    """Write `data` to `path` by :func:`atomic_open`: all of it, or nothing.

    Raises
    ------
    AudioError   the file cannot be written; nothing is left behind then
    """
    with atomic_open(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_open(path: PathLike) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when it is complete.

    On Linux the bytes go to a file without a name, which the system frees whatever ends the
    process, SIGKILL included; elsewhere, and on file systems that cannot do so, to a temporary
    file beside `path`. When the ``with`` block ends, they are brought to the disk and the file
    takes the place of `path` in one step. When the block raises, nothing is left, and a file that
    was there before stays. A symbolic link stays one; what it leads to is replaced.

    A device or pipe (see :func:`is_direct`) is written to directly, and cannot seek.

    Parameters
    ----------
    path : output file; replaced if it exists

    Yields
    ------
    binary file, at its start; may seek and read back

    Raises
    ------
    AudioError   the file cannot be written: no such directory, disk full, ...
    """
    label = os.fspath(path)
    direct = _direct_target(path)
    if direct is not None:
        with _writing(label):
            raw = _Output(os.dup(direct) if isinstance(direct, int) else direct, "wb", label)
        with io.BufferedWriter(raw) as pipe:
            yield pipe
        return
    target = os.path.realpath(label)
    folder = os.path.dirname(target)
    with _writing(label):
        raw, temporary = _open_temporary(folder, label)
    file = io.BufferedRandom(raw)
    try:
        yield file
        file.flush()
        with _writing(label):
            os.fsync(raw.fileno())  # or a power cut could leave the name without the bytes
            if temporary is None:
                _give_name(file, target)
            else:
                file.close()
                os.replace(temporary, target)
    finally:
        # All was flushed, or the file is given up: an error now would hide the first one.
        with contextlib.suppress(AudioError, OSError):
            file.close()
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def is_direct(path: PathLike) -> bool:
    """Tell whether `path` is written to directly, instead of being replaced by a new file.

    So are devices, pipes, and open files such as ``/dev/stdout``, even when that was
    redirected to a file: the shell has it open, and goes on writing to it.
    """
    return _direct_target(path) is not None


def _direct_target(path: PathLike) -> int | str | None:
    """Return the open file or the name to write to directly, None for an ordinary file."""
    name = os.fspath(path)
    for _ in range(40):  # as many links as Linux follows
        name = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if found := re.fullmatch(rf"/proc/{os.getpid()}(?:/task/\d+)?/fd/(\d+)", name):
            return int(found[1])
        if re.match(r"/(proc|dev/fd)/", name):
            return name
        if not os.path.islink(name):
            break
        name = os.path.join(os.path.dirname(name), os.readlink(name))
    if os.path.exists(name) and not stat.S_ISREG(os.stat(name).st_mode):
        return name
    return None


class _Output(io.FileIO):
    """A file whose writes fail with an :class:`AudioError` that names the output."""

    def __init__(self, file: int | str, mode: str, label: str) -> None:
        super().__init__(file, mode)
        self._label = label

    def write(self, data: Any) -> int:
        with _writing(self._label):
            return super().write(data)


@contextlib.contextmanager
def _writing(label: str) -> Iterator[None]:
    """Turn errors of the system into an `AudioError` that names the output."""
    try:
        yield
    except OSError as exc:
        raise AudioError(f"{label}: cannot be written ({exc.strerror or exc})") from exc


def _temporary_name(folder: str) -> str:
    """Return a name that nobody has, and that is short: `path` may be as long as names get."""
    return os.path.join(folder, f".codec-{secrets.token_hex(8)}.tmp")


def _open_temporary(folder: str, label: str) -> tuple[_Output, str | None]:
    """Open a file without a name in `folder`, or one with the returned temporary name."""
    if hasattr(os, "O_TMPFILE"):
        # Without /proc there would be no way to name it. Any error is met again below, if it is
        # more than a file system that has no such files.
        with contextlib.suppress(OSError):
            fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
            if os.path.exists(f"/proc/self/fd/{fd}"):
                return _Output(fd, "w+b", label), None
            os.close(fd)
    temporary = _temporary_name(folder)
    return _Output(temporary, "x+b", label), temporary


def _give_name(file: io.BufferedRandom, target: str) -> None:
    """Put a file that has no name in the place of `target`."""
    fd = file.fileno()
    unnamed = f"/proc/self/fd/{fd}"
    with contextlib.suppress(OSError):  # there is such a file, or what is met again below
        # `src_dir_fd` is not looked at, but makes Python follow the link to the file.
        os.link(unnamed, target, src_dir_fd=fd)
        return
    # A link cannot replace a file, a rename can. Only a SIGKILL just between these two system
    # calls leaves the temporary name, and then with the complete new file.
    temporary = _temporary_name(os.path.dirname(target))
    try:
        try:
            os.link(unnamed, temporary, src_dir_fd=fd)
        except OSError:  # a file system without links
            file.seek(0)
            with open(temporary, "xb") as named:
                shutil.copyfileobj(file, named)
                named.flush()
                os.fsync(named.fileno())
        os.replace(temporary, target)
    except BaseException:  # Ctrl-C as well
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
