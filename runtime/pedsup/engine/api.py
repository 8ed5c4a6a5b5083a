"""What a session asks of an engine, whichever one runs the model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from pedsup.engine.vector_units import Build
from pedsup.gguf_file.projector import DEFAULT_TOKENS
from pedsup.pictures.picture import Picture

DEFAULT_DRAFT_MAX: Final = 6
"""Tokens drafted at once. With the token before them that is a batch of 7: from 8 on, llama.cpp's
processor code multiplies K-quants by another kernel, which rounds otherwise (seen on x86)."""


@dataclass(frozen=True)
class DraftConfig:
    """Speculative decoding: who proposes the next tokens, and at most how many."""

    kind: Literal["off", "lookup", "model"] = "off"
    """'lookup' copies what followed the last tokens earlier in the text; 'model' asks a model."""
    model: Path | None = None
    """The draft model's GGUF, for the kind 'model'."""
    n_max: int = DEFAULT_DRAFT_MAX

    @property
    def n_rows(self) -> int:
        """Rows of logits that one call of llama.cpp may have to give."""
        return 1 if self.kind == "off" else 1 + self.n_max


@dataclass(frozen=True)
class EngineConfig:
    """How to load a model. Sizes are in tokens, threads are threads of llama.cpp."""

    model: Path
    n_ctx: int = 4096
    n_batch: int = 512
    n_ubatch: int = 512
    n_threads: int = 2
    n_threads_batch: int = 2
    cpus: frozenset[int] | None = None
    """Cores to stay on (None: leave the affinity mask as it is)."""
    use_mmap: bool = True
    extra_buffers: bool = False
    """llama.cpp's extra buffer types: AMX on x86, weight repack on ARM."""
    draft: DraftConfig = DraftConfig()
    resident: int | None = None
    """Bytes of the mapped file that fit into memory, if not all do (see `engine.streaming`)."""
    adapter: Path | None = None
    """The GGUF of a LoRA adapter to apply."""
    projector: Path | None = None
    """The GGUF with the towers through which the model sees pictures."""
    picture_tokens: int = DEFAULT_TOKENS
    """Tokens that a picture may take where its size decides (Gemma 4)."""


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn; temperature 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int = 0
    grammar: str | None = None
    """GBNF, constraining from the first generated token of this call."""
    json_schema: str | None = None
    """A JSON schema as text, constraining likewise; not together with `grammar`."""
    banned: tuple[int, ...] = ()
    """Token ids that may not be drawn in this call."""


class Token(NamedTuple):
    """One generated token: its id and the bytes it stands for (maybe part of a UTF-8 character)."""

    id: int
    piece: bytes


@dataclass(frozen=True)
class ModelInfo:
    """What the loaded model says of itself."""

    architecture: str
    n_vocab: int
    n_ctx_train: int
    bos: int
    eos: int
    end_of_generation: frozenset[int]
    chat_template: str | None


@dataclass(frozen=True)
class DraftStats:
    """What drafts came to; sums with `+` over calls of `generate`."""

    n_drafted: int = 0
    n_accepted: int = 0
    """Drafted tokens that the model itself drew, each one a pass over the weights saved."""

    @property
    def acceptance(self) -> float | None:
        """Accepted of drafted, None when nothing was drafted."""
        return self.n_accepted / self.n_drafted if self.n_drafted else None

    def __add__(self, other: DraftStats) -> DraftStats:
        return DraftStats(self.n_drafted + other.n_drafted, self.n_accepted + other.n_accepted)


NO_DRAFTS: Final = DraftStats()


@dataclass(frozen=True)
class GenerationStats:
    """Counts and seconds of the last `generate`, as measured by the engine."""

    n_prompt: int
    n_cached: int
    """Prompt tokens that were already in the cache and not read again."""
    n_generated: int
    prompt_s: float
    decode_s: float
    drafts: DraftStats = NO_DRAFTS
    n_pictures: int = 0
    """Of the prompt tokens that were read, those of pictures."""
    pictures_s: float = 0.0
    """Of `prompt_s`, what looking at pictures and reading them took; 0 where it is not told."""


PromptProgress = Callable[[int, int], None]
"""Called while a prompt is read, with the tokens read so far and the tokens to read."""


class Engine(Protocol):
    """A loaded model. Not safe for use from two threads at once."""

    @property
    def name(self) -> str:
        """Engine and version, e.g. 'llama-cpp-python 0.3.36'."""

    @property
    def build(self) -> Build | None:
        """How its llama.cpp was built, beside this processor; None where that is not told."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def n_ctx(self) -> int:
        """The context in tokens, as granted (llama.cpp rounds what was asked for)."""

    @property
    def cached(self) -> Sequence[int]:
        """The tokens whose state is in the cache now; a prompt that starts so is not re-read."""

    @property
    def last_stats(self) -> GenerationStats: ...

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of `text` without an added bos; special tokens are recognised if asked for."""

    def piece(self, token: int) -> bytes:
        """The bytes of one token, special tokens rendered as their text."""

    @property
    def can_see(self) -> bool:
        """Whether it takes pictures."""

    def see(self, picture: Picture) -> list[int]:
        """What stands for a picture in a prompt: tokens, and negative ids, one for each embedding.

        The ids follow from the picture's content (`pedsup.engine.picture_ids`), so that prompts
        with the same picture begin alike. The picture is looked at when it is read.

        Raises:
            UnsupportedError: there is no projector.
            BadFileError: the picture cannot be decoded.
        """

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        *,
        max_tokens: int,
        keep: int | None = None,
        on_prompt: PromptProgress | None = None,
    ) -> Generator[Token, None, None]:
        """Generate after `prompt` (the whole conversation), reusing the cached common prefix.

        `keep` says how many leading tokens the next prompt will surely share (default: all of
        them): the engine stays able to return to that point, sliding-window layers included.

        Ends before an end-of-generation token, at `max_tokens` (0 reads the prompt and no
        more), when the context is full, or when the consumer closes the iterator. Of the tokens
        yielded, all but perhaps the last are in the cache for the next call.

        Raises:
            UsageError: the prompt is longer than the context.
            EngineError: llama.cpp refused or died; what was yielded before stays valid.
        """

    def save_state(self, path: Path) -> None:
        """Write the cached tokens and their state to `path` (atomically)."""

    def load_state(self, path: Path) -> list[int]:
        """Restore a state; the tokens it covers. Raises `BadFileError` if it does not fit."""

    @property
    def restartable(self) -> bool:
        """Whether the engine can be brought back when it died (a child process can)."""

    def restart(self) -> None:
        """Bring a dead engine back, with an empty cache; one that lives is left alone.

        Raises:
            EngineError: it died again, or it cannot be brought back.
        """

    @property
    def adjustable(self) -> bool:
        """Whether threads can be changed after loading (a `llama-server`'s cannot)."""

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        """Use fewer threads than it was loaded with, from the next step on, or those again.

        Args:
            n_threads: for decoding.
            n_threads_batch: for prompts, the same unless given.

        Raises:
            EngineError: the engine is not adjustable.
        """

    @property
    def child_pid(self) -> int | None:
        """The process that holds the model; None where it is this one."""

    def close(self) -> None:
        """Free the model or end the child process."""
