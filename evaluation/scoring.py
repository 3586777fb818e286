"""Code one clip at one rate, in ours or in a baseline, and score what comes out.

Whatever fails, on whichever clip, is listed with its reason; the clip's other scores stay. Other
codecs are forgiven their delay, and for pSNR their fixed filtering (`alignment`); ours gets no such
help.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec import __version__
from codec.bitstream import read_stream
from codec.config import FRAMES_PER_SECOND, OURS, SAMPLE_RATE
from codec.errors import AudioError
from codec.info import check_same
from codec.io.audio import read_audio
from codec.io.resample import to_codec_rate
from codec.io.storage import Location, fetched
from codec.io.wav import to_int16, write_wav
from evaluation.alignment import align, mapped_psnr
from evaluation.baselines.base import Baseline, BaselineError
from evaluation.metrics import METRICS, MetricError
from evaluation.results import ClipScore

FloatArray = NDArray[np.float32]

_WARM_UP_SECONDS = 1.0
_NEVER_LOST = 5  # frames at the start of a clip


def stream_packets(data: bytes) -> list[bytes]:
    """Return the payload packets of an encoded file."""
    return read_stream(data)[1]


@dataclass(frozen=True)
class Job:
    """What every worker needs to know; travels to it by pickle. See `config.EvalConfig`."""

    codec_loader: Callable[[], Any]
    metrics: tuple[str, ...]
    packets_of: Callable[[bytes], Sequence[bytes]] = stream_packets
    vbr: bool = False
    independent: bool = False
    losses: tuple[float, ...] = ()  # percent; empty: all packets arrive
    name: str = OURS
    baselines: tuple[Baseline, ...] = ()
    fingerprint: str | None = None  # of the weights that are meant
    keeps_wave: bool = False  # for slow metrics
    version: str = __version__
    effort: str = "normal"  # of our encoder

    def prepare(self) -> Callable[[Task, object], list[ClipScore]]:
        """Load the codec, and return the function that does a task with it.

        Raises
        ------
        WeightsError   a worker has other weights, or another version of this package
        """
        codec = self.codec_loader()
        found = getattr(codec, "fingerprint", None)
        if isinstance(found, str):
            check_same(found, self.fingerprint, self.version)
        _warm_up(self, codec)
        return partial(run_task, self, codec)

    def encode(self, codec: Any, wave: FloatArray, rate: float) -> bytes:
        """Return the bytes of a clip in our codec."""
        options: dict[str, Any] = {"bitrate": rate, "vbr": self.vbr}
        if self.independent:
            options["independent"] = True
        if self.effort != "normal":
            options["effort"] = self.effort
        return bytes(codec.encode(wave, SAMPLE_RATE, **options))


@dataclass(frozen=True)
class Task:
    """One clip at one rate, in our codec or in a baseline (its index).

    `save_to` is where the decoded WAV goes, if anywhere; `heard` keeps it for the listening page.
    """

    path: Location
    file: str
    rate: float
    save_to: Path | None = None
    heard: bool = False
    baseline: int | None = None
    number: int = 0  # in its run

    def keep(self, clip: ClipScore, wave: NDArray[np.floating], always: bool) -> FloatArray:
        """Keep what was decoded where it is wanted; return it as 16 bits have it."""
        if self.save_to is not None:
            path = self.save_to
            if clip.loss:
                path = path.with_suffix(f".loss{clip.loss:g}.wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_wav(path, wave, SAMPLE_RATE)
        rounded = (to_int16(wave) / 32768.0).astype(np.float32)
        if self.heard or always:
            clip.wave = rounded
        return rounded


def run_task(job: Job, codec: Any, task: Task, stop: object = None) -> list[ClipScore]:
    """Code one clip at one rate, and score it, once for each rate of loss."""
    baseline = None if task.baseline is None else job.baselines[task.baseline]
    clip = ClipScore(task.file, task.rate, job.name if baseline is None else baseline.name)
    losses = job.losses if baseline is None else ()
    try:
        reference, clip.notes = read_clip(task.path)
    except AudioError as exc:
        clip.failures.append(("audio", _one_line(exc)))
        return _for_each_loss(losses, clip)
    clip.duration_s = reference.size / SAMPLE_RATE
    if baseline is not None:
        _run_baseline(job, task, baseline, reference, clip)
        return [clip]
    try:
        # CPU seconds of this process: speed on one core, whatever else the machine does.
        start = time.process_time()
        data = job.encode(codec, reference, task.rate)
        clip.encode_s = time.process_time() - start
        packets = job.packets_of(data)
    except Exception as exc:  # one clip that breaks the codec is a finding, not the end
        clip.failures.append(("codec", _one_line(exc)))
        return _for_each_loss(losses, clip)
    clips = _for_each_loss(losses, clip)
    for each in clips:
        _decode_and_score(job, codec, task, reference, data, packets, each)
    return clips


@lru_cache(maxsize=2)
def read_clip(place: Location) -> tuple[FloatArray, list[str]]:
    """Read a clip as 16 kHz mono, and notes on it; it is coded at several rates in a row."""
    with fetched(place) as path:
        waveform, rate, notes = read_audio(path, name=str(place))
    return to_codec_rate(waveform, rate), notes


def read_reference(place: Location) -> FloatArray:
    """Read a clip as 16 kHz mono."""
    return read_clip(place)[0]


@dataclass(frozen=True)
class SlowJob:
    """The work of those who compute slow metrics of what others have decoded."""

    metrics: tuple[str, ...]

    def prepare(self) -> Callable[[tuple[Task, list[ClipScore]], object], list[ClipScore]]:
        """Return the function that adds the scores, and drops sound that nobody will hear."""

        def work(item: tuple[Task, list[ClipScore]], stop: object) -> list[ClipScore]:
            task, clips = item
            for clip in clips:
                if clip.wave is not None:
                    reference = read_reference(task.path)
                    for name in self.metrics:
                        _score(clip, name, METRICS[name].function, reference, clip.wave)
            return [clip.without_wave(task.heard) for clip in clips]

        return work


def _for_each_loss(losses: Sequence[float], clip: ClipScore) -> list[ClipScore]:
    return [
        replace(clip, loss=loss, scores={}, failures=list(clip.failures))
        for loss in (losses or (0.0,))
    ]


def _decode_and_score(
    job: Job,
    codec: Any,
    task: Task,
    reference: FloatArray,
    data: bytes,
    packets: Sequence[bytes],
    clip: ClipScore,
) -> None:
    """Decode and score in place."""
    try:
        start = time.process_time()
        if clip.loss:
            decoded = codec.decode_lossy(data, lost_packets(task.file, len(packets), clip.loss))
        else:
            decoded = codec.decode(data)
        clip.decode_s = time.process_time() - start
        if decoded.shape != reference.shape:
            raise ValueError(f"{reference.size} samples went in, {decoded.size} came out")
        decoded = task.keep(clip, decoded, job.keeps_wave)
    except Exception as exc:
        clip.encode_s = None
        clip.failures.append(("codec", _one_line(exc)))
        return
    clip.measured_kbps = _kbps(len(data), clip.duration_s)
    clip.payload_kbps = _kbps(sum(map(len, packets)), len(packets) / FRAMES_PER_SECOND)
    for name in job.metrics:
        _score(clip, name, METRICS[name].function, reference, decoded)


def _run_baseline(
    job: Job, task: Task, baseline: Baseline, reference: FloatArray, clip: ClipScore
) -> None:
    """Let another codec's programs code one clip at one rate, and score in place."""
    try:
        coded = baseline.code(reference, task.rate)
        decoded = task.keep(clip, align(reference, coded.wave)[0], job.keeps_wave)
    except Exception as exc:  # as with ours
        clip.failures.append(("codec", _one_line(exc)))
        return
    clip.measured_kbps = clip.payload_kbps = coded.measured_kbps
    clip.encode_s, clip.decode_s = coded.encode_s, coded.decode_s
    for name in job.metrics:
        function = mapped_psnr if name == "psnr_db" else METRICS[name].function
        _score(clip, name, function, reference, decoded)


def _score(
    clip: ClipScore,
    name: str,
    function: Callable[[Any, Any], float],
    reference: FloatArray,
    decoded: FloatArray,
) -> None:
    """Add one score, or the reason why there is none."""
    clip.scores[name] = None
    try:
        value = function(reference, decoded)
    except Exception as exc:  # a metric's bug on one clip must not lose the others
        clip.failures.append((name, _one_line(exc)))
        return
    if np.isfinite(value):
        clip.scores[name] = value
    else:
        clip.failures.append((name, f"score is {value}"))


def lost_packets(file: str, count: int, loss: float) -> NDArray[np.bool_]:
    """Return which of a clip's packets are lost, the same for every codec of 20 ms packets.

    A loss is drawn for each packet with the clip's name as seed; a packet that is lost at some rate
    of loss is lost at every higher one. The first five packets never are.

    Parameters
    ----------
    file : str     path relative to the test directory, with forward slashes
    count : int    packets
    loss : float   percent

    Returns
    -------
    bool array, shape [count]
    """
    seed = zlib.crc32(file.encode("utf-8", "surrogateescape"))
    generator = np.random.Generator(np.random.PCG64(seed))
    lost = generator.random(count) < loss / 100
    lost[:_NEVER_LOST] = False
    return lost


def _warm_up(job: Job, codec: Any) -> None:
    """Code a second of noise, so that just-in-time compilation is not timed."""
    noise = np.random.default_rng(0).standard_normal(int(_WARM_UP_SECONDS * SAMPLE_RATE))
    wave = (0.1 * noise).astype(np.float32)
    with contextlib.suppress(Exception):  # whatever is wrong shows up clip by clip
        codec.decode(job.encode(codec, wave, 16.0))


def _kbps(num_bytes: int, seconds: float) -> float | None:
    return None if seconds <= 0 else 8e-3 * num_bytes / seconds


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    if isinstance(exc, MetricError | AudioError | BaselineError):
        return text
    return f"{type(exc).__name__}: {text}"
