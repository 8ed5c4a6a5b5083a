"""An adapter as a file of its own: llama.cpp's bytes, PEFT's logits, its base and no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pedsup_testing import adapter_files, oracle, sized_models, tiny_models
from pedsup_testing.slowly import slow_but

from pedsup.errors import (
    BadFileError,
    MismatchError,
    OutputError,
    UnsupportedError,
    UntrustedError,
    UsageError,
)
from pedsup.gguf_file import read_header
from pedsup.gguf_file.lora import pairs, require_fits, validate_adapter
from pedsup.gguf_file.validate import validate_model
from pedsup.trust.assess import Policy, verify_weights
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup.trust.pair import assess_pair
from pedsup.trust.store import TrustedKey, load_store
from pedsup_export.cli import cli
from pedsup_export.plan.adapter_file import plan_adapter_file
from pedsup_export.plan.adapter_plan import AdapterFileRequest
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.sign import make_keys, sign
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.adapter_file import write_adapter_file
from pedsup_export.write.publish import execute

KINDS = ("llama", "e4b")
TOKENS = np.random.default_rng(3).integers(300, 700, 60).tolist()


@pytest.fixture(scope="module")
def live(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters on the projections that llama.cpp can change as it runs."""
    root = tmp_path_factory.mktemp("live")
    return {kind: adapter_files.live_lora(root / kind, models[kind]) for kind in KINDS}


@pytest.fixture(scope="module")
def base_files(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    root = tmp_path_factory.mktemp("bases")

    def make(kind: str, quant: str) -> Path:
        out = root / f"{kind}-{quant}.gguf"
        if not out.exists():
            base = ModelRef(models[kind], kind)
            execute(*make_plan(ExportRequest(base=base, out=out, quant=quant)))
        return out

    return make


def write(adapter: Path, base: Path, out: Path, **options: Any) -> Path:
    request = AdapterFileRequest(ModelRef(adapter, adapter.name), (base,), out)
    return write_adapter_file(plan_adapter_file(replace(request, **options))).path


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    header, data = read_header(path), path.read_bytes()
    return {
        t.name: (t.type.name, t.shape, data[header.data_offset + t.offset :][: t.n_bytes])
        for t in header.tensors.values()
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outtype", ["F16", "F32", "Q8_0"])
def test_every_tensor_is_the_converter_s(
    kind: str, outtype: str, models: dict[str, Path], live: dict[str, Path],
    base_files: Callable[[str, str], Path], llama_cpp_source: Path, tmp_path: Path,
) -> None:  # fmt: skip
    mine = write(live[kind], base_files(kind, "Q8_0"), tmp_path / "mine.gguf", kind=outtype)
    theirs = tmp_path / "theirs.gguf"
    subprocess.run(
        [sys.executable, llama_cpp_source / "convert_lora_to_gguf.py", live[kind],
         "--base", models[kind], "--outtype", outtype.lower(), "--outfile", theirs],
        check=True, capture_output=True,
        env={k: v for k, v in os.environ.items() if k != "NO_LOCAL_GGUF"},
    )  # fmt: skip
    assert tensors(mine) == tensors(theirs)
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert read_header(mine).get(key) == read_header(theirs).get(key)


@pytest.mark.parametrize("kind", slow_but(["e4b"], KINDS))
def test_logits_are_peft_s(
    kind: str, models: dict[str, Path], live: dict[str, Path],
    base_files: Callable[[str, str], Path], tmp_path: Path,
) -> None:  # fmt: skip
    """With a float32 base the adapter adds no error of its own."""
    base = base_files(kind, "F32")
    beside = write(live[kind], base, tmp_path / "a.gguf", kind="F32")
    wanted = adapter_files.peft_logits(models[kind], live[kind], TOKENS)
    floor = oracle.mean_kl(
        adapter_files.peft_logits(models[kind], None, TOKENS), oracle.logits(base, TOKENS)
    )
    found = adapter_files.logits(base, beside, TOKENS)
    effect = oracle.mean_kl(wanted, oracle.logits(base, TOKENS))
    kl = oracle.mean_kl(wanted, found)
    print(f"{kind}: KL {kl:.2e}, without adapters {floor:.2e}, of the adapter {effect:.2e}")
    assert kl <= 3 * floor + 1e-7
    assert kl < effect / 1000


@pytest.mark.slow  # shown above for a float32 base
@pytest.mark.parametrize("kind", KINDS)
def test_logits_beside_a_quantized_base_are_peft_s_on_the_dequantized_one(
    kind: str, models: dict[str, Path], live: dict[str, Path],
    base_files: Callable[[str, str], Path], tmp_path: Path,
) -> None:  # fmt: skip
    """llama.cpp rounds activations to 8 bits for such weights: that floor, and not above it."""
    base = base_files(kind, "Q4_K_M")
    same = adapter_files.dequantized(base, models[kind], tmp_path / "same")
    beside = write(live[kind], base, tmp_path / "a.gguf")
    floor = oracle.mean_kl(
        adapter_files.peft_logits(same, None, TOKENS), oracle.logits(base, TOKENS)
    )
    wanted = adapter_files.peft_logits(same, live[kind], TOKENS)
    kl = oracle.mean_kl(wanted, adapter_files.logits(base, beside, TOKENS))
    effect = oracle.mean_kl(wanted, oracle.logits(base, TOKENS))
    print(f"{kind}: KL {kl:.2e}, without adapters {floor:.2e}, of the adapter {effect:.2e}")
    assert kl <= 3 * floor + 1e-5
    assert kl < effect / 10


@pytest.mark.parametrize(
    "options", [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 7, "down_proj": 64}},
                {"rank_pattern": {"q_proj": 4}}],
)  # fmt: skip
def test_scalings_that_the_format_has_no_place_for(
    options: dict[str, Any], models: dict[str, Path],
    base_files: Callable[[str, str], Path], tmp_path: Path,
) -> None:  # fmt: skip
    """The converter writes lora_alpha and no more: its file would scale wrongly."""
    adapter = adapter_files.live_lora(tmp_path / "lora", models["llama"], **options)
    base = base_files("llama", "F32")
    beside = write(adapter, base, tmp_path / "a.gguf", kind="F32")
    wanted = adapter_files.peft_logits(models["llama"], adapter, TOKENS)
    assert oracle.mean_kl(wanted, adapter_files.logits(base, beside, TOKENS)) < 1e-6


def test_what_llama_cpp_would_leave_out_is_refused(
    adapters: dict[str, Path], base_files: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """A projection of Gemma 4 outside of its layers, which "all-linear" changes too."""
    base = base_files("e4b", "Q8_0")
    with pytest.raises(MismatchError) as error:
        write(adapters["e4b"], base, tmp_path / "a.gguf")
    assert "per_layer_model_projection" in str(error.value)
    out = write(adapters["e4b"], base, tmp_path / "a.gguf", allow_unused=True)
    core = read_manifest(manifest_path(out)).core
    assert any("per_layer_model" in text for text in core["adapter"]["unused_deltas"])
    assert not any("per_layer_model" in name for name in core["tensors"])
    require_fits(validate_adapter(out), validate_model(base))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modules_to_save": ["norm"]}, "whole tensors"),
        ({"use_dora": True}, "DoRA"),
        ({"trainable_token_indices": [5, 6]}, "token rows"),
    ],
)
def test_more_than_low_rank_changes_is_refused(
    options: dict[str, Any], said: str, models: dict[str, Path],
    base_files: Callable[[str, str], Path], tmp_path: Path,
) -> None:  # fmt: skip
    adapter = adapter_files.live_lora(tmp_path / "lora", models["llama"], **options)
    with pytest.raises(UnsupportedError, match=said) as error:
        write(adapter, base_files("llama", "Q8_0"), tmp_path / "a.gguf")
    assert "pedsup-export run" in str(error.value)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_tied_embeddings_cannot_be_changed_beside_their_base(
    models: dict[str, Path], base_files: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """llama.cpp would multiply by the half that it looks rows up in, and end the process."""
    adapter = tiny_models.lora(
        tmp_path / "lora", models["llama"], target_modules=["q_proj", "embed_tokens"]
    )
    with pytest.raises((MismatchError, UnsupportedError), match=r"embed|whole tensors"):
        write(adapter, base_files("llama", "Q8_0"), tmp_path / "a.gguf")


def test_another_model_s_adapter_is_refused(
    live: dict[str, Path], base_files: Callable[[str, str], Path], tmp_path: Path
) -> None:
    with pytest.raises(MismatchError):
        write(live["llama"], base_files("e4b", "Q8_0"), tmp_path / "a.gguf")


def test_the_manifest_names_the_base_by_its_bytes(
    models: dict[str, Path], live: dict[str, Path], base_files: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    base = base_files("llama", "Q4_K_M")
    out = write(live["llama"], base, tmp_path / "a.gguf")
    core = read_manifest(manifest_path(out)).core
    (fit,) = core["fits"]
    wanted = subprocess.run(["sha256sum", base], capture_output=True, text=True, check=True).stdout
    assert wanted.startswith(fit["sha256"])
    adapter = ModelRef(live["llama"], "llama")
    assert verify(out).remade is False
    assert verify(out, base=ModelRef(base, "base"), adapter=adapter).remade
    with pytest.raises(MismatchError, match="another base file"):
        other = base_files("llama", "Q8_0")
        verify(out, base=ModelRef(other, "base"), adapter=adapter)
    another = adapter_files.live_lora(tmp_path / "other", models["llama"], seed=9)
    with pytest.raises(MismatchError, match="not the one that the file was made from"):
        verify(out, base=ModelRef(base, "base"), adapter=ModelRef(another, "other"))
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    with pytest.raises(UntrustedError):
        verify(out)


def test_the_command(
    live: dict[str, Path], base_files: Callable[[str, str], Path], tmp_path: Path
) -> None:
    out, base = tmp_path / "a.gguf", base_files("llama", "Q4_K_M")
    words = ["adapter", "--adapter", live["llama"], "--base", base, "--out", out]
    run = CliRunner().invoke(cli, [*map(str, words), "--dry-run", "--json"])
    assert run.exit_code == 0, run.output
    assert not out.exists()
    planned = json.loads(run.stdout)
    assert planned["output_bytes"] > 0
    run = CliRunner().invoke(cli, [*map(str, words), "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["size"] == planned["output_bytes"] == out.stat().st_size
    run = CliRunner().invoke(cli, [*map(str, words)])
    assert isinstance(run.exception, OutputError)
    shown = CliRunner().invoke(
        cli, ["verify", str(out), "--base", str(base), "--adapter", str(live["llama"])]
    )
    assert shown.exit_code == 0, shown.exception
    assert "made again" in shown.stdout
    words[words.index(base)] = live["llama"]
    run = CliRunner().invoke(cli, [*map(str, words), "--force"])
    assert isinstance(run.exception, UsageError)
    assert "the base is a folder" in str(run.exception)


def test_a_number_that_the_type_cannot_hold_is_refused_while_it_is_a_plan(
    live: dict[str, Path], base_files: Callable[[str, str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    base, adapter = base_files("llama", "Q4_K_M"), tmp_path / "large"
    shutil.copytree(live["llama"], adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(n for n in weights if "lora_A" in n)
    for value, kind, error, said in (
        (7e4, "F16", UnsupportedError, "does not fit F16"),
        (9e6, "Q8_0", UnsupportedError, "does not fit Q8_0"),
        (float("nan"), "F32", BadFileError, "holds NaN or Inf"),
    ):
        weights[name] = weights[name].float()
        weights[name][0, 0] = value
        save_file(weights, adapter / "adapter_model.safetensors")
        with pytest.raises(error, match=said):
            plan_adapter_file(
                AdapterFileRequest(ModelRef(adapter, "large"), (base,), tmp_path / "a", kind=kind)
            )


@pytest.mark.slow
def test_the_size_for_e4b(base_files: Callable[[str, str], Path], tmp_path: Path) -> None:
    """At r16 in F16, on the seven live projections: at most 75 MB."""
    import torch
    from safetensors.torch import save_file

    sizes = replace(sized_models.E4B, n_vocab=768)
    base = sized_models.write(tmp_path / "e4b.gguf", sizes, base_files("e4b", "F32"))
    header = validate_model(base)
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    weights = {}
    for tensor in header.tensors.values():
        block, _, rest = tensor.name.removeprefix("blk.").partition(".")
        if module := names.get(rest.removesuffix(".weight")):
            path = f"base_model.model.model.layers.{block}.{module}"
            n_in, n_out = tensor.shape
            weights[f"{path}.lora_A.weight"] = torch.ones(16, n_in, dtype=torch.bfloat16)
            weights[f"{path}.lora_B.weight"] = torch.ones(n_out, 16, dtype=torch.bfloat16)
    adapter = tmp_path / "lora"
    adapter.mkdir()
    save_file(weights, adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "google/gemma-4-E4B-it",
        "task_type": "CAUSAL_LM",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    plan = plan_adapter_file(
        AdapterFileRequest(ModelRef(adapter, "lora"), (base,), tmp_path / "a.gguf")
    )
    assert len(plan.changes) == 42 * 5 + 24 * 2
    print(f"{plan.output_bytes} bytes")
    assert 60e6 < plan.output_bytes <= 75e6


def test_every_pair_is_read_back(
    live: dict[str, Path], base_files: Callable[[str, str], Path], tmp_path: Path
) -> None:
    base = base_files("e4b", "Q8_0")
    out = write(live["e4b"], base, tmp_path / "a.gguf")
    header = validate_adapter(out)
    assert {p.target for p in pairs(header)} <= set(read_header(base).tensors)
    with pytest.raises(UnsupportedError, match="--adapter"):
        validate_model(out)


def test_a_signed_adapter_vouches_for_its_base(
    live: dict[str, Path], base_files: Callable[[str, str], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its signed manifest holds the base's digest; another key's adapter does not count."""
    pytest.importorskip("model_signing")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base, pair = base_files("llama", "Q4_K_M"), make_keys(tmp_path / "lab", None)
    out = write(live["llama"], base, tmp_path / "a.gguf")
    sign(out, pair.private, None)
    policy, header = Policy(require_signature=True), validate_model(base)
    with pytest.raises(UntrustedError, match="not trusted here"):
        assess_pair(header, out, policy)
    load_store().with_key(TrustedKey("lab", pair.key, "2026-11-26")).save()
    trust = verify_weights(assess_pair(header, out, policy).trust)
    assert (trust.signed, trust.companions["adapter"].signed, trust.warns) == (
        "by-adapter",
        "signed",
        False,
    )
    assert "lab signed" in trust.lines()[0]
    # The base alone is as unsigned as before, and may still be run alone.
    assert assess_pair(header, None, Policy()).trust.signed == "unsigned"
