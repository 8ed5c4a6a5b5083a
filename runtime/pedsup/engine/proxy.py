"""An engine that adds something to another one; all else is the other's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias, cast

from pedsup.engine.api import Engine, SamplingConfig, Token

Tokens: TypeAlias = Generator[Token, None, None]
PassOn: TypeAlias = Callable[[Tokens, int], Tokens]
"""The tokens of one call, and the length of its prompt, to the tokens as the reader gets them."""


def passed_on(
    engine: Engine, pass_on: PassOn, on_close: Callable[[], object] = lambda: None
) -> Engine:
    """An engine whose tokens are passed on by `pass_on`; all else is the engine's own.

    Args:
        on_close: called when the engine is closed.
    """
    return cast("Engine", _Proxy(engine, pass_on, on_close))


class _Proxy:
    def __init__(self, inner: Engine, pass_on: PassOn, on_close: Callable[[], object]) -> None:
        self._inner, self._pass_on, self._on_close = inner, pass_on, on_close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def generate(self, prompt: Sequence[int], sampling: SamplingConfig, **how: Any) -> Tokens:
        tokens = self._inner.generate(prompt, sampling, **how)
        try:
            yield from self._pass_on(tokens, len(prompt))
        finally:
            tokens.close()

    def close(self) -> None:
        self._on_close()
        self._inner.close()


def checked(check: Callable[[], None]) -> PassOn:
    """Ask before each token whether it may go on; `check` raises to end the answer."""

    def pass_on(tokens: Tokens, _n_prompt: int) -> Tokens:
        check()
        for token in tokens:
            check()
            yield token

    return pass_on
