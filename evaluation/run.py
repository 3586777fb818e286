"""Run codecs over a test set: encode to bytes, decode from those bytes, score, sum up, compare.

One clip in one codec at one rate is one task (`scoring`). Beside ours come the programs of other
codecs (`baselines`), and published scores of others still (`published`). What comes of the tasks
becomes tables (`results`, `summary`) and files.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from codec.config import OURS
from codec.errors import AudioError
from codec.io.audio import read_audio
from evaluation import summary
from evaluation.baselines.base import Baseline
from evaluation.listening.page import ListeningClip, Sound, write_page
from evaluation.listening.ratings import ANCHOR, REFERENCE
from evaluation.metrics import DEFAULT_METRICS, optional_metrics
from evaluation.plots import write_plots
from evaluation.published import ORIGINAL, PublishedScore, published_clip, select_published
from evaluation.results import (
    ClipScore,
    EvalResult,
    RunInfo,
    clip_table,
    failure_table,
    score_table,
    write_results,
)
from evaluation.scoring import Job, Task, read_reference, stream_packets
from evaluation.workers import run_tasks

PAGE_NAME = "listen.html"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, and how.

    Attributes
    ----------
    codec_loader : callable without arguments that returns a `Codec`; picklable if jobs > 1, for
        instance ``functools.partial(Codec.load, path)``
    files : audio files
    rates : nominal, kbit/s
    root : directory that file names in the result are relative to; default: what they share
    jobs : number of processes; 1 runs in this one
    vbr : encode with variable bitrate
    independent : encode with independent packets
    losses : percent of packets that get lost on the way, see `scoring.lost_packets`; each clip is
        scored once for each of them; packets are independent then
    metrics : optional metrics beside the default ones, see `metrics.OPTIONAL_METRICS`
    name : how this codec is called in the result
    baselines : other codecs to run on the same clips, at the nearest rates they have; picklable if
        jobs > 1; they are not checked to be installed here
    published : scores of other codecs; those of a baseline that runs here are left out, and so are
        those of other files
    baseline : codec that ours is compared with rate by rate; default: the first of `baselines`,
        else the first of `published`
    save_audio : directory; decoded clips go to ``<rate>/<file>.wav`` below it, those of baselines,
        aligned, to ``<codec>/<rate>/<file>.wav``
    page_clips : clips on the listening page
    packets_of : how to get the payload packets of an encoded file

    Raises
    ------
    ValueError   no files, no rates, jobs below 1, a wrong loss or name, or losses together with
                 other codecs
    """

    codec_loader: Callable[[], Any]
    files: Sequence[str | os.PathLike[str]]
    rates: Sequence[float]
    root: str | os.PathLike[str] | None = None
    jobs: int = 1
    vbr: bool = False
    independent: bool = False
    losses: Sequence[float] = ()
    metrics: Sequence[str] = ()
    name: str = OURS
    baselines: Sequence[Baseline] = ()
    published: Sequence[PublishedScore] = ()
    baseline: str | None = None
    save_audio: str | os.PathLike[str] | None = None
    page_clips: int = 0
    packets_of: Callable[[bytes], Sequence[bytes]] = stream_packets

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("no audio files to evaluate")
        if not self.rates:
            raise ValueError("no rates to evaluate")
        if self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}")
        for loss in self.losses:
            if not 0 <= loss <= 100:
                raise ValueError(f"loss of {loss:g} % is outside 0..100 %")
        if self.losses and (self.baselines or self.published):
            raise ValueError("other codecs are not scored with losses; leave out one of the two")
        if self.name.strip() in ("", ORIGINAL, REFERENCE, ANCHOR):  # they mean something in files
            raise ValueError(f"{self.name!r} is no name for a codec; choose another")


def run(config: EvalConfig, progress: Progress | None = None) -> EvalResult:
    """Encode every file at every rate to bytes, decode those bytes, and score what comes out.

    Scores compare the decoded waveform, quantized to 16 bits, with the 16 kHz mono reference. The
    times are CPU seconds on one thread; compilation and loading are not counted.

    Parameters
    ----------
    config : EvalConfig
    progress : called as ``progress(done, total)`` after each clip, codec and rate

    Returns
    -------
    EvalResult, clips codec by codec in the order of `files`, rates ascending within each

    Raises
    ------
    ValueError    an unknown metric or baseline, two codecs of one name
    MetricError   an optional metric is not installed
    WorkerError   a worker process died
    """
    start = time.perf_counter()
    metrics = (*DEFAULT_METRICS, *optional_metrics(config.metrics))
    files = _relative_names(config)
    running = [baseline.name for baseline in config.baselines]
    published, notes = select_published(config.published, files, config.name, running, metrics)
    others = [*running, *dict.fromkeys(score.codec for score in published)]
    baseline = _choose_baseline(config, others)
    codec = config.codec_loader()  # here too, so that a bad weights file is an ordinary error
    job = Job(
        config.codec_loader,
        metrics,
        config.packets_of,
        config.vbr,
        config.independent or bool(config.losses),
        tuple(sorted(set(config.losses))),
        config.name,
        tuple(config.baselines),
    )
    clips = _score(config, job, files, progress)
    seconds = {clip.file: clip.duration_s for clip in clips}
    clips += [published_clip(score, seconds[score.file], metrics) for score in published]
    places = {codec: place for place, codec in enumerate([config.name, *others])}
    clips.sort(key=lambda clip: places[clip.codec])  # stable: files and rates stay as they are
    info = RunInfo(
        config.name,
        baseline,
        metrics,
        job.losses,
        job.vbr,
        job.independent,
        _fingerprint(codec),
        time.perf_counter() - start,
    )
    result = sum_up(clips, info, notes)
    paths = dict(zip(files, map(Path, config.files), strict=True))
    result.heard.extend(_clips_to_hear(clips, paths))
    read_reference.cache_clear()
    return result


def _score(
    config: EvalConfig, job: Job, files: Sequence[str], progress: Progress | None
) -> list[ClipScore]:
    """Do all tasks, in worker processes if so wished; return what came of them, in order."""
    heard = set() if config.losses else set(choose_clips(config.files, config.page_clips))
    tasks = list(_tasks(config, files, heard))
    scored: list[list[ClipScore]] = [[]] * len(tasks)
    for done, (index, came) in enumerate(run_tasks(job.prepare, tasks, config.jobs), start=1):
        scored[index] = came
        if progress is not None:
            progress(done, len(tasks))
    return [clip for came in scored for clip in came]


def sum_up(clips: Sequence[ClipScore], info: RunInfo, notes: Sequence[str] = ()) -> EvalResult:
    """Return the tables of all clips: summaries, comparison, rates saved."""
    table, failures = clip_table(clips), failure_table(clips)
    scores = score_table(clips, info.metrics)
    codecs = list(dict.fromkeys(clip.codec for clip in clips))
    rates = summary.sort_by_codec(summary.sum_up_rates(table, failures), codecs)
    comparison, alone = pd.DataFrame(columns=["rate", "metric"]), list[str]()
    if info.baseline is not None:
        comparison, alone = summary.compare(scores, rates, info.name, info.baseline)
    return EvalResult(
        clips=table,
        scores=scores,
        failures=failures,
        rates=rates,
        means=summary.sum_up_scores(scores),
        comparison=comparison,
        rate_saved=summary.rates_saved(scores, rates, info.name, codecs[1:]),
        info=info,
        notes=[*notes, *alone],
    )


def write(result: EvalResult, out_dir: str | os.PathLike[str], title: str = "") -> list[str]:
    """Write scores, summary, plots and listening page into a directory, made if need be.

    Plots are drawn where no packets were lost, the page where clips were kept for it.

    Returns
    -------
    list of what was written: file names, and "plots"

    Raises
    ------
    AudioError   the directory or a file cannot be written
    """
    folder = Path(out_dir)
    written = [path.name for path in write_results(result, folder)]
    if not result.info.losses and write_plots(result, folder):
        written.append("plots")
    if result.heard:
        write_page(folder / PAGE_NAME, result.heard, title or "Codecs compared")
        written.append(PAGE_NAME)
    return written


# ---------------------------------------------------------------------------- parts of a run


def _choose_baseline(config: EvalConfig, others: Sequence[str]) -> str | None:
    """Return which codec ours is compared with; refuse codecs that cannot be told apart."""
    uses = Counter([config.name, *others])
    if twice := [codec for codec, count in uses.items() if count > 1]:
        raise ValueError(f"two codecs of this run are called {twice[0]!r}")
    if config.baseline is None:
        return others[0] if others else None
    if config.baseline not in others:
        known = f"choose from {', '.join(others)}" if others else "there is no other codec"
        raise ValueError(f"baseline {config.baseline!r} is not in this run; {known}")
    return config.baseline


def _tasks(config: EvalConfig, files: Sequence[str], heard: set[Path]) -> Iterator[Task]:
    """Yield one task per clip, codec and rate."""
    rates = sorted(set(config.rates))

    def place(*parts: str) -> Path | None:
        return None if config.save_audio is None else Path(config.save_audio).joinpath(*parts)

    names = zip(map(Path, config.files), files, _wav_names(files), strict=True)
    for path, file, wav_name in names:
        is_heard = path in heard
        for rate in rates:
            yield Task(path, file, rate, place(f"{rate:g}", wav_name), is_heard)
        for index, baseline in enumerate(config.baselines):
            for rate in baseline.rates(rates):
                where = place(baseline.name, f"{rate:g}", wav_name)
                yield Task(path, file, rate, where, is_heard, index)


def _relative_names(config: EvalConfig) -> list[str]:
    """Return the names of the files in the result."""
    absolute = [Path(file).absolute() for file in config.files]
    if config.root is not None:
        base = Path(config.root).absolute()
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


def _clips_to_hear(clips: Sequence[ClipScore], paths: dict[str, Path]) -> Iterator[ListeningClip]:
    """Yield the clips of which decoded audio was kept, where something could be scored."""
    for file, path in paths.items():
        sounds = [
            Sound(clip.codec, clip.rate, clip.measured_kbps, clip.wave, clip.scores)
            for clip in clips
            if clip.file == file
            and clip.wave is not None
            and any(score is not None for score in clip.scores.values())
        ]
        if sounds:
            yield ListeningClip(file, read_reference(path), sounds)
