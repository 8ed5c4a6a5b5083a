"""What a side-by-side export run measured: totals, ratios, table and JSON. Arithmetic only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from pedsup.progress import human_bytes
from pedsup_maintain.exporting.disk_floor import Floor
from pedsup_maintain.exporting.usage import Usage

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True)
class StepResult:
    """One measured command.

    Attributes:
        result_bytes: bytes of the finished output (model and manifest) after the step.
    """

    name: str
    usage: Usage
    result_bytes: int

    @property
    def temp_disk(self) -> int:
        """Most bytes on the disk at one time beside the finished output."""
        return max(0, self.usage.peak_disk - self.result_bytes)


@dataclass(frozen=True)
class Total:
    """One pipeline from adapter to file. Seconds and bytes; peaks are of the worst step."""

    wall: float
    cpu: float
    peak_anon: int
    peak_total: int
    temp_disk: int
    written: int


@dataclass(frozen=True)
class Run:
    """The steps of one pipeline, run once one after the other."""

    steps: tuple[StepResult, ...]

    @property
    def total(self) -> Total:
        usages = [s.usage for s in self.steps]
        return Total(
            wall=sum(u.wall for u in usages),
            cpu=sum(u.cpu for u in usages),
            peak_anon=max(u.peak_anon for u in usages),
            peak_total=max(u.peak_total for u in usages),
            temp_disk=max(s.temp_disk for s in self.steps),
            written=sum(u.written for u in usages),
        )


@dataclass(frozen=True)
class Comparison:
    """All runs on one checkpoint.

    Attributes:
        made: sizes of the made checkpoint (`synthetic.sizes.describe`).
        cache: what left the page cache before each step ('inputs', 'all' or 'none').
        same_tensors: both results have the same tensors, shapes and types; None if not compared.
    """

    size: str
    made: dict[str, Any]
    quant: str
    threads: int
    cache: str
    machine: dict[str, Any]
    peer: tuple[Run, ...] = ()
    ours: tuple[Run, ...] = ()
    floors: tuple[Floor, ...] = ()
    same_tensors: bool | None = None
    notes: tuple[str, ...] = field(default=())


def combine(runs: Sequence[Run]) -> Total:
    """Several runs of one pipeline in one figure: median times, highest peaks."""
    totals = [run.total for run in runs]
    return Total(
        wall=median(t.wall for t in totals),
        cpu=median(t.cpu for t in totals),
        peak_anon=max(t.peak_anon for t in totals),
        peak_total=max(t.peak_total for t in totals),
        temp_disk=max(t.temp_disk for t in totals),
        written=max(t.written for t in totals),
    )


def ratios(comparison: Comparison) -> dict[str, float]:
    """Ours over the peer's, and ours over the floor; below 1 we take less.

    A ratio whose divisor is not there, or 0, is left out.
    """
    found: dict[str, float] = {}
    if not comparison.ours:
        return found
    ours = asdict(combine(comparison.ours))
    if comparison.peer:
        peer = asdict(combine(comparison.peer))
        found |= {name: ours[name] / peer[name] for name in ours if peer[name]}
    if comparison.floors and (floor := median(f.wall for f in comparison.floors)):
        found["wall_over_floor"] = ours["wall"] / floor
    return found


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The whole comparison as one JSON document; bytes and seconds."""
    sides: dict[str, Any] = {}
    for side in ("peer", "ours"):
        runs: tuple[Run, ...] = getattr(comparison, side)
        if runs:
            steps = [
                [{**asdict(s), "temp_disk": s.temp_disk} for s in run.steps] for run in runs
            ]  # fmt: skip
            sides[side] = {"runs": steps, "total": asdict(combine(runs))}
    head = {
        name: getattr(comparison, name)
        for name in ("size", "made", "quant", "threads", "cache", "machine", "same_tensors")
    }
    return {
        "benchmark": "export-peer",
        "schema_version": SCHEMA_VERSION,
        **head,
        "notes": list(comparison.notes),
        **sides,
        "floor": [{**asdict(f), "wall": f.wall} for f in comparison.floors],
        "ratios": ratios(comparison),
    }


COLUMNS: Final = ("step", "wall s", "cpu s", "peak anon", "peak total", "temp disk", "written")


def _row(name: str, total: Total) -> list[str]:
    return [
        name,
        f"{total.wall:.1f}",
        f"{total.cpu:.1f}",
        *(human_bytes(n) for n in (total.peak_anon, total.peak_total, total.temp_disk)),
        human_bytes(total.written),
    ]


def _side_rows(side: str, runs: Sequence[Run]) -> list[list[str]]:
    rows = []
    for number, step in enumerate(runs[0].steps):
        one = combine([Run((run.steps[number],)) for run in runs])
        rows.append(_row(f"{side}: {step.name}", one))
    if len(rows) > 1:
        rows.append(_row(f"{side} in all", combine(runs)))
    return rows


def table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """Plain text columns: the first one left, the others right."""
    widths = [max(len(r[i]) for r in [columns, *rows]) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        first: Callable[[str], str] = lambda text: text.ljust(widths[0])  # noqa: E731
        return "  ".join(
            first(c) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )

    return "\n".join([line(columns), "  ".join("-" * w for w in widths), *map(line, rows)])


def to_text(comparison: Comparison) -> str:
    """The table with its heading and the ratios below it."""
    made = comparison.made
    lines = [
        f"made Gemma 4 '{comparison.size}': {made['parameters'] / 1e9:.2f} B parameters, "
        f"{made['bytes'] / 1e9:.2f} GB in bf16, r16 adapter on all projections",
        f"{comparison.quant}, {comparison.threads} threads; dropped from the page cache before "
        f"each step: {comparison.cache}",
        "",
    ]
    rows = []
    for side in ("peer", "ours"):
        if runs := getattr(comparison, side):
            rows += _side_rows(side, runs)
    if comparison.floors:
        best = sorted(comparison.floors, key=lambda f: f.wall)[len(comparison.floors) // 2]
        parts = f"floor: read {best.read_s:.1f} s, write {best.write_s:.1f} s"
        rows.append([parts, f"{best.wall:.1f}", "", "", "", "", human_bytes(best.write_bytes)])
    lines.append(table(rows, COLUMNS))
    lines += ["", *_ratio_lines(comparison)]
    return "\n".join([*lines, *comparison.notes])


def _ratio_lines(comparison: Comparison) -> list[str]:
    found = ratios(comparison)
    floor = found.pop("wall_over_floor", None)
    lines = []
    if found:
        names = {"wall": "wall time", "cpu": "CPU time", "peak_anon": "peak anonymous memory",
                 "peak_total": "peak memory with mapped files", "temp_disk": "temporary disk",
                 "written": "bytes written"}  # fmt: skip
        figures = ", ".join(f"{names[n]} {value:.3f}" for n, value in found.items())
        lines.append(f"ours / peer: {figures}")
    if floor is not None:
        lines.append(f"ours / floor: wall time {floor:.2f}")
    return lines


def memory_rows(found: Sequence[tuple[str, int, Total]]) -> str:
    """The table of the memory comparison; rows of (size, bytes of the model, total)."""
    rows = [
        [size, human_bytes(n_bytes), human_bytes(t.peak_anon), human_bytes(t.peak_total),
         human_bytes(t.temp_disk), f"{t.wall:.1f}"]
        for size, n_bytes, t in found
    ]  # fmt: skip
    columns = ("size", "model", "peak anon", "peak total", "temp disk", "wall s")
    return table(rows, columns)
