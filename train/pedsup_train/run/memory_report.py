"""The predicted peak of GPU memory as text and JSON, and whether a card has room for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from pedsup.errors import UsageError
from pedsup.optional import require
from pedsup.progress import human_bytes
from pedsup_train.model import base_source
from pedsup_train.run.memory import CONTEXT, FRAGMENTS, Estimate
from pedsup_train.run.plan import Plan
from pedsup_train.run.split import Split, choose_split, predict

_UNITS: Final = {"": 1, "MB": 10**6, "MIB": 1 << 20, "GB": 10**9, "GIB": 1 << 30}
_SIZE: Final = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True)
class Card:
    """A GPU that a run shall fit."""

    name: str
    n_bytes: int


def find_card(asked: str | None) -> Card | None:
    """The card that was named by its size, else the one that is here, else None.

    Raises:
        UsageError: not a size.
    """
    if asked is None:
        torch = require("torch", extra="train")
        if not torch.cuda.is_available():
            return None
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return Card(str(found.name), int(found.total_memory))
    match = _SIZE.fullmatch(asked)
    unit = _UNITS.get(match[2].upper()) if match else None
    n_bytes = round(float(match[1]) * unit) if match and unit else 0
    if n_bytes < 1:
        raise UsageError(f"--gpu-memory {asked}", wanted="a size such as 12GiB or 12GB")
    return Card(f"a card of {asked.strip()}", n_bytes)


def plan_memory(plan: Plan, asked: Card | None = None) -> tuple[Split, Estimate]:
    """How a step would be split and what it would need; reads the base's config and no weight.

    Args:
        asked: a card that is not here.
    """
    config = base_source.load_config(plan.recipe)
    run = (plan.runtime, config, plan.data.train)
    split = choose_split(plan.recipe, *run, asked.n_bytes) if asked else plan.split
    return split, predict(split.applied(plan.recipe), *run)


def memory_lines(found: Estimate, card: Card | None, passes: int) -> list[str]:
    """The terms of the prediction, their sum and whether it fits, for stderr.

    Args:
        passes: forward passes of a step.
    """
    batch = found.batch
    lines = [
        "GPU memory, predicted for the largest batch"
        f" ({batch.size} x {batch.length} tokens, {batch.answers:,} in answers;"
        f" {passes} in a step):"
    ]
    lines += [f"  {t.name:20} {human_bytes(t.n_bytes):>10}  {t.formula}" for t in found.terms]
    lines += [
        f"  {'training':20} {human_bytes(found.training):>10}  highest moment: {found.moment}",
        f"  {'loading':20} {human_bytes(found.loading):>10}  the whole base, for a moment",
        f"  {'peak':20} {human_bytes(found.peak):>10}  the larger of the two, as torch counts it",
        f"  {'free memory needed':20} {human_bytes(found.needed):>10}  + {FRAGMENTS:.0%} for the"
        f" allocator and {human_bytes(CONTEXT)} for the CUDA context",
    ]
    if card is not None:
        lines.append(f"  {_verdict(found, card)}")
    return lines + [f"  note: {note}" for note in found.notes]


def _verdict(found: Estimate, card: Card) -> str:
    spare = card.n_bytes - found.needed
    if spare >= 0:
        return f"fits {card.name}: {human_bytes(spare)} to spare"
    what = "train.batch_size or data.max_length"
    if found.loading > found.training:
        what = "model.quantization (nf4), or take a smaller base: loading needs most"
    return f"does NOT fit {card.name}: {human_bytes(-spare)} too much; lower {what}"


def memory_document(found: Estimate, card: Card | None, passes: int) -> dict[str, Any]:
    """The same as JSON, in bytes."""
    return {
        "batch": vars(found.batch),
        "passes": passes,
        "terms": [{"name": t.name, "bytes": t.n_bytes, "formula": t.formula} for t in found.terms],
        "training_bytes": found.training,
        "loading_bytes": found.loading,
        "peak_bytes": found.peak,
        "needed_bytes": found.needed,
        "highest_moment": found.moment,
        "card": None if card is None else {"name": card.name, "bytes": card.n_bytes},
        "fits": None if card is None else found.needed <= card.n_bytes,
        "notes": list(found.notes),
    }
