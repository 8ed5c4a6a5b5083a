"""A turn on a scripted engine: channels, budgets, loops, empty answers, constraints."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pedsup_testing.fake_engine import END, FakeEngine

from pedsup.chat.events import AnswerText, Done, Notice, ReasoningText, TurnResult, TurnSettings
from pedsup.chat.templates.known import FAMILIES, Family
from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.chat.turn import Turn
from pedsup.engine.api import SamplingConfig

ASK: list[Message] = [{"role": "user", "content": "Hola"}]
OPEN, CLOSE = "<|channel>", "<channel|>"


def family(name: str) -> Family:
    return next(found for found in FAMILIES if found.name == name)


@pytest.fixture(scope="module")
def edge(edge_template: str) -> ChatTemplate:
    return ChatTemplate.from_model(edge_template, bos="<bos>")


def run(engine: FakeEngine, template: ChatTemplate, **settings: object) -> TurnResult:
    """The result; asserts that the events say the same and leak no marker."""
    events = list(Turn(engine, template, ASK, TurnSettings(**settings)).stream())
    done = events[-1]
    assert isinstance(done, Done)
    result = done.result
    assert "".join(e.text for e in events if isinstance(e, AnswerText)) == result.answer
    assert "".join(e.text for e in events if isinstance(e, ReasoningText)) == result.reasoning
    assert tuple(e for e in events if isinstance(e, Notice)) == result.notices
    for text in (result.answer, result.reasoning):
        assert not any(marker in text for marker in (OPEN, CLOSE, "<|turn>", "<turn|>", "<unused"))
    return result


def codes(result: TurnResult) -> list[str]:
    return [notice.code for notice in result.notices]


def test_reasoning_and_answer(edge):
    engine = FakeEngine([[OPEN, "thought", "\n", "¿Fiebre", "?", CLOSE, "Sí", ".", END, "x"]])
    result = run(engine, edge)
    assert (result.reasoning, result.answer) == ("¿Fiebre?", "Sí.")
    assert (result.n_reasoning, result.n_answer) == (6, 2)
    assert result.stop_reason == "end"
    assert codes(result) == []
    assert engine.calls[0].prompt == (
        "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHola<turn|>\n<|turn>model\n"
    )


def test_answer_without_reasoning(edge):
    result = run(FakeEngine([["Sí", END]]), edge)
    assert (result.reasoning, result.answer, codes(result)) == ("", "Sí", [])


@pytest.mark.parametrize(
    ("pieces", "reasoning", "answer"),
    [
        # closed twice
        ([OPEN, "thought\n", "a", CLOSE, CLOSE, "b", END], "a", "b"),
        # closed without being opened
        ([CLOSE, "b", END], "", "b"),
        # empty
        ([OPEN, "thought\n", CLOSE, "b", END], "", "b"),
        ([OPEN, CLOSE, "b", END], "", "b"),
        # opened twice
        ([OPEN, "thought\n", "a", OPEN, "thought\n", "c", CLOSE, "b", END], "ac", "b"),
        # markers spelled by other tokens
        (
            ["<|", "chan", "nel>", "tho", "ught", "\n", "a", "<", "channel", "|>", "b", END],
            "a",
            "b",
        ),
        # another name, or none
        ([OPEN, "a", CLOSE, "b", END], "a", "b"),
        # newlines around the answer
        ([OPEN, "thought\n", "a\n", CLOSE, "\n\n", " b", "\n", END], "a\n", "b\n"),
        # the next turn's marker ends this one
        ([OPEN, "thought\n", "a", CLOSE, "b", "<|turn>", "user\nc", END], "a", "b"),
        # what only looks like a marker
        (["2 <", "|", " 3", END], "", "2 <| 3"),
    ],
)
def test_malformed_channels(pieces, reasoning, answer, edge):
    result = run(FakeEngine([pieces]), edge)
    assert (result.reasoning, result.answer) == (reasoning, answer)
    assert result.stop_reason == "end"


@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.integers(1, 60), max_size=12))
def test_any_split_of_the_text_parses_alike(edge, cuts):
    text = "<|channel>thought\nniño: 3 < 4 <| x\n<channel|>Dé 5 ml.\n<channel|>Fin"
    at = sorted({c for c in cuts if c < len(text)})
    bounds = zip([0, *at], [*at, len(text)], strict=True)
    result = run(FakeEngine([[text[a:b] for a, b in bounds]]), edge)
    assert result.reasoning == "niño: 3 < 4 <| x\n"
    assert result.answer == "Dé 5 ml.\nFin"


def test_characters_are_never_split(edge):
    raw = "ñ 🫁 é".encode()
    engine = FakeEngine([[bytes([b]) for b in raw]])
    events = list(Turn(engine, edge, ASK, TurnSettings()).stream())
    texts = [e.text for e in events if isinstance(e, AnswerText)]
    assert texts == ["ñ", " ", "🫁", " ", "é"]


def test_a_cut_character_at_the_end_is_replaced(edge):
    assert run(FakeEngine([["a", b"\xf0\x9f"]]), edge).answer == "a\ufffd"


def test_budget_closes_the_channel_and_the_answer_begins(edge):
    engine = FakeEngine([[OPEN, "thought\n", *"abcdefghij"], ["Sí", END]])
    result = run(engine, edge, think_budget=5)
    assert (result.reasoning, result.answer) == ("abc\n", "Sí")
    assert result.n_reasoning == 5
    assert codes(result) == ["budget"]
    assert engine.calls[1].prompt.endswith("<|channel>thought\nabc\n<channel|>")


def test_the_channel_is_not_opened_again_after_the_budget(edge):
    engine = FakeEngine([[OPEN, "thought\n", *"abc"], [OPEN, "Sí", END]])
    result = run(engine, edge, think_budget=3)
    assert (result.answer, codes(result)) == ("Sí", ["budget"])


def test_reasoning_leaves_room_for_the_answer(edge):
    engine = FakeEngine([[OPEN, "thought\n", *(f"z{i} " for i in range(200))], ["Sí", END]])
    engine.n_ctx = 200
    result = run(engine, edge)
    assert codes(result) == ["context_budget"]
    assert result.answer == "Sí"
    assert engine.calls[1].max_tokens >= (200 - result.n_prompt) // 4 - 3


def test_thinking_off_but_the_model_thinks(edge):
    engine = FakeEngine([[OPEN, "thought\n", "a"], ["Sí", END]])
    result = run(engine, edge, think=False)
    assert (result.reasoning, result.answer) == ("", "Sí")
    assert codes(result) == ["unasked_thinking"]
    assert engine.calls[1].prompt.endswith("<|turn>model\n<|channel>thought\n<channel|>")


@pytest.mark.parametrize("end", [END, "<eos>", "<|turn>"])
def test_ending_inside_the_reasoning(end, edge):
    engine = FakeEngine([[OPEN, "thought\n", "a", end], ["Sí", END]])
    result = run(engine, edge)
    assert (result.reasoning, result.answer) == ("a\n", "Sí")
    assert codes(result) == ["unclosed"]
    assert engine.calls[1].prompt.endswith("thought\na\n<channel|>")


@pytest.mark.parametrize("first", [[END], [OPEN, "thought\n", "a", CLOSE, END], [" ", "\n", END]])
def test_never_an_empty_answer(first, edge):
    engine = FakeEngine([first, [END, OPEN, "S"], ["í", END]])
    result = run(engine, edge)
    assert result.answer.strip() == "Sí"
    assert codes(result) == ["forced_answer"]
    assert engine.info.end_of_generation <= set(engine.calls[1].sampling.banned)
    assert not engine.calls[2].sampling.banned


def test_a_model_that_says_nothing_at_all(edge):
    result = run(FakeEngine([[END], [" "] * 30]), edge)
    assert result.stop_reason == "empty"
    assert codes(result) == ["forced_answer", "empty"]


def test_max_tokens_counts_the_answer_only(edge):
    engine = FakeEngine([[OPEN, "thought\n", *"abcdef", CLOSE, *"123456"]])
    result = run(engine, edge, max_tokens=4)
    assert (result.answer, result.stop_reason, result.n_answer) == ("1234", "length", 4)


def test_context_full(edge):
    engine = FakeEngine([[f"{i} " for i in range(500)]])
    engine.n_ctx = 120
    result = run(engine, edge)
    assert result.stop_reason == "context"
    assert result.n_prompt + result.n_answer == 120
    assert codes(result) == ["context"]


def test_repetition_is_stopped(edge):
    result = run(FakeEngine([["Tome ", "agua", ". "] * 300]), edge)
    assert (result.stop_reason, codes(result)) == ("loop", ["loop"])
    assert 48 <= result.n_answer < 60


def test_repetition_in_the_reasoning_closes_it(edge):
    engine = FakeEngine([[OPEN, "thought\n", *["no sé "] * 300], ["Sí", END]])
    result = run(engine, edge)
    assert (result.answer, result.stop_reason) == ("Sí", "end")
    assert codes(result) == ["loop_reasoning"]


def test_medgemma_s_reasoning_is_no_part_of_the_answer():
    """It opens its channel unasked, with tokens that are placeholders in any other model."""
    template = ChatTemplate("", family("gemma3"), bos="<bos>")
    assert not template.supports_thinking
    script = ["<unused94>", "thought\n", "Fever.", "<unused95>", "<unused49>", "See a doctor."]
    result = run(FakeEngine([[*script, "<end_of_turn>", "x"]]), template)
    assert (result.reasoning, result.answer) == ("Fever.", "See a doctor.")
    assert result.stop_reason == "end"


def test_qwen3_reasons_between_plain_tags():
    template = ChatTemplate("", family("qwen3"))
    engine = FakeEngine([["<think>", "\n", "hm", "\n", "</think>", "\n\n", "Sí", "<|im_end|>"]])
    result = run(engine, template, think=True)
    assert (result.reasoning, result.answer) == ("hm\n", "Sí")
    off = FakeEngine([["Sí", "<|im_end|>"]])
    assert run(off, template, think=False).answer == "Sí"
    assert off.calls[0].prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_unused_tokens_are_not_shown_and_stopped(edge):
    result = run(FakeEngine([["Sí", *["<unused49>"] * 300]]), edge)
    assert (result.answer, result.stop_reason, codes(result)) == ("Sí", "loop", ["unused"])
    assert result.n_answer == 5


def test_grammar_waits_for_the_end_of_the_reasoning(edge):
    grammar = 'root ::= "sí" | "no"'
    engine = FakeEngine([["a", CLOSE, "x"], ["s", "í", END]])
    result = run(engine, edge, grammar=grammar)
    assert (result.reasoning, result.answer) == ("a", "sí")
    assert engine.calls[0].prompt.endswith("<|turn>model\n<|channel>thought\n")
    assert engine.calls[0].sampling.grammar is None
    assert engine.calls[1].sampling.grammar == grammar
    assert engine.calls[1].prompt.endswith("thought\na<channel|>")


def test_grammar_at_once_when_thinking_is_off(edge):
    engine = FakeEngine([["{", "}", END]])
    result = run(engine, edge, think=False, json_schema="{}")
    assert engine.calls[0].sampling.json_schema == "{}"
    assert result.answer == "{}"


def test_budget_then_grammar(edge):
    engine = FakeEngine([["a", "b", "c"], ["no", END]])
    result = run(engine, edge, grammar='root ::= "no"', think_budget=2)
    assert (result.reasoning, result.answer) == ("ab\n", "no")
    assert engine.calls[1].sampling.grammar == 'root ::= "no"'


def test_interruption_keeps_what_was_said(edge):
    engine = FakeEngine([[OPEN, "thought\n", "a", CLOSE, "Sí", ", ", "pero"]], fail_after=6)
    turn = Turn(engine, edge, ASK, TurnSettings())
    with pytest.raises(KeyboardInterrupt):
        list(turn.stream())
    assert turn.result.answer == "Sí, "
    assert turn.result.reasoning == "a"
    assert turn.result.stop_reason == "interrupted"


def test_a_closed_stream_is_an_interruption(edge):
    turn = Turn(FakeEngine([["Sí", ", pero"]]), edge, ASK, TurnSettings())
    events = turn.stream()
    assert next(events) == AnswerText("Sí")
    events.close()
    assert (turn.result.answer, turn.result.stop_reason) == ("Sí", "interrupted")


def test_keep_is_where_the_next_turn_will_differ(edge, large_template):
    """The larger models' empty thought is in the prompt, and not in the history."""
    engine = FakeEngine([["Sí", END]])
    run(engine, edge, think=False)
    assert engine.calls[0].keep == len(engine.tokenize(engine.calls[0].prompt, parse_special=True))
    engine = FakeEngine([["Sí", END]])
    run(engine, ChatTemplate.from_model(large_template, bos="<bos>"), think=False)
    call = engine.calls[0]
    assert call.prompt.endswith("<|channel>thought\n<channel|>")
    kept = engine.tokenize(call.prompt, parse_special=True)[: call.keep]
    assert engine.text(kept).endswith("<|turn>model\n")


def test_seed_and_sampling_reach_the_engine(edge):
    engine = FakeEngine([["Sí", END]])
    run(engine, edge, sampling=SamplingConfig(temperature=0.3, seed=7))
    assert engine.calls[0].sampling == SamplingConfig(temperature=0.3, seed=7)


# ---- stop texts and the limit on everything ----


@given(
    text=st.text("abST", max_size=30),
    stop=st.text("ST", min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_a_stop_text_is_found_wherever_the_pieces_end(text, stop, cuts):
    from pedsup.chat.turn_output import StopText

    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    stops = StopText((stop,))
    shown = "".join(stops.feed(text[a:b]) for a, b in pairwise(edges))
    assert shown + stops.flush() == text.partition(stop)[0]
    assert stops.found == (stop in text)


def test_a_stop_text_ends_the_answer_and_not_the_reasoning(edge):
    engine = FakeEngine([[OPEN, "thought\n", "a STOP b", CLOSE, "x S", "TOP", " y", "never", END]])
    result = run(engine, edge, stop=("STOP",))
    assert (result.reasoning, result.answer, result.stop_reason) == ("a STOP b", "x ", "end")


def test_half_a_stop_text_at_the_end_is_part_of_the_answer(edge):
    result = run(FakeEngine([["x ST", END]]), edge, stop=("STOP",))
    assert (result.answer, result.stop_reason) == ("x ST", "end")
    assert codes(run(FakeEngine([["ST", END]]), edge, stop=("STOP",))) == []


def test_the_limit_on_everything_ends_reasoning_and_answer(edge):
    script = [OPEN, "thought\n", *"abcdefgh", CLOSE, *"ijkl", END]
    for limit, reasoning, answer in ((5, "abc", ""), (13, "abcdefgh", "ij")):
        result = run(FakeEngine([list(script)]), edge, max_completion=limit)
        assert (result.reasoning, result.answer) == (reasoning, answer)
        assert result.stop_reason == "length"
        assert result.n_reasoning + result.n_answer == limit
