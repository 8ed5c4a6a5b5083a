"""Per-token figures of two distributions, in float64.

With p the reference's and q the judged model's distribution of the next token, and t the token
that follows in the text:

    kld    = sum_v p(v) (ln p(v) - ln q(v))        nats
    nll    = -ln q(t),  nll_ref = -ln p(t)         nats
    p_diff = q(t) - p(t)
    same   = argmax q == argmax p                  (its opposite is a 'flip')

The same definitions as llama.cpp's tools/perplexity, which differs in two details: it keeps p
in 16 bits and leaves out tokens with p below e^-16.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pedsup.files.journal import LineJournal
from pedsup_bench.report.journal import open_journal

Float64 = NDArray[np.float64]
UNKNOWN = -1.0


@dataclass(frozen=True)
class TokenFigures:
    """One value per scored token; all arrays have the same length."""

    kld: Float64
    nll: Float64
    nll_ref: Float64
    p_diff: Float64
    same: Float64
    """1.0 or 0.0."""
    removed: Float64
    """The reference's probability of tokens that were cut; `UNKNOWN` if not known."""

    def __len__(self) -> int:
        return len(self.kld)

    def to_lists(self) -> dict[str, list[float]]:
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_lists(cls, lists: dict[str, list[float]]) -> TokenFigures:
        """Raises KeyError or ValueError for a wrong shape."""
        arrays = {f.name: np.asarray(lists[f.name], dtype=np.float64) for f in fields(cls)}
        if len({array.shape for array in arrays.values()}) != 1 or arrays["kld"].ndim != 1:
            raise ValueError("arrays of different shapes")
        return cls(**arrays)

    @classmethod
    def concatenate(cls, parts: list[TokenFigures]) -> TokenFigures:
        names = (field.name for field in fields(cls))
        return cls(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in names})


def log_softmax(logits: NDArray[np.float32]) -> Float64:
    """Log-probabilities along the last axis, in float64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x


def token_figures(
    log_p: Float64,
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    *,
    floor: float = -np.inf,
    removed: Float64 | None = None,
) -> TokenFigures:
    """Compare a reference with a model on some positions.

    Args:
        log_p: [rows, n_vocab] log-probabilities of the reference.
        logits: [rows, n_vocab] logits of the judged model.
        targets: [rows] the token that follows.
        floor: log-probabilities at or below it count as probability 0 in the divergence.
        removed: [rows] the reference's probability of tokens that are not among `n_vocab`.
    """
    log_q = log_softmax(logits)
    rows = np.arange(len(targets))
    nll, nll_ref = -log_q[rows, targets], -log_p[rows, targets]
    # argmax of NaN is the first one: two models without a single number would agree.
    same = (log_q.argmax(axis=-1) == log_p.argmax(axis=-1)) & ~np.isnan(nll) & ~np.isnan(nll_ref)
    p = np.where(log_p > floor, np.exp(log_p), 0.0)
    kld = (p * (log_p - log_q)).sum(axis=-1)
    return TokenFigures(
        # Rounding can give -1e-17 for equal distributions.
        kld=np.maximum(kld, 0.0),
        nll=nll,
        nll_ref=nll_ref,
        p_diff=np.exp(-nll) - np.exp(-nll_ref),
        same=same.astype(np.float64),
        removed=np.full(len(rows), UNKNOWN) if removed is None else removed,
    )


Window = tuple[str, int]
"""Text name and window number."""
Windows = LineJournal[tuple[Window, TokenFigures]]


def open_windows(key: dict[str, object], folder: Path | None = None) -> Windows:
    """The journal of the windows that are finished."""
    return open_journal("quality", key, _parse, folder)


def window_row(text: str, chunk: int, figures: TokenFigures) -> dict[str, object]:
    """A finished window as a line of the journal."""
    return {"text": text, "chunk": chunk, "figures": figures.to_lists()}


def _parse(row: Any) -> tuple[Window, TokenFigures]:
    return (row["text"], row["chunk"]), TokenFigures.from_lists(row["figures"])
