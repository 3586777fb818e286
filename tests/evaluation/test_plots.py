"""The plots of an evaluation: what is drawn, what is left out, and that equal is equal."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from evaluation import plots, summary
from evaluation.arrays import distinct, make_table
from evaluation.charts import (
    DASHES,
    Curve,
    CurvePanel,
    Figure,
    Style,
    nice_ticks,
    tick_labels,
)
from evaluation.plots import Codecs, curve_points, metric_figure, overview_figure, write_plots
from evaluation.results import EvalResult, RunInfo
from evaluation.svg import MARKERS, Box
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
        "low": percent - width, "high": percent + width,
        "from_quality": math.nan if nothing else 3.161, "to_quality": 4.128, "clips": 3,
        "reason": "one rate only" if nothing else "",
    }  # fmt: skip


def evaluated(
    points: list[dict[str, Any]], savings: list[dict[str, Any]] | None = None, name: str = "nsvq"
) -> EvalResult:
    """Return a result with these summaries and nothing else."""
    rates = [
        (p["codec"], p["rate"], p["loss"], p["measured_kbps"], *[math.nan] * 3, 1, 0, False)
        for p in points
    ]
    means = [
        (p["codec"], p["rate"], p["loss"], m, p[m], p[m], p[m], 0.9 * p[m], 1.05 * p[m])
        for p in points
        for m in (*METRICS, "visqol")
        if m in p
    ]
    empty = make_table({"codec": "O"})
    return EvalResult(
        (), empty,
        make_table(summary.RATE_COLUMNS, rates), make_table(summary.MEAN_COLUMNS, means),
        empty, saved_table(savings or []), RunInfo(name, None, tuple(METRICS)),
    )  # fmt: skip


def saved_table(savings: list[dict[str, Any]]) -> Any:
    return make_table(summary.SAVED_COLUMNS, [row.values() for row in savings])


def full_result(savings: list[dict[str, Any]] | None = None) -> EvalResult:
    others = {
        "opus": (RATES, 0.5), "evs": (RATES, 0.3), "lc3": (RATES[3:], 0.0),
        "speex": ((12.8, 16.8, 27.8), -0.5), "g722": ((48.0, 56.0, 64.0), 0.0),
        "amr-wb": ((8.85, 12.65, 23.85), 0.1), "new": ((6.0,), 0.2),
    }  # fmt: skip
    points = [point(codec, rate, q) for codec, (rates, q) in others.items() for rate in rates]
    return evaluated([*points, *(point("nsvq", rate, 1.0) for rate in RATES)], savings)


def draw(result: EvalResult, metric: str) -> list[CurvePanel]:
    """Return the panels of a metric's figure."""
    points = curve_points(result)
    codecs = Codecs.of(distinct(result.rates.codec), result.info.name)
    return metric_figure(points, metric, codecs).panels  # type: ignore[return-value]


def words(svg: Path) -> list[str]:
    """Return the texts of an SVG."""
    root = ElementTree.parse(svg).getroot()
    return [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]


def pixels(png: Path) -> np.ndarray:
    """Return the picture of a PNG, uint8, shape [height, width, 3]."""
    image = pytest.importorskip("PIL.Image", reason="pip install '.[experiments]' brings it")
    with image.open(png) as picture:
        return np.asarray(picture.convert("RGB"))


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
    result = replace(result, means=result.means[result.means.metric != "psnr_db"])
    paths = write_plots(result, tmp_path / "new")
    names = ["rate_quality", "pesq_wb", "estoi", "rate_saved"]
    expected = [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    assert [path.name for path in paths] == expected
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(expected)
    for path in paths[::2]:
        image = pixels(path)
        height, width = image.shape[:2]
        assert width > 900 and height > 400
        assert 0.01 < np.mean(image.min(axis=-1) < 230) < 0.5  # ink, but no slab
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
    savings = [saving("opus", "pesq_wb", 12.0)]
    first = {p.name: p.read_bytes() for p in write_plots(evaluated([], savings), tmp_path / "a")}
    assert set(first) == {"rate_saved.png", "rate_saved.svg"}
    again = {p.name: p.read_bytes() for p in write_plots(evaluated([], savings), tmp_path)}
    assert first == again


def test_pictures_have_text_without_fonts_of_the_system(tmp_path: Path) -> None:
    write_plots(evaluated([], [saving("opus", "pesq_wb", 12.0)]), tmp_path)
    picture = pixels(tmp_path / "rate_saved.png")
    height, width = picture.shape[:2]
    below = picture[-height // 12 :, width // 3 : -width // 3]  # what the axis is
    assert 0.02 < np.mean(below[..., 0] < 128) < 0.3


def test_curves_are_means_over_the_measured_rate_with_quantiles() -> None:
    result = full_result()
    panel, *small = draw(result, "psnr_db")
    curves = {curve.label: curve for curve in panel.curves}
    assert len(curves) == 8 and len(small) == 7  # all codecs; one small panel for each other
    means = result.means[result.means.metric == "psnr_db"]
    own = means[means.codec == "lc3"]
    np.testing.assert_allclose(curves["LC3"].x, own.rate + 0.05)
    np.testing.assert_allclose(curves["LC3"].y, own["mean"])
    ours = means[means.codec == "nsvq"]
    (band,) = (curve for curve in panel.curves if curve.low is not None)  # only ours has one
    assert band.label == "this codec"
    np.testing.assert_allclose(band.x, np.array(RATES) + 0.05)
    np.testing.assert_allclose([band.low, band.high], [ours.q05, ours.q95])
    assert panel.y_limits[0] < ours.q05.min() and ours.q95.max() < panel.y_limits[1]
    for other in small:
        assert [curve.low is None for curve in other.curves] == [False, False]
        assert other.y_limits == panel.y_limits
    # 64 kbit/s take no more room than they need: ours has half of the axis.
    box = Box(0, 0, 1, 1)
    assert panel.place(box, 32, 9)[0] - panel.place(box, 8, 9)[0] > 0.5


def test_points_are_drawn_where_their_numbers_are(tmp_path: Path) -> None:
    """A line of the SVG, against the axis: marks at 8 and 16 kbit/s, grid lines at round scores."""
    points = [point("nsvq", rate, measured_kbps=rate, pesq_wb=q) for rate, q in ((8, 3), (16, 4))]
    write_plots(evaluated(points), tmp_path)
    root = ElementTree.parse(tmp_path / "pesq_wb.svg").getroot()
    at = {
        text.text: (float(text.get("x", 0)), float(text.get("y", 0)))
        for text in root.iter("{http://www.w3.org/2000/svg}text")
    }
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    first, second = ([float(c.get(name, 0)) for name in ("cx", "cy")] for c in circles[:2])
    assert (first[0], second[0]) == pytest.approx((at["8"][0], at["16"][0]), abs=0.01)
    low, high = (at[text][1] - 3.6 for text in ("3.0", "4.0"))  # text hangs below its middle
    assert (first[1], second[1]) == pytest.approx((low, high), abs=0.01)


@pytest.mark.parametrize(
    "limits, expected",
    [
        ((0.85, 1.003), ["0.86", "0.88", "0.90", "0.92", "0.94", "0.96", "0.98", "1.00"]),
        ((-4.1, 19.0), ["0", "5", "10", "15"]),
        ((7.0, 15.2), ["8", "10", "12", "14"]),
        ((-0.2, 0.2), ["−0.20", "−0.15", "−0.10", "−0.05", "0.00", "0.05", "0.10", "0.15", "0.20"]),
    ],
)
def test_ticks_are_round_numbers(limits: tuple[float, float], expected: list[str]) -> None:
    assert tick_labels(nice_ticks(limits, 8, (1, 2, 5))) == expected


def test_codecs_differ_in_colour_and_marker() -> None:
    panel = draw(full_result(), "estoi")[0]
    assert len({curve.style.color for curve in panel.curves}) == 8
    assert len({curve.style.marker for curve in panel.curves}) == 8
    (alone,) = draw(evaluated([point("g722", 64.0)]), "estoi")[0].curves
    (same,) = (curve for curve in panel.curves if curve.label == "G.722")
    assert alone.style == same.style


def test_every_style_can_be_drawn() -> None:
    styles = [*plots._STYLES.values(), *plots._SPARE_STYLES]
    assert {style.dashes for style in styles} <= set(DASHES)
    assert {style.marker for style in styles} <= set(MARKERS)
    assert len({style.marker for style in styles}) == len(styles) == len(MARKERS)


def test_ours_under_another_name_beside_an_earlier_run() -> None:
    panel = draw(evaluated([point("new", 8.0), point("nsvq", 8.0)], name="new"), "estoi")[0]
    ours, published = panel.curves
    assert ours.label == "this codec" and ours.style == plots._STYLES["nsvq"]
    assert published.label == "this codec (published)"
    assert published.style.color != ours.style.color


def test_rates_of_ours_are_labelled_first_and_none_twice() -> None:
    ticks = draw(full_result(), "estoi")[0].x_ticks
    assert set(RATES) <= set(ticks)
    assert 12.65 not in ticks and 12.8 not in ticks and 64.0 in ticks


def test_two_others_share_a_panel_with_bands() -> None:
    points = [point(codec, rate) for codec in ("nsvq", "opus", "evs") for rate in (8.0, 16.0)]
    (panel,) = draw(evaluated(points), "pesq_wb")
    assert all(curve.low is not None for curve in panel.curves) and len(panel.curves) == 3


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
    (panel,) = draw(result, "psnr_db")
    assert panel.curves[0].x.tolist() == [8.05, 13.25, 32.05]


def test_single_rates_are_points() -> None:
    result = evaluated([point("nsvq", 13.2), point("g722", 64.0)])
    (panel,) = draw(result, "pesq_wb")
    assert [len(curve.x) for curve in panel.curves] == [1, 1]
    low, high = panel.x_limits
    assert low < 13.2 < 64.0 < high


def test_further_metrics_have_their_own_figure(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plots, "_save", lambda figure, stem: [stem])
    result = evaluated([point("nsvq", 8.0, visqol=4.0), point("nsvq", 16.0)])
    names = [path.name for path in write_plots(result, tmp_path)]
    assert names == ["rate_quality", "pesq_wb", "psnr_db", "estoi", "visqol"]
    points = curve_points(result)
    figure = overview_figure(points, ["pesq_wb", "estoi"], Codecs.of(["nsvq"], "nsvq"))
    assert [panel.title for panel in figure.panels] == ["PESQ", "ESTOI"]


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert write_plots(evaluated([]), tmp_path) == []
    assert write_plots(evaluated([point("nsvq", 8.0, measured_kbps=math.nan)]), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"low": math.nan, "high": math.nan}, {"low": -900.0}])
def test_savings_without_an_interval_or_with_a_wide_one(changes: dict[str, float]) -> None:
    (panel,) = plots.saving_figure(
        saved_table([saving("opus", "pesq_wb", 20.0) | changes]), "nsvq"
    ).panels
    (bar,) = panel.bars
    assert bar.value_text == "+20 %"
    assert math.isnan(bar.low) == math.isnan(changes["low"])
    low, high = panel.limits
    assert -120 < low < 0 < 20 < high < 120


def test_unwritable_directory_leaves_old_files(tmp_path: Path) -> None:
    (tmp_path / "rate_saved.png").mkdir()  # in the way
    with pytest.raises((OSError, ValueError)):
        write_plots(evaluated([], [saving("opus", "pesq_wb", 1.0)]), tmp_path)
    assert not (tmp_path / "rate_saved.svg").exists()


def test_a_legend_stays_on_its_page() -> None:
    """However many codecs there are, and however long their names."""
    nothing = np.zeros(0)
    for count in (1, 5, 11, 30):
        curves = [
            Curve(
                f"Opus 1.6.1, NoLACE, wideband {n}",
                Style("#000000", "solid", "circle"),
                nothing,
                nothing,
            )
            for n in range(count)
        ]
        figure = Figure("many", 600.0, 400.0, legend=curves, legend_columns=10)
        root = ElementTree.fromstring(figure.page().to_svg())
        places = [
            (float(text.get("x", "nan")), float(text.get("y", "nan")))
            for text in root.iter("{http://www.w3.org/2000/svg}text")
            if "NoLACE" in "".join(text.itertext())
        ]
        assert len(set(places)) == count
        assert all(0 < x < 600 - 100 and 0 < y < 400 for x, y in places)
