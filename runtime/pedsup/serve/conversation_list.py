"""What the page asks of its conversations: list, search, rename, delete, export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pedsup.serve.conversations import Conversations, Held
from pedsup.serve.faults import Document, bad_value
from pedsup.serve.fields import Fields
from pedsup.serve.web import Reply, Request, json_reply
from pedsup.session.copy import as_plain, as_text
from pedsup.session.listing import Summary, search, summaries, title_of
from pedsup.texts.intended_use import Language
from pedsup.texts.safe import clean, label

MAX_LISTED: Final = 500
MAX_FOUND: Final = 50
MAX_TITLE: Final = 120
MAX_SEARCH: Final = 200
"""Characters."""


@dataclass
class ConversationList:
    """Handlers of `/page/conversations` and what belongs to it."""

    conversations: Conversations

    def index(self, _request: Request, _rest: str) -> Reply:
        """GET /page/conversations"""
        folder = self.conversations.folder
        rows: list[Document] = []
        more = False
        if folder is not None:
            found, more = summaries(folder, MAX_LISTED)
            rows = [self._row(one) for one in found]
        return self._reply([*map(_unkept_row, self.conversations.unkept()), *rows], more)

    def search(self, request: Request, _rest: str) -> Reply:
        """POST /page/search"""
        fields = Fields(request.document())
        text = (fields.text("text", longest=MAX_SEARCH) or "").strip()
        fields.end()
        if not text:
            raise bad_value("text", "'text' must contain a question")
        folder, rows, more = self.conversations.folder, list[Document](), False
        if folder is not None:
            hits, more = search(folder, text, MAX_FOUND)
            rows = [{**self._row(hit.summary), "excerpt": clean(hit.excerpt)} for hit in hits]
        return self._reply(rows, more)

    def rename(self, request: Request, _rest: str) -> Reply:
        """POST /page/rename"""
        fields = Fields(request.document())
        name = fields.text("conversation") or ""
        title = label(fields.text("title", longest=MAX_TITLE) or "")
        fields.end()
        held = self.conversations.get(name)
        with held.alone():
            held.rename(title)
        return json_reply({"conversation": held.id, "title": title})

    def delete(self, request: Request, _rest: str) -> Reply:
        """POST /page/delete"""
        name = Fields(request.document()).only_text("conversation")
        self.conversations.delete(name)
        return json_reply({"conversation": name})

    def export(self, request: Request, _rest: str) -> Reply:
        """POST /page/export"""
        fields = Fields(request.document())
        name = fields.text("conversation") or ""
        markdown = fields.choice("format", "markdown", "text") != "text"
        language: Language = "es" if fields.choice("language", "en", "es") == "es" else "en"
        fields.end()
        held = self.conversations.get(name)
        session = held.session
        text = as_text(session, language, whole=False) if markdown else as_plain(session, language)
        file = f"pedsup-{held.id}.{'md' if markdown else 'txt'}"
        return json_reply({"name": file, "text": clean(text)})

    def _reply(self, rows: list[Document], more: bool) -> Reply:
        kept = self.conversations.folder is not None
        return json_reply({"kept": kept, "conversations": rows, "more": more})

    def _row(self, one: Summary) -> Document:
        digest = self.conversations.digest
        return {
            "id": one.id,
            "title": one.title,
            "changed": one.changed,
            "turns": one.turns,
            "model": one.model,
            "same_model": digest is None or one.digest in (None, digest),
            "readable": one.readable,
        }


def _unkept_row(held: Held) -> Document:
    """A conversation that is in memory only."""
    shown = [e for e in held.session.exchanges if not e.forgotten]
    return {
        "id": held.id,
        "title": title_of(held.session),
        "changed": None,
        "turns": len(shown),
        "model": "",
        "same_model": True,
        "readable": True,
    }
