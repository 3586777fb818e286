"""Read the ratings that listening pages export; `mushra` says what they add up to.

A file of ratings is CSV in UTF-8 with this header, one row per rated sound:

========================  =====================================================================
``listener``              name given by the listener
``session``               drawn at random for each run of the test
``clip``                  name of the clip, which together with the rate is the trial
``codec``                 key of the codec, or ``reference`` (hidden), or ``anchor`` (low-pass)
``bitrate_kbps``          rate the trial was about
``measured_kbps``         rate of this very sound; empty for reference and anchor
``label``                 letter under which the sound was heard in the trial
``rating``                0 to 100
``time``                  when it was rated, ISO 8601
========================  =====================================================================
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]

COLUMNS = (
    "listener",
    "session",
    "clip",
    "codec",
    "bitrate_kbps",
    "measured_kbps",
    "label",
    "rating",
    "time",
)
REFERENCE, ANCHOR = "reference", "anchor"


@dataclass(frozen=True)
class Rating:
    """One rating of one sound by one listener; the fields are the columns of the file."""

    listener: str
    session: str
    clip: str
    codec: str
    bitrate_kbps: float
    measured_kbps: float | None
    label: str
    rating: float
    time: datetime

    @property
    def trial(self) -> tuple[str, str, str, float]:
        """Listener, session, clip and rate: what was rated on one screen."""
        return self.listener, self.session, self.clip, self.bitrate_kbps


def read_ratings(paths: Iterable[PathLike]) -> list[Rating]:
    """Read files that listening pages exported.

    Parameters
    ----------
    paths : CSV files, see the module; further columns are passed over

    Returns
    -------
    list of Rating, in the order of files and rows

    Raises
    ------
    ValueError   a file cannot be read, is empty, lacks a column, or holds a row that is malformed,
        out of range or there already (in another file too); one line with file and line
    """
    ratings: list[Rating] = []
    seen: dict[tuple[Any, ...], str] = {}
    named: set[Path] = set()
    for path in paths:
        if Path(path).resolve() in named:
            raise ValueError(f"{path}: is named twice")
        named.add(Path(path).resolve())
        before = len(ratings)
        for line, rating in _read_file(path):
            where = f"{path}: line {line}"
            for what in (rating.codec, f"label {rating.label}"):
                first = seen.setdefault((*rating.trial, what), where)
                if first != where:
                    raise ValueError(
                        f"{where}: {what} of clip {quoted(rating.clip)} at "
                        f"{rating.bitrate_kbps:g} kbit/s by {quoted(rating.listener)} "
                        f"is there already ({first})"
                    )
            ratings.append(rating)
        if len(ratings) == before:
            raise ValueError(f"{path}: has no ratings")
    return ratings


def _read_file(path: PathLike) -> Iterator[tuple[int, Rating]]:
    """Yield line number and rating of each row."""
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise ValueError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    if not data.strip():
        raise ValueError(f"{path}: is empty")
    try:
        text = data.decode("utf-8-sig")  # spreadsheets put a byte order mark first
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line}: is not text in UTF-8") from exc
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{path}: line {reader.line_num}"
            if "\0" in "".join(cells):
                raise ValueError(f"{where}: is not text")
            if header is None:
                header = _checked_header([cell.strip() for cell in cells], where)
            elif any(cell.strip() for cell in cells):
                yield reader.line_num, _rating(header, cells, where)
    except csv.Error as exc:
        raise ValueError(f"{path}: line {reader.line_num}: is not CSV ({exc})") from exc


def _checked_header(header: list[str], where: str) -> list[str]:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ValueError(
            f"{where}: no column {', '.join(missing)}; is this an export of the listening page?"
        )
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if twice:
        raise ValueError(f"{where}: column {', '.join(twice)} is there twice")
    return header


def _rating(header: Sequence[str], cells: Sequence[str], where: str) -> Rating:
    if len(cells) != len(header):
        raise ValueError(f"{where}: {len(cells)} cells, the header has {len(header)}")
    row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    for name in ("listener", "session", "clip", "codec", "label"):
        if not row[name]:
            raise ValueError(f"{where}: {name} is empty")
    measured = row["measured_kbps"]
    try:
        time = datetime.fromisoformat(row["time"])
    except ValueError as exc:
        raise ValueError(f"{where}: time is {quoted(row['time'])}, not ISO 8601") from exc
    return Rating(
        listener=row["listener"],
        session=row["session"],
        clip=row["clip"],
        codec=row["codec"],
        bitrate_kbps=_rate(row["bitrate_kbps"], "bitrate_kbps", where),
        measured_kbps=_rate(measured, "measured_kbps", where) if measured else None,
        label=row["label"],
        rating=_number(row["rating"], "rating", where, 0.0, 100.0),
        time=time,
    )


def _rate(text: str, name: str, where: str) -> float:
    value = _number(text, name, where, 0.0, 1e6)
    if value == 0:
        raise ValueError(f"{where}: {name} is 0")
    return value


def _number(text: str, name: str, where: str, low: float, high: float) -> float:
    try:
        if not text.isascii() or "_" in text:  # float() takes both
            raise ValueError
        value = float(text)
    except ValueError:
        raise ValueError(f"{where}: {name} is {quoted(text)}, not a number") from None
    if not low <= value <= high:  # NaN too
        raise ValueError(f"{where}: {name} is {quoted(text)}, not within {low:g} to {high:g}")
    return value


def quoted(text: str) -> str:
    """Return text for a message: one line, not too long."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
