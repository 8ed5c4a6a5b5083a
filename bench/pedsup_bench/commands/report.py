"""`pedsup-bench report`: one page for a model from the documents of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypedDict

import click

from pedsup.progress import say
from pedsup.texts.safe import label
from pedsup_bench.overview.collect import Collection, collect
from pedsup_bench.overview.html import not_measured
from pedsup_bench.overview.html import report as model_page
from pedsup_bench.report import document, options

SCHEMA: Final = "pedsup-bench-report/1"


class LeftOutFacts(TypedDict):
    """A file that is not on the page."""

    file: str
    why: str


class ReportDocument(document.Head):
    """The document of `pedsup-bench report`."""

    model: document.ModelFacts
    sha256: str
    adapter_sha256: str | None
    page: str
    used: list[str]
    left_out: list[LeftOutFacts]
    not_measured: list[str]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False),
    help="The page to write. Default: report.html in the folder.",
)  # fmt: skip
@click.option(
    "--model", help="Which model, if there are several: its file, or the start of its SHA-256."
)
@options.FORCE
@options.JSON
def report(folder: Path, out: Path | None, model: str | None, force: bool, as_json: bool) -> None:
    """Make one page from all documents in FOLDER that belong to one model.

    The documents are those that `run`, `quality`, `mcqa`, `safety` and `gate` write with --out.
    They belong together by the digest of the model, whatever the files are called.
    """
    out = out or folder / "report.html"
    options.refuse_existing_outputs(out, force=force)
    found = collect(folder, model)
    options.save_page(model_page(found), out, force=force)
    for one in found.left_out:
        say(f"left out: {label(one.path.name)}: {one.why}")
    result = report_document(found, out)
    lines = [
        f"{out}: {label(result['model']['file'])}, from {len(result['used'])} files",
        *(f"not measured: {sentence}" for sentence in result["not_measured"]),
    ]
    options.show(result, "\n".join(lines), as_json=as_json)


def report_document(found: Collection, out: Path) -> ReportDocument:
    """What went into a page."""
    return {
        **document.head(SCHEMA),
        "model": found.newest["model"],
        "sha256": found.identity.model,
        "adapter_sha256": found.identity.adapter,
        "page": str(out),
        "used": [path.name for path in found.used],
        "left_out": [{"file": one.path.name, "why": one.why} for one in found.left_out],
        "not_measured": not_measured(found),
    }
