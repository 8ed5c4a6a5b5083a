"""A phone model with fewer tokens, what that saves on the phone, and what it costs each language.

With a base folder the costs are counted: the very choice is made that an export would make. Without
one nothing is downloaded to plan with: they are then those of Gemma 4's vocabulary, measured once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from typing import Final

from pedsup.errors import MissingDependencyError
from pedsup.progress import human_bytes, say
from pedsup_export.arch import ModelTensors, OutputTensor
from pedsup_export.model import open_model
from pedsup_export.phone.advise import Advice
from pedsup_export.phone.models import PhoneModel
from pedsup_export.phone.policy import CONTEXT, Candidate
from pedsup_export.vocabulary_cut.choose import MULTIPLE
from pedsup_export.vocabulary_cut.cut import TABLES
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


MERGES_PER_TOKEN = 2.56
"""Measured: 96,000 tokens of Gemma 4 keep 245,354 of its 514,906 merges."""


def tokens_of(model: PhoneModel) -> int:
    """Rows of the token table."""
    return next(t.shape[0] for t in model.tensors.outputs if t.name == "token_embd.weight")


def cut_model(model: PhoneModel, request: VocabularyRequest | None) -> PhoneModel:
    """The model with as many tokens as the request would keep.

    Only their number is asked for here, so no tokenizer is read; the length of the tokenizer's
    metadata is in proportion.
    """
    n_full = tokens_of(model)
    size = (request.size or DEFAULT_SIZE) // MULTIPLE * MULTIPLE if request is not None else n_full
    if size >= n_full:
        return model

    def shorter(tensor: OutputTensor) -> OutputTensor:
        return replace(tensor, shape=(size, *tensor.shape[1:])) if tensor.name in TABLES else tensor

    tensors: ModelTensors = model.tensors
    return replace(
        model,
        tensors=replace(tensors, outputs=tuple(map(shorter, tensors.outputs))),
        n_merges=min(model.n_merges, int(size * MERGES_PER_TOKEN)),
        vocabulary_bytes=model.vocabulary_bytes * size // n_full + 4 * size,
    )


@dataclass(frozen=True)
class Comparison:
    """The chosen candidate beside the same model and type with all tokens."""

    languages: str
    tokens: int
    tokens_full: int
    cut: Candidate
    full: Candidate
    costs: tuple[LanguageCost, ...] = ()


def compare(request: VocabularyRequest, cut: Advice, full: Advice) -> Comparison | None:
    """What the languages save for the file that is advised; None where none is."""
    chosen = cut.choice.chosen
    if chosen is None:
        return None
    key = (chosen.model, chosen.quant)
    other = next(c for c in full.candidates if (c.model, c.quant) == key)
    n_cut, n_full = (
        next(tokens_of(m) for m in advice.models if m.name == chosen.model)
        for advice in (cut, full)
    )
    languages = ",".join(language.code for language in request.languages)
    return Comparison(languages, n_cut, n_full, chosen, other)


def comparison_lines(found: Comparison) -> list[str]:
    """Cut and full, one figure a line."""
    a, b = found.cut, found.full
    rows = (
        ("tokens", str(found.tokens), str(found.tokens_full)),
        ("file", human_bytes(a.file_bytes), human_bytes(b.file_bytes)),
        (f"memory at {CONTEXT}", human_bytes(a.need[CONTEXT]), human_bytes(b.need[CONTEXT])),
        ("read per token", human_bytes(a.read_per_token), human_bytes(b.read_per_token)),
        ("tokens/s", *(f"{c.decode[0]:.1f}-{c.decode[1]:.1f}" for c in (a, b))),
    )
    lines = [f"Vocabulary cut to {found.languages}, {a.model} {a.quant} (predicted; in brackets "
             "with all tokens)"]  # fmt: skip
    lines += [f"  {name:<16} {mine:>12} ({theirs})" for name, mine, theirs in rows]
    return [*lines, *cost_lines(found.costs)]


def comparison_json(found: Comparison) -> dict[str, object]:
    """The same for programs."""
    return {
        "languages": found.languages,
        "tokens": found.tokens,
        "tokens_full": found.tokens_full,
        "lost_by_word_list": {cost.code: cost.share for cost in found.costs},
        **{
            name: {
                "file_bytes": c.file_bytes,
                "memory_bytes": c.need[CONTEXT],
                "read_per_token": c.read_per_token,
                "decode": list(c.decode),
            }
            for name, c in (("cut", found.cut), ("full", found.full))
        },
    }
