"""The advice as text for people and as JSON for programs; predicted is never called measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from pedsup.progress import human_bytes
from pedsup_export.phone.advise import Advice
from pedsup_export.phone.policy import CONTEXT, KL_DEFAULT_MODEL, PERPLEXITY, Candidate

SCHEMA: Final = "pedsup-export-plan-phone/1"
CAVEAT: Final = (
    "Nothing here was measured on a phone: memory, bandwidth and efficiency are unverified figures "
    "of the profile (pedsup-bench phones --sources).\n"
    "ppl: rise of perplexity on Llama-3-8B as llama.cpp publishes it. KL: measured, but on "
    "SmolLM2-135M, not on Gemma 4."
)
_HEADS: Final = ("model", "type", "file", "memory", "context", "tokens/s", "ppl", "KL", "")


def advice_text(advice: Advice) -> str:
    """The choice in words, the table of all candidates, the reasons."""
    phone = advice.phone
    low, high = phone.figures["bandwidth_gb_s"].value
    lines = [
        f"{phone.name}: {phone.chip}, {phone.figures['memory_gb'].value:g} GB of memory of which "
        f"an app may hope for {human_bytes(phone.available_bytes)},",
        f"{low:g} to {high:g} GB/s of memory bandwidth, {phone.storage}, "
        f"features {', '.join(sorted(phone.features))}.",
        "",
        *_choice_lines(advice),
        "",
        f"PREDICTED for a context of {CONTEXT} tokens, at an efficiency of "
        f"{advice.efficiency[0]:g} to {advice.efficiency[1]:g}:",
        *_table([_HEADS, *(_row(c, advice) for c in advice.candidates)]),
        "",
        CAVEAT,
    ]
    return "\n".join(lines)


def _choice_lines(advice: Advice) -> list[str]:
    chosen = advice.choice.chosen
    if chosen is None:
        names = " or ".join(model.name for model in advice.models)
        least = advice.second_best
        lines = [f"No type of {names} suits this phone."]
        if least is not None and least.paging is not None:
            lines.append(
                f"{least.model} {least.quant} would run from storage only, at most "
                f"{least.paging:.2g} tokens/s: see 'Too little memory' in docs/phone.md."
            )
        return lines
    low, high = chosen.decode
    return [
        f"Take {chosen.model} {chosen.quant}: a file of {human_bytes(chosen.file_bytes)} that "
        "needs "
        f"{human_bytes(chosen.need[advice.choice.context or CONTEXT])} of memory with "
        f"{advice.choice.context} tokens of context.",
        f"Context that fits: {chosen.largest_context} tokens (pedsup-run takes {advice.context} by "
        f"itself). Predicted {low:.1f} to {high:.1f} tokens/s.",
        *advice.notes,
        f"make gguf BASE=... ADAPTER=... PHONE={advice.phone.id}   (--quant {chosen.quant})",
    ]


def _row(candidate: Candidate, advice: Advice) -> tuple[str, ...]:
    why = advice.choice.rejected.get((candidate.model, candidate.quant), "CHOSEN")
    ppl = PERPLEXITY[candidate.quant]
    low, high = candidate.decode
    return (
        candidate.model, candidate.quant, human_bytes(candidate.file_bytes),
        human_bytes(candidate.need[CONTEXT]), str(candidate.largest_context or "none"),
        f"{low:.1f}-{high:.1f}", "-" if ppl is None else f"+{ppl:.2f}",
        f"{KL_DEFAULT_MODEL[candidate.quant]:.3f}", why,
    )  # fmt: skip


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def advice_json(advice: Advice) -> dict[str, Any]:
    """The advice as a JSON document."""
    chosen, phone = advice.choice.chosen, advice.phone
    return {
        "schema": SCHEMA,
        "measured": False,
        "phone": {
            "id": phone.id,
            "name": phone.name,
            "chip": phone.chip,
            "memory_available": phone.available_bytes,
            "figures": {name: asdict(figure) for name, figure in phone.figures.items()},
        },
        "models": [
            {"name": m.name, "parameters": m.n_params, "source": m.source} for m in advice.models
        ],
        "efficiency": list(advice.efficiency),
        "chosen": {"model": chosen.model, "quant": chosen.quant} if chosen else None,
        "context": advice.context,
        "notes": list(advice.notes),
        "candidates": [
            {
                **asdict(c),
                "ppl_rise_llama3_8b": PERPLEXITY[c.quant],
                "kl_smollm2": KL_DEFAULT_MODEL[c.quant],
                "rejected": advice.choice.rejected.get((c.model, c.quant)),
            }
            for c in advice.candidates
        ],
        "caveat": CAVEAT,
    }
