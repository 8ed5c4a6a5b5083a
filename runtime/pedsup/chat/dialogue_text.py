"""A training example as the model reads and writes it: prompt and answer, by its chat template.

The same form as training has it: the prompt is what an engine sends, with the generation prompt at
its end, and the answer ends with what closes the model's turn.
"""

from __future__ import annotations

from typing import Final

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
    marks, answer = template.thought, dialogue.answer
    written = marks is not None and answer.startswith(marks.opening)
    think = marks is not None and (bool(dialogue.thought) or written)
    if marks is not None and dialogue.thought and not written:
        answer = f"{marks.opening}{marks.header}{dialogue.thought}{marks.closing}{answer}"
    before: list[Message] = [
        {"role": turn["role"], "content": turn["content"]} for turn in dialogue.before
    ]
    return template.render(before, think=think), answer + end_of_turn(template)
