"""Driver of the training's fault sweep: see `pedsup_testing.faults`."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from pathlib import Path

import torch
from pedsup_testing.faults import KINDS, Job, finish, sweep
from safetensors.torch import load_file

from pedsup_train.recipe.schema import read_recipe
from pedsup_train.run.plan import make_plan
from pedsup_train.run.runner import run


def main(config: dict[str, str]) -> None:
    torch.set_num_threads(1)
    root = Path(config["root"])
    work, kept = root / "work", root / "kept"
    out = work / "adapter"
    old = out.with_name(".adapter.old")  # where it stands between the two renames
    settings = read_recipe("demo", json.loads(config["sets"]))

    def train(target: Path, *, resume: bool = False) -> None:
        run(make_plan(settings, target), resume=resume, force=True)

    train(kept)
    gc.freeze()  # `Trainer` collects at its end: half a second a run, over all that was imported
    wanted = load_file(kept / "adapter_model.safetensors")

    def prepare() -> None:
        shutil.rmtree(work, ignore_errors=True)
        out.mkdir(parents=True)
        (out / "old.txt").write_text("the adapter before")

    def check(kind: str) -> None:
        if out.exists() and not (out / "old.txt").exists():
            assert_same(out)  # the new one, whole
        else:
            kept_old = out if out.exists() else old
            assert (kept_old / "old.txt").read_text() == "the adapter before"
        train(out, resume=True)
        assert_same(out)

    def assert_same(folder: Path) -> None:
        found = load_file(folder / "adapter_model.safetensors")
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        for name in ("adapter_config.json", "training.json"):
            json.loads((folder / name).read_text())
        assert (folder / "adapter_card.md").stat().st_size > 500

    job = Job(work, prepare, lambda: train(out), check, int(config["stride"]))
    finish({"training": sweep(job, tuple(KINDS))})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
