"""`pedsup-bench vocabulary`: what a cut vocabulary costs on text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from pedsup_bench.admission import admit_all
from pedsup_bench.quality.vocabulary import (
    VocabularyFigures,
    VocabularyPlan,
    measure,
    require_cut,
)
from pedsup_bench.report import document, options
from pedsup_bench.report.texts import parse_texts

SCHEMA: Final = "pedsup-bench-vocabulary/1"


@click.command()
@options.MODEL
@click.option(
    "--reference", type=click.Path(path_type=Path), required=True,
    help="The file with the full vocabulary, of the same type.",
)  # fmt: skip
@click.option(
    "--text", "texts", multiple=True, metavar="[NAME=]FILE",
    help="Text to measure on; can be repeated. Default: shipped English and Spanish prose.",
)  # fmt: skip
@click.option("--ctx", "n_ctx", default=512, show_default=True, help="Tokens per passage.")
@click.option("--passages", "n_passages", type=click.IntRange(1), help="Limit on passages.")
@options.THREADS
@options.OUTPUTS
def vocabulary(model: Path, **given: Any) -> None:
    """Tokens, bits per byte and removed probability of MODEL, whose vocabulary was cut."""
    plan = VocabularyPlan(
        model, given["reference"], parse_texts(given["texts"]), given["n_ctx"],
        given["n_passages"], options.n_threads(given["threads"]),
    )  # fmt: skip
    options.refuse_existing_outputs(given["out"], force=given["force"])
    require_cut(plan)
    trust = admit_all(model, plan.reference)
    figures = measure(plan)
    result = {
        **document.head(SCHEMA),
        "model": document.describe_model(model),
        "reference": document.describe_model(plan.reference, digest=False),
        "texts": {t.name: t.sha256 for t in plan.texts},
        "n_ctx": plan.n_ctx,
        "figures": {name: f.to_json() for name, f in figures.items()},
        "trust": trust,
    }
    options.put_out(result, vocabulary_table(figures), given)


def vocabulary_table(figures: dict[str, VocabularyFigures]) -> str:
    """Figures as a table, one row per text."""
    rows = [["text", "bytes", "tokens", "cut", "changed", "bits/byte", "cut", "ratio",
             "removed mass"]]  # fmt: skip
    for name, f in figures.items():
        rows.append([
            name, str(f.n_bytes), str(f.tokens_full), str(f.tokens_cut),
            f"{f.changed:.3%}", f"{f.bits_per_byte_full:.4f}",
            f"{f.bits_per_byte_cut:.4f}", f"{f.ratio:.4f}", f"{f.removed_mass:.4%}",
        ])  # fmt: skip
    return options.table(rows)
