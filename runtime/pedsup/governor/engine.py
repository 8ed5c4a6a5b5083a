"""An engine whose threads are governed while it decodes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pedsup.chat.events import Notice
from pedsup.device.heat import Heat, HeatSensors
from pedsup.device.system_files import text_of, whole_number
from pedsup.engine.api import Engine, Token
from pedsup.engine.proxy import passed_on
from pedsup.governor.policy import Action, Limits, Sample, State, observe
from pedsup.texts.notices import NOTICES

WINDOW_TOKENS: Final = 16
WINDOW_S: Final = 2.0
"""A sample has at least this many tokens and lasts at least this long."""
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class _Window:
    """Tokens until there are enough of them for a sample."""

    began: float
    cpu: float | None
    n_tokens: int = 0
    waited: float = 0.0


@dataclass
class Governor:
    """Watches decoding and changes the threads of its engine; `set_threads` is None to report."""

    limits: Limits
    set_threads: Callable[[int], None] | None
    cpu_time: Callable[[], float | None]
    """Seconds of CPU time of the engine's threads so far."""
    heat: Callable[[], Heat] = Heat
    window: tuple[int, float] = (WINDOW_TOKENS, WINDOW_S)
    clock: Callable[[], float] = time.monotonic
    state: State = field(init=False)
    actions: list[Action] = field(default_factory=list)
    last_heat: Heat = field(default_factory=Heat)
    _unseen: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = State(self.limits.most)

    def watch(
        self, tokens: Generator[Token, None, None], depth: int
    ) -> Generator[Token, None, None]:
        """Pass tokens on; only the time spent waiting for them counts.

        The first token is left out: its wait holds the reading of the prompt.
        """
        first = next(tokens, None)
        if first is None:
            return
        yield first
        window: _Window | None = None
        while True:
            asked, cpu = self.clock(), self.cpu_time()
            token = next(tokens, None)
            if token is None:
                return
            depth += 1
            window = window or _Window(asked, cpu)
            window.n_tokens += 1
            window.waited += self.clock() - asked
            if window.n_tokens >= self.window[0] and window.waited >= self.window[1]:
                self._feed(self._sample(window, depth))
                window = None
            yield token

    def _sample(self, window: _Window, depth: int) -> Sample:
        now = self.clock()
        span = now - window.began
        return Sample(
            at_s=now,
            token_s=window.waited / window.n_tokens,
            depth=depth,
            span_s=span,
            busy=_busy(window.cpu, self.cpu_time(), span * self.state.threads),
        )

    def notices(self) -> tuple[Notice, ...]:
        """What was done since the last call, to tell the reader."""
        codes = dict.fromkeys(f"governor_{action.kind}" for action in self._unseen)
        self._unseen.clear()
        return tuple(Notice(code, NOTICES[code]) for code in codes)

    def _feed(self, sample: Sample) -> None:
        self.last_heat = self.heat()
        sample = replace(sample, hot=self.last_heat.hot)
        self.state, action = observe(self.state, sample, self.limits)
        if action is not None:
            self.actions.append(action)
            self._unseen.append(action)
            if self.set_threads is not None and action.kind != "report":
                self.set_threads(action.threads)


def _busy(before: float | None, after: float | None, thread_s: float) -> float | None:
    """CPU seconds over the seconds that the threads could have had; None if unknown.

    Over the whole window and not only over the waits: a `llama-server` decodes ahead of its
    reader.
    """
    if before is None or after is None or thread_s <= 0:
        return None
    return (after - before) / thread_s


def govern(
    engine: Engine, n_threads: int, depth_share: float, *, drafts: bool = False
) -> tuple[Engine, Governor]:
    """An engine under a governor that may take half of its threads away, and the governor.

    Args:
        depth_share: seconds that each token of context adds to a decode step, over those of an
            empty context.
        drafts: whether `llama-server` guesses tokens ahead.
    """
    limits = Limits(
        most=n_threads,
        least=max(1, n_threads // 2),
        adjustable=engine.adjustable,
        guessing=drafts,
        depth_share=depth_share,
    )
    governor = Governor(
        limits,
        set_threads=engine.set_threads if engine.adjustable else None,
        cpu_time=lambda: _cpu_time(engine),
        heat=HeatSensors().read,
    )
    return passed_on(engine, governor.watch), governor


def _cpu_time(engine: Engine) -> float | None:
    pid = engine.child_pid
    return time.process_time() if pid is None else child_cpu_time(pid)


def child_cpu_time(pid: int, root: Path = Path("/")) -> float | None:
    """User and system time of a process from /proc/PID/stat, None where it cannot be read."""
    # The name in the second field may hold blanks and parentheses: count from its end.
    fields = text_of(root / f"proc/{pid}/stat").rpartition(")")[2].split()
    times = [whole_number(field) for field in fields[11:13]]
    user, system = times if len(times) == 2 else (None, None)
    return None if user is None or system is None else (user + system) / TICKS
