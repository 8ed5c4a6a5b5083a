"""Figures of a text from the figures of its tokens, with llama.cpp's formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pedsup_bench.quality.divergence import Float64, TokenFigures
from pedsup_bench.stats import wilson_interval

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}


@dataclass(frozen=True)
class Divergence:
    """KL divergence in nats; `mean_error` is the standard error of the mean."""

    mean: float
    mean_error: float
    p50: float
    p95: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class QualityFigures:
    """All figures of one text (or of all together)."""

    n_tokens: int
    kld: Divergence
    same_top: float
    """Share of positions where both models' most probable token is the same."""
    same_top_interval: tuple[float, float]
    """Wilson's 95 % interval."""
    flips: int
    """Positions where it is not."""
    ppl: float
    ppl_error: float
    ppl_reference: float
    ppl_reference_error: float
    ppl_ratio: float
    ppl_ratio_error: float
    p_diff_mean: float
    p_diff_rms: float
    removed_mass: float | None
    """Mean probability that the reference gave to tokens that were cut; None if not known."""


def summarize(tokens: TokenFigures) -> QualityFigures:
    """Summarize at least two tokens."""
    n = len(tokens)
    kld_mean, kld_error = _mean_and_error(tokens.kld)
    nll, nll_error = _mean_and_error(tokens.nll)
    ref, ref_error = _mean_and_error(tokens.nll_ref)
    ratio, ratio_error = _mean_and_error(tokens.nll - tokens.nll_ref)
    same = int(tokens.same.sum())
    quantiles = np.quantile(tokens.kld, list(PERCENTILES.values())).tolist()
    return QualityFigures(
        n_tokens=n,
        kld=Divergence(
            kld_mean, kld_error, **dict(zip(PERCENTILES, quantiles, strict=True)),
            max=float(tokens.kld.max()),
        ),
        same_top=same / n,
        same_top_interval=wilson_interval(same, n),
        flips=n - same,
        ppl=float(np.exp(nll)),
        ppl_error=float(np.exp(nll)) * nll_error,
        ppl_reference=float(np.exp(ref)),
        ppl_reference_error=float(np.exp(ref)) * ref_error,
        ppl_ratio=float(np.exp(ratio)),
        ppl_ratio_error=float(np.exp(ratio)) * ratio_error,
        p_diff_mean=float(tokens.p_diff.mean()),
        p_diff_rms=float(np.sqrt(np.mean(tokens.p_diff**2))),
        removed_mass=float(tokens.removed.mean()) if (tokens.removed >= 0).all() else None,
    )  # fmt: skip


def _mean_and_error(values: Float64) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / np.sqrt(max(1, len(values) - 1)))
