"""An engine that adds something to another one; all else is the other's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeAlias

from pedsup.engine.api import (
    Engine,
    GenerationStats,
    ModelInfo,
    PromptProgress,
    SamplingConfig,
    Token,
)
from pedsup.engine.vector_units import Build
from pedsup.pictures.picture import Picture

Tokens: TypeAlias = Generator[Token, None, None]
PassOn: TypeAlias = Callable[[Tokens, int], Tokens]
"""The tokens of one call, and the length of its prompt, to the tokens as the reader gets them."""


class EngineProxy:
    """Another engine whose tokens are passed on by `pass_on`; all else is its own.

    Args:
        on_close: called when the engine is closed.
    """

    def __init__(
        self, inner: Engine, pass_on: PassOn, on_close: Callable[[], object] = lambda: None
    ) -> None:
        self.inner = inner
        self._pass_on, self._on_close = pass_on, on_close

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def build(self) -> Build | None:
        return self.inner.build

    @property
    def info(self) -> ModelInfo:
        return self.inner.info

    @property
    def n_ctx(self) -> int:
        return self.inner.n_ctx

    @property
    def cached(self) -> Sequence[int]:
        return self.inner.cached

    @property
    def last_stats(self) -> GenerationStats:
        return self.inner.last_stats

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return self.inner.tokenize(text, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        return self.inner.piece(token)

    @property
    def can_see(self) -> bool:
        return self.inner.can_see

    def see(self, picture: Picture) -> list[int]:
        return self.inner.see(picture)

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        *,
        max_tokens: int,
        keep: int | None = None,
        on_prompt: PromptProgress | None = None,
    ) -> Tokens:
        tokens = self.inner.generate(
            prompt, sampling, max_tokens=max_tokens, keep=keep, on_prompt=on_prompt
        )
        try:
            yield from self._pass_on(tokens, len(prompt))
        finally:
            tokens.close()

    def save_state(self, path: Path) -> None:
        self.inner.save_state(path)

    def load_state(self, path: Path) -> list[int]:
        return self.inner.load_state(path)

    @property
    def restartable(self) -> bool:
        return self.inner.restartable

    def restart(self) -> None:
        self.inner.restart()

    @property
    def adjustable(self) -> bool:
        return self.inner.adjustable

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        self.inner.set_threads(n_threads, n_threads_batch)

    @property
    def child_pid(self) -> int | None:
        return self.inner.child_pid

    def close(self) -> None:
        self._on_close()
        self.inner.close()


def checked(check: Callable[[], None]) -> PassOn:
    """Ask before each token whether it may go on; `check` raises to end the answer."""

    def pass_on(tokens: Tokens, _n_prompt: int) -> Tokens:
        check()
        for token in tokens:
            check()
            yield token

    return pass_on
