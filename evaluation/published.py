"""Read published scores of other codecs, one row per clip, codec and rate, from CSV files."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.metrics import METRICS
from evaluation.results import ClipScore

PathLike = str | os.PathLike[str]

ORIGINAL = "ref"  # codec of rows of the original against itself

_OTHER_NAMES = {alias: metric.name for metric in METRICS.values() for alias in metric.aliases}
_REQUIRED = ("file", "codec", "nominal_bps")


@dataclass
class PublishedScore:
    """What one clip gave in another codec at one rate; a metric without a score is None."""

    file: str
    codec: str
    nominal_bps: float
    actual_bps: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)


def read_scores(paths: Sequence[PathLike]) -> list[PublishedScore]:
    """Read published scores; rows of several files for the same clip, codec and rate become one.

    Parameters
    ----------
    paths : CSV files with a header. Columns ``file`` (path below the test directory, forward
        slashes), ``codec`` and ``nominal_bps`` are required, and at least one of a metric, under
        its name in `metrics.METRICS` or an alias of it. ``actual_bps`` is optional, other columns
        are ignored. Cells without a score are empty. Rows of the codec "ref" are left out.
        ``scores.csv`` of an earlier run has this form.

    Returns
    -------
    list of PublishedScore, in the order of the files

    Raises
    ------
    ValueError   a file cannot be read, a column is missing, a row is malformed or there twice; the
        message names the file and the line
    """
    found: dict[tuple[str, str, float], PublishedScore] = {}
    for path in paths:
        for where, row in _read_file(path):
            former = found.setdefault((row.file, row.codec, row.nominal_bps), row)
            if former is row:
                continue
            for name, value in row.scores.items():
                if former.scores.setdefault(name, value) != value:
                    what = f"{row.codec} at {row.nominal_bps:g} bit/s"
                    raise ValueError(f"{where}: {name} of {row.file}, {what}, is there twice")
            former.actual_bps = former.actual_bps or row.actual_bps
    return list(found.values())


def _read_file(path: PathLike) -> list[tuple[str, PublishedScore]]:
    """Return the rows of one file, each with where it is."""
    rows: list[tuple[str, PublishedScore]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = _columns(path, reader.fieldnames or ())
            seen: dict[tuple[str, str, float], int] = {}
            for cells in reader:
                where = f"{path}: line {reader.line_num}"
                if None in cells or None in cells.values():
                    raise ValueError(f"{where} has not as many cells as the first line")
                row = _row(where, cells, columns)
                if row is None:
                    continue
                key = row.file, row.codec, row.nominal_bps
                if (first := seen.setdefault(key, reader.line_num)) != reader.line_num:
                    raise ValueError(f"{where}: the same clip, codec and rate as line {first}")
                rows.append((where, row))
    except OSError as exc:
        raise ValueError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except UnicodeDecodeError as exc:
        raise ValueError(f"{path}: is no text in UTF-8") from exc
    except csv.Error as exc:
        raise ValueError(f"{path}: is no CSV ({exc})") from exc
    if not rows:
        raise ValueError(f"{path}: has no scores")
    return rows


def _columns(path: PathLike, names: Sequence[str]) -> dict[str, str]:
    """Return which metric is in which column, or say what is wrong with the header."""
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise ValueError(f"{path}: line 1: no column {', '.join(missing)}")
    if "loss_percent" in names:
        raise ValueError(f"{path}: has scores under packet loss, which are not compared here")
    columns: dict[str, str] = {}
    for name in names:
        metric = _OTHER_NAMES.get(name, name)
        if metric in METRICS and columns.setdefault(metric, name) != name:
            raise ValueError(f"{path}: line 1: {columns[metric]} and {name} are the same metric")
    if not columns:
        raise ValueError(f"{path}: line 1: no column of a metric ({', '.join(METRICS)})")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: line 1: a column is there twice")
    return columns


def _row(where: str, cells: Mapping[str, str], columns: Mapping[str, str]) -> PublishedScore | None:
    """Return what a row says; None for the reference."""
    file, codec = cells["file"].strip(), cells["codec"].strip()
    if not file or not codec:
        raise ValueError(f"{where}: no {'codec' if file else 'file'}")
    if codec == ORIGINAL:
        return None

    def number(name: str) -> float | None:
        text = cells.get(name, "").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{where}: {name} is {text!r}, not a number")
        return value

    def rate(name: str) -> float | None:
        value = number(name)
        if value is not None and value <= 0:
            raise ValueError(f"{where}: {name} is {value:g}, not positive")
        return value

    nominal = rate("nominal_bps")
    if nominal is None:
        raise ValueError(f"{where}: no nominal_bps")
    scores = {metric: number(name) for metric, name in columns.items()}
    return PublishedScore(file, codec, nominal, rate("actual_bps"), scores)


# ---------------------------------------------------------------------------- in a run


def select_published(
    published: Sequence[PublishedScore],
    files: Sequence[str],
    ours: str,
    running: Sequence[str],
    metrics: Sequence[str],
) -> tuple[list[PublishedScore], list[str]]:
    """Return the published scores that take part in a run, and notes on those that do not.

    Parameters
    ----------
    published : all there are
    files : clips of the run
    ours : name of our codec
    running : other codecs that run in it: their published scores are left out
    metrics : of the run

    Raises
    ------
    ValueError   a published codec is called as ours is
    """
    codecs = list(dict.fromkeys(score.codec for score in published))
    if ours in codecs:
        raise ValueError(
            f"the published scores have a codec {ours!r} too; call ours otherwise with --name"
        )
    notes: list[str] = []
    if twice := [codec for codec in codecs if codec in running]:
        what = "it runs" if len(twice) == 1 else "they run"
        notes.append(f"published scores of {', '.join(twice)} are left out: {what} here")
    rest = [score for score in published if score.codec not in running]
    there = set(files)
    chosen = [score for score in rest if score.file in there]
    notes += _notes_on_clips(rest, chosen, len(there))
    scored = [score for score in chosen if not score.scores.keys().isdisjoint(metrics)]
    others = (score.codec for score in chosen if score.scores.keys().isdisjoint(metrics))
    if dropped := list(dict.fromkeys(others)):
        notes.append(
            f"published scores of {', '.join(dropped)} are left out where they are of other "
            "metrics only; see --metrics"
        )
    return scored, notes


def _notes_on_clips(
    rest: Sequence[PublishedScore], chosen: Sequence[PublishedScore], num_files: int
) -> list[str]:
    """Say of which codecs scores are missing for clips of the run, and how many are of others."""
    covered: dict[str, set[str]] = {score.codec: set() for score in rest}
    for score in chosen:
        covered[score.codec].add(score.file)
    notes = []
    if absent := [codec for codec, files in covered.items() if not files]:
        what = f"published scores of {', '.join(absent)}"
        notes.append(f"{what} are left out: none is of a clip of this run")
    notes += [
        f"published scores of {codec} are of {len(files)} of {num_files} clips only"
        for codec, files in covered.items()
        if 0 < len(files) < num_files
    ]
    if unused := sum(score.codec not in absent for score in rest) - len(chosen):
        notes.append(f"published rows of clips that are not in this run: {unused}")
    return notes


def published_clip(score: PublishedScore, duration_s: float, metrics: Sequence[str]) -> ClipScore:
    """Return a published score as a clip of a run."""
    actual = score.nominal_bps if score.actual_bps is None else score.actual_bps
    return ClipScore(
        score.file,
        score.nominal_bps / 1000,
        score.codec,
        duration_s=duration_s,
        measured_kbps=actual / 1000,
        scores={name: score.scores.get(name) for name in metrics},
        published=True,
    )
