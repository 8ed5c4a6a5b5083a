"""Pictures in this process: llama.cpp's mtmd, through the bindings of llama-cpp-python.

A picture is decoded, cut into patches and counted when it is shown (`see`); the tower looks at it
when the prompt is read (`read`). What the tower gave is kept for the last few pictures: a question
that is asked again does not take those seconds again.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pedsup.engine.api import EngineConfig
from pedsup.engine.llama_cpp import bindings, mtmd
from pedsup.engine.llama_cpp.native import Native
from pedsup.engine.picture_ids import MAX_REMEMBERED, picture_id
from pedsup.errors import EngineError, UnsupportedError
from pedsup.gguf_file.projector import MIN_TOKENS, Projector
from pedsup.messages import message
from pedsup.pictures.picture import Picture

MAX_KEPT: Final = 4
"""Pictures whose embeddings are kept: 280 of 2560 numbers are 2.9 MB."""

_Key = tuple[str, int]
"""Digest and orientation: what makes two pictures the same."""
_Floats = ctypes.Array[ctypes.c_float]


@dataclass(frozen=True)
class _Part:
    """A picture, or one of the parts that a model wants it cut into."""

    picture: Picture
    chunk: Any
    """mtmd's description of it, without the pixels."""
    n: int
    """Embeddings."""


class Eyes:
    """The towers of one loaded model. Use `close` before the model is freed."""

    def __init__(self, native: Native, projector: Projector, config: EngineConfig) -> None:
        self._native, self._projector = native, projector
        self._n_batch, self._n_ubatch = config.n_batch, min(config.n_ubatch, config.n_batch)
        self._mtmd = mtmd.load_mtmd(native.lib)
        self._parts: dict[int, _Part] = {}
        self._places: dict[_Key, list[int]] = {}
        self._waiting: dict[_Key, Any] = {}
        """Decoded, and not yet looked at."""
        self._seen: dict[_Key, dict[int, _Floats]] = {}
        bindings.clear_log()
        params = self._mtmd.mtmd_context_params_default()
        params.use_gpu, params.print_timings, params.warmup = False, False, False
        params.n_threads = config.n_threads_batch
        if projector.known:
            params.image_max_tokens = config.picture_tokens
            params.image_min_tokens = min(MIN_TOKENS, config.picture_tokens)
        path = projector.header.path
        self._ctx = self._mtmd.mtmd_init_from_file(os.fsencode(path), native.model, params)
        if not self._ctx:
            raise EngineError(
                "llama.cpp cannot load the projector",
                where=f"{path}: {bindings.log_tail() or 'no reason given'}",
                wanted="a projector that this llama.cpp knows, and enough memory for it",
                remedy="check the file with its SHA-256, or leave --mmproj out",
            )
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the towers; a second call does nothing."""
        while self._waiting:
            self._mtmd.mtmd_input_chunks_free(self._waiting.popitem()[1])
        while self._parts:
            self._mtmd.mtmd_input_chunk_free(self._parts.popitem()[1].chunk)
        if self._ctx:
            self._mtmd.mtmd_free(self._ctx)
        self._ctx = None

    @property
    def sizes(self) -> Mapping[int, int]:
        """How many places each id takes that `see` has given."""
        return {id: part.n for id, part in self._parts.items()}

    def see(self, picture: Picture) -> list[int]:
        """See `pedsup.engine.api.Engine.see`."""
        key = _key(picture)
        if key not in self._places:
            chunks = mtmd.chunks(self._mtmd, self._ctx, picture)
            _make_room(self._waiting, self._mtmd.mtmd_input_chunks_free)
            self._waiting[key] = chunks
            self._places[key] = self._place(picture, chunks)
        self._places[key] = self._places.pop(key)  # the last one shown
        while len(self._places) > MAX_REMEMBERED:
            self._forget(self._places.pop(next(iter(self._places))))
        return list(self._places[key])

    def read(self, id: int, position: int) -> None:
        """Put a picture's embeddings into the context, from a position on. Raises `EngineError`."""
        part, lib = self._parts[id], self._mtmd
        self._require_one_step(part)
        end = self._native.lib.llama_pos(0)
        code = lib.mtmd_helper_decode_image_chunk(
            self._ctx, self._native.ctx, part.chunk, self.embeddings(id), position, 0,
            self._n_batch, ctypes.byref(end), lib.mtmd_helper_post_decode_callback(), None,
        )  # fmt: skip
        if code:
            raise EngineError(
                message("llama.cpp cannot read the picture (code {code})", code=code),
                where=bindings.log_tail() or None,
                remedy="start again with a smaller --ctx; the transcript is kept",
            )

    def embeddings(self, id: int) -> _Floats:
        """What the tower makes of a picture that was shown: float32 [places, n_embd]."""
        picture = self._parts[id].picture
        key = _key(picture)
        if key not in self._seen:
            chunks = self._waiting.pop(key, None) or mtmd.chunks(self._mtmd, self._ctx, picture)
            try:
                found = self._look(picture, chunks)
            finally:
                self._mtmd.mtmd_input_chunks_free(chunks)
            _make_room(self._seen)
            self._seen[key] = found
        return self._seen[key][id]

    def _forget(self, place: list[int]) -> None:
        for id in {token for token in place if token < 0}:
            self._mtmd.mtmd_input_chunk_free(self._parts.pop(id).chunk)

    # ---- inside -------------------------------------------------------------------------

    def _check(self) -> None:
        """What this engine needs of a projector beside what its file says."""
        path = self._projector.header.path
        if not self._mtmd.mtmd_support_vision(self._ctx):
            raise UnsupportedError("this projector has no vision tower", where=path)
        if self._mtmd.mtmd_decode_use_mrope(self._ctx):
            raise UnsupportedError(
                "this model counts the positions of a picture in two dimensions",
                where=path,
                wanted="a model such as Gemma 3, MedGemma or Gemma 4",
                remedy="leave --mmproj out to use the model with text alone",
            )

    def _require_one_step(self, part: _Part) -> None:
        """llama.cpp asserts that a picture that is seen as a whole is computed in one step."""
        n = part.n
        if n > self._n_ubatch and self._mtmd.mtmd_decode_use_non_causal(self._ctx, part.chunk):
            raise EngineError(
                message("a picture of {n} tokens does not fit into one compute step", n=n),
                wanted=message("a step of at least {n} tokens", n=n),
                remedy=message("give --ubatch {n}, or a smaller --picture-tokens", n=n),
            )

    def _place(self, picture: Picture, chunks: Any) -> list[int]:
        """Tokens and ids for the chunks; notes the parts."""
        lib, ids = self._mtmd, list[int]()
        for id, chunk in self._in(picture, chunks):
            if id is None:
                count = ctypes.c_size_t(0)
                tokens = lib.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
                ids += tokens[: count.value]
                continue
            n = lib.mtmd_input_chunk_get_n_tokens(chunk)
            if id not in self._parts:
                placeholder = lib.mtmd_input_chunk_get_placeholder(chunk)
                self._parts[id] = _Part(picture, placeholder, n)
            ids += [id] * n
        return ids

    def _look(self, picture: Picture, chunks: Any) -> dict[int, _Floats]:
        """Run the tower on each part."""
        lib, llama = self._mtmd, self._native.lib
        width = llama.llama_model_n_embd_inp(self._native.model)
        found = {}
        bindings.clear_log()
        for id, chunk in self._in(picture, chunks):
            if id is None:
                continue
            if lib.mtmd_encode_chunk(self._ctx, chunk):
                raise EngineError(
                    "llama.cpp cannot look at the picture", where=bindings.log_tail() or None
                )
            found[id] = (ctypes.c_float * (self._parts[id].n * width))()
            output = lib.mtmd_get_output_embd(self._ctx)
            ctypes.memmove(found[id], output, ctypes.sizeof(found[id]))
        return found

    def _in(self, picture: Picture, chunks: Any) -> Iterator[tuple[int | None, Any]]:
        """mtmd's chunks, each with the id of what it shows; None for text."""
        lib, part = self._mtmd, 0
        for index in range(lib.mtmd_input_chunks_size(chunks)):
            chunk = lib.mtmd_input_chunks_get(chunks, index)
            if lib.mtmd_input_chunk_get_type(chunk) == mtmd.IMAGE:
                yield picture_id(picture, part), chunk
                part += 1
            else:
                yield None, chunk


def _key(picture: Picture) -> _Key:
    return picture.sha256, picture.orientation


def _make_room(kept: dict[_Key, Any], free: Callable[[Any], object] | None = None) -> None:
    """Let go what was kept the longest."""
    while len(kept) >= MAX_KEPT:
        value = kept.pop(next(iter(kept)))
        if free is not None:
            free(value)
