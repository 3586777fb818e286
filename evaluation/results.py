"""What an evaluation found, as tables, and the files that it is written to.

What each clip gave in each codec at each rate and loss is read from the disk when it is needed;
what is summed up or compared is in memory. Column names are the same in all tables:

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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.config import OURS
from codec.errors import AudioError
from codec.io.files import atomic_open, atomic_write
from evaluation import bd_rate, bootstrap
from evaluation.arrays import TEXT, Table, make_table, records
from evaluation.listening.page import ListeningClip
from evaluation.metrics import DEFAULT_METRICS, METRICS, OPTIONAL_METRICS

KEY = ["codec", "rate", "loss"]  # what one row of a summary stands for
_CSV_ROWS = 1000  # that are text at a time
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

    `number` is the clip's in the test set: the same in all codecs, at all rates.
    `scores` holds None for a metric that failed; `failures` then has the pair (metric, reason).
    A clip that could not be read or coded has no scores and one failure, "audio" or "codec".

    Rates in kbit/s: `rate` is nominal. `measured_kbps` is that of our whole file per second of
    audio; of other programs, that of the packets without their container, as `payload_kbps` is; of
    a published score, what its author says. `encode_s` and `decode_s` are CPU seconds. `wave` is
    the decoded clip (float32, shape [T], 16 kHz) where it is to be heard. `published` tells scores
    that were only read from a file. `notes` are on the clip itself: cut off, mixed down, ...
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
    notes: list[str] = field(default_factory=list)
    wave: NDArray[np.float32] | None = None
    published: bool = False
    number: int = 0

    @property
    def key(self) -> tuple[str, float, float]:
        """What its row of a summary stands for, see `KEY`."""
        return self.codec, self.rate, self.loss

    def without_wave(self, keep: bool = False) -> ClipScore:
        """Return the same without its sound, unless that is to be kept."""
        return self if keep or self.wave is None else replace(self, wave=None)


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
    effort: str = "normal"


@dataclass(frozen=True)
class EvalResult:
    """Scores of a test set, with what they add up to. NaN stands for what there is not.

    all_scores : of each clip, codec, rate and loss, codec by codec, ours first; read anew each time
        it is gone through
    failures : one row per failure, with the ``metric`` ("audio" or "codec" for all) and the
        ``reason``
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

    all_scores: Iterable[ClipScore]
    failures: Table
    rates: Table
    means: Table
    comparison: Table
    rate_saved: Table
    info: RunInfo
    notes: list[str] = field(default_factory=list)
    heard: list[ListeningClip] = field(default_factory=list)

    @cached_property
    def clips(self) -> Table:
        """One row per clip, codec, rate and loss, as `ClipScore` has it; made when first asked for.

        It takes 0.1 kB a row, and the names of the files.
        """
        names: dict[str, str] = {}  # each is in memory once
        rows = (
            [names.setdefault(v, v) if isinstance(v, str) else v for v in _values(clip)]
            for clip in self.all_scores
        )
        return make_table(_KEY_COLUMNS | _ABOUT_COLUMNS, rows)

    @cached_property
    def scores(self) -> Table:
        """One row per clip, codec, rate, loss and metric; made when first asked for.

        The ``value`` is NaN if the metric failed.
        """
        rows = (
            (clip.file, *clip.key, metric, clip.scores.get(metric))
            for clip in self.all_scores
            for metric in self.info.metrics
        )
        return make_table(_KEY_COLUMNS | {"metric": TEXT, "value": "f8"}, rows)

    def to_json(self) -> str:
        """Return all but the scores of single clips as JSON, with what the run was made with."""
        info = self.info
        own = self.rates[self.rates.codec == info.name]
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
            "effort": info.effort,
            "rates_kbps": sorted(set(own.rate.tolist())),
            "losses": list(info.losses),
            "metrics": list(info.metrics),
            "files": int(self.rates.clips.max(initial=0)),
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
        """Yield `to_csv` in pieces, which together may be larger than memory."""
        made = (clip for clip in self.all_scores if not clip.published)
        rows = chain([list(self._cells(ClipScore("", 0.0)))], map(self._row, made))
        while piece := list(islice(rows, _CSV_ROWS)):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(piece)
            yield text.getvalue()

    def _row(self, clip: ClipScore) -> list[str]:
        return list(self._cells(clip).values())

    def _cells(self, clip: ClipScore) -> dict[str, str]:
        """Return a row of the CSV file, by the names of its columns."""
        score = {metric: _cell(clip.scores.get(metric)) for metric in self.info.metrics}
        loss = {"loss_percent": f"{clip.loss:g}"} if self.info.losses else {}
        return {
            "file": clip.file,
            "codec": clip.codec,
            "nominal_bps": _bits(clip.rate),
            **loss,
            "actual_bps": _bits(clip.measured_kbps),
            **{metric: score[metric] for metric in DEFAULT_METRICS if metric in score},
            "payload_bps": _bits(clip.payload_kbps),
            **{name: _cell(getattr(clip, name)) for name in ("encode_s", "decode_s", "duration_s")},
            **{metric: score[metric] for metric in self.info.metrics if metric in OPTIONAL_METRICS},
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


def _values(clip: ClipScore) -> tuple[Any, ...]:
    """Return a row of `EvalResult.clips`."""
    return clip.file, *clip.key, *(getattr(clip, name) for name in _ABOUT_COLUMNS)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _bits(kbps: float | None) -> str:
    """Return a rate in bit/s."""
    return "" if kbps is None else f"{1000 * kbps:.0f}"


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
            file.write(piece.encode(errors="backslashreplace"))  # names may be no text
    atomic_write(summary, result.to_json().encode())
    return [scores, summary]
