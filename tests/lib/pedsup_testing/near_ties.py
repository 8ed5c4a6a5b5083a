"""The same text from two computations that round otherwise: equal up to a near tie, no further.

Another processor, number of threads or batch size adds up in another order. Where two tokens are
nearly as likely, either may be drawn then, and all that follows is another text. What must hold
on any machine is that the scores agree within rounding: `rows` reads them, `distance` compares
them, and `bound` says how far apart they may be.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pedsup.engine.api import SamplingConfig
from pedsup.engine.llama_cpp.inprocess import InProcessEngine
from pedsup.engine.sampler import PENALTY_WINDOW

GREEDY = SamplingConfig(temperature=0)
HALF_STEP = 2.0**-8
"""The matrix products round their inputs to 8 bits: relative to a block's largest, half a step."""
PRODUCTS = 7
"""Matrix products of a layer."""


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """How far two rows of scores are apart: the standard deviation of their difference over that
    of the scores. What moves all scores alike (softmax does not see it) does not count."""
    return float((found - wanted).std() / wanted.std())


def bound(engine: InProcessEngine) -> float:
    """The largest `distance` that rounding explains.

    A sum in another order is another float16 or float32, and now and then that lies beyond the
    border to the next 8-bit step: at worst an error of half a step in each matrix product. They
    are independent and add like a random walk; twice its standard deviation. (SmolLM2, 30 layers,
    two threads beside one, up to 730 tokens: 0.049 at most; this: 0.113. One other token 40
    places back: 0.22 to 0.78.)
    """
    n_layers = engine._lib.llama_model_n_layer(engine._loaded.native.model)
    return 2 * math.sqrt(PRODUCTS * n_layers) * HALF_STEP


def row_of(engine: InProcessEngine, index: int = -1) -> np.ndarray:
    """Scores (float32, one per token of the vocabulary) of a row of the last batch, copied."""
    address = ctypes.cast(engine._lib.llama_get_logits_ith(engine._ctx, index), ctypes.c_void_p)
    raw = ctypes.string_at(address.value or 0, 4 * engine.info.n_vocab)
    return np.frombuffer(raw, np.float32)


def rows(
    engine: InProcessEngine,
    prompt: Sequence[int],
    tokens: Sequence[int],
    before: Callable[[int], object] = lambda n: None,
) -> list[np.ndarray]:
    """Scores from which each of `tokens` is drawn after `prompt`, the text read one by one.

    `before` is called with 0, 1, ... before each token is read.
    """
    found = []
    for n in range(len(tokens)):
        before(n)
        for _ in engine.generate([*prompt, *tokens[:n]], GREEDY, max_tokens=1):
            pass
        found.append(row_of(engine))
    return found


def require_same_text(
    engine: InProcessEngine,
    prompt: Sequence[int],
    found: Sequence[int],
    wanted: Sequence[int],
    sampling: SamplingConfig = GREEDY,
) -> None:
    """`found` is `wanted`, or leaves it where rounding decides; `engine` gives the scores.

    Greedy: the two scores are nearer than three standard deviations of what rounding explains.
    With a temperature both are drawn by one random number from the candidates in order of score:
    they are neighbours in that order, or had one between them.
    """
    found, wanted = list(found), list(wanted)
    if found == wanted:
        return
    n = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
        min(len(found), len(wanted)),
    )
    text = [*prompt, *wanted[:n]]
    for _ in engine.generate(text, GREEDY, max_tokens=1):
        pass
    raw = row_of(engine)
    slack = 3 * math.sqrt(2) * bound(engine) * float(raw.std())
    row = _penalized(raw, text, sampling)
    a, b = (_score(engine, row, tokens, n) for tokens in (found, wanted))
    low, high = sorted((a, b))
    between = int(((row > low + slack) & (row < high - slack)).sum())
    told = f"token {n}: {found[n : n + 3]} for {wanted[n : n + 3]}, scores {a:.4g} and {b:.4g}"
    if sampling.temperature:
        assert between <= 1, f"{told}, {between} tokens between them"
    else:
        assert high - low < slack, f"{told}, rounding explains {slack:.2g}"


def _score(engine: InProcessEngine, row: np.ndarray, tokens: Sequence[int], n: int) -> float:
    """The score of the token at `n`, or of the best end of generation if the text ended there."""
    if n < len(tokens):
        return float(row[tokens[n]])
    return float(max(row[token] for token in engine.info.end_of_generation))


def _penalized(row: np.ndarray, text: Sequence[int], sampling: SamplingConfig) -> np.ndarray:
    """Scores as the sampler sees them: tokens banned, repeated ones made less likely."""
    seen: Any = row.copy()
    recent = list(set(text[-PENALTY_WINDOW:]))
    if sampling.repeat_penalty != 1.0:
        part = seen[recent]
        seen[recent] = np.where(part > 0, part / sampling.repeat_penalty,
                                part * sampling.repeat_penalty)  # fmt: skip
    seen[list(sampling.banned)] = -np.inf
    return np.asarray(seen)
