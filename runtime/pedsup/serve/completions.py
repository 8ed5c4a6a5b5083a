"""OpenAI's chat-completions protocol: `/v1/models` and `/v1/chat/completions`."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pedsup.chat.events import AnswerText, Done, ReasoningText, StopReason, TurnResult
from pedsup.serve.chat_request import ChatRequest, parse_chat
from pedsup.serve.faults import ApiError, Document
from pedsup.serve.jobs import Failed, Job, JobEvent, JobQueue
from pedsup.serve.model import ALIAS, RequestSession, Served, model_document
from pedsup.serve.web import ALIVE, EVENTS, Reply, Request, json_reply

FINISH: Final[dict[StopReason, str]] = {
    "end": "stop",
    "empty": "stop",
    "length": "length",
    "context": "length",
    # The watchdog cut the answer off: it is not complete.
    "loop": "length",
    "interrupted": "stop",
}


@dataclass
class Completions:
    """Handlers of `/v1`."""

    served: Served
    queue: JobQueue

    def models(self, _request: Request, _rest: str) -> Reply:
        """GET /v1/models"""
        return json_reply({"object": "list", "data": [model_document(self.served)]})

    def model(self, _request: Request, name: str) -> Reply:
        """GET /v1/models/{model}"""
        self._require_model(name)
        return json_reply(model_document(self.served))

    def create(self, request: Request, _rest: str) -> Reply:
        """POST /v1/chat/completions"""
        served = self.served
        thinks = served.loaded.template.supports_thinking
        document = request.document()
        chat = parse_chat(document, served.settings, thinks=thinks, sees=served.sees)
        self._require_model(chat.model)
        served.require_acknowledged()
        job = Job(lambda job: self._ask(chat, job))
        self.queue.submit(job)
        reply = _Answer(served.model_id, served.loaded.identity.digest[:16], chat, job, request)
        return reply.stream() if chat.stream else reply.document()

    def _ask(self, chat: ChatRequest, job: Job) -> TurnResult:
        """In the engine's thread: one turn of a conversation that is kept nowhere."""
        served, history = self.served, list(chat.history)
        if served.system and not any(message["role"] == "system" for message in history):
            history.insert(0, {"role": "system", "content": served.system})
        session = RequestSession(history=history)
        conversation = served.loaded.conversation(session, job, traceless=True)
        settings = served.with_seed(chat.settings, seeded=chat.seeded)
        return conversation.ask(chat.question, settings, chat.pictures)

    def _require_model(self, name: str) -> None:
        if name not in (self.served.model_id, ALIAS):
            raise ApiError(
                404,
                f"this server has one model: '{self.served.model_id}', also called '{ALIAS}'",
                "model_not_found",
                param="model",
            )


@dataclass
class _Answer:
    """The events of one job as OpenAI's documents."""

    model: str
    fingerprint: str
    chat: ChatRequest
    job: Job
    request: Request
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def document(self) -> Reply:
        """The whole answer at once."""
        for event in self.job.events(self.request.gone):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                result = event.result
                message: Document = {
                    "role": "assistant",
                    "content": result.answer,
                    "refusal": None,
                }
                if result.reasoning:
                    message["reasoning_content"] = result.reasoning
                choice = {"index": 0, "message": message, "logprobs": None,
                          "finish_reason": FINISH[result.stop_reason]}  # fmt: skip
                return json_reply(
                    {**self._head("chat.completion"), "choices": [choice],
                     "usage": usage(result), "pedsup": remarks(result)}
                )  # fmt: skip
        raise ApiError(499, "the client went away", "client_gone")

    def stream(self) -> Reply:
        """Server-sent events, from the first piece on; an error before it is an ordinary reply."""
        events = self.job.events(self.request.gone)
        first: JobEvent | None = None
        for first in events:
            if isinstance(first, Failed):
                raise first.error
            if isinstance(first, ReasoningText | AnswerText | Done):
                return Reply(200, EVENTS, self._chunks(first, events))
        raise ApiError(499, "the client went away", "client_gone")

    def _chunks(self, first: JobEvent, events: Iterator[JobEvent | None]) -> Iterator[bytes]:
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            yield from self._chunk_of(first)
            for event in events:
                yield from self._chunk_of(event)
        finally:
            self.job.cancel()

    def _chunk_of(self, event: JobEvent | None) -> Iterator[bytes]:
        match event:
            case ReasoningText(text):
                yield self._chunk({"reasoning_content": text})
            case AnswerText(text):
                yield self._chunk({"content": text})
            case Failed(error):
                yield _data(error.document)
            case Done(result):
                yield self._chunk({}, finish=FINISH[result.stop_reason], pedsup=remarks(result))
                if self.chat.include_usage:
                    head = self._head("chat.completion.chunk")
                    yield _data({**head, "choices": [], "usage": usage(result)})
                yield b"data: [DONE]\n\n"
            case _:
                yield ALIVE

    def _chunk(self, delta: Document, *, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        document = {**self._head("chat.completion.chunk"), "choices": [choice], **more}
        if self.chat.include_usage:
            document["usage"] = None
        return _data(document)

    def _head(self, kind: str) -> Document:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage(result: TurnResult) -> Document:
    """Token counts; reasoning counts as completion, as in OpenAI's protocol."""
    written = result.n_reasoning + result.n_answer
    return {
        "prompt_tokens": result.n_prompt,
        "completion_tokens": written,
        "total_tokens": result.n_prompt + written,
        "prompt_tokens_details": {"cached_tokens": result.n_cached},
        "completion_tokens_details": {"reasoning_tokens": result.n_reasoning},
    }


def remarks(result: TurnResult) -> Document:
    """What the protocol has no field for."""
    return {
        "stop_reason": result.stop_reason,
        "notices": [{"code": notice.code, "text": notice.text} for notice in result.notices],
    }


def _data(document: Document) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"
