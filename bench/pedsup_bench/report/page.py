"""One HTML page with everything inside it: no script, no other file, no network.

What comes from a document or a file name enters through `text`, which escapes it. `Html` is what
went through it, so that mypy finds what did not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final, NewType

from pedsup.progress import human_bytes
from pedsup.texts.safe import clean, label
from pedsup_bench.report.document import ModelFacts, Shown
from pedsup_bench.report.svg import Bar

Html = NewType("Html", str)
"""Markup that may go into a page unchanged."""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1f2933;--paper:#fff;--line:#cbd2d9;--soft:#fffbea;
--warn:#c05621}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7eb;--paper:#15191e;--line:#3e4c59;--soft:#2b2415;
--warn:#ed8936}.paper{fill:#15191e}text.ink{fill:#e4e7eb}line.ink{stroke:#e4e7eb}
.fill{fill:#4a90d9}polyline{stroke:#4a90d9}.bound{stroke:#ed8936}.faint{stroke:#52606d}}
body{font:16px/1.5 sans-serif;margin:0;color:var(--ink);background:var(--paper)}
main{max-width:46rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{border-bottom:1px solid var(--line);padding:.3rem .5rem;text-align:right;overflow-wrap:normal}
td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}h2{margin-top:2.5rem}
.pairs td,.pairs th{text-align:left;overflow-wrap:anywhere}
.notice{background:var(--soft);border-left:4px solid var(--warn);padding:.5rem 1rem}
pre{white-space:pre-wrap;border-left:3px solid var(--line);padding-left:.8rem;margin:.3rem 0 1rem}
summary{cursor:pointer}
@media print{main{max-width:none}h2,h3{break-after:avoid}svg,tr{break-inside:avoid}}
"""


def text(value: object) -> Html:
    """Anything as text of the page: escaped, without marks that hide or reorder."""
    readable = str(value).encode("utf-8", "replace").decode("utf-8")
    return Html(escape(clean(readable)))


def heading(level: int, value: str) -> Html:
    """A heading of level 1 to 6."""
    return Html(f"<h{level}>{text(value)}</h{level}>")


def paragraph(value: str) -> Html:
    """A paragraph; nothing for no text."""
    return Html(f"<p>{text(value)}</p>" if value else "")


def notice(value: str) -> Html:
    """A paragraph that must not be overlooked."""
    return Html(f'<p class="notice">{text(value)}</p>')


def items(values: Iterable[str]) -> Html:
    """A list; nothing for none."""
    found = "".join(f"<li>{text(value)}</li>" for value in values)
    return Html(f"<ul>{found}</ul>" if found else "")


def table(rows: Sequence[Sequence[str]], caption: str) -> Html:
    """A table whose first row names the columns and whose first column names the rows.

    Args:
        caption: its name for screen readers.
    """
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in rows[0])
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows[1:]
    )
    # Focusable, so that a wide table can be scrolled with the keyboard.
    return Html(
        f'<div class="wide" role="region" tabindex="0" aria-label="{text(caption)}"><table><thead>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def pairs(found: Mapping[str, str], caption: str) -> Html:
    """A table of two columns, without empty rows."""
    rows = [[name, value] for name, value in found.items() if value]
    return Html(f'<div class="pairs">{table([["", "value"], *rows], caption)}</div>')


def folded(summary: str, parts: Iterable[Html]) -> Html:
    """A part that opens on demand."""
    return Html(f"<details><summary>{text(summary)}</summary>{''.join(parts)}</details>")


def quoted(value: str) -> Html:
    """Text of several lines, unchanged."""
    return Html(f"<pre>{text(value)}</pre>")


def page(title: str, parts: Iterable[Html]) -> str:
    """The whole file."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(label(title))}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def document_page(document: Shown, what: str, parts: Iterable[Html]) -> str:
    """The page of one document: the model, the notice, and what was measured."""
    model = document["model"]
    name = label(model["file"])
    return page(
        f"{name}: {what}",
        [
            heading(1, name),
            notice(document["intended_use"]),
            paragraph(f"{what.capitalize()}, measured {document['created']}."),
            *parts,
            heading(2, "The file"),
            model_table(model, document.get("trust")),
        ],
    )


def model_table(model: ModelFacts, trust: Mapping[str, object] | None = None) -> Html:
    """What identifies a model file, and who vouches for it."""
    adapter = model.get("adapter")
    types = ", ".join(f"{n} {name}" for name, n in model["tensor_types"].items())
    found = {
        "file": label(model["file"]),
        "SHA-256": model["sha256"] or "not recorded",
        "size": human_bytes(model["size"]),
        "architecture": model["architecture"],
        "parameters": f"{model['parameters'] / 1e6:,.1f} million",
        "tensors": types,
    }
    if adapter is not None:
        found["adapter"] = label(adapter["file"])
        found["adapter's SHA-256"] = adapter["sha256"] or "not recorded"
    if trust:
        key = trust.get("key_name")
        found["signature"] = f"{trust.get('signed')}" + (f", by {key}" if key else "")
        found["warning"] = str(trust.get("warning") or "")
    return pairs(found, "the model file")


Z95 = 1.96


def number(value: float | None, form: str = ".4f") -> str:
    """A figure, or "not a number": the logits of a damaged model are not finite."""
    return "not a number" if value is None else format(value, form)


def share(value: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{value:.{digits}%}"


def interval(low_high: tuple[float, float]) -> str:
    """An interval of shares in percent."""
    return f"{low_high[0]:.1%} to {low_high[1]:.1%}"


def share_bar(
    name: str, value: float, low_high: tuple[float, float] | None = None, mark: float | None = None
) -> Bar:
    """A bar on a scale from 0 to 1."""
    return Bar(name, value, share(value), low_high, mark)


def value_bar(name: str, value: float | None, error: float | None, form: str = ".4f") -> Bar:
    """A bar with the 95 % interval of a mean; `error` is one standard error."""
    shown = value or 0.0
    span = (shown - Z95 * error, shown + Z95 * error) if error else None
    return Bar(name, shown, number(value, form), span)


def flattered(overlaps: list[str]) -> list[str]:
    """What to say of texts that the file was calibrated on."""
    return [f"Warning: {sentence}: figures on it flatter the file." for sentence in overlaps]
