"""`pedsup-bench types`: the table of all quantization types for the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pedsup.errors import UsageError
from pedsup_bench.quality import types_table
from pedsup_bench.report import options


@click.command()
@click.option("--base", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--adapter", type=click.Path(path_type=Path), help="LoRA adapter folder.")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where files go.")
@click.option("--types", "kinds", help="Types with commas; default: all.")
@click.option("--ctx", "n_ctx", default=512, show_default=True, help="Tokens per window.")
@click.option("--chunks", "n_chunks", type=click.IntRange(1), help="Limit on windows.")
@click.option("--no-speed", is_flag=True, help="Quality only.")
@click.option("--markdown", "page", type=click.Path(path_type=Path), help="The page to write.")
@click.option("--plot", type=click.Path(path_type=Path), help="The plot to write (SVG).")
@options.THREADS
@options.OUT
@options.JSON
def types(**given: Any) -> None:
    """Export a model to every type and table size, KL, flips and speed."""
    kinds = tuple(given["kinds"].split(",")) if given["kinds"] else types_table.TYPES
    if unknown := set(kinds) - set(types_table.TYPES):
        raise UsageError(
            f"no type {', '.join(sorted(unknown))}", wanted=", ".join(types_table.TYPES)
        )
    plan = types_table.TypesPlan(
        base=given["base"], folder=given["folder"], adapter=given["adapter"], types=kinds,
        n_ctx=given["n_ctx"], n_chunks=given["n_chunks"],
        n_threads=options.n_threads(given["threads"]), speed=not given["no_speed"],
    )  # fmt: skip
    result = types_table.run(plan)
    text = types_table.markdown(result, "make types-table")
    if given["plot"] and given["page"] and given["plot"].parent == given["page"].parent:
        text += f"\n![Mean KL divergence by type]({given['plot'].name})\n"
    options.save(result, given["out"], force=True)
    pages = {given["page"]: text, given["plot"]: types_table.plot(result) + "\n"}
    for path, content in pages.items():
        if path is not None:
            options.save_page(content, path, force=True)
    options.show(result, text, as_json=given["as_json"])
