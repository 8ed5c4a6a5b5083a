"""Counts, intervals and the paired test, per language and in all."""

from __future__ import annotations

from collections.abc import Sequence

from pedsup_bench.mcqa.result import Against, McqaFigures
from pedsup_bench.mcqa.score import Scored
from pedsup_bench.stats import mcnemar_exact, wilson_interval


def figures(scored: Sequence[Scored], reference: Sequence[Scored] | None) -> McqaFigures:
    """Summarize at least one question; `reference` has the same questions in the same order."""
    n, right = len(scored), sum(s.right for s in scored)
    return McqaFigures(
        n=n,
        right=right,
        accuracy=right / n,
        interval=wilson_interval(right, n),
        chance=sum(1 / len(s.question.options) for s in scored) / n,
        accuracy_as_printed=sum(s.right_as_printed for s in scored) / n,
        consistent=sum(len(set(s.by_rotation)) == 1 for s in scored) / n,
        against=None if reference is None else _against(scored, reference),
    )


def _against(scored: Sequence[Scored], reference: Sequence[Scored]) -> Against:
    pairs = list(zip(scored, reference, strict=True))
    only_model = sum(a.right and not b.right for a, b in pairs)
    only_reference = sum(b.right and not a.right for a, b in pairs)
    return Against(
        accuracy=sum(b.right for _, b in pairs) / len(pairs),
        only_model=only_model,
        only_reference=only_reference,
        changed=sum(a.chosen != b.chosen for a, b in pairs),
        p_value=mcnemar_exact(only_model, only_reference),
    )


def by_language(
    scored: Sequence[Scored], reference: Sequence[Scored] | None
) -> dict[str, McqaFigures]:
    """Figures per language and, if there is more than one, under 'all'."""
    languages = sorted({s.question.language for s in scored})
    result = {}
    for language in languages:
        keep = [i for i, s in enumerate(scored) if s.question.language == language]
        result[language] = figures(
            [scored[i] for i in keep], None if reference is None else [reference[i] for i in keep]
        )
    if len(languages) > 1:
        result["all"] = figures(scored, reference)
    return result
