"""Driver of the export's fault sweep: see `pedsup_testing.faults`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from pedsup_testing.faults import Job, finish, sweep

from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.kernels.dispatch import kernel_for
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.publish import execute


def main(config: dict[str, str]) -> None:
    root = Path(config["root"])
    out, kept = root / "work/model.gguf", root / "kept"
    manifest = out.with_name(out.name + ".manifest.json")
    base, adapter = Path(config["base"]), Path(config["adapter"])
    kernel_for(BY_NAME["Q8_0"], False)  # compiled and checked before the forks

    def export(target: Path, name: str) -> Path:
        request = ExportRequest(
            base=ModelRef(base, "base"), adapter=ModelRef(adapter, "adapter"), out=target,
            quant="Q8_0", force=True, threads=1, name=name,
        )  # fmt: skip
        execute(*make_plan(request))
        return target

    kept.mkdir()
    old, new = export(kept / "old.gguf", "old"), export(kept / "new.gguf", "new")
    old_manifest = old.with_name(old.name + ".manifest.json")

    def prepare() -> None:
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir(parents=True)
        shutil.copyfile(old, out)
        shutil.copyfile(old_manifest, manifest)

    between = []

    def check(kind: str) -> None:
        found = out.read_bytes()
        assert found in (old.read_bytes(), new.read_bytes()), "neither the old file nor the new"
        if found == old.read_bytes():
            assert manifest.read_bytes() == old_manifest.read_bytes(), "old file, other manifest"
        else:
            # The manifest is renamed last; until then the old one stands, whole.
            named = json.loads(manifest.read_text())["file"]["name"]
            between.append(named == "old.gguf")
            assert named in ("old.gguf", "model.gguf")
        names = {path.name for path in out.parent.iterdir()}
        final = {out.name, manifest.name}
        assert all(n.startswith(".") for n in names - final), names
        export(out, "new")
        assert out.read_bytes() == new.read_bytes(), "the next run wrote another file"
        verify(out)
        assert {path.name for path in out.parent.iterdir()} == final, "left-overs"

    job = Job(out.parent, prepare, lambda: export(out, "new"), check, int(config["stride"]),
              each_call=True)  # fmt: skip
    report = sweep(job)
    # For each kind: the folder's fsync after the first rename, the manifest's last fsync and its
    # rename; and for a kill the removal of the old signature.
    assert sum(between) <= 10, f"{sum(between)} points leave a new file with the old manifest"
    finish({"export": report})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
