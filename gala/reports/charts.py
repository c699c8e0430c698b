"""Line charts as SVG inside a page: they take its colours, light or dark, and stay readable on a narrow screen."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from gala.runs.units import number, short

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 12, 30
_LABEL_PX = 16
MOST_POINTS = 400
STYLE = """.chart { width: 100%; height: auto; background: var(--soft); border-radius: .3rem }
.chart text { font: 12px system-ui, sans-serif; fill: var(--ink) }
.chart .grid { stroke: var(--line); stroke-width: 1 }
.chart polyline, .chart circle { fill: none; stroke-width: 1.8; stroke: var(--first) }
.chart .second, .key.second { stroke: var(--second); color: var(--second) }
.chart .each { stroke: var(--open); stroke-width: .8; opacity: .7 }
.key { color: var(--first); white-space: nowrap } .key.each { color: var(--open) }
"""
Kind = Literal["first", "second", "each"]


class Line(NamedTuple):
    """One curve: ``points`` of (env_steps, value); a value of None is a gap."""

    label: str
    points: Sequence[tuple[float, float | None]]
    kind: Kind = "first"


def chart(title: str, lines: Sequence[Line], floor: float = -math.inf) -> str:
    """A figure of ``lines`` against env_steps, or an empty text where no line has a value.

    Args:
        floor: values below are drawn at it, so that a wild start does not flatten the rest.
    """
    cut = [_cut(line, floor) for line in lines]
    values = [y for line in cut for _, y in line.points if y is not None]
    if not values:
        return ""
    last = max(x for line in cut for x, _ in line.points) or 1.0
    low, high = _range(min(values), max(values))
    rows, columns = ticks(low, high), ticks(0.0, last)
    place = _Place(last, low, high)
    marks = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place.y(v):.1f}" y2="{place.y(v):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{place.y(v) + 4:.1f}" text-anchor="end">{_label(v, rows)}</text>'
        for v in rows
    ]
    marks.append(f'<text x="2" y="{HEIGHT - 10}">env_steps</text>')
    for v in columns[1:]:
        anchor = (
            "end" if place.x(v) > WIDTH - RIGHT - _LABEL_PX else "middle"
        )  # the last would stand out of the picture
        marks.append(f'<text x="{place.x(v):.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{short(v)}</text>')
    curves = "".join(_curve(line, place) for line in cut)
    keys = _keys(lines)
    note = f" (what is below {floor:g} is drawn there)" if min(values) <= floor else ""
    text = html.escape(f"{title}{note}")
    svg = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text}">{"".join(marks)}{curves}'
    return f"<figure>{svg}</svg><figcaption>{text}{keys}</figcaption></figure>"


def ticks(low: float, high: float, count: int = 3) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) in [low, high], about ``count`` to twice as many."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(factor * power for factor in (1, 2, 5) if factor * power <= rough * 1.001)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


class _Place(NamedTuple):
    """From data to the picture."""

    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.last

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)


def _range(low: float, high: float) -> tuple[float, float]:
    """With a margin, and never empty."""
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin


def _label(value: float, rows: Sequence[float]) -> str:
    """As many digits as tell neighbouring lines apart."""
    step = abs(rows[1] - rows[0]) if len(rows) > 1 else 0.0
    if abs(value) < 1e3 and 1e-3 <= step < 1 and abs(value) < 100:
        return f"{value:.{-math.floor(math.log10(step))}f}"
    return short(value) if value >= 1e4 else number(value)


def _cut(line: Line, floor: float) -> Line:
    """At most ``MOST_POINTS`` points, the last among them, none below ``floor``."""
    points = list(line.points)
    every = math.ceil(len(points) / MOST_POINTS) or 1
    kept = points[::every] + (points[-1:] if points and (len(points) - 1) % every else [])
    return line._replace(points=[(x, y if y is None else max(y, floor)) for x, y in kept])


def _curve(line: Line, place: _Place) -> str:
    """A polyline for each stretch without a gap; a stretch of one point is a dot."""
    stretches: list[list[str]] = [[]]
    for x, y in line.points:
        if y is None:
            stretches.append([])
        else:
            stretches[-1].append(f"{place.x(x):.1f},{place.y(y):.1f}")
    drawn = []
    for points in filter(None, stretches):
        left, top = points[0].split(",")
        alone = f'<circle class="{line.kind}" cx="{left}" cy="{top}" r="2"/>'
        drawn.append(alone if len(points) == 1 else f'<polyline class="{line.kind}" points="{" ".join(points)}"/>')
    return "".join(drawn)


def _keys(lines: Sequence[Line]) -> str:
    """What each colour is, where there is more than one."""
    named = {line.kind: line.label for line in lines if line.label}
    if len(named) < 2:
        return ""
    return "".join(f' <span class="key {kind}">&#9644; {html.escape(label)}</span>' for kind, label in named.items())
