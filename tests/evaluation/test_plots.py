"""The plots of an evaluation: what is drawn, what is left out, and that equal is equal."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from evaluation import plots
from evaluation.plots import Codecs, curve_points, metric_figure, overview_figure, write_plots
from evaluation.results import EvalResult, RunInfo
from evaluation.text import display_name

METRICS = {"pesq_wb": 3.0, "psnr_db": 8.0, "estoi": 0.85}
RATES = (8.0, 9.6, 13.2, 16.4, 24.4, 32.0)


def point(codec: str, rate: float, quality: float = 0.0, **changes: Any) -> dict[str, Any]:
    """Return a codec at a rate: scores that grow with the rate and `quality`."""
    growth = 0.1 * (quality + math.log(rate / 8))
    scores = {metric: base * (1 + growth) for metric, base in METRICS.items()}
    return {"codec": codec, "rate": rate, "measured_kbps": rate + 0.05, "loss": 0.0, **scores,
            **changes}  # fmt: skip


def saving(codec: str, metric: str, percent: float, width: float = 4.0) -> dict[str, Any]:
    nothing = math.isnan(percent)
    return {
        "codec": codec, "metric": metric, "percent": percent,
        "low": percent - width, "high": percent + width, "clips": 3,
        "from_quality": math.nan if nothing else 3.161, "to_quality": 4.128,
        "reason": "one rate only" if nothing else "",
    }  # fmt: skip


def evaluated(
    points: list[dict[str, Any]], savings: list[dict[str, Any]] | None = None, name: str = "nsvq"
) -> EvalResult:
    """Return a result with these summaries and nothing else."""
    rates = [{k: p[k] for k in ("codec", "rate", "loss", "measured_kbps")} for p in points]
    means = [
        {k: p[k] for k in ("codec", "rate", "loss")}
        | {"metric": m, "mean": p[m], "q05": 0.9 * p[m], "q95": 1.05 * p[m]}
        for p in points
        for m in (*METRICS, "visqol")
        if m in p
    ]
    empty = pd.DataFrame()
    saved = pd.DataFrame(savings or [])
    columns = ["codec", "rate", "loss", "metric", "mean", "q05", "q95"]
    return EvalResult(
        empty, empty, empty,
        pd.DataFrame(rates, columns=["codec", "rate", "loss", "measured_kbps"]),
        pd.DataFrame(means, columns=columns), empty, saved, RunInfo(name, None, tuple(METRICS)),
    )  # fmt: skip


def full_result(savings: list[dict[str, Any]] | None = None) -> EvalResult:
    others = {
        "opus": (RATES, 0.5), "evs": (RATES, 0.3), "lc3": (RATES[3:], 0.0),
        "speex": ((12.8, 16.8, 27.8), -0.5), "g722": ((48.0, 56.0, 64.0), 0.0),
        "amr-wb": ((8.85, 12.65, 23.85), 0.1), "new": ((6.0,), 0.2),
    }  # fmt: skip
    points = [point(codec, rate, q) for codec, (rates, q) in others.items() for rate in rates]
    return evaluated([*points, *(point("nsvq", rate, 1.0) for rate in RATES)], savings)


def draw(result: EvalResult, metric: str) -> list[Axes]:
    """Return the panels of a metric's figure."""
    points = curve_points(result)
    codecs = Codecs.of(list(result.rates.codec.unique()), result.info.name)
    return list(metric_figure(points, metric, codecs).axes)


def words(svg: Path) -> list[str]:
    """Return the texts of an SVG of matplotlib: paths, each with a comment that says it."""
    return re.findall(r"<!-- (.*?) -->", svg.read_text(encoding="utf-8"))


def test_display_names() -> None:
    assert display_name("nsvq") == "this codec"
    named = [display_name(codec) for codec in ("evs", "opus", "lc3", "speex", "g722", "amr-wb")]
    assert named == ["EVS", "Opus", "LC3", "Speex", "G.722", "AMR-WB"]
    assert display_name("something") == "something"
    assert display_name("new", "new") == "this codec"
    assert display_name("nsvq", "new") == "this codec (published)"


def test_all_figures_of_a_full_result(tmp_path: Path) -> None:
    saved = [
        saving(codec, metric, percent)
        for codec, percent in (("opus", 23.4), ("g722", math.nan), ("evs", -7.6), ("lc3", -412.0))
        for metric in ("estoi", "pesq_wb")
    ]
    result = full_result(saved)
    result.means.drop(result.means[result.means.metric == "psnr_db"].index, inplace=True)
    paths = write_plots(result, tmp_path / "new")
    names = ["rate_quality", "pesq_wb", "estoi", "rate_saved"]
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
    assert said.count("one rate only") == 2
    assert said.index("at equal PESQ") < said.index("at equal ESTOI")
    for text in ("+23 %", "−8 %", "−412 %", "3.16–4.13", "3.161–4.128", "vs G.722"):
        assert text in said


def test_equal_numbers_give_equal_files(tmp_path: Path) -> None:
    """Also when the user's settings of matplotlib differ, which stay as they are."""
    savings = [saving("opus", "pesq_wb", 12.0)]
    first = {p.name: p.read_bytes() for p in write_plots(evaluated([], savings), tmp_path / "a")}
    assert set(first) == {"rate_saved.png", "rate_saved.svg"}
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "yellow"}):
        again = {p.name: p.read_bytes() for p in write_plots(evaluated([], savings), tmp_path)}
        assert matplotlib.rcParams["font.size"] == 20
        assert matplotlib.rcParams["svg.hashsalt"] is None
    assert first == again


def test_curves_are_means_over_the_measured_rate_with_quantiles() -> None:
    result = full_result()
    axes, *small = draw(result, "psnr_db")
    lines = {line.get_label(): line for line in axes.lines}
    assert len(lines) == 8 and len(small) == 7  # all codecs; one small panel for each other
    means = result.means[result.means.metric == "psnr_db"]
    own = means[means.codec == "lc3"]
    np.testing.assert_allclose(lines["LC3"].get_xdata(), own.rate + 0.05)
    np.testing.assert_allclose(lines["LC3"].get_ydata(), own["mean"])
    ours = means[means.codec == "nsvq"]
    (band,) = axes.collections  # of many codecs, only ours has one
    extent = band.get_paths()[0].get_extents()
    assert (extent.x0, extent.x1) == pytest.approx((8.05, 32.05))
    assert (extent.y0, extent.y1) == pytest.approx((ours.q05.iloc[0], ours.q95.iloc[-1]))
    assert all(len(panel.collections) >= 2 for panel in small)
    # 64 kbit/s take no more room than they need: ours has half of the axis.
    assert axes.get_xscale() == "log"
    at = axes.transAxes.inverted().transform(axes.transData.transform([(8, 9), (32, 9)]))[:, 0]
    assert at[1] - at[0] > 0.5


def test_codecs_differ_in_colour_and_marker() -> None:
    axes = draw(full_result(), "estoi")[0]
    assert len({line.get_color() for line in axes.lines}) == 8
    assert len({line.get_marker() for line in axes.lines}) == 8
    alone = draw(evaluated([point("g722", 64.0)]), "estoi")[0]
    (same,) = (line for line in axes.lines if line.get_label() == "G.722")
    assert alone.lines[0].get_color() == same.get_color()


def test_ours_under_another_name_beside_an_earlier_run() -> None:
    axes = draw(evaluated([point("new", 8.0), point("nsvq", 8.0)], name="new"), "estoi")[0]
    ours, published = axes.lines
    assert ours.get_label() == "this codec" and ours.get_color() == plots._STYLES["nsvq"].color
    assert published.get_label() == "this codec (published)"
    assert published.get_color() != ours.get_color()


def test_rates_of_ours_are_labelled_first_and_none_twice() -> None:
    axes = draw(full_result(), "estoi")[0]
    ticks = [float(label.get_text()) for label in axes.get_xticklabels()]
    assert set(RATES) <= set(ticks)
    assert 12.65 not in ticks and 12.8 not in ticks and 64.0 in ticks


def test_two_others_share_a_panel_with_bands() -> None:
    points = [point(codec, rate) for codec in ("nsvq", "opus", "evs") for rate in (8.0, 16.0)]
    (axes,) = draw(evaluated(points), "pesq_wb")
    assert len(axes.collections) == 3


def test_points_without_numbers_are_left_out() -> None:
    nan = math.nan
    result = evaluated([
        point("nsvq", 8.0), point("nsvq", 13.2, estoi=nan), point("nsvq", 16.4, psnr_db=nan),
        point("nsvq", 24.4, measured_kbps=nan), point("nsvq", 32.0),
        point("opus", 16.0, estoi=nan, pesq_wb=nan, psnr_db=nan),
        point("nsvq", 32.0, loss=10.0),
    ])  # fmt: skip
    points = curve_points(result)
    assert set(points.codec) == {"nsvq"}
    (axes,) = draw(result, "psnr_db")
    assert list(axes.lines[0].get_xdata()) == [8.05, 13.25, 32.05]


def test_single_rates_are_points() -> None:
    result = evaluated([point("nsvq", 13.2), point("g722", 64.0)])
    (axes,) = draw(result, "pesq_wb")
    assert [len(line.get_xdata()) for line in axes.lines] == [1, 1]
    low, high = axes.get_xlim()
    assert low < 13.2 < 64.0 < high


def test_further_metrics_have_their_own_figure(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plots, "_save", lambda figure, stem, title: [stem])
    result = evaluated([point("nsvq", 8.0, visqol=4.0), point("nsvq", 16.0)])
    names = [path.name for path in write_plots(result, tmp_path)]
    assert names == ["rate_quality", "pesq_wb", "psnr_db", "estoi", "visqol"]
    points = curve_points(result)
    figure = overview_figure(points, ["pesq_wb", "estoi"], Codecs.of(["nsvq"], "nsvq"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["PESQ", "ESTOI"]


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert write_plots(evaluated([]), tmp_path) == []
    assert write_plots(evaluated([point("nsvq", 8.0, measured_kbps=math.nan)]), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"low": math.nan, "high": math.nan}, {"low": -900.0}])
def test_savings_without_an_interval_or_with_a_wide_one(changes: dict[str, float]) -> None:
    savings = pd.DataFrame([saving("opus", "pesq_wb", 20.0) | changes])
    (axes,) = plots.saving_figure(savings, "nsvq").axes
    assert "+20 %" in [text.get_text() for text in axes.texts]
    assert len(axes.collections) == (0 if math.isnan(changes["low"]) else 1)
    low, high = axes.get_xlim()
    assert -120 < low < 0 < 20 < high < 120


def test_unwritable_directory_leaves_old_files(tmp_path: Path) -> None:
    (tmp_path / "rate_saved.png").mkdir()  # in the way
    with pytest.raises((OSError, ValueError)):
        write_plots(evaluated([], [saving("opus", "pesq_wb", 1.0)]), tmp_path)
    assert not (tmp_path / "rate_saved.svg").exists()
