"""A conversation written out for a reader: what `/save` keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pedsup.errors import OutputError, UsageError
from pedsup.files.fsio import atomic_file
from pedsup.messages import Message, message, reason_of
from pedsup.texts.intended_use import SHORT, Language
from pedsup.texts.language import translated
from pedsup.texts.notices import STOPS

if TYPE_CHECKING:
    from pedsup.session.history import Session


def save_copy(session: Session, target: Path, language: Language = "en") -> None:
    """Write a conversation in the format that the ending of the name says.

    `.md` has everything with its headings, `.txt` what was asked and said last, `.jsonl` the
    records of the transcript.

    Raises:
        UsageError: the ending is another one, or there is no transcript for `.jsonl`.
        OutputError: the file exists, or cannot be written.
    """
    if target.exists():
        raise OutputError(
            "not saved: the file exists", where=target, remedy="/save with another name"
        )
    try:
        content = _content(session, target, language)
        with atomic_file(target, force=False) as file:
            file.write(content.encode("utf-8", "replace"))
    except OSError as error:
        raise OutputError(
            message("not saved: {reason}", reason=reason_of(error)), where=target
        ) from error


def _content(session: Session, target: Path, language: Language) -> str:
    match target.suffix.lower():
        case ".md":
            return as_text(session, language)
        case ".txt":
            return as_plain(session, language)
        case ".jsonl" if session.transcript is not None:
            return session.transcript.path.read_text("utf-8")
        case ".jsonl":
            raise UsageError(
                "not saved: this conversation has no transcript",
                where=target,
                wanted="a name that ends in .md or .txt",
            )
        case other:
            raise UsageError(
                message("not saved: '{ending}' is not a format that can be written", ending=other),
                where=target,
                wanted="a name that ends in .md, .txt or .jsonl",
            )


def as_text(session: Session, language: Language = "en", *, whole: bool = True) -> str:
    """A conversation as Markdown, with the reasoning, the notices and the intended use.

    Args:
        whole: with what was reset or replaced, too.
    """

    def said(text: Message) -> str:
        return translated(text, language)

    parts = [said(message("# pedsup session {id}", id=session.id)) + "\n"]
    parts.append(f"> {SHORT['en']}\n>\n> {SHORT['es']}\n")
    if session.system:
        parts.append(f"{said(message('## System prompt'))}\n\n{session.system}\n")
    for exchange in session.exchanges:
        if exchange.forgotten and not whole:
            continue
        question = said(message("## Question {n}", n=exchange.turn))
        shown = "".join(f"[{said(note.text())}]\n\n" for note in exchange.picture_notes)
        parts.append(f"{question}\n\n{shown}{exchange.user}\n")
        if exchange.reasoning:
            parts.append(f"{said(message('### Reasoning'))}\n\n{exchange.reasoning.strip()}\n")
        parts.append(f"{said(_answer(exchange.stop_reason))}\n\n{exchange.answer.strip()}\n")
        if exchange.notices:
            parts.append("".join(f"> [{said(notice)}]\n" for notice in exchange.notices))
    return "\n".join(parts)


def as_plain(session: Session, language: Language = "en") -> str:
    """What the model was asked and said last, as text without marks: for a message or a note."""
    question = translated(message("Question:"), language)
    answer = translated(message("Answer:"), language)
    parts = [SHORT[language]]
    for exchange in session.exchanges:
        if not exchange.forgotten:
            shown = "".join(
                f"[{translated(note.text(), language)}]\n" for note in exchange.picture_notes
            )
            parts.append(f"{question}\n{shown}{exchange.user}")
            parts.append(f"{answer}\n{exchange.answer.strip()}")
            parts += [f"[{translated(notice, language)}]" for notice in exchange.notices]
    return "\n\n".join(parts) + "\n"


def _answer(stop_reason: str | None) -> Message:
    if stop_reason == "end":
        return message("### Answer")
    end = message("unfinished") if stop_reason is None else STOPS.get(stop_reason, stop_reason)
    return message("### Answer ({end})", end=end)
