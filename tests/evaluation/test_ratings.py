"""Reading what the listening page exports, screening, and what it adds up to."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from evaluation.listening.mushra import quality_word, ratings_table, summarise, write_ratings
from evaluation.listening.ratings import COLUMNS, Rating, read_ratings

TIME = "2026-01-02T03:04:05.678Z"


def row(listener="Ann", clip="a.flac", codec="nsvq", rate="8", label="A", rating="50", **other):
    cells = {
        "listener": listener,
        "session": f"session of {listener}",
        "clip": clip,
        "codec": codec,
        "bitrate_kbps": rate,
        "measured_kbps": "" if codec in ("reference", "anchor") else "8.02",
        "label": label,
        "rating": rating,
        "time": TIME,
    }
    return cells | other


def write(path: Path, rows: list[dict[str, str]], columns=COLUMNS) -> Path:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(buffer.getvalue(), encoding="utf-8")
    return path


def trial(listener: str, clip: str, **ratings: float) -> list[dict[str, str]]:
    return [
        row(listener, clip, codec, label=chr(65 + i), rating=f"{rating:g}")
        for i, (codec, rating) in enumerate(ratings.items())
    ]


def test_every_field_is_read(tmp_path: Path) -> None:
    name = 'Zoë, "the\near"'
    [rating] = read_ratings([write(tmp_path / "r.csv", [row(name, rating="72.5", rate="9.6")])])
    assert rating.listener == name and rating.session == f"session of {name}"
    assert (rating.clip, rating.codec, rating.label) == ("a.flac", "nsvq", "A")
    assert (rating.bitrate_kbps, rating.measured_kbps, rating.rating) == (9.6, 8.02, 72.5)
    assert rating.time.isoformat() == "2026-01-02T03:04:05.678000+00:00"


def test_other_columns_order_and_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", [row(note="x")], [*reversed(COLUMNS), "note"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b",,,\r\n")
    assert read_ratings([path])[0].rating == 50


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rating": "101"}, "rating is '101', not within 0 to 100"),
        ({"rating": "-1"}, "not within"),
        ({"rating": "nan"}, "not within"),
        ({"rating": "5 0"}, "not a number"),
        ({"rating": ""}, "rating is '', not a number"),
        ({"rating": "1_0"}, "not a number"),
        ({"rating": "５"}, "not a number"),
        ({"bitrate_kbps": "0"}, "bitrate_kbps is 0"),
        ({"bitrate_kbps": ""}, "bitrate_kbps is '', not a number"),
        ({"measured_kbps": "inf"}, "measured_kbps"),
        ({"listener": " "}, "listener is empty"),
        ({"codec": ""}, "codec is empty"),
        ({"time": "yesterday"}, "time is 'yesterday', not ISO 8601"),
        ({"rating": "x" * 1000}, "xxx..."),
        ({"clip": "a\0b"}, "not text"),
    ],
)
def test_a_bad_cell_is_named_with_file_and_line(tmp_path: Path, change, says) -> None:
    path = write(tmp_path / "r.csv", [row(), row(codec="opus", label="B") | change])
    with pytest.raises(ValueError) as caught:
        read_ratings([path])
    message = str(caught.value)
    assert message.startswith(f"{path}: line 3: ") and says in message
    assert "\n" not in message and len(message) < len(str(path)) + 200


@pytest.mark.parametrize("missing", COLUMNS)
def test_a_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path / "r.csv", [row()], [c for c in COLUMNS if c != missing])
    with pytest.raises(ValueError, match=f"line 1: no column {missing};"):
        read_ratings([path])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (",".join(COLUMNS).encode() + b"\n", "has no ratings"),
        (bytes(range(256)) * 20, "not text in UTF-8"),
        (b"fLaC\x00\x00\x00\x22", "is not text"),
        (",".join(COLUMNS).encode() + b"\na,b\n", "line 2: 2 cells, the header has 9"),
        (",".join(COLUMNS).encode() + b'\n"a', "is not CSV"),
        (",".join([*COLUMNS, "rating"]).encode() + b"\n", "column rating is there twice"),
    ],
)
def test_what_is_no_file_of_ratings_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_ratings([path])
    assert str(caught.value).startswith(f"{path}: ") and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_and_repeated_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.csv: cannot be read"):
        read_ratings([tmp_path / "none.csv"])
    with pytest.raises(ValueError, match="cannot be read"):
        read_ratings([tmp_path])
    one = write(tmp_path / "1.csv", [row()])
    two = write(tmp_path / "2.csv", [row()])
    with pytest.raises(ValueError, match=r"2\.csv: line 2: nsvq of clip .* there already .*1\.csv"):
        read_ratings([one, two])
    with pytest.raises(ValueError, match=r"1\.csv: is named twice"):
        read_ratings([one, tmp_path / "." / "1.csv"])
    twice = write(tmp_path / "3.csv", [row(), row(codec="opus")])
    with pytest.raises(ValueError, match="line 3: label A of clip"):
        read_ratings([twice])
    again = write(tmp_path / "4.csv", [row(session="another day")])
    assert len(read_ratings([one, again])) == 2  # the same listener may come back


def test_means_and_intervals(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, expected = [], []
    for listener in ("Ann", "Bob", "Cem"):
        for clip in ("a", "b", "c", "d"):
            ours = float(rng.integers(60, 90))
            expected.append(ours)
            rows += trial(listener, clip, reference=98, nsvq=ours, opus=ours - 20, anchor=20)
    summary = summarise(read_ratings([write(tmp_path / "r.csv", rows)]))
    assert [r.codec for r in summary.rows] == ["reference", "nsvq", "opus", "anchor"]
    ours, opus = summary.rows[1:3]
    assert ours.mean == pytest.approx(np.mean(expected)) and opus.mean == pytest.approx(
        ours.mean - 20
    )
    assert (ours.ratings, ours.listeners, ours.clips) == (12, 3, 4)
    # Ratings of one listener are not independent. One resample in 27 has one of three means only.
    means = np.reshape(expected, (3, 4)).mean(axis=1)
    assert (ours.low, ours.high) == (pytest.approx(min(means)), pytest.approx(max(means)))
    assert ours.measured_kbps == pytest.approx(8.02) and summary.rows[0].measured_kbps is None
    assert summary.excluded == [] and summary.listeners == ["Ann", "Bob", "Cem"]
    text = ratings_table(summary)
    assert "this codec" in text and "hidden reference" in text and "Opus" in text
    assert f"{ours.mean:.1f}" in text and f"{ours.low:.1f} to {ours.high:.1f}" in text


def test_rates_are_apart_and_ascending() -> None:
    time = datetime(2026, 1, 1)
    ratings = [
        Rating("Ann", "s", "a", "nsvq", rate, rate, "A", value, time)
        for rate, value in ((32.0, 90.0), (9.6, 40.0))
    ]
    rows = summarise(ratings).rows
    assert [(r.bitrate_kbps, r.mean) for r in rows] == [(9.6, 40.0), (32.0, 90.0)]
    assert math.isnan(rows[0].low) and json.loads(summarise(ratings).to_json())
    assert "-" in ratings_table(summarise(ratings)).splitlines()[1]


def test_who_misses_the_reference_too_often_is_left_out(tmp_path: Path) -> None:
    rows = []
    for i in range(20):
        # Ann misses 3 of 20, just the 15 % that are allowed; Bob 4.
        rows += trial("Ann", f"clip {i}", reference=89 if i < 3 else 90, nsvq=70)
        rows += trial("Bob", f"clip {i}", reference=89 if i < 4 else 100, nsvq=0)
    summary = summarise(read_ratings([write(tmp_path / "r.csv", rows)]))
    assert [(e.listener, e.missed, e.trials) for e in summary.excluded] == [("Bob", 4, 20)]
    assert summary.listeners == ["Ann"]
    assert next(r for r in summary.rows if r.codec == "nsvq").mean == 70
    assert "excluded: 'Bob'" in ratings_table(summary) and "4 of 20" in ratings_table(summary)


def test_nobody_left_is_said(tmp_path: Path) -> None:
    ratings = read_ratings([write(tmp_path / "r.csv", trial("Bob", "a", reference=10, nsvq=100))])
    with pytest.raises(ValueError, match=r"every listener .* 'Bob' \(1 of 1 trials\)"):
        summarise(ratings)
    with pytest.raises(ValueError, match="no ratings"):
        summarise([])


def test_json_and_csv_hold_the_same(tmp_path: Path) -> None:
    rows = trial("Ann", "a", reference=100, nsvq=61) + trial("Ann", "b", reference=95, nsvq=70)
    summary = summarise(read_ratings([write(tmp_path / "r.csv", rows)]))
    paths = write_ratings(summary, tmp_path / "deep" / "out")
    assert [p.name for p in paths] == ["ratings.csv", "ratings.json"]
    table = list(csv.DictReader(paths[0].open(encoding="utf-8")))
    content = json.loads(paths[1].read_text(encoding="utf-8"))
    assert [r["codec"] for r in table] == [r["codec"] for r in content["ratings"]]
    assert float(table[1]["mean"]) == content["ratings"][1]["mean"] == 65.5
    assert table[0]["measured_kbps"] == "" and content["ratings"][0]["measured_kbps"] is None
    with pytest.raises(ValueError, match="cannot be created"):
        write_ratings(summary, tmp_path / "r.csv" / "out")


def test_words_of_the_scale() -> None:
    values = (0, 19.9, 20, 59, 60, 80, 100)
    words = ["Bad", "Bad", "Poor", "Fair", "Good", "Excellent", "Excellent"]
    assert [quality_word(v) for v in values] == words
