"""What a speed run has to do, how long that will take, and a bar over it.

The work is a list of steps, each so much of one kind (loads, prompt tokens, decoded tokens). How
long one unit of a kind takes is guessed from the file's header and then learned from the steps
that are done, so that the time left gets right soon.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

from tqdm import tqdm

from pedsup.gguf_file import GGUFHeader
from pedsup_bench.report.bars import SILENT_S, interval, ticking
from pedsup_bench.report.forecast import Rates, human_seconds
from pedsup_bench.speed.plan import SpeedPlan

BANDWIDTH_S: Final = 0.5
PICTURE_S: Final = 15.0
"""To see a picture, until one was seen."""
PROCESS_S: Final = 0.5
"""Start of a measured process."""


@dataclass(frozen=True)
class Step:
    """An amount of one kind of work: 'load', 'picture' 1; 'prompt', 'decode' tokens; 'seconds'."""

    kind: str
    amount: float


def load_steps(plan: SpeedPlan) -> list[Step]:
    """One process that loads, reads a prompt and writes a token."""
    return [Step("load", 1), Step("prompt", plan.first_prompt)]


def speed_steps(plan: SpeedPlan) -> list[Step]:
    """The process that measures speeds, in its order."""
    steps = [Step("seconds", BANDWIDTH_S), Step("load", 1), Step("prompt", min(plan.prompts))]
    for n in plan.prompts:
        steps += [Step("prompt", n)] * plan.repeats
    for depth in plan.depths:
        steps += [Step("prompt", max(depth, 1))]
        steps += [Step("decode", plan.n_decode)] * plan.repeats
    if plan.sustained:
        steps.append(Step("seconds", plan.sustained))
    return [*steps, Step("seconds", BANDWIDTH_S)]


def picture_steps(plan: SpeedPlan) -> list[Step]:
    """The process that sees pictures; none without a projector."""
    if plan.projector is None:
        return []
    return [Step("load", 1), *[Step("picture", 1)] * (plan.repeats + 1)]


class Work:
    """Steps that are done and to do, and the seconds that are left.

    Args:
        steps: all of them, in order.
        rates: the first guess.
        clock: seconds that only go forward.
    """

    def __init__(
        self, steps: Sequence[Step], rates: Rates, clock: Callable[[], float] = monotonic
    ) -> None:
        self._guess = {
            "load": rates.load + PROCESS_S, "prompt": rates.prompt, "decode": rates.decode,
            "seconds": 1.0, "picture": PICTURE_S,
        }  # fmt: skip
        self._steps, self._at, self._clock = list(steps), 0, clock
        self._seconds: dict[str, float] = defaultdict(float)
        self._amount: dict[str, float] = defaultdict(float)
        self.started = self._last = clock()

    def rate(self, kind: str) -> float:
        """Seconds per unit: what was seen, or the guess, scaled as the guesses seen so far were."""
        if self._amount[kind] > 0:
            return self._seconds[kind] / self._amount[kind]
        return self._guess[kind] * (self._scale() if kind in ("prompt", "decode") else 1.0)

    def done(self, steps: Sequence[Step]) -> None:
        """The next steps are done, just now; their time is shared out as it was foreseen."""
        now = self._clock()
        took, self._last = now - self._last, now
        foreseen = [self.rate(step.kind) * step.amount for step in steps]
        total = sum(foreseen) or 1.0
        for step, share in zip(steps, foreseen, strict=True):
            if step.kind != "seconds":
                self._seconds[step.kind] += took * share / total
                self._amount[step.kind] += step.amount
        self._at += len(steps)

    def saw(self, kind: str, seconds: float, amount: float) -> None:
        """A sample of one kind of work that was timed separately."""
        self._seconds[kind] += seconds
        self._amount[kind] += amount

    def left(self) -> float:
        """Seconds to the end, as far as known."""
        foreseen = sum(self.rate(step.kind) * step.amount for step in self._steps[self._at :])
        if self._at == len(self._steps):
            return 0.0
        first = self._steps[self._at]
        running = self.rate(first.kind) * first.amount
        # What the running step has used of its time is gone, but not more than its time.
        return float(foreseen - min(running, self._clock() - self._last))

    def elapsed(self) -> float:
        """Seconds since the start."""
        return float(self._clock() - self.started)

    def _scale(self) -> float:
        """How wrong the guesses of speed were so far."""
        kinds = [k for k in ("prompt", "decode") if self._amount[k] > 0]
        seen = sum(self._seconds[k] for k in kinds)
        guessed = sum(self._guess[k] * self._amount[k] for k in kinds)
        return seen / guessed if guessed else 1.0


class WorkBar(tqdm):
    """A bar in per cent of the time, as the work foresees it."""

    def __init__(self, work: Work, label: str) -> None:
        self.work = work
        super().__init__(
            total=100, desc=label, file=sys.stderr, delay=SILENT_S, mininterval=interval(),
            dynamic_ncols=True, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
        )  # fmt: skip

    def display(self, *arguments: object, **more: object) -> object:
        """Draw it with the time left at this moment."""
        left, elapsed = self.work.left(), self.work.elapsed()
        self.n = round(100 * elapsed / (elapsed + left), 1) if elapsed + left else 0
        self.postfix = f"about {human_seconds(left)} left" if left else ""
        return super().display(*arguments, **more)


@contextmanager
def work_bar(work: Work, label: str) -> Iterator[None]:
    """A bar that follows `work`."""
    bar = WorkBar(work, label)
    with ticking(bar):
        yield


def foresee(header: GGUFHeader, plan: SpeedPlan) -> Work:
    """The whole of `measure`: cold and warm loads, then the speeds, then pictures."""
    steps = [step for _ in range(2 * plan.loads) for step in load_steps(plan)]
    return Work(
        [*steps, *speed_steps(plan), *picture_steps(plan)], Rates.guess(header, plan.n_threads)
    )
