"""An `Engine` that writes what a script says: for tests of what happens around the model."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pedsup.engine.api import (
    GenerationStats,
    ModelInfo,
    PromptProgress,
    SamplingConfig,
    Token,
)
from pedsup.engine.picture_ids import picture_id
from pedsup.engine.vector_units import Build
from pedsup.pictures.picture import Picture

SPECIALS = (
    "<eos>", "<bos>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>", "<unused49>",
)  # fmt: skip
END = "<turn|>"
_SPLIT = re.compile("|".join(re.escape(s) for s in SPECIALS) + "|.", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """One call of `generate` as the engine saw it."""

    prompt: str
    sampling: SamplingConfig
    max_tokens: int
    keep: int | None


@dataclass
class FakeEngine:
    """Characters are tokens, `SPECIALS` are one token each.

    `script` holds one list of pieces per call of `generate`. A piece is text, or bytes for
    something that is no whole character; `END` (or the list's end) ends the call.
    """

    script: list[list[str | bytes]]
    n_ctx: int = 4096
    calls: list[Call] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    name: str = "fake"
    build: Build | None = None
    fail_after: int | None = None
    restartable: bool = False
    restarts: int = 0
    adjustable: bool = False
    child_pid: int | None = None
    can_see: bool = False

    def __post_init__(self) -> None:
        self.last_stats = GenerationStats(0, 0, 0, 0.0, 0.0)
        self.shown: dict[int, bytes] = {}
        self._ids: dict[bytes, int] = {s.encode(): i for i, s in enumerate(SPECIALS)}
        self._pieces = [s.encode() for s in SPECIALS]
        ends = frozenset({self._id(b"<eos>"), self._id(END.encode())})
        self.info = ModelInfo("gemma4", 1000, 4096, 1, 0, ends, None)

    def _id(self, piece: bytes) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._ids[piece]

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return [self._id(part.encode()) for part in _SPLIT.findall(text)]

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, for assertions; a picture is `[SHA-256, its first eight digits]`."""
        pieces = (self.shown[t] if t < 0 else self.piece(t) for t in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def see(self, picture: Picture) -> list[int]:
        found = picture_id(picture)
        self.shown[found] = f"[{picture.sha256[:8]}]".encode()
        return [found]

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        *,
        max_tokens: int,
        keep: int | None = None,
        on_prompt: PromptProgress | None = None,
    ) -> Generator[Token, None, None]:
        self.calls.append(Call(self.text(prompt), sampling, max_tokens, keep))
        self.cached = list(prompt)
        self.last_stats = GenerationStats(len(prompt), 0, 0, 0.0, 0.0)
        pieces = self.script.pop(0) if self.script else []
        for n, piece in enumerate(pieces[:max_tokens]):
            token = self._id(piece if isinstance(piece, bytes) else piece.encode())
            if token in sampling.banned:
                continue
            if token in self.info.end_of_generation:
                return
            if self.fail_after is not None and n >= self.fail_after:
                raise KeyboardInterrupt
            self.cached.append(token)
            yield Token(token, self.piece(token))

    def save_state(self, path: Path) -> None:
        raise NotImplementedError

    def load_state(self, path: Path) -> list[int]:
        raise NotImplementedError

    def restart(self) -> None:
        self.restarts += 1

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass
