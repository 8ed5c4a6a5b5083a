"""Pictures in the plan for a phone: shapes against transformers, sizes against an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pedsup_testing import towers
from pedsup_testing.slowly import slow_but

from pedsup.gguf_file.projector import DEFAULT_TOKENS, validate_projector
from pedsup.memory.picture import projector_bytes
from pedsup.phones.profiles import profile
from pedsup_export.cli import cli
from pedsup_export.phone import published
from pedsup_export.phone.advise import advise, with_memory
from pedsup_export.phone.models import gemma3_model, gemma4_models, model_of_folder
from pedsup_export.phone.sight import KINDS, planned_projector, sight_text
from pedsup_export.projector import Towers, place_towers

BOUNDS = (".input_max", ".input_min", ".output_max", ".output_min")


def tower_tensors(model: Any) -> dict[str, tuple[int, ...]]:
    """Of a model on the meta device, without the bounds of what is clipped."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith(BOUNDS) and "language_model" not in name and name != "lm_head.weight"
    }


def same_towers(theirs: Towers, name: str) -> None:
    """The towers of a checkpoint are those that the phone's plan has by configuration alone."""
    model = gemma3_model(name) if "3" in name else gemma4_models()[1]
    assert model.towers is not None
    assert (model.name, model.towers.entries) == (name, theirs.entries)
    kinds = [
        {t.name: (t.shape, towers.type_of(t, "Q8_0").name) for t in towers.tensors}
        for towers in (model.towers, theirs)
    ]
    assert kinds[0] == kinds[1]


def test_gemma_4_s_towers_are_those_of_transformers() -> None:
    import torch
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    ours = published.GEMMA4["E2B"]
    config = Gemma4Config(
        vision_config=ours["vision_config"],
        audio_config=ours["audio_config"],
        text_config={"hidden_size": 1536, "num_hidden_layers": 2},
    )
    with torch.device("meta"):
        shapes = tower_tensors(Gemma4ForConditionalGeneration(config))
    same_towers(place_towers("gemma4", ours, published.GEMMA4_PROCESSOR, shapes), "E2B")


def test_gemma_3_s_tower_is_that_of_transformers() -> None:
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    ours = published.GEMMA3["Gemma 3 4B"]
    vision = {**ours["vision_config"], "vision_use_head": False}
    config = Gemma3Config(
        vision_config=vision, text_config={"hidden_size": 2560, "num_hidden_layers": 2}
    )
    assert config.mm_tokens_per_image == ours["mm_tokens_per_image"]
    with torch.device("meta"):
        shapes = tower_tensors(Gemma3ForConditionalGeneration(config))
    same_towers(place_towers("gemma3", ours, published.GEMMA3_PROCESSOR, shapes), "Gemma 3 4B")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 4 with both towers."""
    return towers.gemma4(tmp_path_factory.mktemp("towers") / "base")


@pytest.mark.parametrize("kind", slow_but(["BF16"], KINDS))
def test_the_planned_projector_is_the_exported_one(kind: str, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    command = ["run", "--base", base, "--out", out, "--quant", "Q8_0", "--mmproj-type", kind]
    done = CliRunner().invoke(cli, list(map(str, command)), standalone_mode=False)
    assert done.exception is None, done.output
    written = validate_projector(tmp_path / "mmproj-m.gguf")
    planned = planned_projector(model_of_folder(base, "tiny", projector=True), kind)
    assert planned is not None
    ours, theirs = planned.header.tensors, written.header.tensors
    assert {n: (t.shape, t.type) for n, t in ours.items()} == {
        n: (t.shape, t.type) for n, t in theirs.items()
    }
    assert projector_bytes(planned, DEFAULT_TOKENS) == projector_bytes(written, DEFAULT_TOKENS)
    assert planned.most_tokens() == written.most_tokens() == 280


@pytest.mark.parametrize("name", ["E2B", "MedGemma 1.5 4B"])
def test_more_memory_never_shows_fewer_pictures(name: str) -> None:
    model = gemma3_model(name) if "Med" in name else gemma4_models()[1]
    found: list[bool] = []
    for memory in ("4GB", "6GB", "8GB", "12GB"):
        phone = with_memory(profile("tensor-g3"), memory)
        advice = advise(phone, (model,))
        if advice.sight is None:
            assert not found and advice.choice.chosen is None
            continue
        chosen, seen = advice.choice.chosen, advice.sight
        assert chosen is not None and seen.projector_type in KINDS
        assert (seen.context or 0) <= (chosen.largest_context or 0)
        # What is said to fit does.
        if seen.context is not None and seen.context >= 4096:
            assert chosen.need[4096] + seen.memory <= phone.available_bytes
        found.append(seen.fits)
    assert found[-1] and found == sorted(found)


def test_a_base_that_sees_nothing_says_so() -> None:
    phone = profile("tensor-g3")
    advice = advise(phone, (gemma3_model("Gemma 3 1B"),))
    assert advice.choice.chosen is not None and advice.sight is None
    assert sight_text(advice.sight, phone, advice.context).startswith("Pictures: none")


def test_run_for_a_phone_says_what_its_projector_takes(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    command = ["run", "--base", str(base), "--out", str(out), "--phone", "galaxy-a15", "--dry-run"]
    done = CliRunner().invoke(cli, command, standalone_mode=False)
    assert done.exception is None, done.output
    assert "Pictures fit: the projector (BF16, " in done.stderr
    done = CliRunner().invoke(cli, [*command, "--mmproj", "off"], standalone_mode=False)
    assert done.exception is None and "Pictures" not in done.stderr
