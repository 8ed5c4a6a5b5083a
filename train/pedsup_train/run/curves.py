"""The log of a run as CSV and as one PNG with loss, gradient norm and learning rate."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from pedsup.optional import require

History: TypeAlias = Sequence[Mapping[str, float]]
"""Rows of a log; `FIELDS` are their keys."""
FIELDS: Final = ("step", "epoch", "loss", "eval_loss", "grad_norm", "learning_rate", "elapsed_s")
BLUE, ORANGE, GREY = "#1f5fa8", "#c8551b", "#6b6b6b"


def write_csv(path: Path, history: History) -> None:
    """One line per row of the log; fields that a row does not have stay empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(history)


def series(history: History, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one quantity."""
    rows = [row for row in history if key in row]
    return [int(row["step"]) for row in rows], [float(row[key]) for row in rows]


def write_png(path: Path, history: History, title: str) -> None:
    """Three panels over the optimizer steps; drawn without a display."""
    require("matplotlib", extra="train")
    figures = require("matplotlib.figure", extra="train")
    figure = figures.Figure(figsize=(7, 7.5), layout="constrained")
    loss, norm, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
    loss.plot(*series(history, "loss"), color=BLUE, linewidth=1.2, label="training")
    steps, values = series(history, "eval_loss")
    if steps:
        loss.plot(steps, values, "o-", color=ORANGE, linewidth=1.6, label="held out")
        loss.legend(frameon=False)
    norm.plot(*series(history, "grad_norm"), color=GREY, linewidth=1.2)
    rate.plot(*series(history, "learning_rate"), color=GREY, linewidth=1.2)
    loss.set_ylabel("loss (nats per token)")
    norm.set_ylabel("gradient norm")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("optimizer step")
    loss.set_title(title)
    for axis in (loss, norm, rate):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=0)
    figure.savefig(path, dpi=130)
