"""OpenAI's protocol, spoken by OpenAI's own client, answered by SmolLM2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pedsup_testing.fake_engine import END
from pedsup_testing.lazy import Lazy
from pedsup_testing.served import Served

from pedsup.texts.intended_use import SHORT

openai = Lazy("openai", reason="pip install openai")

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
SCHEMA = {
    "type": "object",
    "properties": {"urgent": {"type": "boolean"}, "sign": {"enum": ["fever", "cough"]}},
    "required": ["urgent", "sign"],
    "additionalProperties": False,
}
EMPTY_CHOICES: list[Any] = [
    {"enum": []}, {"type": []}, {"anyOf": []}, {"$defs": {"a": {"oneOf": []}}, "type": "object"},
    {"type": "object", "properties": {"secret": {"const": "Quispe"}, "enum": {"enum": []}}},
    {"type": "array", "items": {"allOf": []}},
]  # fmt: skip


def client_of(server: Served) -> Any:
    return openai.OpenAI(base_url=server.api_base, api_key=server.api_token, max_retries=0)


@pytest.fixture(scope="module")
def client(real: Served) -> Iterator[Any]:
    with client_of(real) as found:
        yield found


@pytest.fixture
def gemma(scripted: Any) -> Iterator[Any]:
    """A function from a script to a client of the scripted Gemma 4."""
    with ExitStack() as stack:
        yield lambda *script, **options: stack.enter_context(
            client_of(scripted(*script, **options))
        )


def thought(text: str, answer: str) -> list[str]:
    return ["<|channel>", "thought", "\n", *text, "<channel|>", *answer, END]


def test_the_model_names_itself_and_its_use(client: Any, real: Served) -> None:
    (model,) = client.models.list().data
    assert model.id == "SmolLM2-135M-Instruct.Q4_1" == real.document["model"]
    assert model.meta["intended_use"] == SHORT
    assert model.meta["context"] == 512
    assert client.models.retrieve(model.id) == model


def read_once(client: Any) -> None:
    """Have the prompt in the cache: its first reading, in one batch, rounds otherwise."""
    client.chat.completions.create(model="pedsup", messages=HELLO, max_tokens=1)


def test_an_answer_with_its_usage(client: Any) -> None:
    read_once(client)
    answer = client.chat.completions.create(model="pedsup", messages=HELLO, max_tokens=8)
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert choice.message.role == "assistant"
    assert choice.message.content.startswith("Hello")
    assert answer.model == "SmolLM2-135M-Instruct.Q4_1"
    usage = answer.usage
    assert usage.completion_tokens == 8
    assert usage.total_tokens == usage.prompt_tokens + 8
    again = client.chat.completions.create(model="pedsup", messages=HELLO, max_tokens=8)
    assert again.choices[0].message.content == choice.message.content
    # All but the token that must be read again.
    assert again.usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_a_stream_says_the_same_piece_by_piece(client: Any) -> None:
    read_once(client)
    whole = client.chat.completions.create(model="pedsup", messages=HELLO, max_tokens=10)
    chunks = list(
        client.chat.completions.create(
            model="pedsup", messages=HELLO, max_completion_tokens=10, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    last = chunks.pop()
    assert last.choices == []
    assert last.usage.completion_tokens == 10
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    plain = client.chat.completions.create(
        model="pedsup", messages=HELLO, max_tokens=2, stream=True
    )
    assert all(chunk.usage is None and chunk.choices for chunk in plain)


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(client: Any) -> None:
    read_once(client)
    whole = client.chat.completions.create(model="pedsup", messages=HELLO, max_tokens=16)
    text = whole.choices[0].message.content
    stop = text[6:10]
    cut = client.chat.completions.create(
        model="pedsup", messages=HELLO, max_tokens=16, stop=["never there", stop]
    )
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_a_schema_shapes_the_answer(client: Any) -> None:
    answer = client.chat.completions.create(
        model="pedsup",
        messages=[{"role": "user", "content": "A child has fever. Answer in JSON."}],
        response_format={"type": "json_schema",
                         "json_schema": {"name": "triage", "strict": True, "schema": SCHEMA}},
    )  # fmt: skip
    document = json.loads(answer.choices[0].message.content)
    assert set(document) == {"urgent", "sign"}
    assert isinstance(document["urgent"], bool)
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.slow  # test_turn.py: it reaches the engine
def test_a_seed_repeats_an_answer_and_none_does_not(client: Any) -> None:
    def ask(**more: Any) -> str:
        answer = client.chat.completions.create(
            model="pedsup", messages=HELLO, max_tokens=12, temperature=2.0, **more
        )
        return str(answer.choices[0].message.content)

    read_once(client)
    assert ask(seed=5) == ask(seed=5)
    assert len({ask() for _ in range(4)}) > 1


def test_the_whole_dialogue_comes_from_the_client(client: Any) -> None:
    dialogue: list[Any] = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": [{"type": "text", "text": "My name is Ana."}]},
        {"role": "assistant", "content": "Hello Ana."},
        {"role": "user", "content": "What is my name?"},
    ]
    long = client.chat.completions.create(model="pedsup", messages=dialogue, max_tokens=1)
    short = client.chat.completions.create(model="pedsup", messages=dialogue[-1:], max_tokens=1)
    # Two turns more, though SmolLM2's template has a longer system prompt of its own.
    assert long.usage.prompt_tokens > short.usage.prompt_tokens


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages",
         "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {
            "url": "data:image/png;base64,AAAA"}}]}]},
         "messages[0].content[0].image_url.url", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "messages[0].content[0]", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"presence_penalty": 1.0}, "presence_penalty", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"cache_prompt": True}, "cache_prompt", "unknown_parameter"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {
            "type": "array", "items": {"type": "string"}, "minItems": 10**9}}}},
         "response_format.json_schema.schema", "invalid_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {
            "type": "string", "pattern": "^a{1,100000}$"}}}},
         "response_format.json_schema.schema", "invalid_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {
            "$ref": "http://127.0.0.1:9/x"}}}},
         "response_format.json_schema.schema", "invalid_value"),
        *(({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
           "response_format.json_schema.schema", "invalid_value") for schema in EMPTY_CHOICES),
        ({"max_tokens": -2}, "max_tokens", "invalid_value"),
        ({"seed": -2}, "seed", "invalid_value"),
        ({"messages": [{"role": "user", "name": 5, "content": "x"}]}, "messages[0].name",
         "invalid_value"),
        ({"messages": [{"role": "user", "content": "fever " * 700}]}, "messages",
         "context_length_exceeded"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_it_refuses_by_name(
    real: Served, change: Any, param: str, code: str
) -> None:
    body = {"model": "pedsup", "messages": HELLO, **change}
    for stream in (False, True):  # an error before the first piece is no stream
        status, headers, found = real.call("POST", "/v1/chat/completions",
                                           {**body, "stream": stream})  # fmt: skip
        assert status == 400
        assert headers["content-type"] == "application/json"
        assert found["error"]["type"] == "invalid_request_error"
        assert (found["error"]["param"], found["error"]["code"]) == (param, code)


def test_fields_that_ask_for_nothing_are_taken(client: Any) -> None:
    """What OpenAI's clients, AutoGen and clients of other servers send along."""
    answer = client.chat.completions.create(
        model="pedsup",
        messages=[
            {"role": "system", "name": "planner", "content": "You are brief."},
            {"role": "user", "name": "ana", "content": "Hi."},
            {"role": "assistant", "name": "pedsup", "content": "Hello."},
            {"role": "user", "name": "ana", "content": "Say hello."},
        ],
        max_tokens=2, n=1, user="ana", store=True, metadata={"run": "7"}, seed=-1,
        function_call="none", extra_body={"top_k": -1, "max_completion_tokens": -1},
    )  # fmt: skip
    assert answer.usage.completion_tokens <= 2
    again = client.chat.completions.create(
        model="pedsup", messages=HELLO, max_tokens=-1, stop=" ", store=False
    )
    assert again.choices[0].finish_reason == "stop"


def test_a_refused_schema_does_not_reach_the_terminal(start: Any) -> None:
    """llama.cpp prints a grammar that it cannot parse; the schema of the asker stands in it."""
    server = start()
    for schema in (*EMPTY_CHOICES, {"type": "string", "pattern": "^Quispe[$"}):
        body = {"model": "pedsup", "messages": HELLO, "max_tokens": 2, "response_format": {
            "type": "json_schema", "json_schema": {"schema": schema}}}  # fmt: skip
        assert server.call("POST", "/v1/chat/completions", body)[0] == 400
    assert "Quispe" not in server.finish()[1]


def test_the_client_knows_the_errors(client: Any, real: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has one model"):
        client.chat.completions.create(model="gpt-5", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="fewer than the context of 512 tokens"):
        client.chat.completions.create(
            model="pedsup", messages=[{"role": "user", "content": "fever " * 700}]
        )
    with (
        openai.OpenAI(base_url=real.api_base, api_key="guess", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_client_may_send_a_reply_back_as_it_came(client: Any) -> None:
    first = client.chat.completions.create(model="pedsup", messages=HELLO, max_tokens=4)
    messages = [*HELLO, first.choices[0].message, {"role": "user", "content": "Again."}]
    second = client.chat.completions.create(model="pedsup", messages=messages, max_tokens=4)
    assert second.choices[0].message.content


# ---- reasoning, on the scripted Gemma 4 ----


def test_reasoning_is_a_field_of_its_own(gemma: Any) -> None:
    client = gemma(thought("hmm", "Sí."), thought("hmm", "Sí."))
    whole = client.chat.completions.create(model="pedsup", messages=HELLO)
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == ("Sí.", "hmm")
    assert whole.usage.completion_tokens_details.reasoning_tokens == 7
    chunks = list(client.chat.completions.create(model="pedsup", messages=HELLO, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert reasoning == "hmm"
    assert "".join(delta.content or "" for delta in deltas) == "Sí."


@pytest.mark.slow
def test_reasoning_can_be_switched_off(gemma: Any) -> None:
    client = gemma(*[["Sí.", END]] * 3)
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
    asked = [{"reasoning_effort": "none"}, {"extra_body": kwargs}, {}]
    tokens = [
        client.chat.completions.create(model="pedsup", messages=HELLO, **more).usage.prompt_tokens
        for more in asked
    ]
    # What asks for reasoning: a system turn with <|think|>.
    assert tokens[0] == tokens[1] < tokens[2]


def test_the_limit_counts_reasoning_and_leaves_room_for_an_answer(gemma: Any) -> None:
    client = gemma(thought("abcdefghijklmnopqrstuvwxyz" * 4, "x"), list("0123456789" * 3))
    whole = client.chat.completions.create(model="pedsup", messages=HELLO, max_completion_tokens=40)
    assert whole.usage.completion_tokens == 40
    assert whole.choices[0].finish_reason == "length"
    assert whole.choices[0].message.reasoning_content.startswith("abcdef")
    assert whole.choices[0].message.content.startswith("0123")
    assert [notice["code"] for notice in whole.pedsup["notices"]] == ["budget"]


@pytest.mark.slow
def test_a_server_wide_system_prompt_is_for_requests_without_one(gemma: Any) -> None:
    client = gemma(*[["Sí.", END]] * 3, system="Sea breve.")

    def tokens(messages: list[Any]) -> int:
        answer = client.chat.completions.create(
            model="pedsup", messages=messages, reasoning_effort="none"
        )
        return int(answer.usage.prompt_tokens)

    own = tokens([{"role": "system", "content": "Sea breve."}, *HELLO])
    assert tokens(HELLO) == own
    assert tokens([{"role": "system", "content": "S"}, *HELLO]) == own - len("ea breve.")
