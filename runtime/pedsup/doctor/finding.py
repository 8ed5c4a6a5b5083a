"""One thing that the doctor found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pedsup.doctor.texts import TEXTS, TOPICS
from pedsup.messages import Message
from pedsup.texts.intended_use import Language
from pedsup.texts.language import translated
from pedsup.texts.safe import clean

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found, how bad it is, and the values that fill its text."""

    topic: str
    """A key of `texts.TOPICS`."""
    level: Level
    key: str
    """A key of `texts.TEXTS`."""
    values: Mapping[str, object] = field(default_factory=dict)

    def label(self, language: Language) -> str:
        return translated(TOPICS[self.topic], language)

    def found(self, language: Language) -> str:
        return self._fill(TEXTS[self.key].found, language)

    def remedy(self, language: Language) -> str | None:
        """What to do; None if nothing needs to be done."""
        remedy = TEXTS[self.key].remedy
        return self._fill(remedy, language) if remedy else None

    def describe(self, language: Language) -> dict[str, object]:
        """For JSON."""
        return {
            "topic": self.topic,
            "level": self.level,
            "code": self.key,
            "found": self.found(language),
            "remedy": self.remedy(language),
            "values": dict(self.values),
        }

    def _fill(self, text: Message, language: Language) -> str:
        return translated(text.filled(**self.values).mapped(_one_line), language)


def _one_line(text: str) -> str:
    """Values come from files and may hold anything, line breaks too."""
    return " ".join(clean(text).split())
