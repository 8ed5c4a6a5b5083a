"""`make frontier`: size against KL divergence, ours and llama.cpp's files of one model.

    PYTHONPATH=tools python -m pedsup_maintain.frontier --base FOLDER \
      --folder out/frontier --calibrate-on FILE --judge-on en=FILE --judge-on es=FILE

Every file is made from one merge in 16 bits and judged by llama.cpp against it, on texts that the
statistics were not made of. `llama-quantize` gets the same statistics as its importance matrix.
A file that is there is used again: give a new folder for another model.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Any, Final

import click

from pedsup.cli.border import border
from pedsup.errors import EngineError, MissingDependencyError
from pedsup.files.fsio import atomic_file
from pedsup.progress import say
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_bench.quality.measure import QualityPlan, measure
from pedsup_bench.quality.summary import summarize
from pedsup_bench.report import document
from pedsup_bench.report.texts import parse_texts
from pedsup_export.calibration import store
from pedsup_tools.llama_cpp_programs import BIN

SCHEMA: Final = "pedsup-frontier/1"
TYPES: Final = ("Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K")
SHARES: Final = (0.82, 0.88)
"""Of Q4_K_M's size: budgets between the types."""
PLAIN, IMATRIX = "llama-quantize", "llama-quantize --imatrix"
CALIBRATED, BUDGET = "--calibrated", "--calibrated --budget"
SERIES: Final = {
    PLAIN: "#8a8f98", IMATRIX: "#c05621", CALIBRATED: "#2b6cb0", BUDGET: "#276749",
}  # fmt: skip
"""Series and their colours."""


@dataclass(frozen=True)
class FrontierPlan:
    """What to make and what to judge it on."""

    base: Path
    folder: Path
    calibrate_on: tuple[Path, ...]
    judge_on: tuple[str, ...]
    adapter: Path | None = None
    types: tuple[str, ...] = TYPES
    n_windows: int | None = None
    n_chunks: int | None = None
    n_threads: int = 2


@dataclass(frozen=True)
class Point:
    """One file."""

    series: str
    label: str
    size: int
    predicted_kl: float | None
    figures: dict[str, dict[str, Any]]
    """Text -> figures."""


def run(plan: FrontierPlan) -> dict[str, Any]:
    """Make every file and judge it."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    reference = exported(plan, "reference", "--quant", "BF16")
    statistics = calibrated(plan, reference)
    points = [judged(plan, reference, *made) for made in files(plan, reference, statistics)]
    record = store.read(statistics).record
    return {
        **document.head(SCHEMA),
        "base": plan.base.name,
        "adapter": plan.adapter and plan.adapter.name,
        "calibrated_on": {"tokens": record.tokens, "texts": [t["name"] for t in record.texts]},
        "judged_on": {t.name: t.sha256 for t in parse_texts(plan.judge_on)},
        "points": [vars(point) for point in points],
    }


def files(plan: FrontierPlan, reference: Path, statistics: Path) -> Iterator[tuple[str, str, Path]]:
    """Series, label and path of each file, made when asked for."""
    for kind in plan.types:
        yield PLAIN, kind, quantized(plan, reference, kind)
        yield IMATRIX, kind, quantized(plan, reference, kind, "--imatrix", statistics)
        yield (
            CALIBRATED,
            kind,
            exported(plan, f"calibrated-{kind}", "--quant", kind, "--calibrated", statistics),
        )
    usual = plan.folder / "plain-Q4_K_M.gguf"
    sizes = {kind: kind for kind in plan.types}
    if usual.is_file():
        size = usual.stat().st_size
        sizes |= {f"{share:.0%} of Q4_K_M": str(int(share * size)) for share in SHARES}
    for label, budget in sizes.items():
        name = f"budget-{budget}"
        yield BUDGET, label, exported(plan, name, "--calibrated", statistics, "--budget", budget)


def exported(plan: FrontierPlan, name: str, *options: str | Path) -> Path:
    """A file of our exporter."""
    out = plan.folder / f"{name}.gguf"
    adapter = ("--adapter", plan.adapter) if plan.adapter else ()
    if not out.is_file():
        _call(sys.executable, "-m", "pedsup_export", "run", "--base", plan.base, *adapter,
              "--out", out, "--threads", plan.n_threads, *options)  # fmt: skip
    return out


def calibrated(plan: FrontierPlan, reference: Path) -> Path:
    """Statistics of the reference; text that it is judged on is refused."""
    out = plan.folder / "statistics.gguf"
    texts = [word for path in plan.calibrate_on for word in ("--text", path)]
    judged_on = [word for t in plan.judge_on for word in ("--judged-on", t.rpartition("=")[2])]
    windows = ("--windows", plan.n_windows) if plan.n_windows else ()
    if not out.is_file():
        _call(sys.executable, "-m", "pedsup_export", "calibrate", reference, "--out", out,
              "--threads", plan.n_threads, *texts, *judged_on, *windows)  # fmt: skip
    return out


def quantized(plan: FrontierPlan, reference: Path, kind: str, *options: str | Path) -> Path:
    """A file of llama-quantize."""
    program = BIN / "llama-quantize"
    if not program.is_file():
        raise MissingDependencyError("llama.cpp's programs are not built", remedy="make native")
    out = plan.folder / f"{'imatrix' if options else 'plain'}-{kind}.gguf"
    if not out.is_file():
        _call(program, *options, reference, out, kind, plan.n_threads)
    return out


def judged(plan: FrontierPlan, reference: Path, series: str, label: str, path: Path) -> Point:
    """KL, flips and the rest, by llama.cpp."""
    say(f"{series} {label}: {path.stat().st_size} bytes")
    quality = QualityPlan(
        path, reference, parse_texts(plan.judge_on), n_chunks=plan.n_chunks,
        n_threads=plan.n_threads, logits_folder=plan.folder / "logits",
    )  # fmt: skip
    figures = {name: asdict(summarize(tokens)) for name, tokens in measure(quality).items()}
    beside = manifest_path(path)
    calibrated = read_manifest(beside).recipe.get("calibrated") if beside.is_file() else None
    predicted = calibrated.get("predicted_kl") if isinstance(calibrated, dict) else None
    return Point(series, label, path.stat().st_size, predicted, figures)


def _call(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise EngineError(f"{Path(str(command[0])).name} ended with code {done.returncode}",
                          where="see its message above")  # fmt: skip


# ---- what is shown ----------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    """A table, one row per file: mean KL and flips on each text."""
    texts = [*result["judged_on"]]
    lines = [
        "| file | type or budget | bytes | " + " | ".join(texts) + " |",
        "|---|---|---:|" + "---:|" * len(texts),
    ]
    for point in sorted(result["points"], key=lambda p: (-p["size"], [*SERIES].index(p["series"]))):
        cells = [
            f"{f['kld']['mean']:.4f}, {1 - f['same_top']:.1%}"
            for f in (point["figures"][text] for text in texts)
        ]
        size = f"{point['size']:,}".replace(",", " ")
        lines.append(f"| `{point['series']}` | {point['label']} | {size} | {' | '.join(cells)} |")
    n = result["points"][0]["figures"][texts[0]]["n_tokens"]
    return (
        f"Mean KL (nats per token) against the BF16 file, and the share of places with another top "
        f"token. {n} scored positions of each text. Statistics: "
        f"{result['calibrated_on']['tokens']} tokens of other text.\n\n" + "\n".join(lines) + "\n"
    )


PANEL, HEIGHT, LEFT, TOP, BOTTOM = 400, 330, 56, 34, 58


def plot(result: dict[str, Any]) -> str:
    """Size against mean KL, one panel per text, as a stand-alone SVG."""
    texts, points = [*result["judged_on"]], result["points"]
    kl = [f["kld"]["mean"] for p in points for f in p["figures"].values()]
    sizes = [p["size"] / 1e6 for p in points]
    box = (min(sizes) * 0.97, max(sizes) * 1.03, floor(log10(min(kl))), ceil(log10(max(kl))))
    parts = [_panel(points, text, i * PANEL, box) for i, text in enumerate(texts)]
    width = PANEL * len(texts)
    for i, (name, colour) in enumerate(SERIES.items()):
        x = LEFT + i % 4 * (width - LEFT) / 4
        parts.append(f'<circle cx="{x:.0f}" cy="{HEIGHT - 10}" r="4" fill="{colour}"/>')
        parts.append(_text(x + 9, HEIGHT - 6, name))
    title = f"{result['base']}: size against KL divergence"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _panel(
    points: Sequence[dict[str, Any]], text: str, offset: float, box: tuple[float, float, int, int]
) -> str:
    low, high, bottom, top = box

    def x(size: float) -> float:
        return offset + LEFT + (size - low) / (high - low) * (PANEL - LEFT - 16)

    def y(kl: float) -> float:
        return TOP + (top - log10(kl)) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    parts = [_text(offset + PANEL / 2, 18, f"{text}: mean KL (nats) by size (MB)", "middle")]
    for power in range(bottom, top + 1):
        for step in (1, 2, 5):
            value = step * 10.0**power
            if value <= 10.0**top:
                parts.append(_line(x(low), y(value), x(high), y(value)))
                parts.append(_text(x(low) - 5, y(value) + 4, f"{value:g}", "end"))
    step = max(1, round((high - low) / 5))
    for size in range(ceil(low / step) * step, floor(high) + 1, step):
        parts.append(_line(x(size), y(10.0**bottom), x(size), y(10.0**top)))
        parts.append(_text(x(size), HEIGHT - BOTTOM + 15, str(size), "middle"))
    for name, colour in SERIES.items():
        own = sorted(
            (p["size"] / 1e6, p["figures"][text]["kld"]["mean"])
            for p in points if p["series"] == name
        )  # fmt: skip
        path = " ".join(f"{x(s):.1f},{y(k):.1f}" for s, k in own)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        parts += [f'<circle cx="{x(s):.1f}" cy="{y(k):.1f}" r="3.5" fill="{colour}"/>'
                  for s, k in own]  # fmt: skip
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="#e2e6ea"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="#1f2933">{escape(text)}</text>'


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--base", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--adapter", type=click.Path(path_type=Path), help="LoRA adapter folder.")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where files go.")
@click.option("--calibrate-on", type=_FILE, multiple=True, help="Text; default: shipped dialogues.")
@click.option("--judge-on", multiple=True, metavar="NAME=FILE", help="Default: shipped prose.")
@click.option("--types", help="Types with commas.", default=",".join(TYPES), show_default=True)
@click.option("--windows", "n_windows", type=click.IntRange(4), help="Of 512 tokens, at most.")
@click.option("--chunks", "n_chunks", type=click.IntRange(1), help="Windows judged per text.")
@click.option("--threads", "n_threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="The JSON document.")
@click.option("--markdown", "page", type=click.Path(path_type=Path), help="The table.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="The plot (SVG).")
def cli(types: str, out: Path | None, **given: Any) -> None:
    """Make and judge files of many sizes; table and plot."""
    page, picture = given.pop("page"), given.pop("picture")
    result = run(FrontierPlan(types=tuple(types.split(",")), **given))
    text = markdown(result)
    written = {out: document.dumps(result), page: text, picture: plot(result)}
    for path, content in written.items():
        if path is not None:
            with atomic_file(path, force=True) as file:
                file.write(content.encode("utf-8"))
    click.echo(text)


def main() -> None:
    """Entry point."""
    border(lambda: cli.main(standalone_mode=False))


if __name__ == "__main__":
    main()
