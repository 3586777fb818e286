"""Read published scores of other codecs, one row per clip, codec and rate, from CSV files."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PathLike = str | os.PathLike[str]

METRIC_NAMES = ("pesq_wb", "psnr_db", "estoi", "visqol", "dnsmos")
_OTHER_NAMES = {"visqol_speech": "visqol", "dnsmos_ovrl": "dnsmos"}
_REQUIRED = ("file", "codec", "nominal_bps")
_REFERENCE = "ref"  # rows of the original against itself


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
        slashes), ``codec`` and ``nominal_bps`` are required, and at least one metric: ``pesq_wb``,
        ``psnr_db``, ``estoi``, ``visqol`` (or ``visqol_speech``), ``dnsmos`` (or ``dnsmos_ovrl``).
        ``actual_bps`` is optional, other columns are ignored. Cells without a score are empty.
        Rows of the codec "ref" are left out. ``scores.csv`` of an earlier run has this form.

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
        if metric in METRIC_NAMES and columns.setdefault(metric, name) != name:
            raise ValueError(f"{path}: line 1: {columns[metric]} and {name} are the same metric")
    if not columns:
        raise ValueError(f"{path}: line 1: no column of a metric ({', '.join(METRIC_NAMES)})")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: line 1: a column is there twice")
    return columns


def _row(where: str, cells: Mapping[str, str], columns: Mapping[str, str]) -> PublishedScore | None:
    """Return what a row says; None for the reference."""
    file, codec = cells["file"].strip(), cells["codec"].strip()
    if not file or not codec:
        raise ValueError(f"{where}: no {'codec' if file else 'file'}")
    if codec == _REFERENCE:
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
