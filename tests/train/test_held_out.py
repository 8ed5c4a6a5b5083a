"""The held-out part: its loss against transformers', and its file against those who read it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import tiny_models
from pedsup_testing.lazy import Lazy, needs

from pedsup.chat.dialogue_text import answer_tokens, prompt_tokens
from pedsup.chat.templates.template import ChatTemplate
from pedsup.questions.dialogues import read_dialogues
from pedsup_bench.mcqa.questions import read_questions
from pedsup_train.data.examples import Example
from pedsup_train.data.held_out import held_out_bytes, held_out_row
from pedsup_train.data.render import Renderer
from pedsup_train.model import backends
from pedsup_train.recipe.schema import DataConfig, read_recipe
from pedsup_train.run.plan import load_data
from pedsup_train.run.trainer import make_trainer, mean_over_tokens, whole_batches

torch = Lazy("torch")
pytestmark = needs("torch", "pip install 'pedsup[train]'")

FREE = Example("f", "s.jsonl#1", "es", "¿Qué signo es una emergencia?", explanation="No bebe.")
CHOICE = Example(
    "c", "s.jsonl#2", "en", "Which sign?", ("fever", "cough"), 1, "Count the breaths first."
)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.gemma4(tmp_path_factory.mktemp("models") / "gemma4")


@pytest.mark.slow
def test_held_out_loss_is_transformers_mean_over_target_tokens(gemma: Path, tmp_path: Path) -> None:
    """Answers of very different lengths, in batches of 4 and a rest of 1; each by itself for
    transformers, and summed."""
    from transformers import AutoModelForCausalLM

    rows = [{"question": f"Sign {i}?", "answer": "Fever and cough. " * (1 + 3 * i), "lang": "en"}
            for i in range(8)]  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [f"model.base='{gemma}'", f"data.sources=[{{format='pairs', path='{path}'}}]",
            "data.eval_examples=5", "data.max_length=256", "train.batch_size=4"]  # fmt: skip
    recipe = read_recipe("demo", sets)
    runtime = backends.choose_runtime(recipe)
    loaded = backends.load(recipe, runtime)
    data = load_data(recipe, loaded.tokenizer)
    parts = (data.train, data.evaluation)
    found = make_trainer(recipe, runtime, loaded, parts, tmp_path / "work").evaluate()["eval_loss"]

    model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32).eval()
    nats, means, count = 0.0, [], 0
    for item in data.evaluation:
        with torch.no_grad():
            loss = float(model(torch.tensor([item.input_ids]),
                               labels=torch.tensor([item.labels])).loss)  # fmt: skip
        n = len(item.input_ids) - item.n_prompt
        nats, count, means = nats + loss * n, count + n, [*means, loss]
    assert len(data.evaluation) == 5 and len({len(i.input_ids) for i in data.evaluation}) > 1
    assert found == pytest.approx(nats / count, rel=1e-5)
    assert abs(found - sum(means) / 5) > 1e-3, "the mean over examples is another number"


def test_what_fills_the_last_round_of_several_processes_has_no_loss() -> None:
    items = [{"input_ids": [1] * n, "labels": [-100] + [1] * (n - 1)} for n in (9, 3, 5)]
    assert whole_batches(items, 2, 1) == items
    filled = whole_batches(items, 2, 2)
    assert filled is not None and len(filled) == 4 and filled[:3] == items
    assert filled[3] == {"input_ids": [1, 1, 1], "labels": [-100] * 3}
    assert whole_batches([], 2, 2) is None

    class Batches:
        predictions, label_ids = torch.tensor([6.0, 0.0]).numpy(), torch.tensor([3, 0]).numpy()

    assert mean_over_tokens(Batches()) == {"loss": 2.0}


MADE = (prompt_tokens, answer_tokens)


class Theirs:
    """transformers' tokenizer, for texts that spell no control token."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        assert parse_special
        return list(self._tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    ("style", "system"),
    [("explain-first", ""), ("answer-first", "Be brief."), ("thought", ""), ("thought", "Brief.")],
)
def test_the_gate_reads_the_file_as_training_rendered_it(
    style: Any, system: str, gemma: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gemma)
    # The tiny template has no thoughts; by this the gate knows a Gemma 4, as training does.
    tokenizer.chat_template = "{# <|channel> #}" + tokenizer.chat_template
    renderer = Renderer(tokenizer, DataConfig(style=style, system_prompt=system))
    path = tmp_path / "held_out.jsonl"
    path.write_bytes(held_out_bytes([held_out_row(e, renderer) for e in (FREE, CHOICE)]))
    template = ChatTemplate.from_model(
        str(tokenizer.chat_template), allow_unknown=True, bos=tokenizer.bos_token
    )
    for dialogue, example in zip(read_dialogues(path), (FREE, CHOICE), strict=True):
        wanted = renderer.render(example)
        tokens = [made(dialogue, template, Theirs(tokenizer)) for made in MADE]
        assert tokens == [[*wanted.input_ids[: (n := wanted.n_prompt)]], [*wanted.input_ids[n:]]]


def test_the_multiple_choice_test_reads_the_same_file(gemma: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    renderer = Renderer(AutoTokenizer.from_pretrained(gemma), DataConfig())
    path = tmp_path / "held_out.jsonl"
    path.write_bytes(held_out_bytes([held_out_row(e, renderer) for e in (FREE, CHOICE)]))
    found = read_questions(path)
    assert [n for n, _ in found.rejected] == [1], "an answer in free text is no question for it"
    (question,) = found.questions
    assert (question.text, question.options) == ("Which sign?", ("fever", "cough"))
    assert (question.id, question.language, question.answer) == ("c", "en", 1)
    fields = ["en", "Which sign?", ["fever", "cough"], 1, "Count the breaths first."]
    wanted = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    assert json.loads(path.read_text().splitlines()[1])["sha256"] == wanted
