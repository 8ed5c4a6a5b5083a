"""From a checked file to a model in this process: weights, threads, context and vocabulary."""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType

from pedsup.engine.api import EngineConfig, ModelInfo
from pedsup.engine.limits import check_context
from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_cpp.native import (
    Native,
    apply_adapter,
    context_params,
    load_adapter,
    load_model,
    make_context,
)
from pedsup.engine.llama_cpp.streaming import LayerStreamer, plan_stream
from pedsup.engine.llama_cpp.vocabulary import Vocabulary, read_info
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.lora import require_applicable
from pedsup.gguf_file.projector import Projector, matching_projector
from pedsup.gguf_file.shape import PER_LAYER_TABLE


@dataclass(frozen=True)
class Loaded:
    """A model in memory with one context. Use `close` when done."""

    native: Native
    vocabulary: Vocabulary
    info: ModelInfo
    streamer: LayerStreamer | None
    """Lets layers go when the file does not fit; None when it does."""
    projector: Projector | None
    """What pictures are seen through, checked and not yet loaded."""
    resources: ExitStack
    """What `close` frees: context, thread pool, streamer, model, in this order."""

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        self.resources.close()


def load(lib: ModuleType, header: GGUFHeader, config: EngineConfig) -> Loaded:
    """Load the model of `config`, whose checked header is `header`; all or nothing stays loaded.

    Raises:
        UsageError: the context asked for is larger than the model's.
        MismatchError: the adapter or the projector does not belong to the model.
        EngineError: llama.cpp refuses the model, the adapter or the context.
    """
    bindings.clear_log()
    if config.adapter is not None:
        require_applicable(config.adapter, header)
    projector = matching_projector(config.projector, header) if config.projector else None
    if config.cpus:
        # Before any thread starts: llama.cpp's threads inherit the mask.
        os.sched_setaffinity(0, config.cpus)
    with ExitStack() as stack:
        model = load_model(lib, config)
        stack.callback(lib.llama_model_free, model)
        vocabulary = Vocabulary(lib, model)
        info = read_info(lib, model, vocabulary)
        check_context(config.n_ctx, info.n_ctx_train, config.model)
        # Before the context, which makes room for the graph of the model with its adapter. It is
        # freed with the model.
        adapter = load_adapter(lib, model, config.adapter)
        streamer = _streamer(lib, header, config)
        if streamer is not None:
            stack.callback(streamer.close)
        pool = bindings.make_threadpool(lib, max(config.n_threads, config.n_threads_batch))
        if pool is not None:
            stack.callback(bindings.free_threadpool, lib, pool)
        ctx = make_context(lib, model, _params(lib, config, streamer), config.model)
        stack.callback(lib.llama_free, ctx)
        apply_adapter(lib, ctx, adapter)
        if streamer is not None:
            streamer.attach()
        if pool is not None:
            lib._lib.llama_attach_threadpool(ctx, pool, None)
        native = Native(lib, model, ctx)
        return Loaded(native, vocabulary, info, streamer, projector, resources=stack.pop_all())


def _params(
    lib: ModuleType, config: EngineConfig, streamer: LayerStreamer | None
) -> ctypes.Structure:
    params = context_params(lib, config)
    if streamer is not None:
        params.cb_eval = streamer.callback
    return params


def _streamer(lib: ModuleType, header: GGUFHeader, config: EngineConfig) -> LayerStreamer | None:
    """What lets layers go when the mapped file does not fit; None when it does."""
    if config.resident is None or not config.use_mmap:
        return None
    plan = plan_stream(header, config.resident, PER_LAYER_TABLE)
    return LayerStreamer(lib, plan, config.model) if plan.layers else None
