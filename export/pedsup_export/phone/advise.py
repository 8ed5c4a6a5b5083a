"""From a phone's profile and the models to the advice: candidates, choice, notes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pedsup.engine.api import EngineConfig
from pedsup.engine.select import extra_buffers_policy
from pedsup.errors import UsageError
from pedsup.memory.estimate import Host, estimate
from pedsup.phones.predict import EFFICIENCY, predict
from pedsup.phones.profiles import Figure, Phone
from pedsup_export.phone.card import FAT32_LIMIT
from pedsup_export.phone.models import PhoneModel, planned_header
from pedsup_export.phone.policy import (
    CONTEXT,
    SMALL_CONTEXT,
    TYPES,
    Candidate,
    Choice,
    Means,
    choose,
)
from pedsup_export.phone.sight import Sight, sight
from pedsup_export.types.mixture import file_type

EFFICIENCY_WITHOUT_DOTPROD: Final = (0.2, 0.5)
"""Without dot-product instructions ggml emulates each with six others (`ggml_vdotq_s32`), so that
arithmetic, not memory, may be the bound: an assumption, not measured on a phone."""
DEPTH: Final = 512
DEFAULT_CONTEXT: Final = 8192
"""What `pedsup-run` takes when it fits (`pedsup.run.memory_use.DEFAULT_CTX`)."""


@dataclass(frozen=True)
class Advice:
    """What to export for a phone. Everything in it is predicted."""

    phone: Phone
    models: tuple[PhoneModel, ...]
    candidates: tuple[Candidate, ...]
    choice: Choice
    efficiency: tuple[float, float]
    context: int | None
    """Tokens that `pedsup-run` will take by itself with the chosen file."""
    notes: tuple[str, ...]
    languages: str | None = None
    """Those that the vocabulary is cut to."""
    sight: Sight | None = None
    """What seeing takes with the chosen file; None where it sees nothing, or there is none."""

    @property
    def second_best(self) -> Candidate | None:
        """For a base that no type makes fit: at 4 bits or more, what needs the least memory."""
        usable = [c for c in self.candidates if c.quant not in ("Q3_K_M", "Q2_K", "IQ4_XS")]
        return min(usable, key=lambda c: c.need[SMALL_CONTEXT], default=None)


def advise(phone: Phone, models: Sequence[PhoneModel]) -> Advice:
    """Predict every type of every model on a phone and choose; `models` with the largest first."""
    models = sorted(models, key=lambda model: -model.n_params)
    smallest = models[-1].name
    efficiency = efficiency_of(phone)
    candidates = tuple(
        _candidate(model, quant, phone, efficiency, larger=model.name != smallest)
        for model in models
        for quant in TYPES
    )
    choice = choose(candidates, Means(phone.available_bytes, phone.features))
    chosen = choice.chosen
    context, seen = None, None
    if chosen is not None:
        context = usual_context(chosen)
        model = next(m for m in models if m.name == chosen.model)
        seen = sight(model, chosen, phone, choice.context or SMALL_CONTEXT)
    notes = tuple(_notes(chosen, phone)) if chosen is not None else ()
    advice = Advice(phone, tuple(models), candidates, choice, efficiency, context, notes)
    return replace(advice, sight=seen)


def usual_context(candidate: Candidate) -> int:
    """Tokens of context that `pedsup-run` takes by itself for text."""
    return min(candidate.largest_context or SMALL_CONTEXT, DEFAULT_CONTEXT)


def efficiency_of(phone: Phone) -> tuple[float, float]:
    """Share of the memory bandwidth that decoding reaches there, at least and at most."""
    return EFFICIENCY if "asimddp" in phone.features else EFFICIENCY_WITHOUT_DOTPROD


def with_memory(phone: Phone, text: str) -> Phone:
    """The phone's profile with another amount of memory, such as '6GB'.

    Raises:
        UsageError: no amount, or none that a phone has.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:g|gb|gib)?\s*", text, re.IGNORECASE)
    gib = float(match[1]) if match else 0.0
    if not 0.5 <= gib <= 64:
        raise UsageError(
            f"'{text}' is not an amount of memory", where="--memory", wanted="0.5GB to 64GB"
        )
    figures = phone.figures
    share = figures.memory_available_gb.value / figures.memory_gb.value
    hoped = Figure(gib * share, f"unverified: {share:.0%} of --memory, as in the profile")
    own = replace(figures, memory_gb=Figure(gib, "--memory"), memory_available_gb=hoped)
    return replace(phone, figures=own)


def _candidate(
    model: PhoneModel,
    quant: str,
    phone: Phone,
    efficiency: tuple[float, float],
    *,
    larger: bool,
) -> Candidate:
    header = planned_header(model, file_type(quant))
    config = EngineConfig(header.path, n_threads=phone.big_cores)
    host = Host(phone.features, server=True)
    needs = {n: estimate(header, replace(config, n_ctx=n), host) for n in (CONTEXT, SMALL_CONTEXT)}
    found = predict(header, phone, n_ctx=SMALL_CONTEXT, depth=DEPTH, efficiency=efficiency)
    return Candidate(
        model=model.name,
        quant=quant,
        larger=larger,
        file_bytes=header.file_size,
        weights=needs[CONTEXT].weights,
        table=needs[CONTEXT].table,
        need={n: need.total for n, need in needs.items()},
        largest_context=found.largest_n_ctx,
        decode=found.decode,
        read_per_token=int(found.bytes_per_token),
        paging=found.paging_decode,
    )


def _notes(chosen: Candidate, phone: Phone) -> list[str]:
    notes = []
    if chosen.file_bytes > FAT32_LIMIT:
        notes.append(
            "The file is larger than 4 GiB: an SD card formatted as FAT32 cannot hold it (exFAT "
            "can), nor can some file managers copy it."
        )
    if chosen.table:
        notes.append(
            "The per-layer table is not in the memory figure: it stays in the file, and a few KB "
            "of it are read per token. Keep the file on the internal storage."
        )
    repack = extra_buffers_policy(
        "aarch64", weight_bytes=chosen.weights, available_bytes=phone.available_bytes
    )
    if "asimddp" not in phone.features:
        notes.append(
            "Without dot-product instructions (asimddp) every type is slow here, and a llama.cpp "
            "built with dotprod ends with SIGILL on this chip: use a build for armv8-a."
        )
    else:
        notes.append(f"Weight repack for faster prompts: {repack.reason}.")
    return notes
