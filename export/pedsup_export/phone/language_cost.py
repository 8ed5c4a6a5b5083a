"""What a cut vocabulary costs each language, for `plan --phone`: counted, or from measured figures.

With a base folder the very choice is made that an export would make. Without one nothing is
downloaded to plan with: the figures are then those of Gemma 4's vocabulary, measured once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Final

from pedsup.errors import MissingDependencyError
from pedsup.progress import say
from pedsup_export.model import open_model
from pedsup_export.vocabulary_cut.plan import plan_vocabulary
from pedsup_export.vocabulary_cut.request import DEFAULT_SIZE, VocabularyRequest

GEMMA4: Final[dict[frozenset[str], dict[int, dict[str, float]]]] = {
    frozenset({"en", "es"}): {
        32_000: {"es": 0.0382, "en": 0.0919},
        48_000: {"es": 0.0108, "en": 0.0416},
        64_000: {"es": 0.00432, "en": 0.0179},
        96_000: {"es": 0.000715, "en": 0.00190},
        128_000: {"es": 0.000216, "en": 0.000214},
    }
}
"""Languages -> tokens kept -> language -> share of its tokens, by word list, that fall to smaller
pieces: Gemma 4's tokenizer, wordfreq 3.1.1 (`run --languages ... --vocabulary ... --dry-run`)."""


@dataclass(frozen=True)
class LanguageCost:
    """One language of a cut."""

    code: str
    share: float | None
    """Of its tokens, by word list, that fall to smaller pieces; None where it is not known."""
    why_not: str = ""
    """Why it is not known."""


def language_costs(request: VocabularyRequest, folder: Path | None) -> tuple[LanguageCost, ...]:
    """The cost for each language asked for.

    Args:
        folder: the base; None where only Gemma 4's published shape is planned with.
    """
    lists = {language.code: language.words is not None for language in request.languages}
    try:
        known = _of_folder(request, folder) if folder is not None else _of_gemma4(request)
    except MissingDependencyError:
        known = {}
    missing = "its word list is not installed" if folder is not None else "give --base FOLDER"
    return tuple(
        LanguageCost(
            code,
            known.get(code),
            "" if code in known else missing if lists[code] else "it has no word list",
        )
        for code in lists
    )


def _of_folder(request: VocabularyRequest, folder: Path) -> dict[str, float]:
    say("choosing the vocabulary: about half a minute for Gemma 4's")
    model = open_model(folder, folder)
    return plan_vocabulary(request, model.tokenizer, model.vocabulary.entries).lost


def _of_gemma4(request: VocabularyRequest) -> dict[str, float]:
    """Between two measured sizes the logarithm of the share is taken as a line over the size."""
    codes = frozenset(language.code for language in request.languages)
    sizes = GEMMA4.get(codes, {})
    size = request.size or DEFAULT_SIZE
    below = max((n for n in sizes if n <= size), default=None)
    above = min((n for n in sizes if n >= size), default=None)
    if below is None or above is None:
        return {}
    part = (size - below) / (above - below) if above > below else 0.0
    return {
        code: exp((1 - part) * log(share) + part * log(sizes[above][code]))
        for code, share in sizes[below].items()
    }


def cost_lines(costs: tuple[LanguageCost, ...]) -> list[str]:
    """One language a line."""
    lines = []
    for cost in costs:
        said = f"not known ({cost.why_not})"
        if cost.share is not None:
            said = f"{cost.share:.2%} of tokens fall to smaller pieces, by word list"
        lines.append(f"  {cost.code:<16} {said}")
    return lines
