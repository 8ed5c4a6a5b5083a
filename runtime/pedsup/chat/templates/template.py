"""The model's own chat template: recognised by its digest, or by what it renders.

A template is a program that comes with a model file. One that is recognised never runs in a
session: its family renders. Any other runs in a process of its own, bounded in time, memory and
output, which can do nothing but make text (`pedsup.chat.templates.process`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from typing import Final

from pedsup.chat.templates.known import FAMILIES, PROBES, Family, Message, ThoughtMarkers
from pedsup.chat.templates.process import TemplateProcess, refusal
from pedsup.engine.api import Engine
from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file import ArrayValue, GGUFHeader
from pedsup.gguf_file.tokenizer import TOKENS
from pedsup.messages import message

__all__ = ["ChatTemplate", "Message", "ThoughtMarkers"]

MAX_SOURCE: Final = 1 << 18
ENDS: Final = ("bos", "eos")


class ChatTemplate:
    """A chat template that was recognised, or allowed by the user."""

    def __init__(self, source: str, family: Family | None, *, bos: str = "", eos: str = "") -> None:
        self._program = TemplateProcess(source)  # started when it is needed
        self._bos, self._eos = bos, eos
        self.digest = hashlib.sha256(source.encode("utf-8")).hexdigest()
        self.thought: ThoughtMarkers | None = _guess_thought(source)
        self.around_picture = _around_picture(source)
        self._set_family(family)

    def _set_family(self, family: Family | None) -> None:
        """Say which family it is; None for one that the user allows."""
        self._family = family
        self.name = family.name if family else f"unknown-{self.digest[:12]}"
        self.thought = family.thought if family else self.thought
        self.stops: tuple[str, ...] = family.stops if family else ()

    @property
    def supports_thinking(self) -> bool:
        """Whether the model can be asked to reason before it answers."""
        return self.thought is not None and (self._family is None or self._family.asks)

    @classmethod
    def from_model(
        cls, source: str | None, *, allow_unknown: bool = False, bos: str = "", eos: str = ""
    ) -> ChatTemplate:
        """Check a model's template.

        Args:
            source: `ModelInfo.chat_template`, or the text of a file the user gave.
            allow_unknown: the user gave --allow-template.
            bos, eos: the texts of these tokens, for templates that write them.

        Raises:
            UnsupportedError: there is none, or it is not one of the known ones.
            BadFileError: it is not a valid template.
        """
        source = _required(source)
        digest = hashlib.sha256(source.encode("utf-8")).hexdigest()
        known = next((family for family in FAMILIES if digest in family.digests), None)
        template = cls(source, known, bos=bos, eos=eos)
        if known is None:
            template._set_family(template._recognised())
            if template._family is not None:
                template.close()
        if template._family is None and not allow_unknown:
            template.close()
            raise UnsupportedError(
                "the model's chat template is not one that pedsup knows",
                where=f"tokenizer.chat_template, SHA-256 {digest}",
                wanted=message(
                    "the template of {names}", names=", ".join(family.name for family in FAMILIES)
                ),
                remedy="read the template; if you trust it, give --allow-template",
            )
        return template

    @classmethod
    def from_header(cls, header: GGUFHeader, *, allow_unknown: bool = False) -> ChatTemplate | None:
        """`from_model` for a file that is not loaded; None where it does not name bos and eos.

        llama.cpp has numbers of its own for these, which `from_engine` is told.
        """
        source = _required(header.get("tokenizer.chat_template"))
        bos, eos = (_token_text(header, f"tokenizer.ggml.{name}_token_id") for name in ENDS)
        if bos is None or eos is None:
            return None
        return cls.from_model(source, allow_unknown=allow_unknown, bos=bos, eos=eos)

    @classmethod
    def from_engine(cls, engine: Engine, *, allow_unknown: bool = False) -> ChatTemplate:
        """`from_model` for a loaded model."""
        info = engine.info
        texts = [
            engine.piece(token).decode("utf-8", "replace") if token >= 0 else ""
            for token in (info.bos, info.eos)
        ]
        return cls.from_model(
            info.chat_template, allow_unknown=allow_unknown, bos=texts[0], eos=texts[1]
        )

    def render(
        self, messages: Sequence[Message], *, think: bool, add_generation_prompt: bool = True
    ) -> str:
        """The prompt text, with bos and special tokens as text.

        Raises:
            UnsupportedError: an unknown template refuses the messages, or does what the sandbox
                forbids.
        """
        text = self._text(messages, think, add_generation_prompt)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            # Half of a surrogate pair: the tokenizer could not be given it.
            raise refusal(f"UnicodeEncodeError: {error.reason}") from error
        return text

    def _text(self, messages: Sequence[Message], think: bool, prompt: bool) -> str:
        if self._family is not None:
            return self._family.render(messages, self._bos, think, prompt)
        (text,) = self._program.render([self._variables(messages, think, prompt)])
        if isinstance(text, UnsupportedError):
            raise text
        return text

    def close(self) -> None:
        """End the process of an unknown template; `render` starts another one."""
        self._program.close()

    def _recognised(self) -> Family | None:
        """The family that renders all probes as this template does."""
        cases = [
            (messages, think, prompt)
            for messages in PROBES
            for think in (False, True)
            for prompt in (False, True)
        ]
        texts = self._program.render([self._variables(*case) for case in cases])
        for family in FAMILIES:
            if texts == [family.render(m, self._bos, think, prompt) for m, think, prompt in cases]:
                return family
        return None

    def _variables(
        self, messages: Sequence[Message], think: bool, prompt: bool
    ) -> dict[str, object]:
        return {
            "messages": [{"role": m["role"], "content": m["content"]} for m in messages],
            "add_generation_prompt": prompt,
            "enable_thinking": think,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
        }


def _guess_thought(source: str) -> ThoughtMarkers | None:
    """An allowed, unknown template that names a known model's channel gets its parser."""
    known = (family.thought for family in FAMILIES if family.thought and family.asks)
    return next((markers for markers in known if markers.opening in source), None)


def _token_text(header: GGUFHeader, key: str) -> str | None:
    token, texts = header.get(key), header.get(TOKENS)
    if not isinstance(token, int) or not isinstance(texts, ArrayValue):
        return None
    text = next(islice(texts.raw_strings(), token, None), None) if token >= 0 else None
    return None if text is None else text.decode("utf-8", "replace")


def _required(source: object) -> str:
    """The template of a model that has one. Raises as `ChatTemplate.from_model`."""
    if not isinstance(source, str) or not source:
        raise UnsupportedError(
            "the model has no chat template",
            wanted="an instruction-tuned model with tokenizer.chat_template",
            remedy="export it again from a base whose tokenizer has one",
        )
    if len(source) > MAX_SOURCE:
        raise BadFileError(
            message("the chat template has {n} characters", n=len(source)),
            where="tokenizer.chat_template",
            wanted=message("at most {n}", n=MAX_SOURCE),
            remedy="export the model again from a base with its own template",
        )
    return source


def _around_picture(source: str) -> str:
    """What stands before and behind a picture.

    The first templates of Gemma 4 E2B and E4B write empty lines, the larger models' do not. For
    Gemma 3, whose template writes <start_of_image> alone, its processor adds them.
    """
    separate = r"\n\n<|image|>\n\n" in source or "<start_of_image>" in source
    return "\n\n" if separate else ""
