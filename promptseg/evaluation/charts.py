"""Small line charts as SVG, without a plotting library, for a report that needs no other file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0b6fb8", "#d1495b", "#edae49", "#00798c", "#7a5195", "#5b8c5a", "#8d6a4f", "#444444")
"""Of the lines, in order; they repeat."""


Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line with an optional band around it.

    Attributes:
        name: in the legend.
        x: places.
        y: values; NaN leaves a gap.
        low: lower edge of the band; empty for none.
        high: upper edge.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class ChartFrame:
    """Axes of a chart: the vertical one goes from 0 to 1.

    Attributes:
        title: above.
        x_label: below.
        y_label: at the side.
        x_ticks: where numbers stand on the horizontal axis.
        has_diagonal: draw y = x.
        width: in pixels.
        height: in pixels, without the legend.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[float]
    has_diagonal: bool = False
    width: int = 430
    height: int = 300


_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 30, 42


def draw_chart(lines: Sequence[Line], frame: ChartFrame) -> str:
    """An SVG element.

    Args:
        lines: in the order of the legend.
        frame: axes.
    """
    first, last = min(frame.x_ticks), max(frame.x_ticks)
    across, down = frame.width - _LEFT - _RIGHT, frame.height - _TOP - _BOTTOM
    rows = math.ceil(len(lines) / 2)
    total = frame.height + 18 * rows + 4

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - first) / (last - first) if last > first else 0.5
        return _LEFT + share * across, _TOP + (1 - y) * down

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width} {total}" width="{frame.width}" '
        f'height="{total}" role="img" aria-label="{escape(frame.title)}">',
        f'<text x="{frame.width / 2}" y="18" class="t">{escape(frame.title)}</text>',
    ]
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = place(first, tick)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + across}" y2="{y:.1f}" class="g"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="y">{tick:g}</text>')
    for tick in frame.x_ticks:
        x, y = place(tick, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" class="x">{tick:g}</text>')
    middle = _TOP + down / 2
    parts.append(f'<text x="{_LEFT + across / 2}" y="{_TOP + down + 34}" class="x">{escape(frame.x_label)}</text>')
    parts.append(
        f'<text x="14" y="{middle}" class="x" transform="rotate(-90 14 {middle})">{escape(frame.y_label)}</text>'
    )
    if frame.has_diagonal:
        (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
        parts.append(f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" class="d"/>')
    for number, line in enumerate(lines):
        parts += _line(line, COLOURS[number % len(COLOURS)], place)
        x, y = _LEFT + (number % 2) * across / 2, frame.height + 14 + 18 * (number // 2)
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="{y - 9}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="{y}" class="l">{escape(line.name)}</text>')
    return "".join([*parts, "</svg>"])


def _line(line: Line, colour: str, place: Place) -> list[str]:
    parts = []
    if line.low and line.high:
        upper = [place(x, _clip(h)) for x, h in zip(line.x, line.high, strict=True) if math.isfinite(h)]
        lower = [place(x, _clip(w)) for x, w in zip(line.x, line.low, strict=True) if math.isfinite(w)]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *lower[::-1]])
        parts.append(f'<polygon points="{corners}" fill="{colour}" opacity="0.15"/>')
    points = [place(x, _clip(y)) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in points]
    return parts


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
