"""What either engine refuses before llama.cpp sees it: contexts and prompts that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pedsup.errors import EngineError, UnsupportedError, UsageError
from pedsup.messages import message

NO_PROGRAMS: Final = b"/dev/null"
"""Where llama.cpp is to look for ffmpeg: nowhere. It would start it, from the PATH, on the bytes of
a picture that its own decoder refuses."""


def check_context(n_ctx: int, n_ctx_train: int, model: Path) -> None:
    """Raise `UsageError` for a context longer than what `model` was trained for, in tokens."""
    if n_ctx > n_ctx_train:
        raise UsageError(
            message("a context of {n} tokens was asked for", n=n_ctx),
            where=model,
            wanted=message("at most {n}, which the model was trained for", n=n_ctx_train),
            remedy=message("give --ctx {n} or less", n=n_ctx_train),
        )


def check_prompt(prompt: Sequence[int], n_ctx: int) -> None:
    """Raise `UsageError` for a prompt that is empty or leaves no room for an answer in `n_ctx`."""
    if not prompt:
        raise UsageError("the prompt is empty", wanted="at least one token")
    if prompt[-1] < 0:
        raise UsageError("the prompt ends with a picture", wanted="a text after it")
    if len(prompt) >= n_ctx:
        raise UsageError(
            message("the prompt has {n} tokens", n=len(prompt)),
            wanted=message("fewer than the context's {n}", n=n_ctx),
            remedy="shorten the text, start a new session, or give a larger --ctx",
        )


def no_number() -> EngineError:
    """The error for logits that are not numbers: no sampler of llama.cpp looks at that."""
    return EngineError(
        "what the model computed for the next word is not a number",
        wanted="a model whose weights are all numbers",
        remedy="the file is damaged, or its training failed: compare its SHA-256, "
        "or use another model",
    )


def cannot_see() -> UnsupportedError:
    """The error for a picture that is given to a model without a projector."""
    return UnsupportedError(
        "this model runs without a projector and cannot see pictures",
        wanted="its projector: mmproj-MODEL.gguf beside MODEL.gguf, or --mmproj FILE",
        remedy="export the model with --mmproj auto, or ask without a picture",
    )
