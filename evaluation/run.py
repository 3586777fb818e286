"""Run codecs over a test set: encode to bytes, decode from those bytes, score, sum up, compare.

One clip in one codec at one rate is one task. Tasks run in this process, or in worker processes
that each load the codec once and compute on one thread. Beside ours come the programs of other
codecs (`evaluation.baselines.codecs`), and published scores of others still
(`evaluation.published`). Whatever fails, on
whichever clip, is listed with its reason; the clip's other scores stay.

Other codecs are forgiven their delay (`metrics.align`), and for pSNR their fixed filtering too
(`metrics.fir_map`). Ours gets no such help.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import multiprocessing
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codec.audio import (
    AudioError,
    atomic_write,
    read_audio,
    to_codec_rate,
    to_int16,
    write_wav,
)
from codec.config import OURS
from evaluation import bd_rate as statistics
from evaluation import metrics
from evaluation.baselines.codecs import Peer, PeerError
from evaluation.published import PublishedScore

if TYPE_CHECKING:
    from evaluation.listening.page import ListeningClip

Metric = Callable[[Any, Any], float]

SAMPLE_RATE = 16000
PACKET_SECONDS = 0.020
METRICS: dict[str, Metric] = {
    "pesq_wb": metrics.pesq_wb,
    "psnr_db": metrics.psnr,
    "estoi": metrics.estoi,
}
EXTRA_METRICS: dict[str, Metric] = {"visqol": metrics.visqol, "dnsmos": metrics.dnsmos}
MAX_RATE_DIFFERENCE = 0.15  # of two codecs that are compared "at the same rate"
SCORES_NAME = "scores.csv"
SUMMARY_NAME = "summary.json"

# Numerical libraries read these when a worker starts; more threads than cores slow all workers.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_WARM_UP_SECONDS = 1.0


class EvalError(RuntimeError):
    """The run as a whole cannot go on; the message is one line for the user."""


@dataclass
class ClipScore:
    """What one clip gave in one codec at one rate.

    `scores` holds None for a metric that failed; `failures` then has the pair (metric, reason).
    A clip that could not be read or coded has no scores and one failure, "audio" or "codec".

    Rates in kbit/s: `bitrate_kbps` is nominal. `measured_kbps` is that of our whole file per second
    of audio; of other programs, that of the packets without their container, as `payload_kbps` is;
    of a published score, what its author says. `encode_s` and `decode_s` are CPU seconds.
    `path` is the file, `audio` the decoded WAV where it was kept. `published` tells scores that
    were only read from a file.
    """

    file: str
    bitrate_kbps: float
    codec: str = OURS
    loss_percent: float = 0.0
    duration_s: float = 0.0
    num_bytes: int | None = None
    measured_kbps: float | None = None
    payload_kbps: float | None = None
    encode_s: float | None = None
    decode_s: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    path: Path | None = None
    audio: Path | None = None
    published: bool = False


@dataclass
class EvalResult:
    """Scores of a test set, with what they add up to.

    clips : one `ClipScore` per clip, codec and rate; ours first, then the others
    summary : one dict per codec and rate: ``codec``, ``bitrate_kbps``, ``measured_kbps``,
        ``payload_kbps``; for each metric m the mean ``m``, its 95 % confidence interval ``m_low``,
        ``m_high`` and the quantiles over clips ``m_q05``, ``m_q95``; ``clips``, ``failures``,
        ``encode_x_realtime``, ``decode_x_realtime``, ``published``. None where there is no value.
    comparison : ours minus the baseline over the same clips, one dict for each of our rates that
        the baseline has too: ``codec`` (the baseline), ``bitrate_kbps`` and ``measured_kbps``
        (ours), ``baseline_kbps`` (measured), for each metric m ``m_difference``, ``m_low``,
        ``m_high``, ``m_clips``
    rate_saved : one dict per other codec and metric, see `statistics.RateSaved`: ``codec``,
        ``metric``, ``percent``, ``low``, ``high``, ``from_quality``, ``to_quality``, ``clips``,
        ``reason``
    notes : what a reader of the figures should know
    """

    clips: list[ClipScore]
    summary: list[dict[str, Any]]
    weights: str | None
    vbr: bool
    extra_metrics: tuple[str, ...]
    wall_s: float
    independent: bool = False
    losses: tuple[float, ...] = ()
    name: str = OURS
    baseline: str | None = None
    comparison: list[dict[str, Any]] = field(default_factory=list)
    rate_saved: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics of this run."""
        return (*METRICS, *self.extra_metrics)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """One entry per failure: file, codec, bitrate_kbps, metric, reason."""
        return [
            {"file": c.file, "codec": c.codec, "bitrate_kbps": c.bitrate_kbps}
            | ({"loss_percent": c.loss_percent} if self.losses else {})
            | {"metric": m, "reason": r}
            for c in self.clips
            for m, r in c.failures
        ]

    def to_json(self) -> str:
        """Return all but the scores of single clips as JSON, with what the run was made with."""
        content = {
            "summary": self.summary,
            "comparison": self.comparison,
            "rate_saved": self.rate_saved,
            "failures": self.failures,
            "notes": self.notes,
            "name": self.name,
            "baseline": self.baseline,
            "weights": self.weights,
            "vbr": self.vbr,
            "independent": self.independent,
            "rates_kbps": sorted({c.bitrate_kbps for c in self.clips if c.codec == self.name}),
            "losses": list(self.losses),
            "metrics": list(self.metrics),
            "files": len({clip.file for clip in self.clips}),
            "bootstrap": {"resamples": statistics.RESAMPLES, "confidence": statistics.CONFIDENCE},
            "versions": _versions(self.extra_metrics),
            "wall_s": round(self.wall_s, 1),
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Return one row per clip, codec and rate that was scored in this run, not published ones.

        Cells of failed metrics are empty. A later run reads this with `scores.read_scores`.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        loss = ["loss_percent"] if self.losses else []
        first = ["file", "codec", "nominal_bps", *loss, "actual_bps"]
        last = ["payload_bps", "encode_s", "decode_s", "duration_s"]
        writer.writerow([*first, *METRICS, *last, *self.extra_metrics])
        for clip in self.clips:
            if clip.published:
                continue
            cells = {name: _cell(clip.scores.get(name)) for name in self.metrics}
            writer.writerow(
                [
                    clip.file,
                    clip.codec,
                    _bits(clip.bitrate_kbps),
                    *(f"{clip.loss_percent:g}" for _ in loss),
                    _bits(clip.measured_kbps),
                    *(cells[name] for name in METRICS),
                    _bits(clip.payload_kbps),
                    _cell(clip.encode_s),
                    _cell(clip.decode_s),
                    _cell(clip.duration_s),
                    *(cells[name] for name in self.extra_metrics),
                ]
            )
        return buffer.getvalue()


def _versions(extra_metrics: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that the scores depend on."""
    packages = ["pesq", "pystoi", "numpy", "scipy"]
    packages += [{"visqol": "visqol-python", "dnsmos": "speechmos"}[name] for name in extra_metrics]
    found = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _kbps(num_bytes: int | None, seconds: float) -> float | None:
    return None if num_bytes is None or seconds <= 0 else 8e-3 * num_bytes / seconds


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _bits(kbps: float | None) -> str:
    """Return a rate in bit/s."""
    return "" if kbps is None else f"{1000 * kbps:.0f}"


# ---------------------------------------------------------------------------- one clip


def lost_packets(name: str, count: int, loss_percent: float) -> NDArray[np.bool_]:
    """Return which of a clip's packets are lost, the same for every codec of 20 ms packets.

    A loss is drawn for each packet with the clip's name as seed; a packet that is lost at some rate
    of loss is lost at every higher one. The first five packets never are.

    Parameters
    ----------
    name : str            path relative to the test directory, with forward slashes
    count : int           packets
    loss_percent : float

    Returns
    -------
    bool array, shape [count]
    """
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    lost = generator.random(count) < loss_percent / 100
    lost[:5] = False
    return lost


def stream_packets(data: bytes) -> list[bytes]:
    """Return the payload packets of an encoded file."""
    from codec.bitstream import read_stream

    return read_stream(data)[1]


@dataclass(frozen=True)
class _Job:
    """What every worker needs to know; travels to it by pickle."""

    codec_loader: Callable[[], Any]
    packets_of: Callable[[bytes], Sequence[bytes]]
    vbr: bool
    independent: bool
    losses: tuple[float, ...]  # percent; empty: all packets arrive
    extra_metrics: tuple[str, ...]
    name: str = OURS
    peers: tuple[Peer, ...] = ()

    def encode(self, codec: Any, wave: NDArray[np.float32], bitrate_kbps: float) -> bytes:
        options: dict[str, Any] = {"bitrate": bitrate_kbps, "vbr": self.vbr}
        if self.independent:
            options["independent"] = True
        return bytes(codec.encode(wave, SAMPLE_RATE, **options))


@dataclass(frozen=True)
class _Task:
    """One clip at one rate, in our codec or in a peer (its index)."""

    path: Path
    name: str
    bitrate_kbps: float
    save_to: Path | None
    peer: int | None = None

    def save_lossy(self, loss_percent: float) -> Path | None:
        """Return where the clip goes that was decoded with losses."""
        if self.save_to is None or not loss_percent:
            return self.save_to
        return self.save_to.with_suffix(f".loss{loss_percent:g}.wav")


@lru_cache(maxsize=2)
def _reference(path: Path) -> NDArray[np.float32]:
    """Read a clip as 16 kHz mono; the same clip is coded at several rates in a row."""
    waveform, rate, _ = read_audio(path)
    return to_codec_rate(waveform, rate)


def _warm_up(codec: Any, bitrate_kbps: float, job: _Job) -> None:
    """Code a second of noise, so that just-in-time compilation is not timed."""
    noise = np.random.default_rng(0).standard_normal(int(_WARM_UP_SECONDS * SAMPLE_RATE))
    wave = (0.1 * noise).astype(np.float32)
    with contextlib.suppress(Exception):  # whatever is wrong shows up clip by clip
        codec.decode(job.encode(codec, wave, bitrate_kbps))


def _score(clip: ClipScore, name: str, metric: Metric, reference: Any, decoded: Any) -> None:
    """Add one score, or the reason why there is none."""
    clip.scores[name] = None
    try:
        value = metric(reference, decoded)
    except Exception as exc:  # a metric's bug on one clip must not lose the others
        clip.failures.append((name, _one_line(exc)))
        return
    if np.isfinite(value):
        clip.scores[name] = value
    else:
        clip.failures.append((name, f"score is {value}"))


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    if isinstance(exc, metrics.MetricError | AudioError | PeerError):
        return text
    return f"{type(exc).__name__}: {text}"


def _run_task(job: _Job, codec: Any, task: _Task) -> list[ClipScore]:
    """Encode one clip at one rate, then decode and score it, once for each rate of loss."""
    if task.peer is not None:
        return [_run_peer(job, task, job.peers[task.peer])]
    clip = ClipScore(task.name, task.bitrate_kbps, job.name, path=task.path)
    try:
        reference = _reference(task.path)
    except AudioError as exc:
        clip.failures.append(("audio", _one_line(exc)))
        return _for_each_loss(job, clip)
    clip.duration_s = reference.size / SAMPLE_RATE
    try:
        # CPU seconds of this process: speed on one core, whatever else the machine does.
        start = time.process_time()
        data = job.encode(codec, reference, task.bitrate_kbps)
        clip.encode_s = time.process_time() - start
        packets = job.packets_of(data)
    except Exception as exc:  # one clip that breaks the codec is a finding, not the end
        clip.failures.append(("codec", _one_line(exc)))
        return _for_each_loss(job, clip)
    results = _for_each_loss(job, clip)
    for result in results:
        _decode_and_score(job, codec, task, reference, data, packets, result)
    return results


def _for_each_loss(job: _Job, clip: ClipScore) -> list[ClipScore]:
    return [
        replace(clip, loss_percent=loss, scores={}, failures=list(clip.failures))
        for loss in (job.losses or (0.0,))
    ]


def _decode_and_score(
    job: _Job,
    codec: Any,
    task: _Task,
    reference: NDArray[np.float32],
    data: bytes,
    packets: Sequence[bytes],
    clip: ClipScore,
) -> None:
    """Decode and score in place."""
    try:
        start = time.process_time()
        if clip.loss_percent:
            lost = lost_packets(task.name, len(packets), clip.loss_percent)
            decoded = codec.decode_lossy(data, lost)
        else:
            decoded = codec.decode(data)
        clip.decode_s = time.process_time() - start
        if decoded.shape != reference.shape:
            raise ValueError(f"{reference.size} samples went in, {decoded.size} came out")
        save_to = task.save_lossy(clip.loss_percent)
        _keep_audio(clip, save_to, decoded)
        decoded = to_int16(decoded) / 32768.0  # what the WAV file holds
    except Exception as exc:
        clip.encode_s = None
        clip.failures.append(("codec", _one_line(exc)))
        return
    clip.num_bytes = len(data)
    clip.measured_kbps = _kbps(len(data), clip.duration_s)
    clip.payload_kbps = _kbps(sum(map(len, packets)), PACKET_SECONDS * len(packets))
    for name in (*METRICS, *job.extra_metrics):
        _score(clip, name, _metric(name), reference, decoded)


def _metric(name: str) -> Metric:
    return METRICS[name] if name in METRICS else EXTRA_METRICS[name]


def _keep_audio(clip: ClipScore, path: Path | None, wave: NDArray[np.floating]) -> None:
    """Write what was decoded, if it is to be kept."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, wave, SAMPLE_RATE)
        clip.audio = path


def _run_peer(job: _Job, task: _Task, peer: Peer) -> ClipScore:
    """Let another codec's programs code one clip at one rate, and score what comes out."""
    clip = ClipScore(task.name, task.bitrate_kbps, peer.name, path=task.path)
    try:
        reference = _reference(task.path)
    except AudioError as exc:
        clip.failures.append(("audio", _one_line(exc)))
        return clip
    clip.duration_s = reference.size / SAMPLE_RATE
    try:
        coded = peer.code(reference, task.bitrate_kbps)
        aligned, _ = metrics.align(reference, coded.wave)
        _keep_audio(clip, task.save_to, aligned)
        decoded = to_int16(aligned) / 32768.0
    except Exception as exc:  # as with ours
        clip.failures.append(("codec", _one_line(exc)))
        return clip
    clip.num_bytes = coded.payload_bytes
    clip.measured_kbps = clip.payload_kbps = coded.measured_kbps
    clip.encode_s, clip.decode_s = coded.encode_s, coded.decode_s
    for name in (*METRICS, *job.extra_metrics):
        metric = _mapped_psnr if name == "psnr_db" else _metric(name)
        _score(clip, name, metric, reference, decoded)
    return clip


def _mapped_psnr(reference: Any, decoded: Any) -> float:
    return metrics.psnr(reference, metrics.fir_map(reference, decoded))


# ---------------------------------------------------------------------------- workers


_Finished = Generator[tuple[int, list[ClipScore]], None, None]  # index of the task, what it gave

_worker: tuple[_Job, Any] | None = None


def _limit_torch_threads(num_threads: int) -> int | None:
    """Set torch's thread count if torch is loaded; return the former one."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    former = int(torch.get_num_threads())
    torch.set_num_threads(num_threads)
    return former


def _start_worker(job: _Job, bitrate_kbps: float) -> None:
    global _worker
    codec = job.codec_loader()
    _limit_torch_threads(1)
    _warm_up(codec, bitrate_kbps, job)
    _worker = job, codec


def _work(task: _Task) -> list[ClipScore]:
    assert _worker is not None
    return _run_task(*_worker, task)


@contextlib.contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Let processes started inside compute on one thread each."""
    former = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run_here(job: _Job, codec: Any, tasks: Sequence[_Task]) -> _Finished:
    former = _limit_torch_threads(1)
    try:
        _warm_up(codec, tasks[0].bitrate_kbps, job)
        for index, task in enumerate(tasks):
            yield index, _run_task(job, codec, task)
    finally:
        if former is not None:
            _limit_torch_threads(former)


def _run_workers(job: _Job, tasks: Sequence[_Task], jobs: int) -> _Finished:
    with _single_threaded_children():
        pool = ProcessPoolExecutor(
            max_workers=min(jobs, len(tasks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(job, tasks[0].bitrate_kbps),
        )
        try:
            futures = {pool.submit(_work, task): index for index, task in enumerate(tasks)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as exc:
            raise EvalError("a worker process died, perhaps for memory; use fewer jobs") from exc
        finally:
            pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------- the test set


def check_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Return the extra metrics in order, each once, or say which one cannot be computed.

    Raises
    ------
    ValueError    unknown name
    MetricError   its package is not installed
    """
    unique = tuple(dict.fromkeys(names))
    for name in unique:
        if name not in EXTRA_METRICS:
            raise ValueError(f"unknown metric {name!r}; choose from {', '.join(EXTRA_METRICS)}")
        metrics.require(name)
    return unique


def evaluate(
    codec_loader: Callable[[], Any],
    files: Sequence[str | os.PathLike[str]],
    rates_kbps: Sequence[float],
    *,
    root: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    vbr: bool = False,
    independent: bool = False,
    losses: Sequence[float] = (),
    extra_metrics: Sequence[str] = (),
    name: str = OURS,
    peers: Sequence[Peer] = (),
    published: Sequence[PublishedScore] = (),
    baseline: str | None = None,
    save_audio: str | os.PathLike[str] | None = None,
    save_files: Collection[str | os.PathLike[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    packets_of: Callable[[bytes], Sequence[bytes]] = stream_packets,
) -> EvalResult:
    """Encode every file at every rate to bytes, decode those bytes, and score what comes out.

    Scores compare the decoded waveform, quantized to 16 bits, with the 16 kHz mono reference. The
    times are CPU seconds on one thread; compilation and loading are not counted.

    Parameters
    ----------
    codec_loader : callable without arguments that returns a `Codec`; picklable if jobs > 1,
        for instance ``functools.partial(Codec.load, path)``
    files : audio files
    rates_kbps : nominal rates
    root : directory that file names in the result are relative to; default: what they share
    jobs : number of processes; 1 runs in this one
    vbr : encode with variable bitrate
    independent : encode with independent packets
    losses : percent of packets that get lost on the way, see `lost_packets`; each clip is scored
        once for each of them; packets are independent then
    extra_metrics : any of "visqol", "dnsmos"
    name : how this codec is called in the result
    peers : other codecs to run on the same clips, at the nearest rates they have; picklable if
        jobs > 1; they are not checked to be installed here
    published : scores of other codecs; those of a peer that runs here are left out, and so are
        those of other files
    baseline : codec that ours is compared with rate by rate; default: the first of `peers`, else
        the first of `published`
    save_audio : directory; decoded clips go to ``<rate>/<file>.wav`` below it, those of peers,
        aligned, to ``<codec>/<rate>/<file>.wav``
    save_files : the files of which decoded clips are kept; default: all
    progress : called as ``progress(done, total)`` after each clip, codec and rate
    packets_of : how to get the payload packets of an encoded file

    Returns
    -------
    EvalResult, clips codec by codec in the order of `files`, rates ascending within each

    Raises
    ------
    ValueError    no files, no rates, jobs below 1, an unknown metric or baseline, two codecs of one
                  name, or losses together with other codecs
    MetricError   an extra metric is not installed
    EvalError     a worker process died
    """
    paths = [Path(file) for file in files]
    rates = sorted(set(rates_kbps))
    if not paths:
        raise ValueError("no audio files to evaluate")
    if not rates:
        raise ValueError("no rates to evaluate")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    start = time.perf_counter()
    for loss in losses:
        if not 0 <= loss <= 100:
            raise ValueError(f"loss of {loss:g} % is outside 0..100 %")
    lossy = tuple(sorted(set(losses)))
    if lossy and (peers or published):
        raise ValueError("other codecs are not scored with losses")
    independent = independent or bool(lossy)
    names = _relative_names(paths, root)
    extra = check_metrics(extra_metrics)
    against = [peer.name for peer in peers]
    others, notes = _select_published(published, names, name, against, (*METRICS, *extra))
    against += dict.fromkeys(score.codec for score in others)
    if twice := [codec for codec, count in Counter([name, *against]).items() if count > 1]:
        raise ValueError(f"two codecs of this run are called {twice[0]!r}")
    if baseline is None:
        baseline = against[0] if against else None
    elif baseline not in against:
        known = f"choose from {', '.join(against)}" if against else "there is no other codec"
        raise ValueError(f"baseline {baseline!r} is not in this run; {known}")
    job = _Job(codec_loader, packets_of, vbr, independent, lossy, extra, name, tuple(peers))
    codec = codec_loader()  # here too, so that a bad weights file is an ordinary error
    kept = None if save_files is None else {Path(file) for file in save_files}
    wav_names = _wav_names(names)

    def place(path: Path, *parts: str) -> Path | None:
        if save_audio is None or (kept is not None and path not in kept):
            return None
        return Path(save_audio).joinpath(*parts)

    tasks: list[_Task] = []
    for path, file, wav_name in zip(paths, names, wav_names, strict=True):
        for rate in rates:
            tasks.append(_Task(path, file, rate, place(path, f"{rate:g}", wav_name)))
        for index, peer in enumerate(peers):
            for rate in peer.rates(rates):
                where = place(path, peer.name, f"{rate:g}", wav_name)
                tasks.append(_Task(path, file, rate, where, index))
    scored: list[list[ClipScore]] = [[]] * len(tasks)
    if jobs == 1:
        finished = _run_here(job, codec, tasks)
    else:
        finished = _run_workers(job, tasks, jobs)
    with contextlib.closing(finished):
        for done, (index, scores) in enumerate(finished, start=1):
            scored[index] = scores
            if progress is not None:
                progress(done, len(tasks))
    _reference.cache_clear()
    clips = [clip for scores in scored for clip in scores]
    seconds = {clip.file: clip.duration_s for clip in clips}
    clips += [_published_clip(score, seconds[score.file], (*METRICS, *extra)) for score in others]
    order = {codec: index for index, codec in enumerate([name, *against])}
    clips.sort(key=lambda clip: order[clip.codec])  # stable: files and rates stay as they are
    summary = _summaries(clips, job)
    compared = _compare(clips, summary, name, baseline, job, notes) if baseline else []
    return EvalResult(
        clips=clips,
        summary=summary,
        weights=_fingerprint(codec),
        vbr=vbr,
        extra_metrics=job.extra_metrics,
        wall_s=time.perf_counter() - start,
        independent=independent,
        losses=lossy,
        name=name,
        baseline=baseline,
        comparison=compared,
        rate_saved=_rates_saved(clips, summary, name, against, job),
        notes=notes,
    )


def _select_published(
    published: Sequence[PublishedScore],
    names: Sequence[str],
    ours: str,
    peers: Sequence[str],
    metrics_of_run: Sequence[str],
) -> tuple[list[PublishedScore], list[str]]:
    """Return the published scores that take part in a run, and notes on those that do not.

    Raises
    ------
    ValueError   a published codec is called as ours is
    """
    notes: list[str] = []
    files, codecs = set(names), list(dict.fromkeys(score.codec for score in published))
    if ours in codecs:
        raise ValueError(
            f"the published scores have a codec {ours!r} too; call ours otherwise with --name"
        )
    twice = [codec for codec in codecs if codec in peers]
    if twice:
        what = "it runs" if len(twice) == 1 else "they run"
        notes.append(f"published scores of {', '.join(twice)} are left out: {what} here")
    rest = [score for score in published if score.codec not in peers]
    in_run = [score for score in rest if score.file in files]
    covered = {
        codec: len({score.file for score in in_run if score.codec == codec})
        for codec in codecs
        if codec not in peers
    }
    absent = [codec for codec, count in covered.items() if not count]
    if absent:
        notes.append(
            f"published scores of {', '.join(absent)} are left out: none is of a clip of this run"
        )
    for codec, count in covered.items():
        if 0 < count < len(files):
            notes.append(f"published scores of {codec} are of {count} of {len(files)} clips only")
    unused = sum(score.codec not in absent for score in rest) - len(in_run)
    if unused:
        notes.append(f"published rows of clips that are not in this run: {unused}")
    chosen = [score for score in in_run if not score.scores.keys().isdisjoint(metrics_of_run)]
    others = (s.codec for s in in_run if s.scores.keys().isdisjoint(metrics_of_run))
    if dropped := list(dict.fromkeys(others)):
        notes.append(
            f"published scores of {', '.join(dropped)} are left out where they are of other "
            "metrics only; see --metrics"
        )
    return chosen, notes


def _published_clip(
    score: PublishedScore, duration_s: float, metrics_of_run: Sequence[str]
) -> ClipScore:
    actual = score.nominal_bps if score.actual_bps is None else score.actual_bps
    return ClipScore(
        score.file,
        score.nominal_bps / 1000,
        score.codec,
        duration_s=duration_s,
        measured_kbps=actual / 1000,
        scores={name: score.scores.get(name) for name in metrics_of_run},
        published=True,
    )


def _relative_names(paths: Sequence[Path], root: str | os.PathLike[str] | None) -> list[str]:
    absolute = [path.absolute() for path in paths]
    if root is not None:
        base = Path(root).absolute()
    else:
        base = Path(os.path.commonpath([path.parent for path in absolute]))
    return [Path(os.path.relpath(path, base)).as_posix() for path in absolute]


def _wav_names(names: Sequence[str]) -> list[str]:
    """Replace suffixes by .wav; files that differ in nothing else keep theirs before it."""
    plain = [Path(name).with_suffix(".wav").as_posix() for name in names]
    uses = Counter(plain)
    return [
        wav if uses[wav] == 1 else f"{name}.wav" for name, wav in zip(names, plain, strict=True)
    ]


def _fingerprint(codec: Any) -> str | None:
    value = getattr(codec, "fingerprint", None)
    return value.hex() if isinstance(value, bytes) else value


def _summaries(clips: Sequence[ClipScore], job: _Job) -> list[dict[str, Any]]:
    """Sum up each codec, rate and loss; codecs in the order of the clips, rates ascending."""
    groups: dict[tuple[str, float, float], list[ClipScore]] = {}
    for clip in clips:
        key = clip.codec, clip.bitrate_kbps, clip.loss_percent
        groups.setdefault(key, []).append(clip)
    order = {codec: index for index, codec in enumerate(dict.fromkeys(c.codec for c in clips))}
    keys = sorted(groups, key=lambda key: (order[key[0]], *key[1:]))
    return [_summarize(groups[key], job) for key in keys]


def _summarize(clips: Sequence[ClipScore], job: _Job) -> dict[str, Any]:
    """Sum up one codec at one rate (and loss): rates and speeds over the whole duration."""
    first = clips[0]
    coded = [clip for clip in clips if clip.measured_kbps is not None]

    def rate(values: Sequence[float | None]) -> float | None:
        known = [(v, c.duration_s) for v, c in zip(values, coded, strict=True) if v is not None]
        if not known:
            return None
        seconds = [s for _, s in known]
        return _rounded(
            np.average([v for v, _ in known], weights=seconds if any(seconds) else None)
        )

    def speed(times: Sequence[float | None]) -> float | None:
        known = [(t, c.duration_s) for t, c in zip(times, coded, strict=True) if t is not None]
        total = sum(t for t, _ in known)
        return _rounded(sum(s for _, s in known) / total) if total > 0 else None

    row: dict[str, Any] = {
        "codec": first.codec,
        "bitrate_kbps": first.bitrate_kbps,
        **({"loss_percent": first.loss_percent} if job.losses else {}),
        "measured_kbps": rate([clip.measured_kbps for clip in coded]),
        "payload_kbps": rate([clip.payload_kbps for clip in coded]),
    }
    for name in (*METRICS, *job.extra_metrics):
        found = [clip.scores.get(name) for clip in clips]
        values = [value for value in found if value is not None]
        row[name] = row[f"{name}_low"] = row[f"{name}_high"] = None
        row[f"{name}_q05"] = row[f"{name}_q95"] = None
        if values:
            row[name] = _rounded(np.mean(values))
            low, high = statistics.bootstrap_mean(values)
            row[f"{name}_low"], row[f"{name}_high"] = _rounded(low), _rounded(high)
            for suffix, quantile in (("q05", 0.05), ("q95", 0.95)):
                row[f"{name}_{suffix}"] = _rounded(np.quantile(values, quantile))
    row["encode_x_realtime"] = speed([clip.encode_s for clip in coded])
    row["decode_x_realtime"] = speed([clip.decode_s for clip in coded])
    row["clips"] = len(clips)
    row["failures"] = sum(len(clip.failures) for clip in clips)
    row["published"] = first.published
    return row


def _rounded(value: Any) -> float | None:
    """Return a number for a table or JSON; None for what is none."""
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


# ---------------------------------------------------------------------------- comparison


_Scores = dict[tuple[str, float], dict[str, float]]  # (codec, nominal kbit/s) -> file -> score


def _scores_of(clips: Sequence[ClipScore], metric: str) -> _Scores:
    scores: _Scores = {}
    for clip in clips:
        value = clip.scores.get(metric)
        if value is not None:
            scores.setdefault((clip.codec, clip.bitrate_kbps), {})[clip.file] = value
    return scores


def _matrix(
    scores: _Scores, codec: str, rates: Sequence[float], files: Sequence[str]
) -> NDArray[np.float64]:
    """Return the scores of one codec, shape [files, rates], NaN where there is none."""
    columns = [scores.get((codec, rate), {}) for rate in rates]
    cells = [[column.get(file, np.nan) for column in columns] for file in files]
    return np.array(cells, dtype=np.float64).reshape(len(files), len(rates))


def _measured(summary: Sequence[dict[str, Any]], codec: str) -> dict[float, float]:
    """Return the measured rate of each nominal one."""
    return {
        row["bitrate_kbps"]: row["measured_kbps"]
        for row in summary
        if row["codec"] == codec and row["measured_kbps"] is not None
    }


def _compare(
    clips: Sequence[ClipScore],
    summary: Sequence[dict[str, Any]],
    ours: str,
    baseline: str,
    job: _Job,
    notes: list[str],
) -> list[dict[str, Any]]:
    """Return ours minus the baseline, clip by clip, at each of our rates that it has too."""
    files = list(dict.fromkeys(clip.file for clip in clips))
    theirs = _measured(summary, baseline)
    pairs: list[tuple[float, float, float]] = []  # our nominal and measured rate, their nominal one
    alone: list[str] = []
    for nominal, measured in _measured(summary, ours).items():
        nearest = min(theirs, key=lambda rate: abs(theirs[rate] - measured), default=None)
        if nearest is None or abs(theirs[nearest] / measured - 1) > MAX_RATE_DIFFERENCE:
            alone.append(f"{nominal:g}")
        else:
            pairs.append((nominal, measured, nearest))
    if alone:
        notes.append(
            f"{baseline} has no rate within {100 * MAX_RATE_DIFFERENCE:.0f} % of "
            f"{', '.join(alone)} kbit/s: not compared there"
        )
    rows: list[dict[str, Any]] = [
        {
            "codec": baseline,
            "bitrate_kbps": nominal,
            "measured_kbps": measured,
            "baseline_kbps": theirs[nearest],
        }
        for nominal, measured, nearest in pairs
    ]
    for name in (*METRICS, *job.extra_metrics):
        scores = _scores_of(clips, name)
        for row, (nominal, _, nearest) in zip(rows, pairs, strict=True):
            mean, low, high, count = statistics.paired_difference(
                _matrix(scores, ours, [nominal], files)[:, 0],
                _matrix(scores, baseline, [nearest], files)[:, 0],
            )
            row[f"{name}_difference"] = _rounded(mean)
            row[f"{name}_low"], row[f"{name}_high"] = _rounded(low), _rounded(high)
            row[f"{name}_clips"] = count
    return rows


def _rates_saved(
    clips: Sequence[ClipScore],
    summary: Sequence[dict[str, Any]],
    ours: str,
    others: Sequence[str],
    job: _Job,
) -> list[dict[str, Any]]:
    """Return the rate that ours saves against every other codec, by every metric."""
    files = list(dict.fromkeys(clip.file for clip in clips))
    measured = {codec: _measured(summary, codec) for codec in (ours, *others)}
    rows: list[dict[str, Any]] = []
    for name in (*METRICS, *job.extra_metrics):
        scores = _scores_of(clips, name)
        curves = {
            codec: (list(rates.values()), _matrix(scores, codec, list(rates), files))
            for codec, rates in measured.items()
        }
        for codec in others:
            saved = statistics.bjontegaard(*curves[ours], *curves[codec])
            numbers = ("percent", "low", "high", "from_quality", "to_quality")
            rows.append(
                {"codec": codec, "metric": name}
                | {key: _rounded(getattr(saved, key)) for key in numbers}
                | {"clips": saved.clips, "reason": saved.reason}
            )
    return rows


# ---------------------------------------------------------------------------- output


def choose_clips(files: Sequence[str | os.PathLike[str]], count: int) -> list[Path]:
    """Return `count` clips to listen to, evenly spaced over the list, that hold some sound.

    A file that cannot be read or is silent gives its place to the next one.
    """
    paths = [Path(file) for file in files]
    count = min(count, len(paths))
    chosen: list[int] = []
    for start in (index * len(paths) // count for index in range(count)):
        for step in range(len(paths)):
            index = (start + step) % len(paths)
            if index not in chosen and _has_sound(paths[index]):
                chosen.append(index)
                break
    return [paths[index] for index in sorted(chosen)]


def _has_sound(path: Path) -> bool:
    try:
        return bool(read_audio(path)[0].any())
    except AudioError:
        return False


def clips_to_hear(
    result: EvalResult, files: Sequence[str | os.PathLike[str]]
) -> list[ListeningClip]:
    """Return the kept audio of some clips for the listening page, with its scores.

    Parameters
    ----------
    result : of an evaluation that kept the audio of these files
    files : as they were given to `evaluate`

    Returns
    -------
    list of ListeningClip; without clips of which nothing was kept or nothing could be scored
    """
    from evaluation.listening.page import ListeningClip, Sound

    clips = []
    for file in files:
        own = [c for c in result.clips if c.audio is not None and c.path == Path(file)]
        own = [clip for clip in own if any(v is not None for v in clip.scores.values())]
        sounds = [
            Sound(
                clip.codec,
                clip.bitrate_kbps,
                clip.measured_kbps,
                read_audio(clip.audio)[0],
                clip.scores,
            )
            for clip in own
            if clip.audio is not None
        ]
        if sounds:
            clips.append(ListeningClip(own[0].file, _reference(Path(file)), sounds))
    _reference.cache_clear()
    return clips


def rows_for_plots(result: EvalResult) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return summary and rate saved with ours called as `report` knows it, "nsvq"."""
    names = {OURS: f"{OURS} (published)", result.name: OURS}  # the later wins where they are one

    def renamed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"codec": names.get(row["codec"], row["codec"])} for row in rows]

    return renamed(result.summary), renamed(result.rate_saved)


def write_results(result: EvalResult, out_dir: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write ``scores.csv`` (per clip and rate) and ``summary.json``; return their paths."""
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise AudioError(f"{folder}: cannot be created ({exc.strerror or exc})") from exc
    scores, summary = folder / SCORES_NAME, folder / SUMMARY_NAME
    atomic_write(scores, result.to_csv().encode())
    atomic_write(summary, result.to_json().encode())
    return scores, summary
