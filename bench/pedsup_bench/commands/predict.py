"""`pedsup-bench predict`: a file on phones that we do not have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from pedsup.gguf_file import read_header
from pedsup.phones.predict import Prediction
from pedsup.phones.predict import predict as predict_one
from pedsup.phones.profiles import profile, shipped_profiles
from pedsup.progress import human_bytes
from pedsup_bench.admission import admit
from pedsup_bench.report import document, options

SCHEMA: Final = "pedsup-bench-predict/1"


@click.command()
@options.MODEL
@click.option("--phone", "names", multiple=True, help="Profile or TOML file; default: all.")
@click.option("--ctx", "n_ctx", default=4096, show_default=True, help="Context in tokens.")
@click.option("--depth", default=512, show_default=True, help="Depth for the decode speed.")
@options.JSON
def predict(model: Path, names: tuple[str, ...], n_ctx: int, depth: int, as_json: bool) -> None:
    """PREDICT decode speed and fit of MODEL from its header and a phone's profile."""
    # Only the header is read: the weights make no difference here.
    trust = admit(model, weights=False)
    header = read_header(model)
    chosen = [profile(name) for name in names or shipped_profiles()]
    found = [predict_one(header, phone, n_ctx=n_ctx, depth=depth) for phone in chosen]
    result = {
        **document.head(SCHEMA),
        "measured": False,
        "trust": trust.describe(),
        "predictions": [p.to_json() for p in found],
    }
    options.show(result, predict_table(found), as_json=as_json)


def predict_table(found: list[Prediction]) -> str:
    """One row per phone, below a heading that calls it a prediction."""
    rows = [["PREDICTED for", "decode t/s", "ceiling t/s", "needs", "has", "verdict",
             "largest context", "cold load"]]  # fmt: skip
    for p in found:
        paging = f"pages, < {p.paging_decode:.2f} t/s" if p.paging_decode else p.verdict
        rows.append([
            p.phone, f"{p.decode[0]:.1f}-{p.decode[1]:.1f}",
            f"{p.ceiling[0]:.1f}-{p.ceiling[1]:.1f}", human_bytes(p.memory_needed),
            human_bytes(p.memory_available), paging, str(p.largest_n_ctx or "none"),
            f"{p.cold_load_s:.0f} s",
        ])  # fmt: skip
    note = (
        "nothing here was measured on a phone: bandwidth and memory are unverified figures of the "
        "profiles (see `pedsup-bench phones --sources`), the efficiency is an assumption"
    )
    return f"{options.table(rows)}\n\n{note}"
