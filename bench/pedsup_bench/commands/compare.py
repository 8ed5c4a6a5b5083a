"""`pedsup-bench compare`: two runs, a verdict per figure, and an exit code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypedDict

import click

from pedsup.errors import BadFileError, MismatchError, PedsupError, UsageError
from pedsup.exit_codes import ExitCode
from pedsup.progress import say
from pedsup_bench.report import document, options
from pedsup_bench.speed.plan import MAX_LOADS, MAX_REPEATS
from pedsup_bench.speed.render import figure_name, quantity
from pedsup_bench.speed.result import SCHEMA as RUN_SCHEMA
from pedsup_bench.speed.result import Comparable, Figure, Unit
from pedsup_bench.stats import compare_samples

SCHEMA: Final = "pedsup-bench-compare/1"
TOO_FEW: Final = "too few samples"


class RegressionError(PedsupError):
    """A figure is worse than the one it was compared with, beyond the noise."""

    exit_code = ExitCode.REGRESSION


class Change(TypedDict):
    """One figure of two runs."""

    unit: Unit
    before: float
    after: float
    ratio: float
    interval: tuple[float, float] | None
    """95 %; None for too few samples."""
    verdict: str
    samples: tuple[int, int]
    """Before and after."""
    wanted: int | None
    """Samples that each side needs for a verdict, if there is none yet."""


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
@options.OUTPUTS
def compare(before: Path, after: Path, **given: Any) -> None:
    """Compare two documents of `pedsup-bench run`; exit code 12 if a figure is worse."""
    if not 0 <= given["tolerance"] < 1:  # refuses NaN too: nothing is ever worse within it
        raise UsageError(
            f"a tolerance of {given['tolerance']}", wanted="a share from 0, below 1: 0.05 is 5 %"
        )
    first, second = (document.read(Comparable, path, RUN_SCHEMA) for path in (before, after))
    result = compare_documents(
        first, second, tolerance=given["tolerance"], normalise=given["normalise"]
    )
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    options.put_out(result, compare_table(result), given)
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
    """A verdict for every figure that both have.

    Raises:
        MismatchError: they have no comparable figure in common.
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
            "verdict": found.verdict, "samples": (a["n"], b["n"]), "wanted": found.wanted,
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
    """One row per figure, then what is needed for those without a verdict."""
    rows = [["figure", "before", "after", "ratio", "95 % interval", "verdict"]]
    for name, row in result["figures"].items():
        interval = ""
        if row["interval"]:
            interval = f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}"
        rows.append([
            figure_name(name), quantity(row["before"], row["unit"]),
            quantity(row["after"], row["unit"]), f"{row['ratio']:.3f}", interval,
            "" if row["verdict"] == TOO_FEW else row["verdict"],
        ])  # fmt: skip
    return "\n".join([options.table(rows), *needs(result)])


def needs(result: CompareDocument) -> list[str]:
    """How many more samples figures without a verdict need, in a sentence for each kind."""
    lines = []
    few = {n: row for n, row in result["figures"].items() if row["verdict"] == TOO_FEW}
    if few:
        least = [min(row["samples"][i] for row in few.values()) for i in (0, 1)]
        wanted = max(row["wanted"] or 0 for row in few.values())
        missing = [max(0, wanted - n) for n in least]
        lines.append(
            f"No verdict for {len(few)} of {len(result['figures'])} figures: each needs {wanted} "
            f"samples in both runs, that is up to {missing[0]} more before and {missing[1]} more "
            f"after. Measure again with {_options(few, wanted)}, without --quick."
        )
    unclear = {n: row for n, row in result["figures"].items() if row["verdict"] == "unclear"}
    for name, row in unclear.items():
        lines.append(
            f"{figure_name(name)}: about {row['wanted']} samples in both runs would be clear "
            f"({_options({name: row}, row['wanted'])})"
            if row["wanted"] and row["wanted"] <= _most(row)
            else f"{figure_name(name)}: more than {_most(row)} samples would be needed; measure on "
            "a quiet machine, or give a larger --tolerance"
        )
    return lines


def _most(row: Change) -> int:
    """How many samples `run` can take of such a figure."""
    return MAX_REPEATS if row["unit"] == "tokens/s" else MAX_LOADS


def _options(figures: Mapping[str, Change], n: int) -> str:
    """The options of `run` that decide how many samples these figures have."""
    speeds = [row["unit"] == "tokens/s" for row in figures.values()]
    found = (["--repeats"] if any(speeds) else []) + (["--loads"] if not all(speeds) else [])
    return " ".join(f"{option} {n}" for option in found)
