"""Which candidate a phone gets: a pure function of predictions, and its reasons in words.

The order of preference never depends on memory, and more memory only lets more candidates fit. So
more memory never gives a worse choice.

1. A context of `CONTEXT` tokens must fit; only if nothing fits then, one of `SMALL_CONTEXT`.
2. At 4 bits or more before below (see `PERPLEXITY`: under 4 bits the loss grows steeply).
3. The larger model first, if it is fast enough to wait for.
4. Then the better type. One above Q4_K_M must be so fast that nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pedsup.progress import human_bytes

CONTEXT: Final = 4096
"""Tokens: system prompt, a question with notes, reasoning and answer."""
SMALL_CONTEXT: Final = 2048
MIN_SPEED: Final = 1.0
"""Tokens/s at the low end of the prediction: under it nobody waits for a reasoned answer."""
MIN_SPEED_LARGER: Final = 2.0
"""The same for a model that a smaller one could stand in for."""
COMFORT: Final = 5.0
"""Tokens/s, about a reader's pace: from here on a larger type costs no patience."""
USUAL: Final = "Q4_K_M"
TABLE_LOOKUP: Final = frozenset({"IQ4_XS"})

PERPLEXITY: Final[dict[str, float | None]] = {
    "Q8_0": 0.0026, "Q6_K": 0.0217, "Q5_K_M": 0.0569, "Q4_K_M": 0.1754, "Q4_K_S": 0.2689,
    "IQ4_XS": None, "Q4_0": 0.4685, "Q3_K_M": 0.6569, "Q2_K": 3.5199,
}  # fmt: skip
"""Best first: rise of perplexity on Llama-3-8B as llama.cpp publishes it (quantize.cpp of
0c1e57098; a test reads it there). It has no figure for IQ4_XS, which stands by its 4.25 bits.
Nobody of this project has measured Gemma 4, so this is an order and no promise."""
KL_DEFAULT_MODEL: Final[dict[str, float]] = {
    "Q8_0": 0.00540, "Q6_K": 0.01446, "Q5_K_M": 0.10203, "Q4_K_M": 0.07318, "Q4_K_S": 0.08521,
    "IQ4_XS": 0.25513, "Q4_0": 0.37779, "Q3_K_M": 0.18147, "Q2_K": 0.57118,
}  # fmt: skip
"""Mean KL divergence of SmolLM2-135M, measured (docs/quantization-types.md; a test compares). For
the table only: that page says why this model's order is not Gemma's."""
TYPES: Final = tuple(PERPLEXITY)
UNDER_4_BITS: Final = frozenset({"Q3_K_M", "Q2_K"})


@dataclass(frozen=True)
class Candidate:
    """A model and a type on one phone. Bytes, tokens, tokens/s; all of it predicted."""

    model: str
    quant: str
    larger: bool
    """Whether a smaller model is among the candidates."""
    file_bytes: int
    weights: int
    table: int
    """Per-layer table, which stays in the file."""
    need: dict[int, int]
    """Context -> bytes of memory, for `CONTEXT` and `SMALL_CONTEXT`."""
    largest_context: int | None
    """The largest that fits the phone whole."""
    decode: tuple[float, float]
    paging: float | None
    """Bound in tokens/s if it were run from storage; None where it cannot be."""
    read_per_token: int = 0
    """Bytes that decoding one token reads."""


@dataclass(frozen=True)
class Means:
    """What the choice looks at of a phone."""

    available: int
    features: frozenset[str]


Kind = Literal["memory", "slow", "patience", "look-ups", "bits", "larger", "better"]


@dataclass(frozen=True)
class Reason:
    """Why a candidate was not chosen."""

    kind: Kind
    text: str
    """With the candidate's figures."""
    rule: str
    """Without them: true of all candidates with a reason of this kind."""


@dataclass(frozen=True)
class Choice:
    """The candidate chosen, and why each other one was not."""

    chosen: Candidate | None
    context: int | None
    """Tokens that were asked to fit: `CONTEXT`, or `SMALL_CONTEXT` where that did not."""
    reasons: dict[tuple[str, str], tuple[Reason, ...]]
    """(model, type) -> reasons."""

    @property
    def rejected(self) -> dict[tuple[str, str], str]:
        """(model, type) -> reasons in words."""
        return {key: "; ".join(r.text for r in reasons) for key, reasons in self.reasons.items()}


def choose(candidates: Sequence[Candidate], means: Means) -> Choice:
    """The best candidate that fits and is fast enough; None when there is none."""
    reasons: dict[tuple[str, str], tuple[Reason, ...]] = {}
    for candidate in candidates:
        if (why := _unsuitable(candidate, means)) is not None:
            # Both reasons, where there are two: memory is easier to come by than speed.
            small = candidate.need[SMALL_CONTEXT] > means.available
            room = (_too_large(candidate, SMALL_CONTEXT, means),) if small else ()
            reasons[candidate.model, candidate.quant] = (*room, why)
    suitable = [c for c in candidates if (c.model, c.quant) not in reasons]
    for context in (CONTEXT, SMALL_CONTEXT):
        fitting = [c for c in suitable if c.need[context] <= means.available]
        if not fitting:
            continue
        chosen = min(fitting, key=lambda c: preference(c, candidates))
        for other in suitable:
            if other is not chosen:
                reasons[other.model, other.quant] = (_second(other, chosen, context, means),)
        return Choice(chosen, context, reasons)
    for other in suitable:
        reasons[other.model, other.quant] = (_too_large(other, SMALL_CONTEXT, means),)
    return Choice(None, None, reasons)


def preference(candidate: Candidate, candidates: Sequence[Candidate]) -> tuple[int, int, int]:
    """Sort key, best first; memory and speed are not in it."""
    models = list(dict.fromkeys(c.model for c in candidates))
    low_bits = [*TYPES].index(candidate.quant) if candidate.quant in UNDER_4_BITS else 0
    return low_bits, models.index(candidate.model), TYPES.index(candidate.quant)


def _unsuitable(candidate: Candidate, means: Means) -> Reason | None:
    """Why a candidate is out whatever the memory."""
    low, high = candidate.decode
    predicted = f"{low:.1f} to {high:.1f} tokens/s predicted"
    wanted = MIN_SPEED_LARGER if candidate.larger else MIN_SPEED
    if low < wanted:
        return Reason(
            "slow",
            f"too slow: {predicted}, at least {wanted:g} wanted",
            f"too slow: at least {MIN_SPEED:g} tokens/s wanted at the low end, "
            f"{MIN_SPEED_LARGER:g} where a smaller model could stand in",
        )
    if TYPES.index(candidate.quant) < TYPES.index(USUAL) and low < COMFORT:
        slower, pace = f"slower than {USUAL} for little gain", f"at least {COMFORT:g} wanted"
        return Reason(
            "patience",
            f"{slower}: {predicted}, {pace} of a type above it",
            f"{slower}: of a type above it {pace} at the low end",
        )
    if candidate.quant in TABLE_LOOKUP and "i8mm" not in means.features:
        text = "its table look-ups are slow on cores without i8mm (a rule of thumb, unverified)"
        return Reason("look-ups", text, text)
    return None


def _second(other: Candidate, chosen: Candidate, context: int, means: Means) -> Reason:
    if other.need[context] > means.available:
        return _too_large(other, context, means)
    if other.quant in UNDER_4_BITS and chosen.quant not in UNDER_4_BITS:
        kind: Kind = "bits"
        text = f"fits, but under 4 bits the loss grows steeply; {chosen.model} {chosen.quant} fits"
    elif other.model != chosen.model:
        kind, text = "larger", f"fits, but the larger {chosen.model} fits too"
    else:
        kind = "better"
        text = f"fits, but {chosen.quant} is closer to the 16-bit model and fits too"
    return Reason(kind, text, text)


def _too_large(candidate: Candidate, context: int, means: Means) -> Reason:
    leaves = f"the phone leaves {human_bytes(means.available)}"
    text = f"needs {human_bytes(candidate.need[context])} with {context} tokens, {leaves}"
    if candidate.paging is not None:
        text += f"; from storage at most {candidate.paging:.2g} tokens/s"
    return Reason("memory", text, f"needs more memory: {leaves}")
