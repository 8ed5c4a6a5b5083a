"""Held-out examples through a file: loss of the answer, exact match, and the option chosen.

An example is rendered as training renders it: the prompt by the model's own chat template, the
answer tokenized by itself, closed by the end of the turn. The model reads both at once. So at each
token of the answer the model has before it what it would have after writing all before; if each
time the right token is the most probable one, then greedy decoding writes exactly this answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pedsup.chat.dialogue_text import answer_tokens, prompt_tokens
from pedsup.errors import EngineError, UsageError
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup.questions.dialogues import Dialogue
from pedsup_bench.quality.divergence import log_softmax
from pedsup_bench.quality.logits import LogitModel
from pedsup_bench.report.bars import item_bar
from pedsup_bench.report.journal import open_journal, pair_identity

N_CTX: Final = 4096
_OPTION: Final = re.compile(r"^([A-Z])\)", re.MULTILINE)
_CHOSEN: Final = re.compile(r"^(?:[^\W\d_]+: *)?([A-Z])(?=\)|$)", re.MULTILINE)


@dataclass(frozen=True)
class TaskPlan:
    """What to score: examples, and what the file is compared with."""

    examples: tuple[Dialogue, ...]
    n_threads: int = 2
    n_ctx: int = N_CTX
    allow_template: bool = False
    adapter: Path | None = None
    """Applied to the file, not to its reference."""


@dataclass(frozen=True)
class ExampleScore:
    """One example through one file."""

    n_tokens: int
    """Tokens of the answer, its end of turn included."""
    nats: float
    """Minus the log-probability of the answer."""
    right_tokens: int
    """Tokens of the answer that are the most probable ones at their places."""
    option: int | None = None
    """The option chosen, where the answer names one by its letter."""
    answer: int | None = None
    """The option that the answer names."""

    @property
    def exact(self) -> bool:
        """Whether greedy decoding writes exactly the answer."""
        return self.right_tokens == self.n_tokens

    @property
    def right(self) -> bool:
        """Whether the task was done: the right option, or where there is none, the exact answer."""
        return self.exact if self.option is None else self.option == self.answer


def score_all(path: Path, plan: TaskPlan, adapter: Path | None = None) -> list[ExampleScore]:
    """Score every example with the file at `path`; continues an interrupted run.

    Raises:
        UsageError: an example is longer than the context.
        UnsupportedError: the chat template is missing or not known and not allowed.
        EngineError: a log-probability is not a number.
    """
    settings = {"n_ctx": plan.n_ctx, "allow_template": plan.allow_template}
    key = [pair_identity(path, adapter), [asdict(e) for e in plan.examples], settings]
    source = Source("the journal", "the cache")
    journal = open_journal("task", key, lambda row: record(ExampleScore, row, source))
    scored = journal.read()[: len(plan.examples)]
    with (
        LogitModel(path, n_ctx=plan.n_ctx, n_threads=plan.n_threads, adapter=adapter) as model,
        item_bar(len(plan.examples), f"task {path.name}", "example", initial=len(scored)) as bar,
    ):
        scorer = Scorer(model, allow_template=plan.allow_template)
        for number in range(len(scored), len(plan.examples)):
            scored.append(scorer.score(number, plan.examples[number]))
            journal.append(asdict(scored[-1]))
            bar.update()
    journal.discard()
    return scored


@dataclass(frozen=True)
class _Choice:
    """Where an answer's letter stands among its tokens, and the tokens of all letters there."""

    place: int
    tokens: tuple[int, ...]
    right: int


class Scorer:
    """A loaded model and its own chat template."""

    def __init__(self, model: LogitModel, *, allow_template: bool = False) -> None:
        self._model = model
        self._template = model.chat_template(allow_unknown=allow_template)

    def score(self, number: int, example: Dialogue) -> ExampleScore:
        """Score one example; `number` is its place, for messages."""
        before, target = self.prompt(example), self.answer(example)
        tokens = [*before, *target]
        if len(tokens) > self._model.n_ctx:
            raise UsageError(
                f"example {number + 1} has {len(tokens)} tokens",
                wanted=f"at most {self._model.n_ctx}",
                remedy="leave it out, or cut it as training did (data.max_length)",
            )
        choice = self._choice(example, target)
        nats, right, at = 0.0, 0, 0
        option = None
        for log_p in self._answer_rows(tokens, len(before)):
            wanted = np.asarray(target[at : at + len(log_p)])
            nats -= float(log_p[np.arange(len(wanted)), wanted].sum())
            right += int((log_p.argmax(axis=-1) == wanted).sum())
            if choice is not None and at <= choice.place < at + len(log_p):
                option = int(log_p[choice.place - at, list(choice.tokens)].argmax())
            at += len(log_p)
        if not np.isfinite(nats):
            raise EngineError(
                f"the loss of example {number + 1} is not a number",
                where=self._model.path,
                wanted="finite logits",
                remedy="export the model again: its weights or their type are damaged",
            )
        return ExampleScore(len(target), nats, right, option, choice.right if choice else None)

    def _answer_rows(self, tokens: Sequence[int], n_prompt: int) -> Iterator[NDArray[np.float64]]:
        """Log-probabilities at the places of the answer's tokens, [rows, n_vocab]."""
        for rows in self._model.window_logits(tokens[:-1], n_prompt - 1):
            yield log_softmax(rows)

    def prompt(self, example: Dialogue) -> list[int]:
        """The tokens up to where the answer begins. What the example spells is text to the model,
        as in `pedsup-run`: control tokens are the template's."""
        return prompt_tokens(example, self._template, self._model.vocabulary)

    def answer(self, example: Dialogue) -> list[int]:
        """The tokens of the answer, likewise, and of the end of its turn."""
        return answer_tokens(example, self._template, self._model.vocabulary)

    def _choice(self, example: Dialogue, target: Sequence[int]) -> _Choice | None:
        """The letter in the answer; None without options, or if it is not one token."""
        letters = offered_letters(example)
        found = list(_CHOSEN.finditer(example.answer))
        if not letters or not found or found[-1][1] not in letters:
            return None
        start, end = found[-1].span(1)
        places, tokens = set[int](), []
        for letter in letters:
            other = f"{example.answer[:start]}{letter}{example.answer[end:]}"
            ids = self.answer(replace(example, answer=other))
            if len(ids) != len(target):
                return None
            tokens.append(ids)
            places |= {i for i, (a, b) in enumerate(zip(ids, target, strict=True)) if a != b}
        if len(places) != 1:
            return None
        (place,) = places
        return _Choice(place, tuple(ids[place] for ids in tokens), letters.index(found[-1][1]))


def offered_letters(example: Dialogue) -> list[str]:
    """A, B, C, ... where the last question offers options so; [] where it does not."""
    found = _OPTION.findall(example.before[-1]["content"]) if example.before else []
    expected = [chr(ord("A") + i) for i in range(len(found))]
    return found if len(found) > 1 and found == expected else []
