"""Plots as inline SVG: bars with their interval and a mark, a line over time; no script, no file.

The colours are those of a light page; each element has a class too, by which `report.page` gives
it another one in the dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from pedsup.texts.safe import clean, label

WIDTH: Final = 640
LABEL: Final = 215
BAR: Final = 22
GAP: Final = 10
MAX_LABEL: Final = 34
"""Characters that fit left of the bars."""
INK, FILL, BOUND, FAINT = "#1f2933", "#2b6cb0", "#c05621", "#cbd2d9"
_NAMES: Final = {INK: "ink", FILL: "fill", BOUND: "bound", FAINT: "faint"}


@dataclass(frozen=True)
class Bar:
    """One bar; `span` draws a whisker from its low to its high end, `mark` a line across."""

    label: str
    value: float
    text: str
    span: tuple[float, float] | None = None
    mark: float | None = None

    @property
    def ends(self) -> tuple[float, ...]:
        """All values that must fit on the scale."""
        return (self.value, *(self.span or ()), self.mark or 0.0)


def bars(title: str, rows: Sequence[Bar], *, top: float | None = None) -> str:
    """A horizontal bar chart on a scale from zero.

    Args:
        top: the end of the scale; by default the largest value.
    """
    top = top or max((end for row in rows for end in row.ends), default=0.0)
    scale = (WIDTH - LABEL - 90) / top if top > 0 else 0.0
    height = len(rows) * (BAR + GAP) + GAP
    parts = []
    for i, row in enumerate(rows):
        y = GAP + i * (BAR + GAP)
        middle, end = y + BAR / 2, LABEL + row.value * scale
        parts.append(_text(LABEL - 8, middle, _short(row.label), anchor="end"))
        parts.append(_rect(LABEL, y, row.value * scale, BAR, FILL))
        if row.span is not None:
            low, high = (LABEL + max(0.0, value) * scale for value in row.span)
            parts.append(_line(low, middle, high, middle, INK, 2))
            end = max(end, high)
        if row.mark:
            x = LABEL + row.mark * scale
            parts.append(_line(x, y - 3, x, y + BAR + 3, BOUND, 3))
        parts.append(_text(end + 6, middle, row.text))
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
        f'role="img" font-family="sans-serif" font-size="12"><title>{escape(label(title))}</title>'
        f'<rect class="paper" width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    size = f'width="{max(width, 0):.1f}" height="{height:.1f}"'
    return f'<rect{_class(fill)} x="{x:.1f}" y="{y:.1f}" {size} fill="{fill}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: int) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line{_class(stroke)} {ends} stroke="{stroke}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text{_class(INK)} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'dominant-baseline="middle" fill="{INK}">{escape(clean(text))}</text>'
    )


def _class(colour: str) -> str:
    return f' class="{_NAMES[colour]}"'


def _short(name: str) -> str:
    """A label, cut to the room there is: names come from files."""
    return name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "\u2026"
