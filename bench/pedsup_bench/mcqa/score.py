"""Score questions: each option stands once at each letter, and its log-probabilities are averaged.

A model prefers some letters whatever stands beside them. With k options the question is asked k
times, rotation r showing option (i + r) mod k at letter i, so that this preference falls equally
on all options (cyclic permutations, as in Zheng et al. 2024, "Large language models are not
robust multiple choice selectors").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from pedsup.chat.prompt import dialogue_tokens
from pedsup.chat.templates.template import Message
from pedsup.errors import EngineError, UnsupportedError, UsageError
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup_bench.mcqa.questions import LETTERS, Question
from pedsup_bench.mcqa.result import Against, McqaFigures
from pedsup_bench.quality.divergence import log_softmax
from pedsup_bench.quality.logits import LogitModel
from pedsup_bench.report.bars import item_bar
from pedsup_bench.report.forecast import announce
from pedsup_bench.report.journal import open_journal, pair_identity
from pedsup_bench.stats import mcnemar_exact, wilson_interval


def figures(scored: Sequence[Scored], reference: Sequence[Scored] | None) -> McqaFigures:
    """Summarize at least one question; `reference` has the same questions in the same order."""
    n, right = len(scored), sum(s.right for s in scored)
    return McqaFigures(
        n=n,
        right=right,
        accuracy=right / n,
        interval=wilson_interval(right, n),
        chance=sum(1 / len(s.question.options) for s in scored) / n,
        accuracy_as_printed=sum(s.right_as_printed for s in scored) / n,
        consistent=sum(len(set(s.by_rotation)) == 1 for s in scored) / n,
        against=None if reference is None else _against(scored, reference),
    )


def _against(scored: Sequence[Scored], reference: Sequence[Scored]) -> Against:
    pairs = list(zip(scored, reference, strict=True))
    only_model = sum(a.right and not b.right for a, b in pairs)
    only_reference = sum(b.right and not a.right for a, b in pairs)
    return Against(
        accuracy=sum(b.right for _, b in pairs) / len(pairs),
        only_model=only_model,
        only_reference=only_reference,
        changed=sum(a.chosen != b.chosen for a, b in pairs),
        p_value=mcnemar_exact(only_model, only_reference),
    )


def by_language(
    scored: Sequence[Scored], reference: Sequence[Scored] | None
) -> dict[str, McqaFigures]:
    """Figures per language and, if there is more than one, under 'all'."""
    languages = sorted({s.question.language for s in scored})
    result = {}
    for language in languages:
        keep = [i for i, s in enumerate(scored) if s.question.language == language]
        result[language] = figures(
            [scored[i] for i in keep], None if reference is None else [reference[i] for i in keep]
        )
    if len(languages) > 1:
        result["all"] = figures(scored, reference)
    return result


INSTRUCTION: Final = {
    "en": "Answer this multiple-choice question. Reply with the letter of the right option only.",
    "es": "Responda esta pregunta de opción múltiple. "
    "Conteste solo con la letra de la opción correcta.",
}

PER_OPTION: Final = 4
"""Characters of a letter, its bracket, a space and the end of the line."""
PER_PROMPT: Final = 40
"""Characters that stand for the tokens which the template writes after the options."""
WARM_UP: Final = 8
"""Tokens."""
ROTATED: Final = 16
"""Tokens that another order of the options may take more: a letter may join what follows it."""


@dataclass(frozen=True)
class Scored:
    """One question's scores: mean log-probability of each option over all rotations, in nats."""

    question: Question
    scores: tuple[float, ...]
    by_rotation: tuple[int, ...]
    """The option chosen in each rotation."""

    @property
    def chosen(self) -> int:
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def right(self) -> bool:
        return self.chosen == self.question.answer

    @property
    def right_as_printed(self) -> bool:
        """Whether the options in their original order alone give the right answer."""
        return self.by_rotation[0] == self.question.answer


def rotation(n_options: int, r: int) -> list[int]:
    """The option that stands at each letter in rotation `r`."""
    return [(i + r) % n_options for i in range(n_options)]


def prompt_text(question: Question, order: Sequence[int]) -> str:
    """The user's message, with option `order[i]` at letter i."""
    lines = [INSTRUCTION.get(question.language, INSTRUCTION["en"]), "", question.text, ""]
    lines += [f"{LETTERS[i]}) {question.options[option]}" for i, option in enumerate(order)]
    return "\n".join(lines)


class Scorer:
    """A loaded model and its own chat template, thinking off.

    Raises:
        UnsupportedError: the template is missing or not known and not allowed.
    """

    def __init__(self, model: LogitModel, *, allow_template: bool = False) -> None:
        self._model = model
        self._letters: dict[int, list[int]] = {}
        self._template = model.chat_template(allow_unknown=allow_template)

    def tokens(self, question: Question, order: Sequence[int]) -> list[int]:
        """The prompt up to where the answer's letter stands. Nothing in it is a control token but
        what the template writes, as for a question that `pedsup-run` is asked."""
        message: Message = {"role": "user", "content": prompt_text(question, order)}
        return dialogue_tokens(self._model.vocabulary, self._template, [message], think=False)

    @property
    def path(self) -> Path:
        """The model's file."""
        return self._model.path

    def require_room(self, questions: Sequence[Question]) -> None:
        """Refuse a question that does not fit into the context, before any is asked.

        Raises:
            UsageError: its longest prompt has more tokens.
        """
        for question in questions:
            n = len(self.tokens(question, rotation(len(question.options), 0)))
            if n + ROTATED > self._model.n_ctx:
                raise UsageError(
                    f"question {question.id} takes a prompt of {n} tokens",
                    wanted=f"at most {self._model.n_ctx - ROTATED}",
                    remedy=f"give --ctx {n + ROTATED}, or leave the question out",
                )

    def warm_up(self, question: Question) -> None:
        """Bring the weights into memory: what is timed next is not the disk."""
        tokens = self.tokens(question, rotation(len(question.options), 0))
        self._model.read_only(tokens[:WARM_UP])

    def letter_tokens(self, n: int) -> list[int]:
        """The tokens of the first `n` letters right after a prompt.

        Found by tokenizing both together: alone, a vocabulary may put a space before a letter.
        """
        prompt = self._template.render([{"role": "user", "content": "?"}], think=False)
        before, tokens = self._tokens(prompt), []
        for letter in LETTERS[:n]:
            both = self._tokens(prompt + letter)
            if both[:-1] != before:
                raise UnsupportedError(
                    f"the letter {letter} is not one token after the prompt",
                    where=self._model.path,
                    wanted="a vocabulary and chat template where an answer can be one letter",
                )
            tokens.append(both[-1])
        return tokens

    def _tokens(self, text: str) -> list[int]:
        return self._model.vocabulary.tokenize(text, parse_special=True)

    def score(self, question: Question, on_rotation: Callable[[], object] = lambda: None) -> Scored:
        """Ask all rotations of one question."""
        n = len(question.options)
        letters = self._letters.get(n) or self.letter_tokens(n)
        self._letters[n] = letters
        sums, chosen = [0.0] * n, []
        for r in range(n):
            order = rotation(n, r)
            logits = self._model.next_logits(self.tokens(question, order))
            log_p = log_softmax(logits)[letters]
            if not all(map(math.isfinite, log_p)):
                raise EngineError(
                    f"the model's answer to question {question.id} is not a number",
                    where=self._model.path,
                    wanted="finite logits",
                    remedy="export the model again: its weights or their type are damaged",
                )
            for i, option in enumerate(order):
                sums[option] += float(log_p[i])
            chosen.append(order[int(log_p.argmax())])
            on_rotation()
        return Scored(question, tuple(total / n for total in sums), tuple(chosen))


def score_all(
    path: Path,
    questions: Sequence[Question],
    *,
    n_ctx: int,
    n_threads: int,
    allow_template: bool = False,
    adapter: Path | None = None,
) -> list[Scored]:
    """Score every question with the model at `path`; continues an interrupted run.

    Args:
        adapter: the GGUF of a LoRA adapter to apply to it.
    """
    settings = {"n_ctx": n_ctx, "allow_template": allow_template}
    key = [pair_identity(path, adapter), [astuple(question) for question in questions], settings]
    journal = open_journal("mcqa", key, _parse_answer)
    scored = [
        Scored(question, tuple(scores), tuple(chosen))
        for question, (scores, chosen) in zip(questions, journal.read(), strict=False)
    ]
    orders = [len(question.options) for question in questions]
    with (
        LogitModel(path, n_ctx=n_ctx, n_threads=n_threads, adapter=adapter) as model,
        item_bar(sum(orders), path.name, "prompt", initial=sum(orders[: len(scored)])) as bar,
    ):
        scorer = Scorer(model, allow_template=allow_template)
        left = questions[len(scored) :]
        scorer.require_room(left)
        for number, question in enumerate(left):
            if number == 0:
                scorer.warm_up(question)
            started = monotonic()
            answer = scorer.score(question, bar.update)
            journal.append({"scores": answer.scores, "by_rotation": answer.by_rotation})
            scored.append(answer)
            if number == 0:
                _announce(path, monotonic() - started, left)
    journal.discard()
    return scored


def characters_read(question: Question) -> int:
    """About how much is read of a question: its text once, since what the orders' prompts share
    is kept, then in each order the options and what follows them."""
    options = sum(map(len, question.options)) + PER_OPTION * len(question.options)
    return len(question.text) + len(question.options) * (options + PER_PROMPT)


def _announce(path: Path, seconds: float, questions: Sequence[Question]) -> None:
    """How long the others take if they are read as fast as the first, in so many seconds."""
    first, *left = questions
    share = sum(map(characters_read, left)) / characters_read(first)
    announce(f"{path.name}: {len(left)} more questions", seconds * share)


@dataclass(frozen=True)
class _Answer:
    """A line of the journal: scores by option, and the option chosen in each rotation."""

    scores: list[float]
    by_rotation: list[int]


def _parse_answer(row: object) -> tuple[list[float], list[int]]:
    answer = record(_Answer, row, Source("the journal", "the cache", only_known=False))
    return answer.scores, answer.by_rotation
