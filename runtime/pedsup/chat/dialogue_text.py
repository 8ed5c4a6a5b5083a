"""A training example as the model reads and writes it: prompt and answer, by its chat template.

The same form as training has it: the prompt is what an engine sends, with the generation prompt at
its end, and the answer ends with what closes the model's turn.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pedsup.chat.prompt import Tokenizer, dialogue_tokens, has_control_text, text_tokens
from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.questions.dialogues import Dialogue

_PROBE: Final = "pedsup-end-of-turn-probe"


def end_of_turn(template: ChatTemplate) -> str:
    """What a template writes right after an answer, up to the end of that line."""
    messages: list[Message] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": _PROBE},
    ]
    text = template.render(messages, think=False, add_generation_prompt=False)
    return text.partition(_PROBE)[2].split("\n")[0].strip()


def prompt_and_answer(dialogue: Dialogue, template: ChatTemplate) -> tuple[str, str]:
    """The text up to where the model begins to write, and what it should write."""
    answer = "".join(part.text for part in _answer_parts(dialogue, template))
    return template.render(_before(dialogue), think=_thinks(dialogue, template)), answer


def prompt_tokens(dialogue: Dialogue, template: ChatTemplate, tokenizer: Tokenizer) -> list[int]:
    """The tokens up to where the model begins to write; control tokens are the template's only."""
    thinks = _thinks(dialogue, template)
    return dialogue_tokens(tokenizer, template, _before(dialogue), think=thinks)


def answer_tokens(dialogue: Dialogue, template: ChatTemplate, tokenizer: Tokenizer) -> list[int]:
    """The tokens that the model should write; no control token but those of thought and turn."""
    parts = _answer_parts(dialogue, template)
    if not any(has_control_text(tokenizer, part.text) for part in parts if not part.markup):
        return tokenizer.tokenize("".join(part.text for part in parts), parse_special=True)
    tokens: list[int] = []
    for part in parts:
        if part.markup:
            tokens += tokenizer.tokenize(part.text, parse_special=True)
        else:
            tokens += text_tokens(tokenizer, part.text)
    return tokens


class _Part(NamedTuple):
    """A part of what the model should write: text, or what stands around it."""

    text: str
    markup: bool = False


def _before(dialogue: Dialogue) -> list[Message]:
    return [{"role": turn["role"], "content": turn["content"]} for turn in dialogue.before]


def _thinks(dialogue: Dialogue, template: ChatTemplate) -> bool:
    marks = template.thought
    return marks is not None and (
        bool(dialogue.thought) or dialogue.answer.startswith(marks.opening)
    )


def _answer_parts(dialogue: Dialogue, template: ChatTemplate) -> list[_Part]:
    """The thought, if there is one, and the answer, each with its marks."""
    marks, answer = template.thought, dialogue.answer
    parts: list[_Part] = []
    if marks is not None and _thinks(dialogue, template):
        thought = f"{marks.header}{dialogue.thought}"
        if answer.startswith(marks.opening):  # the data write their thought with its marks
            thought, closing, answer = answer.removeprefix(marks.opening).partition(marks.closing)
        else:
            closing = marks.closing
        parts = [_Part(marks.opening, True), _Part(thought), _Part(closing, True)]
    return [*parts, _Part(answer), _Part(end_of_turn(template), True)]
