"""A run: a printable plan, then the doing of it, and an adapter folder at the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError
from pedsup.files.fsio import sha256_file
from pedsup.optional import require
from pedsup.progress import say
from pedsup_train.data.held_out import NAME as HELD_OUT
from pedsup_train.data.held_out import held_out_bytes
from pedsup_train.folders import atomic_folder, refuse_filled
from pedsup_train.model import backends, base_source, probe
from pedsup_train.model.backends import Loaded, Runtime
from pedsup_train.recipe.toml import to_toml
from pedsup_train.run.card import write_card
from pedsup_train.run.curves import write_csv, write_png
from pedsup_train.run.facts import Checked, Result, result_facts
from pedsup_train.run.loop import Outcome, advised, fit
from pedsup_train.run.plan import Plan, is_main, n_processes
from pedsup_train.run.trainer import write_jsonl
from pedsup_train.run.work import disk_errors, newest_checkpoint, open_work

ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")


def run(plan: Plan, *, resume: bool = False, force: bool = False, keep: bool = False) -> Result:
    """Train and write the adapter folder.

    Args:
        resume: continue from the newest checkpoint in the work folder, if there is one.
        force: replace an existing adapter, and drop the checkpoints of an earlier run (with
            `resume` only those of a different run).

    Raises:
        OutputError: the adapter or unfinished work exists and neither flag was given.
        MismatchError: `resume`, and the recipe or the data are not those of the checkpoint.
        ResourceError: out of memory.
    """
    transformers = require("transformers", extra="train")
    refuse_filled(plan.out, force=force)
    checkpoint = open_work(plan, resume=resume, force=force) if is_main() else None
    _wait_for_all(plan.runtime)
    if not is_main() and resume:
        checkpoint = newest_checkpoint(plan.work)
    transformers.set_seed(plan.recipe.train.seed)
    loaded, checked = _load_and_check(plan)
    # Loading and checking drew random numbers; training starts from the seed whatever they drew.
    transformers.set_seed(plan.recipe.train.seed)
    parts = (plan.data.train, plan.data.evaluation)
    with disk_errors(plan.work):
        recipe = plan.split.applied(plan.recipe)
        outcome = fit(recipe, plan.runtime, loaded, parts, plan.work, checkpoint)
    _wait_for_all(plan.runtime)
    if not is_main():
        return Result(plan, outcome, loaded.n_trainable, len(loaded.targets.names), checked, {})
    with disk_errors(plan.out):
        result = _publish(plan, loaded, outcome, checked, force=force)
    if not keep:
        shutil.rmtree(plan.work, ignore_errors=True)
    return result


def _load_and_check(plan: Plan) -> tuple[Loaded, Checked]:
    _say(f"loading {plan.recipe.model.base}")
    with advised(plan.recipe, plan.runtime):
        loaded = backends.load(plan.recipe, plan.runtime)
        checked = Checked(
            probe.check_forward(loaded.model, loaded.tokenizer, plan.runtime.dtype),
            probe.check_gradients(loaded.model, loaded.tokenizer, plan.runtime.dtype),
        )
    _say(_loaded_line(loaded))
    return loaded, checked


def _say(text: str) -> None:
    if is_main():
        say(text)


def _wait_for_all(runtime: Runtime) -> None:
    """Let the processes of a distributed run meet; nothing in a single one."""
    if n_processes() > 1:
        accelerate = require("accelerate", extra="train")
        accelerate.PartialState(cpu=runtime.device == "cpu").wait_for_everyone()


def _loaded_line(loaded: Loaded) -> str:
    plan = loaded.targets
    line = f"LoRA on {len(plan.names)} projections, {loaded.n_trainable:,} parameters"
    if plan.dead:
        line += f"; {len(plan.dead)} K/V projections of KV-shared layers left alone"
    if plan.towers:
        line += f"; {len(plan.towers)} projections of towers left alone"
    return line


def check_adapter_file(path: Path) -> None:
    """Refuse an adapter that holds NaN or Inf, or in which nothing was learnt.

    Raises:
        BadFileError: naming the tensor.
    """
    torch = require("torch", extra="train")
    tensors = require("safetensors.torch", extra="train").load_file(path)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BadFileError(
                f"tensor '{name}' of the trained adapter holds NaN or Inf",
                where=path,
                remedy="lower train.learning_rate, or train in bfloat16 or float32",
            )
    if not any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name):
        raise BadFileError("all lora_B are zero: nothing was learnt", where=path)


def _publish(
    plan: Plan, loaded: Loaded, outcome: Outcome, checked: Checked, *, force: bool
) -> Result:
    recipe = plan.recipe
    with atomic_folder(plan.out, force=force) as folder:
        loaded.model.save_pretrained(
            folder, save_embedding_layers=False, state_dict=outcome.adapter
        )
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours has facts
        check_adapter_file(folder / ADAPTER_FILES[1])
        # safetensors makes its file for the owner only; the folder is to be copied and shared.
        shutil.copymode(folder / ADAPTER_FILES[0], folder / ADAPTER_FILES[1])
        (folder / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
        write_jsonl(folder / "training_log.jsonl", outcome.history)
        write_csv(folder / "training_log.csv", outcome.history)
        write_png(folder / "training_curves.png", outcome.history, f"{recipe.name}: training")
        if plan.data.held_out:
            (folder / HELD_OUT).write_bytes(held_out_bytes(plan.data.held_out))
        digests = {
            name: sha256_file(folder / name)
            for name in (*ADAPTER_FILES, HELD_OUT)
            if (folder / name).exists()
        }
        result = Result(
            plan, outcome, loaded.n_trainable, len(loaded.targets.names), checked, digests,
            base_source.base_digest(recipe),
        )  # fmt: skip
        facts = result_facts(result)
        (folder / "training.json").write_text(
            json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        write_card(folder / "adapter_card.md", recipe, facts)
    return result
