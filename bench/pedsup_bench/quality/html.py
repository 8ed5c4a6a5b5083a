"""What a page shows of a quality run."""

from __future__ import annotations

from pedsup_bench.quality.result import QualityFacts, TextFigures
from pedsup_bench.report import page, show, svg
from pedsup_bench.report.page import Html


def section(document: QualityFacts, level: int) -> list[Html]:
    """What a page shows of it, below headings of `level`."""
    figures = document["figures"]
    reference = document.get("reference")
    against = f"the reference, {reference['file']}" if reference else "kept log-probabilities"
    same = [
        show.share_bar(name, f["same_top"], f["same_top_interval"]) for name, f in figures.items()
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
        _table(figures),
        page.items(show.flattered(document.get("calibrated_on", []))),
    ]


def _kl_bars(figures: dict[str, TextFigures]) -> list[svg.Bar]:
    return [
        show.value_bar(name, f["kld"]["mean"], f["kld"]["mean_error"], ".5f")
        for name, f in figures.items()
    ]


def _perplexity_bars(figures: dict[str, TextFigures]) -> list[svg.Bar]:
    return [
        bar
        for name, f in figures.items()
        for bar in (
            show.value_bar(name, f["ppl"], f["ppl_error"], ".3f"),
            show.value_bar(
                f"{name}, reference", f["ppl_reference"], f["ppl_reference_error"], ".3f"
            ),
        )
    ]


def _table(figures: dict[str, TextFigures]) -> Html:
    rows = [["text", "tokens", "KL mean", "± error", "KL 99 %", "KL max", "same top", "95 %",
             "flips", "PPL", "PPL ref", "ratio"]]  # fmt: skip
    for name, f in figures.items():
        kld = f["kld"]
        rows.append([
            name, str(f["n_tokens"]), show.number(kld["mean"], ".5f"),
            show.number(kld["mean_error"], ".5f"), show.number(kld["p99"]),
            show.number(kld["max"], ".3f"), show.share(f["same_top"], 2),
            show.interval(f["same_top_interval"]), str(f["flips"]), show.number(f["ppl"], ".3f"),
            show.number(f["ppl_reference"], ".3f"), show.number(f["ppl_ratio"]),
        ])  # fmt: skip
    return page.table(rows, "all figures of the texts")
