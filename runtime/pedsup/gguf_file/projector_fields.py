"""The fields of a projector as clip.cpp reads them. It asserts the type of each, wanted or not."""

from __future__ import annotations

import re
from typing import Final

from pedsup.gguf_file.header import GGUFHeader
from pedsup.gguf_file.rules import bad_field, bad_value, wrong_value
from pedsup.gguf_file.values import ArrayValue, ValueType
from pedsup.messages import message

ARCHITECTURE: Final = "clip"
GEMMA3, GEMMA4 = "gemma3", "gemma4v"
KNOWN: Final = (GEMMA3, GEMMA4)
"""The vision towers that pedsup knows."""
AUDIO: Final = "gemma4a"
"""The audio tower that may accompany one of them."""

_TOWER: Final = r"clip\.(?:vision|audio|gen\.audio)\."
_WHOLE: Final = """
    embedding_length feed_forward_length block_count projection_dim image_size patch_size
    image_min_pixels image_max_pixels preproc_min_tiles preproc_max_tiles preproc_image_size
    spatial_merge_size n_wa_pattern window_size expert_used_count num_mel_bins chunk_size
    conv_kernel_size max_pos_emb local_block_count local_group_size subsampling_factor
    attention.head_count attention.head_count_kv attention.head_dim projector.scale_factor
    projector.query_side projector.window_side projector.stack_factor projector.window_size
    projector.downsample_rate projector.head_count rvq.num_quantizers sam.head_count
    sam.block_count sam.embedding_length
"""
_TYPES: Final = (
    (ValueType.STRING, re.compile(r"general\.(?:name|description)|clip\.projector_type")),
    (ValueType.STRING, re.compile(_TOWER + "(?:projector_type|mm_patch_merge_type|model_variant)")),
    (
        ValueType.BOOL,
        re.compile(r"clip\.(?:has_(?:vision|audio|gen_audio)_encoder|use_(?:gelu|silu))"),
    ),
    (ValueType.FLOAT32, re.compile(_TOWER + r"(?:attention\.layer_norm_epsilon|swiglu_clamp)")),
    (ValueType.INT32, re.compile(r"clip\.minicpmv_version")),
    (ValueType.UINT32, re.compile(r"clip\.minicpmv_query_num")),
    (ValueType.UINT32, re.compile(f"{_TOWER}(?:{'|'.join(map(re.escape, _WHOLE.split()))})")),
)
"""Every single value that clip.cpp 0c1e57098 reads (clip-impl.h)."""


def check_types(header: GGUFHeader) -> None:
    """Raise `BadFileError` for a field of another type than clip.cpp reads."""
    for key, kind in header.value_types.items():
        wanted = next((type for type, name in _TYPES if name.fullmatch(key)), kind)
        if kind is not wanted:
            raise wrong_value(header, key, wanted.name)


def check_numbers(header: GGUFHeader) -> None:
    """Refuse what clip.cpp would divide by, or takes three of. Raises `BadFileError`."""
    for key, least in (("clip.vision.image_mean", -1e6), ("clip.vision.image_std", 1e-6)):
        value = header.get(key)
        right = isinstance(value, ArrayValue) and value.element is ValueType.FLOAT32
        if not right or len(value) != 3:
            raise bad_field(header, key, message("is not three numbers"), message("three FLOAT32"))
        if not all(least <= number <= 1e6 for number in value.values()):
            wanted = message("a FLOAT32 above {low}", low=least)
            raise bad_value(header, key, value.values(), wanted)
    key = "clip.vision.attention.layer_norm_epsilon"
    value, wanted = header.get(key), message("a FLOAT32 from {low} to {high}", low=0, high=1)
    if value is None:
        raise bad_field(header, key, "is missing", wanted)
    if not 0 <= value <= 1:
        raise bad_value(header, key, value, wanted)


def check_known(header: GGUFHeader, n_embd: int, n_head: int) -> None:
    """What only towers that pedsup knows must have, or must not have. Raises `BadFileError`."""
    wanted: dict[str, object] = {
        "clip.vision.attention.head_count_kv": n_head,
        "clip.vision.attention.head_dim": n_embd // n_head,
        "clip.has_gen_audio_encoder": False,
    }
    if header.get("clip.has_audio_encoder") is True:
        wanted |= {"clip.audio.projector_type": AUDIO, "clip.projector_type": ""}
    for key, right in wanted.items():
        value = header.get(key, right)
        if value != right:
            raise bad_value(header, key, value, repr(right))
