"""Masks against examples made by hand, and prompts against transformers' own rendering."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pedsup_testing import tiny_models

from pedsup.errors import UnsupportedError
from pedsup_train.data.batches import Collator, EpochSampler, epoch_order
from pedsup_train.data.examples import Example
from pedsup_train.data.render import Renderer, TokenStats, render_all, user_text
from pedsup_train.recipe.schema import DataConfig

MCQ = Example(
    id="1", source="s", lang="es", question="¿Cuál es?", options=("tos", "fiebre"), answer=1,
    explanation="Porque sí.",
)  # fmt: skip
PAIR = Example(id="2", source="s", lang="en", question="What helps?", explanation="Water helps.")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_pair_against_the_hand_made_text(tokenizer: Any) -> None:
    item = Renderer(tokenizer, DataConfig()).render(PAIR)
    assert item.prompt == "<bos><|turn>user\nWhat helps?<turn|>\n<|turn>model\n"
    assert item.answer == "Water helps.<turn|>"
    ids = list(item.input_ids)
    assert ids[0] == 2 and ids.count(2) == 1, "one bos, from the template"
    assert ids[1] == 105 and ids[-1] == 106
    border = item.n_prompt
    assert tokenizer.decode(ids[:border]) == item.prompt
    assert tokenizer.decode(ids[border:]) == item.answer
    assert item.labels == [-100] * border + ids[border:]


def test_multiple_choice_text_in_each_style(tokenizer: Any) -> None:
    assert user_text(MCQ) == (
        "¿Cuál es?\n\nA) tos\nB) fiebre\n\nElija la mejor opción y explique por qué."
    )
    bare = dataclasses.replace(MCQ, explanation="")
    assert user_text(bare).endswith("B) fiebre\n\nElija la mejor opción."), "none is asked for"
    assert Renderer(tokenizer, DataConfig()).render(bare).answer == "Respuesta: B) fiebre<turn|>"
    wanted = {
        "explain-first": "Porque sí.\n\nRespuesta: B) fiebre",
        "answer-first": "Respuesta: B) fiebre\n\nPorque sí.",
        "thought": "<|channel>thought\nPorque sí.<channel|>Respuesta: B) fiebre",
    }
    for style, text in wanted.items():
        item = Renderer(tokenizer, DataConfig(style=style)).render(MCQ)  # type: ignore[arg-type]
        assert item.answer == text + "<turn|>"
    thought = Renderer(tokenizer, DataConfig(style="thought")).render(MCQ)
    assert list(thought.input_ids).count(100) == 1 and list(thought.input_ids).count(101) == 1


def test_prompt_is_what_inference_sends(tokenizer: Any) -> None:
    config = DataConfig(system_prompt="Be brief.")
    item = Renderer(tokenizer, config).render(MCQ)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": user_text(MCQ)},
    ]
    oracle = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert list(item.input_ids[: item.n_prompt]) == list(oracle["input_ids"])
    whole = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": item.answer.removesuffix("<turn|>")}],
        tokenize=False,
    )
    assert whole == item.prompt + item.answer + "\n"


MERGING = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ message['role'] }} {{ message['content'] }}<turn|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn>assistant {% endif %}"
)


def test_a_border_inside_a_merged_token_stays_exact(tmp_path: Path) -> None:
    """With a prompt that ends in a space the vocabulary merges it with the answer's first word.

    A mask found by comparing lengths of two renderings would then be off by one; ours trains
    on what the model is asked to write after the prompt that it is given.
    """
    from transformers import AutoTokenizer

    tiny_models.write_tokenizer(tmp_path, chat_template=MERGING)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    pair = Example(id="1", source="s", lang="en", question="q", explanation="child")
    item = Renderer(tokenizer, DataConfig()).render(pair)
    joint = tokenizer(item.prompt + item.answer, add_special_tokens=False)["input_ids"]
    assert joint != list(item.input_ids), "this vocabulary merges across the border"
    prompt_alone = tokenizer(item.prompt, add_special_tokens=False)["input_ids"]
    assert list(item.input_ids[: item.n_prompt]) == prompt_alone
    assert tokenizer.decode(item.input_ids[item.n_prompt :]) == "child<turn|>"


def test_a_template_that_changes_earlier_turns(tmp_path: Path) -> None:
    """A template may write an answer differently once it is history; inference never sees that."""
    from transformers import AutoTokenizer

    template = (
        "{{ bos_token }}{% for message in messages %}<|turn>{{ message['role'] }}\n"
        "{% if message['role'] == 'assistant' %}(history) {% endif %}{{ message['content'] }}"
        "<turn|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn>assistant\n<|channel>thought\n<channel|>{% endif %}"
    )
    tiny_models.write_tokenizer(tmp_path, chat_template=template)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    item = Renderer(tokenizer, DataConfig()).render(PAIR)
    assert item.prompt.endswith("<|turn>assistant\n<|channel>thought\n<channel|>")
    assert item.answer == "Water helps.<turn|>"


def test_control_tokens_in_the_data_are_refused(tokenizer: Any) -> None:
    bad = Example(id="9", source="s", lang="en", question="x<turn|>\n<|turn>model", explanation="y")
    kept, left_out = render_all(Renderer(tokenizer, DataConfig()), [PAIR, bad], 64)
    assert len(kept) == 1 and "control token" in left_out[0].reason
    assert left_out[0].where == "s#9"


def test_too_long_is_left_out_and_said(tokenizer: Any) -> None:
    long = Example(id="3", source="s", lang="en", question="fever " * 80, explanation="y")
    kept, left_out = render_all(Renderer(tokenizer, DataConfig()), [long, PAIR], 64)
    assert [item.answer for item in kept] == ["Water helps.<turn|>"]
    assert left_out[0].reason.endswith("more than 64")


def test_no_template_and_no_thought_channel(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    tiny_models.write_tokenizer(tmp_path)
    bare = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedError, match="no chat template"):
        Renderer(bare, DataConfig())


def test_token_stats_by_hand(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer, DataConfig())
    items = [renderer.render(PAIR), renderer.render(MCQ)]
    stats = TokenStats.of(items)
    lengths = sorted(len(item.input_ids) for item in items)
    assert (stats.n, stats.total, stats.shortest, stats.longest) == (2, sum(lengths), *lengths)
    assert stats.answer == sum(label != -100 for item in items for label in item.labels)
    assert TokenStats.of([]).total == 0


def test_collator_by_hand() -> None:
    batch = Collator(pad_token_id=0)(
        [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 700), max_size=200),
    batch=st.integers(1, 9),
    epoch=st.integers(0, 5),
    by_length=st.booleans(),
)
def test_an_epoch_visits_each_example_once(
    lengths: list[int], batch: int, epoch: int, by_length: bool
) -> None:
    order = epoch_order(lengths, step_size=batch, seed=1, epoch=epoch, by_length=by_length)
    assert sorted(order) == list(range(len(lengths)))
    again = epoch_order(lengths, step_size=batch, seed=1, epoch=epoch, by_length=by_length)
    assert order == again


def test_batches_of_like_length_pad_less_and_differ_by_epoch() -> None:
    import random

    rng = random.Random(0)
    lengths = [rng.randrange(50, 700) for _ in range(403)]

    def padded(order: list[int]) -> int:
        batches = [order[i : i + 4] for i in range(0, len(order), 4)]
        return sum(max(lengths[i] for i in b) * len(b) for b in batches)

    orders = [epoch_order(lengths, step_size=4, seed=1, epoch=e) for e in (0, 1)]
    plain = epoch_order(lengths, step_size=4, seed=1, epoch=0, by_length=False)
    assert orders[0] != orders[1]
    assert padded(orders[0]) < 1.05 * sum(lengths) < padded(plain)


def test_sampler_follows_its_epoch() -> None:
    sampler = EpochSampler([(i * 37) % 101 for i in range(50)], step_size=2, seed=0, by_length=True)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    sampler.epoch = 0
    assert list(sampler) == first != second and len(sampler) == 50
