"""The full model as the reference of one whose vocabulary was cut: the same ids, kept tokens only.

Both models read the pieces that the cut tokenizer makes. The reference's probabilities are those
among kept tokens; what it gave to the others is reported apart, as the mass that was removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pedsup.errors import MismatchError
from pedsup.gguf_file import ArrayValue, GGUFHeader
from pedsup.gguf_file.cut_vocabulary import BASE_SIZE, base_ids, is_cut
from pedsup_bench.quality.logits import FloatRows, LogitModel

Ids = NDArray[np.int64]


class KeptModel(LogitModel):
    """A full model that takes and gives the token ids of a cut one."""

    def __init__(self, path: Path, ids: Ids, *, n_ctx: int, n_threads: int) -> None:
        super().__init__(path, n_ctx=n_ctx, n_threads=n_threads)
        self._ids, self.n_vocab_full, self.n_vocab = ids, self.n_vocab, len(ids)
        self.removed = np.zeros(0)

    def window_logits(self, tokens: Sequence[int], first: int) -> Iterator[FloatRows]:
        """See `LogitModel.window_logits`; float32 [rows, kept tokens]."""
        ids = self._ids
        for rows in super().window_logits([int(ids[t]) for t in tokens], first):
            kept = rows[:, ids]
            self.removed = _removed_mass(rows, kept)
            yield kept

    def _rows(self, n: int) -> FloatRows:
        return np.ctypeslib.as_array(self.logits_address, shape=(n, self.n_vocab_full))


def _removed_mass(rows: FloatRows, kept: FloatRows) -> NDArray[np.float64]:
    top = rows.max(axis=-1, keepdims=True).astype(np.float64)
    whole, part = (np.exp(r - top).sum(axis=-1) for r in (rows, kept))
    mass: NDArray[np.float64] = np.clip(1.0 - part / whole, 0.0, 1.0)
    return mass


def kept_ids(model: GGUFHeader, reference: GGUFHeader) -> Ids | None:
    """For each token of a cut model its id in the reference; None for equal vocabularies.

    Raises:
        MismatchError: the vocabularies are neither the same nor one cut from the other.
    """
    kinds = [h.get("tokenizer.ggml.model") for h in (model, reference)]
    mine, theirs = (_tokens(h) for h in (model, reference))
    ids = base_ids(model)
    whole = ids is None and not is_cut(reference)
    if kinds[0] == kinds[1] and (len(mine) == len(theirs) if whole else mine == theirs):
        return None
    fits = ids is not None and kinds[0] == kinds[1] and len(theirs) == model.get(BASE_SIZE)
    if not fits or ids is None or [theirs[i] for i in ids] != mine:
        raise MismatchError(
            "the model and the reference have different vocabularies",
            where=f"{model.path} and {reference.path}",
            wanted="two files of the same model; one with a cut vocabulary may be held against "
            "the full one",
            remedy="give the 16-bit file that this one was quantized from as --reference",
        )
    return np.asarray(ids, dtype=np.int64)


def _tokens(header: GGUFHeader) -> list[bytes]:
    value = header.get("tokenizer.ggml.tokens")
    return list(value.raw_strings()) if isinstance(value, ArrayValue) else []
