"""The loaded model as the server's handlers see it."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pedsup.chat.events import TurnSettings
from pedsup.chat.templates.template import Message
from pedsup.errors import EngineError
from pedsup.run.load import LoadedModel
from pedsup.serve.faults import ApiError
from pedsup.session.consent import is_recorded, record_consent
from pedsup.session.history import Session
from pedsup.texts.intended_use import SHORT, Language

ALIAS: Final = "pedsup"
"""A name for the loaded model that scripts can use without asking for the real one."""


@dataclass
class Served:
    """What all handlers share."""

    loaded: LoadedModel
    settings: TurnSettings
    """How a turn is generated where the request says nothing."""
    system: str
    """The system prompt of `--system`, for requests without one."""
    fixed_seed: bool
    """Whether `--seed` was given."""
    started: int = field(default_factory=lambda: int(time.time()))
    acknowledged: bool = field(default_factory=is_recorded)
    """Whether the intended use was acknowledged, now or before."""

    @property
    def model_id(self) -> str:
        """The file's name, as far as it can be part of a path."""
        stem = self.loaded.identity.file.removesuffix(".gguf")
        return re.sub(r"[^A-Za-z0-9._-]", "_", stem) or ALIAS

    @property
    def sees(self) -> bool:
        return self.loaded.engine.can_see

    def acknowledge(self, language: Language) -> None:
        """The reader of the page has confirmed it."""
        record_consent(language, "page")
        self.acknowledged = True

    def require_acknowledged(self) -> None:
        """Refuse to answer before the first acknowledgement."""
        if not self.acknowledged:
            raise ApiError(
                403,
                "the intended use has not been acknowledged: open the page once and confirm it, "
                "or start pedsup-run with --accept-intended-use",
                "intended_use_not_acknowledged",
            )

    def engine_lives(self) -> bool:
        """Whether the engine still answers."""
        try:
            self.loaded.engine.tokenize("a", parse_special=False)
        except EngineError:
            return False
        return True

    def with_seed(self, settings: TurnSettings, *, seeded: bool) -> TurnSettings:
        """A seed of its own for each request that names none."""
        if seeded or self.fixed_seed:
            return settings
        return replace(settings, sampling=replace(settings.sampling, seed=secrets.randbits(31)))


@dataclass
class RequestSession(Session):
    """The session of one request: its history came with it, and nothing is kept."""

    history: Sequence[Message] = ()

    def messages(self) -> list[Message]:
        """The client's messages as they are, then the question."""
        return [*self.history, *super().messages()]


def model_document(served: Served) -> dict[str, object]:
    """An entry of `GET /v1/models`."""
    return {
        "id": served.model_id,
        "object": "model",
        "created": served.started,
        "owned_by": "pedsup",
        "meta": {
            "context": served.loaded.engine.n_ctx,
            "engine": served.loaded.engine.name,
            "reasoning": served.loaded.template.supports_thinking,
            "vision": served.sees,
            "identity": served.loaded.identity.describe(),
            "intended_use": SHORT,
        },
    }
