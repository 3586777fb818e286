"""Charts of curves and of bars: what is in them, and how they are drawn on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.svg import Box, Page, Point

FloatArray = NDArray[np.floating]
Limits = tuple[float, float]

INK, FAINT = "#333333", "#8a8a8a"
_AXIS, _GRID = "#999999", "#dddddd"
_TITLE_SIZE, _SMALL_SIZE = 12.0, 8.0
_TICK = 3.0  # length
_BAND, _BAND_OF_ONE = 0.18, 0.25  # opacity
_Y_TICKS = 8
_Y_STEPS = (1.0, 2.0, 5.0)
_BAR, _ABOVE = 0.3, 0.26  # in rows: height of a bar, and how far above its middle text stands

DASHES = {
    "solid": (),
    "dashed": (3.7, 1.6),
    "dashdot": (6.4, 1.6, 1.0, 1.6),
    "dotted": (1.0, 1.65),
}


class Style(NamedTuple):
    """How a codec is drawn."""

    color: str
    dashes: str
    marker: str


def nice_ticks(limits: Limits, count: int, steps: Sequence[float]) -> FloatArray:
    """Return at most `count` + 1 values within limits, a step apart: one of `steps` times 10^n."""
    low, high = limits
    least = (high - low) / count
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * s for s in (*steps, 10.0, 20.0) if power * s >= least * (1 - 1e-9))
    return step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)


def tick_labels(ticks: FloatArray) -> list[str]:
    """Return the values with as many decimals as they need, all the same."""
    exact = (n for n in range(9) if np.allclose(ticks, np.round(ticks, n), 0, 1e-9))
    digits = next(exact, 9)
    return [f"{tick:.{digits}f}".replace("-", "−") for tick in ticks + 0.0]


@dataclass
class Curve:
    """Points of a line; `low` and `high` are the ends of its band where it has one."""

    label: str
    style: Style
    x: FloatArray
    y: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None
    first: bool = False  # drawn above the others, and thicker
    scale: float = 1.0  # of line and markers


@dataclass
class CurvePanel:
    """Curves over a logarithmic axis."""

    title: str
    curves: list[Curve]
    x_ticks: list[float]
    x_limits: Limits
    y_limits: Limits
    note: str = ""  # at the right of the title
    x_label: str = ""
    small: bool = False
    with_y_labels: bool = True

    def place(self, box: Box, x: float, y: float) -> Point:
        """Return where on the page a point is."""
        (left, right), (low, high) = self.x_limits, self.y_limits
        along = math.log(x / left) / math.log(right / left)
        return box.left + along * box.width, box.bottom - (y - low) / (high - low) * box.height

    def draw(self, page: Page, box: Box) -> None:
        """Draw axes, bands, then lines; titles and tick labels stand around the box."""
        size = _SMALL_SIZE if self.small else 10.0
        ticks = nice_ticks(self.y_limits, _Y_TICKS, _Y_STEPS)
        for tick, label in zip(ticks, tick_labels(ticks), strict=True):
            y = self.place(box, self.x_limits[0], tick)[1]
            page.line([(box.left, y), (box.right, y)], _GRID, 0.8)
            page.line([(box.left - _TICK, y), (box.left, y)], INK, 0.8)
            if self.with_y_labels:
                page.text(label, (box.left - 6, y), size, INK, "end")
        for rate in self.x_ticks:
            x = self.place(box, rate, self.y_limits[0])[0]
            page.line([(x, box.bottom), (x, box.bottom + _TICK)], INK, 0.8)
            page.text(f"{rate:g}", (x, box.bottom + 6 + size / 2), size, INK, "middle")
        _title(page, box, self.title, 9.5 if self.small else _TITLE_SIZE, not self.small)
        page.text(self.note, (box.right, box.top - 9), 9, FAINT, "end")
        middle = (box.left + box.right) / 2
        page.text(self.x_label, (middle, box.bottom + 27), 10, INK, "middle")
        curves = sorted(self.curves, key=lambda curve: curve.first)
        for curve in curves:
            self._draw_band(page, box, curve)
        for curve in curves:
            self._draw_line(page, box, curve)
        corner = (box.left, box.bottom)
        page.line([(box.left, box.top), corner, (box.right, box.bottom)], _AXIS, 0.8)

    def _draw_band(self, page: Page, box: Box, curve: Curve) -> None:
        if curve.low is None or curve.high is None:
            return
        lower = [self.place(box, *at) for at in zip(curve.x, curve.low, strict=True)]
        upper = [self.place(box, *at) for at in zip(curve.x, curve.high, strict=True)]
        if len(lower) > 1:
            page.polygon(lower + upper[::-1], curve.style.color, _BAND, within=box)
        else:  # an area of no width would not show
            (x, bottom), (_, top) = lower[0], upper[0]
            corners = [(x - 4, top), (x + 4, top), (x + 4, bottom), (x - 4, bottom)]
            page.polygon(corners, curve.style.color, _BAND_OF_ONE, within=box)

    def _draw_line(self, page: Page, box: Box, curve: Curve) -> None:
        points = [self.place(box, *at) for at in zip(curve.x, curve.y, strict=True)]
        draw_sample(page, curve, points, box)


def draw_sample(page: Page, curve: Curve, points: list[Point], within: Box | None = None) -> None:
    """Draw a line with its markers, in a panel or in a legend."""
    color, dashes, marker = curve.style
    width = curve.scale * (2.6 if curve.first else 1.5)
    if len(points) > 1:
        page.line(points, color, width, DASHES[dashes], within)
    for point in points:
        page.marker(marker, point, curve.scale * (6.5 if curve.first else 6.0), color)


@dataclass
class Bar:
    """A value with its interval (NaN: none), or a reason why there is no value."""

    label: str
    color: str
    value: float
    low: float = math.nan
    high: float = math.nan
    value_text: str = ""
    range_text: str = ""
    reason: str = ""


@dataclass
class BarPanel:
    """Horizontal bars, one to a row, around zero."""

    title: str
    bars: list[Bar]
    limits: Limits
    unit: str = ""
    with_labels: bool = True

    def draw(self, page: Page, box: Box) -> None:
        """Draw the bars; their text stands above them, where there is always room."""
        low, high = self.limits
        row = box.height / len(self.bars)

        def place(value: float) -> float:
            return box.left + (min(max(value, low), high) - low) / (high - low) * box.width

        ticks = nice_ticks(self.limits, 4, (1.0, 2.0, 2.5, 5.0))
        for tick in ticks:
            x = place(tick)
            page.line([(x, box.top), (x, box.bottom)], _GRID, 0.8)
            page.line([(x, box.bottom), (x, box.bottom + _TICK)], INK, 0.8)
            page.text(signed(tick, self.unit), (x, box.bottom + 11), 10, INK, "middle")
        for number, bar in enumerate(self.bars):
            y = box.top + (number + 0.58) * row
            if self.with_labels:
                page.text(bar.label, (box.left - 8, y), 10, INK, "end")
            if math.isnan(bar.value):
                page.text(bar.reason, (place(0) + 5, y), 9, FAINT)
                continue
            left, right = sorted((place(0), place(bar.value)))
            page.area(Box(left, y - _BAR / 2 * row, right - left, _BAR * row), bar.color, 0.85)
            if not math.isnan(bar.low):
                page.line([(place(bar.low), y), (place(bar.high), y)], INK, 1.2)
            away, anchor = (3, "start") if bar.value >= 0 else (-3, "end")
            above = y - _ABOVE * row
            page.text(bar.value_text, (place(0) + away, above), 10, INK, anchor, bold=True)
            page.text(bar.range_text, (box.right, above), 8.5, FAINT, "end")
        page.line([(place(0), box.top), (place(0), box.bottom)], INK, 0.9)
        page.line([(box.left, box.bottom), (box.right, box.bottom)], _AXIS, 0.8)
        _title(page, box, self.title, _TITLE_SIZE, True)


def signed(value: float, unit: str = "") -> str:
    """Return a whole number with its sign, and its unit."""
    number = f"{value:+.0f}".replace("-", "−") if round(value) else "0"
    return f"{number} {unit}".rstrip()


def _title(page: Page, box: Box, title: str, size: float, bold: bool) -> None:
    page.text(title, (box.left, box.top - 9), size, INK, bold=bold)


@dataclass
class Figure:
    """Panels on a page, and below them what the curves are; sizes in points."""

    title: str
    width: float
    height: float
    panels: list[CurvePanel | BarPanel] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    legend: list[Curve] = field(default_factory=list)
    legend_columns: int = 1
    legend_title: str = ""

    def add(self, panel: CurvePanel | BarPanel, box: Box) -> None:
        """Put a panel on the page."""
        self.panels.append(panel)
        self.boxes.append(box)

    def page(self) -> Page:
        """Return the page with everything on it."""
        page = Page(self.width, self.height, self.title)
        for panel, box in zip(self.panels, self.boxes, strict=True):
            panel.draw(page, box)
        top = self.above_legend + 10
        page.text(self.legend_title, (self.width / 2, top), 9.5, INK, "middle")
        if self.legend:
            self._draw_legend(page, top + 16)
        return page

    @property
    def _legend_grid(self) -> tuple[int, float]:
        """Columns of the legend, as many as fit in the page, and the width of each."""
        step = 46 + 5.9 * max(len(curve.label) for curve in self.legend)
        fitting = int((self.width - 12) / step)
        return max(1, min(len(self.legend), self.legend_columns, fitting)), step

    @property
    def above_legend(self) -> float:
        """Height of what is above the legend and its title."""
        rows = -(-len(self.legend) // self._legend_grid[0]) if self.legend else 0
        return self.height - 22 - 15 * rows

    def _draw_legend(self, page: Page, top: float) -> None:
        columns, step = self._legend_grid
        left = (self.width - columns * step) / 2
        for number, curve in enumerate(self.legend):
            x, y = left + number % columns * step, top + number // columns * 15
            color, dashes, _ = curve.style
            page.line([(x, y), (x + 26, y)], color, 2.6 if curve.first else 1.5, DASHES[dashes])
            draw_sample(page, curve, [(x + 13, y)])
            page.text(curve.label, (x + 33, y), 9.5, INK)
