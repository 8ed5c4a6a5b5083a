"""llama.cpp's tokenizer of a GGUF, without its weights."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import TracebackType

from pedsup_testing.oracle import quiet


class LlamaTokens:
    """The vocabulary of a GGUF in llama.cpp, as a context manager."""

    def __init__(self, path: Path) -> None:
        import llama_cpp

        self._lib = llama_cpp
        with quiet():
            llama_cpp.llama_backend_init()
            params = llama_cpp.llama_model_default_params()
            params.vocab_only = True
            self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self._model, f"llama.cpp cannot load {path}"
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_tokens = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def __enter__(self) -> LlamaTokens:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._lib.llama_model_free(self._model)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        raw = text.encode()
        room = (self._lib.llama_token * (len(raw) + 8))()
        n = self._lib.llama_tokenize(self.vocab, raw, len(raw), room, len(raw) + 8, False, special)
        assert n >= 0
        return room[:n]

    def decode(self, ids: list[int]) -> bytes:
        tokens = (self._lib.llama_token * len(ids))(*ids)
        room = ctypes.create_string_buffer(16 * len(ids) + 1024)
        n = self._lib.llama_detokenize(self.vocab, tokens, len(ids), room, len(room), False, True)
        assert n >= 0
        return room.raw[:n]

    def text(self, token: int) -> str:
        return self._lib.llama_vocab_get_text(self.vocab, token).decode()
