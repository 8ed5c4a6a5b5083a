"""`pedsup-bench phones`: the profiles and the source of each figure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import click

from pedsup.phones.profiles import shipped_profiles
from pedsup_bench.report import document, options

SCHEMA: Final = "pedsup-bench-phones/1"


@click.command()
@click.option("--sources", is_flag=True, help="Show where each figure is from.")
@options.JSON
def phones(sources: bool, as_json: bool) -> None:
    """List the phone profiles."""
    found = shipped_profiles()
    rows = [["phone", "chip", "cores", "memory", "bandwidth", "storage read"]]
    for phone in found.values():
        low, high = phone.figures.bandwidth_gb_s.value
        cores = " + ".join(f"{kind.count}x{kind.model}" for kind in phone.cores)
        rows.append([
            phone.id, phone.chip, cores, f"{phone.figures.memory_gb.value:g} GB",
            f"{low:g}-{high:g} GB/s", f"{phone.figures.storage_read_mb_s.value:g} MB/s",
        ])  # fmt: skip
    text = options.table(rows)
    if sources:
        lines = [
            f"{phone.id}: {name} = {figure['value']}: {figure['source']}"
            for phone in found.values()
            for name, figure in asdict(phone.figures).items()
        ]
        text += "\n\n" + "\n".join(lines)
    result = {**document.head(SCHEMA), "phones": {n: asdict(p) for n, p in found.items()}}
    options.show(result, text, as_json=as_json)
