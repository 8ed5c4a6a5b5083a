"""A phone model with fewer tokens, and what that saves on the phone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pedsup.progress import human_bytes
from pedsup_export.arch import ModelTensors, OutputTensor
from pedsup_export.phone.advise import Advice
from pedsup_export.phone.language_cost import LanguageCost, cost_lines
from pedsup_export.phone.models import PhoneModel
from pedsup_export.phone.policy import CONTEXT, Candidate
from pedsup_export.vocabulary_cut.choose import MULTIPLE
from pedsup_export.vocabulary_cut.cut import TABLES
from pedsup_export.vocabulary_cut.request import DEFAULT_SIZE, VocabularyRequest

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
