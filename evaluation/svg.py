"""A page to draw on, as SVG and, rendered by resvg, as PNG. Equal drawings are equal bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from typing import NamedTuple
from xml.etree import ElementTree

_FONTS = "DejaVu Sans, Verdana, sans-serif"  # the first two are equally wide
_DPI = 150  # of PNG
_POINTS_PER_INCH = 72
_BOLD = 0.045  # of the size: how much broader strokes are

Point = tuple[float, float]


class Box(NamedTuple):
    """A rectangle of the page, in points from its upper left corner."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Where it ends."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Where it ends."""
        return self.top + self.height


def _polygon(corners: int, radius: float = 1.0, inner: float | None = None) -> list[Point]:
    """Return a regular polygon, one corner up; with an inner radius a star."""
    count = corners if inner is None else 2 * corners
    return [
        (
            (inner if inner is not None and i % 2 else radius) * math.sin(2 * math.pi * i / count),
            -(inner if inner is not None and i % 2 else radius) * math.cos(2 * math.pi * i / count),
        )
        for i in range(count)
    ]


def _turned(points: Sequence[Point], degrees: float) -> list[Point]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(c * x - s * y, s * x + c * y) for x, y in points]


_A, _B = 0.4, 1.1  # half the width of the bars of a cross, and half their length
_CROSS = [
    (-_A, -_B), (_A, -_B), (_A, -_A), (_B, -_A), (_B, _A), (_A, _A),
    (_A, _B), (-_A, _B), (-_A, _A), (-_B, _A), (-_B, -_A), (-_A, -_A),
]  # fmt: skip
_TRIANGLE = [(0.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]

# Corners within a circle of radius 1 or so; a circle has none.
MARKERS: dict[str, list[Point]] = {
    "circle": [],
    "square": _turned(_polygon(4, 1.3), 45),
    "diamond": _polygon(4, 1.35),
    "thin diamond": [(0.0, -1.4), (0.85, 0.0), (0.0, 1.4), (-0.85, 0.0)],
    "up": _TRIANGLE,
    "right": _turned(_TRIANGLE, 90),
    "down": _turned(_TRIANGLE, 180),
    "left": _turned(_TRIANGLE, 270),
    "plus": _CROSS,
    "cross": _turned(_CROSS, 45),
    "star": _polygon(5, 1.4, 0.56),
    "pentagon": _polygon(5, 1.15),
    "hexagon": _polygon(6, 1.15),
}


class Page:
    """A white page of a size in points."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._root = ElementTree.Element(
            "svg",
            xmlns="http://www.w3.org/2000/svg",
            width=_number(width),
            height=_number(height),
            viewBox=f"0 0 {_number(width)} {_number(height)}",
        )
        ElementTree.SubElement(self._root, "title").text = title
        self._clips = 0
        self.area(Box(0, 0, width, height), "#ffffff")

    def area(self, box: Box, color: str, opacity: float = 1.0) -> None:
        """Fill a rectangle."""
        left, top, width, height = map(_number, box)
        self._add(
            "rect", x=left, y=top, width=width, height=height, fill=color,
            fill_opacity=_number(opacity),
        )  # fmt: skip

    def polygon(
        self, points: Iterable[Point], color: str, opacity: float = 1.0, within: Box | None = None
    ) -> None:
        """Fill a polygon, or what of it is within a rectangle."""
        self._add(
            "polygon", points=_list(points), fill=color, fill_opacity=_number(opacity),
            clip_path=self._clip(within),
        )  # fmt: skip

    def line(
        self,
        points: Iterable[Point],
        color: str,
        width: float = 1.0,
        dashes: Sequence[float] = (),
        within: Box | None = None,
    ) -> None:
        """Draw a line through points; dashes and gaps are in units of its width."""
        self._add(
            "polyline", points=_list(points), fill="none", stroke=color,
            stroke_width=_number(width), stroke_linejoin="round",
            stroke_dasharray=" ".join(_number(width * dash) for dash in dashes),
            clip_path=self._clip(within),
        )  # fmt: skip

    def marker(self, shape: str, at: Point, size: float, color: str) -> None:
        """Draw one of `MARKERS` with a thin white edge."""
        edge = {"fill": color, "stroke": "#ffffff", "stroke_width": _number(size / 11)}
        (x, y), radius = at, size / 2
        if corners := MARKERS[shape]:
            points = _list((x + radius * dx, y + radius * dy) for dx, dy in corners)
            self._add("polygon", points=points, **edge)
        else:
            self._add("circle", cx=_number(x), cy=_number(y), r=_number(radius), **edge)

    def text(
        self,
        text: str,
        at: Point,
        size: float,
        color: str,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Write a line of text, its middle at the height of a point.

        `anchor` says what of it is there: "start", "middle" or "end".
        """
        # The font has one weight.
        stroke = {"stroke": color, "stroke_width": _number(_BOLD * size)} if bold else {}
        self._add(
            "text", text, x=_number(at[0]), y=_number(at[1] + 0.36 * size), fill=color,
            font_family=_FONTS, font_size=_number(size), text_anchor=anchor,
            **stroke,
        )  # fmt: skip

    def _clip(self, box: Box | None) -> str:
        if box is None:
            return ""
        self._clips += 1
        name = f"clip{self._clips}"
        path = ElementTree.SubElement(self._root, "clipPath", id=name)
        left, top, width, height = map(_number, box)
        ElementTree.SubElement(path, "rect", x=left, y=top, width=width, height=height)
        return f"url(#{name})"

    def _add(self, kind: str, content: str | None = None, **attributes: str) -> None:
        given = {name.replace("_", "-"): value for name, value in attributes.items() if value}
        ElementTree.SubElement(self._root, kind, given).text = content

    def to_svg(self) -> bytes:
        """Return the page as SVG."""
        ElementTree.indent(self._root)
        return ElementTree.tostring(self._root, encoding="utf-8", xml_declaration=True) + b"\n"

    def to_png(self) -> bytes:
        """Return the page as PNG, 150 dots per inch, its text in DejaVu Sans."""
        import resvg_py

        with as_file(files("ziafont") / "fonts" / "DejaVuSans.ttf") as font:
            return resvg_py.svg_to_bytes(
                svg_string=self.to_svg().decode(),
                zoom=_DPI / _POINTS_PER_INCH,
                skip_system_fonts=True,  # what is installed must not change the picture
                font_files=[str(font)],
                sans_serif_family="DejaVu Sans",
            )


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _list(points: Iterable[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
