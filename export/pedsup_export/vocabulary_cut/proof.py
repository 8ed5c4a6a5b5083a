"""That the cut vocabulary does what it promises, checked on the written file's own metadata.

1. Structure: its tokens, types and scores are the full model's at the kept ids, its merges are
   those among kept tokens, named ids stand for the same tokens, every byte can be spelled, and no
   kept token lacks a piece that it is made of. With the argument in `derivation` this alone
   proves that text of kept tokens is tokenized as before.
2. Text: tokenized by both in Python. A line whose tokens are all kept must give the same ones;
   every line must come back unchanged.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pedsup.errors import MismatchError, UntrustedError
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.cut_vocabulary import BASE_SIZE, base_ids
from pedsup.gguf_file.validate import validate_model_or_drafter
from pedsup.gguf_file.values import ArrayValue
from pedsup.progress import say
from pedsup.trust.manifest import Manifest
from pedsup_export.tokenizer.files import TokenizerDocument
from pedsup_export.vocabulary_cut.cut import VocabularyCut, ids_digest
from pedsup_export.vocabulary_cut.derivation import Derivations, split_merge
from pedsup_export.vocabulary_cut.encoder import Encoder

GENERATED: Final = 20_000
"""Strings made of kept tokens at each export; the tests take a million."""
OTHER_TEXT: Final = (
    "中文也能写：孩子发烧三天了。\n", "日本語のテキスト。\n", "Дитина хвора.\n", "الطفل مريض\n",
    "👩🏽‍⚕️🩺👶🏿 emoji 🇵🇪\n", "n\u0303 e\u0301 decomposed\n", "\u200d\u2060\ufeff\n",
    "\x00\x01\x7f\n",
    "𝔐𝔞𝔱𝔥 ⅞ ﷽\n",
)  # fmt: skip
"""Text that is mostly split into bytes."""


@dataclass(frozen=True)
class CutProof:
    """What was compared."""

    lines: int
    lines_of_kept_tokens: int
    tokens: int
    tokens_more: int
    """That the cut vocabulary takes for the same text."""


def check_entries(cut: VocabularyCut, header: GGUFHeader) -> None:
    """Compare a file's tokenizer metadata with the full model's.

    Raises:
        MismatchError: what differs.
    """
    ids = base_ids(header)
    if ids is None or tuple(ids) != cut.base_ids:
        raise _wrong("the kept ids", header)
    values = {k.removeprefix("tokenizer.ggml."): v for k, v in header.metadata.items()}
    base = cut.base
    for name, wanted in (("tokens", base.tokens), ("token_type", base.types),
                         ("scores", base.scores)):  # fmt: skip
        if wanted is not None and name in values:
            found, kept = _items(values.get(name)), [wanted[i] for i in ids]
            if name == "scores":  # they are float32 in the file
                kept = np.asarray(kept, dtype=np.float32).tolist()
            if found != kept:
                raise _wrong(f"the list of {name}", header)
    if base.merges and _items(values.get("merges")) != cut.merges(base.merges):
        raise _wrong("the list of merges", header)
    check_closed(cut, header.path)


def _items(value: object) -> list[object]:
    return list(value.values()) if isinstance(value, ArrayValue) else []


def check_closed(cut: VocabularyCut, where: object) -> None:
    """No kept token lacks a piece that it is made of, and every byte can be spelled.

    Raises:
        MismatchError: the first that does.
    """
    derivations = Derivations(cut.base)
    for token in cut.base_ids:
        if missing := derivations.needs(token) - cut.kept:
            raise MismatchError(
                f"the token {cut.base.tokens[token]!r} was kept without "
                f"{cut.base.tokens[min(missing)]!r}, which it is made of",
                where=where,
                wanted="a vocabulary that is closed over its merges",
            )
    if missing := (cut.base.byte_ids | cut.base.special_ids) - cut.kept:
        raise MismatchError(
            f"the token {cut.base.tokens[min(missing)]!r} was cut", where=where,
            wanted="every byte token and every token that the metadata names",
        )  # fmt: skip


def prove_texts(cut: VocabularyCut, full: Encoder, mine: Encoder, lines: Sequence[str]) -> CutProof:
    """Tokenize lines with both vocabularies.

    Raises:
        MismatchError: a line of kept tokens gives others, or a line does not come back.
    """
    same = tokens = more = 0
    for line, theirs, ours in zip(
        lines, full.encode_all(lines), mine.encode_all(lines), strict=True
    ):
        back = [cut.base_ids[i] for i in ours]
        if cut.kept.issuperset(theirs):
            same += 1
            if back != theirs:
                raise MismatchError(
                    "the cut vocabulary tokenizes this text differently, although all its tokens "
                    f"were kept: {line[:80]!r}",
                    wanted="the same tokens",
                    remedy="report this: the cut is wrong, not your text",
                )
        elif mine.decode(ours) != full.decode(theirs):
            raise MismatchError(
                f"this text does not come back from the cut vocabulary: {line[:80]!r}",
                wanted="the same text",
                remedy="report this: the cut is wrong, not your text",
            )
        tokens += len(theirs)
        more += len(ours) - len(theirs)
    return CutProof(len(lines), same, tokens, more)


def cut_document(document: TokenizerDocument, cut: VocabularyCut) -> TokenizerDocument:
    """The tokenizer.json of the cut vocabulary, for Python's tokenizers."""
    model, kept = document["model"].copy(), cut.new_ids
    model["vocab"] = {t: kept[i] for t, i in model["vocab"].items() if i in kept}
    pairs = (m if isinstance(m, list) else split_merge(m) for m in model.get("merges") or [])
    model["merges"] = [[a, b] for a, b in pairs if a in model["vocab"] and b in model["vocab"]
                       and a + b in model["vocab"]]  # fmt: skip
    out = document.copy()
    out["model"] = model
    out["added_tokens"] = [
        {**token, "id": kept[token["id"]]}
        for token in document.get("added_tokens", [])
        if token["id"] in kept
    ]
    out["post_processor"] = _renumbered(copy.deepcopy(document.get("post_processor")), kept)
    return out


def _renumbered(node: object, kept: Mapping[int, int]) -> Any:
    """A post-processor with its `ids` of special tokens mapped."""
    if isinstance(node, dict):
        return {
            key: [kept[i] for i in value] if key == "ids" else _renumbered(value, kept)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_renumbered(value, kept) for value in node]
    return node


def generated_lines(cut: VocabularyCut, count: int, seed: int = 0) -> Iterator[str]:
    """Strings of kept tokens in random order, some with characters of other scripts between."""
    draw = random.Random(seed)
    texts = [t for i in cut.base_ids if not cut.base.is_marker(i) and (t := cut.base.text(i))]
    others = [c for line in OTHER_TEXT for c in line]
    for _ in range(count):
        parts = draw.choices(texts, k=draw.randint(1, 12))
        if draw.random() < 0.1:
            parts.insert(draw.randrange(len(parts)), draw.choice(others))
        yield "".join(parts)


def prove_cut(
    cut: VocabularyCut, header: GGUFHeader, document: TokenizerDocument, texts: Iterable[str]
) -> dict[str, object]:
    """Both proofs; the figures for the manifest.

    Args:
        header: of the written file.
        document: the full model's tokenizer.json.
    """
    check_entries(cut, header)
    lines = [line for text in texts for line in text.splitlines(True)]
    lines += [*OTHER_TEXT, *generated_lines(cut, GENERATED)]
    full, mine = Encoder.from_document(document), Encoder.from_document(cut_document(document, cut))
    return asdict(prove_texts(cut, full, mine, lines))


def check_map(header: GGUFHeader, manifest: Manifest) -> None:
    """Compare the file's map of token ids with its manifest.

    Raises:
        UntrustedError: only one of them has a cut vocabulary, or they differ.
    """
    ids = base_ids(header)
    recorded = manifest.facts.vocabulary or {}
    names = ("base_ids_sha256", "tokens", "base_tokens")
    found = [ids_digest(ids), len(ids), header.get(BASE_SIZE)] if ids is not None else [None] * 3
    if found != [recorded.get(name) for name in names]:
        raise UntrustedError(
            f"the map of token ids differs from the manifest: {found}",
            where=header.path,
            wanted=repr([recorded.get(name) for name in names])[:200],
            remedy="copy the file and its manifest again from where they were exported",
        )


def prove_vocabulary(cut: VocabularyCut | None, file: Path) -> dict[str, object] | None:
    """Both proofs on a written file; what its manifest says of the vocabulary.

    Returns:
        None where the vocabulary is whole.

    Raises:
        MismatchError: the file's vocabulary is not what it should be.
    """
    if cut is None:
        return None
    say("vocabulary: the same text through the full one and the cut one")
    return summary(
        cut, prove_cut(cut, validate_model_or_drafter(file), cut.document, cut.texts.values())
    )


def summary(cut: VocabularyCut, proof: Mapping[str, object] | None = None) -> dict[str, object]:
    """What the manifest says of the vocabulary."""
    return {
        "base_tokens": len(cut.base.tokens),
        "tokens": cut.n_tokens,
        "base_ids_sha256": cut.map_sha256,
        "recipe": cut.recipe,
        "lost_by_word_list": {code: round(share, 6) for code, share in cut.lost.items()},
        "proof": dict(proof) if proof is not None else None,
    }


def _wrong(what: str, header: GGUFHeader) -> MismatchError:
    return MismatchError(
        f"{what} is not what the full model has at the kept ids",
        where=header.path,
        wanted="the file that was cut from this base",
        remedy="give the base that the manifest names, or export again",
    )
