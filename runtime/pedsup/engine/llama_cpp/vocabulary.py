"""Texts and tokens of a model that llama.cpp has loaded, and what the model says of itself."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Final

from pedsup.engine.api import ModelInfo
from pedsup.engine.ends import end_tokens

MAX_PIECE: Final = 512
"""Bytes: the longest token text of a sane vocabulary; longer ones take a second call."""


class Vocabulary:
    """The vocabulary of a loaded model; valid while the model is."""

    def __init__(self, lib: ModuleType, model: int) -> None:
        self._lib = lib
        self.native = lib.llama_model_get_vocab(model)
        """llama.cpp's own handle of it."""
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """See `pedsup.engine.api.Engine.tokenize`; `add_special` adds bos where the vocabulary
        asks for it."""
        raw = text.encode("utf-8")
        room = len(raw) + 8
        while True:
            buffer = (self._lib.llama_token * room)()
            n = self._lib.llama_tokenize(
                self.native, raw, len(raw), buffer, room, add_special, parse_special
            )
            if n >= 0:
                return list(buffer[:n])
            room = -n

    def piece(self, token: int) -> bytes:
        """See `pedsup.engine.api.Engine.piece`."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._render(token)
        return found

    def ends(self) -> frozenset[int]:
        lib, vocab = self._lib, self.native
        declared = {lib.llama_vocab_eos(vocab), lib.llama_vocab_eot(vocab)}

        def is_end(token: int) -> bool:
            return bool(lib.llama_vocab_is_eog(vocab, token))

        return end_tokens(self, is_end) | {t for t in declared if t >= 0 and is_end(t)}

    def _render(self, token: int) -> bytes:
        size = MAX_PIECE
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = self._lib.llama_token_to_piece(self.native, token, buffer, size, 0, True)
            if n >= 0:
                return buffer.raw[:n]
            size = -n


def read_info(lib: ModuleType, model: int, vocabulary: Vocabulary) -> ModelInfo:
    template = lib.llama_model_chat_template(model, None)
    return ModelInfo(
        architecture=_metadata(lib, model, "general.architecture"),
        n_vocab=lib.llama_vocab_n_tokens(vocabulary.native),
        n_ctx_train=lib.llama_model_n_ctx_train(model),
        bos=lib.llama_vocab_bos(vocabulary.native),
        eos=lib.llama_vocab_eos(vocabulary.native),
        end_of_generation=vocabulary.ends(),
        chat_template=template.decode("utf-8", "replace") if template else None,
    )


def _metadata(lib: ModuleType, model: int, key: str) -> str:
    buffer = ctypes.create_string_buffer(256)
    n = lib.llama_model_meta_val_str(model, key.encode(), buffer, ctypes.sizeof(buffer))
    return buffer.value.decode("utf-8", "replace") if n >= 0 else ""
