"""What an evaluation found, as tables, and the files that it is written to.

One row per clip, codec, rate and loss stands in `clips`, each of its scores in `scores`; everything
that is summed up or compared is a group of these. Column names are the same in all tables:

========  ==========================================================
``file``  path relative to the test directory, forward slashes
``codec`` key of the codec
``rate``  nominal, kbit/s
``loss``  percent of packets lost on the way
========  ==========================================================
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.config import OURS
from codec.errors import AudioError
from codec.io.files import atomic_open, atomic_write
from evaluation import bd_rate, bootstrap
from evaluation.arrays import TEXT, Table, from_columns, make_table, records
from evaluation.listening.page import ListeningClip
from evaluation.metrics import DEFAULT_METRICS, METRICS, OPTIONAL_METRICS

KEY = ["codec", "rate", "loss"]  # what one row of a summary stands for
_CSV_ROWS = 10_000  # that are text at a time
SCORES_NAME, SUMMARY_NAME = "scores.csv", "summary.json"

_KEY_COLUMNS = {"file": TEXT, "codec": TEXT, "rate": "f8", "loss": "f8"}
_ABOUT_COLUMNS = {
    "duration_s": "f8",
    "measured_kbps": "f8",
    "payload_kbps": "f8",
    "encode_s": "f8",
    "decode_s": "f8",
    "published": "?",
}


@dataclass
class ClipScore:
    """What one clip gave in one codec at one rate and loss.

    `scores` holds None for a metric that failed; `failures` then has the pair (metric, reason).
    A clip that could not be read or coded has no scores and one failure, "audio" or "codec".

    Rates in kbit/s: `rate` is nominal. `measured_kbps` is that of our whole file per second of
    audio; of other programs, that of the packets without their container, as `payload_kbps` is; of
    a published score, what its author says. `encode_s` and `decode_s` are CPU seconds. `wave` is
    the decoded clip (float32, shape [T], 16 kHz) where it is to be heard. `published` tells scores
    that were only read from a file.
    """

    file: str
    rate: float
    codec: str = OURS
    loss: float = 0.0
    duration_s: float = 0.0
    measured_kbps: float | None = None
    payload_kbps: float | None = None
    encode_s: float | None = None
    decode_s: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    wave: NDArray[np.float32] | None = None
    published: bool = False

    @property
    def key(self) -> dict[str, Any]:
        """What the clip is, as it stands in every table."""
        return {"file": self.file, "codec": self.codec, "rate": self.rate, "loss": self.loss}

    def without_wave(self, keep: bool = False) -> ClipScore:
        """Return the same without its sound, unless that is to be kept."""
        return self if keep or self.wave is None else replace(self, wave=None)


@dataclass(frozen=True)
class Tables:
    """Scores as tables.

    clips : one row per clip, codec, rate and loss; NaN where there is no value
    scores : one row per clip, codec, rate, loss and metric; the value is NaN if it failed
    failures : one row per failure, with the metric ("audio" or "codec" for all) and the reason
    """

    clips: Table
    scores: Table
    failures: Table


def make_tables(
    clips: Iterable[ClipScore], metrics: Sequence[str], codecs: Sequence[str] = ()
) -> Tables:
    """Return the tables of all clips, which are gone through once and not held.

    Parameters
    ----------
    clips : scores, in the order that rows are to have within a codec
    metrics : that scores have
    codecs : order of the codecs; those that are not named come last
    """
    names: dict[str, str] = {}  # each name is in memory once
    columns = _KEY_COLUMNS | _ABOUT_COLUMNS
    growing: list[Any] = [array("d") if kind == "f8" else [] for kind in columns.values()]
    values = {metric: array("d") for metric in metrics}
    failures = []
    for clip in clips:
        for name, column in zip(columns, growing, strict=True):
            value = getattr(clip, name)
            value = names.setdefault(value, value) if isinstance(value, str) else value
            column.append(np.nan if value is None else value)
        for metric, column in values.items():
            score = clip.scores.get(metric)
            column.append(np.nan if score is None else score)
        failures += [(*clip.key.values(), metric, reason) for metric, reason in clip.failures]
    table = from_columns(columns, growing)
    places = {codec: place for place, codec in enumerate(codecs)}
    last = len(places)
    order = np.argsort([places.get(codec, last) for codec in table.codec], kind="stable")
    table = table[order].view(np.recarray)
    count = len(metrics)
    by_clip = [np.array(column)[order] for column in values.values()]
    scores = from_columns(
        _KEY_COLUMNS | {"metric": TEXT, "value": "f8"},
        [np.repeat(table[name], count) for name in _KEY_COLUMNS]
        + [list(metrics) * len(table), np.stack(by_clip, 1).ravel() if by_clip else []],
    )
    failures.sort(key=lambda row: places.get(row[1], last))
    lost = make_table(_KEY_COLUMNS | {"metric": TEXT, "reason": TEXT}, failures)
    return Tables(table, scores, lost)


@dataclass(frozen=True)
class RunInfo:
    """What an evaluation was made with.

    `name` is how ours is called, `baseline` the codec that it is compared with rate by rate;
    `losses` (percent) is empty where no packets were lost; `weights` is their fingerprint.
    """

    name: str
    baseline: str | None
    metrics: tuple[str, ...]
    losses: tuple[float, ...] = ()
    vbr: bool = False
    independent: bool = False
    weights: str | None = None
    wall_s: float = 0.0


@dataclass(frozen=True)
class EvalResult:
    """Scores of a test set, with what they add up to. NaN stands for what there is not.

    clips, scores, failures : see `Tables`; ours first, then the others
    rates : one row per codec, rate and loss: ``measured_kbps``, ``payload_kbps``,
        ``encode_x_realtime``, ``decode_x_realtime``, ``clips``, ``failures``, ``published``
    means : one row per codec, rate, loss and metric: ``mean``, its 95 % interval ``low``, ``high``,
        the quantiles over clips ``q05``, ``q95``
    comparison : ours minus the baseline over the same clips, one row per metric for each of our
        rates that the baseline has too: ``rate`` and ``measured_kbps`` (ours), ``baseline_kbps``
        (measured), ``difference``, ``low``, ``high``, ``clips``
    rate_saved : one row per other codec and metric, see `bd_rate.RateSaved`
    info : what the run was made with
    notes : what a reader of the figures should know
    heard : clips for the listening page
    """

    clips: Table
    scores: Table
    failures: Table
    rates: Table
    means: Table
    comparison: Table
    rate_saved: Table
    info: RunInfo
    notes: list[str] = field(default_factory=list)
    heard: list[ListeningClip] = field(default_factory=list)

    def to_json(self) -> str:
        """Return all but the scores of single clips as JSON, with what the run was made with."""
        info = self.info
        own = self.clips[self.clips.codec == info.name]
        content = {
            "summary": self._summary_rows(),
            "comparison": self._comparison_rows(),
            "rate_saved": records(self.rate_saved),
            "failures": self._in_files(self.failures),
            "notes": self.notes,
            "name": info.name,
            "baseline": info.baseline,
            "weights": info.weights,
            "vbr": info.vbr,
            "independent": info.independent,
            "rates_kbps": sorted(set(own.rate.tolist())),
            "losses": list(info.losses),
            "metrics": list(info.metrics),
            "files": len(set(self.clips.file.tolist())),
            "bootstrap": {
                "resamples": bootstrap.RESAMPLES,
                "rate_resamples": bd_rate.RESAMPLES,
                "confidence": bootstrap.CONFIDENCE,
            },
            "versions": _versions(info.metrics),
            "wall_s": round(info.wall_s, 1),
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Return one row per clip, codec and rate that was scored in this run, not published ones.

        Cells of failed metrics are empty. A later run reads this with `published.read_scores`.
        """
        return "".join(self.csv_pieces())

    def csv_pieces(self) -> Iterator[str]:
        """Yield `to_csv` in pieces: as text, a table takes many times its memory."""
        made = ~self.clips.published
        clips = self.clips[made]
        scores = self.scores.value.reshape(len(self.clips), -1)[made]  # [clips, metrics]
        yield self._csv([list(self._cells(clips[:0], scores[:0]))])
        for first in range(0, len(clips), _CSV_ROWS):
            rows = slice(first, first + _CSV_ROWS)
            columns = self._cells(clips[rows], scores[rows]).values()
            yield self._csv(zip(*columns, strict=True))

    def _csv(self, rows: Iterable[Sequence[str]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()

    def _cells(self, clips: Table, scores: NDArray[np.float64]) -> dict[str, Iterable[str]]:
        """Return the columns of the CSV file as text, by their names."""
        score = {
            metric: map(_cell, column)
            for metric, column in zip(self.info.metrics, scores.T, strict=True)
        }
        optional = [metric for metric in self.info.metrics if metric in OPTIONAL_METRICS]
        loss = {"loss_percent": map("{:g}".format, clips.loss)} if self.info.losses else {}
        return {
            "file": clips.file,
            "codec": clips.codec,
            "nominal_bps": map(_bits, clips.rate),
            **loss,
            "actual_bps": map(_bits, clips.measured_kbps),
            **{metric: score[metric] for metric in DEFAULT_METRICS if metric in score},
            "payload_bps": map(_bits, clips.payload_kbps),
            **{name: map(_cell, clips[name]) for name in ("encode_s", "decode_s", "duration_s")},
            **{metric: score[metric] for metric in optional},
        }

    def _in_files(self, table: Table) -> list[dict[str, Any]]:
        """Return rows with the names of columns in files; the loss only where there was some."""
        names = {"rate": "bitrate_kbps", "loss": "loss_percent"}
        return [
            {
                names.get(name, name): value
                for name, value in row.items()
                if name != "loss" or self.info.losses
            }
            for row in records(table)
        ]

    def _summary_rows(self) -> list[dict[str, Any]]:
        """Return one dict per codec, rate and loss with all its means, ``<metric>_low`` ..."""
        means = {tuple(row[name] for name in (*KEY, "metric")): row for row in records(self.means)}
        rows = []
        for key, row in zip(records(self.rates[KEY]), self._in_files(self.rates), strict=True):
            scores = {}
            for metric in self.info.metrics:
                own = means[*key.values(), metric]
                scores[metric] = own["mean"]
                scores |= {f"{metric}_{end}": own[end] for end in ("low", "high", "q05", "q95")}
            rows.append(row | scores)
        return rows

    def _comparison_rows(self) -> list[dict[str, Any]]:
        """Return one dict per rate with the differences in all metrics."""
        rows: dict[float, dict[str, Any]] = {}
        for row in self._in_files(self.comparison):
            metric = row.pop("metric")
            numbers = {f"{metric}_{name}": row.pop(name) for name in _DIFFERENCE}
            rows.setdefault(row["bitrate_kbps"], {"codec": self.info.baseline} | row).update(
                numbers
            )
        return list(rows.values())


_DIFFERENCE = ("difference", "low", "high", "clips")


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _bits(kbps: float) -> str:
    """Return a rate in bit/s."""
    return "" if np.isnan(kbps) else f"{1000 * kbps:.0f}"


def _versions(metrics: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that the scores depend on."""
    found = {}
    for package in (*(METRICS[metric].package for metric in metrics), "numpy", "scipy"):
        with contextlib.suppress(PackageNotFoundError, ValueError):  # ValueError: no package
            found[package] = version(package)
    return found


def write_results(result: EvalResult, out_dir: str | os.PathLike[str]) -> list[Path]:
    """Write ``scores.csv`` (per clip and rate) and ``summary.json``; return their paths.

    Raises
    ------
    AudioError   the directory or a file cannot be written
    """
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise AudioError(f"{folder}: cannot be created ({exc.strerror or exc})") from exc
    scores, summary = folder / SCORES_NAME, folder / SUMMARY_NAME
    with atomic_open(scores) as file:
        for piece in result.csv_pieces():
            file.write(piece.encode())
    atomic_write(summary, result.to_json().encode())
    return [scores, summary]
