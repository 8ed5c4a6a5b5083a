"""llama.cpp as the oracle: its quantizer and its logits, through llama-cpp-python's ctypes."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from pedsup.gguf_file.ggml_types import BY_NAME


def quantize(source: Path, out: Path, file_type: int, *, tables: str | None = None) -> Path:
    """`llama_model_quantize` of a GGUF to a llama.cpp file type, one thread.

    Args:
        tables: the type of the embeddings, as `--token-embedding-type` gives it.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = 1
    if tables is not None:
        kind = BY_NAME[tables].number
        params.token_embedding_type = params.output_tensor_type = kind
    with quiet():
        code = llama_cpp.llama_model_quantize(
            str(source).encode(), str(out).encode(), ctypes.byref(params)
        )
    assert code == 0
    return out


class quiet:  # noqa: N801 - used like a function
    """Keep llama.cpp's log off the terminal."""

    def __enter__(self) -> None:
        import llama_cpp

        self.callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.callback, ctypes.c_void_p(0))

    def __exit__(self, *error: object) -> None:
        import llama_cpp

        llama_cpp.llama_log_set(ctypes.cast(None, llama_cpp.llama_log_callback), ctypes.c_void_p(0))


def logits(model: Path, tokens: list[int]) -> np.ndarray:
    """Logits of every position, float32 [n_tokens, n_vocab], computed by llama.cpp on the CPU."""
    import llama_cpp

    with quiet():
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = False  # AMX crashes on some machines
        loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), params)
        assert loaded, f"llama.cpp cannot load {model}"
        context_params = llama_cpp.llama_context_default_params()
        context_params.n_ctx = context_params.n_batch = context_params.n_ubatch = 256
        context_params.n_threads = context_params.n_threads_batch = 1
        context_params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context_params.type_k = context_params.type_v = llama_cpp.GGML_TYPE_F32
        context = llama_cpp.llama_init_from_model(loaded, context_params)
        assert context
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        assert llama_cpp.llama_decode(context, batch) == 0
        n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
        pointer = llama_cpp.llama_get_logits(context)
        found = np.ctypeslib.as_array(pointer, (len(tokens), n_vocab)).copy()
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(loaded)
    return found


def mean_kl(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean over positions of KL(reference || other) in nats, computed in float64."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        x = x - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    p, q = log_softmax(reference), log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())
