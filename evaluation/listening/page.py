"""Write the listening page: one HTML file with the audio in it, to compare codecs and to rate them.

The page needs no network and no server. Its parts are in ``static/``; this module brings the
sounds to one length, codes them as FLAC, decides which of them belong to which rate, and puts all
into one file. The ratings that the page exports are read by `evaluation.listening.ratings`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import signal

from codec.config import OURS, SAMPLE_RATE
from codec.errors import AudioError
from codec.io.files import atomic_write
from codec.io.wav import to_int16
from evaluation.listening.ratings import ANCHOR, REFERENCE
from evaluation.metrics import METRICS
from evaluation.text import display_name

FloatArray = NDArray[np.float32]
PathLike = str | os.PathLike[str]

# BS.1534-3, section 5.1: the low-range anchor passes 3.5 kHz and loses 25 dB at 4 kHz.
ANCHOR_PASS_HZ, ANCHOR_STOP_HZ = 3500.0, 4000.0

_SCRIPTS = ("tools", "player", "spectrogram", "compare", "blind", "main")


@dataclass
class Sound:
    """One clip as one codec gives it back at one rate.

    Attributes
    ----------
    codec : str                     as in `evaluation.run`
    bitrate_kbps : float            what the codec was asked for
    measured_kbps : float or None   what it took
    wave : float array, shape [T]   16 kHz, full scale ±1, without delay against the reference;
        what is longer than the reference is cut off, what is shorter is filled up with zeros
    scores : dict                   metric -> score; None or NaN where there is none
    """

    codec: str
    bitrate_kbps: float
    measured_kbps: float | None
    wave: FloatArray
    scores: dict[str, float | None] = field(default_factory=dict)

    @property
    def kbps(self) -> float:
        """The measured rate, or the nominal one where nothing was measured."""
        return self.bitrate_kbps if self.measured_kbps is None else self.measured_kbps


@dataclass
class ListeningClip:
    """A clip (float array, shape [T], 16 kHz) and what the codecs make of it."""

    name: str
    reference: FloatArray
    sounds: list[Sound]


@lru_cache(maxsize=1)
def _anchor_filter() -> NDArray[np.float64]:
    """Return a linear-phase FIR filter, shape [taps], taps odd; ripple under 0.01 dB."""
    width = ANCHOR_STOP_HZ - ANCHOR_PASS_HZ
    taps, beta = signal.kaiserord(65.0, width / (SAMPLE_RATE / 2))
    middle = (ANCHOR_PASS_HZ + ANCHOR_STOP_HZ) / 2
    return signal.firwin(taps | 1, middle, window=("kaiser", beta), fs=SAMPLE_RATE)


def low_pass_anchor(wave: FloatArray) -> FloatArray:
    """Return the low-range anchor of a MUSHRA test: the reference up to 3.5 kHz, without delay.

    Parameters
    ----------
    wave : float array, shape [T], 16 kHz

    Returns
    -------
    float32 array, shape [T]

    References
    ----------
    ITU-R BS.1534-3 (2015), section 5.1: ripple within ±0.1 dB up to 3.5 kHz, attenuation of at
    least 25 dB at 4 kHz and 50 dB at 4.5 kHz.
    """
    taps = _anchor_filter()
    full = signal.fftconvolve(np.asarray(wave, dtype=np.float64), taps)
    return full[taps.size // 2 :][: len(wave)].astype(np.float32)


# ---------------------------------------------------------------------------- checks


def _checked_wave(wave: Any, what: str) -> NDArray[np.int16]:
    samples = np.asarray(wave)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"{what}: a wave must be floats of shape [T], got {samples.shape}")
    try:
        return to_int16(samples)
    except AudioError as exc:
        raise ValueError(f"{what}: {exc}") from exc


def _check_rates(sound: Sound, what: str) -> None:
    rates = [sound.bitrate_kbps] + ([] if sound.measured_kbps is None else [sound.measured_kbps])
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise ValueError(f"{what}: a rate must be above 0 kbit/s, got {rates}")


def _check_clips(clips: Sequence[ListeningClip]) -> None:
    if not clips:
        raise ValueError("a listening page needs at least one clip")
    names = [clip.name for clip in clips]
    for clip in clips:
        if names.count(clip.name) > 1:
            raise ValueError(f"{clip.name}: two clips of one name")
        seen: set[tuple[str, float]] = set()
        for sound in clip.sounds:
            what = f"{clip.name}: {sound.codec} at {sound.bitrate_kbps:g} kbit/s"
            if sound.codec in (REFERENCE, ANCHOR):  # the names they have among the ratings
                raise ValueError(f"{what}: a codec cannot be called so")
            _check_rates(sound, what)
            if (sound.codec, sound.bitrate_kbps) in seen:
                raise ValueError(f"{what}: is there twice")
            seen.add((sound.codec, sound.bitrate_kbps))


# ---------------------------------------------------------------------------- what is shown when


def _page_rates(clips: Sequence[ListeningClip]) -> list[float]:
    """Return the rates to choose from: those of this codec, else of the first there is."""
    sounds = [sound for clip in clips for sound in clip.sounds]
    if not sounds:
        return []
    main = OURS if any(s.codec == OURS for s in sounds) else sounds[0].codec
    return sorted({s.bitrate_kbps for s in sounds if s.codec == main})


def _shown(clip: ListeningClip, rate: float, main: str) -> list[int]:
    """Return which sounds belong to a rate, as indices, the main codec first.

    The main codec is there only at exactly this rate; of every other one it is the sound whose
    measured rate is the nearest, as a ratio; of two equally near the lower.
    """
    nearest: dict[str, int] = {}
    for i, sound in enumerate(clip.sounds):
        if sound.codec == main and sound.bitrate_kbps != rate:
            continue
        best = nearest.setdefault(sound.codec, i)
        if _distance(sound, rate) < _distance(clip.sounds[best], rate):
            nearest[sound.codec] = i
    return sorted(nearest.values(), key=lambda i: clip.sounds[i].codec != main)


def _distance(sound: Sound, rate: float) -> tuple[float, float]:
    return round(abs(math.log(sound.kbps / rate)), 9), sound.kbps


# ---------------------------------------------------------------------------- the page's data


def _flac(samples: NDArray[np.int16]) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _fit(samples: NDArray[np.int16], length: int) -> NDArray[np.int16]:
    """Bring to the reference's length: all sounds of a clip loop together."""
    return np.pad(samples[:length], (0, max(0, length - samples.size)))


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def _metrics(clips: Sequence[ListeningClip]) -> list[str]:
    """Return the metrics that have a score somewhere."""
    return [
        metric
        for metric in METRICS
        if any(
            _number(sound.scores.get(metric)) is not None for clip in clips for sound in clip.sounds
        )
    ]


class _Audio(list[str]):
    """The sounds of a page, FLAC in base64; the page knows them by their index."""

    def add(self, samples: NDArray[np.int16]) -> int:
        self.append(_flac(samples))
        return len(self) - 1


def _clip_data(
    clip: ListeningClip, rates: Sequence[float], metrics: Sequence[str], main: str, audio: _Audio
) -> dict[str, Any]:
    """Return what the page knows of a clip, and add its sounds to the audio."""
    reference = _checked_wave(clip.reference, f"{clip.name}: reference")
    if not reference.size:
        raise ValueError(f"{clip.name}: the reference has no samples")
    shown = [_shown(clip, rate, main) for rate in rates]
    used = {i for indices in shown for i in indices}
    anchor = low_pass_anchor((reference / 32768.0).astype(np.float32))
    row: dict[str, Any] = {
        "name": clip.name,
        "seconds": reference.size / SAMPLE_RATE,
        "reference": audio.add(reference),
        "anchor": audio.add(to_int16(anchor)),
        "sounds": [],
        "shown": shown,
    }
    for i, sound in enumerate(clip.sounds):
        what = f"{clip.name}: {sound.codec} at {sound.bitrate_kbps:g} kbit/s"
        wave = _checked_wave(sound.wave, what)
        row["sounds"].append(
            {
                "codec": sound.codec,
                "bitrate": sound.bitrate_kbps,
                "measured": _number(sound.measured_kbps),
                "scores": [_number(sound.scores.get(metric)) for metric in metrics],
                # A baseline's rate that is never the nearest one is not worth its bytes.
                "audio": audio.add(_fit(wave, reference.size)) if i in used else None,
            }
        )
    return row


def _page_data(clips: Sequence[ListeningClip], title: str) -> tuple[dict[str, Any], _Audio]:
    """Return what the page knows, for JSON, and its audio."""
    audio = _Audio()
    rates, metrics = _page_rates(clips), _metrics(clips)
    codecs = list(dict.fromkeys(s.codec for clip in clips for s in clip.sounds))
    main = OURS if OURS in codecs else next(iter(codecs), OURS)
    codecs.sort(key=lambda codec: codec != main)
    data = {
        "title": title,
        "rates": rates,
        "metrics": [
            {"name": m.label, "unit": m.unit, "digits": m.decimals}
            for m in (METRICS[name] for name in metrics)
        ],
        "codecs": [{"key": codec, "name": display_name(codec)} for codec in codecs],
        "clips": [_clip_data(clip, rates, metrics, main, audio) for clip in clips],
    }
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode())
    for text in audio:
        digest.update(text.encode())
    data["page"] = digest.hexdigest()[:16]  # ratings kept in the browser belong to these sounds
    return data, audio


# ---------------------------------------------------------------------------- the file


def _part(name: str) -> str:
    return (
        resources.files("evaluation.listening").joinpath("static", name).read_text(encoding="utf-8")
    )


def _audio_elements(audio: Sequence[str]) -> Iterator[str]:
    for i, text in enumerate(audio):
        yield f'<script type="text/plain" id="audio-{i}">{text}</script>'


def write_page(path: PathLike, clips: Sequence[ListeningClip], title: str) -> None:
    """Write the listening page.

    Parameters
    ----------
    path : HTML file to write; replaced if it exists, never left half written
    clips : at least one, names differing; each with its reference and any number of sounds
    title : plain text

    Raises
    ------
    ValueError   nothing to show, two of one name, a wave that is not finite; one line
    AudioError   the file cannot be written
    """
    _check_clips(clips)
    data, audio = _page_data(clips, title)
    # "<" occurs in JSON within strings only; escaped, no text can end the element it is in.
    as_json = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _part("style.css"),
        "DATA": as_json,
        "AUDIO": "\n".join(_audio_elements(audio)),
        "SCRIPT": "\n".join(_part(f"{name}.js") for name in _SCRIPTS),
    }
    # One pass, so that nothing within the parts is taken for a place to fill.
    text = re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], _part("page.html"))
    # Lone surrogates (file names that are not UTF-8) must not keep the page from being written.
    atomic_write(path, text.encode("utf-8", "replace"))
