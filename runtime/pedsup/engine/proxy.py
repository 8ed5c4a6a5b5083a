"""An engine that adds something to another one; all else is the other's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

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


class EngineProxy:
    """Passes everything on to `inner`."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner

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
    ) -> Generator[Token, None, None]:
        tokens = self.inner.generate(
            prompt, sampling, max_tokens=max_tokens, keep=keep, on_prompt=on_prompt
        )
        try:
            yield from self.passed_on(tokens, len(prompt))
        finally:
            tokens.close()

    def passed_on(
        self, tokens: Generator[Token, None, None], n_prompt: int
    ) -> Generator[Token, None, None]:
        """The tokens of one call as the reader gets them."""
        del n_prompt
        yield from tokens

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
        self.inner.close()


class CheckedEngine(EngineProxy):
    """Asks before each token whether it may go on.

    Args:
        check: raises to end the answer.
        on_close: called when the engine is closed.
    """

    def __init__(
        self, inner: Engine, check: Callable[[], None], on_close: Callable[[], object]
    ) -> None:
        super().__init__(inner)
        self._check, self._on_close = check, on_close

    def passed_on(
        self, tokens: Generator[Token, None, None], n_prompt: int
    ) -> Generator[Token, None, None]:
        del n_prompt
        self._check()
        for token in tokens:
            self._check()
            yield token

    def close(self) -> None:
        self._on_close()
        super().close()
