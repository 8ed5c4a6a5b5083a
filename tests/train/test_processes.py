"""Two processes under accelerate's launcher with the shipped configurations, over gloo on the CPU.

The oracle is one process with the same effective batch: each step sees the same examples. A rank is
killed with SIGKILL on the way and the run resumed, so one comparison holds for both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import tiny_models
from pedsup_testing.lazy import Lazy, needs

from pedsup.errors import UnsupportedError
from pedsup_train.model.backends import choose_runtime
from pedsup_train.model.sharding import name_units, refuse_unfit
from pedsup_train.recipe.schema import Recipe, read_recipe
from pedsup_train.recipe.toml import to_toml
from pedsup_train.run.plan import make_plan
from pedsup_train.run.runner import run as train_adapter
from pedsup_train.run.work import newest_checkpoint

torch = Lazy("torch")
pytestmark = needs("torch", "pip install 'pedsup[train]'")

DRIVER = Path(__file__).with_name("processes_driver.py")
STEPS = 15


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Thirteen training and three held-out pairs of different lengths, batches of 2 x 2.

    In the last step of an epoch the second process has no example.
    """
    folder = tmp_path_factory.mktemp("processes")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "global_head_dim": 64}
    base = tiny_models.gemma4(folder / "base", **sizes)
    rows = [{"question": f"{kind} {word}?", "answer": f"A professional. {word * (i % 3)}",
             "lang": "en", "id": f"{kind}{word}"}
            for i, word in enumerate(("fever", "cough", "fiebre", "tos", "rash", "peso", "a", "b"))
            for kind in ("child", "signs")]  # fmt: skip
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_recipe(
        "demo",
        [f"model.base='{base}'", f"data.sources=[{{format='pairs', path='{path}'}}]",
         "data.eval_examples=3", "data.max_length=96", "lora.r=4", "lora.alpha=8",
         "lora.dropout=0.0", "train.learning_rate=0.005", "train.batch_size=2",
         "train.accumulation=2", f"train.max_steps={STEPS}", "train.eval_every=100",
         "train.save_every=2", "train.group_by_length=false"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def one(settings: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of one process."""
    out = tmp_path_factory.mktemp("one") / "adapter"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_adapter(make_plan(settings, out))
    torch.set_num_threads(threads)
    return out


def launch(name: str, recipe: Path, out: Path, *more: str) -> list[str]:
    config = Path(__file__).parents[2] / "train" / "pedsup_train" / "accelerate" / name
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config),
        "--num_processes", "2", str(DRIVER), "run", "--recipe", str(recipe), "--out", str(out),
        *more,
    ]  # fmt: skip


def losses(out: Path, key: str) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    return [(row["step"], row[key]) for row in rows if key in row]


def tensors(out: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(out / "adapter_model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi-gpu.yaml", "fsdp2.yaml"])
def test_two_processes_of_which_one_is_killed_end_as_one_process_does(
    name: str, settings: Recipe, one: Path, tmp_path: Path
) -> None:
    import dataclasses

    train = dataclasses.replace(settings.train, accumulation=1)
    recipe = tmp_path / "r.toml"
    recipe.write_text(to_toml(dataclasses.replace(settings, train=train)))
    out, work = tmp_path / "two", tmp_path / "two.run"
    ids = tmp_path / "ids"
    ids.mkdir()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PROCESS_IDS": str(ids), "CHUNK_BYTES": "60000"}
    env |= {"AS_GPUS": "1"} if name == "fsdp2.yaml" else {}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(launch(name, recipe, out), stdout=log, stderr=log, env=env)
        deadline = time.monotonic() + 500
        # When the second is written, the first is complete for both ranks: each writes a part of
        # its own, and no rank is a step ahead of the other.
        while len(list(work.glob("checkpoint-*/trainer_state.json"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline, (
                tmp_path / "log"
            ).read_text()
            time.sleep(0.005)
        os.kill(int((ids / "1").read_text()), signal.SIGKILL)
        assert process.wait(timeout=200) != 0, "the launcher says that a rank died"
    rank_0 = int((ids / "0").read_text())
    with pytest.raises(ProcessLookupError):  # all ranks have ended
        os.kill(rank_0, 0)
    assert not out.exists()
    shares = list(work.glob("checkpoint-*/pytorch_model_fsdp.bin"))
    assert bool(shares) == (name == "fsdp2.yaml"), "FSDP was on, or off, as it is configured"
    done = subprocess.run(
        launch(name, recipe, out, "--resume"), capture_output=True, text=True, env=env, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stderr
    for key in ("loss", "eval_loss"):
        found, wanted = losses(out, key), losses(one, key)
        assert [step for step, _ in found] == [step for step, _ in wanted]
        assert [v for _, v in found] == pytest.approx([v for _, v in wanted], rel=1e-3)
    mine, theirs = tensors(out), tensors(one)
    assert mine.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.allclose(mine[key], tensor, atol=1e-4), key
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ids", "log", "r.toml", "two"]


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment that accelerate's launcher gives a process with fsdp2.yaml."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    yield monkeypatch


def test_what_fsdp_cannot_train_is_refused(sharded: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before the base is looked for: none is here."""
    with pytest.raises(UnsupportedError, match="4-bit weights") as error:
        make_plan(read_recipe("v0.1"), tmp_path / "out")
    assert "model.quantization=none" in str(error.value)
    plain = ["model.quantization=none", "model.base='x'"]
    refuse_unfit(read_recipe("v0.1", plain), prequantized=False)
    with pytest.raises(UnsupportedError, match="4-bit weights"):
        refuse_unfit(read_recipe("v0.1", plain), prequantized=True)
    grid = [*plain, "train.quantize=Q4_0", "lora.dropout=0.0"]
    with pytest.raises(UnsupportedError, match="has no grid"):
        refuse_unfit(read_recipe("v0.1", grid), prequantized=False)
    with pytest.raises(UnsupportedError, match="unsloth"):
        refuse_unfit(read_recipe("v0.1", [*plain, "model.backend=unsloth"]), prequantized=False)
    sharded.setenv("FSDP_VERSION", "1")
    with pytest.raises(UnsupportedError, match="FSDP_VERSION is 1"):
        refuse_unfit(read_recipe("v0.1", plain), prequantized=False)
    sharded.delenv("ACCELERATE_USE_FSDP")
    refuse_unfit(read_recipe("v0.1"), prequantized=True)


def test_sharding_on_a_cpu_is_said_not_to_be(sharded: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    runtime = choose_runtime(read_recipe("v0.1", ["model.quantization=none"]))
    assert any("GPUs only" in note for note in runtime.notes)


def test_the_units_are_the_layers_that_the_model_has(
    sharded: pytest.MonkeyPatch, settings: Recipe
) -> None:
    from transformers import AutoModelForCausalLM

    sharded.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    name_units(AutoModelForCausalLM.from_pretrained(settings.model.base))
    assert os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "Gemma4TextDecoderLayer"


def test_a_checkpoint_of_two_processes_needs_both_random_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 3}')
    torch.save({}, folder / "rng_state_0.pth")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert newest_checkpoint(tmp_path) is None
    torch.save({}, folder / "rng_state_1.pth")
    assert newest_checkpoint(tmp_path) == folder
    (folder / "pytorch_model_fsdp.bin").write_bytes(b"PK\x03\x04 cut off")
    assert newest_checkpoint(tmp_path) is None
