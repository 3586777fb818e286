"""Read audio files as mono float waveforms, resample them, and write results atomically.

Everything that can go wrong with a file is an :class:`AudioError` of one line that names the file
and says what to do. This module knows files, channels and rates, but no frames or packets.
"""

from __future__ import annotations

import io
import os
import stat
from math import ceil, gcd
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float32]
PathLike = str | os.PathLike[str]

CODEC_RATE = 16000
MIN_RATE = 1000
MAX_RATE = 768000
AUDIO_SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .oga .ogg .opus .rf64 .snd .sph .w64 .wav".split()
)

_BLOCK_FRAMES = 1 << 16
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
    notes : list of str, what was changed on the way ("downmixed 2 channels to mono")

    Raises
    ------
    AudioError   no such file, a directory, not audio, rate out of range, NaN or infinite samples
    """
    import soundfile

    if not os.path.exists(path):
        raise AudioError(f"{path}: no such file")
    if os.path.isdir(path):
        raise AudioError(f"{path}: is a directory, expected an audio file")
    blocks: list[FloatArray] = []
    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            sample_rate, channels = int(file.samplerate), int(file.channels)
            if channels < 1:
                raise AudioError(f"{path}: has no channels; convert it to mono or stereo first")
            if not MIN_RATE <= sample_rate <= MAX_RATE:
                raise AudioError(
                    f"{path}: sample rate {sample_rate} Hz is outside {MIN_RATE}..{MAX_RATE} Hz; "
                    "resample it first"
                )
            while True:  # in blocks: a broken header may announce more than memory holds
                block = file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
                if len(block) == 0:
                    break
                if not np.isfinite(block).all():
                    raise AudioError(f"{path}: has NaN or infinite samples; repair the file first")
                mono = block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float64)
                blocks.append(mono.astype(np.float32, copy=False))
    except AudioError:
        raise
    except OSError as exc:
        raise AudioError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as exc:
        raise AudioError(
            f"{path}: not an audio file that libsndfile can read; convert it to WAV or FLAC first"
        ) from exc
    waveform = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    notes = [f"downmixed {channels} channels to mono"] if channels > 1 else []
    return waveform, sample_rate, notes


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
    from torchaudio.functional import resample

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
    AudioError   not finite, or the file cannot be written; nothing is left behind then
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, to_int16(waveform), rate, format="WAV", subtype="PCM_16")
    atomic_write(path, buffer.getvalue())


def atomic_write(path: PathLike, data: bytes) -> None:
    """Write `data` beside `path` under a temporary name, then rename: no half-written file.

    A device or pipe (``/dev/stdout``) is written to directly.

    Raises
    ------
    AudioError   the file cannot be written; nothing is left behind then
    """
    target = os.fspath(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            with open(target, "wb") as file:  # renaming would replace the device itself
                file.write(data)
            return
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, target)
        except BaseException:  # Ctrl-C as well
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
    except OSError as exc:
        raise AudioError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
