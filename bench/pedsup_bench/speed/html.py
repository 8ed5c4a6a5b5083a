"""The report of a speed run: one HTML file with its plots inside, readable without a network."""

from __future__ import annotations

from pedsup_bench.report import page, svg
from pedsup_bench.report.page import Html
from pedsup_bench.speed.render import figure_name, notes, quantity
from pedsup_bench.speed.result import Figures, RunDocument, Sustained


def report(document: RunDocument) -> str:
    """The whole page."""
    return page.document_page(document, "speed and memory", section(document, 2))


def section(document: RunDocument, level: int) -> list[Html]:
    """What a page shows of it, below headings of `level`."""
    device, figures = document["device"], document["figures"]
    legend = "Black: spread. Orange: what memory bandwidth allows."
    return [
        page.paragraph(
            f"On {device['soc'] or 'an unknown processor'}, {len(device['cores'])} cores, "
            f"{device['kernel']}, {document['settings'].get('n_threads')} threads, "
            f"{document['engine']}."
        ),
        *_plot("Tokens per second", figures, "tokens/s", legend, level),
        *_plot("Seconds", figures, "s", "Black: spread.", level),
        *_plot("Memory and reads", figures, "B", "", level),
        *_sustained(document["sustained"], level),
        page.heading(level, "All speeds and sizes"),
        _table(figures),
        page.items(notes(document)),
    ]


def _plot(title: str, figures: Figures, unit: str, legend: str, level: int) -> list[Html]:
    chosen = {k: f for k, f in figures.items() if f["unit"] == unit}
    if not chosen:
        return []
    plot = Html(svg.bars(title, _bars(chosen, unit)))
    return [page.heading(level, title), plot, page.paragraph(legend)]


def _bars(figures: Figures, unit: str) -> list[svg.Bar]:
    return [
        svg.Bar(
            figure_name(key), f["median"], quantity(f["median"], unit),
            (f["median"] - f["spread"], f["median"] + f["spread"]) if f["spread"] else None,
            # A prompt's memory ceiling is far off the scale: arithmetic bounds it.
            None if key.startswith("prompt_") else f["ceiling"],
        )
        for key, f in figures.items()
    ]  # fmt: skip


def _sustained(sustained: Sustained | None, level: int) -> list[Html]:
    if sustained is None or len(sustained["samples"]) < 2:
        return []
    line = svg.line("sustained decoding", sustained["samples"], "tokens/s")
    return [page.heading(level, "Sustained decoding"), Html(line)]


def _table(figures: Figures) -> Html:
    rows = [["figure", "median", "spread", "range", "ceiling", "n"]]
    for key, f in figures.items():
        ceiling = quantity(f["ceiling"], f["unit"]) if f["ceiling"] else ""
        span = f"{quantity(f['low'], f['unit'])} to {quantity(f['high'], f['unit'])}"
        rows.append([
            figure_name(key), quantity(f["median"], f["unit"]), quantity(f["spread"], f["unit"]),
            span, ceiling, str(f["n"]),
        ])  # fmt: skip
    return page.table(rows, "all speeds and sizes")
