"""From the options of `run` to a request: what has no effect is refused, a phone chooses."""

from __future__ import annotations

from typing import Any, Final

import click

from pedsup.errors import UsageError
from pedsup.progress import say
from pedsup_export.adapter.folder import Adapter
from pedsup_export.allocation.budget import Budget, parse_budget
from pedsup_export.phone.budget import phone_budget, sees_beside
from pedsup_export.phone.command import find_phone, quant_for
from pedsup_export.phone.models import model_of_folder
from pedsup_export.phone.vocabulary import cut_model
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ADAPTER_FILES, BASE_FILES, ModelRef, resolve
from pedsup_export.vocabulary_cut.request import VocabularyRequest, vocabulary_request

_AS_GIVEN: Final = (
    "out", "merge_dtype", "imatrix", "calibrated", "allocation", "save_allocation", "allow_unused",
    "allow_no_effect", "tokenizer", "force", "threads", "name", "license",
)  # fmt: skip
"""Options that are fields of the request as they are."""


def refuse_without_effect(options: dict[str, Any]) -> None:
    """An option that would do nothing is a mistake, not to be passed over."""
    pairs = (
        ("thresholds", "gate", "--gate"),
        ("gate_examples", "gate", "--gate"),
        ("adapter_revision", "adapter", "--adapter"),
        ("budget", "calibrated", "--calibrated"),
        ("allocation", "calibrated", "--calibrated"),
    )
    for first, second in (("imatrix", "calibrated"), ("budget", "allocation")):
        if options[first] is not None and options[second] is not None:
            raise UsageError(
                f"--{first} and --{second} exclude each other", remedy="give one of them"
            )
    chosen = options["budget"] is not None or _phone_chooses_types(options)
    if options["save_allocation"] is not None and not chosen:
        raise UsageError(
            "--save-allocation has no effect without --budget",
            remedy="give a --budget, or --phone with --calibrated",
        )
    if options["mmproj"] == "off" and _explicit("mmproj_type"):
        raise UsageError(
            "--mmproj-type has no effect with --mmproj off", remedy="leave one of them out"
        )
    for name, needed, option in pairs:
        if options[name] is not None and options[needed] is None:
            given = "--" + name.replace("_", "-")
            raise UsageError(
                f"{given} has no effect without {option}", remedy=f"give both, or leave {given} out"
            )


def export_request(options: dict[str, Any]) -> ExportRequest:
    """What `run` was asked for; hub names are resolved to folders."""
    base = resolve(options["base"], BASE_FILES, revision=options["revision"])
    vocabulary = vocabulary_request(
        options["languages"], options["vocabulary"], options["keep_texts"]
    )
    quant = _quant(options, base, vocabulary)
    budget = parse_budget(options["budget"]) if options["budget"] else None
    if _phone_chooses_types(options):
        budget = _phone_budget(options, base, vocabulary)
    adapter = base_4bit = None
    if options["adapter"]:
        adapter = resolve(options["adapter"], ADAPTER_FILES, revision=options["adapter_revision"])
    if options["base_4bit"]:
        base_4bit = resolve(options["base_4bit"], BASE_FILES)
    return ExportRequest(
        base=base,
        adapter=adapter,
        base_4bit=base_4bit,
        merge_base=choose_merge_base(options["merge_base"], adapter, base_4bit),
        quant=quant,
        tensor_types=tuple(_split(text) for text in options["tensor_types"]),
        budget=budget,
        gate_reference=options["gate"],
        gate_thresholds=options["thresholds"],
        gate_examples=options["gate_examples"],
        vocabulary=vocabulary,
        mmproj=options["mmproj_type"] if options["mmproj"] == "auto" else None,
        **{name: options[name] for name in _AS_GIVEN},
    )


def _quant(options: dict[str, Any], base: ModelRef, vocabulary: VocabularyRequest | None) -> str:
    """The type asked for, or the one that suits `--phone`."""
    asked: str = options["quant"]
    if options["phone"] is None:
        return asked
    phone = find_phone(options["phone"], None, None)
    projector = options["mmproj_type"] if options["mmproj"] == "auto" else None
    given = asked if _explicit("quant") else None
    return quant_for(phone, base, given, vocabulary, projector)


def _explicit(name: str) -> bool:
    """Whether an option was given, and not left at its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def _phone_chooses_types(options: dict[str, Any]) -> bool:
    """Whether `--phone` is the budget: with statistics, and nothing that says more."""
    if options["phone"] is None or options["calibrated"] is None or _explicit("quant"):
        return False
    return options["budget"] is None and options["allocation"] is None


def _phone_budget(
    options: dict[str, Any], base: ModelRef, vocabulary: VocabularyRequest | None
) -> Budget:
    """What the phone leaves for the weights; beside the projector too where one was asked for."""
    phone = find_phone(options["phone"], None, None)
    projector = options["mmproj_type"] if options["mmproj"] == "auto" else None
    opened = model_of_folder(base.folder, base.name, projector=projector is not None)
    model = cut_model(opened, vocabulary)
    if _explicit("mmproj") or _explicit("mmproj_type"):
        return phone_budget(phone, model, projector)
    budget = phone_budget(phone, model)
    if not sees_beside(phone, model, budget, projector):
        say(f"note: {phone.name} has no memory for the projector beside these weights: "
            f"--mmproj-type {projector} makes room for it, --mmproj off leaves it out")  # fmt: skip
    return budget


def choose_merge_base(
    asked: str | None, adapter: ModelRef | None, base_4bit: ModelRef | None
) -> str | None:
    """Which base the adapter is merged into: the one asked for, else the one it names.

    An adapter trained against a 4-bit base has learned to correct that base's rounding too.
    """
    if base_4bit is None:
        if asked == "4bit":
            raise UsageError("--merge-base 4bit needs --base-4bit", remedy="give both")
        return asked
    if asked is not None or adapter is None:
        return asked
    trained_on = Adapter.open(adapter.folder).base_model_name or ""
    return "4bit" if "4bit" in trained_on.lower() or "nf4" in trained_on.lower() else "16bit"


def _split(text: str) -> tuple[str, str]:
    pattern, equals, kind = text.rpartition("=")
    return (pattern, kind) if equals else (text, "")  # the plan reports what is missing
