"""Sum up ratings as in ITU-R BS.1534 (MUSHRA): screening of listeners, means, intervals."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codec.io.files import atomic_write
from evaluation.bootstrap import bootstrap_mean
from evaluation.listening.ratings import ANCHOR, REFERENCE, PathLike, Rating, quoted
from evaluation.text import display_name, layout

# BS.1534-3, section 4.1.2: who rates the hidden reference below 90 in more than 15 % of the trials
# is excluded.
SCREEN_RATING, SCREEN_SHARE = 90.0, 0.15
# Quality words of the scale, each a fifth of it.
WORDS = ("Bad", "Poor", "Fair", "Good", "Excellent")
JSON_NAME, CSV_NAME = "ratings.json", "ratings.csv"


@dataclass(frozen=True)
class RatingRow:
    """What one codec was rated at one rate.

    `low` and `high` are the 95 % confidence interval of the mean over listeners (of one: over its
    clips), NaN where there is a single rating; `measured_kbps` is None for reference and anchor.
    """

    bitrate_kbps: float
    codec: str
    measured_kbps: float | None
    mean: float
    low: float
    high: float
    ratings: int
    listeners: int
    clips: int


@dataclass(frozen=True)
class Excluded:
    """A listener who did not recognise the reference, and in how many of how many trials."""

    listener: str
    missed: int
    trials: int


@dataclass(frozen=True)
class RatingSummary:
    """Ratings by rate and codec, best first, of the listeners that the screening left."""

    rows: list[RatingRow]
    excluded: list[Excluded]
    listeners: list[str]

    def to_json(self) -> str:
        """Return rows, listeners and who was excluded as JSON; NaN becomes null."""
        content = {
            "ratings": [
                {key: _finite_or_none(value) for key, value in asdict(row).items()}
                for row in self.rows
            ],
            "listeners": self.listeners,
            "excluded": [asdict(listener) for listener in self.excluded],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Return one row per rate and codec; cells of unknown values are empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        names = list(RatingRow.__dataclass_fields__)
        writer.writerow(names)
        for row in self.rows:
            cells = (_finite_or_none(getattr(row, name)) for name in names)
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in cells])
        return buffer.getvalue()


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summarise(ratings: Sequence[Rating]) -> RatingSummary:
    """Screen the listeners, then take mean and confidence interval for each rate and codec.

    Trials without a hidden reference say nothing about a listener and do not count in the
    screening.

    Parameters
    ----------
    ratings : at least one

    Returns
    -------
    RatingSummary

    Raises
    ------
    ValueError   no ratings, or every listener is excluded; one line

    References
    ----------
    ITU-R BS.1534-3 (2015), section 4.1.2 (post-screening) and section 9 (statistical analysis).
    """
    if not ratings:
        raise ValueError("there are no ratings")
    excluded = _screen(ratings)
    out = {listener.listener for listener in excluded}
    kept = [rating for rating in ratings if rating.listener not in out]
    if not kept:
        names = ", ".join(
            f"{quoted(e.listener)} ({e.missed} of {e.trials} trials)" for e in excluded
        )
        raise ValueError(
            f"no ratings are left: every listener rated the hidden reference below "
            f"{SCREEN_RATING:g} in more than {100 * SCREEN_SHARE:g} % of the trials: {names}"
        )
    groups: dict[tuple[float, str], list[Rating]] = defaultdict(list)
    for rating in kept:
        groups[rating.bitrate_kbps, rating.codec].append(rating)
    rows = [_row(rate, codec, group) for (rate, codec), group in groups.items()]
    rows.sort(key=lambda row: (row.bitrate_kbps, -row.mean, row.codec))
    return RatingSummary(rows, excluded, sorted({rating.listener for rating in kept}))


def _screen(ratings: Sequence[Rating]) -> list[Excluded]:
    heard: dict[str, list[bool]] = defaultdict(list)
    for rating in ratings:
        if rating.codec == REFERENCE:
            heard[rating.listener].append(rating.rating < SCREEN_RATING)
    return [
        Excluded(listener, sum(missed), len(missed))
        for listener, missed in sorted(heard.items())
        if sum(missed) > SCREEN_SHARE * len(missed)
    ]


def _row(rate: float, codec: str, group: Sequence[Rating]) -> RatingRow:
    values = [rating.rating for rating in group]
    # Ratings of one listener are not independent; of a single one, other clips are the question.
    by_listener: dict[str, list[float]] = defaultdict(list)
    for rating in group:
        by_listener[rating.listener].append(rating.rating)
    means = [math.fsum(own) / len(own) for own in by_listener.values()]
    low, high = bootstrap_mean(means if len(means) > 1 else values)
    measured = [r.measured_kbps for r in group if r.measured_kbps is not None]
    return RatingRow(
        bitrate_kbps=rate,
        codec=codec,
        measured_kbps=math.fsum(measured) / len(measured) if measured else None,
        mean=math.fsum(values) / len(values),
        low=low,
        high=high,
        ratings=len(values),
        listeners=len({rating.listener for rating in group}),
        clips=len({rating.clip for rating in group}),
    )


def quality_word(rating: float) -> str:
    """Return the word of the scale for a rating of 0 to 100."""
    return WORDS[min(int(rating // 20), 4)]


def ratings_table(summary: RatingSummary) -> str:
    """Return the summary as a text table, and below it who was excluded."""
    names = {REFERENCE: "hidden reference", ANCHOR: "anchor, 3.5 kHz"}
    headings = ("rate", "codec", "kbit/s", "mean", "95 % interval", "", "ratings", "listeners")
    cells = []
    previous = None
    for row in summary.rows:
        interval = "-" if math.isnan(row.low) else f"{row.low:.1f} to {row.high:.1f}"
        cells.append(
            (
                f"{row.bitrate_kbps:g}" if row.bitrate_kbps != previous else "",
                names.get(row.codec) or display_name(row.codec),
                "-" if row.measured_kbps is None else f"{row.measured_kbps:.2f}",
                f"{row.mean:.1f}",
                interval,
                quality_word(row.mean),
                str(row.ratings),
                str(row.listeners),
            )
        )
        previous = row.bitrate_kbps
    table = layout(headings, cells, left=(1, 5), rule=False)
    lines = [line.rstrip() for line in table.splitlines()]
    for e in summary.excluded:
        lines.append(
            f"excluded: {quoted(e.listener)}, who rated the hidden reference below "
            f"{SCREEN_RATING:g} in {e.missed} of {e.trials} trials"
        )
    return "\n".join(lines)


def write_ratings(summary: RatingSummary, out_dir: PathLike) -> list[Path]:
    """Write ``ratings.csv`` and ``ratings.json`` into a directory, made if need be.

    Returns
    -------
    paths of the files

    Raises
    ------
    ValueError   the directory or a file cannot be written; one line
    """
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ValueError(f"{folder}: cannot be created ({exc.strerror or exc})") from exc
    paths = [folder / CSV_NAME, folder / JSON_NAME]
    atomic_write(paths[0], summary.to_csv().encode("utf-8"))
    atomic_write(paths[1], summary.to_json().encode("utf-8"))
    return paths
