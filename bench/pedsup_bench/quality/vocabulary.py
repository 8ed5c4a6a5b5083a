"""What a cut vocabulary costs on real text: tokens, bits per byte, and the mass that was removed.

Each text is cut into passages of whole lines that fit the context in both tokenizations, so that
both models read and predict the very same bytes. Every token after bos is scored:

    bits per byte = sum of -log2 p(token) over the passage's tokens / its UTF-8 bytes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Final

import numpy as np

from pedsup.errors import MismatchError
from pedsup.gguf_file.cut_vocabulary import base_ids
from pedsup.gguf_file.validate import validate_model
from pedsup.questions.texts import Text
from pedsup_bench.quality.divergence import log_softmax
from pedsup_bench.quality.kept import kept_ids
from pedsup_bench.quality.logits import LogitModel
from pedsup_bench.report.bars import item_bar

DEFAULT_N_CTX: Final = 512


@dataclass(frozen=True)
class VocabularyPlan:
    """A cut model, the full one it was cut from, and texts."""

    model: Path
    reference: Path
    texts: tuple[Text, ...]
    n_ctx: int = DEFAULT_N_CTX
    n_passages: int | None = None
    """Most passages of each text."""
    n_threads: int = 2


@dataclass(frozen=True)
class VocabularyFigures:
    """One text through both models."""

    n_bytes: int
    tokens_full: int
    tokens_cut: int
    changed: float
    """Share of the full model's tokens that were cut and fall to smaller pieces here."""
    bits_per_byte_full: float
    bits_per_byte_cut: float
    removed_mass: float
    """Mean probability that the full model gives to tokens that were cut."""

    @property
    def ratio(self) -> float:
        """Bits per byte, cut to full."""
        return self.bits_per_byte_cut / self.bits_per_byte_full

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "ratio": self.ratio}


@dataclass
class _Sums:
    nats: float = 0.0
    tokens: int = 0
    removed: float = 0.0


def measure(plan: VocabularyPlan) -> dict[str, VocabularyFigures]:
    """Text name -> figures.

    Raises:
        MismatchError: the model's vocabulary was not cut from the reference's.
    """
    kept = require_cut(plan)
    with (
        LogitModel(plan.model, n_ctx=plan.n_ctx, n_threads=plan.n_threads) as cut,
        LogitModel(plan.reference, n_ctx=plan.n_ctx, n_threads=plan.n_threads) as full,
    ):
        found = {}
        for text in plan.texts:
            parts = list(passages(text.content, (cut, full), plan.n_ctx))[: plan.n_passages]
            found[text.name] = _measure_text(text.name, parts, (cut, full), kept)
    return found


def require_cut(plan: VocabularyPlan) -> np.ndarray:
    """The ids in the reference of the model's tokens, int64 [n_tokens]."""
    model = validate_model(plan.model)
    ids = kept_ids(model, validate_model(plan.reference))
    if ids is None or base_ids(model) is None:
        raise MismatchError(
            "the vocabulary of this file was not cut from that of the reference",
            where=plan.model,
            wanted="a file that was exported with --languages, and its full one as --reference",
        )
    return ids


def passages(text: str, models: Sequence[LogitModel], n_ctx: int) -> Iterator[str]:
    """Whole lines that fit a context in every model; a line that is too long alone is halved."""
    waiting = ""
    for line in text.splitlines(keepends=True):
        for piece in _pieces(line, models, n_ctx):
            if waiting and not _fits(waiting + piece, models, n_ctx):
                yield waiting
                waiting = ""
            waiting += piece
    if waiting.strip():
        yield waiting


def _fits(text: str, models: Sequence[LogitModel], n_ctx: int) -> bool:
    return all(len(_tokens(model, text)) <= n_ctx for model in models)


def _pieces(line: str, models: Sequence[LogitModel], n_ctx: int) -> Iterator[str]:
    if _fits(line, models, n_ctx) or len(line) < 2:
        yield line
        return
    half = line.rfind(" ", 1, len(line) // 2 + 1)
    half = half if half > 0 else len(line) // 2
    yield from _pieces(line[:half], models, n_ctx)
    yield from _pieces(line[half:], models, n_ctx)


def _tokens(model: LogitModel, text: str) -> list[int]:
    return [model.bos, *model.tokenize(text, add_special=False, parse_special=False)]


def _measure_text(
    name: str, parts: Sequence[str], models: tuple[LogitModel, LogitModel], kept: np.ndarray
) -> VocabularyFigures:
    cut, full = _Sums(), _Sums()
    n_bytes = changed = 0
    with item_bar(len(parts), name, "passage") as bar:
        for part in parts:
            n_bytes += len(part.encode("utf-8"))
            theirs = _tokens(models[1], part)
            changed += int((~np.isin(theirs[1:], kept)).sum())
            _add(cut, models[0], _tokens(models[0], part))
            _add(full, models[1], theirs, lambda log_p: 1 - np.exp(log_p[:, kept]).sum(axis=-1))
            bar.update()
    return VocabularyFigures(
        n_bytes=n_bytes,
        tokens_full=full.tokens,
        tokens_cut=cut.tokens,
        changed=changed / full.tokens,
        bits_per_byte_full=full.nats / log(2) / n_bytes,
        bits_per_byte_cut=cut.nats / log(2) / n_bytes,
        removed_mass=max(0.0, full.removed / full.tokens),
    )


def _add(
    sums: _Sums,
    model: LogitModel,
    tokens: list[int],
    removed: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Score every token but the first."""
    targets, at = np.asarray(tokens[1:]), 0
    for rows in model.window_logits(tokens[:-1], 0):
        log_p = log_softmax(rows)
        wanted = targets[at : at + len(rows)]
        sums.nats -= float(log_p[np.arange(len(wanted)), wanted].sum())
        if removed is not None:
            sums.removed += float(removed(log_p).sum())
        at += len(rows)
    sums.tokens += len(targets)
