"""What a page shows of a quality run."""

from __future__ import annotations

from pedsup_bench.quality.result import QualityFacts, TextFigures
from pedsup_bench.report import page, svg
from pedsup_bench.report.page import Html


def section(document: QualityFacts, level: int) -> list[Html]:
    """What a page shows of it, below headings of `level`."""
    figures = document["figures"]
    reference = document.get("reference")
    against = f"the reference, {reference['file']}" if reference else "kept log-probabilities"
    same = [
        page.share_bar(name, f["same_top"], f["same_top_interval"]) for name, f in figures.items()
    ]
    return [
        page.paragraph(
            f"Against {against}: windows of {document['n_ctx']} tokens, of which the second half "
            "counts."
        ),
        page.heading(level, "KL divergence"),
        Html(svg.bars("KL divergence, nats per token", _kl_bars(figures))),
        page.paragraph("Mean in nats per token; 0 is no change. Black: 95 % interval."),
        page.heading(level, "Same most probable token"),
        Html(svg.bars("positions with the same most probable token", same, top=1.0)),
        page.paragraph("Share of positions. Black: Wilson's 95 % interval."),
        page.heading(level, "Perplexity"),
        Html(svg.bars("perplexity of the file and of its reference", _perplexity_bars(figures))),
        page.heading(level, "All figures of the texts"),
        page.table(table_rows(figures), "all figures of the texts"),
        page.items(page.flattered(document.get("calibrated_on", []))),
    ]


def _kl_bars(figures: dict[str, TextFigures]) -> list[svg.Bar]:
    return [
        page.value_bar(name, f["kld"]["mean"], f["kld"]["mean_error"], ".5f")
        for name, f in figures.items()
    ]


def _perplexity_bars(figures: dict[str, TextFigures]) -> list[svg.Bar]:
    return [
        bar
        for name, f in figures.items()
        for bar in (
            page.value_bar(name, f["ppl"], f["ppl_error"], ".3f"),
            page.value_bar(
                f"{name}, reference", f["ppl_reference"], f["ppl_reference_error"], ".3f"
            ),
        )
    ]


def table_rows(figures: dict[str, TextFigures]) -> list[list[str]]:
    """Figures as a table, one row per text; the last column where a vocabulary was cut."""
    rows = [["text", "tokens", "KL mean", "KL 99 %", "KL max", "same top", "flips", "PPL",
             "PPL ref", "ratio", "cut mass"]]  # fmt: skip
    for name, f in figures.items():
        kld = f["kld"]
        rows.append([
            name, str(f["n_tokens"]),
            f"{page.number(kld['mean'], '.5f')}±{page.number(kld['mean_error'], '.5f')}",
            page.number(kld["p99"]), page.number(kld["max"], ".3f"), page.share(f["same_top"], 2),
            str(f["flips"]), page.number(f["ppl"], ".3f"), page.number(f["ppl_reference"], ".3f"),
            page.number(f["ppl_ratio"]), page.share(f.get("removed_mass") or 0.0, 3),
        ])  # fmt: skip
    cut = any(f.get("removed_mass") for f in figures.values())
    return rows if cut else [row[:-1] for row in rows]
