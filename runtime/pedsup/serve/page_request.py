"""A question of the page, checked: what is asked, where, and how it is to be answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from pedsup.chat.events import TurnSettings
from pedsup.pictures.picture import Picture
from pedsup.serve.chat_request import MAX_TOKENS
from pedsup.serve.faults import Document, bad_value
from pedsup.serve.fields import Fields
from pedsup.serve.pictures import Pictures
from pedsup.texts.intended_use import Language

MAX_QUESTION: Final = 200_000
MAX_SYSTEM: Final = 20_000
"""Characters."""
MAX_TURN: Final = 1 << 20


@dataclass(frozen=True)
class PageQuestion:
    """What `POST /page/ask` asks for."""

    text: str
    conversation: str | None
    """None for a new one."""
    from_turn: int | None
    """This turn and those after it are taken back first: another answer, or an edited question."""
    system: str | None
    """The system prompt from now on; None leaves it as it is."""
    settings: TurnSettings
    pictures: tuple[Picture, ...] = ()

    def changes(self, default: TurnSettings) -> dict[str, Any]:
        """What the transcript says of the settings, where they are not those of its first line."""
        mine, theirs = (
            {
                "temperature": one.sampling.temperature,
                "seed": one.sampling.seed,
                "think": one.think,
                "think_budget": one.think_budget,
                "max_tokens": one.max_tokens,
            }
            for one in (self.settings, default)
        )
        return mine if mine != theirs else {}


def parse_question(
    document: Document, default: TurnSettings, *, thinks: bool, sees: bool
) -> PageQuestion:
    """A question of the page. Raises `ApiError` for a field that is unknown or not valid."""
    fields = Fields(document)
    text = (fields.text("text", longest=MAX_QUESTION) or "").strip()
    if not text:
        raise bad_value("text", "'text' must contain a question")
    language_of(fields)  # of the errors: whoever reads the request has taken it already
    question = PageQuestion(
        text=text,
        conversation=fields.text("conversation"),
        from_turn=fields.whole("from_turn", 1, MAX_TURN),
        system=fields.text("system", longest=MAX_SYSTEM),
        settings=_settings(fields, default, thinks=thinks),
        pictures=_pictures(fields.take("pictures"), Pictures(sees=sees)),
    )
    fields.end()
    return question


def _pictures(found: object, pictures: Pictures) -> tuple[Picture, ...]:
    """Data URLs, as in the protocol for programs."""
    if not isinstance(found, list | None):
        raise bad_value("pictures", "'pictures' must be a list")
    return tuple(pictures.take(url, f"pictures[{i}]") for i, url in enumerate(found or []))


def language_of(fields: Fields) -> Language:
    return "es" if fields.choice("language", "en", "es") == "es" else "en"


def _settings(fields: Fields, default: TurnSettings, *, thinks: bool) -> TurnSettings:
    """`--max-tokens` is a limit that no question raises; all else is a default."""
    temperature = fields.number("temperature", 0, 2)
    budget = fields.whole("think_budget", 0, MAX_TOKENS)
    limits = [fields.whole("max_tokens", 1, MAX_TOKENS), default.max_tokens]
    sampling = default.sampling
    return replace(
        default,
        sampling=sampling if temperature is None else replace(sampling, temperature=temperature),
        think=fields.flag("think", default.think) and thinks,
        think_budget=default.think_budget if budget is None else budget,
        max_tokens=min((n for n in limits if n is not None), default=None),
    )
