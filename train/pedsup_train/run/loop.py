"""The training loop: transformers' `Trainer` with our order of data, log and progress bar.

trl's `SFTTrainer` is not used: it renders, masks and packs, which is done (and counted) here
before the run, and adds nothing to the loop itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedsup.errors import PedsupError, ResourceError, UnsupportedError
from pedsup.optional import require
from pedsup_train.data.render import Rendered
from pedsup_train.model.backends import Loaded, Runtime
from pedsup_train.model.sharding import whole_adapter
from pedsup_train.recipe.schema import Recipe
from pedsup_train.run.trainer import make_trainer
from pedsup_train.run.work import checkpoint_state


@dataclass
class Outcome:
    """What a finished run measured."""

    history: list[dict[str, Any]]
    """Rows of the log: `step`, `epoch`, and either loss, grad_norm, learning_rate or eval_loss."""
    steps: int
    tokens_seen: int
    seconds: float
    """Of training and evaluation, over all sessions of a resumed run."""
    peak_gpu_bytes: int | None
    adapter: dict[str, Any] | None = None
    """Under FSDP: the whole adapter by parameter name, gathered from all processes."""


def fit(
    recipe: Recipe,
    runtime: Runtime,
    loaded: Loaded,
    parts: tuple[Sequence[Rendered], Sequence[Rendered]],
    work: Path,
    checkpoint: Path | None = None,
) -> Outcome:
    """Train `loaded.model` in place.

    Args:
        parts: rendered training and evaluation examples.
        work: folder of the checkpoints and the live log.
        checkpoint: continue from this one.

    Raises:
        ResourceError: out of memory; the message says what to lower.
    """
    torch = require("torch", extra="train")
    if runtime.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = make_trainer(recipe, runtime, loaded, parts, work)
    # The loss before the first step, in the same log as the rest.
    trainer.args.eval_on_start = bool(parts[1]) and checkpoint is None
    # The bar is closed first: an error's message would stand behind it.
    with advised(recipe, runtime), closing(trainer.follower):
        with _without_casts(loaded.model, runtime):
            _make_steps(trainer, loaded, checkpoint)
        evaluated = {row["step"] for row in _rows(trainer) if "eval_loss" in row}
        if parts[1] and trainer.state.global_step not in evaluated:
            trainer.evaluate()
    history = clean_history(_rows(trainer))
    return Outcome(
        history=history,
        steps=int(trainer.state.global_step),
        tokens_seen=int(trainer.state.num_input_tokens_seen),
        seconds=max((row.get("elapsed_s", 0.0) for row in history), default=0.0),
        peak_gpu_bytes=torch.cuda.max_memory_allocated() if runtime.device == "cuda" else None,
        adapter=whole_adapter(loaded.model),
    )


@contextmanager
def advised(recipe: Recipe, runtime: Runtime) -> Iterator[None]:
    """Raise an error with advice in place of torch's, where there is any.

    Raises:
        ResourceError: memory ran out.
        UnsupportedError: a compiled layer was recomputed in another form.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if advice := out_of_memory(error, recipe) or changed_recompute(error, runtime):
            raise advice from error
        raise


def _make_steps(trainer: Any, loaded: Loaded, checkpoint: Path | None) -> None:
    """All steps that the checkpoint has not seen."""
    if checkpoint is not None and _is_last(checkpoint):
        _restore(trainer, loaded, checkpoint)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _without_casts(model: Any, runtime: Runtime) -> AbstractContextManager[Any]:
    """Keep PEFT from turning each input of a LoRA layer into float32, which autocast takes back."""
    context: AbstractContextManager[Any] = require(
        "peft.helpers", extra="train"
    ).disable_input_dtype_casting(model, active=runtime.dtype != "float32")
    return context


def _is_last(checkpoint: Path) -> bool:
    """Whether all steps were done, and only evaluation and adapter folder are missing."""
    state = checkpoint_state(checkpoint) or {}
    return bool(state.get("global_step", 0) >= state.get("max_steps", float("inf")))


def _restore(trainer: Any, loaded: Loaded, checkpoint: Path) -> None:
    """Take weights and log of the last checkpoint; `Trainer.train` would make one step too many."""
    peft = require("peft", extra="train")
    load_file = require("safetensors.torch", extra="train").load_file
    peft.set_peft_model_state_dict(
        loaded.model, load_file(checkpoint / "adapter_model.safetensors")
    )
    state = require("transformers", extra="train").TrainerState
    trainer.state = state.load_from_json(str(checkpoint / "trainer_state.json"))


def _rows(trainer: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in trainer.state.log_history]


def clean_history(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per step and kind (a resumed run evaluates a step again), without the summary row."""
    kept: dict[tuple[int, bool], dict[str, Any]] = {}
    for row in rows:
        if "loss" in row or "eval_loss" in row:
            kept[(int(row["step"]), "eval_loss" in row)] = row
    return [kept[key] for key in sorted(kept)]


def changed_recompute(error: BaseException, runtime: Runtime) -> PedsupError | None:
    """An error with advice if a compiled layer was recomputed in another form, else None."""
    if type(error).__name__ != "CheckpointError":
        return None
    return UnsupportedError(
        f"the {runtime.backend} backend recomputed a layer in another form than it had run it",
        where=str(error).splitlines()[0][:200],
        wanted="no change of compilation inside a checkpointed layer (unsloth-zoo #1146)",
        remedy="leave UNSLOTH_COMPILE_DISABLE at 1, or --backend transformers",
    )


def out_of_memory(error: BaseException, recipe: Recipe) -> PedsupError | None:
    """An error with advice if `error` says that memory ran out, else None."""
    text = str(error)
    marks = ("out of memory", "can't allocate memory", "DefaultCPUAllocator", "std::bad_alloc")
    if not isinstance(error, MemoryError) and not any(mark in text for mark in marks):
        return None
    train, advice = recipe.train, []
    if train.batch_size > 1:
        total = train.batch_size * train.accumulation
        fewer = max(n for n in range(1, train.batch_size // 2 + 1) if total % n == 0)
        advice.append(
            f"--set train.batch_size={fewer} --set train.accumulation={total // fewer}"
            " --set train.merge_batches=false (the same steps: --resume goes on where there is a"
            " checkpoint)"
        )
    if not train.gradient_checkpointing:
        advice.append("--set train.gradient_checkpointing=true")
    if recipe.data.max_length > 512:
        advice.append(f"--set data.max_length={recipe.data.max_length // 2}")
    if recipe.model.quantization == "none":
        advice.append("--set model.quantization=nf4")
    return ResourceError(
        "the memory is not enough for this run",
        where=text.splitlines()[0][:200] if text else None,
        remedy="; or ".join(advice) or "take a smaller base, or a GPU with more memory",
    )
