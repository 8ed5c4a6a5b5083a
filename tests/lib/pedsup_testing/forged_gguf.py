"""GGUF bytes made by hand, so that anything in them can be wrong; and tiny whole models.

Nothing here uses pedsup's or gguf's writers: the bytes follow the format's description.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = dict(zip(range(13), "BbHhIif?", strict=False)) | {U64: "Q", I64: "q", F64: "d"}
F32_TENSOR, F16_TENSOR, Q4_0_TENSOR, Q8_0_TENSOR, Q8_1_TENSOR, Q4_K_TENSOR, I32_TENSOR = (
    0, 1, 2, 8, 9, 12, 26,
)  # fmt: skip
BF16_TENSOR = 30
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 9: (32, 36), 12: (256, 144),
           26: (1, 4), 30: (1, 2)}  # fmt: skip


def text(value: str | bytes) -> bytes:
    """A GGUF string."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


@dataclass(frozen=True)
class Array:
    """An array value; `count` lies about the length when it is given."""

    element: int
    items: list[Any]
    count: int | None = None

    def encode(self) -> bytes:
        count = len(self.items) if self.count is None else self.count
        return struct.pack("<IQ", self.element, count) + b"".join(
            encode(self.element, item) for item in self.items
        )


@dataclass(frozen=True)
class Raw:
    """The bytes of a value as they shall stand in the file."""

    data: bytes


def encode(kind: int, value: Any) -> bytes:
    """The bytes of a value; `bytes` are taken as they are for other types than strings."""
    if isinstance(value, Raw):
        return value.data
    if kind == STRING:
        return text(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, Array):
        return value.encode()
    return struct.pack("<" + _CODES[kind], value)


@dataclass(frozen=True)
class Key:
    """One metadata pair. `kind` is the number in the file."""

    name: str | bytes
    kind: int
    value: Any

    def encode(self) -> bytes:
        return text(self.name) + struct.pack("<I", self.kind) + encode(self.kind, self.value)


@dataclass(frozen=True)
class Row:
    """One row of the tensor table; `offset` and `n_dims` None are the right ones."""

    name: str | bytes
    dims: tuple[int, ...]
    kind: int = F32_TENSOR
    offset: int | None = None
    n_dims: int | None = None

    @property
    def n_bytes(self) -> int:
        block, size = _BLOCKS.get(self.kind, (1, 4))
        return prod(self.dims) // block * size


@dataclass(frozen=True)
class Forged:
    """A whole file. `encode` gives its bytes; fields that are not None lie."""

    keys: tuple[Key, ...] = ()
    rows: tuple[Row, ...] = ()
    alignment: int = 32
    magic: bytes = b"GGUF"
    version: int = 3
    n_keys: int | None = None
    n_rows: int | None = None
    data: bytes | None = field(default=None, repr=False)

    def with_key(self, name: str, kind: int, value: Any) -> Forged:
        """The same with a key changed or added."""
        kept = tuple(key for key in self.keys if key.name != name)
        return replace(self, keys=(*kept, Key(name, kind, value)))

    def without_key(self, name: str) -> Forged:
        assert any(key.name == name for key in self.keys), name
        return replace(self, keys=tuple(key for key in self.keys if key.name != name))

    def with_row(self, which: str, **changes: Any) -> Forged:
        """The same with one tensor's row changed."""
        assert any(row.name == which for row in self.rows), which
        rows = tuple(replace(r, **changes) if r.name == which else r for r in self.rows)
        return replace(self, rows=rows)

    def header(self) -> bytes:
        """Everything before the padding."""
        out = [
            self.magic,
            struct.pack("<I", self.version),
            struct.pack("<Q", len(self.rows) if self.n_rows is None else self.n_rows),
            struct.pack("<Q", len(self.keys) if self.n_keys is None else self.n_keys),
            *(key.encode() for key in self.keys),
        ]
        at = 0
        for row in self.rows:
            out.append(text(row.name))
            out.append(struct.pack("<I", len(row.dims) if row.n_dims is None else row.n_dims))
            out.append(struct.pack(f"<{len(row.dims)}Q", *row.dims))
            out.append(struct.pack("<IQ", row.kind, at if row.offset is None else row.offset))
            if row.n_bytes < 1 << 40:
                at += -(-row.n_bytes // self.alignment) * self.alignment
        return b"".join(out)

    def encode(self) -> bytes:
        """The bytes of the file; small finite numbers as tensor data."""
        header = self.header()
        header += b"\0" * (-len(header) % self.alignment)
        if self.data is not None:
            return header + self.data
        parts = []
        for number, row in enumerate(self.rows):
            size = min(row.n_bytes, 1 << 24)
            if row.kind == F32_TENSOR:
                cell = struct.pack("<8f", *(0.01 * ((i * 7 + number) % 13 - 6) for i in range(8)))
            else:
                cell = b"\x11\x12"
            data = (cell * (size // len(cell) + 1))[:size]
            parts.append(data + b"\0" * (-len(data) % self.alignment))
        return header + b"".join(parts)


# ---- whole models that llama.cpp runs -----------------------------------------------------------


def _vocabulary(kind: str) -> list[str]:
    special = ["<unk>", "<bos>", "<eos>", "<|turn>", "<turn|>"]
    if kind == "gpt2":
        # GPT-2's printable stand-ins of the 256 bytes.
        kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
        shifted = [b for b in range(256) if b not in kept]
        letters = [chr(b) for b in kept] + [chr(256 + i) for i in range(len(shifted))]
    else:
        letters = [f"<0x{b:02X}>" for b in range(256)] + [chr(c) for c in range(97, 123)]
    return [*special, *letters, "ab", "cd"]


def _tokenizer(kind: str) -> tuple[Key, ...]:
    tokens = _vocabulary(kind)
    types = [3] * 5 + [1] * (len(tokens) - 5)
    if kind != "gpt2":
        types[5:261] = [6] * 256
    scores = [float(-i) for i in range(len(tokens))]
    return (
        Key("tokenizer.ggml.model", STRING, kind),
        *([Key("tokenizer.ggml.pre", STRING, "gpt-2")] if kind == "gpt2" else []),
        Key("tokenizer.ggml.tokens", ARRAY, Array(STRING, tokens)),
        Key("tokenizer.ggml.scores", ARRAY, Array(F32, scores)),
        Key("tokenizer.ggml.token_type", ARRAY, Array(I32, types)),
        Key("tokenizer.ggml.merges", ARRAY, Array(STRING, ["a b", "c d"])),
        Key("tokenizer.ggml.bos_token_id", U32, 1),
        Key("tokenizer.ggml.eos_token_id", U32, 2),
        Key("tokenizer.ggml.unknown_token_id", U32, 0),
        Key("tokenizer.ggml.add_bos_token", BOOL, True),
    )


def tiny_llama(tokenizer: str = "gpt2") -> Forged:
    """2 layers, width 32, 4 heads of 8 over 2 key heads."""
    n_vocab = len(_vocabulary(tokenizer))
    rows = [Row("token_embd.weight", (32, n_vocab)), Row("output_norm.weight", (32,))]
    for layer in range(2):
        block = {
            "attn_norm": (32,), "attn_q": (32, 32), "attn_k": (32, 16), "attn_v": (32, 16),
            "attn_output": (32, 32), "ffn_norm": (32,), "ffn_gate": (32, 64), "ffn_up": (32, 64),
            "ffn_down": (64, 32),
        }  # fmt: skip
        rows += [Row(f"blk.{layer}.{name}.weight", dims) for name, dims in block.items()]
    keys = (
        Key("general.architecture", STRING, "llama"),
        Key("general.name", STRING, "tiny"),
        Key("general.alignment", U32, 32),
        Key("llama.context_length", U32, 64),
        Key("llama.embedding_length", U32, 32),
        Key("llama.block_count", U32, 2),
        Key("llama.feed_forward_length", U32, 64),
        Key("llama.attention.head_count", U32, 4),
        Key("llama.attention.head_count_kv", U32, 2),
        Key("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        Key("llama.rope.dimension_count", U32, 8),
        Key("llama.rope.freq_base", F32, 10000.0),
        *_tokenizer(tokenizer),
        Key("tokenizer.chat_template", STRING, "{{ messages[0].content }}"),
    )
    return Forged(keys, tuple(rows))


def tiny_gemma4() -> Forged:
    """4 layers (sliding, full, sliding, full), the last two without a cache of their own."""
    n_vocab, n_layer, sliding = len(_vocabulary("gemma4")), 4, [True, False, True, False]
    rows = [
        Row("token_embd.weight", (32, n_vocab)),
        Row("per_layer_token_embd.weight", (16 * n_layer, n_vocab)),
        Row("per_layer_model_proj.weight", (32, 16 * n_layer)),
        Row("per_layer_proj_norm.weight", (16,)),
        Row("output_norm.weight", (32,)),
        Row("rope_freqs.weight", (8,)),
    ]
    for layer in range(n_layer):
        head = 8 if sliding[layer] else 16
        block: dict[str, tuple[int, ...]] = {
            "attn_norm": (32,), "attn_q": (32, 4 * head), "attn_q_norm": (head,),
            "attn_output": (4 * head, 32), "post_attention_norm": (32,), "ffn_norm": (32,),
            "ffn_gate": (32, 64), "ffn_up": (32, 64), "ffn_down": (64, 32), "post_ffw_norm": (32,),
            "inp_gate": (32, 16), "proj": (16, 32), "post_norm": (32,),
            "layer_output_scale": (1,),
        }  # fmt: skip
        if layer < 2:
            block |= {"attn_k": (32, 2 * head), "attn_v": (32, 2 * head), "attn_k_norm": (head,)}
        rows += [Row(f"blk.{layer}.{name}.weight", dims) for name, dims in block.items()]
    keys = (
        Key("general.architecture", STRING, "gemma4"),
        Key("gemma4.context_length", U32, 64),
        Key("gemma4.embedding_length", U32, 32),
        Key("gemma4.block_count", U32, n_layer),
        Key("gemma4.feed_forward_length", ARRAY, Array(I32, [64] * n_layer)),
        Key("gemma4.attention.head_count", U32, 4),
        Key("gemma4.attention.head_count_kv", ARRAY, Array(U32, [2] * n_layer)),
        Key("gemma4.attention.key_length", U32, 16),
        Key("gemma4.attention.value_length", U32, 16),
        Key("gemma4.attention.key_length_swa", U32, 8),
        Key("gemma4.attention.value_length_swa", U32, 8),
        Key("gemma4.attention.layer_norm_rms_epsilon", F32, 1e-6),
        Key("gemma4.attention.sliding_window", U32, 8),
        Key("gemma4.attention.sliding_window_pattern", ARRAY, Array(BOOL, sliding)),
        Key("gemma4.attention.shared_kv_layers", U32, 2),
        Key("gemma4.embedding_length_per_layer_input", U32, 16),
        Key("gemma4.rope.dimension_count", U32, 16),
        Key("gemma4.rope.dimension_count_swa", U32, 8),
        Key("gemma4.rope.freq_base", F32, 1e6),
        Key("gemma4.rope.freq_base_swa", F32, 1e4),
        Key("gemma4.final_logit_softcapping", F32, 30.0),
        *_tokenizer("gemma4"),
    )
    return Forged(keys, tuple(rows))
