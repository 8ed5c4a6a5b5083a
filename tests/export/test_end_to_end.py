"""The whole export against PEFT's merge, llama.cpp's converter and llama.cpp's quantizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing import oracle
from pedsup_testing.slowly import slow_but

from pedsup.errors import BadFileError
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.gguf_file.file_types import FILE_TYPES
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.publish import execute

Convert = Callable[[Path, str], Path]
Merged = Callable[[str], Path]


def export(base: Path, adapter: Path | None, out: Path, **options: object) -> Path:
    request = ExportRequest(
        base=ModelRef(base, base.name),
        adapter=ModelRef(adapter, adapter.name) if adapter else None,
        out=out,
    )
    execute(*make_plan(replace(request, **options)))
    return out


def tensor_bytes(header: GGUFHeader) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    data = header.path.read_bytes()
    start = header.data_offset
    return {
        t.name: (t.type.name, t.shape, data[start + t.offset : start + t.offset + t.n_bytes])
        for t in header.tensors.values()
    }


def assert_same_tensors(mine: Path, theirs: Path) -> None:
    a, b = tensor_bytes(read_header(mine)), tensor_bytes(read_header(theirs))
    assert a.keys() == b.keys()
    wrong = {n: (a[n][:2], b[n][:2]) for n in a if a[n] != b[n]}
    assert not wrong


FAST = {("e4b", "Q4_K_M")}
MOST_SLOWLY = slow_but(["e4b"], ["llama", "e4b", "gemma3", "e2b", "qwen2", "qwen3"])
ALL = [
    pytest.param(kind, quant, marks=[] if (kind, quant) in FAST else [pytest.mark.slow])
    for kind in ("llama", "e4b", "e2b", "gemma3", "qwen2", "qwen3")
    for quant in (("Q4_K_M", "Q8_0", "BF16") if kind.startswith("qwen") else FILE_TYPES)
]


@pytest.mark.parametrize(("kind", "quant"), ALL)
def test_every_tensor_is_llama_cpp_s(
    kind: str, quant: str, models: dict[str, Path], adapters: dict[str, Path], merged: Merged,
    convert: Convert, tmp_path: Path,
) -> None:  # fmt: skip
    """PEFT merge in float32 -> official converter (f32) -> llama_model_quantize, byte for byte."""
    mine = export(models[kind], adapters[kind], tmp_path / "mine.gguf", quant=quant)
    theirs = convert(merged(kind), "f32")
    if quant != "F32":
        theirs = oracle.quantize(theirs, tmp_path / "theirs.gguf", FILE_TYPES[quant].number)
    if quant in ("F16", "BF16"):
        # Here the converter's own --outtype is the oracle: the quantizer leaves
        # per_layer_model_proj in the type of its input (see mixture.py).
        theirs = convert(merged(kind), quant.lower())
    assert_same_tensors(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0", "BF16"])
def test_a_drafter_is_llama_cpp_s(
    quant: str, models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    mine = export(models["assistant"], None, tmp_path / "mine.gguf", quant=quant)
    if quant in ("F32", "F16", "BF16"):
        theirs = convert(models["assistant"], quant.lower())
    else:
        intermediate = convert(models["assistant"], "f32")
        theirs = oracle.quantize(intermediate, tmp_path / "t.gguf", FILE_TYPES[quant].number)
    assert_same_tensors(mine, theirs)


def test_a_drafter_that_lacks_a_projection_is_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cut"
    shutil.copytree(models["assistant"], folder)
    weights = load_file(folder / "model.safetensors")
    del weights["pre_projection.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadFileError, match=r"nextn\.pre_projection"):
        export(folder, None, tmp_path / "out.gguf")


@pytest.mark.slow  # test_merge.py shows the rounding to be the converter's
@pytest.mark.parametrize("kind", ["llama", "e4b"])
def test_bfloat16_merge_is_the_usual_pipeline_s(
    kind: str, models: dict[str, Path], adapters: dict[str, Path], merged: Merged,
    convert: Convert, tmp_path: Path,
) -> None:  # fmt: skip
    """With a bf16 intermediate file, as people convert: the same rounding, the same bytes."""
    mine = export(models[kind], adapters[kind], tmp_path / "mine.gguf", merge_dtype="bfloat16")
    intermediate = convert(merged(kind), "bf16")
    theirs = oracle.quantize(intermediate, tmp_path / "theirs.gguf", 15)
    assert_same_tensors(mine, theirs)


@pytest.mark.slow  # test_merge.py shows it for one matrix
def test_the_float32_default_is_closer_to_the_exact_merge(
    models: dict[str, Path], adapters: dict[str, Path], tmp_path: Path
) -> None:
    """What is lost by rounding the merged weight to bf16 before it is quantized to Q8_0."""
    from pedsup_export.types.quantize import dequantize_rows

    files = {
        d: export(models["e4b"], adapters["e4b"], tmp_path / f"{d}.gguf", quant="Q8_0",
                  merge_dtype=d)
        for d in ("float32", "bfloat16")
    }  # fmt: skip
    exact_file = export(models["e4b"], adapters["e4b"], tmp_path / "exact.gguf", quant="F32")
    exact, name = tensor_bytes(read_header(exact_file)), "blk.2.ffn_up.weight"
    n_per_row = exact[name][1][0]
    wanted = np.frombuffer(exact[name][2], np.float32).reshape(-1, n_per_row)
    errors = {}
    for dtype, path in files.items():
        info = read_header(path).tensors[name]
        packed = np.frombuffer(tensor_bytes(read_header(path))[name][2], np.uint8)
        rows = dequantize_rows(packed.reshape(wanted.shape[0], -1).copy(), info.type, n_per_row)
        errors[dtype] = float(np.linalg.norm(rows - wanted))
    assert errors["float32"] < errors["bfloat16"]


def peft_logits(base: Path, adapter: Path, tokens: list[int], *, ggml_gelu: bool) -> np.ndarray:
    """transformers plus PEFT in float32; with `ggml_gelu` its GELU is the one of llama.cpp."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    class TableGelu(torch.nn.Module):
        """ggml looks GELU up in a table: argument and value are rounded to float16 (vec.h)."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
            return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, value))

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    if ggml_gelu:
        for module in model.modules():
            if hasattr(module, "act_fn"):
                module.act_fn = TableGelu()
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("kind", MOST_SLOWLY)
def test_logits_equal_transformers_and_peft(
    kind: str, models: dict[str, Path], adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Mean KL below 1e-6 on a prompt longer than the sliding window, float32 on both sides.

    For Gemma that holds with llama.cpp's own GELU on both sides. It looks GELU up in a table of
    float16 values, and that alone is the difference: the floor is stated as 1e-5.
    """
    tokens = np.random.default_rng(3).integers(107, 700, 48).tolist()
    path = export(models[kind], adapters[kind], tmp_path / "f32.gguf", quant="F32")
    found = oracle.logits(path, tokens)
    gemma = kind in ("e4b", "e2b", "gemma3")
    wanted = peft_logits(models[kind], adapters[kind], tokens, ggml_gelu=gemma)
    assert oracle.mean_kl(wanted, found) < 1e-6
    if gemma:
        exact = peft_logits(models[kind], adapters[kind], tokens, ggml_gelu=False)
        assert oracle.mean_kl(exact, found) < 1e-5
    # And the adapter matters: without it the logits are far away.
    bare = export(models[kind], None, tmp_path / "bare.gguf", quant="F32")
    assert oracle.mean_kl(wanted, oracle.logits(bare, tokens)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multimodal", "medgemma"])
def test_multimodal_folder_gives_the_text_model(
    kind: str, models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    mine = export(models[kind], None, tmp_path / "mine.gguf", quant="F32")
    assert_same_tensors(mine, convert(models[kind], "f32"))


@pytest.mark.slow  # test_imatrix.py compares bytes for one type quickly
def test_imatrix_gives_llama_quantize_s_bytes(
    models: dict[str, Path], convert: Convert, native_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    import subprocess

    f32 = convert(models["e4b"], "f32")
    text = tmp_path / "text.txt"
    text.write_text("The child has a fever and a cough. El niño tiene fiebre y tos. " * 200)
    imatrix = tmp_path / "imatrix.gguf"
    subprocess.run(
        [native_tool("llama-imatrix"), "-m", f32, "-f", text, "-o", imatrix, "-c", "64",
         "--chunks", "4", "-t", "2", "--no-repack"],
        check=True, capture_output=True,
    )  # fmt: skip
    theirs = tmp_path / "theirs.gguf"
    subprocess.run(
        [native_tool("llama-quantize"), "--imatrix", imatrix, f32, theirs, "Q4_K_M", "1"],
        check=True, capture_output=True,
    )  # fmt: skip
    mine = export(models["e4b"], None, tmp_path / "mine.gguf", imatrix=imatrix)
    assert_same_tensors(mine, theirs)


def test_a_tensor_type_override(models: dict[str, Path], tmp_path: Path) -> None:
    path = export(models["llama"], None, tmp_path / "o.gguf", tensor_types=(("ffn_down", "Q8_0"),))
    types = {t.name: t.type.name for t in read_header(path).tensors.values()}
    assert all(types[n] == "Q8_0" for n in types if "ffn_down" in n)
    assert types["blk.1.ffn_up.weight"] == "Q4_K"


def test_the_file_says_what_it_is_and_verify_finds_the_adapter(
    models: dict[str, Path], adapters: dict[str, Path], tmp_path: Path
) -> None:
    path = export(models["e4b"], adapters["e4b"], tmp_path / "m.gguf")
    header, manifest = read_header(path), read_manifest(manifest_path(path))
    assert "Research only" in header.metadata["general.description"]
    assert "No son un dispositivo médico" in header.metadata["pedsup.intended_use.es"]
    assert header.metadata["pedsup.manifest.sha256"] == manifest.core_sha256
    assert manifest.core["recipe"]["quant"] == "Q4_K_M"
    assert manifest.core["adapter"]["files"]["adapter_model.safetensors"]
    report = verify(
        path,
        base=ModelRef(models["e4b"], "e4b"),
        adapter=ModelRef(adapters["e4b"], "adapter"),
    )
    assert report.shares is not None
    config = json.loads((adapters["e4b"] / "adapter_config.json").read_text())
    assert config["r"] == manifest.core["adapter"]["config"]["r"]
    assert all(0.9 < s.share < 1.1 for s in report.shares)


def test_official_reader_reads_our_file(models: dict[str, Path], tmp_path: Path) -> None:
    """gguf-py's reader sees the same metadata and tensors as ours."""
    import gguf

    path = export(models["llama"], None, tmp_path / "m.gguf", quant="Q8_0")
    reader, header = gguf.GGUFReader(path), read_header(path)
    assert {t.name: (tuple(map(int, t.shape)), int(t.data_offset)) for t in reader.tensors} == {
        t.name: (t.shape, header.data_offset + t.offset) for t in header.tensors.values()
    }
    fields = {k for k in reader.fields if not k.startswith("GGUF.")}
    assert fields == set(header.metadata)
    assert reader.fields["general.description"].contents() == header.get("general.description")


def test_two_threads_and_one_write_the_same_file(
    models: dict[str, Path], adapters: dict[str, Path], tmp_path: Path
) -> None:
    one = export(models["e2b"], adapters["e2b"], tmp_path / "a" / "m.gguf", threads=1)
    two = export(models["e2b"], adapters["e2b"], tmp_path / "b" / "m.gguf", threads=2)
    assert one.read_bytes() == two.read_bytes()
