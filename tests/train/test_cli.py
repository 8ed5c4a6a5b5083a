"""The command line in its own process: exit codes, what goes to stdout, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import programs, tiny_models

TORCH = ("torch", "transformers", "peft")


def pedsup_train(
    *arguments: object, preload: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    return programs.run(
        "pedsup_train", *arguments, env={**os.environ, **env}, timeout=500, preload=preload
    )


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.gemma4(tmp_path_factory.mktemp("models") / "gemma4")


def failed(done: subprocess.CompletedProcess[str], code: int, *texts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    for text in texts:
        assert text in done.stderr


def test_help_and_recipes() -> None:
    done = pedsup_train("--help")
    assert done.returncode == 0 and "not a medical device" in done.stdout
    listed = pedsup_train("recipe")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["demo", "v0.1", "v0.2-es"]
    shown = pedsup_train("recipe", "v0.1", "--set", "train.epochs=1")
    assert "epochs = 1.0" in shown.stdout and shown.stderr == ""


def test_usage_errors() -> None:
    failed(pedsup_train("run", "--recipe", "none"), 2, "no recipe 'none'", "demo")
    failed(pedsup_train("run", "--recipe", "dmeo"), 2, "did you mean 'demo'?")
    failed(pedsup_train("run", "--set", "a.b=1"), 2, "unknown key 'a'")
    failed(pedsup_train("run", "--no-such-option"), 2, "--no-such-option")
    failed(pedsup_train("fly"), 2, "fly")


def test_no_base(tmp_path: Path) -> None:
    """Neither torch nor a hub client is imported for that, so no network is tried."""
    code = (
        "import sys\n"
        "from pedsup_train.cli import program\n"
        "from pedsup.errors import BadFileError\n"
        "try:\n"
        "    program(['run', '--recipe', 'demo', '--dry-run'], standalone_mode=False)\n"
        "except BadFileError as error:\n"
        "    heavy = {'torch', 'transformers', 'huggingface_hub', 'httpx'} & sys.modules.keys()\n"
        "    print(error.where, *heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / "out" / "base"), done.stderr
    failed(pedsup_train("run", "--base", tmp_path / "none"), 3, "no such folder", "default-base")


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    """A port where nothing listens: no retries, no text of the library's own."""
    done = pedsup_train("run", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    failed(done, 13, "could not be read from the hub", "default-base")
    assert "Retrying" not in done.stderr and len(done.stderr.splitlines()) == 4


def test_default_base_refuses_to_overwrite(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "x").touch()
    failed(pedsup_train("default-base", "--out", tmp_path / "base"), 6, "not empty", "--force")


@pytest.mark.slow
def test_data_command_reports_bad_rows_by_line(gemma: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"question": f"Q{i}?", "answer": "A professional reviews."} for i in range(4)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"question": "x"}\n')
    sets = [f"data.sources=[{{format='pairs', path='{path}', lang='en'}}]", "data.eval_examples=1"]
    options: list[Any] = ["data", "--recipe", "demo", "--base", gemma]
    for text in sets:
        options += ["--set", text]
    failed(
        pedsup_train(*options, preload=TORCH), 3, "p.jsonl:5: no field 'answer'", "max_bad_rows=1"
    )
    mended = [*options, "--set", "data.max_bad_rows=1"]
    done = pedsup_train(*mended, preload=TORCH)
    assert done.returncode == 0, done.stderr
    assert "bad: p.jsonl:5: no field 'answer'" in done.stderr
    assert "training: 3 examples" in done.stderr and "held out: 1 examples" in done.stderr
    assert done.stdout.count("---- example") == 3
    assert (
        "<|turn>model\n\n---- " in done.stdout and "A professional reviews.<turn|>" in done.stdout
    )
    document = json.loads(pedsup_train(*mended, "--json", preload=TORCH).stdout)
    assert document["sources"][0]["bad_rows"] == ["p.jsonl:5: no field 'answer'"]
    assert document["sources"][0]["bad"] == 1 and document["train_tokens"]["n"] == 3


@pytest.mark.slow
def test_dry_run_prints_the_plan_and_writes_nothing(gemma: Path, tmp_path: Path) -> None:
    done = pedsup_train(
        "run", "--recipe", "demo", "--base", gemma, "--out", tmp_path / "a", "--dry-run",
        "--set", "data.max_length=700", "--gpu-memory", "12GiB", preload=TORCH,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fits a card of 12GiB" in done.stderr and "checkpoints" not in done.stdout
    assert "22 steps of 4 x 1" in done.stderr and "(gemma4_text)" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_run_json_and_two_processes(gemma: Path, tmp_path: Path) -> None:
    """The result is one document on stdout; two processes (gloo), launched with the shipped
    configuration, see twice the tokens."""
    options: list[Any] = ["--recipe", "demo", "--base", gemma, "--json", "--max-steps", "2"]
    for text in ("data.max_length=700", "data.eval_examples=4", "lora.r=4"):
        options += ["--set", text]
    one = pedsup_train("run", *options, "--out", tmp_path / "one", preload=TORCH)
    assert one.returncode == 0, one.stderr
    facts = json.loads(one.stdout)
    assert facts["steps"] == 2 and facts["adapter"] == str(tmp_path / "one")
    two = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch",
         "--config_file", pedsup_train("accelerate-config").stdout.strip(), "--num_processes", "2",
         "-m", "pedsup_train", "run", *map(str, options), "--out", str(tmp_path / "two")],
        capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    both = json.loads(two.stdout)
    assert both["tokens_seen"] > 1.7 * facts["tokens_seen"]
    assert both["eval_loss_before"] == pytest.approx(facts["eval_loss_before"], rel=1e-4)
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two"}


def test_accelerate_config_is_a_file_accelerate_reads() -> None:
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    done = pedsup_train("accelerate-config")
    path = Path(done.stdout.strip())
    assert yaml.safe_load(path.read_text())["distributed_type"] == "MULTI_GPU"
    config = load_config_from_file(str(path))
    assert config.num_processes == 2 and not config.use_cpu
    sharded = load_config_from_file(pedsup_train("accelerate-config", "--fsdp").stdout.strip())
    assert str(sharded.distributed_type).endswith("FSDP") and not sharded.use_cpu
    assert sharded.fsdp_config["fsdp_version"] == 2
    assert sharded.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
