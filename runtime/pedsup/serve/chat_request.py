"""A request of OpenAI's chat-completions protocol as what `Conversation.ask` takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from pedsup.chat.events import TurnSettings
from pedsup.chat.templates.template import Message
from pedsup.engine.grammar import check_json_schema
from pedsup.errors import UsageError
from pedsup.files.json_file import tables
from pedsup.pictures.picture import Picture
from pedsup.serve.content import content_of
from pedsup.serve.faults import Document, bad_value
from pedsup.serve.fields import Fields
from pedsup.serve.pictures import Pictures

MAX_MESSAGES: Final = 512
MAX_STOPS: Final = 4
MAX_STOP: Final = 128
"""Characters."""
MAX_TOKENS: Final = 1 << 22
MAX_FIELDS: Final = ("max_completion_tokens", "max_tokens")
MAX_SCHEMA: Final = 32 << 10
"""Characters of a JSON schema."""
MAX_COUNT: Final = 200
"""Repetitions in a schema: each becomes a rule of the grammar, or a level of it."""
MAX_PATTERN: Final = 200
COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
REASONING_SHARE: Final = 0.75
"""Of `max_completion_tokens`, so that a long thought leaves room for an answer."""


@dataclass(frozen=True)
class ChatRequest:
    """What was asked, checked."""

    model: str
    history: tuple[Message, ...]
    """All messages but the last."""
    question: str
    """The last message, the user's."""
    pictures: tuple[Picture, ...]
    """Of the last message."""
    settings: TurnSettings
    stream: bool
    include_usage: bool
    seeded: bool
    """Whether the client chose the seed."""


def parse_chat(
    document: Document, default: TurnSettings, *, thinks: bool, sees: bool
) -> ChatRequest:
    """Read a request body.

    Args:
        default: how turns are generated where the request says nothing.
        thinks: whether the model has a channel for reasoning.
        sees: whether it takes pictures.

    Raises:
        ApiError: a field is unknown, unsupported or has a bad value.
    """
    fields = Fields(document)
    model = fields.text("model")
    if not model:
        raise bad_value("model", "'model' must name the model: GET /v1/models lists it")
    messages = _messages(fields.take("messages"), Pictures(sees=sees))
    stream = fields.flag("stream")
    options = Fields(fields.mapping("stream_options") or {}, "stream_options")
    include_usage = options.flag("include_usage")
    options.only("include_obfuscation", False)
    options.end()
    settings = _settings(fields, default, thinks=thinks)
    seed = fields.whole_or_none("seed", 0, (1 << 32) - 1)
    if seed is not None:
        settings = replace(settings, sampling=replace(settings.sampling, seed=seed))
    _refuse_rest(fields)
    return ChatRequest(
        model=model,
        history=tuple(messages[:-1]),
        question=messages[-1]["content"],
        pictures=messages[-1].get("pictures", ()),
        settings=settings,
        stream=stream,
        include_usage=include_usage,
        seeded=seed is not None,
    )


T = TypeVar("T")


def _given(value: T | None, usual: T) -> T:
    return usual if value is None else value


def _settings(fields: Fields, default: TurnSettings, *, thinks: bool) -> TurnSettings:
    usual = default.sampling
    sampling = replace(
        usual,
        temperature=_given(fields.number("temperature", 0, 2), usual.temperature),
        top_p=_given(fields.number("top_p", 0, 1, above=True), usual.top_p),
        top_k=_given(_top_k(fields), usual.top_k),
        min_p=_given(fields.number("min_p", 0, 0.99), usual.min_p),
        repeat_penalty=_given(fields.number("repeat_penalty", 0.5, 2), usual.repeat_penalty),
    )
    limits = [fields.whole_or_none(name, 1, MAX_TOKENS) for name in MAX_FIELDS]
    limit = min((n for n in limits if n is not None), default=None)
    think, budget = _thinking(fields, default, thinks=thinks), default.think_budget
    if think and limit is not None:
        share = int(limit * REASONING_SHARE)
        budget = share if budget is None else min(budget, share)
    return replace(
        default,
        sampling=sampling,
        think=think,
        think_budget=budget,
        max_completion=limit,
        stop=_stops(fields.take("stop")),
        json_schema=_schema(fields.mapping("response_format")),
    )


def _top_k(fields: Fields) -> int | None:
    """-1 is what vLLM takes for all tokens, which is 0 to llama.cpp."""
    top_k = fields.whole("top_k", -1, 1 << 20)
    return None if top_k is None else max(0, top_k)


def _thinking(fields: Fields, default: TurnSettings, *, thinks: bool) -> bool:
    """`reasoning_effort` as OpenAI has it, `enable_thinking` as llama-server and vLLM do."""
    effort = fields.choice("reasoning_effort", "none", "minimal", "low", "medium", "high", "xhigh")
    template = Fields(fields.mapping("chat_template_kwargs") or {}, "chat_template_kwargs")
    wanted = template.flag("enable_thinking", default.think if effort is None else effort != "none")
    template.end()
    return wanted and thinks


def _messages(found: object, pictures: Pictures) -> list[Message]:
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_MESSAGES:
        raise bad_value("messages", f"'messages' must be a list of 1 to {MAX_MESSAGES} messages")
    messages = [_message(one, f"messages[{i}]", pictures) for i, one in enumerate(found)]
    if messages[-1]["role"] != "user":
        raise bad_value("messages", "the last message must be the user's")
    return messages


def _message(found: object, where: str, pictures: Pictures) -> Message:
    if not isinstance(found, dict):
        raise bad_value(where, f"'{where}' must be an object with 'role' and 'content'")
    fields = Fields(found, where)
    role = fields.choice("role", "system", "developer", "user", "assistant")
    if role is None:
        raise bad_value(f"{where}.role", f"'{where}.role' is missing")
    content, seen = content_of(fields.take("content"), f"{where}.content", pictures)
    if seen and role != "user":
        raise bad_value(f"{where}.content", "pictures belong into the user's messages")
    fields.text("name", longest=512)  # who of several people speaks: the template has no place
    if role == "assistant":
        # What replies carry, for clients that send a reply back as it is. Reasoning never goes
        # back into the prompt: the models' templates leave it out.
        fields.text("reasoning_content", longest=1 << 22)
        fields.only("annotations", [])
        fields.only("tool_calls", [])
        for name in ("refusal", "audio", "function_call"):
            fields.only(name)
    fields.end()
    match role:
        case "system" | "developer":
            return {"role": "system", "content": content}
        case "assistant":
            return {"role": "assistant", "content": content}
    asked: Message = {"role": "user", "content": content}
    if seen:
        asked["pictures"] = seen
    return asked


def _stops(found: object) -> tuple[str, ...]:
    if found is None:
        return ()
    stops = [found] if isinstance(found, str) else found
    if not isinstance(stops, list) or not all(
        isinstance(stop, str) and 0 < len(stop) <= MAX_STOP for stop in stops
    ):
        raise bad_value("stop", f"'stop' must be texts of 1 to {MAX_STOP} characters")
    if len(stops) > MAX_STOPS:
        raise bad_value("stop", f"'stop' may hold {MAX_STOPS} texts at most")
    return tuple(stops)


def _schema(found: Document | None) -> str | None:
    """`response_format` as a JSON schema for the grammar."""
    if found is None:
        return None
    fields = Fields(found, "response_format")
    kind = fields.choice("type", "text", "json_object", "json_schema")
    if kind is None:
        raise bad_value("response_format.type", "'response_format.type' is missing")
    inner = fields.mapping("json_schema") if kind == "json_schema" else {}
    fields.end()
    if kind != "json_schema":
        return json.dumps({"type": "object"}) if kind == "json_object" else None
    where = "response_format.json_schema"
    if inner is None:
        raise bad_value(where, f"'{where}' is missing")
    schema = Fields(inner, where)
    schema.text("name")
    schema.text("description", longest=4096)
    schema.flag("strict")
    wanted = schema.mapping("schema")
    schema.end()
    if wanted is None:
        raise bad_value(f"{where}.schema", f"'{where}.schema' is missing")
    return _bounded_schema(wanted, f"{where}.schema")


def _bounded_schema(schema: Document, where: str) -> str:
    """A schema that cannot grow beyond measure when it is made a grammar."""
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > MAX_SCHEMA:
        raise bad_value(where, f"the schema has more than {MAX_SCHEMA} characters")
    for name, value in (pair for table in tables(schema) for pair in table.items()):
        if name in COUNTS and isinstance(value, int | float) and not 0 <= value <= MAX_COUNT:
            raise bad_value(where, f"'{name}' in a schema must be from 0 to {MAX_COUNT}")
        if name == "pattern" and not _takes(value):
            raise bad_value(
                where,
                f"'pattern' must be '^...$' of at most {MAX_PATTERN} characters without '{{'",
            )
    try:
        return check_json_schema(text, where=where)
    except UsageError as error:
        raise bad_value(where, error.found) from error


def _takes(pattern: object) -> bool:
    """Whether a pattern becomes a small grammar; '{' is a counted repetition.

    A pattern without anchors would be left out without a word.
    """
    return (
        isinstance(pattern, str)
        and len(pattern) <= MAX_PATTERN
        and "{" not in pattern
        and pattern.startswith("^")
        and pattern.endswith("$")
    )


def _refuse_rest(fields: Fields) -> None:
    """Fields of the protocol that may be there as long as they ask for nothing special."""
    fields.only("n", 1)
    fields.only("presence_penalty", 0)
    fields.only("frequency_penalty", 0)
    fields.only("logprobs", False)
    fields.only("top_logprobs", 0)
    fields.only("logit_bias", {})
    fields.only("tools", [])
    fields.only("functions", [])
    fields.only("tool_choice", "none", "auto")
    fields.only("function_call", "none", "auto")
    fields.only("parallel_tool_calls", True, False)
    fields.only("modalities", ["text"])
    fields.only("verbosity", "medium")
    fields.flag("store")  # asks a provider to keep the answer: nothing asked here is kept
    fields.only("service_tier", "auto", "default")
    # Who asks, for a provider's bookkeeping: nothing is kept here.
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        fields.text(name, longest=512)
    fields.mapping("metadata")
    fields.end()
