"""The made checkpoint against transformers, PEFT and llama.cpp; measuring against known sizes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing.converter import Converter

from pedsup.errors import EngineError, OutputError, ResourceError
from pedsup_maintain import child_environment
from pedsup_maintain.exporting import peer, report
from pedsup_maintain.exporting.disk_floor import Floor, drop_cache, measure_floor, read_once
from pedsup_maintain.exporting.runs import made_checkpoint as made_checkpoint_in
from pedsup_maintain.exporting.runs import same_tensors
from pedsup_maintain.exporting.steps import vocabulary_file
from pedsup_maintain.exporting.usage import Usage, measure, session_pids
from pedsup_maintain.synthetic import checkpoint
from pedsup_maintain.synthetic.checkpoint import adapter_tensors, write_adapter, write_base
from pedsup_maintain.synthetic.shapes import model_tensors, text_config
from pedsup_maintain.synthetic.sizes import SIZES, model_bytes
from pedsup_maintain.synthetic.tokenizer import vocabulary


@pytest.fixture(autouse=True)
def _children_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", child_environment()["PYTHONPATH"])


MIB = 1 << 20
TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny made base and its adapter."""
    root = tmp_path_factory.mktemp("made")
    write_base(root / "base", TINY)
    write_adapter(root / "adapter", TINY, root / "base")
    return root / "base", root / "adapter"


# ---- the made checkpoint ----------------------------------------------------------------------


@pytest.mark.parametrize("size", list(SIZES))
def test_config_is_what_transformers_saves(size: str, tmp_path: Path) -> None:
    from transformers import Gemma4TextConfig

    mine = text_config(SIZES[size])
    Gemma4TextConfig(**mine).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == mine


@pytest.mark.parametrize(
    "size", [s if s == "tiny" else pytest.param(s, marks=pytest.mark.slow) for s in SIZES]
)
def test_tensors_are_those_of_transformers_and_peft(size: str) -> None:
    """Names and shapes of the whole model and adapter, E4B's true shape too (no memory taken)."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    shape = SIZES[size]
    with torch.device("meta"):
        model = Gemma4ForCausalLM(Gemma4TextConfig(**text_config(shape)))
    theirs = {k: tuple(v.shape) for k, v in model.state_dict().items() if k != "lm_head.weight"}
    assert {t.name: t.shape for t in model_tensors(shape)} == theirs

    pattern = rf".*\.layers\.\d+\.({checkpoint._module_pattern(shape)})"
    wrapped = get_peft_model(model, LoraConfig(r=16, target_modules=pattern))
    halves = get_peft_model_state_dict(wrapped)
    assert dict(adapter_tensors(shape)) == {k: tuple(v.shape) for k, v in halves.items()}


def test_the_large_one_is_e4b() -> None:
    assert model_bytes(SIZES["15GB"]) // 2 == pytest.approx(7.46e9, rel=1e-3)
    assert 1.9e9 < model_bytes(SIZES["2GB"]) < 2.2e9
    assert model_bytes(SIZES["2GB"]) == 2 * sum(t.n_values for t in model_tensors(SIZES["2GB"]))


def test_values_are_bf16_of_a_sensible_size(made: tuple[Path, Path]) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(made[0] / "model.safetensors")
    assert sum(w.numel() for w in weights.values()) * 2 == model_bytes(TINY)
    for name, weight in weights.items():
        assert weight.dtype == torch.bfloat16, name
        values = weight.float()
        if "norm" in name or "scalar" in name:
            assert ((values > 0.89) & (values < 1.11)).all(), name
        else:
            assert values.std().item() == pytest.approx(0.02, rel=0.1), name
            assert abs(values.mean().item()) < 0.001, name
    queries = [weights[f"model.layers.{i}.self_attn.q_proj.weight"] for i in (0, 1)]
    assert not torch.equal(*queries)


def test_rounding_to_bf16_is_torch_s() -> None:
    import torch

    values = np.random.default_rng(0).standard_normal(10_000, dtype=np.float32)
    ties = np.array([0x3F808000, 0x3F818000, 0x3F80C000, 0], np.uint32).view(np.float32)
    values = np.concatenate([values, ties])
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    assert np.array_equal(checkpoint.to_bfloat16(values), theirs)


def test_shards_hold_the_same_tensors(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 3_000_000)
    counted: list[int] = []
    write_base(tmp_path, TINY, on_bytes=counted.append)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(counted) == model_bytes(TINY)
    whole = load_file(made[0] / "model.safetensors")
    assert set(index["weight_map"]) == set(whole)
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    for file in files:
        for name, weight in load_file(tmp_path / file).items():
            assert index["weight_map"][name] == file
            assert torch.equal(weight, whole[name]), name


@pytest.mark.slow
def test_gemma_s_own_vocabulary_is_used_for_the_full_size() -> None:
    if not vocabulary_file().is_file():
        pytest.skip("llama.cpp's vocabulary files are not here: run `make native`")
    real = vocabulary(262144, vocabulary_file())
    assert real.real
    assert (len(real.tokens), len(real.merges)) == (262144, 514906)
    known = set(real.tokens)
    assert all(a in known and b in known and a + b in known for a, b in real.merges)
    assert (real.tokens[2], real.tokens[105], real.tokens[107]) == ("<bos>", "<|turn>", "\n")


@pytest.mark.parametrize("size", [4096, 65536, pytest.param(262144, marks=pytest.mark.slow)])
def test_made_up_vocabulary_is_a_sound_bpe(size: int) -> None:
    made_up = vocabulary(size)
    known = set(made_up.tokens)
    assert not made_up.real
    assert len(made_up.tokens) == len(known) == size
    assert all(a in known and b in known and a + b in known for a, b in made_up.merges)


def test_tokenizer_round_trip(made: tuple[Path, Path]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(made[0] / "tokenizer.json"))
    text = "the child has ¿fiebre? <|turn>"
    ids = tokenizer.encode(text).ids
    assert ids[0] == 2
    assert 105 in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<bos>" + text


@pytest.mark.slow
def test_transformers_and_peft_load_and_merge_it(made: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process of its own, because that is how the benchmark does it."""
    from safetensors.torch import load_file

    subprocess.run(
        [
            sys.executable,
            "-m",
            "pedsup_maintain.exporting.steps",
            "merge",
            *made,
            tmp_path / "merged",
        ],
        check=True,
        capture_output=True,
    )
    base, merged, adapter = (
        load_file(p)
        for p in (made[0] / "model.safetensors", tmp_path / "merged" / "model.safetensors",
                  made[1] / "adapter_model.safetensors")
    )  # fmt: skip
    assert set(merged) == set(base)
    name = "layers.3.mlp.down_proj"
    a, b = (adapter[f"base_model.model.model.{name}.lora_{x}.weight"] for x in "AB")
    wanted = base[f"model.{name}.weight"].float() + 2.0 * b @ a
    got = merged[f"model.{name}.weight"].float()
    assert (got - wanted).abs().max() < 2**-8 * wanted.abs().max()
    changed = {n for n in base if not base[n].equal(merged[n])}
    targets = {k.split(".lora_")[0].removeprefix("base_model.model.") for k in adapter}
    assert changed == {f"{t}.weight" for t in targets}


@pytest.mark.slow
def test_the_official_converter_takes_it(
    made: tuple[Path, Path], converter: Converter, tmp_path: Path
) -> None:
    from pedsup.gguf_file import read_header

    out = converter(made[0], tmp_path / "made.gguf", "bf16")
    header = read_header(out)
    assert header.architecture == "gemma4"
    assert len(header.tensors) == len(model_tensors(TINY)) + 1  # and the rope factors
    assert len(header.metadata["tokenizer.ggml.tokens"]) == TINY.vocab
    assert same_tensors(out, out)


# ---- measuring --------------------------------------------------------------------------------


def run_python(code: str, tmp_path: Path, **options: object) -> Usage:
    return measure([sys.executable, "-c", code], log=tmp_path / "log", **options)  # type: ignore[arg-type]


def test_a_known_allocation_is_seen(tmp_path: Path) -> None:
    code = "import time\nx = bytearray(b'x') * (200 << 20)\ntime.sleep(0.6)"
    usage = run_python(code, tmp_path)
    assert 200 * MIB < usage.peak_anon < 225 * MIB
    assert usage.peak_anon <= usage.peak_total
    assert 0.6 < usage.wall < 30
    assert usage.n_samples > 3


def test_cpu_time_is_that_of_the_command(tmp_path: Path) -> None:
    code = "import time\nwhile time.process_time() < 0.8: pass"
    assert 0.75 < run_python(code, tmp_path).cpu < 2
    assert run_python("import time\ntime.sleep(0.5)", tmp_path).cpu < 0.5


def test_a_grandchild_counts_too(tmp_path: Path) -> None:
    inner = "import time\nx = bytearray(b'x') * (100 << 20)\ntime.sleep(1.2)"
    code = (
        "import subprocess, sys, time\nx = bytearray(b'x') * (100 << 20)\n"
        f"subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    )
    usage = run_python(code, tmp_path)
    assert 200 * MIB < usage.peak_anon < 245 * MIB


def test_mapped_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(bytes(150 * MIB))
    code = (
        f"import mmap, time\nf = open({str(path)!r}, 'rb')\n"
        "m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "s = sum(m[::4096])\ntime.sleep(0.6)"
    )
    usage = run_python(code, tmp_path)
    assert usage.peak_anon < 40 * MIB
    assert usage.peak_total > 150 * MIB


def test_a_temporary_file_is_seen_though_it_is_gone_at_the_end(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    path = watched / "deep" / "temporary"
    code = (
        f"import os, pathlib, time\np = pathlib.Path({str(path)!r})\np.parent.mkdir()\n"
        "with p.open('wb') as f:\n    f.write(os.urandom(20 << 20))\n    os.fsync(f.fileno())\n"
        "time.sleep(1)\np.unlink()"
    )
    usage = run_python(code, tmp_path, watch=[watched])
    assert 20 * MIB <= usage.peak_disk < 21 * MIB
    assert usage.end_disk == 0


def test_a_failure_says_what_the_command_said(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no such luck") as caught:
        run_python("print('no such luck'); raise SystemExit(3)", tmp_path)
    assert "exit code 3" in caught.value.found
    with pytest.raises(EngineError, match="SIGKILL"):
        run_python("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", tmp_path)


def test_nothing_outlives_the_measurement(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import os, pathlib, subprocess\np = subprocess.Popen(['sleep', '300'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(p.pid) + ' ' + str(os.getsid(0)))"
    )
    run_python(code, tmp_path)
    left, session = map(int, pid_file.read_text().split())
    deadline = time.monotonic() + 5
    while left in set(session_pids(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    state = Path(f"/proc/{left}/stat")
    assert not state.exists() or " Z " in state.read_text()


# ---- floor and page cache ---------------------------------------------------------------------


def cached(path: Path) -> bool:
    """Whether the first page of a file is in the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(4096)], 0, os.RWF_NOWAIT) == 4096
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def test_inputs_leave_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "input"
    path.parent.mkdir()
    path.write_bytes(os.urandom(MIB))
    try:
        assert cached(path)
    except OSError:
        pytest.skip("this file system cannot say what is cached: use ext4 or xfs for TMPDIR")
    drop_cache([tmp_path], "none")
    assert cached(path)
    drop_cache([tmp_path], "inputs")
    assert not cached(path)


def test_floor_counts_every_byte(tmp_path: Path) -> None:
    sizes = (0, 1, 4096, 17 * MIB + 5, 32 * MIB)
    (tmp_path / "in").mkdir()
    for i, size in enumerate(sizes):
        (tmp_path / "in" / str(i)).write_bytes(os.urandom(size))
    assert read_once([tmp_path / "in"])[1] == sum(sizes)
    floor = measure_floor([tmp_path / "in"], tmp_path, 18 * MIB + 7)
    assert floor.write_bytes == 18 * MIB + 7
    assert floor.wall == floor.read_s + floor.write_s > 0
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


# ---- arithmetic -------------------------------------------------------------------------------

USAGE = Usage(
    wall=10.0, cpu=20.0, peak_anon=400, peak_total=600, peak_disk=1000, end_disk=300, read=7,
    written=900, n_samples=9,
)  # fmt: skip


def comparison() -> report.Comparison:
    steps = (
        report.StepResult("merge", USAGE, 0),
        report.StepResult(
            "quantize", replace(USAGE, wall=30.0, peak_anon=200, peak_disk=2300), 300
        ),
    )
    ours = [
        report.Run((report.StepResult("run", replace(USAGE, wall=w, peak_anon=100), 1000),))
        for w in (4.0, 5.0, 9.0)
    ]
    floor = Floor(read_s=1.5, read_bytes=1, write_s=1.0, write_bytes=2, direct=True)
    return report.Comparison(
        "tiny", {"parameters": 1e9, "bytes": 2e9}, "Q4_K_M", 2, "inputs", {},
        (report.Run(steps),), tuple(ours), (floor,),
    )  # fmt: skip


def test_totals_and_ratios() -> None:
    found = comparison()
    total = report.combine(found.peer)
    assert (total.wall, total.peak_anon, total.peak_total) == (40.0, 400, 600)
    assert (total.cpu, total.temp_disk, total.written) == (40.0, 2000, 1800)
    ours = report.combine(found.ours)
    assert (ours.wall, ours.temp_disk) == (5.0, 0)
    assert report.ratios(found) == {
        "wall": 0.125, "cpu": 0.5, "peak_anon": 0.25, "peak_total": 1.0, "temp_disk": 0.0,
        "written": 0.5, "wall_over_floor": 2.0,
    }  # fmt: skip


def test_one_side_alone_has_no_ratio_to_the_other() -> None:
    assert report.ratios(replace(comparison(), peer=())) == {"wall_over_floor": 2.0}
    assert report.ratios(replace(comparison(), ours=())) == {}


def test_text_and_json_carry_the_figures() -> None:
    text = report.to_text(comparison())
    assert "wall time 0.125" in text
    assert "peer in all" in text
    assert "ours / floor: wall time 2.00" in text
    document = json.loads(json.dumps(report.to_json(comparison())))
    assert document["ratios"]["peak_anon"] == 0.25
    assert document["peer"]["total"]["wall"] == 40.0
    assert document["ours"]["runs"][2][0]["usage"]["wall"] == 9.0
    assert document["peer"]["runs"][0][1]["temp_disk"] == 2000


def test_space_is_checked_first(tmp_path: Path) -> None:
    wanted = peer.needed_bytes(SIZES["15GB"], ("peer", "ours"), made=False)
    assert 55e9 < wanted < 62e9
    with pytest.raises(ResourceError, match="free"):
        peer.check_space(tmp_path, 1 << 60)


def test_a_checkpoint_of_another_size_is_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    made_checkpoint_in(folder, "tiny")
    before = sorted(p.name for p in folder.rglob("*"))
    with pytest.raises(OutputError, match="size 2GB"):
        made_checkpoint_in(folder, "2GB")
    assert sorted(p.name for p in folder.rglob("*")) == before
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


# ---- the whole --------------------------------------------------------------------------------


def bench(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "pedsup_maintain.exporting.peer", "--size", "tiny", *arguments]


@pytest.mark.slow
def test_both_sides_on_the_tiny_checkpoint(llama_cpp_source: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    done = subprocess.run(
        bench("--json", "--work-dir", work), check=True, capture_output=True, text=True
    )
    document = json.loads(done.stdout)
    assert document["same_tensors"] is True
    assert len(document["peer"]["runs"][0]) == 3
    assert len(document["ours"]["runs"][0]) == 1
    model = document["made"]["bytes"]
    assert document["peer"]["total"]["temp_disk"] > 1.8 * model
    assert document["ours"]["total"]["temp_disk"] < 0.1 * model
    assert set(document["ratios"]) >= {"wall", "peak_anon", "peak_total", "temp_disk"}
    assert list(work.iterdir()) == []


@pytest.mark.slow
def test_memory_mode_and_a_kept_checkpoint(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = bench("--only", "ours", "--json", "--work-dir", tmp_path, "--checkpoint", made)
    first, second = (
        subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(2)
    )
    assert "using the checkpoint" not in first.stderr
    assert "using the checkpoint" in second.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    command = bench("--memory", "--sizes", "tiny,tiny", "--json", "--work-dir", tmp_path)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    runs = json.loads(done.stdout)["runs"]
    assert [r["size"] for r in runs] == ["tiny", "tiny"]
    assert all(0 < r["peak_anon"] < r["peak_total"] for r in runs)


ENDLESS = """import os, sys, time
open(os.environ["MARK"] + ".new", "w").write(str(os.getpid()))
os.rename(os.environ["MARK"] + ".new", os.environ["MARK"])
time.sleep(600)
"""
"""A converter that says that it runs, and does so until it is ended."""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(sent: signal.Signals, tmp_path: Path) -> None:
    native, work, mark = tmp_path / "native", tmp_path / "work", tmp_path / "mark"
    (native / "src").mkdir(parents=True)
    (native / "src/convert_hf_to_gguf.py").write_text(ENDLESS)
    process = subprocess.Popen(
        bench("--work-dir", work), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PEDSUP_NATIVE": str(native), "MARK": str(mark)},
        # A shell's background job has SIGINT ignored, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not mark.exists():  # the test's own time limit ends a run that does not come so far
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert list(work.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
