"""Whether an adapter changes anything, and whether by a believable amount.

A delta of zero (`lora_alpha` 0, a half that was never trained) merges without an error, and any
proof that it is in the file is empty. So it is found before the export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pedsup.errors import MismatchError
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.match import MatchReport, TensorChange
from pedsup_export.adapter.tensors import LoraDelta
from pedsup_export.source.tensor_source import TensorSource, equal

SMALLEST, LARGEST = 1 / 256, 64.0
"""Scalings (alpha / r) outside this are worth a word: usual ones are 1/2 to 4."""
TINY: Final = 1e-45
"""Below the smallest float32: every element of such a delta is zero in the merge."""


@dataclass(frozen=True)
class Effect:
    """A match report without the changes that change nothing, and what to say of the adapter."""

    matches: MatchReport
    idle: tuple[str, ...]
    notes: tuple[str, ...]


def check_effect(
    adapter: Adapter,
    matches: MatchReport,
    tensors: Mapping[str, TensorSource],
    *,
    allow_no_effect: bool,
) -> Effect:
    """Take out the changes that are exactly zero.

    Args:
        tensors: base tensors by name.
        allow_no_effect: go on even when nothing is left.

    Raises:
        MismatchError: the adapter changes nothing at all.
    """
    idle = tuple(n for n, c in matches.matched.items() if changes_nothing(c, tensors[n]))
    left = {name: change for name, change in matches.matched.items() if name not in idle}
    notes = scale_notes(adapter)
    if not left and not allow_no_effect:
        raise MismatchError(
            f"the adapter changes nothing: its change of all {len(idle)} tensors is exactly zero"
            + _cause(adapter),
            where=adapter.folder,
            wanted="a trained adapter with a scaling above zero",
            remedy="check lora_alpha and alpha_pattern in adapter_config.json, and that this is "
            "the adapter after training; --allow-no-effect exports the base unchanged",
        )
    if idle:
        notes.insert(0, f"the adapter's change of {len(idle)} of {len(matches.matched)} tensors is "
                        f"exactly zero{_cause(adapter)}: {', '.join(idle[:3])}"
                        + (", ..." if len(idle) > 3 else ""))  # fmt: skip
    return Effect(replace(matches, matched=left), idle, tuple(notes))


def changes_nothing(change: TensorChange, base: TensorSource) -> bool:
    """Whether a change leaves every number of a base tensor unchanged."""
    if change.lora is not None and not is_zero(change.lora):
        return False
    if change.replacement is not None and not equal(change.replacement, base):
        return False
    if change.tokens is not None:
        origin = change.replacement or base
        rows = zip(change.tokens.indices, change.tokens.rows, strict=True)
        return all(np.array_equal(origin.rows(i, i + 1)[0], row) for i, row in rows)
    return True


def is_zero(delta: LoraDelta) -> bool:
    """Whether scaling * B A is zero in float32 (DoRA's magnitudes rescale the weight anyway)."""
    return delta.magnitude is None and (np.float32(delta.scaling) == 0 or delta.norm() < TINY)


def _cause(adapter: Adapter) -> str:
    zero = [m for m, d in adapter.deltas.items() if np.float32(d.scaling) == 0]
    if not zero:
        return ""
    return f" (the scaling of {len(zero)} modules is 0 by lora_alpha or alpha_pattern)"


def scale_notes(adapter: Adapter) -> list[str]:
    """What is unusual about the adapter's scalings."""
    odd = {
        module: delta.scaling
        for module, delta in adapter.deltas.items()
        if delta.scaling < 0 or (delta.scaling and not SMALLEST <= abs(delta.scaling) <= LARGEST)
    }
    if not odd:
        return []
    module, scaling = max(odd.items(), key=lambda item: abs(item[1]))
    return [
        f"the adapter's scaling (alpha / r) is {scaling:.4g} for {module}"
        + (f" and unusual for {len(odd) - 1} more modules" if len(odd) > 1 else "")
        + ": usual ones are 0.5 to 4; check lora_alpha and alpha_pattern"
    ]
