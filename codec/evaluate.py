"""Run the codec over a test set: encode to bytes, decode from those bytes, score, sum up.

One clip at one rate is one task. Tasks run in this process, or in worker processes that each load
the codec once and compute on one thread. Whatever fails, on whichever clip, is listed with its
reason; the clip's other scores stay.
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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec import metrics
from codec.audio import (
    AudioError,
    atomic_write,
    read_audio,
    to_codec_rate,
    to_int16,
    write_wav,
)

Metric = Callable[[Any, Any], float]

SAMPLE_RATE = 16000
PACKET_SECONDS = 0.020
METRICS: dict[str, Metric] = {
    "pesq_wb": metrics.pesq_wb,
    "psnr_db": metrics.psnr,
    "estoi": metrics.estoi,
}
EXTRA_METRICS: dict[str, Metric] = {"visqol": metrics.visqol, "dnsmos": metrics.dnsmos}
SCORES_NAME = "scores.csv"
SUMMARY_NAME = "summary.json"

# Numerical libraries read these when a worker starts; more threads than cores slow all workers.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_WARM_UP_SECONDS = 1.0


class EvalError(RuntimeError):
    """The run as a whole cannot go on; the message is one line for the user."""


@dataclass
class ClipScore:
    """What one clip gave at one rate.

    `scores` holds None for a metric that failed; `failures` then has the pair (metric, reason).
    A clip that could not be read or coded has no scores and one failure, "audio" or "codec".
    """

    file: str
    bitrate_kbps: float
    loss_percent: float = 0.0
    duration_s: float = 0.0
    num_bytes: int | None = None
    payload_bytes: int = 0
    num_packets: int = 0
    encode_s: float | None = None
    decode_s: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def measured_kbps(self) -> float | None:
        """Bits of the whole file per second of audio, in kbit/s."""
        return _kbps(self.num_bytes, self.duration_s)

    @property
    def payload_kbps(self) -> float | None:
        """Bits of the packets alone per second of packets, in kbit/s."""
        return _kbps(self.payload_bytes, PACKET_SECONDS * self.num_packets)


@dataclass
class EvalResult:
    """Scores of a test set, one `ClipScore` per clip and rate, with the summary per rate."""

    clips: list[ClipScore]
    summary: list[dict[str, Any]]
    weights: str | None
    vbr: bool
    extra_metrics: tuple[str, ...]
    wall_s: float
    independent: bool = False
    losses: tuple[float, ...] = ()

    @property
    def failures(self) -> list[dict[str, Any]]:
        """One entry per failure: file, bitrate_kbps, metric, reason."""
        return [
            {"file": c.file, "bitrate_kbps": c.bitrate_kbps}
            | ({"loss_percent": c.loss_percent} if self.losses else {})
            | {"metric": m, "reason": r}
            for c in self.clips
            for m, r in c.failures
        ]

    def to_json(self) -> str:
        """Return the summary, the failures and the weights' fingerprint as JSON."""
        content = {
            "summary": self.summary,
            "failures": self.failures,
            "weights": self.weights,
            "vbr": self.vbr,
            "independent": self.independent,
            "wall_s": round(self.wall_s, 1),
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Return one row per clip and rate; cells of failed metrics are empty."""
        names = [*METRICS, *self.extra_metrics]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        loss = ["loss_percent"] if self.losses else []
        first = ["file", "bitrate_kbps", *loss, "measured_kbps", "payload_kbps"]
        last = ["encode_s", "decode_s", "duration_s"]
        writer.writerow([*first, *METRICS, *last, *self.extra_metrics])
        for clip in self.clips:
            cells = {name: _cell(clip.scores.get(name)) for name in names}
            writer.writerow(
                [
                    clip.file,
                    f"{clip.bitrate_kbps:g}",
                    *(f"{clip.loss_percent:g}" for _ in loss),
                    _cell(clip.measured_kbps),
                    _cell(clip.payload_kbps),
                    *(cells[name] for name in METRICS),
                    _cell(clip.encode_s),
                    _cell(clip.decode_s),
                    _cell(clip.duration_s),
                    *(cells[name] for name in self.extra_metrics),
                ]
            )
        return buffer.getvalue()


def _kbps(num_bytes: int | None, seconds: float) -> float | None:
    return None if num_bytes is None or seconds <= 0 else 8e-3 * num_bytes / seconds


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


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

    def encode(self, codec: Any, wave: NDArray[np.float32], bitrate_kbps: float) -> bytes:
        options: dict[str, Any] = {"bitrate": bitrate_kbps, "vbr": self.vbr}
        if self.independent:
            options["independent"] = True
        return bytes(codec.encode(wave, SAMPLE_RATE, **options))


@dataclass(frozen=True)
class _Task:
    """One clip at one rate."""

    path: Path
    name: str
    bitrate_kbps: float
    save_to: Path | None

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
    if isinstance(exc, metrics.MetricError | AudioError):
        return text
    return f"{type(exc).__name__}: {text}"


def _run_task(job: _Job, codec: Any, task: _Task) -> list[ClipScore]:
    """Encode one clip at one rate, then decode and score it, once for each rate of loss."""
    clip = ClipScore(task.name, task.bitrate_kbps)
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
        if save_to is not None:
            save_to.parent.mkdir(parents=True, exist_ok=True)
            write_wav(save_to, decoded, SAMPLE_RATE)
        decoded = to_int16(decoded) / 32768.0  # what the WAV file holds
    except Exception as exc:
        clip.encode_s = None
        clip.failures.append(("codec", _one_line(exc)))
        return
    clip.num_bytes = len(data)
    clip.payload_bytes, clip.num_packets = sum(map(len, packets)), len(packets)
    for name, metric in METRICS.items():
        _score(clip, name, metric, reference, decoded)
    for name in job.extra_metrics:
        _score(clip, name, EXTRA_METRICS[name], reference, decoded)


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
    save_audio: str | os.PathLike[str] | None = None,
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
    save_audio : directory; decoded clips go to ``<rate>/<file>.wav`` below it
    progress : called as ``progress(done, total)`` after each clip and rate
    packets_of : how to get the payload packets of an encoded file

    Returns
    -------
    EvalResult, clips in the order of `files`, rates ascending within each

    Raises
    ------
    ValueError    no files, no rates, jobs below 1, or an unknown metric
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
    independent = independent or bool(lossy)
    job = _Job(codec_loader, packets_of, vbr, independent, lossy, check_metrics(extra_metrics))
    codec = codec_loader()  # here too, so that a bad weights file is an ordinary error
    names = _relative_names(paths, root)
    wav_names = _wav_names(names)
    tasks = [
        _Task(
            path,
            name,
            rate,
            Path(save_audio) / f"{rate:g}" / wav_name if save_audio is not None else None,
        )
        for path, name, wav_name in zip(paths, names, wav_names, strict=True)
        for rate in rates
    ]
    clips: list[list[ClipScore]] = [[]] * len(tasks)
    if jobs == 1:
        finished = _run_here(job, codec, tasks)
    else:
        finished = _run_workers(job, tasks, jobs)
    with contextlib.closing(finished):
        for done, (index, scored) in enumerate(finished, start=1):
            clips[index] = scored
            if progress is not None:
                progress(done, len(tasks))
    complete = [clip for scored in clips for clip in scored]
    _reference.cache_clear()
    return EvalResult(
        clips=complete,
        summary=[
            _summarize(
                rate,
                [c for c in complete if (c.bitrate_kbps, c.loss_percent) == (rate, loss)],
                job,
            )
            for rate in rates
            for loss in (lossy or (0.0,))
        ],
        weights=_fingerprint(codec),
        vbr=vbr,
        extra_metrics=job.extra_metrics,
        wall_s=time.perf_counter() - start,
        independent=independent,
        losses=lossy,
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


def _summarize(
    bitrate_kbps: float, clips: Sequence[ClipScore], job: _Job
) -> dict[str, Any]:
    """Sum up one rate (and loss): bits and speeds over the whole duration, scores as means."""
    coded = [clip for clip in clips if clip.num_bytes is not None]
    seconds = sum(clip.duration_s for clip in coded)

    def speed(times: Iterable[float | None]) -> float | None:
        total = sum(t for t in times if t is not None)
        return _rounded(seconds / total) if total > 0 and seconds > 0 else None

    def scores(name: str) -> list[float]:
        values = (clip.scores.get(name) for clip in clips)
        return [value for value in values if value is not None]

    row: dict[str, Any] = {
        "bitrate_kbps": bitrate_kbps,
        **({"loss_percent": clips[0].loss_percent} if job.losses else {}),
        "measured_kbps": _rounded(_kbps(sum(clip.num_bytes or 0 for clip in coded), seconds)),
        "payload_kbps": _rounded(
            _kbps(
                sum(clip.payload_bytes for clip in coded),
                PACKET_SECONDS * sum(clip.num_packets for clip in coded),
            )
        ),
    }
    for name in (*METRICS, *job.extra_metrics):
        row[name] = _rounded(np.mean(scores(name))) if scores(name) else None
    for name in ("pesq_wb", "psnr_db"):
        for suffix, quantile in (("q05", 0.05), ("q95", 0.95)):
            values = scores(name)
            row[f"{name}_{suffix}"] = _rounded(np.quantile(values, quantile)) if values else None
    row["encode_x_realtime"] = speed(clip.encode_s for clip in coded)
    row["decode_x_realtime"] = speed(clip.decode_s for clip in coded)
    row["clips"] = len(clips)
    row["failures"] = sum(len(clip.failures) for clip in clips)
    return row


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


# ---------------------------------------------------------------------------- output


_COLUMNS = (  # key of the summary, heading, decimals
    ("bitrate_kbps", "kbit/s", 1),
    ("loss_percent", "loss %", 1),
    ("measured_kbps", "measured", 2),
    ("payload_kbps", "payload", 2),
    ("pesq_wb", "PESQ", 2),
    ("pesq_wb_q05", "5 %", 2),
    ("pesq_wb_q95", "95 %", 2),
    ("psnr_db", "pSNR dB", 2),
    ("psnr_db_q05", "5 %", 2),
    ("psnr_db_q95", "95 %", 2),
    ("estoi", "ESTOI", 3),
    ("visqol", "ViSQOL", 2),
    ("dnsmos", "DNSMOS", 2),
    ("encode_x_realtime", "encode x", 1),
    ("decode_x_realtime", "decode x", 1),
    ("clips", "clips", 0),
    ("failures", "failed", 0),
)


def summary_table(result: EvalResult) -> str:
    """Return the summary as text, one line per rate; `encode x` is times real time, one core."""
    rows = result.summary
    columns = [column for column in _COLUMNS if column[0] in rows[0]]
    table = [[heading for _, heading, _ in columns]]
    for row in rows:
        table.append(
            ["-" if row[key] is None else f"{row[key]:.{digits}f}" for key, _, digits in columns]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


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
