"""What `pedsup-export plan` and `pedsup-export run --phone` do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import get_terminal_size

import click

from pedsup.errors import ResourceError, UsageError
from pedsup.files.envelope import enveloped
from pedsup.files.paths import from_user
from pedsup.files.standard_streams import json_text
from pedsup.phones.profiles import Phone, profile
from pedsup.progress import human_bytes, say
from pedsup_export.phone.advise import Advice, advise, usual_context, with_memory
from pedsup_export.phone.models import PhoneModel, gemma4_models, model_of_folder, published_model
from pedsup_export.phone.policy import SMALL_CONTEXT
from pedsup_export.phone.render import advice_json, advice_text
from pedsup_export.phone.sight import sight, sight_text
from pedsup_export.phone.vocabulary import (
    compare,
    comparison_json,
    comparison_lines,
    cut_model,
    language_costs,
)
from pedsup_export.source.hub import BASE_FILES, ModelRef, resolve
from pedsup_export.vocabulary_cut.request import VocabularyRequest


def find_phone(name: str | None, profile_file: Path | None, memory: str | None) -> Phone:
    """The phone that the options mean.

    Raises:
        UsageError: none or two were given, or the name is not known.
    """
    if (name is None) == (profile_file is None):
        raise UsageError(
            "one phone is wanted",
            wanted="--phone NAME, or --phone-profile FILE",
            remedy="`pedsup-bench phones` lists the names",
        )
    if profile_file is not None and profile_file.suffix != ".toml":
        raise UsageError("a phone's profile is a TOML file", where=profile_file)
    phone = profile(str(profile_file) if profile_file is not None else str(name))
    return with_memory(phone, memory) if memory else phone


def models_for(base: str | None) -> tuple[PhoneModel, ...]:
    """The model of a base, or both Gemma 4 models without one."""
    if base is None:
        return gemma4_models()
    if not from_user(base).is_dir():
        # A hub id that says what it is: its gigabytes need not be fetched to plan with.
        known = published_model(base)
        if known is not None:
            return (known,)
    reference = resolve(base, BASE_FILES)
    return (model_of_folder(reference.folder, reference.name, projector=True),)


def print_plan(
    phone: Phone,
    models: tuple[PhoneModel, ...],
    vocabulary: VocabularyRequest | None = None,
    *,
    as_json: bool,
) -> int:
    """Print the advice; exit code 7 when nothing suits the phone."""
    advice = advise(phone, [cut_model(model, vocabulary) for model in models])
    found = None
    if vocabulary is not None:
        codes = ",".join(language.code for language in vocabulary.languages)
        advice = replace(advice, languages=codes or None)
        found = compare(vocabulary, advice, advise(phone, models))
        if found is not None:
            folder = next(m.folder for m in models if m.name == found.cut.model)
            found = replace(found, costs=language_costs(vocabulary, folder))
    if as_json:
        saved = comparison_json(found) if found is not None else None
        document = {**advice_json(advice), "vocabulary": saved}
        click.echo(json_text(enveloped(document, "pedsup-export")))
    else:
        click.echo(advice_text(advice, get_terminal_size().columns))
        if found is not None:
            click.echo("\n" + "\n".join(comparison_lines(found)))
    return 0 if advice.choice.chosen is not None else ResourceError.exit_code


def quant_for(
    phone: Phone,
    base: ModelRef,
    asked: str | None,
    vocabulary: VocabularyRequest | None = None,
    projector: str | None = None,
) -> str:
    """The type for a base on a phone; an unsuitable base gets a warning, not a refusal.

    Args:
        asked: an explicit `--quant`, which wins.
        projector: type of the projector that is written too; None where none is.
    """
    opened = model_of_folder(base.folder, base.name, projector=projector is not None)
    model = cut_model(opened, vocabulary)
    advice = advise(phone, (model,))
    chosen = advice.choice.chosen
    _say_sight(advice, model, asked, projector)
    if asked is not None:
        if (why := advice.choice.rejected.get((base.name, asked.upper()))) is not None:
            best = f"; --quant {chosen.quant} is advised" if chosen else ""
            say(f"warning: {asked} on {phone.name}: {why}{best}")
        return asked
    if chosen is not None:
        low, high = chosen.decode
        say(
            f"{phone.name}: {chosen.quant}, {human_bytes(chosen.file_bytes)}, context "
            f"{chosen.largest_context}, {low:.1f} to {high:.1f} tokens/s predicted (not measured)"
        )
        return chosen.quant
    return _unsuitable(phone, advice)


def _say_sight(advice: Advice, model: PhoneModel, asked: str | None, projector: str | None) -> None:
    """What the projector that will be written means on the phone."""
    quant = asked.upper() if asked is not None else None
    candidate = next((c for c in advice.candidates if c.quant == quant), advice.choice.chosen)
    if projector is None or model.towers is None or candidate is None:
        return
    context = advice.choice.context or SMALL_CONTEXT
    found = sight(model, candidate, advice.phone, context, (projector,))
    text = sight_text(found, advice.phone, usual_context(candidate))
    say(f"{advice.phone.name}: {candidate.quant}. {text}")


def _unsuitable(phone: Phone, advice: Advice) -> str:
    least = advice.second_best
    assert least is not None, "every model has candidates"
    better = advise(phone, gemma4_models()).choice.chosen
    say(
        f"warning: {least.model} does not suit {phone.name}: "
        f"{advice.choice.rejected[least.model, least.quant]}"
    )
    if better is not None:
        say(f"         {better.model} {better.quant} would: see `pedsup-export plan --phone`")
    say(f"         taking {least.quant}, the smallest type of at least 4 bits")
    return least.quant
