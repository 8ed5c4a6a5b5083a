"""Gemma 4's chat templates, as llama.cpp ships them."""

from __future__ import annotations

from pathlib import Path

EDGE_CUT = "{%- if not enable_thinking | default(false) -%}"


def large(llama_cpp_source: Path) -> str:
    """Google's of the 31B model."""
    return (llama_cpp_source / "models/templates/google-gemma-4-31B-it.jinja").read_text("utf-8")


def edge(large_template: str) -> str:
    """The same without the empty thought channel, which is what E2B and E4B do.

    Derived: the original could not be had.
    """
    head, tail = large_template.rsplit(EDGE_CUT, 1)
    block, rest = tail.split("{%- endif -%}", 1)
    assert "<channel|>" in block
    return head.rstrip(" ") + rest.lstrip("\n")
