"""The conversations of the page: those that are open, and through them the kept transcripts."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pedsup.errors import UsageError
from pedsup.messages import message
from pedsup.run.forget import execute, plan_session
from pedsup.serve.faults import ApiError, no_conversation
from pedsup.serve.jobs import WAITING, Job
from pedsup.session.files import resume_session
from pedsup.session.history import Session, replay
from pedsup.session.listing import kept_path, summary
from pedsup.session.transcript import Transcript, read_records

MAX_OPEN: Final = 2 * WAITING
"""Conversations in memory; the one that was used longest ago is closed for a new one."""


class Held:
    """One conversation of the page; at most one question of it is on its way.

    Args:
        name: how the page calls it before it has an id.
        session: where it is open already.
        path: its transcript, where it is kept and not open yet.
    """

    def __init__(self, name: str, session: Session | None = None, path: Path | None = None) -> None:
        self.name = name
        self._session, self.path = session, path
        self._id = (session.id if session is not None else "") or name
        self._lock = threading.Lock()
        self._taken: object | None = None
        self.warm_for: tuple[str, bool] | None = None
        """The system prompt that was read for it, so that it is not read again each turn."""

    @property
    def id(self) -> str:
        """Its id for good, once it has one: that of its transcript."""
        return self._id

    @property
    def session(self) -> Session:
        """Its session; an empty one before the first question. A kept one is read, not opened.

        Raises:
            ApiError: its transcript was erased.
            PedsupError: it cannot be read.
        """
        if self._session is None and self.path is not None:
            try:
                return replay(read_records(self.path))
            except UsageError as error:
                raise no_conversation() from error
        return self._session or Session()

    @property
    def opened(self) -> bool:
        return self._session is not None

    @property
    def busy(self) -> bool:
        return self._taken is not None

    def begin(self, job: object) -> None:
        """Note the question on its way. Raises `ApiError` if there is one already."""
        with self._lock:
            if self._taken is not None:
                raise ApiError(409, "this conversation is waiting for an answer", "busy")
            self._taken = job

    def end(self, job: object) -> None:
        """The question is answered or withdrawn."""
        with self._lock:
            if self._taken is job:
                self._taken = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing is asked meanwhile. Raises `ApiError` if a question is on its way."""
        token = object()
        self.begin(token)
        try:
            yield
        finally:
            self.end(token)

    def cancel(self) -> None:
        """Stop the answer on its way, if there is one."""
        if isinstance(job := self._taken, Job):
            job.cancel()

    def attach(self, session: Session) -> None:
        self._session, self._id = session, session.id or self.name

    def rename(self, title: str) -> None:
        """Give it a name, in its transcript where it has one.

        Raises:
            PedsupError: it cannot be written, or another program holds it.
        """
        if self._session is None and self.path is not None:
            transcript, _ = Transcript.reopen(self.path)
            session = Session(transcript=transcript)
            try:
                session.rename(title)
            finally:
                session.close()
        elif self._session is not None:
            self._session.rename(title)

    def close(self) -> None:
        """Release its transcript; it can be opened again."""
        if self._session is not None and self._session.transcript is not None:
            self.path = self._session.transcript.path
            self._session.close()
            self._session = None


class Conversations:
    """All conversations of the page.

    Args:
        make: makes the session of a new conversation, with a transcript or without.
        folder: where transcripts are kept; None where none are.
        digest: of the model; only its own conversations can go on.
        resumed: the session of `--resume`.
    """

    def __init__(
        self,
        make: Callable[[], Session],
        *,
        folder: Path | None,
        digest: str | None = None,
        resumed: Session | None = None,
    ) -> None:
        self._make, self.folder, self.digest = make, folder, digest
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self.resumed: str | None = None
        if resumed is not None:
            self.resumed = resumed.id
            self._held[resumed.id] = Held(resumed.id, resumed)

    def get(self, name: str) -> Held:
        """A conversation by its name or id: open already, or kept.

        Raises:
            ApiError: there is none of that name (any more).
        """
        with self._lock:
            held = self._find(name)
            if held is None:
                path = kept_path(self.folder, name) if self.folder is not None else None
                if path is None:
                    raise no_conversation()
                self._make_room()
                held = Held(name, path=path)
            else:
                del self._held[held.name]
            self._held[held.name] = held  # the most recently used is last
            return held

    def new(self) -> Held:
        """A new conversation; it has no file before its first question is asked."""
        with self._lock:
            self._make_room()
            held = Held(secrets.token_hex(8))
            self._held[held.name] = held
            return held

    def open(self, held: Held) -> Session:
        """The session of a conversation, opened or made now if this is its first question.

        Raises:
            PedsupError: its transcript cannot be made or opened, or is of another model.
        """
        if not held.opened:
            kept = held.path
            held.attach(
                self._make() if kept is None else resume_session(kept, model_digest=self.digest)
            )
        return held.session

    def can_go_on(self, held: Held) -> bool:
        if held.opened or held.path is None or self.digest is None:
            return True
        one = summary(held.path)
        return one is None or one.digest in (None, self.digest)

    def unkept(self) -> list[Held]:
        """Open conversations with a question and without a transcript, the last used first."""
        with self._lock:
            held = [h for h in self._held.values() if h.opened and h.session.transcript is None]
        return [h for h in reversed(held) if h.session.exchanges]

    def delete(self, name: str) -> None:
        """Erase a conversation as `pedsup-run forget --session` does.

        Raises:
            ApiError: there is none, it is being answered, or its file cannot be erased.
        """
        held = self.get(name)
        with held.alone():
            held.close()
            if held.path is not None:
                self._erase(held.path)
            with self._lock:
                self._held.pop(held.name, None)
                if self.resumed == held.id:
                    self.resumed = None

    def _erase(self, path: Path) -> None:
        try:
            left = execute(plan_session(path)).left
        except FileNotFoundError:
            return  # erased already
        for _, reason in left:
            code = "in_use" if reason == "open in another session" else "not_erased"
            text = message("the conversation was not erased: {reason}", reason=reason)
            raise ApiError(409, text, code)

    def _find(self, name: str) -> Held | None:
        if name in self._held:
            return self._held[name]
        return next((held for held in self._held.values() if held.id == name), None)

    def _make_room(self) -> None:
        if len(self._held) < MAX_OPEN:
            return
        oldest = next((h for h in self._held.values() if not h.busy), None)
        if oldest is None:
            raise ApiError(503, "too many conversations are open", "too_many")
        del self._held[oldest.name]
        oldest.close()

    def close(self) -> list[str]:
        """Close all; the ids of those that were opened and are kept on the disk."""
        with self._lock:
            opened = [h.session for h in self._held.values() if h.opened]
            kept = [session.id for session in opened if session.exchanges]
            for held in self._held.values():
                held.close()
            self._held.clear()
            return [name for name in kept if name]
