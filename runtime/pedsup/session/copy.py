"""A conversation written out for a reader: what `/save` keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pedsup.files.fsio import atomic_file
from pedsup.session.transcript import SUFFIX
from pedsup.texts.intended_use import SHORT, Language
from pedsup.texts.language import local
from pedsup.texts.notices import kept_notice

if TYPE_CHECKING:
    from pedsup.session.history import Session


def save_copy(session: Session, target: Path, language: Language = "en") -> None:
    """Write a conversation as text (`.md`, `.txt`) or as its JSONL records.

    Raises:
        OutputError: the file exists.
    """
    kind: Literal["jsonl", "text"] = "jsonl" if target.suffix == SUFFIX else "text"
    if kind == "jsonl" and session.transcript is not None:
        content = session.transcript.path.read_text("utf-8")
    else:
        content = as_text(session, language)
    with atomic_file(target, force=False) as file:
        file.write(content.encode("utf-8", "replace"))


def as_text(session: Session, language: Language = "en", *, whole: bool = True) -> str:
    """A conversation as Markdown, with the reasoning, the notices and the intended use.

    Args:
        whole: with what was reset or replaced, too.
    """
    words = {
        name: local(name, language)
        for name in ("pedsup session", "System", "Question", "Reasoning", "Answer")
    }
    parts = [f"# {words['pedsup session']} {session.id}\n"]
    parts.append(f"> {SHORT['en']}\n>\n> {SHORT['es']}\n")
    if session.system:
        parts.append(f"## {words['System']}\n\n{session.system}\n")
    for exchange in session.exchanges:
        if exchange.forgotten and not whole:
            continue
        parts.append(f"## {words['Question']} {exchange.turn}\n\n{exchange.user}\n")
        if exchange.reasoning:
            parts.append(f"### {words['Reasoning']}\n\n{exchange.reasoning.strip()}\n")
        end = local(exchange.stop_reason or "unfinished", language)
        mark = "" if exchange.stop_reason == "end" else f" ({end})"
        parts.append(f"### {words['Answer']}{mark}\n\n{exchange.answer.strip()}\n")
        if exchange.notices:
            notices = [kept_notice(notice, language) for notice in exchange.notices]
            parts.append("".join(f"> [{notice}]\n" for notice in notices))
    return "\n".join(parts)


def as_plain(session: Session, language: Language = "en") -> str:
    """What the model was asked and said last, as text without marks: for a message or a note."""
    question, answer = (local(name, language) for name in ("Question", "Answer"))
    parts = [SHORT[language]]
    for exchange in session.exchanges:
        if not exchange.forgotten:
            parts.append(f"{question}:\n{exchange.user}")
            parts.append(f"{answer}:\n{exchange.answer.strip()}")
            parts += [f"[{kept_notice(notice, language)}]" for notice in exchange.notices]
    return "\n\n".join(parts) + "\n"
