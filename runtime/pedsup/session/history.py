"""A conversation that survives being killed: its turns, what the model sees of them, its file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Final

from pedsup.chat.templates.template import Message
from pedsup.errors import PedsupError
from pedsup.files.timestamp import now
from pedsup.messages import Message as Notified
from pedsup.pictures.picture import Picture
from pedsup.session.picture_notes import PICTURE_GONE, PictureNote, picture_notes
from pedsup.session.transcript import Record, Transcript
from pedsup.texts.notices import kept_notice

PARTIAL_EVERY_S: Final = 0.5
"""How much of an unfinished answer a kill can take."""
DURABLE_EVERY_S: Final = 5.0
"""How much of it a power cut can take; each fsync wears flash and costs milliseconds."""


@dataclass
class Exchange:
    """One turn: a question and what came of it."""

    turn: int
    user: str
    answer: str = ""
    reasoning: str = ""
    stop_reason: str | None = None
    """None while unfinished; 'killed' when the program died in the middle."""
    forgotten: bool = False
    """Before a `/reset`, or replaced by `rewind`: kept in the file, not shown to the model."""
    notices: tuple[Notified, ...] = ()
    """What was said beside the answer, by the guards too."""
    pictures: tuple[Picture, ...] = ()
    """What was shown with the question; gone when the session is resumed."""
    picture_notes: tuple[PictureNote, ...] = ()
    """What the transcript keeps of them."""


@dataclass
class Session:
    """The state of a conversation, with or without a transcript behind it."""

    system: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    transcript: Transcript | None = None
    id: str = ""
    title: str = ""
    """The name that the user gave it."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """How answers are generated, where it is not as the first line of the transcript says."""
    _open: Exchange | None = None
    _unsaved: list[str] = field(default_factory=lambda: ["", ""])
    _saved_at: float = 0.0
    _durable_at: float = 0.0

    # ---- what the model sees ------------------------------------------------------------

    def messages(self) -> list[Message]:
        """The history for the chat template: answers without reasoning, roles alternating.

        A question whose answer was lost before its first word is left out (templates want
        alternating roles); a partial answer counts as the answer.
        """
        messages: list[Message] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for exchange in self.exchanges:
            if exchange.forgotten or not (exchange.answer or exchange is self._open):
                continue
            messages.append(_question(exchange))
            if exchange is not self._open:
                messages.append({"role": "assistant", "content": exchange.answer})
        return messages

    # ---- one turn -----------------------------------------------------------------------

    def ask(self, text: str, pictures: tuple[Picture, ...] = ()) -> None:
        """Start a turn; the question is on the disk when this returns.

        Of the pictures the transcript keeps digest and size, nothing that can be seen.
        """
        exchange = Exchange(
            turn=len(self.exchanges) + 1,
            user=text,
            pictures=pictures,
            picture_notes=tuple(map(PictureNote.of, pictures)),
        )
        kept = [asdict(note) for note in exchange.picture_notes]
        record = {"type": "user", "turn": exchange.turn, "time": now(), "text": text}
        self._append({**record, "pictures": kept} if kept else record)
        self.exchanges.append(exchange)
        self._open = exchange
        self._saved_at = self._durable_at = time.monotonic()

    def heard(self, *, reasoning: str = "", answer: str = "") -> None:
        """Add a piece of the answer in progress; it reaches the file twice a second."""
        exchange = self._require_open()
        exchange.reasoning += reasoning
        exchange.answer += answer
        self._unsaved[0] += reasoning
        self._unsaved[1] += answer
        if (clock := time.monotonic()) - self._saved_at >= PARTIAL_EVERY_S:
            durable = clock - self._durable_at >= DURABLE_EVERY_S
            # A full disk must not cut the answer off: `finish` will say so.
            with suppress(PedsupError):
                self._save_partial(durable=durable)
            self._saved_at = clock
            self._durable_at = clock if durable else self._durable_at

    def finish(
        self,
        answer: str,
        reasoning: str,
        stop_reason: str,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """End the turn; it is on the disk when this returns, and may then be shown as done.

        Raises:
            PedsupError: it cannot be written; the turn is ended and `/save` can still keep it.
        """
        exchange = self._require_open()
        exchange.answer, exchange.reasoning = answer, reasoning
        exchange.stop_reason = stop_reason
        exchange.notices = _notices(facts or {})
        self._open, self._unsaved = None, ["", ""]
        record = {
            "type": "assistant",
            "turn": exchange.turn,
            "time": now(),
            "answer": answer,
            "reasoning": reasoning,
            "stop_reason": stop_reason,
            **(facts or {}),
        }
        self._append(record)

    def abandon(self, error: str) -> None:
        """End a turn that an error cut off, with what there is of its answer."""
        if (exchange := self._open) is not None:
            self.finish(exchange.answer, exchange.reasoning, "failed", {"error": error})

    def close_killed(self) -> None:
        """End a turn that was open when the program died, with its partial answer."""
        if (lost := self._open) is not None:
            self.finish(lost.answer, lost.reasoning, "killed", {"partial": True})

    # ---- commands -----------------------------------------------------------------------

    def set_system(self, text: str) -> None:
        """Change the system prompt for the turns to come."""
        self._append({"type": "system", "time": now(), "text": text})
        self.system = text

    def reset(self) -> None:
        """Forget the conversation so far (the transcript keeps it)."""
        self._append({"type": "reset", "time": now()})
        _forget_from(self.exchanges, 0)

    def rewind(self, turn: int) -> None:
        """Take back a turn and all after it, to ask again (the transcript keeps them)."""
        if any(e.turn >= turn and not e.forgotten for e in self.exchanges):
            self._append({"type": "rewind", "time": now(), "turn": turn})
            _forget_from(self.exchanges, turn)

    def rename(self, title: str) -> None:
        """Give the conversation a name; an empty one takes the name away."""
        self._append({"type": "title", "time": now(), "text": title})
        self.title = title

    def note_settings(self, values: Mapping[str, object]) -> None:
        """Write down how the answers from here on are generated; empty: as at the beginning."""
        self._append({"type": "settings", "time": now(), "settings": dict(values)})
        self.settings = values

    def close(self) -> None:
        """Release the transcript."""
        if self.transcript is not None:
            self.transcript.close()
            self.transcript = None

    def _save_partial(self, *, durable: bool) -> None:
        reasoning, answer = self._unsaved
        turn = self._require_open().turn
        record = {"type": "partial", "turn": turn, "reasoning": reasoning, "answer": answer}
        self._append(record, durable=durable)
        self._unsaved = ["", ""]

    def _append(self, record: Record, *, durable: bool = True) -> None:
        if self.transcript is not None:
            self.transcript.append(record, durable=durable)

    def _require_open(self) -> Exchange:
        if self._open is None:
            raise RuntimeError("no turn is open: call ask() first")
        return self._open


# ---- files of sessions --------------------------------------------------------------------


def replay(records: list[Record]) -> Session:
    """The state that the records of a transcript lead to."""
    session = Session(id=str(records[0].get("id", "")))
    for record in records[1:]:
        match record["type"]:
            case "system":
                session.system = _text(record, "text")
            case "user":
                session._open = Exchange(
                    len(session.exchanges) + 1,
                    _text(record, "text"),
                    picture_notes=picture_notes(record.get("pictures")),
                )
                session.exchanges.append(session._open)
            case "partial" if session._open is not None:
                session._open.reasoning += _text(record, "reasoning")
                session._open.answer += _text(record, "answer")
            case "assistant" if session._open is not None:
                session._open.answer = _text(record, "answer")
                session._open.reasoning = _text(record, "reasoning")
                session._open.stop_reason = _text(record, "stop_reason")
                session._open.notices = _notices(record)
                session._open = None
            case "reset":
                _forget_from(session.exchanges, 0)
            case "rewind" if isinstance(turn := record.get("turn"), int):
                _forget_from(session.exchanges, turn)
            case "title":
                session.title = _text(record, "text")
            case "settings" if isinstance(values := record.get("settings"), dict):
                session.settings = values
            case _:
                pass  # 'recovered', and types of later versions of schema 1
    return session


def _forget_from(exchanges: Iterable[Exchange], turn: int) -> None:
    for exchange in exchanges:
        exchange.forgotten = exchange.forgotten or exchange.turn >= turn


def _question(exchange: Exchange) -> Message:
    """What the model sees of a question; a picture that is gone is said to be."""
    if exchange.pictures:
        return {"role": "user", "content": exchange.user, "pictures": exchange.pictures}
    gone = f"{PICTURE_GONE}\n" * len(exchange.picture_notes)
    return {"role": "user", "content": gone + exchange.user}


def _notices(record: Mapping[str, object]) -> tuple[Notified, ...]:
    """A turn's notices; a transcript may hold anything."""
    found = record.get("notices")
    rows = found if isinstance(found, list) else []
    kept = (kept_notice(row) for row in rows if isinstance(row, dict))
    return tuple(notice for notice in kept if notice is not None)


def _text(record: Record, key: str) -> str:
    value = record.get(key, "")
    return value if isinstance(value, str) else ""
