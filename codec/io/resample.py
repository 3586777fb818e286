"""Change the sample rate, of whole signals and piece by piece, with the same result."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec.config import MAX_SOURCE_RATE, MIN_SOURCE_RATE, SAMPLE_RATE
from codec.errors import AudioError

FloatArray = NDArray[np.float32]

_QUALITY = "VHQ"


class ResampleStream:
    """Resample a mono signal that comes in pieces.

    However the signal is cut, the pieces that come out add up to :func:`resample` of the whole,
    to the last bit.

    Parameters
    ----------
    old, new : int   sample rates in Hz, 1000..768000

    Attributes
    ----------
    num_in, num_out : int   samples taken in and given out so far

    Raises
    ------
    AudioError   a rate out of range
    """

    def __init__(self, old: int, new: int) -> None:
        for rate in (old, new):
            check_rate(rate)
        self.old, self.new = int(old), int(new)
        self.num_in = self.num_out = 0
        self._stream = None
        if self.old != self.new:
            import soxr  # not before it is needed: most files and all pipes have 16 kHz

            self._stream = soxr.ResampleStream(old, new, 1, dtype="float32", quality=_QUALITY)

    def push(self, samples: FloatArray) -> FloatArray:
        """Take in samples, float32 of shape [T], and return those that they complete."""
        self.num_in += len(samples)
        out = samples
        if self._stream is not None:
            out = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32))
        self.num_out += len(out)
        return out

    def finish(self, num_samples: int | None = None) -> FloatArray:
        """Return the last samples; then the stream is used up.

        Parameters
        ----------
        num_samples : int or None   of the whole output; None: ceil(num_in * new / old). What the
                                    signal does not give is filled up with zeros.
        """
        if num_samples is None:
            num_samples = -(-self.num_in * self.new // self.old)
        missing = max(num_samples - self.num_out, 0)
        rest = np.zeros(0, np.float32)
        if self._stream is not None and missing and self.num_in:
            # soxr rounds the length to the nearest number: a little silence brings what it leaves.
            silence = np.zeros(-(-self.old // self.new) + 1, np.float32)
            rest = self._stream.resample_chunk(silence, last=True)[:missing]
        self.num_out += missing
        return np.concatenate([rest, np.zeros(missing - len(rest), np.float32)])


def check_rate(rate: int, name: str = "sample rate") -> None:
    """Raise an `AudioError` unless the rate is a whole number of Hz that the format can hold."""
    if not math.isfinite(rate) or rate != int(rate):
        raise AudioError(f"{name} {rate} Hz is not a whole number: give an integer")
    if not MIN_SOURCE_RATE <= rate <= MAX_SOURCE_RATE:
        raise AudioError(
            f"{name} {rate} Hz is outside {MIN_SOURCE_RATE}..{MAX_SOURCE_RATE} Hz; "
            "resample it first"
        )


def resample(waveform: ArrayLike, old: int, new: int, num_samples: int | None = None) -> FloatArray:
    """Return a waveform at another rate.

    Parameters
    ----------
    waveform : float array, shape [T]
    old, new : int, Hz, 1000..768000
    num_samples : int or None   length of the result; None: ceil(T * new / old)

    Returns
    -------
    float32 array, shape [num_samples]

    Raises
    ------
    AudioError   a rate out of range, or more than one dimension
    """
    x = np.ascontiguousarray(waveform, dtype=np.float32)
    if x.ndim != 1:
        raise AudioError(f"waveform must have shape [T], got {x.shape}")
    stream = ResampleStream(old, new)
    out = stream.push(x)
    rest = stream.finish(num_samples)
    return (np.concatenate([out, rest]) if len(rest) else out)[:num_samples]


def to_codec_rate(waveform: ArrayLike, rate: int) -> FloatArray:
    """Resample a waveform of shape [T] to 16 kHz, float32 of shape [ceil(T * 16000 / rate)]."""
    return resample(waveform, rate, SAMPLE_RATE)


def from_codec_rate(waveform: ArrayLike, rate: int, num_samples: int) -> FloatArray:
    """Resample a 16 kHz waveform to `rate` and to exactly `num_samples` samples."""
    return resample(waveform, SAMPLE_RATE, rate, num_samples)
