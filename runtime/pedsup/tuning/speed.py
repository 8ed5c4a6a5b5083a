"""What a measurement gives."""

from __future__ import annotations

from dataclasses import dataclass

from pedsup.messages import Message
from pedsup.tuning.plan import TURN_DECODE, TURN_PROMPT, Metric


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one measurement."""

    prompt: float
    decode: float

    def by(self, metric: Metric) -> float:
        """The speed that a stage compares; 'turn' in turns per second."""
        if metric == "prompt":
            return self.prompt
        if metric == "decode":
            return self.decode
        return 1 / (TURN_PROMPT / self.prompt + TURN_DECODE / self.decode)


@dataclass(frozen=True)
class Failure:
    """A measurement that did not come about: the child died, or took too long."""

    reason: Message
