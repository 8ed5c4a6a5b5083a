"""What a cut saves and what it costs, for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pedsup.progress import human_bytes
from pedsup_export.vocabulary_cut.cut import TABLES

if TYPE_CHECKING:
    from pedsup_export.plan.export_plan import ExportPlan


@dataclass(frozen=True)
class Savings:
    """Bytes of the cut file, and of the same file with all its tokens."""

    tokens: int
    tokens_full: int
    file: int
    file_full: int
    read_per_token: int
    """Weights read for each token that is written: all but the per-layer table, and of an untied
    pair the output matrix only."""
    read_per_token_full: int

    @property
    def speed(self) -> float:
        """How many times as fast decoding can be where memory is the bound."""
        return self.read_per_token_full / self.read_per_token


def savings(plan: ExportPlan) -> Savings | None:
    """Of a plan; None where its vocabulary is whole."""
    cut = plan.cut
    if cut is None:
        return None
    sizes = {t.slot.name: t.slot.n_bytes for t in plan.tensors}
    n, n_full = cut.n_tokens, len(cut.base.tokens)
    more = {name: size * (n_full - n) // n for name, size in sizes.items() if name in TABLES}
    read = plan.read_per_token
    read_more = sum(size for name, size in more.items() if name not in plan.looked_up)
    return Savings(
        tokens=n,
        tokens_full=n_full,
        file=plan.output_bytes,
        file_full=plan.output_bytes + sum(more.values()) + cut.saved_metadata,
        read_per_token=read,
        read_per_token_full=read + read_more,
    )


def savings_lines(plan: ExportPlan) -> list[str]:
    """For the plan's summary."""
    found = savings(plan)
    if found is None or plan.cut is None:
        return []
    lines = [
        f"vocabulary    {found.tokens} of {found.tokens_full} tokens",
        f"  file        {human_bytes(found.file)} instead of {human_bytes(found.file_full)}",
        f"  per token   reads {human_bytes(found.read_per_token)} instead of "
        f"{human_bytes(found.read_per_token_full)}: up to {found.speed:.2f} times as fast "
        "(predicted)",
    ]
    lines += [
        f"  {code}          {share:.3%} of tokens fall to smaller pieces, by word list"
        for code, share in plan.cut.lost.items()
    ]
    unknown = [c for c in plan.cut.recipe["languages"] if c not in plan.cut.lost]
    if unknown:
        lines.append(f"  {', '.join(unknown)}: no word list shows what it costs")
    return lines


def savings_json(plan: ExportPlan) -> dict[str, object] | None:
    """For the plan's JSON document."""
    found = savings(plan)
    if found is None or plan.cut is None:
        return None
    return {
        **asdict(found),
        "speed_predicted": found.speed,
        "lost_by_word_list": plan.cut.lost,
        "recipe": plan.cut.recipe,
    }
