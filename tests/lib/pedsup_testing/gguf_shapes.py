"""The shapes of attack and damage on GGUF readers, each by a name and with what must be said.

CVE-2024-21825, -21836, -21802, -23496 and -23605 were heap overflows by n_kv, n_tensors, n_dims,
and the lengths of strings and arrays in llama.cpp's gguf_init_from_file; llama.cpp #26318, #26690
and ggml #1516 products of dimensions, type numbers and padding.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from pedsup_testing import forged_gguf as fg
from pedsup_testing.forged_gguf import Array, Forged, Key, Raw

LLAMA, SPM, GEMMA = fg.tiny_llama(), fg.tiny_llama("llama"), fg.tiny_gemma4()
TOKENS = "tokenizer.ggml.tokens"
MODELS = {"llama": LLAMA, "sentencepiece": SPM, "gemma4": GEMMA}


def items(forged: Forged, name: str) -> list[object]:
    """The elements of an array."""
    return list(next(key.value.items for key in forged.keys if key.name == name))


BIG = 1 << 40


def keyed(name: str, kind: int, value: object) -> Forged:
    return LLAMA.with_key(name, kind, value)


def row(**changes: object) -> Forged:
    return LLAMA.with_row("blk.0.ffn_up.weight", **changes)


def raw_key(kind: int, value: bytes) -> Forged:
    return replace(LLAMA, keys=(*LLAMA.keys, Key("x", kind, value)))


def data_bytes(forged: Forged) -> int:
    """How long the tensor data is, padding included."""
    header = len(forged.header())
    return len(forged.encode()) - header - (-header % forged.alignment)


# name: (file, what the message says)
SHAPES: dict[str, tuple[Forged, str]] = {
    # counts
    "n_kv of 2^63": (replace(LLAMA, n_keys=1 << 63), "metadata keys announced"),
    "n_kv that wraps": (replace(LLAMA, n_keys=(1 << 64) - 1), "metadata keys announced"),
    "one key too many": (replace(LLAMA, n_keys=len(LLAMA.keys) + 1), "byte"),
    "one key too few": (replace(LLAMA, n_keys=len(LLAMA.keys) - 1), "byte"),
    "n_tensors of 2^61": (replace(LLAMA, n_rows=1 << 61), "tensors and"),
    "n_tensors of 2^20": (replace(LLAMA, n_rows=1 << 20), "tensors and"),
    "one tensor too many": (replace(LLAMA, n_rows=len(LLAMA.rows) + 1), "byte"),
    # strings
    "key of 2^40 bytes": (
        replace(Forged(), n_keys=1, alignment=8, data=struct.pack("<Q", BIG)),
        "the name of metadata key 1 of 1 of 1099511627776 bytes",
    ),
    "text of 2^40 bytes": (
        keyed("general.name", fg.STRING, Raw(struct.pack("<Q", BIG))),
        "the text 'general.name' of 1099511627776 bytes",
    ),
    "text of 2^64-1 bytes": (
        keyed("general.name", fg.STRING, Raw(b"\xff" * 8)),
        "the text 'general.name' of 18446744073709551615 bytes",
    ),
    "text past the end": (
        keyed("general.name", fg.STRING, Raw(struct.pack("<Q", 1 << 23))),
        "left in the file",
    ),
    "string in an array of 2^40 bytes": (
        keyed("x", fg.ARRAY, struct.pack("<IQQ", fg.STRING, 1, BIG)),
        "text of 1099511627776 bytes in 'x'",
    ),
    "string in an array of 2^64-8 bytes": (
        keyed("x", fg.ARRAY, struct.pack("<IQQ", fg.STRING, 1, (1 << 64) - 8)),
        "text of 18446744073709551608 bytes in 'x'",
    ),
    "empty key": (keyed("", fg.U32, 1), "a metadata key without a name"),
    "key with a zero byte": (
        keyed("general.architecture\0", fg.STRING, "llama"),
        "a zero byte in the name of metadata key",
    ),
    "template with a zero byte": (
        keyed("tokenizer.chat_template", fg.STRING, "{{ x }}\0{{ evil }}"),
        "a zero byte in the text 'tokenizer.chat_template'",
    ),
    "text that is not UTF-8": (keyed("general.name", fg.STRING, b"\xff\xfe"), "is not UTF-8"),
    "surrogate in UTF-8": (keyed("general.name", fg.STRING, b"\xed\xa0\x80"), "is not UTF-8"),
    "key that is not UTF-8": (
        replace(LLAMA, keys=(*LLAMA.keys, Key(b"\xc3\x28", fg.U32, 1))),
        "is not UTF-8",
    ),
    "token that is not UTF-8": (
        keyed(TOKENS, fg.ARRAY, Array(fg.STRING, ["a", b"\xe2\x82", "b"])),
        "contains text that is not UTF-8",
    ),
    # a character that would be whole if the length after it were text
    "character cut at a string's border": (
        keyed("x", fg.ARRAY, Array(fg.STRING, [b"ab\xe2", b"y" * 0xAC82])),
        "contains text that is not UTF-8",
    ),
    "duplicate key": (
        replace(LLAMA, keys=(*LLAMA.keys, LLAMA.keys[0])),
        "the metadata key 'general.architecture' appears twice",
    ),
    # types
    "value type 13": (raw_key(13, b"\0" * 8), "has the type number 13"),
    "value type 2^32-1": (raw_key((1 << 32) - 1, b""), "has the type number 4294967295"),
    "array of arrays": (
        keyed("x", fg.ARRAY, struct.pack("<IQ", fg.ARRAY, 1) + Array(fg.U8, [1]).encode()),
        "'x' is an array of arrays",
    ),
    "array of type 77": (keyed("x", fg.ARRAY, struct.pack("<IQ", 77, 1)), "type number 77"),
    "array of 2^40 elements": (
        keyed("x", fg.ARRAY, struct.pack("<IQ", fg.U8, BIG)),
        "'x' has 1099511627776 elements",
    ),
    "array whose bytes wrap": (
        keyed("x", fg.ARRAY, struct.pack("<IQ", fg.U64, 1 << 61)),
        "'x' has 2305843009213693952 elements",
    ),
    "array past the end": (
        keyed("x", fg.ARRAY, struct.pack("<IQ", fg.U8, 1 << 23)),
        "left in the file",
    ),
    "strings past the end": (
        keyed("x", fg.ARRAY, struct.pack("<IQ", fg.STRING, 1 << 20)),
        "left in the file",
    ),
    "bool of 2": (keyed("x", fg.BOOL, b"\2"), "'x' is 2"),
    "array of bools with a 7": (
        keyed("x", fg.ARRAY, struct.pack("<IQ", fg.BOOL, 3) + b"\0\1\7"),
        "bytes other than 0 and 1",
    ),
    "NaN": (keyed("llama.rope.freq_base", fg.F32, float("nan")), "is nan"),
    "Inf in an array": (keyed("x", fg.ARRAY, Array(fg.F64, [1.0, float("inf")])), "NaN or Inf"),
    # alignment
    "alignment 0": (keyed("general.alignment", fg.U32, 0), "'general.alignment' is 0"),
    "alignment 3": (keyed("general.alignment", fg.U32, 3), "'general.alignment' is 3"),
    "alignment 2^31": (keyed("general.alignment", fg.U32, 1 << 31), "is 2147483648"),
    "alignment 48": (keyed("general.alignment", fg.U32, 48), "'general.alignment' is 48"),
    "alignment as text": (keyed("general.alignment", fg.STRING, "32"), "is '32' (STRING)"),
    "alignment of 64 bits": (keyed("general.alignment", fg.U64, 32), "is 32 (UINT64)"),
    # dimensions
    "n_dims of 0": (row(n_dims=0), "has 0 dimensions"),
    "n_dims of 5": (row(n_dims=5, dims=(32, 64, 1, 1, 1)), "has 5 dimensions"),
    "n_dims of 2^31": (row(n_dims=1 << 31), "has 2147483648 dimensions"),
    "dimension 0": (row(dims=(32, 0)), "has the dimensions [32, 0]"),
    "dimension of -1": (row(dims=(32, (1 << 64) - 1)), "has the dimensions [32, 1844"),
    "product that wraps to 0": (row(dims=(1 << 32, 1 << 32)), "fewer than 2^63 elements"),
    "product that wraps to 32 x 64": (
        row(dims=(1 << 32, 1 << 31, 2, 1)),
        "fewer than 2^63 elements",
    ),
    "bytes that wrap": (row(dims=(1 << 61,)), "has 9223372036854775808 bytes"),
    "bytes that wrap in blocks": (row(dims=(1 << 60, 4), kind=2), "the file ends inside"),
    "row no multiple of the block": (row(dims=(33, 64), kind=2), "rows a multiple of 32"),
    "Q4_K of a short row": (row(dims=(32, 64), kind=12), "rows a multiple of 256"),
    "removed tensor type": (row(kind=4), "has the type number 4"),
    "tensor type 2^31": (row(kind=1 << 31), "has the type number 2147483648"),
    # offsets
    "offset past the end": (row(offset=1 << 50), "lies outside the file"),
    "offset that wraps": (row(offset=(1 << 64) - 32), "lies outside the file"),
    "offset not aligned": (row(offset=33), "not a multiple of the alignment 32"),
    "overlap": (row(offset=0), "overlaps the one before it"),
    "hole": (LLAMA.with_row("output_norm.weight", offset=65536), "leaves a hole"),
    "bytes after the last tensor": (
        replace(LLAMA, data=bytes(data_bytes(LLAMA) + 99)),
        "after the last tensor",
    ),
    "duplicate tensor": (
        replace(LLAMA, rows=(*LLAMA.rows, LLAMA.rows[-1])),
        "the tensor 'blk.1.ffn_down.weight' appears twice",
    ),
    "tensor name of 64 bytes": (row(name="n" * 64), "of 64 bytes"),
    "tensor name of 2^40 bytes": (
        replace(Forged(), n_rows=1, alignment=8, data=struct.pack("<Q", BIG)),
        "the name of tensor 1 of 1 of 1099511627776 bytes",
    ),
    "tensor without a name": (row(name=""), "has no name"),
    "tensor name with a zero byte": (row(name="output.weight\0x"), "a zero byte"),
    # prefix
    "big-endian": (replace(LLAMA, version=3 << 24), "a big-endian file"),
    "version 1": (replace(LLAMA, version=1), "GGUF version 1"),
    "version 4": (replace(LLAMA, version=4), "GGUF version 4"),
    "GGML of 2023": (replace(LLAMA, magic=b"lmgg"), "a GGML file of 2023"),
    "web page": (replace(LLAMA, magic=b"<!DO"), "a web page"),
    # tokenizer: what llama_vocab::impl::load asserts, and what it reads past
    "tokens fewer than scores": (
        keyed(TOKENS, fg.ARRAY, Array(fg.STRING, items(LLAMA, TOKENS)[:-7])),
        "one for each token",
    ),
    "token types fewer than tokens": (
        keyed("tokenizer.ggml.token_type", fg.ARRAY, Array(fg.I32, [1] * 5)),
        "'tokenizer.ggml.token_type' has 5 values",
    ),
    "scores of the wrong type": (
        keyed("tokenizer.ggml.scores", fg.ARRAY, Array(fg.U8, [1] * 263)),
        "is an array of UINT8",
    ),
    "tokens of the wrong type": (
        keyed(TOKENS, fg.ARRAY, Array(fg.U32, [1] * 263)),
        "is an array of UINT32",
    ),
    "tokens no array": (keyed(TOKENS, fg.U32, 5), "is of type UINT32"),
    "no tokens": (LLAMA.without_key(TOKENS), f"'{TOKENS}' is missing"),
    "no token": (keyed(TOKENS, fg.ARRAY, Array(fg.STRING, [])), "has 0 tokens"),
    "two equal tokens": (
        keyed(TOKENS, fg.ARRAY, Array(fg.STRING, [*items(LLAMA, TOKENS)[:-2], "x", "x"])),
        "the same as an earlier one",
    ),
    "tokens equal as C strings": (
        keyed(TOKENS, fg.ARRAY, Array(fg.STRING, [*items(LLAMA, TOKENS)[:-1], "ab\0cd"])),
        "the same as an earlier one",
    ),
    "empty token beside its stand-in": (
        keyed(TOKENS, fg.ARRAY, Array(fg.STRING, ["[EMPTY_1]", "", *items(LLAMA, TOKENS)[2:]])),
        "the same as an earlier one",
    ),
    "merges of the wrong type": (
        keyed("tokenizer.ggml.merges", fg.ARRAY, Array(fg.I32, [1, 2])),
        "is an array of INT32",
    ),
    "merges missing": (LLAMA.without_key("tokenizer.ggml.merges"), "merges' is missing"),
    "eos outside": (keyed("tokenizer.ggml.eos_token_id", fg.U32, 263), "is 263 (UINT32)"),
    "eos of -1": (keyed("tokenizer.ggml.eos_token_id", fg.I32, -1), "is -1 (INT32)"),
    "bos added but missing": (
        LLAMA.without_key("tokenizer.ggml.bos_token_id"),
        "'tokenizer.ggml.bos_token_id' is missing",
    ),
    "sep added but missing": (
        keyed("tokenizer.ggml.add_sep_token", fg.BOOL, True),
        "'tokenizer.ggml.seperator_token_id' is missing",
    ),
    "template as a number": (keyed("tokenizer.chat_template", fg.U32, 1), "is of type UINT32"),
    "sentencepiece without byte tokens": (
        SPM.with_key(
            TOKENS, fg.ARRAY,
            Array(fg.STRING, [f"t{i}" if i == 70 else t for i, t in enumerate(items(SPM, TOKENS))]),
        ),
        "lacks the byte token",
    ),
    # hyperparameters: divisions by zero and assertions
    "no layers": (keyed("llama.block_count", fg.U32, 0), "'llama.block_count' is 0"),
    "513 layers": (keyed("llama.block_count", fg.U32, 513), "'llama.block_count' is 513"),
    "layers of 64 bits": (keyed("llama.block_count", fg.U64, 2), "is 2 (UINT64)"),
    "no heads": (keyed("llama.attention.head_count", fg.U32, 0), "head_count' is 0"),
    "no key heads": (keyed("llama.attention.head_count_kv", fg.U32, 0), "head_count_kv' is 0"),
    "heads that do not divide": (
        keyed("llama.attention.head_count_kv", fg.U32, 3), "is 3 in layer 0",
    ),
    "heads for too few layers": (
        keyed("llama.attention.head_count", fg.ARRAY, Array(fg.U32, [4])), "has 1 values",
    ),
    "heads of -4": (
        keyed("llama.attention.head_count", fg.ARRAY, Array(fg.I32, [4, -4])), "is -4",
    ),
    "no width": (keyed("llama.embedding_length", fg.U32, 0), "'llama.embedding_length' is 0"),
    "no context": (LLAMA.without_key("llama.context_length"), "'llama.context_length' is missing"),
    "epsilon of -1": (
        keyed("llama.attention.layer_norm_rms_epsilon", fg.F32, -1.0), "is -1.0",
    ),
    "epsilon as text": (
        keyed("llama.attention.layer_norm_rms_epsilon", fg.STRING, "1e-5"), "is '1e-5' (STRING)",
    ),
    "odd rotation": (keyed("llama.rope.dimension_count", fg.U32, 7), "dimension_count' is 7"),
    "values longer than keys": (
        keyed("llama.attention.value_length", fg.U32, 16), "value_length' is 16",
    ),
    "unknown rope scaling": (keyed("llama.rope.scaling.type", fg.STRING, "x"), "is 'x'"),
    "not causal": (keyed("llama.attention.causal", fg.BOOL, False), "is False"),
    "more experts used than there": (keyed("llama.expert_used_count", fg.U32, 2), "is 2"),
    "expert groups of nothing": (keyed("llama.expert_group_count", fg.U32, 4), "is 4"),
    "predicted layers": (keyed("llama.nextn_predict_layers", fg.U32, 3), "is 3"),
    "a part of a split model": (keyed("split.count", fg.U16, 3), "'split.count' is 3"),
    "gemma4 without sliding layers": (
        GEMMA.with_key(
            "gemma4.attention.sliding_window_pattern", fg.ARRAY, Array(fg.BOOL, [False] * 4)
        ),
        "has no sliding layer",
    ),
    "gemma4 that reuses another kind": (
        GEMMA.with_key(
            "gemma4.attention.sliding_window_pattern", fg.ARRAY,
            Array(fg.BOOL, [True, True, True, False]),
        ),
        "reuse the cache of layer 1",
    ),
    "gemma4 without own caches": (
        GEMMA.with_key("gemma4.attention.shared_kv_layers", fg.U32, 3), "leaves 1 layers",
    ),
    "gemma4 that rotates more than it has": (
        GEMMA.with_key("gemma4.rope.dimension_count_swa", fg.U32, 16), "count_swa' is 16",
    ),
    # tensors
    "token embedding missing": (
        replace(LLAMA, rows=LLAMA.rows[1:]), "'token_embd.weight' is missing",
    ),
    "token embedding in 3 dimensions": (
        LLAMA.with_row("token_embd.weight", dims=(32, 263, 1)), "has the shape",
    ),
    "norm in 16 bits": (LLAMA.with_row("output_norm.weight", kind=1), "is of type F16"),
    "matrix of Q8_1": (row(kind=9), "is of type Q8_1"),
    "matrix of I32": (row(kind=26), "is of type I32"),
    "tensor of a layer that is not": (row(name="blk.7.ffn_up.weight"), "belongs to no layer"),
}  # fmt: skip
