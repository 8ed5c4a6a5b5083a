"""How the next token is drawn: the model's recommendation, and llama.cpp's sampler chain for it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Final

from pedsup.engine.api import SamplingConfig
from pedsup.engine.grammar import to_gbnf
from pedsup.engine.limits import no_number
from pedsup.engine.llama_cpp.bindings import log_tail
from pedsup.errors import UsageError
from pedsup.gguf_file import GGUFHeader
from pedsup.messages import message

PENALTY_WINDOW: Final = 64
"""Tokens that the repeat penalty looks back on: llama.cpp's default."""

_BY_ARCHITECTURE: Final = {
    # generation_config.json of google/gemma-3-4b-it
    "gemma3": SamplingConfig(temperature=1.0, top_k=64, top_p=0.95),
    # https://ai.google.dev/gemma/docs/core/model_card_4 "best practices"
    "gemma4": SamplingConfig(temperature=1.0, top_k=64, top_p=0.95),
    # The usage example of the SmolLM2-135M-Instruct model card: temperature 0.2, top_p 0.9,
    # with transformers' own default of top_k 50.
    "llama": SamplingConfig(temperature=0.2, top_k=50, top_p=0.9),
    # generation_config.json of Qwen/Qwen2.5-1.5B-Instruct and of Qwen/Qwen3-1.7B
    "qwen2": SamplingConfig(temperature=0.7, top_k=20, top_p=0.8, repeat_penalty=1.1),
    "qwen3": SamplingConfig(temperature=0.6, top_k=20, top_p=0.95),
}
_FALLBACK: Final = SamplingConfig(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
"""llama.cpp's own defaults, for a model without recommendations."""

_KEYS: Final = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
}


def recommended_sampling(header: GGUFHeader) -> SamplingConfig:
    """The model's own sampling: `general.sampling.*` in the file, else its family's model card."""
    config = _BY_ARCHITECTURE.get(header.architecture, _FALLBACK)
    for key, field in _KEYS.items():
        value = header.metadata.get(f"general.sampling.{key}")
        # A forged or absent value falls back to the family's: it may be a string or NaN.
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            kind = type(vars(config)[field])
            config = replace(config, **{field: kind(value)})
    return config


def check_sampling(config: SamplingConfig) -> None:
    """Raise `UsageError` for values that no sampler can use."""
    checks = (
        ("temperature", 0 <= config.temperature < math.inf, "0 (greedy) or more"),
        ("top_p", 0 < config.top_p <= 1, "above 0, at most 1"),
        ("min_p", 0 <= config.min_p < 1, "0 or more, below 1"),
        ("repeat_penalty", 0 < config.repeat_penalty < math.inf, "above 0 (1: off)"),
        ("seed", 0 <= config.seed < 1 << 32, "from 0 to 4294967295"),
    )
    for name, good, wanted in checks:
        if not good:
            value = vars(config)[name]
            raise UsageError(
                message("the sampling option {name} is {value}", name=name, value=value),
                wanted=wanted,
            )


class SamplerChain:
    """llama.cpp's samplers for one call of `generate`, in the order of `llama-server`.

    With a grammar, drawing is done as llama.cpp's programs do it: draw freely, keep the token
    if the grammar allows it, and only else apply the grammar to the whole vocabulary (262144
    candidates for Gemma) and draw again. Same distribution, a fraction of the cost.
    """

    def __init__(
        self, lib: ModuleType, vocab: int, config: SamplingConfig, history: Sequence[int]
    ) -> None:
        check_sampling(config)
        self._lib = lib
        self._free: int | None = self._chain(vocab, config, grammar=None)
        self._grammar: int | None = None
        self._strict: int | None = None
        grammar = config.grammar
        if grammar is None and config.json_schema is not None:
            grammar = to_gbnf(config.json_schema)
        if grammar is not None:
            self._grammar = _grammar(lib, vocab, grammar)
            self._strict = self._chain(vocab, config, grammar=self._grammar)
        self._one = (lib.llama_token_data * 1)()
        self._array = lib.llama_token_data_array(
            data=ctypes.cast(self._one, lib.llama_token_data_p), size=1, selected=-1, sorted=False
        )
        for token in history[-PENALTY_WINDOW:] if config.repeat_penalty != 1.0 else ():
            lib.llama_sampler_accept(self._free, token)

    def sample(self, ctx: int, row: int = -1) -> int:
        """Draw from a row of logits of the last batch (-1: its last token), and accept the draw.

        Raises:
            EngineError: the logits are not numbers.
        """
        sample = self._lib.llama_sampler_sample
        token = int(sample(self._free, ctx, row))
        if not math.isfinite(self._lib.llama_get_logits_ith(ctx, row)[token]):
            raise no_number()
        if self._strict is None:
            return token
        if self._allowed(token):
            self._lib.llama_sampler_accept(self._strict, token)
            return token
        return int(sample(self._strict, ctx, row))

    def close(self) -> None:
        """Free the chains (and the grammar, which its chain owns)."""
        for chain in (self._free, self._strict):
            if chain is not None:
                self._lib.llama_sampler_free(chain)
        self._free = self._strict = None

    def _allowed(self, token: int) -> bool:
        self._one[0].id, self._one[0].logit = token, 1.0
        self._array.size, self._array.selected = 1, -1
        self._lib.llama_sampler_apply(self._grammar, ctypes.byref(self._array))
        return math.isfinite(self._one[0].logit)

    def _chain(self, vocab: int, config: SamplingConfig, *, grammar: int | None) -> int:
        lib = self._lib
        chain: int = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        n_vocab = lib.llama_vocab_n_tokens(vocab)
        banned = (*config.banned, *_suppressed(lib, vocab))
        samplers = [grammar] if grammar is not None else []
        if banned:
            biases = (lib.llama_logit_bias * len(banned))(*((t, -math.inf) for t in banned))
            samplers.append(lib.llama_sampler_init_logit_bias(n_vocab, len(banned), biases))
        if config.repeat_penalty != 1.0:
            samplers.append(
                lib.llama_sampler_init_penalties(
                    n_vocab, PENALTY_WINDOW, config.repeat_penalty, 0.0, 0.0
                )
            )
        if config.temperature == 0:
            samplers.append(lib.llama_sampler_init_greedy())
        else:
            # top-k first: what follows then sorts 64 candidates and not 262144.
            samplers += [
                lib.llama_sampler_init_top_k(config.top_k),
                lib.llama_sampler_init_top_p(config.top_p, 1),
                lib.llama_sampler_init_min_p(config.min_p, 1),
                lib.llama_sampler_init_temp(config.temperature),
                lib.llama_sampler_init_dist(config.seed),
            ]
        for sampler in samplers:
            lib.llama_sampler_chain_add(chain, sampler)
        return chain


def _suppressed(lib: ModuleType, vocab: int) -> tuple[int, ...]:
    """Tokens that the model file itself forbids (`tokenizer.ggml.suppress_tokens`)."""
    count = ctypes.c_int32(0)
    tokens = lib.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
    return tuple(tokens[i] for i in range(count.value))


def _grammar(lib: ModuleType, vocab: int, text: str) -> int:
    sampler: int | None = lib.llama_sampler_init_grammar(vocab, text.encode("utf-8"), b"root")
    if not sampler:
        raise UsageError(
            "the grammar cannot be parsed",
            where=log_tail() or None,
            wanted="GBNF with a rule named 'root'",
            remedy="see grammars/README.md of llama.cpp",
        )
    return sampler
