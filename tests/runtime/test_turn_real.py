"""Whole turns on real engines: the real SmolLM2, and a tiny random Gemma 4."""

from __future__ import annotations

import pytest
from pedsup_testing.near_ties import require_same_text

from pedsup.chat.events import AnswerText, TurnSettings
from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.chat.turn import Turn
from pedsup.engine.api import SamplingConfig

GREEDY = SamplingConfig(temperature=0)
SYSTEM: Message = {"role": "system", "content": "Eres breve. Responde en español."}
ASK: list[Message] = [SYSTEM, {"role": "user", "content": "¿Cuál es la capital de Perú?"}]


@pytest.fixture(params=["inprocess", pytest.param("server", marks=pytest.mark.slow)])
def open_any(request):
    return request.getfixturevalue(f"open_{request.param}")


def play(engine, messages, **settings):
    template = ChatTemplate.from_engine(engine)
    turn = Turn(engine, template, messages, TurnSettings(**{"sampling": GREEDY, **settings}))
    list(turn.stream())
    return turn.result


@pytest.mark.slow
def test_follow_up_turns_read_only_the_new_message(open_any, smollm2):
    engine = open_any(smollm2, n_ctx=1024)
    messages = list(ASK)
    known = 0
    for _ in range(4):
        result = play(engine, messages, max_tokens=20)
        assert result.n_cached >= known, "all of the last prompt and its answer"
        # The last token drawn is not decoded.
        known = result.n_prompt + result.n_answer - 1
        messages += [
            {"role": "assistant", "content": result.answer},
            {"role": "user", "content": "¿Y la de Bolivia?"},
        ]


@pytest.mark.slow
def test_a_tiny_gemma_reasons_within_its_budget_and_answers_by_the_grammar(open_any, gemma4_gguf):
    engine = open_any(gemma4_gguf)
    grammar = 'root ::= "yes" | "no"'
    result = play(engine, ASK, think=True, think_budget=12, grammar=grammar)
    assert result.answer in ("yes", "no")
    assert result.reasoning
    assert 1 <= result.n_reasoning <= 12
    assert "<channel|>" not in result.reasoning + result.answer
    prompt_and_thought = engine.cached[: result.n_prompt + 3]
    assert prompt_and_thought[result.n_prompt] == 100, "the channel was opened by its token"
    assert 101 in engine.cached[result.n_prompt :], "and closed by its token"


def test_a_tiny_gemma_answers_with_thinking_off(open_any, gemma4_gguf):
    result = play(open_any(gemma4_gguf), ASK, think=False, max_tokens=8)
    assert (result.n_answer, result.stop_reason, result.reasoning) == (8, "length", "")


def test_thinking_turns_go_on_from_the_last_prompt(open_any, gemma4_gguf):
    """The thought is dropped from the history, its window is gone: nothing before it is read."""
    engine = open_any(gemma4_gguf, n_ctx=1024, n_batch=64, n_ubatch=64)
    grammar = 'root ::= "yes" | "no"'
    messages = list(ASK)
    first = play(engine, messages, think=True, think_budget=120, grammar=grammar)
    messages += [
        {"role": "assistant", "content": first.answer},
        {"role": "user", "content": "¿Peso?"},
    ]
    second = play(engine, messages, think=True, think_budget=8, grammar=grammar)
    assert second.n_cached == first.n_prompt


def test_timings_are_there_when_the_answer_was_cut(open_any, smollm2):
    timings = play(open_any(smollm2), ASK, max_tokens=10).timings
    assert timings.prompt_s > 0
    assert timings.decode_s > 0
    assert 0 < timings.first_token_s <= timings.total_s
    assert timings.prompt_s + timings.decode_s <= timings.total_s * 1.05


@pytest.mark.slow  # test_turn.py does it with a scripted engine
def test_ctrl_c_and_go_on(open_any, smollm2):
    engine = open_any(smollm2)
    template = ChatTemplate.from_engine(engine)
    play(engine, ASK, max_tokens=1)  # the prompt is read once, for all
    whole = play(engine, ASK, max_tokens=16)
    turn = Turn(engine, template, ASK, TurnSettings(sampling=GREEDY, max_tokens=200))
    stream = turn.stream()
    texts = [event.text for event, _ in zip(stream, range(3), strict=False)
             if isinstance(event, AnswerText)]  # fmt: skip
    stream.close()
    assert turn.result.stop_reason == "interrupted"
    assert turn.result.answer.startswith("".join(texts))
    assert whole.answer.startswith("".join(texts))
    assert play(engine, ASK, max_tokens=16).answer == whole.answer


@pytest.mark.slow
def test_the_answer_is_what_transformers_would_write(open_inprocess, gemma4_folder, gemma4_gguf):
    """Greedy ids of the whole chain (template, tokens, cache, sampler) against transformers."""
    torch = pytest.importorskip("torch", reason="pip install 'pedsup[train]'")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(gemma4_folder))
    model = transformers.AutoModelForCausalLM.from_pretrained(gemma4_folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        ASK, add_generation_prompt=True, enable_thinking=False, return_tensors="pt",
        return_dict=False,
    )  # fmt: skip
    with torch.no_grad():
        out = model.generate(prompt, max_new_tokens=24, do_sample=False, eos_token_id=[1, 106])
    theirs = out[0, prompt.shape[1] :].tolist()
    engine = open_inprocess(gemma4_gguf)
    ours = [t.id for t in engine.generate(prompt[0].tolist(), GREEDY, max_tokens=24)]
    assert len(ours) == 24
    require_same_text(engine, prompt[0].tolist(), ours, theirs)
