"""Every bad input: a message to act on, an exit code, no traceback, no output left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing import programs
from safetensors.numpy import load_file, save_file

from pedsup.files.fsio import partial_path


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return programs.run("pedsup_export", *arguments, env={**os.environ, **environment})


@pytest.fixture
def base(models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models["llama"], tmp_path / "base"))


@pytest.fixture
def adapter(adapters: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapters["llama"], tmp_path / "adapter"))


def refused(out: Path, *words: str, code: int | None = None, **options: object) -> None:
    arguments = [x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", v)]
    done = run("run", "--out", out, *arguments)
    assert done.returncode not in (0, -signal.SIGSEGV)
    if code is not None:
        assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr, done.stderr
    assert not out.exists()
    assert not out.with_name(out.name + ".manifest.json").exists()


def test_truncated_weights(base: Path, tmp_path: Path) -> None:
    weights = base / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    refused(tmp_path / "m.gguf", "truncated", "model.safetensors", code=3, base=base)


def test_header_of_a_lying_size(base: Path, tmp_path: Path) -> None:
    with (base / "model.safetensors").open("r+b") as file:
        file.write((1 << 60).to_bytes(8, "little"))
    refused(tmp_path / "m.gguf", "header of 1152921504606846976 bytes", code=3, base=base)


def test_index_naming_a_missing_shard(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(tmp_path / "m.gguf", "model-00002-of-00002.safetensors", code=3, base=base)


@pytest.mark.slow
def test_adapter_of_another_model(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    refused(tmp_path / "m.gguf", "another model", code=5, base=base, adapter=adapters["e4b"])


def test_adapter_with_nan(base: Path, adapter: Path, tmp_path: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(n for n in tensors if "layers.2.mlp.up_proj.lora_B" in n)
    tensors[name][0, 0] = np.nan
    save_file(tensors, adapter / "adapter_model.safetensors")
    refused(tmp_path / "m.gguf", name, "NaN", code=3, base=base, adapter=adapter)


def test_half_of_a_pair_missing(base: Path, adapter: Path, tmp_path: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(n for n in tensors if "layers.1.self_attn.q_proj.lora_A" in n)
    del tensors[name]
    save_file(tensors, adapter / "adapter_model.safetensors")
    refused(tmp_path / "m.gguf", "layers.1.self_attn.q_proj", code=3, base=base, adapter=adapter)


def test_unknown_dtype(base: Path, tmp_path: Path) -> None:
    weights = base / "model.safetensors"
    data = weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"F32"', b'"X32"', 1)
    weights.write_bytes(data[:8] + header + data[8 + size :])
    refused(tmp_path / "m.gguf", "unknown dtype 'X32'", code=3, base=base)


def test_unknown_architecture(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    config["architectures"] = ["Qwen9ForCausalLM"]
    (base / "config.json").write_text(json.dumps(config))
    refused(tmp_path / "m.gguf", "Qwen9ForCausalLM", "Gemma4ForCausalLM", "LlamaForCausalLM",
            code=4, base=base)  # fmt: skip


def test_config_that_does_not_fit_the_weights(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    config["intermediate_size"] = 1024
    (base / "config.json").write_text(json.dumps(config))
    refused(tmp_path / "m.gguf", "has the shape", "by config.json", code=5, base=base)


def test_a_layer_missing(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.3.mlp.down_proj.weight"]
    save_file(tensors, base / "model.safetensors")
    refused(tmp_path / "m.gguf", "blk.3.ffn_down.weight", code=3, base=base)


def test_a_tensor_that_has_no_place(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mystery.weight"] = np.zeros((4, 4), np.float32)
    save_file(tensors, base / "model.safetensors")
    refused(tmp_path / "m.gguf", "model.layers.0.mystery.weight", code=4, base=base)


def test_weights_with_nan(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.3.mlp.down_proj.weight"][5, 7] = np.inf
    save_file(tensors, base / "model.safetensors")
    refused(tmp_path / "m.gguf", "blk.3.ffn_down.weight", "row 5, column 7", code=3, base=base)


def test_tokenizer_missing(base: Path, tmp_path: Path) -> None:
    (base / "tokenizer.json").unlink()
    refused(tmp_path / "m.gguf", "tokenizer.json", code=3, base=base)


@pytest.mark.slow
def test_output_exists(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    assert run("run", "--base", base, "--out", out).returncode == 0
    old = out.read_bytes()
    done = run("run", "--base", base, "--out", out, "--quant", "Q8_0")
    assert done.returncode == 6
    assert "--force" in done.stderr
    assert out.read_bytes() == old
    assert run("run", "--base", base, "--out", out, "--quant", "Q8_0", "--force").returncode == 0
    assert out.read_bytes() != old


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thresholds": __file__}, "--thresholds has no effect without --gate"),
        ({"adapter_revision": "v1"}, "--adapter-revision has no effect without --adapter"),
        ({"revision": "v1"}, "the revision 'v1' is asked for of a folder"),
        ({"tensor_type": "ffn_down"}, "'ffn_down=' names no tensor type"),
    ],
)
def test_an_option_without_effect_is_refused(
    base: Path, tmp_path: Path, options: dict[str, object], words: str
) -> None:
    refused(tmp_path / "m.gguf", words, "do:", code=2, base=base, **options)


def test_an_output_that_is_a_folder(base: Path, tmp_path: Path) -> None:
    done = run("run", "--base", base, "--out", tmp_path, "--force")
    assert done.returncode == 6
    assert f"--out {tmp_path / 'model.gguf'}" in done.stderr


def test_a_dry_run_tells_of_an_existing_output(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_bytes(b"mine")
    done = run("run", "--base", base, "--out", out, "--dry-run")
    assert done.returncode == 0
    assert f"note: {out} exists" in done.stderr
    assert out.read_bytes() == b"mine"
    assert "token_embd.weight" not in done.stdout
    verbose = run("run", "--base", base, "--out", out, "--dry-run", "-v").stdout
    assert verbose.endswith(done.stdout) and "token_embd.weight" in verbose


def test_unknown_quantization(base: Path, tmp_path: Path) -> None:
    refused(tmp_path / "m.gguf", "Q4_K_M", code=2, base=base, quant="Q4_X")


def test_output_folder_is_a_file(base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("run", "--base", base, "--out", tmp_path / "file" / "m.gguf")
    assert done.returncode == 6
    assert "Traceback" not in done.stderr


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a file system: run as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_output_folder_not_writable(base: Path, tmp_path: Path) -> None:
    """A read-only file system: permissions alone would not stop root."""
    with mounted(tmp_path / "locked", "ro,size=4m") as folder:
        refused(folder / "m.gguf", "not writable", code=6, base=base)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with mounted(tmp_path / "disk", "size=4m") as folder:
        yield folder


def test_disk_too_small_is_seen_before_the_first_byte(base: Path, small_disk: Path) -> None:
    refused(small_disk / "m.gguf", "free", code=7, base=base)
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
def test_disk_full_while_writing(base: Path, small_disk: Path) -> None:
    """Another program fills the disk after the check (made so by switching the check off)."""
    old = small_disk / "m.gguf"
    made = small_disk.parent / "made.gguf"
    assert run("run", "--base", base, "--out", made, "--quant", "Q2_K").returncode == 0
    shutil.copy(made, old)
    content = old.read_bytes()
    code = (
        "import sys; from pedsup_export.write import output; output.SPARE = -(1 << 40);"
        "from pedsup_export.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--base", base, "--out", old, "--quant", "F32",
         "--force"], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 7
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert old.read_bytes() == content


def start_and_kill(base: Path, out: Path, n_lines: int) -> None:
    """Start an export and kill it when its journal has `n_lines` lines."""
    journal = out.with_name(f".{out.name}.partial.journal")
    process = subprocess.Popen(
        [sys.executable, "-m", "pedsup_export", "run", "--base", base, "--out", out, "--force",
         "--quant", "IQ4_XS", "--threads", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None:
        if journal.exists() and journal.read_text().count("\n") >= n_lines:
            process.kill()
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL, "the export ended before it could be killed"


@pytest.mark.slow
def test_killed_in_mid_write_and_gone_on(models: dict[str, Path], tmp_path: Path) -> None:
    """SIGKILL at several moments: the old file stays, the next run goes on to the same bytes."""
    base, out = models["e2b"], tmp_path / "m.gguf"
    fresh = tmp_path / "fresh.gguf"
    assert run("run", "--base", base, "--out", fresh, "--quant", "IQ4_XS").returncode == 0
    assert run("run", "--base", base, "--out", out, "--quant", "Q8_0").returncode == 0
    manifest = out.with_name(out.name + ".manifest.json")
    old = out.read_bytes(), manifest.read_bytes()
    for n_lines in (1, 2, 20, 60):
        start_and_kill(base, out, n_lines)
        assert (out.read_bytes(), manifest.read_bytes()) == old
    # A torn line and damaged bytes behind the journal's back are found, too.
    partial = out.with_name(f".{out.name}.partial")
    with partial.open("r+b") as file:
        file.seek(partial.stat().st_size // 2)
        file.write(b"damage")
    done = run("run", "--base", base, "--out", out, "--quant", "IQ4_XS", "--force")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == fresh.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fresh.gguf", "fresh.gguf.manifest.json", "m.gguf", "m.gguf.manifest.json",
    ]  # fmt: skip


def test_two_exports_to_one_output(base: Path, tmp_path: Path) -> None:
    """The second one refuses while the first one holds the partial file."""
    import fcntl

    out = tmp_path / "m.gguf"
    with partial_path(out).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run("run", "--base", base, "--out", out)
    assert done.returncode == 6
    assert "another process is writing this output" in done.stderr


def test_verify_names_the_damaged_tensor(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    assert run("run", "--base", base, "--out", out).returncode == 0
    data = bytearray(out.read_bytes())
    data[-5] ^= 1
    out.write_bytes(data)
    done = run("verify", out)
    assert done.returncode == 10
    assert "tensor 'blk.3.ffn_up.weight' differs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_verify_with_the_manifest_of_another_file(base: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "a.gguf", tmp_path / "b.gguf"
    assert run("run", "--base", base, "--out", one).returncode == 0
    assert run("run", "--base", base, "--out", two, "--quant", "Q8_0").returncode == 0
    shutil.copy(f"{one}.manifest.json", f"{two}.manifest.json")
    done = run("verify", two)
    assert done.returncode == 10
    assert "belongs to another file" in done.stderr
