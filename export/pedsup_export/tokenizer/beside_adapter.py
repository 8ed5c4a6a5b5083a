"""The tokenizer beside an adapter: what a model was trained with is what it must be run with.

Trainers save the tokenizer in the adapter's folder. Where it would change the exported file, it is
exported in place of the base's, and every difference is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup_export.tokenizer.files import Tokenizer, overlay
from pedsup_export.tokenizer.vocab import Vocabulary

BASE_OPTION: Final = "--tokenizer base"
_FLAGS: Final = ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix")


def choose_vocabulary(
    make: Callable[[Tokenizer, int], Vocabulary],
    base: Tokenizer,
    folder: Path | None,
    n_tokens: int,
) -> tuple[Tokenizer, Vocabulary]:
    """The tokenizer to export and its vocabulary: the adapter's where they differ, with a note.

    Args:
        make: the architecture's vocabulary.
        folder: the adapter's folder; None takes the base's tokenizer.

    Raises:
        BadFileError, UnsupportedError: the adapter's tokenizer cannot be used.
    """
    try:
        mine = overlay(base, folder) if folder else None
        theirs = make(mine, n_tokens) if mine else None
    except (BadFileError, UnsupportedError) as error:
        error.remedy = f"{BASE_OPTION} takes the base's tokenizer and template instead"
        raise
    vocabulary = make(base, n_tokens)
    if mine is None or theirs is None:
        return base, vocabulary
    words = differences(vocabulary, theirs)
    if not words:
        return base, replace(vocabulary, notes=theirs.notes)
    note = (
        "from the adapter's folder, as it was trained, in place of the base's: "
        f"{'; '.join(words)} ({BASE_OPTION} takes the base's)"
    )
    return mine, replace(theirs, notes=(note, *theirs.notes))


def differences(base: Vocabulary, mine: Vocabulary) -> list[str]:
    """How two vocabularies of one length differ, in words."""
    words = []
    ours, theirs = base.value("ggml.tokens"), mine.value("ggml.tokens")
    changed = [b for a, b in zip(ours, theirs, strict=True) if a != b]
    if changed:
        words.append(f"{len(changed)} tokens ({_listed(changed)})")
    kinds = zip(base.value("ggml.token_type"), mine.value("ggml.token_type"), theirs, strict=True)
    if other := [t for a, b, t in kinds if a != b and t not in set(changed)]:
        words.append(f"the kind of {len(other)} tokens ({_listed(other)})")
    if base.value("ggml.merges") != mine.value("ggml.merges"):
        words.append("the merges")
    if base.value("ggml.pre") != mine.value("ggml.pre"):
        words.append("the pre-tokenizer")
    for key in sorted({e.key.removeprefix("tokenizer.") for e in (*base.entries, *mine.entries)}):
        a, b = base.value(key), mine.value(key)
        if a != b and key.endswith("_token_id"):
            kind = key.removeprefix("ggml.").removesuffix("_token_id")
            words.append(f"{kind} {_text(b, theirs)} for {_text(a, ours)}")
        elif a != b and key.removeprefix("ggml.") in _FLAGS:
            words.append(f"{key.removeprefix('ggml.')} {b} for {a}")
        elif a != b and key.startswith("chat_template."):
            words.append(f"the {key}")
    if base.value("chat_template") != mine.value("chat_template"):
        words.append("the chat template" if base.value("chat_template") else
                     "the chat template, which the base lacks")  # fmt: skip
    return words


def _listed(tokens: list[str]) -> str:
    return ", ".join(repr(t)[:40] for t in tokens[:4]) + (", ..." if len(tokens) > 4 else "")


def _text(number: Any, tokens: list[str]) -> str:
    return "none" if number is None else repr(tokens[number])[:40]
