"""The plots of an evaluation: what is drawn, what is left out, and that equal is equal."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from evaluation import plots as report
from evaluation.plots import display_name, write_plots

METRICS = {"pesq_wb": 3.0, "psnr_db": 8.0, "estoi": 0.85}
RATES = (8.0, 9.6, 13.2, 16.4, 24.4, 32.0)
Row = dict[str, Any]


def row(codec: str, kbps: float, quality: float = 0.0, **changes: Any) -> Row:
    """Return a row of a summary: scores that grow with the rate and `quality`."""
    growth = 0.1 * (quality + math.log(kbps / 8))
    scores: Row = {}
    for metric, base in METRICS.items():
        mean = base * (1 + growth)
        scores |= {metric: mean, f"{metric}_q05": 0.9 * mean, f"{metric}_q95": 1.05 * mean}
    return {"codec": codec, "bitrate_kbps": kbps, "measured_kbps": kbps + 0.05, **scores, **changes}


def pesq_only(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in r.items() if "psnr" not in k and "estoi" not in k} for r in rows]


def full_summary() -> list[Row]:
    peers = {
        "opus": (RATES, 0.5), "evs": (RATES, 0.3), "lc3": (RATES[3:], 0.0),
        "speex": ((12.8, 16.8, 27.8), -0.5), "g722": ((48.0, 56.0, 64.0), 0.0),
        "amr-wb": ((8.85, 12.65, 23.85), 0.1), "new": ((6.0,), 0.2),
    }  # fmt: skip
    rows = [row(codec, rate, q) for codec, (rates, q) in peers.items() for rate in rates]
    return [*rows, *(row("nsvq", rate, 1.0) for rate in RATES)]


def saving(codec: str, metric: str, percent: float | None, width: float = 4.0) -> Row:
    return {
        "codec": codec, "metric": metric, "percent": percent,
        "low": None if percent is None else percent - width,
        "high": None if percent is None else percent + width,
        "from_quality": None if percent is None else 3.161,
        "to_quality": None if percent is None else 4.128,
    }  # fmt: skip


def words(svg: Path) -> list[str]:
    """Return the texts of an SVG of matplotlib: paths, each with a comment that says it."""
    return re.findall(r"<!-- (.*?) -->", svg.read_text(encoding="utf-8"))


def test_display_names() -> None:
    assert display_name("nsvq") == "this codec"
    named = [display_name(codec) for codec in ("evs", "opus", "lc3", "speex", "g722", "amr-wb")]
    assert named == ["EVS", "Opus", "LC3", "Speex", "G.722", "AMR-WB"]
    assert display_name("something") == "something"
    assert display_name("nsvq (published)") == "this codec (published)"


def test_all_figures_of_a_full_summary(tmp_path: Path) -> None:
    saved = [
        saving(codec, metric, percent)
        for codec, percent in (("opus", 23.4), ("g722", None), ("evs", -7.6), ("lc3", -412.0))
        for metric in ("estoi", "pesq_wb")
    ]
    paths = write_plots(full_summary(), saved, tmp_path / "new")
    names = ["rate_quality", "pesq_wb", "psnr_db", "estoi", "rate_saved"]
    expected = [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    assert [path.name for path in paths] == expected
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(expected)
    for path in paths[::2]:
        image = imread(path)
        height, width = image.shape[:2]
        assert width > 900 and height > 400
        assert 0.01 < np.mean(image[..., :3].min(axis=-1) < 0.9) < 0.5  # ink, but no slab
    for path in paths[1::2]:
        assert ElementTree.fromstring(path.read_bytes()).tag.endswith("svg")
    legend = words(tmp_path / "new" / "rate_quality.svg")
    for name in ("this codec", "Opus", "EVS", "LC3", "Speex", "G.722", "AMR-WB", "new", "8", "64"):
        assert name in legend
    said = words(tmp_path / "new" / "rate_saved.svg")
    assert said.count("no overlap") == 2
    assert said.index("at equal PESQ") < said.index("at equal ESTOI")
    for text in ("+23 %", "−8 %", "−412 %", "3.16–4.13", "3.161–4.128", "vs G.722"):
        assert text in said


def test_equal_numbers_give_equal_files(tmp_path: Path) -> None:
    """Also when the user's settings of matplotlib differ, which stay as they are."""
    summary, saved = pesq_only(full_summary()[:8]), [saving("opus", "pesq_wb", 12.0)]
    first = {p.name: p.read_bytes() for p in write_plots(summary, saved, tmp_path / "a")}
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "yellow"}):
        again = {p.name: p.read_bytes() for p in write_plots(summary, saved, tmp_path / "b")}
        assert matplotlib.rcParams["font.size"] == 20
        assert matplotlib.rcParams["svg.hashsalt"] is None
    assert first == again
    other = write_plots(summary, [saving("opus", "pesq_wb", 13.0)], tmp_path / "b")
    changed = {p.name for p in other if p.read_bytes() != first[p.name]}
    assert changed == {"rate_saved.png", "rate_saved.svg"}


def test_curves_are_means_over_the_measured_rate_with_quantiles() -> None:
    summary = full_summary()
    (axes, *small) = report._quality_figure(summary, ["psnr_db"]).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert len(lines) == 8 and len(small) == 7  # all codecs; one small panel for each peer
    own = [r for r in summary if r["codec"] == "lc3"]
    np.testing.assert_allclose(lines["lc3"].get_xdata(), [r["measured_kbps"] for r in own])
    np.testing.assert_allclose(lines["lc3"].get_ydata(), [r["psnr_db"] for r in own])
    bars = next(
        c for c in axes.collections
        if len(c.get_paths()) == 3
        and math.isclose(c.get_paths()[0].vertices[0, 1], own[0]["psnr_db_q05"])
    )  # fmt: skip
    for path, r in zip(bars.get_paths(), own, strict=True):
        np.testing.assert_allclose(path.vertices[:, 1], [r["psnr_db_q05"], r["psnr_db_q95"]])
        np.testing.assert_allclose(path.vertices[:, 0], r["measured_kbps"], rtol=0.05)
    ours = [r for r in summary if r["codec"] == "nsvq"]
    (band,) = (c for c in axes.collections if len(c.get_paths()) == 1 and c.get_zorder() == 1)
    extent = band.get_paths()[0].get_extents()
    assert extent.x0 == ours[0]["measured_kbps"] and extent.x1 == ours[-1]["measured_kbps"]
    assert extent.y0 == ours[0]["psnr_db_q05"] and extent.y1 == ours[-1]["psnr_db_q95"]
    # 64 kbit/s take no more room than they need: ours has half of the axis.
    assert axes.get_xscale() == "log"
    at = axes.transAxes.inverted().transform(axes.transData.transform([(8, 9), (32, 9)]))[:, 0]
    assert at[1] - at[0] > 0.5


def test_codecs_differ_in_colour_and_marker() -> None:
    axes = report._quality_figure(full_summary(), ["estoi"]).axes[0]
    assert len({line.get_color() for line in axes.lines}) == 8
    assert len({line.get_marker() for line in axes.lines}) == 8
    alone = report._quality_figure([row("g722", 64.0)], ["estoi"]).axes[0]
    (same,) = (line for line in axes.lines if line.get_label() == "g722")
    assert alone.lines[0].get_color() == same.get_color()


def test_rates_of_ours_are_labelled_first_and_none_twice() -> None:
    axes = report._quality_figure(full_summary(), ["estoi"]).axes[0]
    ticks = [float(label.get_text()) for label in axes.get_xticklabels()]
    assert set(RATES) <= set(ticks)
    assert 12.65 not in ticks and 12.8 not in ticks and 64.0 in ticks


def test_two_peers_share_a_panel_with_bands() -> None:
    summary = [row(codec, rate) for codec in ("nsvq", "opus", "evs") for rate in (8.0, 16.0)]
    (axes,) = report._quality_figure(summary, ["pesq_wb"]).axes
    assert len(axes.collections) == 3


def test_points_without_numbers_are_left_out(tmp_path: Path) -> None:
    summary = [
        row("nsvq", 8.0), row("nsvq", 13.2, estoi=None), row("nsvq", 16.4, psnr_db=float("nan")),
        row("nsvq", 24.4, measured_kbps=None), row("nsvq", 32.0, pesq_wb_q05=None),
        row("opus", 16.0, estoi=None, pesq_wb=None, psnr_db=None),
        row("nsvq", 32.0, loss_percent=10.0),
    ]  # fmt: skip
    del summary[0]["codec"]  # a summary of one codec need not name it
    paths = write_plots(summary, [], tmp_path)
    assert not any("rate_saved" in path.name for path in paths)
    assert "Opus" not in words(tmp_path / "rate_quality.svg")
    rows = [r for r in summary if r["measured_kbps"] and not r.get("loss_percent")]
    (axes,) = report._quality_figure(rows, ["psnr_db"]).axes
    assert list(axes.lines[0].get_xdata()) == [8.05, 13.25, 32.05]


def test_single_rates_are_points(tmp_path: Path) -> None:
    summary = pesq_only([row("nsvq", 13.2), row("g722", 64.0)])
    assert len(write_plots(summary, [], tmp_path)) == 4
    (axes,) = report._quality_figure(summary, ["pesq_wb"]).axes
    assert [len(line.get_xdata()) for line in axes.lines] == [1, 1]
    low, high = axes.get_xlim()
    assert low < 13.2 < 64.0 < high
    write_plots(summary[:1], [], tmp_path)
    assert "G.722" not in words(tmp_path / "pesq_wb.svg")


def test_further_metrics_have_their_own_figure(tmp_path: Path) -> None:
    extra = {"visqol": 4.0, "visqol_q05": 3.5, "visqol_q95": 4.4, "a_b": 1, "a_b_q05": 0}
    paths = write_plots([row("nsvq", 8.0, **extra), row("nsvq", 16.0)], [], tmp_path)
    names = [path.stem for path in paths[::2]]
    assert names == ["rate_quality", "pesq_wb", "psnr_db", "estoi", "visqol", "a_b"]
    assert "ViSQOL" in words(tmp_path / "visqol.svg")
    assert "ViSQOL" not in words(tmp_path / "rate_quality.svg")


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert write_plots([], [], tmp_path) == []
    assert write_plots([row("nsvq", 8.0, measured_kbps=None)], [], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    paths = write_plots([], [saving("opus", "pesq_wb", None)], tmp_path)
    assert [path.name for path in paths] == ["rate_saved.png", "rate_saved.svg"]
    assert "no overlap" in words(paths[1])
    reason = saving("g722", "pesq_wb", None) | {"reason": "one rate only"}
    assert "one rate only" in words(write_plots([], [reason], tmp_path)[1])


@pytest.mark.parametrize(
    "changes", [{"low": None, "high": None}, {"low": -900.0, "high": 90.0}, {"from_quality": None}]
)
def test_savings_without_an_interval_or_with_a_wide_one(tmp_path: Path, changes: Row) -> None:
    saved = [saving("opus", "pesq_wb", 20.0) | changes, saving("evs", "psnr_db", 3.0)]
    paths = write_plots([], saved, tmp_path)
    said = words(paths[1])
    assert "+20 %" in said and "+3 %" in said
    assert said.count("not measured") == 2  # each peer with one metric only
    assert ("3.16–4.13" in said) == ("from_quality" not in changes)


def test_unwritable_directory_leaves_old_files(tmp_path: Path) -> None:
    (tmp_path / "pesq_wb.png").mkdir()  # in the way
    with pytest.raises((OSError, ValueError)):
        write_plots([row("nsvq", 8.0)], [], tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("pesq_wb.svg")]
