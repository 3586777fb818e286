"""What to evaluate, and how; and the tasks that this makes: a clip in a codec at a rate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.config import OURS, Effort
from codec.io.storage import absolute
from evaluation.baselines.base import Baseline
from evaluation.clips import Clips, ClipsOfFiles, wav_names
from evaluation.listening.ratings import ANCHOR, REFERENCE
from evaluation.published import ORIGINAL, PublishedScore
from evaluation.scoring import Task, stream_packets

NO_METRICS = "none"  # in place of names of metrics


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, and how.

    Attributes
    ----------
    codec_loader : callable without arguments that returns a `Codec`; picklable if jobs > 1, for
        instance ``functools.partial(Codec.load, path)``
    files : audio files; or `Clips`, which need not be in memory
    rates : nominal, kbit/s
    root : directory that file names in the result are relative to; default: what they share
    jobs : number of processes; 1 runs in this one
    scheduler : address of a Dask scheduler, whose workers are used in place of processes here
    journal : directory that gets each score as soon as it is there, see `journal`; None: none
    resume : go on with what is in that directory
    vbr : encode with variable bitrate
    independent : encode with independent packets
    effort : `codec.config.Effort` of our encoder
    losses : percent of packets that get lost on the way, see `scoring.lost_packets`; each clip is
        scored once for each of them; packets are independent then
    metrics : optional metrics beside the default ones, see `metrics.OPTIONAL_METRICS`; they have
        workers of their own; "none" alone: no metric at all, only rates and speeds
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
    ValueError   no files, no rates, jobs below 1, a wrong effort, loss or name, or losses together
                 with other codecs
    """

    codec_loader: Callable[[], Any]
    files: Sequence[str | os.PathLike[str]] | Clips
    rates: Sequence[float]
    root: str | os.PathLike[str] | None = None
    jobs: int = 1
    scheduler: str | None = None
    journal: str | os.PathLike[str] | None = None
    resume: bool = False
    vbr: bool = False
    independent: bool = False
    effort: str = "normal"
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
        if not len(self.files):
            raise ValueError("no audio files to evaluate")
        if not self.rates:
            raise ValueError("no rates to evaluate")
        if self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}")
        Effort(self.effort)
        for loss in self.losses:
            if not 0 <= loss <= 100:
                raise ValueError(f"loss of {loss:g} % is outside 0..100 %")
        if self.losses and (self.baselines or self.published):
            raise ValueError("other codecs are not scored with losses; leave out one of the two")
        if self.name.strip() in ("", ORIGINAL, REFERENCE, ANCHOR):  # they mean something in files
            raise ValueError(f"{self.name!r} is no name for a codec; choose another")
        if self.resume and self.journal is None:
            raise ValueError("--resume: of which run? name its directory with --out")

    @property
    def clips(self) -> Clips:
        """The clips, with their names in the result."""
        if isinstance(self.files, Sequence):
            return ClipsOfFiles(self.files, self.root)
        return self.files


def rates_of(config: EvalConfig) -> list[tuple[int | None, float]]:
    """Return the tasks of each clip: a baseline's index (None: ours) and a rate."""
    rates = sorted(set(config.rates))
    return [(None, rate) for rate in rates] + [
        (index, rate)
        for index, baseline in enumerate(config.baselines)
        for rate in baseline.rates(rates)
    ]


def make_tasks(config: EvalConfig, heard: set[str], elsewhere: bool) -> Iterator[Task]:
    """Yield one task per clip, codec and rate.

    Parameters
    ----------
    config : EvalConfig
    heard : names of clips whose sound is kept
    elsewhere : bool   they are done where the working directory is another one
    """
    kinds = rates_of(config)
    clips = config.clips
    waves: Iterable[str | None] = (None for _ in clips)
    if config.save_audio is not None:
        waves = wav_names([clip.name for clip in clips])
    for number, (clip, wave) in enumerate(zip(clips, waves, strict=False)):
        path = absolute(clip.path) if elsewhere else clip.path
        for kind, (index, rate) in enumerate(kinds):
            save_to = None
            if config.save_audio is not None and wave is not None:
                codec = () if index is None else (config.baselines[index].name,)
                save_to = Path(config.save_audio).joinpath(*codec, f"{rate:g}", wave)
            yield Task(
                path,
                clip.name,
                rate,
                save_to.absolute() if save_to is not None and elsewhere else save_to,
                clip.name in heard,
                index,
                number * len(kinds) + kind,
            )
