"""One model, many askers: a bounded queue, first come first served.

The thread that owns the engine runs `JobQueue.run`; HTTP threads submit jobs and read what comes
of them. A reader never holds the engine up: pieces that nobody has fetched yet are joined, so that
what waits for a slow reader is at most one answer long.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from pedsup.chat.events import AnswerText, Done, Notice, ReasoningText, TurnResult
from pedsup.errors import EngineError, PedsupError, UntrustedError
from pedsup.messages import message
from pedsup.progress import say
from pedsup.serve.faults import ApiError, from_pedsup, shutting_down

WAITING: Final = 16
"""Questions that may wait; the next one is refused with 429."""
TICK_S: Final = 0.25
"""How often a waiting reader looks whether its client is still there."""
KEEP_ALIVE_S: Final = 10.0
FIRST_GUESS_S: Final = 5.0
"""Seconds per answer, as long as none was given."""


@dataclass(frozen=True)
class Started:
    """The engine has begun with this job; for the page, which conversation and turn it is."""

    conversation: str = ""
    turn: int = 0


@dataclass(frozen=True)
class Progress:
    """Tokens of the prompt read so far, of those to read."""

    done: int
    total: int


@dataclass(frozen=True)
class Failed:
    """The last event of a job that ended with an error."""

    error: ApiError


JobEvent: TypeAlias = Started | Progress | ReasoningText | AnswerText | Notice | Done | Failed


class Stopped(KeyboardInterrupt):
    """The asker wants no more: ends the turn as Ctrl-C does on the terminal."""


class Job:
    """One question on its way to its answer.

    Args:
        ask: asks it; gets the job, which shows the turn (`pedsup.session.conversation.TurnView`).
    """

    def __init__(self, ask: Callable[[Job], TurnResult]) -> None:
        self._ask = ask
        self._events: deque[JobEvent] = deque()
        self._changed = threading.Condition()
        self._over = False
        self.cancelled = False
        self.queue: JobQueue | None = None

    # ---- for the HTTP thread ------------------------------------------------------------

    def events(self, gone: Callable[[], bool]) -> Iterator[JobEvent | None]:
        """Events as they come, ending with `Done` or `Failed`; None after `KEEP_ALIVE_S` without.

        Args:
            gone: whether the client has left: the job is then cancelled, and nothing more comes.
        """
        told = time.monotonic()
        while not gone():
            with self._changed:
                if not self._events:
                    self._changed.wait(TICK_S)
                event = self._events.popleft() if self._events else None
            if event is None and time.monotonic() - told < KEEP_ALIVE_S:
                continue
            told = time.monotonic()
            yield event
            if isinstance(event, Done | Failed):
                return
        self.cancel()

    def cancel(self) -> None:
        """Leave the queue, or stop the answer at its next piece. Harmless when it is over."""
        self.cancelled = True
        if self.queue is not None:
            self.queue.withdraw(self)

    @property
    def position(self) -> int:
        """How many answers are given before this one's; 0 when it is being answered."""
        return self.queue.position(self) if self.queue is not None else 0

    # ---- for the engine's thread --------------------------------------------------------

    def run(self) -> TurnResult:
        """Ask; raises what the turn raises."""
        return self._ask(self)

    def put(self, event: JobEvent) -> None:
        """Tell the reader. Pieces of one text are joined until they are fetched."""
        with self._changed:
            if self._over:
                return
            last = self._events[-1] if self._events else None
            match event, last:
                case AnswerText(new), AnswerText(old):
                    self._events[-1] = AnswerText(old + new)
                case ReasoningText(new), ReasoningText(old):
                    self._events[-1] = ReasoningText(old + new)
                case Progress(), Progress():
                    self._events[-1] = event
                case _:
                    self._events.append(event)
            self._over = isinstance(event, Done | Failed)
            self._changed.notify()

    # ---- `TurnView`: what Conversation.ask shows ----------------------------------------

    def start(self) -> None:
        """A turn begins."""

    def prompt_progress(self, done: int, total: int) -> None:
        self.put(Progress(done, total))
        self._stop_if_cancelled()

    def reasoning(self, piece: str) -> None:
        self.put(ReasoningText(piece))
        self._stop_if_cancelled()

    def answer(self, piece: str) -> None:
        self.put(AnswerText(piece))
        self._stop_if_cancelled()

    def notice(self, notice: Notice) -> None:
        self.put(notice)

    def finish(self) -> None:
        """The turn is over and on the disk; `JobQueue.run` tells the reader."""

    def _stop_if_cancelled(self) -> None:
        if self.cancelled:
            raise Stopped


class JobQueue:
    """Jobs in the order in which they came.

    Args:
        alive: whether the engine still answers, asked after an error.
    """

    def __init__(self, alive: Callable[[], bool], *, waiting: int = WAITING) -> None:
        self._alive, self._limit = alive, waiting
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = FIRST_GUESS_S

    def submit(self, job: Job) -> None:
        """Queue a job. Raises `ApiError`: 429 when the queue is full, 503 when the server ends."""
        with self._changed:
            if self._closed:
                raise shutting_down()
            if len(self._waiting) >= self._limit:
                wait = min(60, max(1, round(self._seconds * len(self._waiting) / 2)))
                raise ApiError(
                    429,
                    message(
                        "{n} questions are already waiting; ask again in {s} s",
                        n=self._limit,
                        s=wait,
                    ),
                    "queue_full",
                    headers=(("Retry-After", str(wait)),),
                )
            job.queue = self
            self._waiting.append(job)
            self._changed.notify()

    def withdraw(self, job: Job) -> None:
        """Take a job that has not begun out of the queue."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.put(Failed(ApiError(499, message("the question was withdrawn"), "withdrawn")))

    def position(self, job: Job) -> int:
        """How many jobs come before this one."""
        with self._changed:
            busy = self._running is not None
            return list(self._waiting).index(job) + busy if job in self._waiting else 0

    def run(self) -> None:
        """Answer until `close`.

        Raises:
            KeyboardInterrupt: Ctrl-C in the middle of an answer.
            EngineError: the engine died.
            UntrustedError: the model's file was changed while it was in use.
        """
        while (job := self._next()) is not None:
            started = time.monotonic()
            try:
                self._answer(job)
            finally:
                with self._changed:
                    self._running = None
                self._seconds += (time.monotonic() - started - self._seconds) / 8

    def close(self) -> None:
        """Refuse new jobs, fail the waiting ones, stop the one that is being answered."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.put(Failed(shutting_down()))
            self._waiting.clear()
            if self._running is not None:
                self._running.cancelled = True
            self._changed.notify_all()

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            self._running = None if self._closed else self._waiting.popleft()
            return self._running

    def _answer(self, job: Job) -> None:
        failed = Failed(
            ApiError(500, message("the server failed while it was answering"), "internal_error")
        )
        try:
            result = job.run()
        except PedsupError as error:
            failed = Failed(from_pedsup(error))
            dead = isinstance(error, EngineError) and not self._alive()
            if dead or isinstance(error, UntrustedError):
                raise
        except Exception as error:  # one request's bug must not end everyone's server
            failed = Failed(internal_error(error))
        else:
            job.put(Done(result))
            if result.stop_reason == "interrupted" and not job.cancelled:
                raise KeyboardInterrupt
        finally:
            job.put(failed)  # says nothing after `Done`


def internal_error(error: BaseException) -> ApiError:
    """Report a bug by its kind and place: the text of an exception may quote the request."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"
    say(
        message(
            "internal error: {kind} at {place} (please report it)",
            kind=type(error).__name__,
            place=place,
        )
    )
    return ApiError(
        500, message("internal error: the server's terminal says where"), "internal_error"
    )
