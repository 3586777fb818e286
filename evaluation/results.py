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
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from codec.config import OURS
from codec.errors import AudioError
from codec.io.files import atomic_open, atomic_write
from evaluation import bd_rate, bootstrap
from evaluation.listening.page import ListeningClip
from evaluation.metrics import DEFAULT_METRICS, METRICS, OPTIONAL_METRICS

KEY = ["codec", "rate", "loss"]  # what one row of a summary stands for
_CSV_ROWS = 10_000  # that are text at a time
SCORES_NAME, SUMMARY_NAME = "scores.csv", "summary.json"

_CLIP_COLUMNS = {
    "duration_s": "float64",
    "measured_kbps": "float64",
    "payload_kbps": "float64",
    "encode_s": "float64",
    "decode_s": "float64",
    "published": "bool",
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

    clips: pd.DataFrame
    scores: pd.DataFrame
    failures: pd.DataFrame


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
    keys = _Columns({"file": "str", "codec": "str", "rate": "float64", "loss": "float64"})
    about = _Columns(_CLIP_COLUMNS)
    values = {metric: array("d") for metric in metrics}
    failures = []
    for clip in clips:
        file, codec = (names.setdefault(name, name) for name in (clip.file, clip.codec))
        keys.append(file, codec, clip.rate, clip.loss)
        about.append(*(getattr(clip, name) for name in _CLIP_COLUMNS))
        for metric, column in values.items():
            score = clip.scores.get(metric)
            column.append(np.nan if score is None else score)
        failures += [
            clip.key | {"metric": metric, "reason": reason} for metric, reason in clip.failures
        ]
    key = keys.table()
    places = {codec: place for place, codec in enumerate(codecs)}
    order = np.argsort([places.get(codec, len(places)) for codec in key.codec], kind="stable")
    key = key.iloc[order].reset_index(drop=True)
    scores = key.loc[key.index.repeat(len(metrics))].reset_index(drop=True)
    scores["metric"] = list(metrics) * len(key)
    by_clip = [np.array(column, dtype=np.float64)[order] for column in values.values()]
    scores["value"] = np.stack(by_clip, axis=1).ravel() if by_clip else np.zeros(0)
    names_of = ["file", *KEY, "metric", "reason"]
    lost = pd.DataFrame(failures, columns=names_of)
    lost = lost.sort_values(
        "codec", key=lambda c: c.map(places).fillna(len(places)), kind="stable", ignore_index=True
    )
    clip_rows = about.table().iloc[order].reset_index(drop=True)
    return Tables(pd.concat([key, clip_rows], axis=1), scores, lost)


class _Columns:
    """Columns of a table that grow row by row: numbers in arrays, names as references."""

    def __init__(self, types: dict[str, str]) -> None:
        self._types = types
        self._columns: list[Any] = [
            array("d") if kind == "float64" else [] for kind in types.values()
        ]

    def append(self, *values: Any) -> None:
        for column, value in zip(self._columns, values, strict=True):
            column.append(np.nan if value is None else value)

    def table(self) -> pd.DataFrame:
        made = {
            name: np.array(column, dtype=np.float64) if isinstance(column, array) else column
            for name, column in zip(self._types, self._columns, strict=True)
        }
        return pd.DataFrame(made).astype(self._types)


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

    clips: pd.DataFrame
    scores: pd.DataFrame
    failures: pd.DataFrame
    rates: pd.DataFrame
    means: pd.DataFrame
    comparison: pd.DataFrame
    rate_saved: pd.DataFrame
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
            "failures": records(self._in_files(self.failures)),
            "notes": self.notes,
            "name": info.name,
            "baseline": info.baseline,
            "weights": info.weights,
            "vbr": info.vbr,
            "independent": info.independent,
            "rates_kbps": sorted(own.rate.unique().tolist()),
            "losses": list(info.losses),
            "metrics": list(info.metrics),
            "files": int(self.clips.file.nunique()),
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
        made = self.clips[~self.clips.published]
        scores = self.scores.value.to_numpy().reshape(len(self.clips), -1)  # [clips, metrics]
        wide = pd.DataFrame(scores, self.clips.index, list(self.info.metrics)).loc[made.index]
        for first in range(0, max(len(made), 1), _CSV_ROWS):
            rows = slice(first, first + _CSV_ROWS)
            yield self._csv(pd.concat([made[rows], wide[rows]], axis=1), header=first == 0)

    def _csv(self, made: pd.DataFrame, header: bool) -> str:
        optional = [metric for metric in self.info.metrics if metric in OPTIONAL_METRICS]
        columns = {
            "file": made.file,
            "codec": made.codec,
            "nominal_bps": made.rate.map(_bits),
            "loss_percent": made.loss.map("{:g}".format),
            "actual_bps": made.measured_kbps.map(_bits),
            **{m: made[m].map(_cell) for m in DEFAULT_METRICS if m in self.info.metrics},
            "payload_bps": made.payload_kbps.map(_bits),
            **{name: made[name].map(_cell) for name in ("encode_s", "decode_s", "duration_s")},
            **{metric: made[metric].map(_cell) for metric in optional},
        }
        if not self.info.losses:
            del columns["loss_percent"]
        return pd.DataFrame(columns).to_csv(index=False, header=header, lineterminator="\n")

    def _in_files(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the names of its columns in files; loss only where there was some."""
        if not self.info.losses:
            table = table.drop(columns="loss", errors="ignore")
        return table.rename(columns={"rate": "bitrate_kbps", "loss": "loss_percent"})

    def _summary_rows(self) -> list[dict[str, Any]]:
        """Return one dict per codec, rate and loss with all its means, ``<metric>_low`` ..."""
        means = {tuple(row[name] for name in (*KEY, "metric")): row for row in records(self.means)}
        rows = []
        for key, row in zip(records(self.rates[KEY]), self._rates_in_files(), strict=True):
            scores = {}
            for metric in self.info.metrics:
                own = means[*key.values(), metric]
                scores[metric] = own["mean"]
                scores |= {f"{metric}_{end}": own[end] for end in ("low", "high", "q05", "q95")}
            rows.append(row | scores)
        return rows

    def _rates_in_files(self) -> list[dict[str, Any]]:
        return records(self._in_files(self.rates))

    def _comparison_rows(self) -> list[dict[str, Any]]:
        """Return one dict per rate with the differences in all metrics."""
        rows: dict[float, dict[str, Any]] = {}
        for row in records(self._in_files(self.comparison)):
            metric = row.pop("metric")
            numbers = {f"{metric}_{name}": row.pop(name) for name in _DIFFERENCE}
            rows.setdefault(row["bitrate_kbps"], {"codec": self.info.baseline} | row).update(
                numbers
            )
        return list(rows.values())


_DIFFERENCE = ("difference", "low", "high", "clips")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dicts of plain values for JSON: four decimals, None for NaN."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 4) if np.isfinite(value) else None
        return value

    return [{k: plain(v) for k, v in row.items()} for row in table.to_dict("records")]


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
