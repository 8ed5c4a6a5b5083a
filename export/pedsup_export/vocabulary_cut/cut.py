"""Metadata and tensors of the cut model, from those of the full one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypedDict

import numpy as np

from pedsup.errors import BadFileError, MismatchError, UnsupportedError
from pedsup.gguf_file import ValueType
from pedsup.gguf_file.cut_vocabulary import BASE_IDS, BASE_SIZE
from pedsup_export.adapter.match import MatchReport
from pedsup_export.arch import ModelTensors, OutputTensor
from pedsup_export.gguf.header import KV, array, u32
from pedsup_export.tokenizer.files import TokenizerDocument
from pedsup_export.vocabulary_cut.derivation import split_merge
from pedsup_export.vocabulary_cut.token_list import TokenList

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLES: Final = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
"""The tensors with a row for each token."""
_PER_TOKEN: Final = ("tokens", "scores", "token_type")
_LISTED: Final = 8


def ids_digest(ids: Sequence[int]) -> str:
    """SHA-256 of token ids as little-endian int32."""
    return hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes()).hexdigest()


class Recipe(TypedDict):
    """What was asked for, as the manifest records it."""

    languages: list[str]
    size: int | None
    file: str | None
    words: dict[str, object] | None
    texts: dict[str, str]
    """Name -> SHA-256."""


@dataclass(frozen=True, eq=False)
class VocabularyCut:
    """Which tokens of a vocabulary stay, and why."""

    base: TokenList = field(repr=False)
    base_ids: tuple[int, ...] = field(repr=False)
    """Ascending; the place in it is the new id."""
    recipe: Recipe
    """What was asked for, for the manifest."""
    lost: dict[str, float]
    """Language -> share of its tokens, by word list, that fall to smaller pieces."""
    document: TokenizerDocument = field(default_factory=TokenizerDocument, repr=False)
    """The full model's tokenizer.json."""
    texts: dict[str, str] = field(default_factory=dict, repr=False)
    """Name -> text whose every token stays."""

    @property
    def n_tokens(self) -> int:
        """Tokens that stay."""
        return len(self.base_ids)

    @cached_property
    def kept(self) -> frozenset[int]:
        """The ids that stay."""
        return frozenset(self.base_ids)

    @cached_property
    def new_ids(self) -> dict[int, int]:
        """Id in the full model -> id in the cut one."""
        return {old: new for new, old in enumerate(self.base_ids)}

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The rows of the tables that stay, int64 [n_tokens]."""
        return np.asarray(self.base_ids, dtype=np.int64)

    @property
    def saved_metadata(self) -> int:
        """Bytes that the tokenizer's metadata is shorter, the map of ids counted."""
        base, kept = self.base, self.kept
        gone = [i for i in range(len(base.tokens)) if i not in kept]
        per_token = 8 + 4 + (4 if base.scores is not None else 0)
        saved = sum(len(base.tokens[i].encode()) + per_token for i in gone)
        merges = set(self.merges(base.merges)) if base.merges else set()
        saved += sum(8 + len(m.encode()) for m in base.merges if m not in merges)
        return saved - 4 * self.n_tokens

    @property
    def map_sha256(self) -> str:
        """Digest of the base ids."""
        return ids_digest(self.base_ids)

    def entries(self, vocabulary: Sequence[KV]) -> list[KV]:
        """The tokenizer's entries for the cut model, and the map to the full one's ids.

        Raises:
            UnsupportedError: an entry that may hold token ids and that this function does not know.
        """
        out = [self._entry(entry) for entry in vocabulary]
        out.append(u32(BASE_SIZE, len(self.base.tokens)))
        out.append(array(BASE_IDS, ValueType.INT32, list(self.base_ids)))
        return out

    def _entry(self, entry: KV) -> KV:
        name = entry.key.removeprefix("tokenizer.ggml.")
        if name in _PER_TOKEN:
            return replace(entry, value=[entry.value[i] for i in self.base_ids])
        if name == "merges":
            return replace(entry, value=self.merges(entry.value))
        if name.endswith("_token_id"):
            if entry.value not in self.new_ids:
                raise BadFileError(
                    f"'{entry.key}' is {entry.value}",
                    where="the tokenizer files of the base",
                    wanted=f"an id below {len(self.base.tokens)}, the number of tokens",
                )
            return replace(entry, value=self.new_ids[entry.value])
        numbers = entry.type is ValueType.ARRAY and entry.element is not ValueType.STRING
        if numbers and entry.key.startswith("tokenizer."):
            raise UnsupportedError(
                f"'{entry.key}' may hold token ids", wanted="a vocabulary that can be cut",
                remedy="leave --languages and --vocabulary out",
            )  # fmt: skip
        return entry

    def merges(self, merges: Sequence[str]) -> list[str]:
        """The merges among kept tokens, in their order.

        A merge that names an absent token would make a piece without an id, which llama.cpp
        then spells in bytes.
        """
        kept = {self.base.tokens[i] for i in self.base_ids}
        pairs = ((merge, *split_merge(merge)) for merge in merges)
        return [m for m, a, b in pairs if a in kept and b in kept and a + b in kept]

    def hyperparameters(self, hyper: Sequence[KV]) -> list[KV]:
        """The model's own entries with the new number of tokens."""
        return [
            replace(e, value=self.n_tokens) if e.key.endswith(".vocab_size") else e for e in hyper
        ]

    def tensors(self, model: ModelTensors) -> ModelTensors:
        """The same tensors, those of `TABLES` with the kept rows only."""
        return replace(model, outputs=tuple(self._tensor(t) for t in model.outputs))

    def _tensor(self, tensor: OutputTensor) -> OutputTensor:
        if tensor.name not in TABLES:
            return tensor
        shape = (self.n_tokens, *tensor.shape[1:])
        return replace(tensor, shape=shape, kept_rows=self.rows)

    def require_trained_rows(self, matches: MatchReport | None) -> None:
        """Refuse to cut a token whose own row the adapter was trained to change.

        Raises:
            MismatchError: names the tokens.
        """
        changes = matches.matched.values() if matches else ()
        trained = {int(i) for c in changes if c.tokens is not None for i in c.tokens.indices}
        if lost := sorted(trained - self.kept):
            shown = ", ".join(repr(self.base.text(i))[:40] for i in lost[:_LISTED])
            more = f" and {len(lost) - _LISTED} more" if len(lost) > _LISTED else ""
            raise MismatchError(
                f"the adapter trained the rows of {len(lost)} tokens that would be cut: "
                f"{shown}{more}",
                wanted="a vocabulary that keeps them",
                remedy="give a text that uses them with --keep-text, or a larger --vocabulary",
            )
