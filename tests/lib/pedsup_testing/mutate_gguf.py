"""Structured mutations of a whole GGUF: every kind of field can become any kind of wrong.

One function for hypothesis (whose `randoms()` shrinks) and for long seeded runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from pedsup_testing import forged_gguf as fg
from pedsup_testing.forged_gguf import Array, Forged, Key, Row

NUMBERS = (
    0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 127, 255, 256, 512, 513, 1 << 15,
    (1 << 16) - 1, 1 << 16, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
    1 << 40, (1 << 62) + 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3.4e38, float("inf"), float("nan"), 1e-6, 0.5)
TEXTS: tuple[str | bytes, ...] = (
    "", "a", "llama", "gemma4", "gpt2", "no_vocab", "none", "bert", "x" * 64, "x" * 300,
    b"\xff\xfe", b"a\0b", b"\xed\xa0\x80", "é", "linear", "yarn", "longrope", "model", "adapter",
    "llama-bpe", "gpt-2", "default", "{{ 1 }}", "<bos>", "<0x41>",
)  # fmt: skip
EXTRA_KEYS = (
    "%s.expert_count", "%s.expert_used_count", "%s.expert_group_count", "%s.rope.scaling.type",
    "%s.rope.scaling.factor", "%s.attention.causal", "%s.pooling_type", "%s.nextn_predict_layers",
    "%s.vocab_size", "%s.attention.key_length", "%s.attention.value_length", "split.count",
    "general.type", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.pre", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.suppress_tokens",
    "tokenizer.ggml.token_type_count", "%s.embedding_length_out", "%s.attention.clamp_kqv",
    "%s.attention.scale", "%s.logit_scale", "%s.rope.scaling.original_context_length",
    "%s.rope.scaling.attn_factor", "%s.rope.dimension_sections", "%s.attention.max_alibi_bias",
    "%s.classifier.output_labels", "general.file_type", "general.sampling.temp",
    "%s.expert_weights_scale", "%s.expert_feed_forward_length", "%s.attention.group_norm_groups",
    "tokenizer.ggml.precompiled_charsmap", "general.tensor_extra.name", "%s.use_parallel_residual",
    "%s.decoder_start_token_id", "%s.interleave_moe_layer_step", "%s.attention.sliding_window",
    "%s.attention.temperature_scale", "%s.residual_scale", "%s.embedding_scale",
)  # fmt: skip


def mutate(whole: Forged, random: Random) -> bytes:
    """The bytes of `whole` with one to three mutations."""
    forged = whole
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        forged = random.choice(_MUTATIONS)(forged, random)
    data = bytearray(forged.encode())
    kind = random.randrange(12)
    if kind == 0:
        del data[random.randrange(len(data)) :]
    elif kind == 1:
        data += bytes(random.randrange(1, 100))
    elif kind == 2:
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(min(len(data), len(forged.header())))
            data[at] = random.randrange(256)
    return bytes(data)


def _scalar(kind: int, random: Random) -> Any:
    if kind == fg.STRING:
        return random.choice(TEXTS)
    if kind in (fg.F32, fg.F64):
        return random.choice(FLOATS)
    if kind == fg.BOOL:
        return bytes([random.choice((0, 1, 2, 255))])
    n = {fg.U8: 1, fg.I8: 1, fg.U16: 2, fg.I16: 2, fg.U32: 4, fg.I32: 4}.get(kind, 8)
    return (random.choice(NUMBERS) & ((1 << 8 * n) - 1)).to_bytes(n, "little")


def _value(kind: int, random: Random) -> Any:
    if kind != fg.ARRAY:
        return _scalar(kind, random)
    element = random.choice((fg.U32, fg.I32, fg.F32, fg.BOOL, fg.STRING, fg.U8, fg.U64))
    items = [_scalar(element, random) for _ in range(random.choice((0, 1, 2, 3, 4, 5, 300)))]
    return Array(element, items, random.choice((None, None, None, 0, 1, 1 << 40, (1 << 64) - 1)))


def _put(forged: Forged, at: int, key: Key) -> Forged:
    return replace(forged, keys=(*forged.keys[:at], key, *forged.keys[at + 1 :]))


def _change_value(forged: Forged, random: Random) -> Forged:
    at = random.randrange(len(forged.keys))
    key = forged.keys[at]
    if isinstance(key.value, Array) and key.value.items and random.random() < 0.8:
        items = list(key.value.items)
        where = random.randrange(len(items))
        action = random.randrange(5)
        if action == 0:
            items[where] = _scalar(key.value.element, random)
        elif action == 1:
            del items[where]
        elif action == 2:
            items.append(items[where])
        elif action == 3:
            items[where] = items[random.randrange(len(items))]
        else:
            items = items[:where]
        return _put(forged, at, replace(key, value=replace(key.value, items=items)))
    return _put(forged, at, replace(key, value=_value(key.kind, random)))


def _change_type(forged: Forged, random: Random) -> Forged:
    at = random.randrange(len(forged.keys))
    kind = random.choice((*range(13), 13, 255, (1 << 32) - 1))
    value = _value(kind, random) if kind < 13 else b"\0" * 8
    return _put(forged, at, replace(forged.keys[at], kind=kind, value=value))


def _drop_key(forged: Forged, random: Random) -> Forged:
    at = random.randrange(len(forged.keys))
    return replace(forged, keys=(*forged.keys[:at], *forged.keys[at + 1 :]))


def _twice(forged: Forged, random: Random) -> Forged:
    return replace(forged, keys=(*forged.keys, random.choice(forged.keys)))


def _rename_key(forged: Forged, random: Random) -> Forged:
    at = random.randrange(len(forged.keys))
    return _put(forged, at, replace(forged.keys[at], name=random.choice(TEXTS)))


def _extra_key(forged: Forged, random: Random) -> Forged:
    arch = next((k.value for k in forged.keys if k.name == "general.architecture"), "llama")
    name = random.choice(EXTRA_KEYS).replace("%s", arch if isinstance(arch, str) else "llama")
    kind = random.choice((fg.U32, fg.U32, fg.F32, fg.BOOL, fg.STRING, fg.ARRAY, fg.U16, fg.I32))
    return forged.with_key(name, kind, _value(kind, random))


def _header_field(forged: Forged, random: Random) -> Forged:
    number = random.choice(NUMBERS)
    return random.choice(
        (
            lambda: replace(forged, version=number & 0xFFFFFFFF),
            lambda: replace(forged, n_keys=number),
            lambda: replace(forged, n_rows=number),
            lambda: replace(forged, n_rows=len(forged.rows) - 1),
            lambda: replace(forged, magic=random.choice((b"GGUE", b"FUGG", b"GGML"))),
            lambda: replace(forged, alignment=random.choice((1, 8, 16, 64, 128))),
        )
    )()


def _row(forged: Forged, random: Random) -> Forged:
    if not forged.rows:
        return forged
    at = random.randrange(len(forged.rows))
    row = forged.rows[at]
    dims = list(row.dims)
    changes: tuple[Callable[[], Row], ...] = (
        lambda: replace(row, kind=random.choice((*range(42), 255, (1 << 32) - 1))),
        lambda: replace(row, kind=random.choice((1, 2, 8, 9, 12, 26, 28, 30))),
        lambda: replace(row, offset=random.choice(NUMBERS)),
        lambda: replace(row, n_dims=random.choice((0, 1, 2, 3, 4, 5, 1 << 31, (1 << 32) - 1))),
        lambda: replace(row, name=random.choice((*TEXTS, *(r.name for r in forged.rows)))),
        lambda: replace(row, dims=tuple(_dim(d, random) for d in dims)),
        lambda: replace(row, dims=(*dims, random.choice((1, 2, 1 << 32)))),
        lambda: replace(row, dims=tuple(dims[::-1])),
        lambda: replace(row, dims=tuple(dims[:1])),
    )
    new = random.choice(changes)()
    return replace(forged, rows=(*forged.rows[:at], new, *forged.rows[at + 1 :]))


def _dim(size: int, random: Random) -> int:
    return (
        size
        if random.random() < 0.5
        else random.choice((*NUMBERS, size - 1, size + 1) * 1) % (1 << 64)
    )


def _drop_row(forged: Forged, random: Random) -> Forged:
    if not forged.rows:
        return forged
    at = random.randrange(len(forged.rows))
    return replace(forged, rows=(*forged.rows[:at], *forged.rows[at + 1 :]))


def _swap_rows(forged: Forged, random: Random) -> Forged:
    rows = list(forged.rows)
    random.shuffle(rows)
    return replace(forged, rows=tuple(rows))


_MUTATIONS: tuple[Callable[[Forged, Random], Forged], ...] = (
    _change_value, _change_value, _change_value, _change_type, _drop_key, _twice, _rename_key,
    _extra_key, _extra_key, _header_field, _row, _row, _drop_row, _swap_rows,
)  # fmt: skip
