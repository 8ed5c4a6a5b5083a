"""The work folder of a run: checkpoints, live log, and what a resumed run must have in common."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pedsup.errors import MismatchError, OutputError, PedsupError, ResourceError
from pedsup.optional import require
from pedsup.progress import say
from pedsup_train.model.sharding import is_sharded
from pedsup_train.recipe.toml import to_toml
from pedsup_train.run.plan import Plan, n_processes

_WRITING_FAILED: Final = (
    "no space left", "i/o error", "input/output error", "disk quota", "read-only file system",
    "pytorchstreamwriter failed", "error while serializing", "unexpected pos", "iostream error",
)  # fmt: skip
"""How safetensors and torch word a failed write, in errors that are no OSError."""
IDENTITY: Final = "run.json"
"""In the work folder: what a resumed run must have in common with the one it continues."""


def _identity(plan: Plan) -> dict[str, str]:
    """How the examples of a step are split does not count: the steps are the same."""
    train = plan.recipe.train
    step = replace(train, batch_size=1, accumulation=1, merge_batches=True)
    return {
        "recipe": to_toml(replace(plan.recipe, train=step)),
        "step": f"examples = {train.batch_size * train.accumulation}",
        "data": plan.data.prepared.digest,
        "backend": plan.runtime.backend,
        "dtype": plan.runtime.dtype,
        "processes": f"processes = {n_processes()}",
        "sharding": f"FSDP = {str(is_sharded()).lower()}",
    }


def open_work(plan: Plan, *, resume: bool, force: bool) -> Path | None:
    """Make or reopen the work folder; the checkpoint to continue from, if any."""
    work, identity = plan.work, _identity(plan)
    checkpoint = newest_checkpoint(work)
    if resume and checkpoint is not None:
        differing = _differing(work / IDENTITY, identity)
        if not differing:
            say(f"resuming after step {checkpoint.name.rpartition('-')[2]}")
            return checkpoint
        found = f"the run to resume had another {' and another '.join(differing)}"
        if not force:
            raise MismatchError(
                found,
                where=work,
                wanted="the same recipe, data and backend",
                remedy="resume with the same command, or start anew with --force",
            )
        say(f"{found}: starting anew")
    elif resume:
        say("no checkpoint to resume from: starting at step 0")
    elif checkpoint is not None and not force:
        raise OutputError(
            "an unfinished run is here",
            where=work,
            remedy="continue it with --resume, or start anew with --force",
        )
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    (work / IDENTITY).write_text(json.dumps(identity, indent=1), encoding="utf-8")
    return None


def _differing(path: Path, identity: dict[str, str]) -> list[str]:
    """Keys in which the run of an existing work folder differs from this one."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["identity (it cannot be read)"]
    if not isinstance(before, dict):
        return ["identity (it is not an object)"]
    keys = [key for key in identity if before.get(key) != identity[key]]
    return [f"{key}{_changed(before.get(key), identity[key])}" for key in keys]


def _changed(before: object, now: str) -> str:
    """' (max_steps = 60)': the first keys of the earlier recipe that the present one lacks."""
    present = set(now.splitlines())
    gone = [s for s in str(before).splitlines() if " = " in s and s not in present][:3]
    return f" ({', '.join(gone)})" if gone else ""


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Make a message of what safetensors and torch raise when `folder` cannot be written.

    Raises:
        ResourceError: with what to do; the checkpoints that are complete stay.
    """
    try:
        yield
    except (PedsupError, OSError):
        raise
    except Exception as error:
        if not any(words in str(error).lower() for words in _WRITING_FAILED):
            raise
        raise ResourceError(
            f"the disk failed or is full: {str(error).splitlines()[0]}",
            where=folder,
            remedy="free space (or choose another --out), then the same command with --resume",
        ) from error


def newest_checkpoint(work: Path) -> Path | None:
    """The complete checkpoint of the highest step."""
    found = [p for p in work.glob("checkpoint-*") if checkpoint_state(p) is not None and _whole(p)]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def checkpoint_state(folder: Path) -> dict[str, Any] | None:
    """The trainer's state, which is written last; None when it is absent or cut off."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("global_step"), int) else None


def _whole(folder: Path) -> bool:
    """Whether no file is cut off, as a power cut leaves them although the state is there."""
    safe_open = require("safetensors", extra="train").safe_open
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="numpy"):
                pass
    except Exception:  # safetensors has an error class of its own, and raises OSError too
        return False
    # Each process writes its random state, beside the first one's files and after some of them.
    processes = n_processes()
    states = (
        ["rng_state.pth"] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    )
    if any(folder.glob("rng_state*.pth")) and not all((folder / name).exists() for name in states):
        return False
    # torch.save writes a zip, whose directory is at the end.
    kinds = ("*.pt", "*.pth", "*.bin")
    return all(zipfile.is_zipfile(path) for kind in kinds for path in folder.glob(kind))
