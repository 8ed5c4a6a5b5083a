"""What the page asks: its state, a conversation, an answer as it comes, and to stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pedsup import __version__
from pedsup.chat.events import AnswerText, Done, Notice, ReasoningText, TurnResult
from pedsup.guards import check_answer, check_picture, check_question, notices
from pedsup.messages import Message, joined
from pedsup.pictures.limits import MAX_PICTURES
from pedsup.serve.conversations import Conversations, Held
from pedsup.serve.faults import ApiError, Document, without_commands
from pedsup.serve.fields import Fields
from pedsup.serve.jobs import Failed, Job, JobEvent, JobQueue, Progress, Started
from pedsup.serve.model import Served
from pedsup.serve.page_request import PageQuestion, language_of, parse_question
from pedsup.serve.web import ALIVE, EVENTS, Reply, Request, json_reply
from pedsup.session.conversation import turn_facts
from pedsup.session.history import Exchange, Session
from pedsup.session.listing import title_of
from pedsup.texts.intended_use import Language
from pedsup.texts.language import translated
from pedsup.texts.notices import GUARDS
from pedsup.texts.safe import clean
from pedsup.trust.verdict import Trust


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
        settings = self.served.settings
        return json_reply(
            {
                "version": __version__,
                "model": clean(loaded.identity.name),
                "lines": {"en": _lines(self.served, "en"), "es": _lines(self.served, "es")},
                "warning": _warning(loaded.trust),
                "signed": loaded.trust is not None and loaded.trust.vouched,
                "language": self.language,
                "acknowledged": self.served.acknowledged,
                "thinks": loaded.template.supports_thinking,
                "think": settings.think,
                "pictures": MAX_PICTURES if self.served.sees else 0,
                "picture_rule": _both(GUARDS["guard_picture"]),
                "history": self.conversations.folder is not None,
                "conversation": self.conversations.resumed,
                "defaults": {
                    "temperature": round(settings.sampling.temperature, 3),
                    "think_budget": settings.think_budget,
                    "max_tokens": settings.max_tokens,
                    "system": self.served.system,
                },
            }
        )

    def acknowledge(self, request: Request, _rest: str) -> Reply:
        """POST /page/acknowledge"""
        fields = Fields(request.document())
        language = language_of(fields)
        fields.end()
        self.served.acknowledge(language)
        return json_reply({"acknowledged": True})

    def conversation(self, _request: Request, name: str) -> Reply:
        """GET /page/conversations/{id}"""
        held = self.conversations.get(name)
        session = held.session
        exchanges, earlier = [], list[str]()
        for past in session.exchanges:
            if past.forgotten:
                continue
            # The guards say the same of the same text each time: no need to have kept it.
            found = [
                *check_question(past.user, earlier),
                *check_picture(len(past.picture_notes)),
                *check_answer(past.answer, past.user, earlier),
            ]
            exchanges.append(
                {
                    "turn": past.turn,
                    "question": clean(past.user),
                    "pictures": _pictures(past),
                    "reasoning": clean(past.reasoning),
                    "answer": clean(past.answer),
                    "stop_reason": past.stop_reason,
                    "guards": [_both(notice.text) for notice in notices(found)],
                }
            )
            earlier += [past.user] if past.answer else []
        return json_reply(
            {
                "conversation": held.id,
                "busy": held.busy,
                "title": title_of(session),
                "system": session.system,
                "same_model": self.conversations.can_go_on(held),
                "exchanges": exchanges,
            }
        )

    def stop(self, request: Request, _rest: str) -> Reply:
        """POST /page/stop"""
        name = Fields(request.document()).only_text("conversation")
        self.conversations.get(name).cancel()
        return json_reply({"conversation": name})

    def ask(self, request: Request, _rest: str) -> Reply:
        """POST /page/ask"""
        document = request.document()
        language: Language = "es" if document.get("language") == "es" else "en"
        try:
            question = parse_question(
                document,
                self.served.settings,
                thinks=self.served.loaded.template.supports_thinking,
                sees=self.served.sees,
            )
            self.served.require_acknowledged()
            name = question.conversation
            held = self.conversations.get(name) if name else self.conversations.new()
            job = Job(lambda job: self._run(held, question, job))
            self._submit(held, job)
        except ApiError as error:
            error.message = error.said(language)
            raise
        return Reply(200, EVENTS, self._events(held, job, request, language))

    def _submit(self, held: Held, job: Job) -> None:
        held.begin(job)
        try:
            self.queue.submit(job)
        except ApiError:
            held.end(job)
            raise

    def _run(self, held: Held, question: PageQuestion, job: Job) -> TurnResult:
        """In the engine's thread: one turn, on the disk before it is shown as done."""
        try:
            session = self.conversations.open(held)
            question = self._prepare(session, question)
            job.put(Started(held.id, len(session.exchanges) + 1))
            loaded = self.served.loaded
            conversation = loaded.conversation(session, job, warm_for=held.warm_for)
            result = conversation.ask(question.text, question.settings, question.pictures)
            held.warm_for = conversation.warm_for
            return result
        finally:
            held.end(job)

    def _prepare(self, session: Session, question: PageQuestion) -> PageQuestion:
        """What the transcript must say before the question; the question as it is asked."""
        if question.from_turn is not None:
            session.rewind(question.from_turn)
            # Another answer: the seed of the first would give the same one.
            settings = self.served.with_seed(question.settings, seeded=False)
            question = replace(question, settings=settings)
        if question.system is not None and question.system != session.system:
            session.set_system(question.system)
        changes = question.changes(self.served.settings)
        if changes != session.settings:
            session.note_settings(changes)
        return question

    def _events(
        self, held: Held, job: Job, request: Request, language: Language
    ) -> Iterator[bytes]:
        try:
            yield _event("waiting", {"conversation": held.name, "position": job.position})
            for event in job.events(request.gone):
                yield _shown(event, language) if event is not None else ALIVE
        finally:
            job.cancel()
            held.end(job)


def _shown(event: JobEvent, language: Language) -> bytes:
    """An event for the page: text without the marks that reorder or control."""
    match event:
        case Started(conversation, turn):
            return _event("started", {"conversation": conversation, "turn": turn})
        case Progress(done, total):
            return _event("progress", {"done": done, "total": total})
        case ReasoningText(text):
            return _event("reasoning", {"text": clean(text)})
        case AnswerText(text):
            return _event("answer", {"text": clean(text)})
        case Notice(code, text):
            said = without_commands(translated(text, language))
            return _event("notice", {"code": code, "text": said})
        case Failed(error):
            document = error.document["error"]
            assert isinstance(document, dict)
            return _event("error", {**document, "message": error.said(language)})
        case Done(result):
            return _event("done", _facts(result))


def _facts(result: TurnResult) -> Document:
    # Each notice was an event of its own, those of the guards too.
    facts = {n: v for n, v in turn_facts(result).items() if n not in ("notices", "guards")}
    return {"stop_reason": result.stop_reason, **facts}


def _event(name: str, data: dict[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _pictures(past: Exchange) -> list[Document]:
    """That there were pictures, and whether the model still sees them; never the pictures."""
    seen = bool(past.pictures)
    return [{"width": n.width, "height": n.height, "seen": seen} for n in past.picture_notes]


def _lines(served: Served, language: Language) -> list[str]:
    """What is loaded, for people; names in it come from a file."""
    return [clean(translated(line, language)) for line in served.loaded.lines()]


def _warning(trust: Trust | None) -> dict[Language, str] | None:
    """What is wrong with who vouches for the model, in both languages; None where nothing is."""
    if trust is None or not trust.warns:
        return None
    return _both(joined(" ", (line.mapped(clean) for line in trust.lines())))


def _both(text: Message) -> dict[Language, str]:
    return {"en": text, "es": translated(text, "es")}
