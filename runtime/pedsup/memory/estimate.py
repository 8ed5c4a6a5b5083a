"""How many bytes llama.cpp will take for a model and a context, before it is loaded.

All formulas are llama.cpp's at 0c1e57098 (the commit of llama-cpp-python 0.3.36); the tests
compare them with the sizes that llama.cpp logs and with RssAnon and RssFile.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pedsup.engine.api import DraftConfig, EngineConfig
from pedsup.engine.llama_server.process import full_window
from pedsup.gguf_file import ArrayValue, GGUFHeader, read_header
from pedsup.gguf_file.projector import validate_projector
from pedsup.gguf_file.rules import ASSISTANT
from pedsup.gguf_file.shape import PER_LAYER_TABLE, ModelShape, model_shape
from pedsup.memory.picture import projector_bytes
from pedsup.memory.repacked import repacked_bytes

F32, F16 = 4, 2
CELL_PAD: Final = 256
"""llama.cpp rounds the context and the sliding-window cache up to this many cells."""
BYTES_PER_TOKEN: Final = 284
BYTES_PER_MERGE: Final = 49
"""Of llama.cpp's vocabulary tables (hash maps of strings): measured as the growth of RssAnon on
SmolLM2 (49152 tokens, 48900 merges) and Gemma 4 (262144 and 514906)."""
MAX_CHECKPOINTS: Final = 3
"""Of `engine.llama_cpp.kv_cache`: one pinned at the system prompt, and the last two prompts."""
DEPTH_COST: Final = 2.0
"""Measured: SmolLM2 Q4_1 on one thread takes 11.0 ms per token at an empty context and 15.8 at
1000 tokens, 1.85 times what its 23 KB of keys and values per token would take as weights."""
PROGRAM_BYTES: Final = 32 << 20
"""This Python process and llama.cpp's library without any model."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by use. File-backed pages can be dropped and read again by the system."""

    n_ctx: int
    weights: int
    """All tensors but the per-layer table."""
    table: int
    """The per-layer token embedding: stays in the file, a few KB are read per token."""
    kv_cache: int
    checkpoints: int
    """Saved states of the sliding window, so that a turn can go on from an earlier point."""
    compute: int
    output: int
    vocabulary: int
    repacked: int
    """Second copies of weights in the layout of llama.cpp's extra buffer types."""
    program: int
    mapped: bool
    """Whether `weights` are file-backed (memory-mapped) or anonymous."""
    draft_weights: int = 0
    """Of a draft model, mapped as the model's own are."""
    draft: int = 0
    """All else that a draft model takes: cache, buffers, vocabulary."""
    largest_layer: int = 0
    """Of `weights`, those of the largest layer."""
    adapter: int = 0
    """Of a LoRA adapter: llama.cpp copies it into memory of its own."""
    projector: int = 0
    """Of towers, buffers and a picture, taken when the first picture is seen."""

    @property
    def anonymous(self) -> int:
        """Bytes that must stay in memory (RssAnon)."""
        own = self.kv_cache + self.checkpoints + self.compute + self.output + self.vocabulary
        own += self.repacked + self.program + self.draft + self.adapter + self.projector
        return own + (0 if self.mapped else self.weights + self.draft_weights)

    @property
    def file_backed(self) -> int:
        """Bytes that should stay in memory for full speed (RssFile)."""
        return self.weights + self.draft_weights if self.mapped else 0

    @property
    def total(self) -> int:
        return self.anonymous + self.file_backed


@dataclass(frozen=True)
class Host:
    """What decides sizes besides the model and the settings."""

    features: frozenset[str] = frozenset()
    """The processor's flags as /proc/cpuinfo names them: what can be repacked. Where the build of
    llama.cpp is known, without those that it does not use."""
    server: bool = False
    """A `llama-server` child holds the model: other caches for sliding windows."""


IN_PROCESS: Final = Host()


def estimate(header: GGUFHeader, config: EngineConfig, host: Host = IN_PROCESS) -> MemoryEstimate:
    """Estimate for loading `header`'s model as `config` says.

    Raises:
        UnsupportedError: the architecture is not supported.
        BadFileError: the header lacks a size or has an impossible one.
    """
    shape = model_shape(header)
    table_bytes = _table_bytes(header)
    draft_weights, draft = draft_bytes(shape, config, host)
    return MemoryEstimate(
        n_ctx=config.n_ctx,
        weights=header.tensor_bytes - table_bytes,
        table=table_bytes,
        kv_cache=kv_cache_bytes(shape, config, host),
        checkpoints=checkpoint_bytes(shape, config, host),
        compute=compute_bytes(shape, config, host),
        output=shape.n_vocab * F32 * config.draft.n_rows,
        vocabulary=shape.n_vocab * BYTES_PER_TOKEN + shape.n_merges * BYTES_PER_MERGE,
        repacked=repacked_bytes(header, host.features) if config.extra_buffers else 0,
        program=PROGRAM_BYTES,
        mapped=config.use_mmap,
        draft_weights=draft_weights,
        draft=draft,
        largest_layer=_largest_layer(header),
        adapter=_header(config.adapter).tensor_bytes if config.adapter else 0,
        projector=_projector_bytes(config.projector, config.picture_tokens)
        if config.projector
        else 0,
    )


def draft_bytes(shape: ModelShape, config: EngineConfig, host: Host) -> tuple[int, int]:
    """Weights of the draft model, and all else that it takes."""
    if config.draft.model is None:
        return 0, 0
    header = _header(config.draft.model)
    if header.architecture != ASSISTANT:
        own = estimate(header, replace(config, draft=DraftConfig(), adapter=None), host)
        return own.weights + own.table, own.anonymous - own.program - own.repacked
    # No cache of its own; the target keeps the last hidden state of each token of a batch.
    hidden = config.n_batch * shape.n_embd * F32
    merges = header.get("tokenizer.ggml.merges")
    n_merges = len(merges) if isinstance(merges, ArrayValue) else 0
    vocabulary = shape.n_vocab * BYTES_PER_TOKEN + n_merges * BYTES_PER_MERGE
    return header.tensor_bytes, vocabulary + hidden + 2 * shape.n_vocab * F32


@functools.lru_cache(maxsize=1)
def _projector_bytes(path: Path, picture_tokens: int) -> int:
    """Read once: an estimate is made for each context that might fit."""
    return projector_bytes(validate_projector(path), picture_tokens)


@functools.lru_cache(maxsize=2)
def _header(path: Path) -> GGUFHeader:
    """Read once: an estimate is made for each context that might fit."""
    return read_header(path)


def cache_cells(
    shape: ModelShape, config: EngineConfig, host: Host = IN_PROCESS
) -> tuple[int, int]:
    """Cells of the full-attention cache and of the sliding-window cache.

    `llama_kv_cache_iswa`: the window plus one micro-batch, rounded up, at most the context.
    """
    full = _pad(config.n_ctx)
    if shape.n_swa and host.server and full_window(config):
        return full, full
    n_ubatch = min(config.n_ubatch, config.n_batch, full)
    return full, _pad(min(full, shape.n_swa + n_ubatch)) if shape.n_swa else 0


def kv_cache_bytes(shape: ModelShape, config: EngineConfig, host: Host = IN_PROCESS) -> int:
    """K and V in float16 for every layer that has a cache of its own."""
    full, sliding = cache_cells(shape, config, host)
    return sum(
        (layer.n_embd_k + layer.n_embd_v) * F16 * (sliding if layer.sliding else full)
        for layer in shape.layers
        if layer.has_kv
    )


def depth_share(header: GGUFHeader) -> float:
    """How much longer a decode step takes per token of context, relative to an empty context.

    A step reads all weights once, and the keys and values of each full-attention layer (a layer
    without a cache of its own reads another's). Attention costs more time per byte than the
    weights: `DEPTH_COST` times as much.
    """
    shape = model_shape(header)
    weights = header.tensor_bytes - _table_bytes(header)
    per_token = sum(
        (layer.n_embd_k + layer.n_embd_v) * F16 for layer in shape.layers if not layer.sliding
    )
    return DEPTH_COST * per_token / max(weights, 1)


def checkpoint_bytes(shape: ModelShape, config: EngineConfig, host: Host = IN_PROCESS) -> int:
    """The engine keeps up to `MAX_CHECKPOINTS` windows: K and V in float16 of n_swa cells."""
    if host.server and full_window(config):
        return 0
    per_cell = sum(
        (layer.n_embd_k + layer.n_embd_v) * F16
        for layer in shape.layers
        if layer.has_kv and layer.sliding
    )
    return MAX_CHECKPOINTS * shape.n_swa * per_cell


def compute_bytes(shape: ModelShape, config: EngineConfig, host: Host = IN_PROCESS) -> int:
    """The buffer of intermediate results for one micro-batch, with one row of logits.

    ggml's graph allocator reuses freed tensors; what is alive at its peak, in float32 values
    per token, is either the feed-forward network (gate, up and their product) or attention,
    with the residual stream and holes left by earlier tensors beside it, plus the float16
    attention masks. Within 4 % of what llama.cpp reports for all shapes of the tests.
    """
    n_tokens = min(config.n_ubatch, config.n_batch, _pad(config.n_ctx))
    n_ff = max(layer.n_ff for layer in shape.layers)
    n_q = max(layer.n_embd_q for layer in shape.layers)
    n_k = max(layer.n_embd_k for layer in shape.layers)
    if shape.n_embd_per_layer:
        residual = 2 * shape.n_embd + 2 * shape.n_embd_per_layer
        attention = 2 * n_q + n_k + shape.n_embd + 2 * shape.n_embd_per_layer
        widest = max(3 * n_ff + residual, attention)
    else:
        widest = max(3 * n_ff + 3 * shape.n_embd + n_q, 3 * n_q + shape.n_embd)
    masks = sum(cache_cells(shape, config, host)) * F16
    return n_tokens * (widest * F32 + masks)


def _table_bytes(header: GGUFHeader) -> int:
    """Of the per-layer table, which stays in the file."""
    table = header.tensors.get(PER_LAYER_TABLE)
    return table.n_bytes if table else 0


def _largest_layer(header: GGUFHeader) -> int:
    sizes: dict[str, int] = {}
    for tensor in header.tensors.values():
        kind, _, rest = tensor.name.partition(".")
        if kind == "blk":
            layer = rest.partition(".")[0]
            sizes[layer] = sizes.get(layer, 0) + tensor.n_bytes
    return max(sizes.values(), default=0)


def _pad(cells: int) -> int:
    return -(-cells // CELL_PAD) * CELL_PAD
