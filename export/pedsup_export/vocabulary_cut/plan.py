"""From what the user asked for to the cut: read the sources, choose, and say what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib import metadata

from pedsup.questions.texts import read_text
from pedsup_export.gguf.header import KV
from pedsup_export.model import Model
from pedsup_export.tokenizer.files import Tokenizer, TokenizerDocument
from pedsup_export.tokenizer.token_list import engine
from pedsup_export.vocabulary_cut.choose import Wish, choose, required, short_pieces, usable
from pedsup_export.vocabulary_cut.cut import Recipe, VocabularyCut
from pedsup_export.vocabulary_cut.derivation import Derivations
from pedsup_export.vocabulary_cut.encoder import Encoder
from pedsup_export.vocabulary_cut.languages import Language
from pedsup_export.vocabulary_cut.request import DEFAULT_SIZE, VocabularyRequest
from pedsup_export.vocabulary_cut.signs import UNITS
from pedsup_export.vocabulary_cut.token_file import ids_of_gguf, ids_of_list, is_gguf
from pedsup_export.vocabulary_cut.token_list import TokenList, token_list
from pedsup_export.vocabulary_cut.weights import (
    MAX_TEXT,
    TokenWeights,
    clinical_names,
    clinical_terms,
    shipped_texts,
    text_counts,
    word_weights,
)


def cut_model(
    request: VocabularyRequest | None, model: Model
) -> tuple[Model, VocabularyCut | None]:
    """Choose the tokens that stay, and leave the others out of the model.

    Returns:
        The model as it is and None when the vocabulary stays whole.

    Raises:
        UnsupportedError: the tokenizer cannot be cut.
        UsageError: the size is impossible.
        BadFileError, MissingFileError: a text or list cannot be used.
        MismatchError: the adapter trained the row of a token that would be cut.
        MissingDependencyError: the word lists are not installed.
    """
    if request is None:
        return model, None
    cut = plan_vocabulary(request, model.tokenizer, model.vocabulary.entries)
    cut.require_trained_rows(model.matches)
    entries = tuple(cut.entries(model.vocabulary.entries))
    return replace(
        model,
        vocabulary=replace(model.vocabulary, entries=entries),
        tensors=cut.tensors(model.tensors),
        hyper=tuple(cut.hyperparameters(model.hyper)),
    ), cut


def plan_vocabulary(
    request: VocabularyRequest, tokenizer: Tokenizer, vocabulary: Sequence[KV]
) -> VocabularyCut:
    """Choose the tokens that stay.

    Args:
        vocabulary: the tokenizer's metadata entries of the full model.
    """
    tokens = token_list(vocabulary, document_merges(tokenizer.document))
    texts = texts_to_keep(request, vocabulary)
    cut = cut_tokens(request, tokens, Encoder(engine(tokenizer)), texts)
    return replace(cut, document=tokenizer.document, texts=texts)


def document_merges(document: TokenizerDocument) -> list[str]:
    """The merges of tokenizer.json as 'left right'."""
    merges = document["model"].get("merges") or []
    return [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]


def texts_to_keep(request: VocabularyRequest, vocabulary: Sequence[KV]) -> dict[str, str]:
    """Name -> text whose every token stays: pedsup's own, the chat template, the user's."""
    templates = [e.value for e in vocabulary if e.key.startswith("tokenizer.chat_template")
                 and isinstance(e.value, str)]  # fmt: skip
    units = "\n".join(f"{unit} {unit}" for unit in UNITS)
    terms = "\n".join(map(_in_all_forms, [*clinical_terms(), *clinical_names()]))
    user = {path.name: read_text(path, "--keep-text", MAX_TEXT) for path in request.keep_texts}
    return {**shipped_texts(), "chat template": "\n".join(templates), "units": units,
            "clinical terms": terms, **user}  # fmt: skip


def _in_all_forms(term: str) -> str:
    """A term as it appears in text: at the start of a line, after a space, after a bracket.

    A lower-case term is also kept with a capital.
    """
    forms = (term, term.capitalize()) if term.islower() else (term,)
    return "\n".join(f"{form} {form}" for form in forms)


def cut_tokens(
    request: VocabularyRequest, tokens: TokenList, encoder: Encoder, texts: dict[str, str]
) -> VocabularyCut:
    """The cut of a token list.

    Args:
        texts: every token that they use stays.
    """
    weights = [w for lang in request.languages if (w := word_weights(lang, encoder)) is not None]
    if request.file is not None and is_gguf(request.file):
        ids = ids_of_gguf(request.file, tokens)
    else:
        used = set(text_counts(texts.values(), encoder))
        del encoder  # it and the table of merges take 200 MB each: not both at once
        ids = choose(tokens, Derivations(tokens), _wish(request, tokens, used, weights))
    kept = frozenset(ids)
    lost = {w.language.code: w.lost(kept) for w in weights}
    return VocabularyCut(tokens, ids, _recipe(request, texts), lost)


def _wish(
    request: VocabularyRequest,
    tokens: TokenList,
    used: set[int],
    weights: Sequence[TokenWeights],
) -> Wish:
    must = required(tokens) | used
    if request.file is not None:
        must |= ids_of_list(request.file, tokens)
    total: Counter[int] = Counter()
    for shares in (*(w.shares for w in weights), *_spelled(tokens, request.languages)):
        for token, share in shares.items():
            total[token] += share  # type: ignore[assignment]
    size = request.size
    if size is None and request.languages and len(tokens.tokens) > DEFAULT_SIZE:
        size = DEFAULT_SIZE
    may = usable(tokens, request.languages) if request.languages else set()
    return Wish(frozenset(must), frozenset(may), total, size)


def _spelled(tokens: TokenList, languages: Iterable[Language]) -> list[dict[int, float]]:
    """For languages without a word list: their short pieces, in the order of training (Zipf)."""
    found = []
    for language in languages:
        if language.words is None:
            pieces = sorted(short_pieces(tokens, language))
            total = sum(1 / rank for rank in range(1, len(pieces) + 1))
            found.append({t: 1 / rank / total for rank, t in enumerate(pieces, 1)})
    return found


def _recipe(request: VocabularyRequest, texts: dict[str, str]) -> Recipe:
    lists = {lang.code: lang.words for lang in request.languages}
    version = metadata.version("wordfreq") if any(lists.values()) else None
    return {
        "languages": list(lists),
        "size": request.size,
        "file": request.file.name if request.file is not None else None,
        "words": {"source": "wordfreq", "version": version, "lists": lists} if lists else None,
        "texts": {name: sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
