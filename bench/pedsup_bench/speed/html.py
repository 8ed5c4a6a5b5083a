"""The report of a speed run: one HTML file with its plots inside, readable without a network."""

from __future__ import annotations

from html import escape

from pedsup_bench.speed import svg
from pedsup_bench.speed.render import figure_name, notes, quantity
from pedsup_bench.speed.result import Figures, RunDocument, Sustained

_STYLE = """
body{font:16px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1f2933}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{border-bottom:1px solid #cbd2d9;padding:.3rem .5rem;text-align:right}
td:first-child,th:first-child{text-align:left} svg{width:100%;height:auto}
.notice{background:#fffbea;border-left:4px solid #c05621;padding:.5rem 1rem}
"""


def report(document: RunDocument) -> str:
    """The whole page."""
    model, device = document["model"], document["device"]
    figures = document["figures"]
    parts = [
        f"<h1>{escape(model['file'])}</h1>",
        f'<p class="notice">{escape(document["intended_use"])}</p>',
        f"<p>Measured {escape(document['created'])} on {escape(device['soc'] or 'unknown')}, "
        f"{len(device['cores'])} cores, {escape(device['kernel'])}, "
        f"{document['settings']['n_threads']} threads, {escape(document['engine'])}.</p>",
        *_plot("Tokens per second", figures, "tokens/s", "orange: ceiling of memory bandwidth"),
        *_plot("Seconds", figures, "s", "black: spread"),
        *_plot("Memory and reads", figures, "B", ""),
        *_sustained(document["sustained"]),
        "<h2>All figures</h2>",
        _table(figures),
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes(document)) + "</ul>",
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(model['file'])}: speed</title><style>{_STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def chart(document: RunDocument, unit: str = "tokens/s") -> str:
    """One bar chart of a document's figures as a stand-alone SVG."""
    figures = {k: f for k, f in document["figures"].items() if f["unit"] == unit}
    return svg.bars(f"{document['model']['file']}: {unit}", _bars(figures, unit))


def _plot(title: str, figures: Figures, unit: str, legend: str) -> list[str]:
    chosen = {k: f for k, f in figures.items() if f["unit"] == unit}
    if not chosen:
        return []
    note = f"<p>{escape(legend)}</p>" if legend else ""
    return [f"<h2>{escape(title)}</h2>", svg.bars(title, _bars(chosen, unit)), note]


def _bars(figures: Figures, unit: str) -> list[svg.Bar]:
    return [
        svg.Bar(
            figure_name(key), f["median"], quantity(f["median"], unit), f["spread"],
            # A prompt's memory ceiling is far off the scale: arithmetic bounds it.
            None if key.startswith("prompt_") else f["ceiling"],
        )
        for key, f in figures.items()
    ]  # fmt: skip


def _sustained(sustained: Sustained | None) -> list[str]:
    if sustained is None or len(sustained["samples"]) < 2:
        return []
    line = svg.line("sustained decoding", sustained["samples"], "tokens/s")
    return ["<h2>Sustained decoding</h2>", line]


def _table(figures: Figures) -> str:
    rows = ["<tr><th>figure<th>median<th>spread<th>range<th>ceiling<th>n</tr>"]
    for key, f in figures.items():
        ceiling = quantity(f["ceiling"], f["unit"]) if f["ceiling"] else ""
        span = f"{quantity(f['low'], f['unit'])} to {quantity(f['high'], f['unit'])}"
        cells = (
            figure_name(key), quantity(f["median"], f["unit"]), quantity(f["spread"], f["unit"]),
            span, ceiling, str(f["n"]),
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{escape(c)}" for c in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"
