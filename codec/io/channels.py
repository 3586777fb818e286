"""From any number of channels, and from any array, to one channel of float32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.errors import AudioError

FloatArray = NDArray[np.float32]

MIX = "mix"
BLOCK_SAMPLES = 1 << 16  # of all channels together
MAX_PEAK = 8192.0  # full scale is 1; beyond this, the envelope has no levels
_MAX_CHANNELS = 8  # in arrays whose shape could be read either way
_LEAST_RATIO = 32  # of samples to channels, where there are more of these

_MOST_LOSS = 10**-0.6  # of energy that a downmix may lose against the loudest channel: 6 dB
_SILENT = 1e-5  # of the loudest channel's energy: -50 dB
_GAIN_STEP = 1 << 12  # gains are rounded, so that they do not hang on the order of a sum

# ITU-R BS.775-3, its stereo downmix averaged to mono: the centre at -3 dB, each of left and right
# at -6 dB, surrounds 3 dB below these, no low-frequency channel. Order of channels as in WAV.
_SIDE, _CENTRE, _SURROUND = 0.5, 0.5**0.5, 0.5**1.5
_LAYOUTS = {
    2: (_SIDE, _SIDE),
    3: (_SIDE, _SIDE, _CENTRE),
    4: (_SIDE, _SIDE, _SURROUND, _SURROUND),
    5: (_SIDE, _SIDE, _CENTRE, _SURROUND, _SURROUND),
    6: (_SIDE, _SIDE, _CENTRE, 0.0, _SURROUND, _SURROUND),
    7: (_SIDE, _SIDE, _CENTRE, 0.0, _SURROUND, _SURROUND, _SURROUND),
    8: (_SIDE, _SIDE, _CENTRE, 0.0, _SURROUND, _SURROUND, _SURROUND, _SURROUND),
}
# Vorbis and Opus have another order: the centre second, the low-frequency channel last.
_OGG_LAYOUTS = {
    3: (_SIDE, _CENTRE, _SIDE),
    5: (_SIDE, _CENTRE, _SIDE, _SURROUND, _SURROUND),
    6: (_SIDE, _CENTRE, _SIDE, _SURROUND, _SURROUND, 0.0),
    7: (_SIDE, _CENTRE, _SIDE, _SURROUND, _SURROUND, _SURROUND, 0.0),
    8: (_SIDE, _CENTRE, _SIDE, _SURROUND, _SURROUND, _SURROUND, _SURROUND, 0.0),
}


class Downmix(NamedTuple):
    """Gains that make one channel of several, and what to tell the user of it."""

    gains: tuple[float, ...]
    note: str = ""

    def __call__(self, block: FloatArray) -> FloatArray:
        """Return the float32 samples, shape [T], of a block of shape [T, channels]."""
        if len(self.gains) == 1 and self.gains[0] == 1:
            return np.ascontiguousarray(block[:, 0], np.float32)
        # Channel by channel: the sum of a sample must not depend on how the signal is cut.
        mono = np.zeros(len(block), np.float64)
        for channel, gain in enumerate(self.gains):
            if gain:
                mono += gain * block[:, channel]
        return mono.astype(np.float32)


def one_channel(number: int, channels: int, name: str) -> Downmix:
    """Return the `Downmix` that takes one channel.

    Parameters
    ----------
    number : int     of the channel, from 1
    channels : int   that there are
    name : str       of the file, for the error

    Raises
    ------
    AudioError   there is no such channel
    """
    if not 1 <= number <= channels:
        has = "1 channel" if channels == 1 else f"{channels} channels"
        raise AudioError(f"{name}: has {has}, no channel {number}; choose another")
    gains = tuple(float(channel == number - 1) for channel in range(channels))
    return Downmix(gains, f"took channel {number} of {channels}" if channels > 1 else "")


def downmix(blocks: Iterable[FloatArray], channels: int, ogg: bool = False) -> Downmix:
    """Choose the gains of a downmix by what is in the channels.

    The standard downmix (the mean of two channels; ITU-R BS.775 of surround) is kept as long as
    it is no more than 6 dB below the loudest channel. Where channels cancel each other, those in
    antiphase to the loudest change their sign; what is still too quiet (sound in one channel of
    many) comes at the level of the loudest channel. No downmix is louder than that.

    Parameters
    ----------
    blocks : iterable of float arrays, shape [T, channels]   the whole signal
    channels : int
    ogg : bool   channels are in the order of Vorbis and Opus, not of WAV
    """
    if channels == 1:
        return Downmix((1.0,))
    gram = np.zeros((channels, channels))
    for block in blocks:
        gram += np.matmul(block.T, block, dtype=np.float64)
    layouts = {**_LAYOUTS, **_OGG_LAYOUTS} if ogg else _LAYOUTS
    gains = np.array(layouts.get(channels, (1 / channels,) * channels))
    note = f"downmixed {channels} channels to mono"
    energy = np.diagonal(gram)
    loudest = int(np.argmax(energy))
    most = float(energy[loudest])
    if most == 0:
        return Downmix(tuple(gains.tolist()), note)

    def loss(gains: NDArray[np.float64]) -> float:
        return float(gains @ gram @ gains) / most

    signs = np.where(gram[loudest] < 0, -1.0, 1.0)
    others = [f"{c + 1}" for c in np.flatnonzero(signs < 0)]
    turned = f"channel{'s' * (len(others) > 1)} {', '.join(others)} with the sign changed"
    if float(energy.sum()) - most <= _SILENT * most:
        gains = np.ones(channels)
        note += f": only channel {loudest + 1} has sound"
    elif loss(gains) < _MOST_LOSS:
        if others and loss(signs * gains) >= _MOST_LOSS:
            gains = signs * gains
            note += f", {turned}: they cancel each other"
        else:
            gains = signs
            note += f" at the level of the loudest one, channel {loudest + 1}"
        if loss(gains) < _MOST_LOSS:
            return one_channel(loudest + 1, channels, "")
    share = loss(gains)
    if share > 1:
        gains = gains * (np.ceil(_GAIN_STEP / share**0.5) / _GAIN_STEP)
    return Downmix(tuple(gains.tolist()), note)


def check_samples(samples: FloatArray, name: str) -> float:
    """Return the peak of samples that can be coded; `name` is what messages call them.

    Raises
    ------
    AudioError   NaN, infinite or absurdly large samples
    """
    peak = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))
    if not np.isfinite(peak):
        raise AudioError(f"{name}: has NaN or infinite samples; repair it first")
    if peak > MAX_PEAK:
        raise AudioError(
            f"{name}: has samples of {peak:.3g}, where full scale is 1; scale it first "
            "(floats made of 16 bits: divide by 32768)"
        )
    return peak


def to_mono(wave: Any, channel: str | int = MIX) -> FloatArray:
    """Return any array of samples as one channel.

    Parameters
    ----------
    wave : array or Tensor, shape [T], [channels, T], or [T, channels] where only that can be meant
        Floats with full scale ±1, or PCM: uint8, int16, uint16, int32.
    channel : 'mix' | int   mix all channels by :func:`downmix`, or take one, counted from 1

    Returns
    -------
    float32 array, shape [T]

    Raises
    ------
    AudioError   a shape or type that is not clear; NaN, infinite or absurdly large samples
    """
    if hasattr(wave, "detach"):  # a Tensor, of a framework that is not imported for it
        wave = wave.detach().cpu()
        wave = (wave.float() if wave.is_floating_point() else wave).numpy()
    wave = _to_float(np.asarray(wave))
    frames = _channels_last(wave)
    check_samples(frames, "the wave")
    channels = frames.shape[1]
    if channel != MIX:
        if not isinstance(channel, int | np.integer):
            raise AudioError(f"channel is {channel!r}: give 'mix' or a number, from 1")
        return one_channel(int(channel), channels, "the wave")(frames)
    size = max(1, BLOCK_SAMPLES // max(channels, 1))
    blocks = (frames[start : start + size] for start in range(0, len(frames), size))
    return downmix(blocks, channels)(frames)


def _to_float(wave: NDArray[Any]) -> FloatArray:
    """Return float32 with full scale ±1."""
    wave = wave.astype(wave.dtype.newbyteorder("="), copy=False)
    kind = wave.dtype
    if kind in (np.int16, np.int32):
        return wave.astype(np.float32) / np.float32(-float(np.iinfo(kind).min))
    if kind in (np.uint8, np.uint16):
        half = np.float32(np.iinfo(kind).max // 2 + 1)
        return (wave.astype(np.float32) - half) / half
    if not np.issubdtype(kind, np.floating):
        raise AudioError(
            f"the wave holds {kind} values: give floats within ±1, or PCM as int16 or int32"
        )
    with np.errstate(over="ignore"):
        return wave.astype(np.float32)


def _channels_last(wave: FloatArray) -> FloatArray:
    """Return [T, channels], whichever way round the array is."""
    if wave.ndim == 1:
        return wave[:, None]
    if wave.ndim != 2:
        raise AudioError(f"the wave has shape {wave.shape}: give [T] or [channels, T]")
    first, second = wave.shape
    if 0 in wave.shape:
        return np.zeros((0, max(1, min(first, second) or max(first, second))), np.float32)
    channels, length = min(wave.shape), max(wave.shape)
    clear = first == 1 or (
        length > _MAX_CHANNELS and (channels <= _MAX_CHANNELS or length >= _LEAST_RATIO * channels)
    )
    if not clear:
        raise AudioError(
            f"the wave has shape {wave.shape}, which may be [channels, T] or [T, channels]: "
            "give one channel as [T]"
        )
    return wave.T if first == channels else wave
