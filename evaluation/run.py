"""Run codecs over a test set: encode to bytes, decode from those bytes, score, sum up, compare.

One clip in one codec at one rate is one task (`scoring`). Beside ours come the programs of other
codecs (`baselines`), and published scores of others still (`published`). What comes of the tasks
becomes tables (`results`, `summary`) and files.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from codec.io.storage import fetched
from codec.runner import BATCH_SECONDS, Done, Place
from codec.runner import run as run_items
from codec.trees import Durations, Notes
from evaluation import summary
from evaluation.clips import (
    Clip,
    Clips,
    ClipsOfDirectory,
    Sampled,
    byte_size,
    choose_clips,
    fingerprint,
)
from evaluation.config import NO_METRICS, EvalConfig, make_tasks, rates_of
from evaluation.gather import gather
from evaluation.journal import Journal
from evaluation.listening.page import ListeningClip, Sound, write_page
from evaluation.metrics import DEFAULT_METRICS, optional_metrics
from evaluation.plots import write_plots
from evaluation.published import PublishedScore, published_clip, select_published
from evaluation.results import ClipScore, EvalResult, RunInfo, write_results
from evaluation.scoring import Job, SlowJob, Task, read_clip, read_reference

PAGE_NAME = "listen.html"
_SCORING_COST = 8.0  # a second that is scored takes as long as so many that are coded

Progress = Callable[[int, int], None]


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
    ValueError     an unknown metric or baseline, two codecs of one name; or a journal that is not
                   of this run
    MetricError    an optional metric is not installed
    ClusterError   the scheduler cannot be reached, or is gone
    AudioError     the journal cannot be written
    """
    start = time.perf_counter()
    metrics, slow = _metrics(config)
    running = [baseline.name for baseline in config.baselines]
    published, notes = _select_published(config, running, metrics)
    others = [*running, *dict.fromkeys(score.codec for score in published)]
    baseline = _choose_baseline(config, others)
    job = _job(config, metrics, slow)
    heard = () if config.losses else tuple(choose_clips(config.clips, config.page_clips))
    settings = _settings(config, job, metrics)
    kinds = rates_of(config)
    journal = Journal(config.journal, settings, len(kinds) * len(config.clips), config.resume)
    try:
        kept = _score(config, job, slow, heard, journal, metrics, progress)
        journal.finish()
    except BaseException:
        journal.close()
        raise
    notes += _notes(journal, config.clips)
    info = RunInfo(
        config.name,
        baseline,
        metrics,
        job.losses,
        job.vbr,
        job.independent,
        job.fingerprint,
        time.perf_counter() - start,
        job.effort,
    )
    scored = AllScores(journal, [codec for codec, _ in kinds])
    scored.add_published(published, config.clips, metrics, others)
    notes += _notes_on_clips(scored)
    result = sum_up(scored, info, notes)
    result.heard.extend(_clips_to_hear(kept, heard))
    read_clip.cache_clear()
    return result


def _metrics(config: EvalConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return all metrics of a run, and those of them that are slow."""
    if tuple(config.metrics) == (NO_METRICS,):
        return (), ()
    slow = optional_metrics(config.metrics)
    return (*DEFAULT_METRICS, *slow), slow


def _select_published(
    config: EvalConfig, running: Sequence[str], metrics: Sequence[str]
) -> tuple[list[PublishedScore], list[str]]:
    """Return the published scores that take part, and notes on the others."""
    if not config.published:
        return [], []
    names = [clip.name for clip in config.clips]
    return select_published(config.published, names, config.name, running, metrics)


def _job(config: EvalConfig, metrics: Sequence[str], slow: Sequence[str]) -> Job:
    """Return what the workers do; the slow metrics have workers of their own."""
    codec = config.codec_loader()  # here too, so that a bad weights file is an ordinary error
    return Job(
        config.codec_loader,
        tuple(metrics[: len(metrics) - len(slow)]),
        config.packets_of,
        config.vbr,
        config.independent or bool(config.losses),
        tuple(sorted(set(config.losses))),
        config.name,
        tuple(config.baselines),
        _fingerprint(codec),
        bool(slow),
        effort=config.effort,
    )


def _settings(config: EvalConfig, job: Job, metrics: Sequence[str]) -> dict[str, Any]:
    """Return what must be the same in a run that goes on."""
    return {
        "name": config.name,
        "weights": job.fingerprint,
        "rates": sorted(set(config.rates)),
        "losses": list(job.losses),
        "vbr": job.vbr,
        "independent": job.independent,
        "effort": job.effort,
        "metrics": list(metrics),
        "codecs": [baseline.name for baseline in config.baselines],
        "clips": len(config.clips),
        "names of clips": fingerprint(config.clips),
    }


def _notes(journal: Journal, clips: Clips) -> list[str]:
    """Return what is to be said of a run that went on, and of a sample of clips."""
    notes = []
    if journal.resumed:
        notes.append(
            f"{journal.resumed} of {journal.num_tasks} scores are of the run that was stopped"
        )
    if isinstance(clips, ClipsOfDirectory):
        notes += clips.notes
    if isinstance(clips, Sampled) and len(clips) != clips.total:
        notes.append(
            f"a sample of {len(clips)} of {clips.total} clips, drawn with seed {clips.seed}; "
            "intervals say what another sample would have given"
        )
    return notes


def _notes_on_clips(scored: Iterable[ClipScore]) -> list[str]:
    """Return what readers say of clips, alike ones once."""
    notes = Notes()
    ours: list[ClipScore] = []  # the last one
    for clip in scored:  # codec by codec, clip by clip
        if ours and clip.codec != ours[0].codec:
            break
        if not ours or clip.number != ours[0].number:
            for text in clip.notes:
                notes.add(clip.file, text)
        ours = [clip]
    return list(notes.lines())


def _score(
    config: EvalConfig,
    job: Job,
    slow: Sequence[str],
    heard: Sequence[Clip],
    journal: Journal,
    metrics: Sequence[str],
    progress: Progress | None,
) -> list[ClipScore]:
    """Do all tasks that are not in the journal yet; return those that are to be heard."""
    place = Place(config.jobs, config.scheduler)
    names = {clip.name for clip in heard}
    total = journal.num_tasks
    tasks = (
        task
        for task in make_tasks(config, names, config.scheduler is not None)
        # What is heard is not in the journal: it is made again.
        if task.number >= total or task.heard or task.number not in journal
    )
    durations = Durations()

    def cost(task: Task) -> float:
        size = byte_size(task.path)
        seconds = 10.0 if size is None else durations.guess(task.path, size)
        return seconds * (_SCORING_COST if metrics else 1.0)

    kept: list[ClipScore] = []
    done, changed = journal.count, False
    with contextlib.ExitStack() as stack:
        results: Iterator[Done] = stack.enter_context(
            contextlib.closing(run_items(job.prepare, tasks, place, cost))
        )
        if slow:  # workers of their own, which take what the others have decoded
            decoded = map(_came, results)
            setup = SlowJob(tuple(slow)).prepare
            results = stack.enter_context(
                contextlib.closing(run_items(setup, decoded, place, lambda _: BATCH_SECONDS))
            )
        for came in results:
            task, clips = _came(came) if not slow else _came_slowly(came, slow)
            if not clips:
                clips = failed_clips(job, task, came.error)
            if changed := task.number >= total:
                break
            done += task.number not in journal
            journal.append(task.number, clips)
            if task.heard:
                kept += clips
            if progress is not None:
                progress(done, total)
    if changed or journal.count != total:
        raise ValueError("clips were added or removed while they were scored; begin again")
    places = {name: place for place, name in enumerate([config.name, *_names(config)])}
    kept.sort(key=lambda clip: (places[clip.codec], clip.rate))
    return kept


def _names(config: EvalConfig) -> list[str]:
    return [baseline.name for baseline in config.baselines]


def _came(done: Done) -> tuple[Task, list[ClipScore]]:
    return done.item, done.result or []


def _came_slowly(done: Done, slow: Sequence[str]) -> tuple[Task, list[ClipScore]]:
    """Return what the workers of slow metrics made of what came from the first ones."""
    task, clips = done.item
    if done.result is None:  # they died of it; what was scored before stays
        for clip in clips:
            if clip.wave is not None:
                clip.scores.update(dict.fromkeys(slow))
                clip.failures += [(metric, done.error) for metric in slow]
        return task, [clip.without_wave(task.heard) for clip in clips]
    return task, done.result


def failed_clips(job: Job, task: Task, reason: str) -> list[ClipScore]:
    """Return the scores of a clip that no worker survived."""
    name = job.name if task.baseline is None else job.baselines[task.baseline].name
    losses = job.losses if task.baseline is None else ()
    return [
        ClipScore(task.file, task.rate, name, loss, failures=[("codec", reason)])
        for loss in losses or (0.0,)
    ]


class AllScores:
    """What all clips gave, codec by codec, ours first; read from the journal each time.

    Parameters
    ----------
    journal : Journal
    kinds : the codec (a baseline's index, None: ours) of each task of a clip
    """

    def __init__(self, journal: Journal, kinds: Sequence[int | None]) -> None:
        self._journal = journal
        self._kinds = kinds
        self._published: list[ClipScore] = []

    def __iter__(self) -> Iterator[ClipScore]:
        for _, kinds in itertools.groupby(range(len(self._kinds)), self._kinds.__getitem__):
            own = list(kinds)
            for number in range(self._journal.num_tasks // len(self._kinds)):
                for kind in own:
                    yield from self._read(number, kind)
        yield from self._published

    def _read(self, number: int, kind: int) -> Iterator[ClipScore]:
        for clip in self._journal.read(number * len(self._kinds) + kind):
            clip.number = number
            yield clip

    def add_published(
        self,
        scores: Sequence[PublishedScore],
        clips: Clips,
        metrics: Sequence[str],
        codecs: Sequence[str],
    ) -> None:
        """Let published scores of the same clips come last, in the order of their codecs."""
        wanted = {score.file for score in scores}
        numbers = {
            clip.name: number
            for number, clip in enumerate(clips if wanted else ())
            if clip.name in wanted
        }
        for score in sorted(scores, key=lambda score: codecs.index(score.codec)):
            number = numbers[score.file]
            first = next(self._read(number, 0))
            clip = published_clip(score, first.duration_s, metrics)
            clip.number = number
            self._published.append(clip)


def sum_up(clips: Iterable[ClipScore], info: RunInfo, notes: Sequence[str] = ()) -> EvalResult:
    """Return what all clips add up to: summaries, comparison, rates saved.

    Parameters
    ----------
    clips : codec by codec, ours first; gone through once here, and again by whoever wants a row
        for each clip
    info : RunInfo
    notes : for the reader of the figures
    """
    gathered = gather(clips, info.metrics)
    codecs = gathered.codecs
    rates = summary.sort_by_codec(summary.sum_up_rates(gathered), codecs)
    comparison, alone = summary.NO_COMPARISON, list[str]()
    if info.baseline is not None:
        comparison, alone = summary.compare(gathered, rates, info.name, info.baseline)
    return EvalResult(
        all_scores=clips,
        failures=summary.list_failures(gathered),
        rates=rates,
        means=summary.sum_up_scores(gathered),
        comparison=comparison,
        rate_saved=summary.rates_saved(gathered, rates, info.name, codecs[1:]),
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
    if result.info.metrics and not result.info.losses and write_plots(result, folder):
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


def _fingerprint(codec: Any) -> str | None:
    value = getattr(codec, "fingerprint", None)
    return value.hex() if isinstance(value, bytes) else value


def _clips_to_hear(scored: Sequence[ClipScore], heard: Sequence[Clip]) -> Iterator[ListeningClip]:
    """Yield the clips of which decoded audio was kept, but where all metrics failed."""
    for name, path in ((clip.name, clip.path) for clip in heard):
        sounds = [
            Sound(clip.codec, clip.rate, clip.measured_kbps, clip.wave, clip.scores)
            for clip in scored
            if clip.file == name
            and clip.wave is not None
            and (not clip.scores or any(score is not None for score in clip.scores.values()))
        ]
        if sounds:
            with fetched(path) as file:
                yield ListeningClip(name, read_reference(file), sounds)
