"""Figures as the tables and plots of a page show them."""

from __future__ import annotations

from pedsup_bench.report.svg import Bar

Z95 = 1.96


def number(value: float | None, form: str = ".4f") -> str:
    """A figure, or "not a number": the logits of a damaged model are not finite."""
    return "not a number" if value is None else format(value, form)


def share(value: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{value:.{digits}%}"


def interval(low_high: tuple[float, float]) -> str:
    """An interval of shares in percent."""
    return f"{low_high[0]:.1%} to {low_high[1]:.1%}"


def share_bar(
    name: str, value: float, low_high: tuple[float, float] | None = None, mark: float | None = None
) -> Bar:
    """A bar on a scale from 0 to 1."""
    return Bar(name, value, share(value), low_high, mark)


def value_bar(name: str, value: float | None, error: float | None, form: str = ".4f") -> Bar:
    """A bar with the 95 % interval of a mean; `error` is one standard error."""
    shown = value or 0.0
    span = (shown - Z95 * error, shown + Z95 * error) if error else None
    return Bar(name, shown, number(value, form), span)


def flattered(overlaps: list[str]) -> list[str]:
    """What to say of texts that the file was calibrated on."""
    return [f"Warning: {sentence}: figures on it flatter the file." for sentence in overlaps]
