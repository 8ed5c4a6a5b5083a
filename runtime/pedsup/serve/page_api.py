"""What the page asks: its state, a conversation, an answer as it comes, and to stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pedsup import __version__
from pedsup.chat.turn import AnswerText, Done, Notice, ReasoningText, TurnResult
from pedsup.guards import check_answer, check_question, notices
from pedsup.serve.completions import KEEP_ALIVE_S
from pedsup.serve.conversations import Conversations, Held
from pedsup.serve.faults import ApiError, Document, bad_value
from pedsup.serve.fields import Fields
from pedsup.serve.jobs import Failed, Job, JobEvent, JobQueue, Progress, Started
from pedsup.serve.model import Served
from pedsup.serve.web import EVENTS, Reply, Request, json_reply
from pedsup.session.conversation import Conversation, turn_facts
from pedsup.texts.intended_use import Language
from pedsup.texts.language import local
from pedsup.texts.notices import notice as translated
from pedsup.texts.safe import clean
from pedsup.trust.assess import Trust

MAX_QUESTION: Final = 200_000
"""Characters."""


@dataclass
class PageApi:
    """Handlers of `/page`."""

    served: Served
    queue: JobQueue
    conversations: Conversations
    language: Language | None
    """`--lang`; None lets the page follow the browser."""

    def state(self, _request: Request, _rest: str) -> Reply:
        """GET /page/state"""
        loaded = self.served.loaded
        identity = loaded.identity
        return json_reply(
            {
                "version": __version__,
                "model": clean(identity.name),
                "lines": loaded.lines(self.language or "en"),
                "warning": _warning(loaded.trust),
                "language": self.language,
                "acknowledged": self.served.acknowledged,
                "thinks": loaded.template.supports_thinking,
                "think": self.served.settings.think,
                "history": self.conversations.kept,
                "conversation": self.conversations.resumed,
            }
        )

    def acknowledge(self, request: Request, _rest: str) -> Reply:
        """POST /page/acknowledge"""
        fields = Fields(request.document())
        language = _language(fields)
        fields.end()
        self.served.acknowledge(language)
        return json_reply({"acknowledged": True})

    def conversation(self, _request: Request, name: str) -> Reply:
        """GET /page/conversations/{id}"""
        held = self.conversations.get(name)
        exchanges, earlier = [], list[str]()
        for past in held.session.exchanges:
            if past.forgotten:
                continue
            # The guards say the same of the same text each time: no need to have kept it.
            found = check_question(past.user, earlier) + check_answer(
                past.answer, past.user, earlier
            )
            exchanges.append(
                {
                    "question": clean(past.user),
                    "reasoning": clean(past.reasoning),
                    "answer": clean(past.answer),
                    "stop_reason": past.stop_reason,
                    "guards": [_both(notice) for notice in notices(found)],
                }
            )
            earlier += [past.user] if past.answer else []
        return json_reply({"conversation": name, "busy": held.busy, "exchanges": exchanges})

    def stop(self, request: Request, _rest: str) -> Reply:
        """POST /page/stop"""
        fields = Fields(request.document())
        name = fields.text("conversation") or ""
        fields.end()
        self.conversations.get(name).cancel()
        return json_reply({"conversation": name})

    def ask(self, request: Request, _rest: str) -> Reply:
        """POST /page/ask"""
        fields = Fields(request.document())
        text = (fields.text("text", longest=MAX_QUESTION) or "").strip()
        if not text:
            raise bad_value("text", "'text' must hold a question")
        name = fields.text("conversation")
        think = fields.flag("think", self.served.settings.think)
        language = _language(fields)
        fields.end()
        try:
            self.served.require_acknowledged()
            held = self.conversations.get(name) if name else self.conversations.new()
            job = Job(lambda job: self._run(held, text, think, job))
            self._submit(held, job)
        except ApiError as error:
            error.message = local(error.message, language)
            raise
        return Reply(200, EVENTS, self._events(held, job, request, language))

    def _submit(self, held: Held, job: Job) -> None:
        held.begin(job)
        try:
            self.queue.submit(job)
        except ApiError:
            held.end(job)
            raise

    def _run(self, held: Held, text: str, think: bool, job: Job) -> TurnResult:
        """In the engine's thread: one turn, on the disk before it is shown as done."""
        try:
            loaded = self.served.loaded
            session = self.conversations.open(held)
            job.put(Started(held.name))
            settings = replace(
                self.served.settings, think=think and loaded.template.supports_thinking
            )
            conversation = Conversation(
                loaded.engine,
                loaded.template,
                session,
                job,
                loaded.prefix,
                governor=loaded.governor,
                warm_for=held.warm_for,
            )
            result = conversation.ask(text, settings)
            held.warm_for = conversation.warm_for
            return result
        finally:
            held.end(job)

    def _events(
        self, held: Held, job: Job, request: Request, language: Language
    ) -> Iterator[bytes]:
        try:
            yield _event("waiting", {"conversation": held.name, "position": job.position})
            said = time.monotonic()
            for event in job.events():
                if request.gone():
                    return
                if event is None and time.monotonic() - said < KEEP_ALIVE_S:
                    continue
                said = time.monotonic()
                yield _shown(event, language) if event is not None else b": waiting\n\n"
        finally:
            job.cancel()
            held.end(job)


def _shown(event: JobEvent, language: Language) -> bytes:
    """An event for the page: text without the marks that reorder or control."""
    match event:
        case Started(conversation):
            return _event("started", {"conversation": conversation})
        case Progress(done, total):
            return _event("progress", {"done": done, "total": total})
        case ReasoningText(text):
            return _event("reasoning", {"text": clean(text)})
        case AnswerText(text):
            return _event("answer", {"text": clean(text)})
        case Notice(code, english):
            return _event("notice", {"code": code, "text": translated(code, english, language)})
        case Failed(error):
            said = error.document["error"]
            assert isinstance(said, dict)
            return _event("error", {**said, "message": local(said["message"], language)})
        case Done(result):
            return _event("done", _facts(result))


def _facts(result: TurnResult) -> Document:
    # Each notice was an event of its own, those of the guards too.
    facts = {n: v for n, v in turn_facts(result).items() if n not in ("notices", "guards")}
    return {"stop_reason": result.stop_reason, **facts}


def _event(name: str, data: dict[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _warning(trust: Trust | None) -> dict[Language, str] | None:
    """That nobody vouches for the model, in both languages; None where somebody does."""
    if trust is None or not trust.warns:
        return None
    return {"en": clean(" ".join(trust.lines("en"))), "es": clean(" ".join(trust.lines("es")))}


def _both(notice: Notice) -> dict[Language, str]:
    return {"en": notice.text, "es": translated(notice.code, notice.text, "es")}


def _language(fields: Fields) -> Language:
    return "es" if fields.choice("language", "en", "es") == "es" else "en"
