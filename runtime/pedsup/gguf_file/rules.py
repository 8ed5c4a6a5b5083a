"""What a metadata key must be: its type in the file and its range, in one table.

llama.cpp 0c1e57098 (llama-model.cpp, llama-hparams.cpp, models/*.cpp)
throws for a wrong type, which is an error message, but asserts on many values, which ends the
process. The ranges here leave it nothing to assert on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pedsup.errors import BadFileError
from pedsup.gguf_file.cursor import AGAIN
from pedsup.gguf_file.header import GGUFHeader
from pedsup.gguf_file.values import ArrayValue, ValueType
from pedsup.messages import as_message, message

MAX_LAYERS: Final = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""
MAX_WIDTH: Final = 1 << 24
"""Upper bound of a width, head count or window: a larger one is a forged field."""
MAX_CTX: Final = (1 << 31) - 1
MAX_EXPERTS: Final = 1024
PATTERN: Final = "%s.attention.sliding_window_pattern"
FULL_EVERY: Final = 6
"""Of Gemma 3: the last of so many layers sees the whole context, unless the file says otherwise."""
ROPE_SCALINGS: Final = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True)
class Whole:
    """A whole number (UINT32), or one per layer where `per_layer`."""

    low: int
    high: int = MAX_WIDTH
    required: bool = False
    per_layer: bool = False


@dataclass(frozen=True)
class Real:
    """A FLOAT32 above `low`, up to `high`."""

    low: float
    high: float
    required: bool = False


@dataclass(frozen=True)
class Fixed:
    """One of several values of a type."""

    kind: ValueType
    values: tuple[object, ...]


Rule = Whole | Real | Fixed

_COMMON: Final[dict[str, Rule]] = {
    "%s.context_length": Whole(1, MAX_CTX, required=True),
    "%s.embedding_length": Whole(1, required=True),
    "%s.block_count": Whole(1, MAX_LAYERS, required=True),
    "%s.feed_forward_length": Whole(1, required=True, per_layer=True),
    "%s.attention.head_count": Whole(1, 1 << 16, required=True, per_layer=True),
    "%s.attention.head_count_kv": Whole(1, 1 << 16, per_layer=True),
    "%s.attention.key_length": Whole(2, 1 << 16),
    "%s.attention.value_length": Whole(2, 1 << 16),
    "%s.attention.layer_norm_rms_epsilon": Real(0.0, 1.0, required=True),
    "%s.attention.sliding_window": Whole(0),
    "%s.attention.causal": Fixed(ValueType.BOOL, (True,)),
    "%s.rope.dimension_count": Whole(2, 1 << 16),
    "%s.rope.freq_base": Real(0.0, 1e15),
    "%s.rope.scaling.type": Fixed(ValueType.STRING, ROPE_SCALINGS),
    "%s.rope.scaling.factor": Real(0.0, 1e6),
    "%s.rope.scaling.original_context_length": Whole(1, MAX_CTX),
    "%s.embedding_length_per_layer_input": Whole(0),
    "%s.vocab_size": Whole(1),
    "%s.nextn_predict_layers": Whole(0, 0),
    "%s.pooling_type": Whole(0, 0),
    "%s.expert_count": Whole(0, MAX_EXPERTS),
    "%s.expert_used_count": Whole(0, MAX_EXPERTS, per_layer=True),
    "%s.expert_group_count": Whole(0, MAX_EXPERTS),
    "%s.expert_group_used_count": Whole(0, MAX_EXPERTS),
    # A further part would be a file that nobody has checked.
    "split.count": Fixed(ValueType.UINT16, (0, 1)),
    "general.type": Fixed(ValueType.STRING, ("model",)),
}
_GEMMA4: Final[dict[str, Rule]] = {
    **_COMMON,
    "%s.attention.key_length": Whole(2, 1 << 16, required=True),
    "%s.attention.value_length": Whole(2, 1 << 16, required=True),
    "%s.attention.key_length_swa": Whole(2, 1 << 16, required=True),
    "%s.attention.value_length_swa": Whole(2, 1 << 16, required=True),
    "%s.attention.sliding_window": Whole(1, required=True),
    "%s.attention.shared_kv_layers": Whole(0, MAX_LAYERS),
    "%s.embedding_length_per_layer_input": Whole(0, required=True),
    "%s.expert_feed_forward_length": Whole(0, per_layer=True),
    "%s.rope.dimension_count_swa": Whole(2, 1 << 16),
    "%s.rope.freq_base_swa": Real(0.0, 1e15),
    "%s.final_logit_softcapping": Real(0.0, 1e6),
}
_GEMMA3: Final[dict[str, Rule]] = {
    **_COMMON,
    "%s.rope.freq_base_swa": Real(0.0, 1e15),
    "%s.final_logit_softcapping": Real(0.0, 1e6),
}
ASSISTANT: Final = "gemma4-assistant"
"""Gemma 4's drafter models, which cannot run alone."""
RULES: Final[dict[str, dict[str, Rule]]] = {
    "llama": _COMMON,
    "qwen2": _COMMON,
    "qwen3": _COMMON,
    "gemma3": _GEMMA3,
    "gemma4": _GEMMA4,
    ASSISTANT: {
        **_GEMMA4,
        "%s.embedding_length_out": Whole(1, required=True),
        "%s.nextn_predict_layers": Whole(1, MAX_LAYERS, required=True),
    },
}
FOREIGN_RULES: Final[dict[str, Rule]] = {
    "%s.context_length": Whole(1, MAX_CTX, required=True),
    "%s.embedding_length": Whole(1, required=True),
    "%s.block_count": Whole(1, MAX_LAYERS, required=True),
    "split.count": Fixed(ValueType.UINT16, (0, 1)),
    "general.type": Fixed(ValueType.STRING, ("model",)),
}
"""Rules for a language model of any architecture."""
SUPPORTED: Final = ("gemma3", "gemma4", "llama", "qwen2", "qwen3")
"""The architectures that pedsup runs."""


def bad_field(header: GGUFHeader, key: str, found: str, wanted: str) -> BadFileError:
    return BadFileError(
        message("the field '{key}' {problem}", key=header.full_key(key), problem=as_message(found)),
        where=header.path,
        wanted=wanted,
        remedy=AGAIN,
    )


def bad_value(header: GGUFHeader, key: str, value: object, wanted: str) -> BadFileError:
    return bad_field(header, key, message("is {value}", value=f"{value!r:.60}"), wanted)


def wrong_value(header: GGUFHeader, key: str, wanted: str) -> BadFileError:
    """The error for a metadata key whose value or type is not the one that is wanted."""
    value, kind = header.get(key), header.value_types[header.full_key(key)]
    found = message("is {value} ({type})", value=f"{value!r:.60}", type=kind.name)
    return bad_field(header, key, found, wanted)


def check_rules(header: GGUFHeader) -> None:
    """Check each known key of an architecture by its rule; of a foreign one those of any model.

    Raises:
        BadFileError: a field is missing, of another type, or out of its range.
    """
    for key, rule in RULES.get(header.architecture, FOREIGN_RULES).items():
        value = header.get(key)
        if value is None:
            if not isinstance(rule, Fixed) and rule.required:
                raise bad_field(header, key, "is missing", "a complete language model")
            continue
        kind = header.value_types[header.full_key(key)]
        match rule:
            case Whole():
                _check_whole(header, key, rule, kind)
            case Real(low, high):
                if kind is not ValueType.FLOAT32 or not low < value <= high:
                    limits = message(
                        "a FLOAT32 above {low}, up to {high}", low=f"{low:g}", high=f"{high:g}"
                    )
                    raise wrong_value(header, key, limits)
            case Fixed(wanted, values):
                if kind is not wanted or value not in values:
                    raise wrong_value(header, key, " or ".join(map(repr, values)))


def _check_whole(header: GGUFHeader, key: str, rule: Whole, kind: ValueType) -> None:
    wanted = message("a UINT32 from {low} to {high}", low=rule.low, high=rule.high)
    if rule.per_layer and kind is ValueType.ARRAY:
        numbers = per_layer(header, key, element=(ValueType.UINT32, ValueType.INT32))
        wanted = message(
            "a UINT32 from {low} to {high}, one per layer", low=rule.low, high=rule.high
        )
    elif kind is ValueType.UINT32:
        numbers = [header.get(key)]
    else:
        raise wrong_value(header, key, wanted)
    wrong = [number for number in numbers if not rule.low <= number <= rule.high]
    if wrong:
        raise bad_value(header, key, wrong[0], wanted)


def per_layer(
    header: GGUFHeader, key: str, *, element: tuple[ValueType, ...] = tuple(ValueType)
) -> list[int]:
    """A field that is one number for all layers or an array with one for each.

    Raises:
        BadFileError: it is missing, or is an array of another length or type.
    """
    value, n_layer = header.get(key), header.get("%s.block_count")
    if isinstance(value, ArrayValue):
        if len(value) != n_layer or value.element not in element:
            raise bad_field(
                header,
                key,
                message("has {n} values of type {type}", n=len(value), type=value.element.name),
                message(
                    "{n} of type {types}, one per layer",
                    n=n_layer,
                    types=" or ".join(kind.name for kind in element),
                ),
            )
        return value.values()
    if not isinstance(value, int):
        raise bad_value(header, key, value, "a number, or one per layer")
    return [value] * n_layer


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
        wanted = message("a number from {low} to {high}", low=0, high=MAX_LAYERS)
        raise bad_value(header, PATTERN, pattern, wanted)
    return [every == 0 or i % every < every - 1 for i in range(n_layer)]


def sliding_layers(header: GGUFHeader) -> list[bool]:
    """Which layers of a Gemma 4 slide. Raises `BadFileError` where none is said to."""
    kinds = (ValueType.BOOL, ValueType.UINT32, ValueType.INT32)
    sliding = [bool(v) for v in per_layer(header, PATTERN, element=kinds)]
    if not any(sliding) or header.value_types[header.full_key(PATTERN)] is not ValueType.ARRAY:
        raise bad_field(header, PATTERN, "has no sliding layer", "an array with sliding layers")
    return sliding
