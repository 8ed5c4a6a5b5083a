"""The sizes that determine a model's memory, read from a checked GGUF header.

Field names and their defaults: `llama_model::load_hparams` in llama-model.cpp and
`llama_model_gemma4::load_arch_hparams` in models/gemma4.cpp, llama.cpp 0c1e57098.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pedsup.errors import BadFileError
from pedsup.gguf_file import ArrayValue, GGUFHeader
from pedsup.gguf_file.architecture import require_supported
from pedsup.gguf_file.foreign import is_foreign
from pedsup.gguf_file.rules import MAX_LAYERS, MAX_WIDTH
from pedsup.gguf_file.sliding import gemma3_sliding
from pedsup.messages import message

PER_LAYER_TABLE: Final = "per_layer_token_embd.weight"


@dataclass(frozen=True)
class LayerShape:
    """One layer; widths in elements per token."""

    has_kv: bool
    """False where the layer reuses the cache of an earlier one."""
    sliding: bool
    n_embd_q: int
    n_embd_k: int
    n_embd_v: int
    n_ff: int


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide cache and buffers."""

    architecture: str
    n_embd: int
    n_vocab: int
    n_merges: int
    n_ctx_train: int
    n_swa: int
    """Sliding window in tokens; 0 if there is none."""
    n_embd_per_layer: int
    """Width of the per-layer embeddings of all layers together; 0 if there are none."""
    layers: tuple[LayerShape, ...]


def model_shape(header: GGUFHeader) -> ModelShape:
    """The shape of a model.

    Raises:
        UnsupportedError: another architecture than those that pedsup runs.
        BadFileError: a needed field is missing or impossible.
    """
    foreign = is_foreign(header)
    if not foreign:
        require_supported(header)
    fields = _Fields(header)
    n_layer = fields.number("%s.block_count", limit=MAX_LAYERS)
    layers = _foreign_layers if foreign else _LAYERS.get(header.architecture, _plain_layers)
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise fields.bad("the tensor 'token_embd.weight' is missing", "a token embedding matrix")
    per_layer = fields.number("%s.embedding_length_per_layer_input", default=0, least=0)
    window = fields.number("%s.attention.sliding_window", default=0, least=0, limit=1 << 31)
    return ModelShape(
        architecture=header.architecture,
        n_embd=fields.number("%s.embedding_length"),
        n_vocab=embedding.shape[1],
        n_merges=_length(header.get("tokenizer.ggml.merges")),
        n_ctx_train=fields.number("%s.context_length", limit=1 << 31),
        n_swa=0 if foreign else window,
        n_embd_per_layer=0 if foreign else per_layer * n_layer,
        layers=layers(fields, n_layer),
    )


def _plain_layers(fields: _Fields, n_layer: int) -> tuple[LayerShape, ...]:
    heads = fields.per_layer("%s.attention.head_count", n_layer)
    kv_heads = fields.per_layer("%s.attention.head_count_kv", n_layer, default=heads)
    n_embd = fields.number("%s.embedding_length")
    head = fields.number("%s.attention.key_length", default=n_embd // heads[0])
    head_v = fields.number("%s.attention.value_length", default=n_embd // heads[0])
    n_ff = fields.per_layer("%s.feed_forward_length", n_layer)
    return tuple(
        LayerShape(True, False, heads[i] * head, kv_heads[i] * head, kv_heads[i] * head_v, n_ff[i])
        for i in range(n_layer)
    )


def _gemma3_layers(fields: _Fields, n_layer: int) -> tuple[LayerShape, ...]:
    sliding = gemma3_sliding(fields.header)
    plain = _plain_layers(fields, n_layer)
    return tuple(replace(layer, sliding=s) for layer, s in zip(plain, sliding, strict=True))


def _gemma4_layers(fields: _Fields, n_layer: int) -> tuple[LayerShape, ...]:
    heads = fields.per_layer("%s.attention.head_count", n_layer)
    kv_heads = fields.per_layer("%s.attention.head_count_kv", n_layer, default=heads)
    n_ff = fields.per_layer("%s.feed_forward_length", n_layer)
    sliding = fields.per_layer("%s.attention.sliding_window_pattern", n_layer, least=0)
    shared = fields.number("%s.attention.shared_kv_layers", default=0, least=0, limit=n_layer)
    full = fields.number("%s.attention.key_length"), fields.number("%s.attention.value_length")
    swa = (
        fields.number("%s.attention.key_length_swa", default=full[0]),
        fields.number("%s.attention.value_length_swa", default=full[1]),
    )
    heads_of = [swa if slides else full for slides in sliding]
    return tuple(
        LayerShape(
            has_kv=i < n_layer - shared,
            sliding=bool(sliding[i]),
            n_embd_q=heads[i] * head_k,
            n_embd_k=kv_heads[i] * head_k,
            n_embd_v=kv_heads[i] * head_v,
            n_ff=n_ff[i],
        )
        for i, (head_k, head_v) in enumerate(heads_of)
    )


def _foreign_layers(fields: _Fields, n_layer: int) -> tuple[LayerShape, ...]:
    """At least what a layer of an unknown architecture needs, were it plain attention.

    Every layer keeps keys and values of the whole context, as wide as the heads or, without
    them, as the embedding; a recurrent state is smaller. The widest matrix of a layer stands for
    its feed-forward network, the experts used at once included.
    """
    header = fields.header
    n_embd = fields.number("%s.embedding_length")
    heads = fields.most("%s.attention.head_count") or 1
    kv_heads = fields.most("%s.attention.head_count_kv") or heads
    sizes = [fields.most(f"%s.attention.{kind}_length") for kind in ("key", "value")]
    kv = max(kv_heads * (max(sizes) or -(-n_embd // heads)), 1)
    matrices = (t.shape for name, t in header.tensors.items() if name.startswith("blk."))
    widest = max((max(shape[:2]) for shape in matrices), default=n_embd)
    experts = fields.most("%s.expert_used_count") or 1
    q = heads * (max(sizes) or -(-n_embd // heads))
    wide = max(2 * widest, widest * experts)
    return tuple(LayerShape(True, False, q, kv, kv, wide) for _ in range(n_layer))


_LAYERS: Final = {"gemma3": _gemma3_layers, "gemma4": _gemma4_layers}


def _length(value: object) -> int:
    return len(value) if isinstance(value, ArrayValue) else 0


class _Fields:
    """Checked reads of integer metadata."""

    def __init__(self, header: GGUFHeader) -> None:
        self.header = header

    def bad(self, found: str, wanted: str) -> BadFileError:
        return BadFileError(
            found,
            where=self.header.path,
            wanted=wanted,
            remedy="the file is damaged or not a language model: copy or export it again",
        )

    def number(
        self, key: str, *, default: int | None = None, least: int = 1, limit: int = MAX_WIDTH
    ) -> int:
        return self._checked(key, self.header.get(key, default), least, limit)

    def per_layer(
        self, key: str, n_layer: int, *, default: list[int] | None = None, least: int = 1
    ) -> list[int]:
        """A field that is one number for all layers or an array with one per layer."""
        value = self.header.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, ArrayValue):
            return [self._checked(key, value, least, MAX_WIDTH)] * n_layer
        if len(value) < n_layer:
            raise self.bad(
                message("'{key}' has {n} values", key=self.header.full_key(key), n=len(value)),
                f"{n_layer}",
            )
        return [self._checked(key, v, least, MAX_WIDTH) for v in value.values()[:n_layer]]

    def most(self, key: str) -> int:
        """The largest value of a field of an unknown architecture; 0 where it is not there."""
        value = self.header.get(key)
        values = value.values() if isinstance(value, ArrayValue) else [value]
        return max((int(v) for v in values if isinstance(v, int) and 0 < v <= MAX_WIDTH), default=0)

    def _checked(self, key: str, value: object, least: int, limit: int) -> int:
        if not isinstance(value, int) or not least <= int(value) <= limit:
            raise self.bad(
                message(
                    "the field '{key}' is {value}",
                    key=self.header.full_key(key),
                    value=f"{value!r:.60}",
                ),
                message("a number from {low} to {high}", low=least, high=limit),
            )
        return int(value)
