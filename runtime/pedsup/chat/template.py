"""The model's own chat template, rendered in jinja2's sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict


class Message(TypedDict):
    """One message of the history; `content` is the answer without reasoning for the assistant."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatTemplate:
    """A chat template that was recognised, or allowed by the user."""

    name: str
    supports_thinking: bool

    @classmethod
    def from_model(cls, source: str | None, *, allow_unknown: bool = False) -> ChatTemplate:
        """Check a model's template.

        Args:
            source: `ModelInfo.chat_template`, or the text of a file the user gave.
            allow_unknown: the user gave --allow-template.

        Raises:
            UnsupportedError: there is none, or it is not one of the known ones.
            BadFileError: it is no valid template.
        """
        raise NotImplementedError

    def render(
        self, messages: Sequence[Message], *, think: bool, add_generation_prompt: bool = True
    ) -> str:
        """The prompt text, with bos and special tokens as text."""
        raise NotImplementedError
