"""From an example to tokens: the model's own chat template, loss on the answer only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pedsup.errors import UnsupportedError
from pedsup.questions.multiple_choice import LETTERS
from pedsup_train.data.examples import BadRow, Example
from pedsup_train.recipe.schema import DataConfig

IGNORE: Final = -100
"""The label that transformers' loss leaves out."""

INSTRUCTION: Final = {
    "en": "Choose the best option and explain why.",
    "es": "Elija la mejor opción y explique por qué.",
}
BARE_INSTRUCTION: Final = {"en": "Choose the best option.", "es": "Elija la mejor opción."}
"""Where the data has no explanation (all of PeruMedQA, half of MedMCQA): to ask for one and
answer without would teach the model to leave it out when it is asked for."""
ANSWER: Final = {"en": "Answer", "es": "Respuesta"}


@dataclass(frozen=True)
class Rendered:
    """One example as tokens. `labels[i]` is `input_ids[i]` in the answer and -100 before it."""

    prompt: str
    answer: str
    input_ids: tuple[int, ...]
    n_prompt: int
    source: str = ""
    example: Example | None = None
    """What was rendered; None for tokens that no text stands behind (benchmarks)."""

    @property
    def labels(self) -> list[int]:
        return [IGNORE] * self.n_prompt + list(self.input_ids[self.n_prompt :])

    def feature(self) -> dict[str, list[int]]:
        """What the collator takes."""
        return {"input_ids": list(self.input_ids), "labels": self.labels}


def user_text(example: Example) -> str:
    """The user's turn: the question and, if there are any, its lettered options."""
    if not example.options:
        return example.question
    lines = [f"{LETTERS[i]}) {text}" for i, text in enumerate(example.options)]
    texts = INSTRUCTION if example.explanation else BARE_INSTRUCTION
    instruction = texts.get(example.lang[:2], texts["en"])
    return f"{example.question}\n\n" + "\n".join(lines) + f"\n\n{instruction}"


def answer_line(example: Example) -> str:
    """'Answer: B) ...' in the example's language."""
    word = ANSWER.get(example.lang[:2], ANSWER["en"])
    return f"{word}: {LETTERS[example.answer]}) {example.options[example.answer]}"


class Renderer:
    """Renders examples with one tokenizer and one style.

    The prompt is exactly the text that an inference engine sends (template with its
    generation prompt), tokenised by itself, as there; the answer is tokenised by itself and
    ends with the model's end-of-turn token. So the border between them is a border between
    tokens whatever the vocabulary merges, and the mask is exact by construction.

    Raises:
        UnsupportedError: the tokenizer has no chat template, or the template has no end of
            turn, or the style needs a thought channel that the model does not have.
    """

    def __init__(self, tokenizer: Any, config: DataConfig) -> None:
        self.tokenizer, self.config = tokenizer, config
        if not getattr(tokenizer, "chat_template", None):
            raise UnsupportedError(
                "the tokenizer has no chat template",
                where=getattr(tokenizer, "name_or_path", None),
                wanted="an instruction-tuned model",
            )
        added = tokenizer.added_tokens_decoder.values()
        self._special = sorted(
            {t.content for t in added if t.special or t.content.startswith("<|")}, key=len
        )
        self._end_of_turn = self._find_end_of_turn()
        if config.style == "thought" and "<|channel>" not in tokenizer.get_vocab():
            raise UnsupportedError(
                "data.style 'thought' with a model that has no thought channel",
                wanted="Gemma 4, or another style",
                remedy="--set data.style=explain-first",
            )

    def _find_end_of_turn(self) -> str:
        """The special token that the template writes after an assistant's answer."""
        probe = "pedsup end of turn probe"
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": probe}]
        text = self._template(messages, prompt=False)
        tail = text.partition(probe)[2]
        found = [(tail.find(token), token) for token in self._special if token in tail]
        if found:
            return str(min(found, key=lambda pair: (pair[0], -len(pair[1])))[1])
        if self.tokenizer.eos_token:
            return str(self.tokenizer.eos_token)
        raise UnsupportedError("the chat template closes no turn", wanted="an end-of-turn token")

    def _template(self, messages: list[dict[str, str]], *, prompt: bool, **options: Any) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt, **options
            )
        )

    def messages(self, example: Example) -> list[dict[str, str]]:
        """What is said before the answer."""
        messages = [{"role": "user", "content": user_text(example)}]
        if self.config.system_prompt:
            messages.insert(0, {"role": "system", "content": self.config.system_prompt})
        return messages

    def answer_parts(self, example: Example) -> tuple[str, str]:
        """The assistant's turn in the configured style: thought (or '') and answer."""
        if not example.options:
            return "", example.explanation
        line = answer_line(example)
        if not example.explanation:
            return "", line
        if self.config.style == "answer-first":
            return "", f"{line}\n\n{example.explanation}"
        if self.config.style == "thought":
            return example.explanation, line
        return "", f"{example.explanation}\n\n{line}"

    def answer_text(self, example: Example) -> str:
        """The assistant's turn as the model writes it, without the end-of-turn token."""
        thought, answer = self.answer_parts(example)
        return f"<|channel>thought\n{thought}<channel|>{answer}" if thought else answer

    def render(self, example: Example) -> Rendered:
        """Tokens and mask of one example.

        Raises:
            ValueError: a text holds one of the model's control tokens: it would change the
                structure of the conversation.
        """
        user, answer = user_text(example), self.answer_text(example)
        for text in (user, example.explanation, *example.options):
            for token in self._special:
                if token in text:
                    raise ValueError(f"the text holds the control token {token}")
        thinks = bool(self.answer_parts(example)[0])
        options = {"enable_thinking": True} if thinks else {}
        prompt = self._template(self.messages(example), prompt=True, **options)
        answer += self._end_of_turn
        prompt_ids, answer_ids = self._tokens(prompt), self._tokens(answer)
        ids = (*prompt_ids, *answer_ids)
        return Rendered(prompt, answer, ids, len(prompt_ids), example.source, example)

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class TokenStats:
    """Lengths in tokens of a rendered part."""

    n: int
    total: int
    answer: int
    shortest: int
    median: int
    p95: int
    longest: int

    @classmethod
    def of(cls, items: Sequence[Rendered]) -> TokenStats:
        """Count a part (all zeros for an empty one)."""
        lengths = sorted(len(item.input_ids) for item in items) or [0]
        return cls(
            n=len(items),
            total=sum(lengths),
            answer=sum(len(item.input_ids) - item.n_prompt for item in items),
            shortest=lengths[0],
            median=round(statistics.median(lengths)),
            p95=lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))],
            longest=lengths[-1],
        )


def render_all(
    renderer: Renderer, examples: Sequence[Example], max_length: int
) -> tuple[list[Rendered], list[BadRow]]:
    """Render a part; what is too long or holds control tokens is returned as bad rows."""
    kept: list[Rendered] = []
    bad: list[BadRow] = []
    for example in examples:
        where = f"{example.source}#{example.id}"
        try:
            item = renderer.render(example)
        except ValueError as error:
            bad.append(BadRow(where, str(error)))
            continue
        if len(item.input_ids) > max_length:
            bad.append(BadRow(where, f"{len(item.input_ids)} tokens, more than {max_length}"))
        else:
            kept.append(item)
    return kept, bad
