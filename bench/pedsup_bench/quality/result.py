"""The document of `pedsup-bench quality` as JSON, as far as a page shows it.

A figure that was not a number when it was measured is None.
"""

from __future__ import annotations

from typing import Final, TypedDict

from pedsup_bench.report.document import ModelFacts, Shown

SCHEMA: Final = "pedsup-bench-quality/1"


class DivergenceFacts(TypedDict):
    """KL divergence in nats per token; `mean_error` is one standard error."""

    mean: float | None
    mean_error: float | None
    p99: float | None
    max: float | None


class _Text(TypedDict):
    n_tokens: int
    kld: DivergenceFacts
    same_top: float
    same_top_interval: tuple[float, float]
    flips: int
    ppl: float | None
    ppl_error: float | None
    ppl_reference: float | None
    ppl_reference_error: float | None
    ppl_ratio: float | None


class TextFigures(_Text, total=False):
    """One text."""

    removed_mass: float | None
    """Not in the documents of older versions."""


class _Quality(Shown):
    figures: dict[str, TextFigures]
    n_ctx: int


class QualityFacts(_Quality, total=False):
    """The whole document without the trained task: see `pedsup_bench.task.result`."""

    reference: ModelFacts | None
    calibrated_on: list[str]
