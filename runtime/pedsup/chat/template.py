"""The model's own chat template, rendered in jinja2's sandbox.

A template is a program that comes with a model file. It runs here with no more than text
operations, for a bounded time and to a bounded length (CVE-2024-34359 is what happens else).
The environment is that of transformers' `apply_chat_template`, so that the prompt is too.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pedsup.chat.known_templates import FAMILIES, PROBES, Family, Message, ThoughtMarkers
from pedsup.engine.api import Engine
from pedsup.errors import BadFileError, PedsupError, UnsupportedError

__all__ = ["ChatTemplate", "Message", "ThoughtMarkers"]

MAX_SOURCE: Final = 1 << 18
MAX_OUTPUT: Final = 1 << 24
"""Characters: more than any context holds."""
MAX_SECONDS: Final = 5.0
MAX_REPEAT: Final = 1 << 16
# Text and list filters only. `center`, `indent`, `wordwrap`, `format` and the like can be told
# to make gigabytes from a short text.
_FILTER_NAMES: Final = """
    trim upper lower title capitalize replace default d string safe escape e join length count
    list first last map select reject selectattr rejectattr dictsort items sort unique reverse
    int float abs min max sum round groupby
"""
FILTERS: Final = frozenset(_FILTER_NAMES.split())


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, with the operators that make long texts from short ones bounded."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**" or (operator == "%" and not isinstance(left, int)):
            raise SecurityError(f"the operator {operator} is not for templates")
        if operator == "*" and not (_small(left) and _small(right)):
            raise SecurityError("a product that is too large")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A chat template that was recognised, or allowed by the user."""

    def __init__(self, source: str, family: Family | None, *, bos: str = "", eos: str = "") -> None:
        self._compiled = _compile(source)
        self._bos, self._eos = bos, eos
        self.digest = hashlib.sha256(source.encode("utf-8")).hexdigest()
        self.thought: ThoughtMarkers | None = _guess_thought(source)
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
        return self.thought is not None

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
            BadFileError: it is no valid template.
        """
        if not source:
            raise UnsupportedError(
                "the model has no chat template",
                wanted="an instruction-tuned model with tokenizer.chat_template",
                remedy="export it again from a base whose tokenizer has one",
            )
        if len(source) > MAX_SOURCE:
            raise BadFileError(f"the chat template has {len(source)} characters")
        digest = hashlib.sha256(source.encode("utf-8")).hexdigest()
        known = next((family for family in FAMILIES if digest in family.digests), None)
        template = cls(source, known, bos=bos, eos=eos)
        if known is None:
            template._set_family(next(filter(template._renders_as, FAMILIES), None))
        if template._family is None and not allow_unknown:
            raise UnsupportedError(
                "the model's chat template is not one that pedsup knows",
                where=f"tokenizer.chat_template, SHA-256 {digest}",
                wanted="the template of " + ", ".join(family.name for family in FAMILIES),
                remedy="read the template; if you trust it, give --allow-template",
            )
        return template

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
            UnsupportedError: the template refuses the messages, does what the sandbox forbids,
                or renders something else than its family does.
        """
        text = self._run(messages, think=think, prompt=add_generation_prompt)
        if self._family is not None:
            wanted = self._family.render(messages, self._bos, think, add_generation_prompt)
            if text != wanted:
                raise UnsupportedError(
                    f"the chat template does not render this dialogue as {self.name} does",
                    where=f"tokenizer.chat_template, SHA-256 {self.digest}",
                    remedy="do not use this file before you know who changed its template",
                )
        return text

    def _renders_as(self, family: Family) -> bool:
        try:
            return all(
                self._run(messages, think=think, prompt=prompt)
                == family.render(messages, self._bos, think, prompt)
                for messages in PROBES
                for think in (False, True)
                for prompt in (False, True)
            )
        except PedsupError:
            return False

    def _run(self, messages: Sequence[Message], *, think: bool, prompt: bool) -> str:
        variables = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": prompt,
            "enable_thinking": think,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
        }
        try:
            with _deadline(MAX_SECONDS):
                return _bounded(self._compiled.generate(**variables))
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _refusal(error) from error
        except (AttributeError, RecursionError, MemoryError, TimeoutError) as error:
            raise _refusal(error) from error


def _refusal(error: Exception) -> UnsupportedError:
    return UnsupportedError(
        "the chat template cannot be rendered",
        where=f"{type(error).__name__}: {str(error)[:300]}",
        remedy="the template and this dialogue do not fit: /reset, or export the model again",
    )


def _compile(source: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters = {k: f for k, f in environment.filters.items() if k in FILTERS}
    environment.filters["tojson"] = _tojson
    environment.globals = {
        "range": environment.globals["range"],
        "namespace": environment.globals["namespace"],
        "dict": dict,
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise BadFileError(
            "the model's chat template is no valid template",
            where=f"tokenizer.chat_template: {error}",
            remedy="export the model again from a base with a valid template",
        ) from error


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """As in transformers: no HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _small(value: object) -> bool:
    if isinstance(value, int | float):
        return abs(value) <= MAX_REPEAT
    return isinstance(value, str | list | tuple) and len(value) <= MAX_REPEAT


def _bounded(chunks: Iterator[str]) -> str:
    out, size = [], 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_OUTPUT:
            raise SecurityError("the output is too long")
        out.append(chunk)
    return "".join(out)


def _guess_thought(source: str) -> ThoughtMarkers | None:
    """An allowed, unknown template that names Gemma 4's channel gets its parser."""
    markers = FAMILIES[0].thought
    return markers if markers is not None and markers.opening in source else None


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the block after `seconds`; only the main thread can be stopped so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"no end after {seconds:.0f} s")

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGALRM, stop)
    pending = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *pending)
        signal.signal(signal.SIGALRM, before)
