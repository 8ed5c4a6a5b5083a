"""A tiny Gemma 4 and a tiny llama with 3072 tokens of four scripts: there is what to cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef
from pedsup_export.vocabulary_cut.cut import VocabularyCut
from pedsup_export.vocabulary_cut.request import VocabularyRequest
from pedsup_export.write.publish import execute
from pedsup_testing import tiny_models

N_TOKENS = 3072
FOREIGN = (
    "Ребёнок болеет третий день, температура высокая, дыхание частое и кашель не проходит. "
    "Дайте ребёнку пить и покажите его врачу как можно скорее. Ребёнок пьёт мало и часто плачет. "
    "孩子发烧三天了，咳嗽，呼吸很快。请给孩子喝水，并尽快去看医生。孩子喝水很少，经常哭。 "
    "Das Kind hat hohes Fieber und Husten, die Atmung ist schnell. Geben Sie dem Kind zu trinken. "
    "الطفل مريض منذ ثلاثة أيام ويتنفس بسرعة ويسعل كثيرا. أعط الطفل ماء واذهب إلى الطبيب. "
)
WORDS = {
    "en": "the of and to in child fever cough breathing water vaccine dose weight doctor mother",
    "es": "de la que el en niño fiebre tos respiración agua vacuna dosis peso médico madre",
}


def texts() -> str:
    """What the tokenizers learn from: the shipped prose, and text of other scripts."""
    from pedsup_export.vocabulary_cut.weights import shipped_texts

    return "\n".join([*shipped_texts().values(), FOREIGN * 40])


def gemma4(folder: Path, **overrides: object) -> Path:
    """Write a tiny Gemma 4."""
    tiny_models.gemma4(
        folder, vocab_size=N_TOKENS, vocab_size_per_layer_input=N_TOKENS, **overrides
    )
    return _with_tokenizer(folder)


def llama(folder: Path) -> Path:
    """Write a tiny llama."""
    tiny_models.llama(folder, vocab_size=N_TOKENS)
    return _with_tokenizer(folder)


def gemma3(folder: Path) -> Path:
    """Write a tiny Gemma 3, whose tokens have the scores of a tokenizer.model."""
    tiny_models.gemma3(folder, vocab_size=N_TOKENS)
    _with_tokenizer(folder)
    tiny_models.write_tokenizer_model(folder)
    return folder


def _with_tokenizer(folder: Path) -> Path:
    tiny_models.write_tokenizer(folder, text=texts(), n_merges=2000, vocab_size=N_TOKENS)
    return folder


@dataclass(frozen=True)
class Pair:
    """Two exports of one base."""

    base: Path
    full: Path
    cut: Path
    vocabulary: VocabularyCut


def export_pair(base: Path, folder: Path, quant: str = "Q4_K_M") -> Pair:
    """Export `base` with its whole vocabulary and with what the shipped texts need."""
    listed = folder / "tokens.txt"
    listed.write_text("▁fiebre\n▁child\n", encoding="utf-8")
    found = []
    for name, vocabulary in (("full", None), ("cut", VocabularyRequest(file=listed))):
        request = ExportRequest(
            base=ModelRef(base, base.name), out=folder / f"{name}.gguf", quant=quant,
            vocabulary=vocabulary, threads=1,
        )  # fmt: skip
        plan, inputs = make_plan(request)
        execute(plan, inputs)
        found.append(plan)
    assert found[1].cut is not None
    return Pair(base, folder / "full.gguf", folder / "cut.gguf", found[1].cut)
