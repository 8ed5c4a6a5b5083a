"""Plots as inline SVG: bars with their ceiling, and a line over time; no script, no file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 640
LABEL: Final = 190
BAR: Final = 22
GAP: Final = 10
INK, FILL, BOUND, FAINT = "#1f2933", "#2b6cb0", "#c05621", "#cbd2d9"


@dataclass(frozen=True)
class Bar:
    """One bar; `spread` draws a whisker, `ceiling` a mark."""

    label: str
    value: float
    text: str
    spread: float = 0.0
    ceiling: float | None = None


def bars(title: str, rows: Sequence[Bar]) -> str:
    """A horizontal bar chart on a scale from zero."""
    top = max([row.value + row.spread for row in rows] + [row.ceiling or 0 for row in rows])
    scale = (WIDTH - LABEL - 90) / top if top > 0 else 0.0
    height = len(rows) * (BAR + GAP) + GAP
    parts = []
    for i, row in enumerate(rows):
        y = GAP + i * (BAR + GAP)
        middle, end = y + BAR / 2, LABEL + row.value * scale
        parts.append(_text(LABEL - 8, middle, row.label, anchor="end"))
        parts.append(_rect(LABEL, y, row.value * scale, BAR, FILL))
        if row.spread:
            low, high = LABEL + max(0, row.value - row.spread) * scale, end + row.spread * scale
            parts.append(_line(low, middle, high, middle, INK, 2))
        if row.ceiling:
            x = LABEL + row.ceiling * scale
            parts.append(_line(x, y - 3, x, y + BAR + 3, BOUND, 3))
        parts.append(_text(max(end + row.spread * scale, end) + 6, middle, row.text))
    return _svg(title, height, parts)


def line(title: str, points: Sequence[tuple[float, float]], unit: str) -> str:
    """A line over seconds, from zero upwards."""
    height, left, bottom = 220, 60, 30
    last = max(x for x, _ in points) or 1.0
    top = max(y for _, y in points) * 1.1 or 1.0
    place = [
        (left + x / last * (WIDTH - left - 20), height - bottom - y / top * (height - bottom - 15))
        for x, y in points
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    base = height - bottom
    parts = [
        _line(left, base, WIDTH - 20, base, FAINT, 1),
        _line(left, 10, left, base, FAINT, 1),
        f'<polyline points="{path}" fill="none" stroke="{FILL}" stroke-width="2"/>',
        _text(left - 6, 16, f"{top:.0f}", anchor="end"),
        _text(left - 6, base, "0", anchor="end"),
        _text(WIDTH - 20, height - 10, f"{last:.0f} s", anchor="end"),
        _text(left + 6, 16, unit),
    ]
    return _svg(title, height, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'role="img" font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    size = f'width="{max(width, 0):.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{fill}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: int) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{stroke}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="middle" '
        f'fill="{INK}">{escape(text)}</text>'
    )
