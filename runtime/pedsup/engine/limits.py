"""What either engine refuses before llama.cpp sees it: contexts and prompts that are too long."""

from __future__ import annotations

from collections.abc import Sequence

from pedsup.engine.api import EngineConfig
from pedsup.errors import UsageError


def check_context(config: EngineConfig, n_ctx_train: int) -> None:
    """Refuse a context longer than the one that the model was trained for, in tokens.

    Raises:
        UsageError: it is.
    """
    if config.n_ctx > n_ctx_train:
        raise UsageError(
            f"a context of {config.n_ctx} tokens was asked for",
            where=config.model,
            wanted=f"at most {n_ctx_train}, the model's own",
            remedy=f"give --ctx {n_ctx_train} or less",
        )


def check_prompt(prompt: Sequence[int], n_ctx: int) -> None:
    """Refuse a prompt that is empty or leaves no room for an answer in `n_ctx` tokens.

    Raises:
        UsageError: it is, or does not.
    """
    if not prompt:
        raise UsageError("the prompt is empty", wanted="at least one token")
    if len(prompt) >= n_ctx:
        raise UsageError(
            f"the prompt has {len(prompt)} tokens",
            wanted=f"fewer than the context's {n_ctx}",
            remedy="shorten the text, start a new session, or give a larger --ctx",
        )
