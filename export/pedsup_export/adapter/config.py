"""`adapter_config.json` of a PEFT LoRA adapter: what it says, and what cannot be merged.

Everything that would make the merged weight something other than W + scaling * B A (or DoRA's
rescaled sum) is refused by the name of its option, because a merge that ignores it would be
wrong without a sign. Semantics: peft 0.21, `tuners/lora/config.py` and `tuners/lora/model.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pedsup.errors import UnsupportedError
from pedsup.files.checks import Check, Count
from pedsup.files.records import record
from pedsup.files.source import Source

_MERGE: Final = (
    "merge this adapter with PEFT (merge_and_unload, save_pretrained) and export the merged "
    "folder as the base, without an adapter"
)

LORA_BIAS: Final = (
    "train again with lora_bias=False. (PEFT can merge it only where every adapted layer of the "
    "base has a bias of its own; those of Gemma and Llama have none)"
)
_TRAIN_PLAIN: Final = "train a plain LoRA: PEFT cannot merge this adapter either"

_UNMERGEABLE: Final = {
    # option: why a plain merge would be wrong, and what helps
    "lora_bias": ("the LoRA branch has a bias of its own", LORA_BIAS),
    "fan_in_fan_out": ("its matrices are stored for transposed weights (GPT-2's Conv1D)", _MERGE),
    "layer_replication": ("it changes the number of layers", _MERGE),
    "target_parameters": ("it adapts parameters of experts", _MERGE),
    "use_qalora": ("its A works on groups of inputs", _TRAIN_PLAIN),
    "use_bdlora": ("its matrices are block-diagonal", _MERGE),
    "alora_invocation_tokens": ("it is active only after its invocation tokens", _TRAIN_PLAIN),
    "arrow_config": ("it routes between several adapters", _TRAIN_PLAIN),
    "kasa_config": ("it rescales its singular values", _MERGE),
    "monteclora_config": ("it samples its weights", _MERGE),
    "velora_config": ("it keeps state of its own", _MERGE),
    "megatron_config": ("it belongs to Megatron's parallel layers", _MERGE),
}

_PROMPTS: Final = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE",
    "ADAPTION_PROMPT", "XLORA", "CPT",
)  # fmt: skip
"""Methods that add inputs or routers: they cannot be merged at all."""

_CHANGES_BASE: Final = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Initialisations that subtract from the base weights; the adapter alone does not say what."""

_DAMAGED: Final = "the adapter's configuration is damaged: copy it from the training run again"
MAX_PATTERN: Final = 2000
MAX_REPETITIONS: Final = 3
_REPETITION: Final = re.compile(r"(?<!\\)[*+{]")
_REPEATED_GROUP: Final = re.compile(r"(?<!\\)\)[*+{]")

# fmt: off
_HARMLESS: Final = frozenset((
    "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "alpha_pattern", "lora_dropout",
    "lora_ga_config", "megatron_core", "modules_to_save", "modules_to_tie", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "target_modules_to_tie", "task_type", "trainable_token_indices",
    "use_dora", "use_rslora",
))
# fmt: on
"""Options that the tensors make plain, or that mattered in training only."""


Rank: TypeAlias = Annotated[int, Check[int](lambda n: 0 < n <= 1 << 16, "a positive integer")]
# A finite float64 may still be infinite as the float32 that multiplies.
Alpha: TypeAlias = Annotated[float, Check[float](lambda x: abs(x) < 1e30, "a finite number")]
Tokens: TypeAlias = Annotated[
    tuple[Count, ...], Check[tuple[int, ...]](lambda t: len({*t}) == len(t), "every token once")
]


@dataclass(frozen=True)
class LoraSettings:
    """The part of the configuration that the arithmetic needs, in PEFT's own names."""

    r: Rank
    lora_alpha: Alpha
    rank_pattern: Mapping[str, Rank] = field(default_factory=dict)
    alpha_pattern: Mapping[str, Alpha] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    ensure_weight_tying: bool = False
    trainable_token_indices: Mapping[str, Tokens] = field(default_factory=dict)
    """By the end of a module's path: '' is the end of each."""
    base_model_name_or_path: str | None = None
    revision: str | None = None

    def rank(self, module: str) -> int:
        """The rank of `module` (path in the base model, without 'base_model.model.')."""
        return self.rank_pattern.get(pattern_key(self.rank_pattern, module), self.r)

    def scaling(self, module: str) -> float:
        """The factor of B A: alpha / r, or alpha / sqrt(r) with rsLoRA."""
        alpha = self.alpha_pattern.get(pattern_key(self.alpha_pattern, module), self.lora_alpha)
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def pattern_key(patterns: Mapping[str, object], module: str) -> str:
    """The first pattern that matches the end of `module`, else `module` itself.

    As peft's `get_pattern_key`: a pattern is a regular expression for the whole path or for
    its last components.
    """
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return pattern
    return module


def parse_config(config: Mapping[str, object], path: Path) -> LoraSettings:
    """Check a configuration.

    Raises:
        UnsupportedError: another PEFT method, or an option that a merge cannot express.
        BadFileError: a field of the wrong type or value.
    """
    _check_method(config, path)
    # Null and empty collections mean "not set".
    given = {key: value for key, value in config.items() if value not in (None, [], {})}
    if isinstance(tokens := given.get("trainable_token_indices"), list):
        given["trainable_token_indices"] = {"": tokens}
    source = Source("the adapter's configuration", path, remedy=_DAMAGED, only_known=False)
    found = record(LoraSettings, given, source)
    for name, patterns in (("rank_pattern", found.rank_pattern),
                           ("alpha_pattern", found.alpha_pattern)):  # fmt: skip
        for pattern in patterns:
            _check_pattern(name, pattern, source)
    return found


def _check_method(config: Mapping[str, object], path: Path) -> None:
    method = config.get("peft_type")
    if method != "LORA":
        raise UnsupportedError(
            f"an adapter of type {method!r}",
            where=path,
            wanted="LORA",
            remedy="train a LoRA adapter: this kind cannot be merged into weights"
            if method in _PROMPTS
            else _MERGE,
        )
    for option, (why, remedy) in _UNMERGEABLE.items():
        if config.get(option):
            raise UnsupportedError(
                f"the adapter uses {option}: {why}", where=path, wanted="plain LoRA", remedy=remedy
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise UnsupportedError(
            f"the adapter was initialised with {start}, which changes the base weights",
            where=path,
            wanted="an adapter relative to the original base",
            remedy="save it again with peft's save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...), which converts it to plain LoRA",
        )


def unknown_options(config: Mapping[str, object]) -> tuple[str, ...]:
    """A warning for each option that is set and that nothing is known of."""
    known = _HARMLESS | _UNMERGEABLE.keys()
    return tuple(
        f"adapter_config.json sets '{key}', which this version of pedsup does not know; "
        "if it changes the arithmetic, the merge will be wrong"
        for key, value in config.items()
        if key not in known and value
    )


def _check_pattern(name: str, pattern: str, source: Source) -> None:
    """Refuse what is not valid, and what `re` may need exponential or high polynomial time for.

    Without a repeated group no repetition is nested in another; what is left are a few runs of
    `.*`, over names of bounded length.
    """
    repeated = len(_REPETITION.findall(pattern))
    if len(pattern) > MAX_PATTERN or repeated > MAX_REPETITIONS or _REPEATED_GROUP.search(pattern):
        raise UnsupportedError(
            f"a pattern in {name} that could take for ever: {pattern[:60]!r}",
            where=source.where,
            wanted=f"at most {MAX_PATTERN} characters and {MAX_REPETITIONS} repetitions, "
            "no repeated group",
            remedy=_MERGE,
        )
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise source.problem(f"{name} is {pattern!r}", wanted="regular expressions") from error
