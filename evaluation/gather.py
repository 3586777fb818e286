"""Go through what all clips gave, once, and keep what an evaluation is summed up from.

Of each codec, rate and loss these are a few sums, and for each metric a column with a number for
each clip: intervals and paired differences need them. Clips themselves are not held.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.results import ClipScore

FloatArray = NDArray[np.float64]
Key = tuple[str, float, float]  # codec, rate, loss


@dataclass
class Mean:
    """A mean of values, each as heavy as its clip is long; what is not there does not count."""

    products: float = 0.0  # of value and weight
    weights: float = 0.0
    values: float = 0.0
    count: int = 0

    def add(self, value: float | None, weight: float) -> None:
        """Take in a value."""
        if value is None:
            return
        self.products += value * weight
        self.weights += weight
        self.values += value
        self.count += 1

    @property
    def mean(self) -> float:
        """The mean; NaN if there was no value, unweighted if all clips are empty."""
        if not self.count:
            return math.nan
        return self.products / self.weights if self.weights else self.values / self.count


@dataclass
class Speed:
    """Seconds of audio that were coded, and what they took."""

    audio_s: float = 0.0
    taken_s: float = 0.0

    def add(self, taken_s: float | None, audio_s: float) -> None:
        """Take in a clip."""
        if taken_s is not None:
            self.taken_s += taken_s
            self.audio_s += audio_s

    @property
    def times_real_time(self) -> float:
        """How many times faster than real time it went; NaN where nothing was timed."""
        return self.audio_s / self.taken_s if self.taken_s > 0 else math.nan


@dataclass
class Group:
    """What all clips gave in one codec at one rate and loss."""

    published: bool
    clips: int = 0
    failures: int = 0
    measured: Mean = field(default_factory=Mean)
    payload: Mean = field(default_factory=Mean)
    encoding: Speed = field(default_factory=Speed)
    decoding: Speed = field(default_factory=Speed)
    columns: dict[str, array[float]] = field(default_factory=dict)  # of each metric, by number

    def add(self, clip: ClipScore, metrics: Sequence[str]) -> None:
        """Take in a clip."""
        self.clips += 1
        self.failures += len(clip.failures)
        self.measured.add(clip.measured_kbps, clip.duration_s)
        self.payload.add(clip.payload_kbps, clip.duration_s)
        self.encoding.add(clip.encode_s, clip.duration_s)
        self.decoding.add(clip.decode_s, clip.duration_s)
        for metric in metrics:
            column = self.columns.setdefault(metric, array("d"))
            while len(column) <= clip.number:
                column.append(math.nan)
            score = clip.scores.get(metric)
            column[clip.number] = math.nan if score is None else score


@dataclass
class Gathered:
    """What `gather` found.

    Attributes
    ----------
    metrics : of the run
    groups : by codec, rate and loss, in the order in which they came
    failures : file, codec, rate, loss, metric and reason of each
    num_clips : int   in the test set
    """

    metrics: tuple[str, ...]
    groups: dict[Key, Group] = field(default_factory=dict)
    failures: list[tuple[Any, ...]] = field(default_factory=list)
    num_clips: int = 0

    @property
    def codecs(self) -> list[str]:
        """Each codec once."""
        return list(dict.fromkeys(codec for codec, _, _ in self.groups))

    def column(self, key: Key, metric: str) -> FloatArray:
        """Return the scores of all clips by their numbers, NaN where there is none."""
        column = np.full(self.num_clips, np.nan)
        if key in self.groups:
            found = self.groups[key].columns[metric]
            column[: len(found)] = found
        return column


def gather(clips: Iterable[ClipScore], metrics: Sequence[str]) -> Gathered:
    """Go through clips once.

    Parameters
    ----------
    clips : scores
    metrics : that are to be kept
    """
    all_ = Gathered(tuple(metrics))
    for clip in clips:
        if clip.key not in all_.groups:
            all_.groups[clip.key] = Group(clip.published)
        all_.groups[clip.key].add(clip, all_.metrics)
        all_.num_clips = max(all_.num_clips, clip.number + 1)
        all_.failures += [(clip.file, *clip.key, *failure) for failure in clip.failures]
    return all_
