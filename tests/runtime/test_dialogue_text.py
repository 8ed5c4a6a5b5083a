"""Training examples as the model reads them: transformers' own rendering as the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest
from pedsup_testing import tiny_models

from pedsup.chat.dialogue_text import answer_tokens, end_of_turn, prompt_tokens
from pedsup.chat.templates.known import FAMILIES
from pedsup.chat.templates.template import ChatTemplate
from pedsup.questions.dialogues import Dialogue, Turn

TURNS: tuple[Turn, ...] = (
    {"role": "user", "content": "¿Tiene fiebre?"},
    {"role": "assistant", "content": "Sí."},
    {"role": "user", "content": "Check the weight."},
)


class Characters:
    """A tokenizer whose tokens are characters."""

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return [ord(character) for character in text]


def prompt_and_answer(dialogue: Dialogue, template: ChatTemplate) -> tuple[str, str]:
    tokens = (made(dialogue, template, Characters()) for made in (prompt_tokens, answer_tokens))
    prompt, answer = ("".join(map(chr, one)) for one in tokens)
    return prompt, answer


@pytest.mark.slow
def test_prompt_and_answer_are_what_transformers_renders(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install 'pedsup[train]'")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_models.llama(tmp_path / "base"))
    messages = [*TURNS, {"role": "assistant", "content": "Controle el peso."}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    template = ChatTemplate.from_model(
        tokenizer.chat_template, allow_unknown=True, bos=tokenizer.bos_token
    )
    prompt, answer = prompt_and_answer(Dialogue(TURNS, "Controle el peso."), template)
    template.close()
    assert prompt + answer + "\n" == whole
    assert answer == "Controle el peso.<turn|>"


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.thought is not None])
def test_a_thought_stands_before_the_answer_in_its_channel(family: object) -> None:
    template = ChatTemplate("", family)  # type: ignore[arg-type]
    marks = template.thought
    end = end_of_turn(template)
    assert marks is not None and end in template.stops
    assert end in ("<turn|>", "<end_of_turn>", "<|im_end|>")
    prompt, answer = prompt_and_answer(Dialogue(TURNS, "Sí.", "It is high."), template)
    assert prompt == template.render([{**t} for t in TURNS], think=True)
    written = f"{marks.opening}{marks.header}It is high.{marks.closing}Sí."
    assert answer == written + end
    # An answer that has its channel already is taken as it is.
    assert prompt_and_answer(Dialogue(TURNS, written), template) == (prompt, answer)
    template.close()
