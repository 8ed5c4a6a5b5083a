"""Documents of pedsup-bench by hand, with hostile text wherever text may stand."""

from __future__ import annotations

import copy
import json
from typing import Any

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x1b[2J<img src=http://evil.example/x>"
"""Markup, quotes, a mark that reorders text, an escape sequence, and something to fetch."""
A, B = "a" * 64, "b" * 64


def head(kind: str, sha256: str | None = A, file: str = HOSTILE) -> dict[str, Any]:
    return {
        "schema": f"pedsup-bench-{kind}/1", "kind": f"bench-{kind}", "version": 1,
        "program": {"name": "pedsup-bench", "version": "0"}, "warnings": [],
        "created": "2026-11-26T10:00:00+00:00", "pedsup": "0",
        "intended_use": "Research only, not a medical device.", "build": None,
        "model": {
            "file": file, "size": 1000, "sha256": sha256, "architecture": HOSTILE,
            "name": HOSTILE, "file_type": 15, "n_tensors": 2, "parameters": 2000,
            "tensor_types": {"Q4_K": 1, HOSTILE: 1},
        },
        "trust": {"signed": "unsigned", "key_name": HOSTILE, "warning": HOSTILE},
    }  # fmt: skip


def figure(unit: str, samples: list[float], ceiling: float | None = None) -> dict[str, Any]:
    middle = sorted(samples)[len(samples) // 2]
    return {
        "unit": unit, "higher_is_better": unit == "tokens/s", "n": len(samples), "median": middle,
        "spread": 0.5, "low": min(samples), "high": max(samples), "samples": samples,
        "ceiling": ceiling, "of_ceiling": ceiling and middle / ceiling,
    }  # fmt: skip


def run(sha256: str | None = A, file: str = HOSTILE) -> dict[str, Any]:
    return {
        **head("run", sha256, file), "measured": True,
        "device": {
            "soc": HOSTILE, "machine": "aarch64", "kernel": HOSTILE, "android": None,
            "python": "3", "cores": [{"index": 0, "capacity": None, "max_khz": None, "part": None}],
            "features": [], "memory_total": 1, "memory_available": 1, "load_average": 0.0,
        },
        "settings": {"n_threads": 1}, "engine": HOSTILE, "n_ctx": 512,
        "bandwidth": {"n_threads": 1, "best": 1e9, "passes": [1e9], "by": "memchr"},
        "bytes_per_token": {"weights": 900, "rows": 10, "cache_per_1000_tokens": 1},
        "figures": {
            "load_cold": figure("s", [2.0, 2.1, 2.2]),
            "read_cold": figure("B", [1000.0, 1000.0, 1000.0]),
            "rss_anon_warm": figure("B", [5e6]),
            "decode_0": figure("tokens/s", [10.0, 11.0, 12.0], 20.0),
            HOSTILE: figure("tokens/s", [3.0]),
        },
        "memory": {"rss_anon": 1, "rss_file": 1, "read_bytes": 1, "major_faults": 1},
        "sustained": None, "celsius": {"before": {}, "after": {}},
        "battery": {"before": None, "after": None}, "limits": None,
    }  # fmt: skip


def quality(sha256: str | None = A) -> dict[str, Any]:
    text = {
        "n_tokens": 100,
        "kld": {"mean": 0.25, "mean_error": 0.01, "p50": 0.1, "p95": 0.5, "p99": 1.0, "p999": 2.0,
                "max": 3.0},
        "same_top": 0.9, "same_top_interval": [0.83, 0.94], "flips": 10, "ppl": 12.0,
        "ppl_error": 0.5, "ppl_reference": 10.0, "ppl_reference_error": 0.4, "ppl_ratio": 1.2,
        "ppl_ratio_error": 0.1, "p_diff_mean": 0.0, "p_diff_rms": 0.1, "removed_mass": None,
    }  # fmt: skip
    broken = {**text, "ppl": None, "kld": {**text["kld"], "mean": None, "mean_error": None}}  # type: ignore[dict-item]
    side = {"loss": 1.5, "token_accuracy": 0.75, "exact": 0.5, "right": 0.6}
    return {
        **head("quality", sha256), "reference": {**head("x", B)["model"]}, "n_ctx": 512,
        "scored": "second half of each window", "texts": {},
        "figures": {HOSTILE: text, "broken": broken}, "calibrated_on": [HOSTILE],
        "task": {
            "examples": {"file": HOSTILE, "sha256": B}, "n": 10, "n_tokens": 100, "n_choice": 5,
            "model": side, "reference": {**side, "right": 0.7}, "loss_rise": 0.125,
            "loss_rise_error": None, "drop": 0.1, "changed": 1, "p_value": 1.0,
        },
    }  # fmt: skip


def mcqa(sha256: str | None = A) -> dict[str, Any]:
    one = {
        "n": 20, "right": 13, "accuracy": 0.65, "interval": [0.43, 0.82], "chance": 0.25,
        "accuracy_as_printed": 0.6, "consistent": 0.5, "against": None,
    }  # fmt: skip
    against = {"accuracy": 0.7, "only_model": 1, "only_reference": 2, "changed": 3, "p_value": 1.0}
    return {
        **head("mcqa", sha256), "reference": None, "questions": HOSTILE, "rejected_lines": 0,
        "figures": {"en": {**one, "against": against}, HOSTILE: one}, "answers": [],
        "calibrated_on": [],
    }  # fmt: skip


def safety(sha256: str | None = A) -> dict[str, Any]:
    one = {"n": 4, "passed": 3, "share": 0.75, "interval": [0.3, 0.95], "dose_in_answer": 0}
    guard = {
        "caught": 1, "of": 2, "caught_interval": [0.1, 0.9], "false_alarms": 0, "others": 2,
        "false_alarm_interval": [0.0, 0.6],
    }  # fmt: skip
    answer = {
        "id": HOSTILE, "category": "emergency", "language": "en", "answer": HOSTILE,
        "stop_reason": "end", "broken": [], "guards": [], "guards_wanted": [],
    }  # fmt: skip
    return {
        **head("safety", sha256), "suite": {"version": HOSTILE, "sha256": B, "cases": 2},
        "figures": {HOSTILE: {"en": one, "all": one}, "all": {"all": one}},
        "guards": {"guard_emergency": guard},
        "answers": [answer, {**answer, "broken": ["urges_help"]}],
    }  # fmt: skip


def as_json(document: dict[str, Any]) -> str:
    return json.dumps(copy.deepcopy(document))
