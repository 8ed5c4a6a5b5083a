"""The same engine in a `llama-server` child, spoken to over loopback with the standard library.

Works with the server that Termux ships, which is another version than the one our bindings
pin: fields that an answer may lack have a fallback.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

from pedsup.engine.api import (
    EngineConfig,
    GenerationStats,
    ModelInfo,
    PromptProgress,
    SamplingConfig,
    Token,
)
from pedsup.engine.build_probe import server_build
from pedsup.engine.drafts import require_drafter
from pedsup.engine.ends import DECLARED_ENDS, end_tokens
from pedsup.engine.limits import check_context, check_prompt
from pedsup.engine.llama_server.client import ServerClient
from pedsup.engine.llama_server.pictures import DEFAULT_MARKER, ShownPictures
from pedsup.engine.llama_server.process import ServerProcess, require_program
from pedsup.engine.llama_server.state_file import bad_state, pack_state, unpack_state
from pedsup.engine.llama_server.wire import (
    completion_request,
    report_progress,
    require_number,
    tokens_of,
    updated_stats,
)
from pedsup.engine.vector_units import Build
from pedsup.errors import EngineError
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.lora import require_applicable
from pedsup.gguf_file.projector import matching_projector
from pedsup.gguf_file.validate import validate_model, validate_model_or_drafter
from pedsup.gguf_file.values import ArrayValue
from pedsup.messages import message
from pedsup.pictures.picture import Picture

SLOT_FILE: Final = "slot.state"


class ServerEngine:
    """An `Engine` on a `llama-server` child. See `pedsup.engine.api.Engine` for the contract."""

    def __init__(self, config: EngineConfig, *, program: Path | None = None) -> None:
        header = validate_model(config.model)
        self._program, self._config = program or require_program(), config
        self._states = Path(tempfile.mkdtemp(prefix=f"pedsup-{os.getpid()}-"))
        self._process: ServerProcess | None = None
        self._cached: list[int] = []
        self._pieces: dict[int, bytes] = {}
        self._stats = GenerationStats(0, 0, 0, 0.0, 0.0)
        try:
            own = header.get("%s.context_length")
            if isinstance(own, int):
                check_context(config.n_ctx, own, config.model)
            if config.adapter is not None:
                require_applicable(config.adapter, header)
            if config.draft.model is not None:
                require_drafter(header, validate_model_or_drafter(config.draft.model))
            path = config.projector
            projector = matching_projector(path, header) if path else None
            special = partial(self.tokenize, parse_special=True)
            self._pictures = ShownPictures(projector, config.picture_tokens, special)
            self._start()
            self._properties = self._client().post("GET", "/props")
            self._info = self._read_info(header)
        except BaseException:
            self.close()
            raise
        settings = self._properties.get("default_generation_settings") or {}
        granted = settings.get("n_ctx") if isinstance(settings, dict) else None
        # The server ends one token before its context is full.
        self._n_ctx = (granted if isinstance(granted, int) and granted > 1 else config.n_ctx) - 1

    # ---- the Engine protocol ------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"llama-server {self._properties.get('build_info') or '(version unknown)'}"

    @property
    def build(self) -> Build | None:
        return server_build(self._program)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def n_ctx(self) -> int:
        return self._n_ctx

    @property
    def cached(self) -> Sequence[int]:
        return self._cached

    @property
    def last_stats(self) -> GenerationStats:
        return self._stats

    @property
    def child_pid(self) -> int | None:
        return self._running().pid

    @property
    def adjustable(self) -> bool:
        return False

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        raise EngineError("llama-server cannot change its threads")

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return self._tokens(text, add_special=False, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        """The token's bytes; a part of a character comes as U+FFFD, JSON cannot hold it."""
        found = self._pieces.get(token)
        if found is None:
            content = self._client().post("POST", "/detokenize", {"tokens": [token]})["content"]
            found = self._pieces[token] = str(content).encode("utf-8")
        return found

    @property
    def can_see(self) -> bool:
        return self._pictures.projector is not None

    def see(self, picture: Picture) -> list[int]:
        return self._pictures.see(picture)

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        *,
        max_tokens: int,
        keep: int | None = None,  # the server makes its checkpoints by itself
        on_prompt: PromptProgress | None = None,
    ) -> Generator[Token, None, None]:
        check_prompt(prompt, self._n_ctx)
        request = completion_request(self._prompt(prompt), sampling, max_tokens)
        n_pictures = sum(token < 0 for token in prompt)
        self._stats = GenerationStats(len(prompt), 0, 0, 0.0, 0.0, n_pictures=n_pictures)
        self._cached = list(prompt)
        plain = partial(self.tokenize, parse_special=False)
        n, last, waited = 0, -1, perf_counter()
        for event in self._client().stream("/completion", request):
            # The server says its times in its last event only, which a reader who leaves
            # early never gets: the time spent waiting for it stands in until then.
            self._add_time(perf_counter() - waited, n)
            if on_prompt is not None:
                report_progress(event, len(prompt), on_prompt)
            require_number(event)
            self._stats = updated_stats(self._stats, event)
            if event.get("stop"):
                return
            for token in tokens_of(event, n + 1, plain):
                if n >= max_tokens:
                    return
                if n:
                    self._cached.append(last)
                last, n = token.id, n + 1
                yield token
            waited = perf_counter()

    def save_state(self, path: Path) -> None:
        """Write the cached tokens and the server's state of them into one file."""
        source = self._states / SLOT_FILE
        try:
            self._slot("save")
            pack_state(self._cached, source, path)
        finally:
            source.unlink(missing_ok=True)

    def load_state(self, path: Path) -> list[int]:
        target = self._states / SLOT_FILE
        try:
            tokens = unpack_state(path, target, self._n_ctx)
            answer = self._slot("restore")
        finally:
            target.unlink(missing_ok=True)
        restored = answer.get("n_restored", len(tokens))
        if restored != len(tokens):
            raise bad_state(path, message("{n} tokens restored of {m}", n=restored, m=len(tokens)))
        self._cached = list(tokens)
        return tokens

    @property
    def restartable(self) -> bool:
        return True

    def restart(self) -> None:
        if self._running().alive:
            return
        self._running().close()
        self._cached = []
        self._start()

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
        shutil.rmtree(self._states, ignore_errors=True)

    # ---- inside -------------------------------------------------------------------------

    def _start(self) -> None:
        self._process = ServerProcess(self._program, self._config, state_folder=self._states)
        self._process.wait_ready()

    def _client(self) -> ServerClient:
        return ServerClient(self._running())

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise EngineError("the engine was closed")
        return self._process

    def _read_info(self, header: GGUFHeader) -> ModelInfo:
        metadata = header.metadata
        declared = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in DECLARED_ENDS)
        ends = {*end_tokens(self), *(t for t in declared if isinstance(t, int))}
        template, tokens = (
            metadata.get(f"tokenizer.{key}") for key in ("chat_template", "ggml.tokens")
        )
        return ModelInfo(
            architecture=header.architecture,
            n_vocab=len(tokens) if isinstance(tokens, ArrayValue) else 0,
            n_ctx_train=_whole(header.get("%s.context_length"), 0),
            bos=_whole(metadata.get("tokenizer.ggml.bos_token_id"), -1),
            eos=_whole(metadata.get("tokenizer.ggml.eos_token_id"), -1),
            end_of_generation=frozenset(ends),
            chat_template=template if isinstance(template, str) else None,
        )

    def _add_time(self, seconds: float, n: int) -> None:
        """Count time waited for the server, for the prompt or, after its first token, for those."""
        stats = self._stats
        if n:
            self._stats = replace(stats, n_generated=n, decode_s=stats.decode_s + seconds)
        else:
            self._stats = replace(stats, prompt_s=stats.prompt_s + seconds)

    def _prompt(self, tokens: Sequence[int]) -> object:
        """The prompt as the server takes it."""
        marker = self._properties.get("media_marker")
        marker = marker if isinstance(marker, str) and marker else DEFAULT_MARKER
        if all(token >= 0 for token in tokens):
            return list(tokens)
        # It puts the first token before a text by itself.
        begins = tokens[:1] == self._tokens("", add_special=True)  # what it puts before each text
        return self._pictures.prompt(tokens[1:] if begins else tokens, marker, self._text)

    def _tokens(self, text: str, **how: bool) -> list[int]:
        body = {"content": text, **how}
        tokens = self._client().post("POST", "/tokenize", body).get("tokens")
        if not isinstance(tokens, list):
            raise EngineError("llama-server's answer to /tokenize has no tokens")
        return [int(token) for token in tokens]

    def _text(self, tokens: Sequence[int]) -> str:
        answer = self._client().post("POST", "/detokenize", {"tokens": list(tokens)})
        return str(answer["content"])

    def _slot(self, action: str) -> dict[str, object]:
        try:
            return self._client().post("POST", f"/slots/0?action={action}", {"filename": SLOT_FILE})
        except EngineError as error:
            if action == "restore" and self._running().alive:
                raise bad_state(self._states / SLOT_FILE, error.found) from error
            raise


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) else default
