"""Training tiny models for real: what is trained, that it learns, that resuming changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import tiny_models
from pedsup_testing.lazy import Lazy

from pedsup.errors import (
    BadFileError,
    MismatchError,
    OutputError,
    ResourceError,
    UnsupportedError,
)
from pedsup_train.model import backends, probe
from pedsup_train.model.base_source import is_local
from pedsup_train.model.targets import first_shared_layer, plan_targets
from pedsup_train.recipe.schema import Recipe, TrainConfig, read_recipe
from pedsup_train.recipe.toml import to_toml
from pedsup_train.run.card import write_card
from pedsup_train.run.facts import Result, result_facts
from pedsup_train.run.loop import changed_recompute, clean_history, out_of_memory
from pedsup_train.run.plan import make_plan
from pedsup_train.run.runner import run as train_adapter
from pedsup_train.run.work import newest_checkpoint, open_work

torch = Lazy("torch")


SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


NARROW = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "global_head_dim": 64}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing by threads, which wait for each other by spinning: 7 s
    instead of 2 for one run beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.gemma4(tmp_path_factory.mktemp("models") / "gemma4", **NARROW)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pairs with one pattern, so that a few steps can learn it."""
    words = ["fever", "cough", "fiebre", "tos", "diarrhea", "vaccines", "weight", "peso"]
    rows = [
        {"question": f"{kind} {word}?", "answer": "A professional reviews every answer.",
         "lang": "en", "id": f"{kind}{word}"}
        for word in words for kind in ("child", "signs")
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(base: Path, data: Path, *sets: str) -> Recipe:
    return read_recipe(
        "demo",
        [
            f"model.base={json.dumps(str(base))}",
            f"data.sources=[{{format='pairs', path={json.dumps(str(data))}}}]",
            "data.eval_examples=4",
            "data.max_length=96",
            "train.max_steps=6",
            "train.eval_every=3",
            "train.save_every=3",
            "train.learning_rate=0.02",
            "lora.r=4",
            "lora.alpha=8",
            "lora.dropout=0.05",
            *sets,
        ],
    )


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "adapter_model.safetensors"))


@pytest.fixture(scope="module")
def trained(gemma: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("run") / "adapter"
    return train_adapter(make_plan(recipe(gemma, data), out), keep=True)


def test_loss_falls_and_is_logged(trained: Result) -> None:
    facts = result_facts(trained)
    assert facts["loss_last_tenth"] < 0.8 * facts["loss_first_tenth"]
    assert facts["eval_loss_after"] < 0.8 * facts["eval_loss_before"]
    evaluated = [row["step"] for row in trained.outcome.history if "eval_loss" in row]
    assert evaluated == [0, 3, 6]
    for row in trained.outcome.history:
        if "loss" in row:
            assert row["grad_norm"] > 0 and row["learning_rate"] >= 0 and row["elapsed_s"] > 0


def test_only_living_language_projections_are_adapted(trained: Result, gemma: Path) -> None:
    """Layers 4 to 7 of 8 share K/V: no adapter on their k_proj and v_proj."""
    found: dict[int, set[str]] = {}
    for key in tensors(trained.plan.out):
        parts = key.split(".")
        found.setdefault(int(parts[parts.index("layers") + 1]), set()).add(parts[-3])
    assert found == {n: SEVEN if n < 4 else SEVEN - {"k_proj", "v_proj"} for n in range(8)}
    learnt = [k for k, t in tensors(trained.plan.out).items() if "lora_B" in k and not t.any()]
    assert learnt == [], "each lora_B has moved from zero"


def test_gradients_only_in_lora(gemma: Path, data: Path) -> None:
    settings = recipe(gemma, data)
    loaded = backends.load(settings, backends.choose_runtime(settings))
    ids = torch.tensor([[2, 105, 300, 400, 500]])
    loaded.model(input_ids=ids, labels=ids).loss.backward()
    with_gradient = {n for n, p in loaded.model.named_parameters() if p.grad is not None}
    assert with_gradient and all(".lora_" in name for name in with_gradient)
    assert loaded.n_trainable == sum(
        p.numel() for n, p in loaded.model.named_parameters() if n in with_gradient
    )


def test_peft_loads_the_folder_and_gives_the_trained_logits(trained: Result, gemma: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32)
    ids = torch.tensor([[2, 105, 300, 400, 500]])
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        adapted = (
            peft.PeftModel.from_pretrained(base, trained.plan.out).eval()(input_ids=ids).logits
        )
    assert (adapted - plain).abs().max() > 0.1
    config = json.loads((trained.plan.out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(gemma) and config["r"] == 4


def test_the_exporter_takes_the_folder_and_llama_cpp_gives_peft_s_logits(
    trained: Result, gemma: Path, tmp_path: Path
) -> None:
    import peft
    from pedsup_testing import oracle
    from transformers import AutoModelForCausalLM

    from pedsup_export.plan.planner import make_plan as plan_export
    from pedsup_export.plan.request import ExportRequest
    from pedsup_export.source.hub import ModelRef
    from pedsup_export.write.publish import execute

    adapter, out = trained.plan.out, tmp_path / "out.gguf"
    execute(
        *plan_export(
            ExportRequest(
                ModelRef(gemma, "base"), out, adapter=ModelRef(adapter, "adapter"), quant="F32"
            )
        )
    )
    tokens = [2, 105, 300, 400, 500, 301, 402]
    base = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32)
    plain = base(input_ids=torch.tensor([tokens])).logits[0].detach().numpy()
    model = peft.PeftModel.from_pretrained(base, adapter).eval()
    wanted = model(input_ids=torch.tensor([tokens])).logits[0].detach().numpy()
    found = oracle.logits(out, tokens)
    assert oracle.mean_kl(wanted, found) < 1e-5 < 1e-2 < oracle.mean_kl(plain, found)


def test_the_folder_holds_recipe_log_curves_and_card(trained: Result) -> None:
    out = trained.plan.out
    assert {path.name for path in out.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "adapter_card.md", "recipe.toml",
        "training.json", "training_log.jsonl", "training_log.csv", "training_curves.png",
        "held_out.jsonl",
    }  # fmt: skip
    assert read_recipe(str(out / "recipe.toml")) == trained.plan.recipe
    rows = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert len(rows) == 6 + 3
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "to be shared, all of it"
    assert len((out / "training_log.csv").read_text().splitlines()) == 1 + len(rows)
    assert (out / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    card = (out / "adapter_card.md").read_text()
    facts = json.loads((out / "training.json").read_text())
    for fact in (
        facts["data"]["digest"], facts["files"]["adapter_model.safetensors"],
        f"{facts['tokens_seen']:,}", facts["versions"]["transformers"], "not a medical device",
        "No son un dispositivo médico", f"{facts['eval_loss_after']:.4f}",
        "| epochs, steps | 2, 6 |", facts["base_digest"],
    ):  # fmt: skip
        assert fact.lower() in card.lower(), fact


def test_the_card_counts_the_examples_of_all_processes(trained: Result, tmp_path: Path) -> None:
    facts = {**result_facts(trained), "passes_per_step": 2, "examples_per_pass": 8}
    for processes, wanted in ((1, ("16", "2 of 8 examples")),
                              (4, ("64", "2 of 8 examples in each of 4 processes"))):  # fmt: skip
        write_card(tmp_path / "card", trained.plan.recipe, {**facts, "processes": processes})
        text = (tmp_path / "card").read_text()
        assert f"| examples of a step | {wanted[0]} |" in text
        assert f"| forward passes of a step | {wanted[1]} |" in text


@pytest.mark.skipif(
    shutil.which("sha256sum") is None, reason="needs sha256sum: apt install coreutils"
)
def test_the_base_s_digest_is_the_one_of_sha256sum(trained: Result, gemma: Path) -> None:
    kinds = [
        f"*.{kind}" for kind in ("jinja", "json", "safetensors") if any(gemma.glob(f"*.{kind}"))
    ]
    command = f"LC_ALL=C sha256sum {' '.join(kinds)} | sha256sum"
    wanted = subprocess.run(command, shell=True, cwd=gemma, capture_output=True, text=True).stdout
    assert wanted.split()[0] == trained.base_digest


def test_tokens_seen_are_the_unpadded_ones(trained: Result) -> None:
    """12 examples in batches of 4: two epochs are six steps, so each example was seen twice."""
    lengths = [len(item.input_ids) for item in trained.plan.data.train]
    assert len(lengths) == 12
    assert trained.outcome.tokens_seen == 2 * sum(lengths)


@pytest.mark.slow
def test_resume_after_a_kill_gives_the_unbroken_weights(
    gemma: Path, data: Path, tmp_path: Path, trained: Result
) -> None:
    """A real process, killed with SIGKILL after its first checkpoint (dropout on, mid-epoch: an
    epoch is two steps)."""
    sets = ("train.max_steps=19", "train.save_every=3", "train.accumulation=2")
    settings = recipe(gemma, data, *sets)
    assert settings.lora.dropout > 0
    unbroken = train_adapter(make_plan(settings, tmp_path / "unbroken"))
    path = tmp_path / "r.toml"
    path.write_text(to_toml(settings))
    command = [sys.executable, "-m", "pedsup_train", "run", "--recipe", str(path)]
    command += ["--out", str(tmp_path / "broken")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=ONE_THREAD)
        work = tmp_path / "broken.run"
        deadline = time.monotonic() + 300
        while newest_checkpoint(work) is None and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    step = int(newest_checkpoint(work).name.rpartition("-")[2])  # type: ignore[union-attr]
    assert not (tmp_path / "broken").exists() and step < 19
    with pytest.raises(OutputError, match="unfinished run"):
        train_adapter(make_plan(settings, tmp_path / "broken"))
    resumed = train_adapter(make_plan(settings, tmp_path / "broken"), resume=True)
    wanted, found = tensors(tmp_path / "unbroken"), tensors(tmp_path / "broken")
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), f"{name} after step {step}"
    for key in ("loss", "eval_loss", "grad_norm"):
        values = [
            [(row["step"], row[key]) for row in r.outcome.history if key in row]
            for r in (unbroken, resumed)
        ]
        assert values[0] == values[1]
    assert unbroken.outcome.tokens_seen == resumed.outcome.tokens_seen


def test_resume_refuses_another_recipe(trained: Result, tmp_path: Path) -> None:
    plan = trained.plan
    out = tmp_path / "adapter"
    shutil.copytree(plan.work, tmp_path / "adapter.run")
    other = dataclasses.replace(
        plan, out=out, recipe=dataclasses.replace(plan.recipe, name="another")
    )
    with pytest.raises(MismatchError, match=r"another recipe \(name = \"demo\"\)"):
        train_adapter(other, resume=True)


def test_resume_takes_another_split_of_a_step_and_no_other_step(
    trained: Result, tmp_path: Path
) -> None:
    """What is advised where memory ran out must not cost the steps that were made."""
    plan = trained.plan
    shutil.copytree(plan.work, tmp_path / "adapter.run")

    def again(batch_size: int, accumulation: int) -> Path | None:
        train = dataclasses.replace(
            plan.recipe.train,
            batch_size=batch_size, accumulation=accumulation, merge_batches=False,
        )  # fmt: skip
        settings = dataclasses.replace(plan.recipe, train=train)
        other = dataclasses.replace(plan, out=tmp_path / "adapter", recipe=settings)
        return open_work(other, resume=True, force=False)

    assert again(2, 2) == again(1, 4) == newest_checkpoint(tmp_path / "adapter.run")
    with pytest.raises(MismatchError, match=r"another step \(examples = 4\)"):
        again(4, 2)


def test_an_existing_adapter_is_not_replaced(trained: Result) -> None:
    before = (trained.plan.out / "adapter_model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="not empty"):
        train_adapter(trained.plan)
    assert (trained.plan.out / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_four_bit_on_the_cpu(gemma: Path, data: Path, tmp_path: Path) -> None:
    """bitsandbytes' NF4 layers under LoRA: they stay packed and frozen, the loss falls."""
    bnb = pytest.importorskip("bitsandbytes", reason="pip install 'pedsup[train]'")
    settings = recipe(gemma, data, "model.quantization=nf4", "train.max_steps=4")
    loaded = backends.load(settings, backends.choose_runtime(settings))
    four_bit = [m for m in loaded.model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(four_bit) >= len(loaded.targets.names)
    assert all(m.weight.dtype == torch.uint8 and not m.weight.requires_grad for m in four_bit)
    packed = [m.weight.data.clone() for m in four_bit]
    probe.check_forward(loaded.model, loaded.tokenizer)  # evaluates, as the run does
    assert all(torch.equal(m.weight.data, w) for m, w in zip(four_bit, packed, strict=True))
    result = train_adapter(make_plan(settings, tmp_path / "adapter"))
    facts = result_facts(result)
    assert facts["eval_loss_after"] < facts["eval_loss_before"]
    assert all(t.dtype == torch.float32 for t in tensors(tmp_path / "adapter").values())


@pytest.mark.slow
def test_towers_and_dead_projections_are_left_alone(data: Path, tmp_path: Path) -> None:
    base = tiny_models.gemma4_multimodal(tmp_path / "multimodal")
    settings = recipe(base, data, "train.max_steps=2", "data.eval_examples=0")
    result = train_adapter(make_plan(settings, tmp_path / "adapter"))
    names = list(tensors(result.plan.out))
    assert names and all("language_model" in name for name in names)
    loaded = backends.load(settings, backends.choose_runtime(settings))
    assert loaded.targets.towers, "this model has towers with projections of the same names"
    assert result.n_targets == len(loaded.targets.names) == 8 * 7 - 4 * 2


def test_dead_projections_that_exist_are_named() -> None:
    """Older checkpoints hold k_proj and v_proj in shared layers; no adapter goes there."""
    from types import SimpleNamespace

    def layer() -> Any:
        projections = {name: torch.nn.Linear(2, 2) for name in ("q_proj", "k_proj", "v_proj")}
        return torch.nn.ModuleDict({"self_attn": torch.nn.ModuleDict(projections)})

    model: Any = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer() for _ in range(3)])})
    model.config = SimpleNamespace(num_hidden_layers=3, num_kv_shared_layers=1)
    plan = plan_targets(model, ("k_proj", "q_proj", "v_proj"))
    assert first_shared_layer(model.config) == 2
    assert plan.dead == ("layers.2.self_attn.k_proj", "layers.2.self_attn.v_proj")
    assert plan.names[-1] == "layers.2.self_attn.q_proj" and len(plan.names) == 7


def tiny(kind: str) -> Any:
    """A model of that architecture with two layers, on the meta device."""
    import transformers
    from pedsup_testing.tiny_models import gemma3_text_config

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64}  # fmt: skip
    if kind == "gemma3":
        text = gemma3_text_config(num_hidden_layers=2)
        vision = transformers.SiglipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        )
        config: Any = transformers.Gemma3Config(text_config=text, vision_config=vision)
    else:
        config = getattr(transformers, f"{kind.capitalize()}Config")(**sizes)
    with torch.device("meta"):
        return (
            transformers.AutoModelForImageTextToText.from_config(config)
            if kind == "gemma3"
            else (transformers.AutoModelForCausalLM.from_config(config))
        )


@pytest.mark.parametrize("kind", ["gemma3", "qwen2", "qwen3"])
def test_targets_of_other_architectures(kind: str) -> None:
    """Seven projections of each layer of the language model; the vision tower gets none."""
    plan = plan_targets(tiny(kind), tuple(SEVEN))
    assert len(plan.names) == 2 * len(SEVEN) and plan.dead == ()
    assert {name.rpartition(".")[2] for name in plan.names} == SEVEN
    assert not any("vision" in name for name in plan.names)
    assert bool(plan.towers) == (kind == "gemma3")


def test_wrong_forward_pass_is_found(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that ignores shared K/V when its cache is off, as transformers 5.5 did."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gemma)
    model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32)
    assert probe.check_forward(model, tokenizer) < 1e-3
    forward = type(model).forward

    def broken(self: Any, *args: Any, use_cache: bool = True, **kwargs: Any) -> Any:
        out = forward(self, *args, use_cache=use_cache, **kwargs)
        if not use_cache:
            out.logits = out.logits.roll(1, -1)
        return out

    monkeypatch.setattr(type(model), "forward", broken)
    with pytest.raises(UnsupportedError, match="wrong forward pass"):
        probe.check_forward(model, tokenizer)


def test_checkpointing_that_changes_gradients_is_found(gemma: Path, data: Path) -> None:
    """Re-entrant checkpointing cuts the way from the layers that share K/V to the one they read
    (unsloth-zoo #813): the loss is right, the k_proj and v_proj of that layer learn nonsense."""
    settings = recipe(gemma, data, "train.gradient_checkpointing=true")
    loaded = backends.load(settings, backends.choose_runtime(settings))
    cosine = probe.check_gradients(loaded.model, loaded.tokenizer)
    assert cosine is not None and cosine > 0.99999
    base = loaded.model.get_base_model()
    base.enable_input_require_grads()
    enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
    enable({"use_reentrant": True})
    with pytest.raises(UnsupportedError, match=r"layers\.[23]\.self_attn\.[kv]_proj"):
        probe.check_gradients(loaded.model, loaded.tokenizer)
    assert all(p.grad is None for p in loaded.model.parameters())
    assert any(getattr(m, "gradient_checkpointing", False) for m in loaded.model.modules())


def test_a_layer_recomputed_in_another_form_gives_advice() -> None:
    """torch's own error, from a function that runs differently the second time (as unsloth-zoo
    #1146 does when compilation changes between the two)."""
    from torch.utils.checkpoint import checkpoint

    runs: list[int] = []

    def layer(x: Any) -> Any:
        runs.append(1)
        return (x if len(runs) == 1 else x.repeat(2)).sin().sum()

    loss = checkpoint(layer, torch.ones(3, requires_grad=True), use_reentrant=False)
    with pytest.raises(RuntimeError) as caught:
        loss.backward()
    runtime = backends.Runtime("unsloth", "cuda", "bfloat16", "adamw_torch")
    advice = changed_recompute(caught.value, runtime)
    assert isinstance(advice, UnsupportedError) and "--backend transformers" in str(advice.remedy)
    assert changed_recompute(RuntimeError("other"), runtime) is None


def test_known_bad_versions_are_refused(
    gemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pedsup_train.model import versions

    monkeypatch.setattr(versions, "installed", lambda name: "5.5.4")
    with pytest.raises(UnsupportedError, match=r"transformers 5\.5\.4 trains gemma4_text"):
        make_plan(recipe(gemma, data), tmp_path / "adapter")
    versions.refuse_known_bad("llama", ("transformers", "unsloth_zoo"))
    monkeypatch.setattr(versions, "installed", lambda name: "5.6.0.dev0")
    versions.refuse_known_bad("gemma4", ("transformers",))
    monkeypatch.setattr(versions, "installed", lambda name: "2026.6.6")
    with pytest.raises(UnsupportedError, match="unsloth-zoo>=2026"):
        versions.refuse_known_bad("gemma4", ("unsloth_zoo",))


def test_no_such_base(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="no such folder") as error:
        make_plan(recipe(tmp_path / "nothing", data), tmp_path / "adapter")
    assert "default-base" in str(error.value)


@pytest.mark.parametrize(
    ("base", "local"),
    [
        ("google/gemma-4-E4B-it", False), ("./out/base", True), ("../base", True), ("~/base", True),
        ("/models/base", True), ("base", True), ("a/b/c", True), ("here/base", True),
    ],
)  # fmt: skip
def test_a_base_that_is_a_path_is_not_looked_for_on_the_hub(
    base: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_local(base) is local


def test_out_of_memory_is_advice(
    gemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own out-of-memory error from inside a step becomes advice; checkpoints stay."""
    from transformers import Trainer

    def explode(*_: object, **__: object) -> None:
        torch.empty(1 << 46, dtype=torch.uint8)

    monkeypatch.setattr(Trainer, "training_step", explode)
    plan = make_plan(recipe(gemma, data), tmp_path / "adapter")
    with pytest.raises(ResourceError) as error:
        train_adapter(plan)
    text = str(error.value)
    assert "train.batch_size=2" in text and "train.accumulation=2" in text
    assert "gradient_checkpointing=true" in text and not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("split", "advised"),
    [((16, 1), (8, 2)), ((15, 1), (5, 3)), ((5, 3), (1, 15)), ((3, 2), (1, 6))],
)
def test_what_is_advised_has_the_examples_of_the_step(
    split: tuple[int, int], advised: tuple[int, int]
) -> None:
    asked = Recipe(name="x", train=TrainConfig(batch_size=split[0], accumulation=split[1]))
    text = str(out_of_memory(MemoryError(), asked))
    assert f"train.batch_size={advised[0]} --set train.accumulation={advised[1]} " in text


def test_other_errors_are_not_called_memory() -> None:
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes"), Recipe()) is None
    assert out_of_memory(MemoryError(), Recipe()) is not None


def test_history_has_one_row_per_step_and_kind() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 3.0}, {"step": 1, "eval_loss": 3.5},
        {"step": 2, "loss": 1.0}, {"step": 2, "train_runtime": 9.0},
    ]  # fmt: skip
    assert clean_history(rows) == [rows[0], rows[2], rows[3]]


@pytest.mark.slow
def test_same_seed_same_weights(trained: Result, tmp_path: Path) -> None:
    again = train_adapter(dataclasses.replace(trained.plan, out=tmp_path / "adapter"))
    assert (
        again.digests["adapter_model.safetensors"] == (trained.digests["adapter_model.safetensors"])
    )
