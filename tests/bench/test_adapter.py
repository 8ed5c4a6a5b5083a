"""`--adapter` of the bench: base and adapter measure as their merge does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pedsup_testing import adapter_files


@pytest.fixture(scope="module")
def files(
    tiny_folders: dict[str, Path], tiny_ggufs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    """A float32 base, its merge with an adapter, and the adapter as a file of its own."""
    from pedsup_export.plan.adapter_file import plan_adapter_file
    from pedsup_export.plan.adapter_plan import AdapterFileRequest
    from pedsup_export.plan.planner import make_plan
    from pedsup_export.plan.request import ExportRequest
    from pedsup_export.source.hub import ModelRef
    from pedsup_export.write.adapter_file import write_adapter_file
    from pedsup_export.write.publish import execute

    root, base = tmp_path_factory.mktemp("adapter"), tiny_ggufs["gemma4"]
    folder = tiny_folders["gemma4"]
    lora = ModelRef(adapter_files.live_lora(root / "lora", folder), "lora")
    request = ExportRequest(
        base=ModelRef(folder, "base"), adapter=lora, out=root / "m.gguf", quant="F32", threads=1
    )
    merged = execute(*make_plan(request)).path
    plan = plan_adapter_file(AdapterFileRequest(lora, (base,), root / "a.gguf", kind="F32"))
    return {"base": base, "merged": merged, "adapter": write_adapter_file(plan).path}


@pytest.mark.slow
def test_quality_of_base_and_adapter_is_that_of_the_merge(bench, files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = tmp_path / "text.txt"
    text.write_text("The child has a fever and a cough. El niño tiene fiebre y tos. " * 40)
    words = ["quality", files["base"], "--reference", files["merged"], "--text", text, "--ctx",
             "64", "--chunks", "2", "--json"]  # fmt: skip

    def kl(*more: object) -> float:
        document = json.loads(bench(*words, *more).stdout)
        return float(next(iter(document["figures"].values()))["kld"]["mean"])

    beside = json.loads(bench(*words, "--adapter", files["adapter"]).stdout)
    assert beside["model"]["adapter"]["file"] == "a.gguf"
    assert beside["trust"]["adapter"] is not None
    assert kl("--adapter", files["adapter"]) < 1e-5
    assert kl() > 1e-2


def test_another_adapter_is_not_measured(bench, files, tiny_ggufs, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = bench(
        "quality", tiny_ggufs["llama"], "--reference", tiny_ggufs["llama"],
        "--adapter", files["adapter"], check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "the adapter does not belong to the model" in done.stderr


@pytest.mark.slow
def test_speed_is_measured_with_it(bench, files) -> None:  # type: ignore[no-untyped-def]
    done = bench(
        "run", files["base"], "--adapter", files["adapter"], "--quick", "--prompts", "8",
        "--depths", "0", "--decode", "4", "--repeats", "1", "--loads", "1", "--threads", "1",
        "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert document["model"]["adapter"]["file"] == "a.gguf"
    assert document["figures"]["decode_0"]["median"] > 0
