"""Which layers of a model attend to a sliding window only."""

from __future__ import annotations

from typing import Final

from pedsup.gguf_file.header import GGUFHeader
from pedsup.gguf_file.rules import MAX_LAYERS, bad_field, per_layer
from pedsup.gguf_file.values import ArrayValue, ValueType
from pedsup.messages import message

PATTERN: Final = "%s.attention.sliding_window_pattern"


FULL_EVERY: Final = 6
"""Of Gemma 3: the last of so many layers sees the whole context, unless the file says otherwise."""


def gemma3_sliding(header: GGUFHeader) -> list[bool]:
    """Which layers of a Gemma 3 slide: `load_swa_pattern` and `set_swa_pattern` of llama.cpp.

    Raises:
        BadFileError: a pattern of another type, length or range.
    """
    n_layer, pattern = header.get("%s.block_count"), header.get(PATTERN)
    if not header.get("%s.attention.sliding_window"):
        return [False] * n_layer
    if isinstance(pattern, ArrayValue):
        kinds = (ValueType.BOOL, ValueType.UINT32, ValueType.INT32)
        return [bool(v) for v in per_layer(header, PATTERN, element=kinds)]
    every = FULL_EVERY if pattern is None else pattern
    if not isinstance(every, int) or isinstance(every, bool) or not 0 <= every <= MAX_LAYERS:
        raise bad_field(
            header,
            PATTERN,
            message("is {value}", value=f"{pattern!r:.60}"),
            message("a number from {low} to {high}", low=0, high=MAX_LAYERS),
        )
    return [every == 0 or i % every < every - 1 for i in range(n_layer)]


def sliding_layers(header: GGUFHeader) -> list[bool]:
    kinds = (ValueType.BOOL, ValueType.UINT32, ValueType.INT32)
    sliding = [bool(v) for v in per_layer(header, PATTERN, element=kinds)]
    if not any(sliding) or header.value_types[header.full_key(PATTERN)] is not ValueType.ARRAY:
        raise bad_field(header, PATTERN, "has no sliding layer", "an array with sliding layers")
    return sliding
