"""`make frontier`: the files it makes and judges, its table and its plot."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import tiny_models

from pedsup_maintain import frontier

ROOT = Path(__file__).parents[2]


def point(series: str, label: str, size: int, kl: float) -> dict[str, Any]:
    figures = {"kld": {"mean": kl}, "same_top": 0.95, "n_tokens": 2040}
    other = {**figures, "kld": {"mean": 2 * kl}}
    return {"series": series, "label": label, "size": size, "predicted_kl": None,
            "figures": {"en": figures, "es": other}}  # fmt: skip


RESULT = {
    "base": "tiny <model>",
    "calibrated_on": {"tokens": 1024, "texts": ["x"]},
    "judged_on": {"en": "0" * 64, "es": "1" * 64},
    "points": [
        point(frontier.PLAIN, "Q4_K_M", 21_536_480, 0.03),
        point(frontier.PLAIN, "Q3_K_M", 19_234_528, 0.08),
        point(frontier.BUDGET, "Q4_K_M", 21_536_480, 0.0076),
    ],
}


def test_the_table_has_a_row_for_each_file_the_largest_first() -> None:
    rows = [line for line in frontier.markdown(RESULT).splitlines() if line.startswith("| `")]
    assert rows == [
        "| `llama-quantize` | Q4_K_M | 21 536 480 | 0.0300, 5.0% | 0.0600, 5.0% |",
        "| `--calibrated --budget` | Q4_K_M | 21 536 480 | 0.0076, 5.0% | 0.0152, 5.0% |",
        "| `llama-quantize` | Q3_K_M | 19 234 528 | 0.0800, 5.0% | 0.1600, 5.0% |",
    ]


def test_the_plot_shows_each_file_on_each_text_and_smaller_kl_lower() -> None:
    root = ElementTree.fromstring(frontier.plot(RESULT))
    space = "{http://www.w3.org/2000/svg}"
    circles = [c for c in root.iter(f"{space}circle") if c.get("r") == "3.5"]
    assert len(circles) == 2 * len(RESULT["points"])
    colour = frontier.SERIES
    height = {(c.get("fill"), float(c.get("cx") or 0)): float(c.get("cy") or 0) for c in circles}
    plain = min(y for (fill, _), y in height.items() if fill == colour[frontier.PLAIN])
    budget = max(y for (fill, _), y in height.items() if fill == colour[frontier.BUDGET])
    assert plain < budget  # SVG counts downwards
    said = [t.text for t in root.iter(f"{space}text")]
    assert {*frontier.SERIES} <= {*said} and "en: mean KL (nats) by size (MB)" in said


@pytest.mark.slow
def test_files_are_made_of_one_merge_and_judged_against_it(
    tmp_path: Path, native_tool: Any
) -> None:
    native_tool("llama-quantize")
    base = tiny_models.gemma4(tmp_path / "base")
    words = [w for s in tiny_models.TEXT.split(". ") for w in s.split()]
    for name, seed in (("mine", 1), ("en", 2), ("es", 3)):
        text = " ".join(random.Random(seed).choices(words, k=3000))
        (tmp_path / f"{name}.txt").write_text(text)
    out = tmp_path / "out"
    run = [
        sys.executable, "-m", "pedsup_maintain.frontier", "--base", base, "--folder", out,
        "--calibrate-on", tmp_path / "mine.txt", "--judge-on", f"en={tmp_path / 'en.txt'}",
        "--judge-on", f"es={tmp_path / 'es.txt'}", "--types", "Q4_K_M", "--windows", "4",
        "--chunks", "1", "--threads", "1", "--out", out / "result.json", "--plot", out / "plot.svg",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, run)), capture_output=True, text=True, cwd=ROOT / "tools", check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((out / "result.json").read_text("utf-8"))
    by_series = {p["series"]: p for p in found["points"] if p["label"] == "Q4_K_M"}
    assert by_series.keys() == frontier.SERIES.keys() and len(found["points"]) == 6
    sizes = {p["size"] for p in by_series.values()}
    # A matrix that is never quantized has here the F32 of the base, there the BF16 of the merge.
    assert max(sizes) <= 1.05 * min(sizes)
    plain = by_series[frontier.PLAIN]["figures"]["en"]
    assert plain["kld"]["mean"] > 0 and plain["n_tokens"] == 255
    assert by_series[frontier.BUDGET]["predicted_kl"] > 0
    ElementTree.parse(out / "plot.svg")
