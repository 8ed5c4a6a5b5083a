"""Recipes are data: checked, overridable, and written back whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup.errors import UsageError
from pedsup_train.recipe.schema import (
    DataConfig,
    LoraConfig,
    Recipe,
    SourceConfig,
    TrainConfig,
    builtin_names,
    read_recipe,
)
from pedsup_train.recipe.toml import to_toml


def test_shipped_recipes() -> None:
    assert builtin_names() == ["demo", "v0.1", "v0.2-es"]


def test_v01_is_the_original_run() -> None:
    recipe = read_recipe("v0.1")
    assert recipe.model.base == "unsloth/gemma-4-e4b-it-unsloth-bnb-4bit"
    assert recipe.model.quantization == "nf4"
    assert (recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout) == (16, 32, 0.05)
    train = recipe.train
    assert (train.batch_size, train.accumulation, train.epochs) == (4, 4, 3.0)
    assert (train.learning_rate, train.schedule, train.warmup_steps) == (2e-4, "cosine", 5)
    assert train.optimizer == "adamw_8bit" and recipe.data.max_length == 768
    assert not recipe.data.packing
    (source,) = recipe.data.sources
    # 2000 examples of 16 a step, three times: the 375 steps of the original.
    assert source.limit * 3 / 16 == 375 and source.subject == "Pediatrics"


def test_v02_mixes_three_sources() -> None:
    assert [s.format for s in read_recipe("v0.2-es").data.sources] == [
        "medmcqa",
        "perumedqa",
        "casimedicos",
    ]


@pytest.mark.parametrize("name", ["demo", "v0.1", "v0.2-es"])
def test_written_recipe_reads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert read_recipe(str(path)) == recipe


@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40),
    rate=st.floats(1e-9, 1.0),
    length=st.integers(16, 10**6),
)
def test_any_text_and_number_survives(
    tmp_path_factory: pytest.TempPathFactory, text: str, rate: float, length: int
) -> None:
    recipe = Recipe(
        description=text,
        lora=LoraConfig(targets=("q_proj", text or "x")),
        data=DataConfig(
            sources=(SourceConfig(path="a.jsonl", subject=text), SourceConfig(hub="x/y")),
            max_length=length,
            system_prompt=text,
        ),
        train=TrainConfig(learning_rate=rate),
    )
    path = tmp_path_factory.mktemp("r") / "r.toml"
    path.write_bytes(to_toml(recipe).encode())
    assert read_recipe(str(path)) == recipe


def test_overrides() -> None:
    recipe = read_recipe(
        "v0.1",
        [
            "train.learning_rate=1e-4",
            "train.epochs=1",
            "model.base=/a folder/of mine",
            "lora.targets=['q_proj']",
            "data.sources=[{format='pairs', path='x.jsonl'}]",
        ],
    )
    assert recipe.train.learning_rate == 1e-4 and recipe.train.epochs == 1.0
    assert recipe.model.base == "/a folder/of mine" and recipe.lora.targets == ("q_proj",)
    assert recipe.data.sources == (SourceConfig(format="pairs", path="x.jsonl"),)
    assert recipe.lora.r == 16


def test_an_override_reaches_into_a_list() -> None:
    """As the comment in v0.2-es says."""
    path = "data.sources[1].path=/p/perumedqa.jsonl"
    with pytest.raises(UsageError, match="both a file and") as error:
        read_recipe("v0.2-es", [path, "data.sources[2].path=c.jsonl"])
    assert error.value.remedy == "to read the file: --set data.sources[2].hub="
    recipe = read_recipe("v0.2-es", [path, "data.sources[2].hub=", "data.sources[2].path=c.jsonl"])
    assert [source.path for source in recipe.data.sources] == ["", "/p/perumedqa.jsonl", "c.jsonl"]
    assert [source.format for source in recipe.data.sources] == [
        "medmcqa", "perumedqa", "casimedicos",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sources[1].path=x", r"--set data.sources\[1\].path=x"),
        ("data.sources[x].path=x", r"wanted.*|--set data.sources\[x\]"),
        ("lora[0].r=3", r"--set lora\[0\].r=3"),
        ("train.learning_rat=1", "unknown key 'train.learning_rat'"),
        ("trian.epochs=1", "unknown key 'trian'"),
        ("train.epochs=many", 'train.epochs = "many"'),
        ("train.epochs=-1", "train.epochs = -1"),
        ("train.batch_size=1.5", "train.batch_size = 1.5"),
        ("train.batch_size=true", "train.batch_size = true"),
        ("train.batch_size=0", "train.batch_size = 0"),
        ("train.schedule=cubic", 'train.schedule = "cubic"'),
        ("lora.dropout=1.0", "lora.dropout = 1.0"),
        ("data.packing=true", "data.packing = true"),
        ("data.sources=[{format='csv', path='x'}]", r'data.sources\[0\].format = "csv"'),
        ("data.sources=[{format='pairs'}]", "neither a file nor"),
        ("data.sources=[{path='x', hub='y/z'}]", "both a file and"),
        ("model=3", "model = 3"),
        ("no_equals_sign", "--set no_equals_sign"),
        ("model.base.x=3", "--set model.base.x=3"),
    ],
)
def test_bad_overrides_name_the_key(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_recipe("v0.1", [override])


def test_no_such_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(UsageError) as error:
        read_recipe("v9")
    assert "demo, v0.1, v0.2-es" in str(error.value)


def test_not_toml(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("name = ")
    with pytest.raises(UsageError, match="not valid TOML"):
        read_recipe(str(tmp_path / "r.toml"))
