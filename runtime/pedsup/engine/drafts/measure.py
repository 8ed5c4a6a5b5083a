"""Whether drafts are faster here: the same prompts with and without them, side by side.

For `pedsup-run tune`, which sets what `--draft auto` means, and for the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from pedsup.chat.prompt import build_prompt
from pedsup.chat.template import ChatTemplate
from pedsup.engine.api import DraftConfig, Engine, EngineConfig, SamplingConfig

LEAST_GAIN: Final = 1.05
"""A smaller gain is within the noise of a phone's clock."""
NO_PROMPT_SLOWER: Final = 0.95
"""Drafts that cost more than this on any kind of text are no default."""
_NOTE: Final = (
    "Ana, 3 years, 14.2 kg. Fever of 39.1 C for two days, cough, no chest indrawing, 38 breaths "
    "per minute. Drinks well. Paracetamol 15 mg/kg every six hours as needed. Return if breathing "
    "becomes fast, if she cannot drink, or if there are convulsions."
)
PROMPTS: Final[Mapping[str, str]] = {
    "quote": f"Copy this note word for word, then list its numbers:\n{_NOTE}",
    "free": "Explain to parents in simple words why a child with diarrhea must drink.",
}
"""One answer that repeats its prompt, and one that does not."""


class Timing(NamedTuple):
    """One prompt with and without drafts."""

    plain_tokens_per_s: float
    tokens_per_s: float
    n_drafted: int
    n_accepted: int
    same_text: bool

    @property
    def speed_up(self) -> float:
        return self.tokens_per_s / self.plain_tokens_per_s


@dataclass(frozen=True)
class DraftTrial:
    """How one kind of draft did, by name of prompt."""

    draft: DraftConfig
    timings: Mapping[str, Timing]

    @property
    def speed_up(self) -> float:
        """Time for all prompts without drafts, by the time with them, for as many tokens each."""
        return sum(1 / t.plain_tokens_per_s for t in self.timings.values()) / sum(
            1 / t.tokens_per_s for t in self.timings.values()
        )

    @property
    def worst(self) -> float:
        """The smallest gain on any prompt."""
        return min(timing.speed_up for timing in self.timings.values())


def measure_drafts(
    config: EngineConfig,
    drafts: Sequence[DraftConfig],
    open_engine: Callable[[EngineConfig], Engine],
    *,
    n_tokens: int = 96,
    prompts: Mapping[str, str] = PROMPTS,
) -> list[DraftTrial]:
    """Time greedy answers without drafts, then with each of `drafts`; one engine at a time.

    Args:
        open_engine: how a model is loaded, e.g. `pedsup.engine.select.open_engine`.
        n_tokens: most tokens of each answer.
    """
    plain = _load_and_time(replace(config, draft=DraftConfig()), open_engine, n_tokens, prompts)
    trials = []
    for draft in drafts:
        found = _load_and_time(replace(config, draft=draft), open_engine, n_tokens, prompts)
        timings = {
            name: Timing(
                plain[name].tokens_per_s,
                run.tokens_per_s,
                run.n_drafted,
                run.n_accepted,
                run.tokens == plain[name].tokens,
            )
            for name, run in found.items()
        }
        trials.append(DraftTrial(draft, timings))
    return trials


def best_draft(trials: Sequence[DraftTrial]) -> DraftConfig:
    """The fastest that gains on the whole and harms nowhere; else off."""
    good = [t for t in trials if t.speed_up >= LEAST_GAIN and t.worst >= NO_PROMPT_SLOWER]
    return max(good, key=lambda t: t.speed_up).draft if good else DraftConfig()


class Run(NamedTuple):
    """One greedy answer."""

    tokens: list[int]
    tokens_per_s: float
    n_drafted: int
    n_accepted: int


def _load_and_time(
    config: EngineConfig,
    open_engine: Callable[[EngineConfig], Engine],
    n_tokens: int,
    prompts: Mapping[str, str],
) -> dict[str, Run]:
    with closing(open_engine(config)) as engine:
        return time_answers(engine, n_tokens, prompts)


def time_answers(
    engine: Engine, n_tokens: int, prompts: Mapping[str, str] = PROMPTS
) -> dict[str, Run]:
    """Greedy answers of at most `n_tokens` tokens to each prompt, with the engine's own drafts."""
    runs = {}
    template = ChatTemplate.from_engine(engine, allow_unknown=True)
    greedy = SamplingConfig(temperature=0)
    for name, text in prompts.items():
        messages = [{"role": "user", "content": text}]
        prompt = build_prompt(engine, template, messages, think=False).tokens  # type: ignore[arg-type]
        tokens = [t.id for t in engine.generate(prompt, greedy, max_tokens=n_tokens)]
        stats = engine.last_stats
        speed = len(tokens) / stats.decode_s if tokens and stats.decode_s else 1.0
        drafts = stats.drafts
        runs[name] = Run(tokens, speed, drafts.n_drafted, drafts.n_accepted)
    return runs
