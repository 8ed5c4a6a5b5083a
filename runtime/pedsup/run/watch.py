"""Around a run: say how the last one ended, mark this one, and let signals end it in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from pedsup.crash.marker import MARKS, RunFacts, RunMarker
from pedsup.crash.report import aftermath_text, present, take_sudden_ends
from pedsup.files.paths import data_folder
from pedsup.progress import say
from pedsup.run.plan import LaunchPlan
from pedsup.settings.schema import Settings

ORDERLY: Final = (signal.SIGTERM, signal.SIGHUP)
"""The signals that a closing terminal and an orderly shutdown send."""


def say_aftermath(*, resuming: bool) -> None:
    """Tell of a run that ended suddenly, once."""
    ends = take_sudden_ends(data_folder() / MARKS)
    for line in aftermath_text(ends, present(), resuming=resuming):
        say(line)


@contextmanager
def watched(plan: LaunchPlan, settings: Settings) -> Iterator[RunMarker | None]:
    """Mark this run until its orderly end; None without history, which leaves no trace."""
    with _orderly_signals():
        marker = None
        if settings.history:
            marker = RunMarker.create(data_folder() / MARKS, _facts(plan))
        try:
            if marker is not None:
                marker.set_phase("loading")
            yield marker
        finally:
            if marker is not None:
                marker.close()


def _facts(plan: LaunchPlan) -> RunFacts:
    config = plan.config
    return RunFacts(
        model=str(plan.header.path),
        n_ctx=config.n_ctx,
        n_ubatch=config.n_ubatch,
        extra_buffers=config.extra_buffers,
        server=plan.room.host.server,
        need=plan.fit.need.total,
    )


@contextmanager
def _orderly_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the program: what is open is closed, the mark is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in ORDERLY}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:  # nohup ignores SIGHUP, and means it
            signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
