"""The loss curves of several runs as one small SVG for the docs.

python -m pedsup_maintain.training.curves OUT.svg "NAME=ADAPTER-FOLDER" ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pedsup.errors import UsageError
from pedsup.optional import require
from pedsup_train.run.curves import BLUE, GREY, ORANGE, series

COLOURS = (BLUE, ORANGE, "#2e7d4f", GREY)


def smoothed(values: list[float], width: int = 5) -> list[float]:
    """The mean of the last `width` values at each place."""
    return [sum(values[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in
            range(len(values))]  # fmt: skip


def draw(out: Path, runs: dict[str, Path]) -> None:
    """Training loss (mean of five steps, thin) and held-out loss (dots) of each run."""
    settings = require("matplotlib", extra="train").rcParams
    settings["svg.hashsalt"], settings["svg.fonttype"] = "pedsup", "none"  # small, and the same
    figure = require("matplotlib.figure", extra="train").Figure((6.4, 3.4), layout="constrained")
    axis = figure.subplots()
    for colour, (name, folder) in zip(COLOURS, runs.items(), strict=False):
        lines = (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
        history = [json.loads(line) for line in lines]
        steps, loss = series(history, "loss")
        axis.plot(steps, smoothed(loss), color=colour, linewidth=0.8, alpha=0.6)
        axis.plot(*series(history, "eval_loss"), "o-", color=colour, linewidth=1.6, markersize=4,
                  label=f"{name}, held out")  # fmt: skip
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("loss (nats per answer token)")
    axis.legend(frameon=False)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


def main(arguments: list[str]) -> None:
    """Command line."""
    if len(arguments) < 2 or not all("=" in run for run in arguments[1:]):
        raise UsageError("nothing to draw", wanted="OUT.svg NAME=ADAPTER-FOLDER ...")
    pairs = (run.split("=", 1) for run in arguments[1:])
    draw(Path(arguments[0]), {name: Path(folder) for name, folder in pairs})


if __name__ == "__main__":
    main(sys.argv[1:])
