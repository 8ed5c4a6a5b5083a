"""What the user asked for: one frozen record, made by the command line, read by the planner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pedsup_export.allocation.budget import Budget
from pedsup_export.source.floats import RoundTo
from pedsup_export.source.hub import ModelRef
from pedsup_export.vocabulary_cut.request import VocabularyRequest


@dataclass(frozen=True)
class ExportRequest:
    """One export.

    Attributes:
        base: the checkpoint whose config, tokenizer and unadapted tensors are used.
        merge_base: '16bit' or '4bit' when `base_4bit` is given too; the adapter is merged
            into that one and all tensors come from it.
        merge_dtype: 'float32' keeps the merged weight exact until it is quantized; 'bfloat16'
            or 'float16' round it first, as a pipeline with a 16-bit intermediate file does.
        tokenizer: 'adapter' takes tokenizer and template from the adapter's folder where they
            differ from the base's; 'base' never does.
        allow_no_effect: export although the adapter's change is exactly zero.
        gate_reference: the same merge in 16 or 32 bits; the file must come close enough to it.
        gate_examples: held-out examples of the adapter's task that the gate scores too.
        vocabulary: which tokens to keep; None keeps them all.
        mmproj: type of the projector's matrices; None writes no projector.
        calibrated: statistics of `calibrate`: matrices are rounded with error feedback.
        budget, allocation: choose each tensor's type by the statistics, or take a saved choice.
        save_allocation: where to keep the choice.
        replace_foreign: with `force`, also what pedsup did not write; only after a question.
        tensor_types: (regular expression, type name) pairs that override the mixture.
    """

    base: ModelRef
    out: Path
    adapter: ModelRef | None = None
    base_4bit: ModelRef | None = None
    merge_base: str | None = None
    quant: str = "Q4_K_M"
    merge_dtype: RoundTo = "float32"
    tensor_types: tuple[tuple[str, str], ...] = ()
    imatrix: Path | None = None
    calibrated: Path | None = None
    budget: Budget | None = None
    allocation: Path | None = None
    save_allocation: Path | None = None
    allow_unused: bool = False
    allow_no_effect: bool = False
    tokenizer: Literal["adapter", "base"] = "adapter"
    force: bool = False
    replace_foreign: bool = False
    threads: int = 2
    gate_reference: Path | None = None
    gate_thresholds: Path | None = None
    gate_examples: Path | None = None
    name: str | None = None
    license: str | None = None
    vocabulary: VocabularyRequest | None = None
    mmproj: str | None = None
