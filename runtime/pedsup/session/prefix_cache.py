"""The state of the system prompt on disk: a second start does not read it again.

Two files per entry, `<key>.state` (the engine's own format) and `<key>.json`, which is written
last and holds the digest of the first: a pair that does not fit together is damaged. The key is
made of everything that the state depends on, so that a stale entry is never found. Nothing
here is needed for a right answer; whatever goes wrong, the prompt is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, Literal

from pedsup.chat.events import Notice
from pedsup.chat.prompt import stable_prefix
from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.engine.api import Engine, EngineConfig, PromptProgress, SamplingConfig
from pedsup.errors import EngineError, PedsupError
from pedsup.files.fsio import atomic_file, sha256_file
from pedsup.files.paths import make_private
from pedsup.files.source import read_json_object
from pedsup.gguf_file import GGUFHeader
from pedsup.messages import reason_of
from pedsup.texts.notices import NOTICES
from pedsup.trust.identity import content_sample, header_digest

FORMAT: Final = 1
DEFAULT_MAX_BYTES: Final = 1 << 29
MAX_NOTE: Final = 1 << 24
"""Bytes that are read at most; the tokens of a long prompt take a hundredth of it."""
MIN_TOKENS: Final = 32
"""A shorter prompt is read faster than a file is checked."""


@dataclass(frozen=True)
class Warmed:
    """What `PrefixCache.warm` did."""

    source: Literal["disk", "read", "short"]
    """Found on disk; read by the model (and saved); too short to be worth it."""
    n_tokens: int
    seconds: float
    notice: Notice | None = None


@dataclass(frozen=True)
class StateKey:
    """Which model a state belongs to, cheap enough for every start."""

    digest: str
    """`trust.identity.ModelIdentity.digest`: of metadata, vocabulary, template, tensor table and
    size; with an adapter beside the model, of the pair."""
    size: int
    mtime_ns: int
    sample: str
    """`identity.content_sample`."""

    @classmethod
    def of(cls, header: GGUFHeader, digest: str | None = None) -> StateKey:
        """The key of a file whose header was read; `digest` if it is known already."""
        status = header.path.stat()
        return cls(
            digest or header_digest(header),
            status.st_size,
            status.st_mtime_ns,
            content_sample(header),
        )


class PrefixCache:
    """Saved states in one private folder, bounded in size, the oldest dropped first."""

    def __init__(
        self,
        folder: Path,
        config: EngineConfig,
        identity: StateKey,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._config, self._identity = config, identity

    def warm(
        self,
        engine: Engine,
        template: ChatTemplate,
        system: Sequence[Message],
        *,
        think: bool,
        on_prompt: PromptProgress | None = None,
    ) -> Warmed:
        """Bring the engine's cache to the end of the system prompt, from disk if possible."""
        started = perf_counter()
        tokens = stable_prefix(engine, template, system, think=think)
        if len(tokens) < MIN_TOKENS:
            return Warmed("short", len(tokens), perf_counter() - started)
        key = self._key(engine, template, tokens)
        notice = None
        found = self._load(engine, key, tokens)
        if found == "damaged":
            notice = Notice("cache_damaged", NOTICES["cache_damaged"])
        if found != "disk":
            reading = engine.generate(
                tokens, SamplingConfig(temperature=0), max_tokens=0, on_prompt=on_prompt
            )
            for _ in reading:
                pass
            notice = self._save(engine, key, tokens) or notice
        source: Literal["disk", "read"] = "disk" if found == "disk" else "read"
        return Warmed(source, len(tokens), perf_counter() - started, notice)

    def _load(
        self, engine: Engine, key: str, tokens: list[int]
    ) -> Literal["disk", "absent", "damaged"]:
        state, note = self._paths(key)
        if not note.is_file():
            return "absent"
        try:
            document = read_json_object(note, "the note of a saved state", MAX_NOTE)
            fits = document == _note(key, tokens, state)
            good = fits and engine.load_state(state) == tokens
        except (OSError, ValueError, PedsupError) as error:
            # A dead engine does not mean a damaged file.
            if isinstance(error, EngineError):
                raise
            good = False
        if good:
            for path in (state, note):
                path.touch()
            return "disk"
        for path in (note, state):
            path.unlink(missing_ok=True)
        return "damaged"

    def _save(self, engine: Engine, key: str, tokens: list[int]) -> Notice | None:
        state, note = self._paths(key)
        try:
            make_private(self._folder, remedy="give --no-cache, or set XDG_CACHE_HOME")
            # llama.cpp would make it readable to all; a file that is there keeps its mode.
            os.close(os.open(state, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            engine.save_state(state)
            with atomic_file(note, private=True) as file:
                file.write(json.dumps(_note(key, tokens, state)).encode("utf-8"))
            self._evict(keep=key)
        except (OSError, PedsupError) as error:
            with suppress(OSError):
                state.unlink()
            return Notice(
                "cache_unwritable", NOTICES["cache_unwritable"].filled(reason=reason_of(error))
            )
        return None

    def _evict(self, *, keep: str) -> None:
        """Drop the entries used longest ago until the folder is within its bound."""
        ages: dict[str, float] = {}
        sizes: dict[str, int] = {}
        for path in _files(self._folder):
            status = path.stat()
            ages[path.stem] = max(ages.get(path.stem, 0.0), status.st_mtime)
            sizes[path.stem] = sizes.get(path.stem, 0) + status.st_size
        total = sum(sizes.values())
        for stem in sorted(ages, key=lambda s: ages[s]):
            if total <= self._max_bytes:
                return
            if stem != keep:
                for path in reversed(self._paths(stem)):
                    path.unlink(missing_ok=True)
                total -= sizes[stem]

    def _key(self, engine: Engine, template: ChatTemplate, tokens: list[int]) -> str:
        config, identity = self._config, self._identity
        parts = [
            FORMAT,
            [identity.digest, identity.size, identity.mtime_ns, identity.sample],
            engine.name,
            template.digest,
            # Other batch sizes and buffer types round otherwise.
            [config.n_ctx, config.n_batch, config.n_ubatch, config.extra_buffers],
            tokens,
        ]
        return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()[:40]

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self._folder / f"{key}.state", self._folder / f"{key}.json"


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.suffix in (".state", ".json")]


def _note(key: str, tokens: list[int], state: Path) -> dict[str, object]:
    """What is kept beside a state."""
    return {
        "format": FORMAT,
        "key": key,
        "tokens": tokens,
        "state_bytes": state.stat().st_size,
        "state_sha256": sha256_file(state),
    }
