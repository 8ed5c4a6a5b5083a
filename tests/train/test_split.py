"""How a step's examples are shared out over forward passes: by memory, and without effect on it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import tiny_models
from pedsup_testing.lazy import Lazy, needs

from pedsup_maintain.synthetic.shapes import E4B, text_config
from pedsup_train.data.render import Rendered
from pedsup_train.model.backends import Runtime
from pedsup_train.recipe.schema import Recipe, read_recipe
from pedsup_train.run.plan import make_plan
from pedsup_train.run.runner import run as train_adapter
from pedsup_train.run.split import Split, choose_split, predict, room_here

torch = Lazy("torch")
pytestmark = needs("torch", "pip install 'pedsup[train]'")

GPU = Runtime("transformers", "cuda", "bfloat16", "adamw_bnb_8bit")
FULL = [Rendered("", "", tuple(range(768)), 260)] * 40
"""All of recipe v0.1's longest: none needs more."""
GIB = 1 << 30


@pytest.fixture(scope="module")
def e4b() -> Any:
    from transformers import Gemma4TextConfig

    return Gemma4TextConfig.from_dict(text_config(E4B))


def v01(*more: str) -> Recipe:
    return read_recipe("v0.1", ["model.dtype=bfloat16", *more])


def test_a_step_is_split_by_the_memory_of_the_card(e4b: Any) -> None:
    def split(room: int | None, *more: str, runtime: Runtime = GPU) -> Split:
        return choose_split(v01(*more), runtime, e4b, FULL, room)

    # The H100s measured 10.0 GiB for 16 full examples and 6.9 for 8 x 2; loading takes 8.5.
    assert split(12 * GIB) == Split(16, 1)
    assert split(10 * GIB) == Split(8, 2)
    assert split(6 * GIB) == split(None) == Split(4, 4)
    assert split(80 * GIB, "train.batch_size=2", "train.accumulation=6") == Split(12, 1)
    for given in ("train.merge_batches=false", "model.attention=eager", "model.dtype=float32"):
        assert split(80 * GIB, given) == Split(4, 4)
    # Its own loss: 15.1 GiB measured for 16 x 1, where ours takes 10.0.
    assert split(12 * GIB, runtime=replace(GPU, backend="unsloth")) == Split(4, 4)
    assert split(17 * GIB, runtime=replace(GPU, backend="unsloth")) == Split(16, 1)


def test_the_largest_split_is_the_first_that_does_not_fit(e4b: Any) -> None:
    """At the very byte that a split needs it is taken, one byte below it is not."""
    recipe = v01()
    needed = predict(Split(16, 1).applied(recipe), GPU, e4b, FULL).needed
    assert choose_split(recipe, GPU, e4b, FULL, needed) == Split(16, 1)
    assert choose_split(recipe, GPU, e4b, FULL, needed - 1) == Split(8, 2)


def test_fsdp_keeps_the_split_of_the_recipe(e4b: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert choose_split(v01(), GPU, e4b, FULL, 80 * GIB) == Split(4, 4)


def test_unsloth_is_predicted_for_gemma_4_only() -> None:
    from transformers import LlamaConfig

    llama = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=512)
    unsloth = replace(GPU, backend="unsloth")
    assert choose_split(v01(), unsloth, llama, FULL, 80 * GIB) == Split(4, 4)
    assert choose_split(v01(), GPU, llama, FULL, 80 * GIB) == Split(16, 1)


def test_a_base_with_parts_that_are_not_counted_keeps_the_split_of_the_recipe() -> None:
    """Two projections in one matrix, and experts: the prediction would be far too low."""
    from transformers import MixtralConfig, Phi3Config

    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    for config, parts in (
        (
            Phi3Config(vocab_size=512, pad_token_id=0, **small),
            ("mlp.gate_up_proj", "self_attn.qkv_proj"),
        ),
        (MixtralConfig(vocab_size=512, **small), ("mlp.experts.gate_up_proj", "mlp.gate")),
    ):
        found = predict(v01(), GPU, config, FULL)
        assert {*parts} <= {*found.uncounted} and parts[0] in "".join(found.notes)
        assert choose_split(v01(), GPU, config, FULL, 80 * GIB) == Split(4, 4)


def test_hosts_that_do_not_see_each_other_s_cards_keep_the_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a 16 x 1 on one of them and an 8 x 2 on another would leave examples of a step out."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert room_here(GPU, processes=4) is None


@pytest.mark.slow
def test_the_steps_are_the_same_however_they_are_split(tmp_path: Path) -> None:
    """Losses and adapter of 4 x 2, of 8 x 1, and of 4 x 2 that goes on as 1 x 8 after step 3: steps
    sorted by length, over more than one epoch."""
    from safetensors.torch import load_file

    base = tiny_models.gemma4(tmp_path / "base")
    plan = make_plan(
        read_recipe(
            "demo",
            [f"model.base='{base}'", "data.max_length=700", "train.batch_size=4",
             "train.accumulation=2", "train.max_steps=6", "train.learning_rate=0.001",
             "lora.dropout=0.0", "data.sources[0].limit=40", "data.eval_examples=10",
             "train.save_every=3"],
        ),
        tmp_path / "first",
    )  # fmt: skip
    assert plan.split == Split(4, 2), "a CPU: as the recipe says"
    first = train_adapter(plan, keep=True)
    again = replace(plan, split=Split(1, 8), out=tmp_path / "again")
    (tmp_path / "first.run").rename(again.work)
    shutil.rmtree(again.work / "checkpoint-6")
    others = [
        train_adapter(replace(plan, split=Split(8, 1), out=tmp_path / "other")),
        train_adapter(again, resume=True),
    ]
    wanted = load_file(tmp_path / "first" / "adapter_model.safetensors")
    assert first.outcome.history[-1]["epoch"] > 1
    for other in others:
        losses = [row["loss"] for row in other.outcome.history if "loss" in row]
        assert losses == pytest.approx(
            [row["loss"] for row in first.outcome.history if "loss" in row], rel=1e-4
        )
        found = load_file(other.plan.out / "adapter_model.safetensors")
        for name, tensor in wanted.items():
            assert torch.allclose(found[name], tensor, atol=1e-4), name
