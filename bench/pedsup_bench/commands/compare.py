"""`pedsup-bench compare`: two runs, a verdict per figure, and an exit code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, TypedDict

import click

from pedsup.errors import BadFileError, MismatchError, UsageError
from pedsup.progress import say
from pedsup_bench.report import document, options
from pedsup_bench.report.errors import RegressionError
from pedsup_bench.speed.render import figure_name, quantity
from pedsup_bench.speed.result import SCHEMA as RUN_SCHEMA
from pedsup_bench.speed.result import Comparable, Figure, Unit
from pedsup_bench.stats import compare_samples

SCHEMA: Final = "pedsup-bench-compare/1"


class Change(TypedDict):
    """One figure of two runs."""

    unit: Unit
    before: float
    after: float
    ratio: float
    interval: tuple[float, float] | None
    """95 %; None for too few samples."""
    verdict: str


class CompareDocument(document.Head):
    """The document of `pedsup-bench compare`."""

    tolerance: float
    normalised: bool
    figures: dict[str, Change]


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--tolerance", default=0.05, show_default=True, help="Relative change to ignore.")
@click.option(
    "--normalise", is_flag=True,
    help="Divide speeds by the memory bandwidth of their own run: for a noisy or another machine.",
)  # fmt: skip
@options.OUT
@options.FORCE
@options.JSON
def compare(before: Path, after: Path, **given: Any) -> None:
    """Compare two documents of `pedsup-bench run`; exit code 12 if a figure is worse."""
    if not 0 <= given["tolerance"] < 1:  # NaN too, within which nothing is ever worse
        raise UsageError(
            f"a tolerance of {given['tolerance']}", wanted="a share from 0, below 1: 0.05 is 5 %"
        )
    first, second = (document.read(Comparable, path, RUN_SCHEMA) for path in (before, after))
    result = compare_documents(
        first, second, tolerance=given["tolerance"], normalise=given["normalise"]
    )
    options.save(result, given["out"], force=given["force"])
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    options.show(result, compare_table(result), as_json=given["as_json"])
    worse = [name for name, row in result["figures"].items() if row["verdict"] == "worse"]
    if worse:
        by = {n: f"{result['figures'][n]['ratio'] - 1:+.1%}" for n in worse}
        raise RegressionError(
            f"{len(worse)} of {len(result['figures'])} figures are worse",
            where=", ".join(f"{figure_name(n)} {by[n]}" for n in worse),
            wanted=f"changes within {given['tolerance']:.0%} and the noise",
        )


def compare_documents(
    first: Comparable, second: Comparable, *, tolerance: float, normalise: bool
) -> CompareDocument:
    """A verdict for every figure both have.

    Raises:
        MismatchError: they have none in common that can be compared.
    """
    common = [name for name in first["figures"] if name in second["figures"]]
    if not common:
        raise MismatchError("the two runs have no figure in common")
    rows: dict[str, Change] = {}
    for name in common:
        a, b = first["figures"][name], second["figures"][name]
        samples = [_scaled(d, f, normalise) for d, f in ((first, a), (second, b))]
        if not all(math.isfinite(value) for side in samples for value in side):
            raise BadFileError(
                f"the samples of {figure_name(name)} are not finite numbers",
                wanted="documents as `pedsup-bench run` writes them",
            )
        if min(map(min, samples)) <= 0:
            continue  # nothing was read from storage: no ratio to speak of
        found = compare_samples(
            *samples, higher_is_better=a["higher_is_better"], tolerance=tolerance
        )
        rows[name] = {
            "unit": a["unit"], "before": a["median"], "after": b["median"], "ratio": found.ratio,
            "interval": (found.low, found.high) if found.low > 0 else None,
            "verdict": found.verdict,
        }  # fmt: skip
    if not rows:
        raise MismatchError("none of the figures of the two runs is positive in both")
    return {
        **document.head(SCHEMA),
        "tolerance": tolerance,
        "normalised": normalise,
        "warnings": _warnings(first, second, normalise),
        "figures": rows,
    }


def _scaled(run: Comparable, figure: Figure, normalise: bool) -> list[float]:
    """Samples; speeds and times in units of the run's own memory bandwidth if asked for."""
    samples = list(figure["samples"])
    if not normalise or figure["unit"] == "B":
        return samples
    scale = run["bandwidth"]["best"] / 1e9
    power = -1 if figure["higher_is_better"] else 1
    return [value * scale**power for value in samples]


def _warnings(first: Comparable, second: Comparable, normalise: bool) -> list[str]:
    found = []
    if first["settings"] != second["settings"]:
        found.append("the two runs have different settings")
    if first["engine"] != second["engine"]:
        found.append("the two runs have different engines")
    if first["device"]["soc"] != second["device"]["soc"]:
        found.append("the two runs are from different processors")
    change = second["bandwidth"]["best"] / first["bandwidth"]["best"] - 1
    if abs(change) > 0.1 and not normalise:
        found.append(f"the memory bandwidth differs by {change:+.0%}: consider --normalise")
    return found


def compare_table(result: CompareDocument) -> str:
    """One row per figure."""
    rows = [["figure", "before", "after", "ratio", "95 % interval", "verdict"]]
    for name, row in result["figures"].items():
        interval = "too few samples"
        if row["interval"]:
            interval = f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}"
        rows.append([
            figure_name(name), quantity(row["before"], row["unit"]),
            quantity(row["after"], row["unit"]), f"{row['ratio']:.3f}", interval, row["verdict"],
        ])  # fmt: skip
    return options.table(rows)
