"""The GPU record in its small form on the CPU: real cells in real processes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pedsup_maintain import child_environment
from pedsup_maintain.training.gpu_cell import (
    SHAPES,
    Cell,
    cell_recipe,
    gemma4_config,
    measure,
    random_examples,
    rates,
    save_random,
)
from pedsup_maintain.training.gpu_record import markdown, run_cell


def test_rates_by_hand() -> None:
    """Steps 4 to 6 are timed, from the end of step 3: 6 s and 300 tokens."""
    ends = [9.0, 10.0, 11.0, 13.0, 15.0, 17.0]
    history = [
        {"loss": 1.0, "elapsed_s": end, "num_input_tokens_seen": 100 * (i + 1)}
        for i, end in enumerate(ends)
    ]
    found = rates([{"eval_loss": 1.0}, *history])
    assert found == {
        "timed_steps": 3, "steps_per_s": 0.5, "tokens_per_s": 50.0, "median_step_s": 2.0,
        "slowest_step_s": 2.0, "first_step_s": 9.0, "step_s": [9.0, 1.0, 1.0, 2.0, 2.0, 2.0],
    }  # fmt: skip
    with pytest.raises(ValueError, match="3 steps"):
        rates(history[:3])


def test_a_cell_is_recipe_v01() -> None:
    recipe = cell_recipe(Cell("e4b", "nf4", "transformers", 13))
    assert (recipe.train.batch_size, recipe.train.accumulation, recipe.lora.r) == (4, 4, 16)
    assert recipe.model.quantization == "nf4" and recipe.train.optimizer == "adamw_8bit"
    assert recipe.data.max_length == 768 and recipe.train.gradient_checkpointing


def test_random_examples_have_the_lengths_of_the_original_run() -> None:
    lengths = [len(e.input_ids) for e in random_examples(2000, max_length=768, vocab=262144)]
    assert max(lengths) <= 768 and 415 < sum(lengths) / len(lengths) < 447


@pytest.mark.slow
def test_e4b_has_the_published_size() -> None:
    """Counted without memory for weights: 7.46 B parameters."""
    import torch
    from transformers import AutoModelForCausalLM

    from pedsup_train.model.targets import plan_targets

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(gemma4_config(SHAPES["e4b"]))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(7.46e9, rel=0.002)
    plan = plan_targets(
        model, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
    assert len(plan.names) == 42 * 7 - 18 * 2


@pytest.mark.slow
def test_a_failing_cell_is_a_result() -> None:
    result = run_cell(Cell("/no/such/base", "bf16", "transformers", 4), timeout=120)
    assert "could not be read" in result["error"] and result["model"] == "/no/such/base"
    assert "could not be read" in markdown([result])


@pytest.mark.slow
def test_a_cell_that_takes_too_long_says_where_it_stood() -> None:
    endless = Cell("tiny", "fp32", "transformers", 10**6, max_length=24)
    # Long enough for a busy machine to begin to import torch.
    result = run_cell(endless, timeout=20)
    assert result["error"] == "longer than 20 s"
    assert result["stages"][0] == "cell: importing"
    assert "stack of MainThread:" in result["stderr"], "five seconds before the end"
    assert "training/gpu_cell.py" in result["stderr"]
    assert "longer than 20 s" in markdown([result])


@pytest.mark.slow
def test_a_random_model_on_disk_gives_the_cell_of_one_in_memory(tmp_path: Path) -> None:
    """What both backends load where unsloth is installed."""
    save_random("tiny", tmp_path / "tiny")
    sizes = {"batch_size": 1, "accumulation": 1, "max_length": 16}
    cell = Cell("tiny", "fp32", "transformers", 4, **sizes)
    folder = dataclasses.replace(cell, folder=str(tmp_path / "tiny"))
    made, loaded = measure(cell), measure(folder)
    assert loaded["trained_parameters"] == made["trained_parameters"] > 0
    assert loaded["weights_bytes"] == made["weights_bytes"]


@pytest.mark.slow
def test_small_record_on_the_cpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pedsup_maintain.training.gpu_record", "--model", "tiny",
         "--precision", "fp32", "--precision", "nf4", "--steps", "4",
         "--max-length", "24", "--batch-size", "2",
         "--accumulation", "2", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=500,
        env={**child_environment(), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "gpu-record.json").read_text())
    assert [c["precision"] for c in document["cells"]] == ["fp32", "nf4"]
    full, packed = document["cells"]
    assert all(c["steps_per_s"] > 0 and c["tokens_per_s"] > 0 for c in document["cells"])
    assert packed["weights_bytes"] < 0.6 * full["weights_bytes"]
    assert "transformers" in document["machine"]["versions"]
    assert done.stdout == (tmp_path / "gpu-record.md").read_text()
    assert len(done.stdout.splitlines()) == 4
