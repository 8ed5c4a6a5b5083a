"""Training killed, or on a failing disk, at its writes: the next run gives the same weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from pedsup_testing import faults, tiny_models

STRIDE = int(os.environ.get("PEDSUP_FAULT_STRIDE", "23"))
"""Each point trains twice. All points: PEDSUP_FAULT_STRIDE=1 (about half an hour)."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: apt install gcc")
def test_the_next_run_gives_the_unbroken_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="pip install 'pedsup[train]'")
    base = tiny_models.llama(tmp_path / "base", num_hidden_layers=2)
    data = tmp_path / "pairs.jsonl"
    rows = [{"question": f"child {i}?", "answer": "Ask a professional.", "lang": "en", "id": str(i)}
            for i in range(8)]  # fmt: skip
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [f"model.base={json.dumps(str(base))}",
            f"data.sources=[{{format='pairs', path={json.dumps(str(data))}}}]",
            "data.eval_examples=0", "data.max_length=96", "train.max_steps=3",
            "train.save_every=1", "lora.r=4", "lora.alpha=8",
            "lora.dropout=0.05", "lora.targets=['q_proj']"]  # fmt: skip
    (tmp_path / "sweep").mkdir()
    config = {"root": str(tmp_path / "sweep"), "sets": json.dumps(sets), "stride": str(STRIDE)}
    driver = Path(__file__).with_name("fault_driver.py")
    report = faults.drive(driver, config, faults.build(tmp_path), 560 if STRIDE > 10 else 6000)[
        "training"
    ]
    print(report)
    for kind in faults.KINDS:
        assert report["tried"][kind] > 100 / STRIDE
    assert report["ends"]["kill"]["killed"] == report["tried"]["kill"]
