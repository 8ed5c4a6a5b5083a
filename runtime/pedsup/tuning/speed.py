"""What a measurement gives."""

from __future__ import annotations

from dataclasses import dataclass

from pedsup.tuning.plan import TURN_DECODE, TURN_PROMPT, Metric


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one measurement."""

    prompt: float
    decode: float
    answers: tuple[float, ...] = ()
    """Tokens per second of each answer of the prompts that drafts are judged by."""

    def by(self, metric: Metric) -> float:
        """The speed that a stage compares; 'turn' in turns per second."""
        if metric == "prompt":
            return self.prompt
        if metric == "decode":
            return self.decode
        if metric == "answers":  # for as many tokens each
            return len(self.answers) / sum(1 / speed for speed in self.answers)
        return 1 / (TURN_PROMPT / self.prompt + TURN_DECODE / self.decode)


@dataclass(frozen=True)
class Failure:
    """A measurement that did not come about: the child died, or took too long."""

    reason: str
