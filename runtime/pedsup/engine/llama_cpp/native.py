"""The calls of llama.cpp that load a model, make its context and read a batch."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from pedsup.engine.api import EngineConfig
from pedsup.engine.llama_cpp import bindings
from pedsup.errors import EngineError
from pedsup.messages import message

LOAD_MODE_NONE: Final = 0
LOAD_MODE_MMAP: Final = 1
LAZY_MODE_ON: Final = 2


class Native(NamedTuple):
    """A loaded model as llama.cpp sees it; `model` and `ctx` are addresses."""

    lib: ModuleType
    model: int
    ctx: int


def load_model(lib: ModuleType, config: EngineConfig) -> int:
    """The model, loaded as `config` says. Raises `EngineError` if llama.cpp refuses it."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    params.load_mode = LOAD_MODE_MMAP if config.use_mmap else LOAD_MODE_NONE
    # The per-layer table of Gemma 4 is looked up, a few rows per token: left in the file. By
    # itself llama.cpp does that above 4 GiB only, and E4B's has 2.2.
    params.lazy_mode = LAZY_MODE_ON
    params.use_extra_bufts = config.extra_buffers
    model: int | None = lib.llama_model_load_from_file(os.fsencode(config.model), params)
    if not model:
        raise load_error("llama.cpp cannot load the model", config.model)
    return model


def load_adapter(lib: ModuleType, model: int, path: Path | None) -> int | None:
    """The LoRA adapter in `path`, copied into memory; None without one. Lives with the model.

    Raises:
        EngineError: llama.cpp refuses it.
    """
    if path is None:
        return None
    adapter: int | None = lib.llama_adapter_lora_init(model, os.fsencode(path))
    if not adapter:
        raise load_error("llama.cpp cannot load the adapter", path)
    return adapter


def apply_adapter(lib: ModuleType, ctx: int, adapter: int | None) -> None:
    """Use an adapter for every pass of a context. Raises `EngineError` if llama.cpp refuses."""
    if adapter is None:
        return
    handles, scales = (lib.llama_adapter_lora_p_ctypes * 1)(adapter), (ctypes.c_float * 1)(1.0)
    if lib.llama_set_adapters_lora(ctx, handles, 1, scales):
        raise EngineError("llama.cpp cannot apply the adapter", where=bindings.log_tail() or None)


def make_context(lib: ModuleType, model: int, params: ctypes.Structure, path: Path) -> int:
    """A context for a loaded model. Raises `EngineError`, most likely for lack of memory."""
    ctx: int | None = lib.llama_init_from_model(model, params)
    if not ctx:
        raise load_error("llama.cpp cannot create a context for the model", path)
    return ctx


def context_params(lib: ModuleType, config: EngineConfig) -> ctypes.Structure:
    params: ctypes.Structure = lib.llama_context_default_params()
    params.n_ctx, params.n_batch = config.n_ctx, config.n_batch
    params.n_ubatch = min(config.n_ubatch, config.n_batch)
    params.n_seq_max = 1
    # One row of logits per call. The default reserves a row per batch token: 512 MiB of
    # compute buffer for Gemma's 262144 tokens.
    params.n_outputs_max = 1
    params.n_threads, params.n_threads_batch = config.n_threads, config.n_threads_batch
    params.swa_full = False
    params.no_perf = True
    return params


def decode(lib: ModuleType, ctx: int, batch: ctypes.Structure) -> None:
    """Read a batch. Raises `EngineError` if llama.cpp refuses."""
    code = lib.llama_decode(ctx, batch)
    if code == 0:
        return
    meaning = {
        1: message("no room in its cache"),
        2: message("aborted"),
        -1: message("invalid tokens"),
    }
    raise EngineError(
        message(
            "llama.cpp cannot decode: {reason} (code {code})",
            reason=meaning.get(code, message("fatal error")),
            code=code,
        ),
        where=bindings.log_tail() or None,
        remedy="start again with a smaller --ctx; the transcript is kept",
    )


def load_error(found: str, path: Path) -> EngineError:
    return EngineError(
        found,
        where=f"{path}: {bindings.log_tail() or 'no reason given'}",
        wanted="a GGUF that this llama.cpp knows, and enough memory for it",
        remedy="check the file with its SHA-256, or try a smaller --ctx",
    )
