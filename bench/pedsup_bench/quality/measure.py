"""Compares a model with its reference over the texts: first the plan, then the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from pedsup.errors import UsageError
from pedsup.gguf_file.validate import validate_model
from pedsup.questions.texts import Text, windows
from pedsup_bench.quality import reference as ref
from pedsup_bench.quality.divergence import (
    TokenFigures,
    Window,
    Windows,
    open_windows,
    token_figures,
    window_row,
)
from pedsup_bench.quality.kept import KeptModel, kept_ids
from pedsup_bench.quality.logits import LogitModel
from pedsup_bench.report.bars import item_bar
from pedsup_bench.report.forecast import announce, seconds_per_token
from pedsup_bench.report.journal import file_identity, pair_identity
from pedsup_bench.report.texts import scored_from

DEFAULT_N_CTX: Final = 512
ALGORITHM: Final = 2
"""To be raised when the figures change, so that old journals are not continued."""


@dataclass(frozen=True)
class QualityPlan:
    """What to compare on what. Windows of `n_ctx` tokens, at most `n_chunks` per text."""

    model: Path
    reference: Path | None
    texts: tuple[Text, ...]
    n_ctx: int = DEFAULT_N_CTX
    n_chunks: int | None = None
    n_threads: int = 2
    logits_folder: Path | None = None
    """Keep the reference's log-probabilities there (16 bits each) and use what is there."""
    journal_folder: Path | None = None
    fresh: bool = False
    """Forget an interrupted run of the same plan."""
    adapter: Path | None = None
    """Applied to the model, not to the reference."""


@dataclass(frozen=True)
class TextTokens:
    """A text in windows; `tokens` are those of all windows, before bos is put in."""

    text: Text
    tokens: list[int]
    windows: list[list[int]]


def measure(plan: QualityPlan) -> dict[str, TokenFigures]:
    """Text name -> figures of its scored tokens.

    Raises:
        MismatchError: the two models have different vocabularies.
        UsageError: a text is shorter than one window, or neither reference is given.
        EngineError: llama.cpp cannot load or run a model.
    """
    check(plan)
    journal = open_windows(_key(plan), plan.journal_folder)
    if plan.fresh:
        journal.discard()
    done = dict(journal.read())
    with LogitModel(
        plan.model, n_ctx=plan.n_ctx, n_threads=plan.n_threads, adapter=plan.adapter
    ) as model:
        cut = [cut_text(model, text, plan) for text in plan.texts]
        with _references(plan, cut) as references:
            _announce(plan, model, references, cut, done)
            with _bar(plan, cut, done) as bar:
                _measure_windows(model, cut, references, (journal, done), bar)
    result = {
        part.text.name: TokenFigures.concatenate(
            [done[part.text.name, chunk] for chunk in range(len(part.windows))]
        )
        for part in cut
    }
    journal.discard()
    return result


def _measure_windows(
    model: LogitModel,
    cut: list[TextTokens],
    references: list[ref.Reference],
    kept: tuple[Windows, dict[Window, TokenFigures]],
    bar: tqdm,
) -> None:
    """Every window that is not done yet; each is on disk before the next begins."""
    journal, done = kept
    for part, source in zip(cut, references, strict=True):
        for chunk, window in enumerate(part.windows):
            if (part.text.name, chunk) not in done:
                figures = _measure_window(model, source, chunk, window, bar.update)
                journal.append(window_row(part.text.name, chunk, figures))
                done[part.text.name, chunk] = figures


def check(plan: QualityPlan) -> None:
    """Refuse an impossible plan before a model is loaded."""
    if plan.n_ctx < 8:
        raise UsageError(f"a window of {plan.n_ctx} tokens", wanted="8 or more")
    header = validate_model(plan.model)
    if plan.reference is None:
        if plan.logits_folder is None:
            raise UsageError("no reference", remedy="give --reference, or --logits with a file")
        return
    kept_ids(header, validate_model(plan.reference))


def cut_text(model: LogitModel, text: Text, plan: QualityPlan) -> TextTokens:
    """Tokenize a text and cut it into windows."""
    tokens = model.tokenize(text.content, add_special=True, parse_special=False)
    n_chunks = len(tokens) // plan.n_ctx
    if n_chunks == 0:
        raise UsageError(
            f"the text '{text.name}' has {len(tokens)} tokens",
            wanted=f"at least one window of {plan.n_ctx}",
            remedy="give a longer text or a smaller --ctx",
        )
    tokens = tokens[: min(n_chunks, plan.n_chunks or n_chunks) * plan.n_ctx]
    bos = model.bos if model.add_bos else None
    return TextTokens(text, tokens, windows(tokens, plan.n_ctx, bos))


def _measure_window(
    model: LogitModel,
    source: ref.Reference,
    chunk: int,
    window: list[int],
    on_tokens: Callable[[int], object],
) -> TokenFigures:
    first = scored_from(len(window))
    targets = np.asarray(window[first + 1 :], dtype=np.int64)
    parts, at = [], 0
    pairs = zip(
        source.log_probs(chunk, window), model.window_logits(window[:-1], first), strict=True
    )
    for log_p, rows in pairs:
        at_rows = targets[at : at + len(rows)]
        parts.append(
            token_figures(log_p, rows, at_rows, floor=source.floor, removed=source.removed)
        )
        at += len(rows)
        on_tokens(len(rows))
    return TokenFigures.concatenate(parts)


@contextmanager
def _references(plan: QualityPlan, cut: list[TextTokens]) -> Iterator[list[ref.Reference]]:
    """One source of reference log-probabilities per text."""
    with ExitStack() as stack:
        live: LogitModel | None = None
        if plan.reference is not None and not _all_written(plan, cut):
            live = stack.enter_context(_open_reference(plan, plan.reference))
        if plan.logits_folder is None:
            assert live is not None
            yield [ref.LiveReference(live)] * len(cut)
            return
        plan.logits_folder.mkdir(parents=True, exist_ok=True)
        if live is not None:
            _announce_reference(plan, live, cut)
        files = [logits_path(plan, part.text) for part in cut]
        for part, path in zip(cut, files, strict=True):
            _write_logits(part, path, live, plan)
        if live is not None:
            live.close()  # from here on its memory is free for the judged model
        yield [ref.LogitFile(path) for path in files]


def _open_reference(plan: QualityPlan, reference: Path) -> LogitModel:
    """The reference; one with a full vocabulary speaks the ids of a model with a cut one."""
    ids = kept_ids(validate_model(plan.model), validate_model(reference))
    if ids is None:
        return LogitModel(reference, n_ctx=plan.n_ctx, n_threads=plan.n_threads)
    return KeptModel(reference, ids, n_ctx=plan.n_ctx, n_threads=plan.n_threads)


def _all_written(plan: QualityPlan, cut: list[TextTokens]) -> bool:
    if plan.logits_folder is None:
        return False
    paths = [logits_path(plan, part.text) for part in cut]
    return all(p.is_file() and (f := ref.LogitFile(p)).complete_chunks == f.n_chunk for p in paths)


def logits_path(plan: QualityPlan, text: Text) -> Path:
    """The file of the reference's log-probabilities of a text."""
    assert plan.logits_folder is not None
    return plan.logits_folder / f"{text.name}.kld"


def _write_logits(part: TextTokens, path: Path, live: LogitModel | None, plan: QualityPlan) -> None:
    """Make the file of a text, or continue it."""
    if not path.is_file():
        if live is None:
            raise UsageError(
                "no reference logits", where=path, remedy="give --reference to make them"
            )
        ref.start_file(path, part.tokens, plan.n_ctx, live.n_vocab)
    file = ref.LogitFile(path)
    file.require(part.tokens, plan.n_ctx, live.n_vocab if live else file.n_vocab)
    start = ref.drop_partial_chunk(path)
    missing = part.windows[start:]
    if missing and live is None:
        raise UsageError(
            f"{start} of {len(part.windows)} windows are there",
            where=path,
            remedy="give --reference to make the rest",
        )
    label = f"reference {part.text.name}"
    with item_bar(len(part.windows), label, "window", initial=start) as bar:
        for window in missing:
            assert live is not None
            ref.append_chunk(path, live, window)
            bar.update()


def _key(plan: QualityPlan) -> dict[str, object]:
    reference = None if plan.reference is None else file_identity(plan.reference)
    return {
        "algorithm": ALGORITHM,
        "model": pair_identity(plan.model, plan.adapter),
        "reference": reference,
        "logits": str(plan.logits_folder and plan.logits_folder.resolve()),
        "texts": [(text.name, text.sha256) for text in plan.texts],
        "n_ctx": plan.n_ctx,
    }


def _left(cut: list[TextTokens], done: Collection[Window]) -> tuple[int, int]:
    """The number of all windows, and of those that are not done."""
    every = [(part.text.name, chunk) for part in cut for chunk in range(len(part.windows))]
    return len(every), sum(window not in done for window in every)


def _announce(
    plan: QualityPlan,
    model: LogitModel,
    references: list[ref.Reference],
    cut: list[TextTokens],
    done: Collection[Window],
) -> None:
    """Say how long the windows that are left take, by a part of one of them."""
    n_all, n_left = _left(cut, done)
    if not n_left:
        return
    said = f"{n_all} windows of {plan.n_ctx} tokens"
    if n_left < n_all:
        said += f", {n_all - n_left} of them from an interrupted run"
    live = next((r for r in references if isinstance(r, ref.LiveReference)), None)

    def a_part(tokens: Sequence[int]) -> None:
        if live is None:  # a reference from a file costs next to nothing
            deque(model.window_logits(tokens[:-1], scored_from(len(tokens))), 0)
        else:
            _measure_window(model, live, 0, list(tokens), lambda _n: None)

    each = seconds_per_token(a_part, cut[0].windows[0])
    announce(said, each * n_left * plan.n_ctx)


def _announce_reference(plan: QualityPlan, live: LogitModel, cut: list[TextTokens]) -> None:
    source = ref.LiveReference(live)
    each = seconds_per_token(lambda t: deque(source.log_probs(0, t), 0), cut[0].windows[0])
    n_windows = sum(len(part.windows) for part in cut)
    announce(f"reference, {n_windows} windows of {plan.n_ctx} tokens",
             each * n_windows * plan.n_ctx)  # fmt: skip


def _bar(
    plan: QualityPlan, cut: list[TextTokens], done: Collection[Window]
) -> AbstractContextManager[tqdm]:
    """Counts scored tokens: on a phone one window takes minutes."""
    n_all, n_left = _left(cut, done)
    each = plan.n_ctx - 1 - scored_from(plan.n_ctx)
    return item_bar(n_all * each, "quality", "token", initial=(n_all - n_left) * each)
