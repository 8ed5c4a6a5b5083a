"""The advice as text for people and as JSON for programs; predicted is never called measured."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Final

from pedsup.phones.profiles import shipped_profiles
from pedsup.progress import human_bytes
from pedsup_export.phone.advise import Advice
from pedsup_export.phone.policy import CONTEXT, KL_DEFAULT_MODEL, PERPLEXITY, Candidate, Kind
from pedsup_export.phone.sight import sight_text

SCHEMA: Final = "pedsup-export-plan-phone/1"
CAVEAT: Final = (
    "Nothing here was measured on a phone: memory, bandwidth and efficiency are unverified figures "
    "of the profile (pedsup-bench phones --sources)."
)
COLUMNS: Final = (
    "ppl: rise of perplexity on Llama-3-8B as llama.cpp publishes it. KL: measured, but on "
    "SmolLM2-135M, not on Gemma 4."
)
BESIDE: Final = (
    "An adapter need not be merged: pedsup-export adapter leaves it a file of its own (70 MB for "
    "E4B at rank 16), so a new version needs no new download of the model. Decoding then takes "
    "about 12 % longer for E4B. KL to the exact merge, on a trained adapter's task (a Gemma 4 of "
    "30 M parameters): merged Q4_K_M 0.040, calibrated 0.025; beside a Q4_K_M base 0.038, beside "
    "a quantization-aware base at Q4_0 0.002 (docs/adapter.md)."
)
WIDE: Final = 70
"""Columns from which on the table has all figures."""
WIDTHS: Final = (40, 100)
"""The narrowest text: a phone in portrait. The widest that reads well."""
FEATURES: Final = {
    "asimd": "vectors (asimd)",
    "asimddp": "dot products (asimddp)",
    "fphp": "half floats (fphp)",
    "i8mm": "matrix products (i8mm)",
    "sve2": "long vectors (sve2)",
}
"""The kernel's names of processor features, in words."""
_HEADS: Final = ("model", "type", "file", "memory", "tokens/s", "context", "ppl", "KL", "why not")
_NARROW: Final = ("", "type", "file", "mem.", "tok/s", "")
_GIB: Final = 1 << 30


def advice_text(advice: Advice, width: int = 80) -> str:
    """The choice in words, the table of all candidates, the reasons."""
    width = max(WIDTHS[0], min(width, WIDTHS[1]))
    low, high = advice.efficiency
    lines = [
        *_phone_lines(advice, width),
        "",
        *_choice_lines(advice, width),
        "",
        *_wrapped(
            f"PREDICTED with {CONTEXT} tokens of context, at {100 * low:.0f} to {100 * high:.0f} % "
            "of the memory bandwidth. Files and memory in GiB; tokens/s at the low and the high "
            "end; context: what fits.",
            width,
        ),
        "",
        *_table(advice, width),
        "",
        *_legend(advice, width),
        "",
        *_wrapped(BESIDE, width),
        "",
        *_wrapped(CAVEAT, width),
        *(_wrapped(COLUMNS, width) if width >= WIDE else ()),
    ]
    return "\n".join(lines)


def _phone_lines(advice: Advice, width: int) -> list[str]:
    phone = advice.phone
    low, high = phone.figures.bandwidth_gb_s.value
    features = ", ".join(FEATURES.get(name, name) for name in sorted(phone.features))
    facts = (
        ("chip", phone.chip),
        ("memory", f"{phone.figures.memory_gb.value:g} GB, of which an app is likely to get "
                   f"{human_bytes(phone.available_bytes)}; {low:g} to {high:g} GB/s"),
        ("storage", phone.storage),
        ("features", features),
    )  # fmt: skip
    lines = _wrapped(phone.name, width)
    for name, value in facts:
        lines += _wrapped(value, width, first=f"  {name:<9}", later=" " * 11)
    return lines


def _choice_lines(advice: Advice, width: int) -> list[str]:
    chosen = advice.choice.chosen
    if chosen is None:
        names = " or ".join(model.name for model in advice.models)
        lines = _wrapped(f"No type of {names} suits this phone.", width)
        least = advice.second_best
        if least is not None and least.paging is not None:
            lines += _wrapped(
                f"{least.model} {least.quant} would run from storage only, at most "
                f"{least.paging:.2g} tokens/s: see 'Too little memory' in docs/phone.md.",
                width,
            )
        return lines
    low, high = chosen.decode
    items = (
        f"a file of {human_bytes(chosen.file_bytes)}",
        f"{human_bytes(chosen.need[advice.choice.context or CONTEXT])} of memory with "
        f"{advice.choice.context} tokens of context",
        f"up to {chosen.largest_context} tokens of context fit; pedsup-run takes "
        f"{advice.context} by itself",
        f"{low:.1f} to {high:.1f} tokens/s predicted",
        sight_text(advice.sight, advice.phone, advice.context),
        *advice.notes,
    )
    lines = [f"Take {chosen.model} {chosen.quant}"]
    for item in items:
        lines += _wrapped(item, width, first="  - ", later="    ")
    return [*lines, "", *_command(advice, chosen, width)]


def _command(advice: Advice, chosen: Candidate, width: int) -> list[str]:
    """What exports it: by the phone's name only where that gives the same advice again."""
    phone = advice.phone
    stock = shipped_profiles().get(phone.id) == phone
    cut = [f"LANGUAGES={advice.languages}"] if advice.languages else []
    words = ["make gguf", "BASE=...", "ADAPTER=...", *cut,
             f"PHONE={phone.id}" if stock else f"QUANT={chosen.quant}"]  # fmt: skip
    line = " ".join(words)
    if len(line) <= width:
        return [line]
    return [f"{' '.join(words[:-1])} \\", f"  {words[-1]}"]


def _table(advice: Advice, width: int) -> list[str]:
    letters = _letters(advice)
    rows = [_row(c, advice, letters) for c in advice.candidates]
    heads: tuple[str, ...] = _HEADS
    if width < WIDE:
        rows = [(*row[:5], row[-1]) for row in rows]
        heads = _NARROW
    table = [heads, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
    gap = "  " if width >= WIDE else " "
    return [
        gap.join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _row(candidate: Candidate, advice: Advice, letters: dict[Kind, str]) -> tuple[str, ...]:
    reasons = advice.choice.reasons.get((candidate.model, candidate.quant))
    ppl = PERPLEXITY[candidate.quant]
    low, high = candidate.decode
    mark = "<==" if reasons is None else "".join(letters[reason.kind] for reason in reasons)
    return (
        candidate.model, candidate.quant, f"{candidate.file_bytes / _GIB:.2f}",
        f"{candidate.need[CONTEXT] / _GIB:.2f}", f"{low:.1f}-{high:.1f}",
        str(candidate.largest_context or "-"), "-" if ppl is None else f"+{ppl:.2f}",
        f"{KL_DEFAULT_MODEL[candidate.quant]:.3f}", mark,
    )  # fmt: skip


def _letters(advice: Advice) -> dict[Kind, str]:
    """A letter for each kind of reason that occurs, in the order of the table."""
    found = dict.fromkeys(
        reason.kind
        for candidate in advice.candidates
        for reason in advice.choice.reasons.get((candidate.model, candidate.quant), ())
    )
    return {kind: chr(ord("a") + number) for number, kind in enumerate(found)}


def _legend(advice: Advice, width: int) -> list[str]:
    first = {
        reason.kind: reason
        for reasons in reversed(advice.choice.reasons.values())
        for reason in reasons
    }
    lines = [] if advice.choice.chosen is None else ["<== chosen"]
    for kind, letter in _letters(advice).items():
        lines += _wrapped(first[kind].rule, width, first=f"{letter}   ", later="    ")
    return lines


def _wrapped(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )


def advice_json(advice: Advice) -> dict[str, object]:
    """The advice as a JSON document."""
    choice, phone = advice.choice, advice.phone
    chosen = choice.chosen
    return {
        "schema": SCHEMA,
        "measured": False,
        "phone": {
            "id": phone.id,
            "name": phone.name,
            "chip": phone.chip,
            "storage": phone.storage,
            "memory_available": phone.available_bytes,
            "figures": asdict(phone.figures),
        },
        "models": [
            {"name": m.name, "parameters": m.n_params, "source": m.source} for m in advice.models
        ],
        "efficiency": list(advice.efficiency),
        "chosen": {"model": chosen.model, "quant": chosen.quant} if chosen else None,
        "context": advice.context,
        "pictures": asdict(advice.sight) if advice.sight is not None else None,
        "notes": list(advice.notes),
        "candidates": [
            {
                **asdict(c),
                "ppl_rise_llama3_8b": PERPLEXITY[c.quant],
                "kl_smollm2": KL_DEFAULT_MODEL[c.quant],
                "rejected": choice.rejected.get((c.model, c.quant)),
                "reasons": [r.kind for r in choice.reasons.get((c.model, c.quant), ())],
            }
            for c in advice.candidates
        ],
        "adapter": BESIDE,
        "caveat": f"{CAVEAT}\n{COLUMNS}",
    }
