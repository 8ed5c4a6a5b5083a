"""The conversations of the page: which are open, and their transcripts."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Final

from pedsup.serve.faults import ApiError
from pedsup.serve.jobs import WAITING, Job
from pedsup.session.history import Session

MAX_OPEN: Final = 2 * WAITING
"""Conversations in memory; the one that was used longest ago is closed for a new one."""


class Held:
    """One conversation of the page; at most one question of it is on its way."""

    def __init__(self, name: str, session: Session | None) -> None:
        self.name = name
        self._session = session
        self._lock = threading.Lock()
        self._job: Job | None = None
        self.warm_for: tuple[str, bool] | None = None
        """The system prompt that was read for it, so that it is not read again each turn."""

    @property
    def session(self) -> Session:
        """Its session; an empty one before the first question."""
        return self._session or Session()

    @property
    def opened(self) -> bool:
        """Whether it has a session yet."""
        return self._session is not None

    @property
    def busy(self) -> bool:
        """Whether a question of it is on its way."""
        return self._job is not None

    def begin(self, job: Job) -> None:
        """Note the question on its way.

        Raises:
            ApiError: there is one already.
        """
        with self._lock:
            if self._job is not None:
                raise ApiError(409, "this conversation is waiting for an answer", "busy")
            self._job = job

    def end(self, job: Job) -> None:
        """The question is answered or withdrawn."""
        with self._lock:
            if self._job is job:
                self._job = None

    def cancel(self) -> None:
        """Stop the answer on its way, if there is one."""
        if (job := self._job) is not None:
            job.cancel()

    def attach(self, session: Session) -> None:
        """Give it its session."""
        self._session = session

    def close(self) -> None:
        """Release its transcript."""
        if self._session is not None:
            self._session.close()


class Conversations:
    """All conversations of the page.

    Args:
        make: makes the session of a new conversation, with a transcript or without.
        kept: whether transcripts are kept.
        resumed: the session of `--resume`.
    """

    def __init__(
        self, make: Callable[[], Session], *, kept: bool, resumed: Session | None = None
    ) -> None:
        self._make, self.kept = make, kept
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self.resumed: str | None = None
        if resumed is not None:
            self.resumed = resumed.id
            self._held[resumed.id] = Held(resumed.id, resumed)

    def get(self, name: str) -> Held:
        """An open conversation.

        Raises:
            ApiError: there is none of that name (any more).
        """
        with self._lock:
            held = self._held.pop(name, None)
            if held is None:
                raise ApiError(404, "this conversation is not open here", "no_conversation")
            self._held[name] = held  # the most recently used is last
            return held

    def new(self) -> Held:
        """A new conversation; it has no file before its first question is asked."""
        with self._lock:
            if len(self._held) >= MAX_OPEN:
                oldest = next((h for h in self._held.values() if not h.busy), None)
                if oldest is None:
                    raise ApiError(503, "too many conversations are open", "too_many")
                del self._held[oldest.name]
                oldest.close()
            held = Held(secrets.token_hex(8), None)
            self._held[held.name] = held
            return held

    def open(self, held: Held) -> Session:
        """The session of a conversation, made now if this is its first question.

        Raises:
            PedsupError: its transcript cannot be made.
        """
        if not held.opened:
            held.attach(self._make())
        return held.session

    def close(self) -> list[str]:
        """Close all; the ids of those that are kept on the disk."""
        with self._lock:
            kept = [h.session.id for h in self._held.values() if h.session.exchanges]
            for held in self._held.values():
                held.close()
            self._held.clear()
            return [name for name in kept if name]
