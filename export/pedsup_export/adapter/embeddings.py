"""What an adapter does to token embeddings and output head, as PEFT 0.21 runs it.

On a tied base PEFT changes only the side that its configuration names: its model has two tensors
from then on, unless `ensure_weight_tying` keeps them one; replaced token rows it always puts into
both. A trained table may also have other rows than the base: tokens were added, or rows padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from pedsup.errors import BadFileError, MismatchError
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.tensors import LoraDelta
from pedsup_export.adapter.whole import TokenRows, in_modules_to_save
from pedsup_export.arch.embeddings import HEAD, TABLE, Resolved, is_module, untied, with_rows
from pedsup_export.source.tensor_source import TensorSource, equal

T = TypeVar("T")


@dataclass(frozen=True)
class Side:
    """The parts of an adapter for one of the two, with their keys in it."""

    replacement: tuple[str, TensorSource] | None = None
    lora: tuple[str, LoraDelta] | None = None
    tokens: tuple[str, TokenRows] | None = None

    @property
    def changed(self) -> bool:
        return bool(self.replacement or self.lora or self.tokens)


def adapt_embeddings(found: Resolved, adapter: Adapter) -> tuple[Resolved, Adapter]:
    """Base and adapter with their embeddings brought together.

    Raises:
        BadFileError: the adapter says that it keeps both tied, and holds two different tables.
        MismatchError: its tables have other rows than the base and each other.
    """
    found = _resized(found, adapter)
    table, head = _side(adapter, TABLE), _side(adapter, HEAD)
    if not found.embeddings.tied_by_config or not (table.changed or head.changed):
        return found, adapter
    if table.tokens and not head.tokens:
        head = replace(head, tokens=(HEAD, replace(table.tokens[1], module=HEAD)))
    # A table that was not trained is the (resized) base's own, which both sides share.
    if table.replacement and not head.replacement and not _trained(table, adapter):
        head = replace(head, replacement=(f"{HEAD}.weight", table.replacement[1]))
    if adapter.settings.ensure_weight_tying:
        if table.changed and head.changed and not _same(table, head):
            raise BadFileError(
                "the adapter's embed_tokens and lm_head differ, and ensure_weight_tying says "
                "that they are one",
                where=adapter.folder,
                wanted="the same change of both",
                remedy="save it again from the training run; set ensure_weight_tying to false in "
                "adapter_config.json if both were trained apart",
            )
        table = head = table if table.changed else head
    if found.embeddings.head is None and _same(table, head):
        return found, _with_head(adapter, Side())
    if found.embeddings.head is None:
        found = untied(found)
        side = "both, and differently," if table.changed and head.changed else (
            "only embed_tokens" if table.changed else "only lm_head"
        )  # fmt: skip
        note = (
            f"the base ties lm_head to embed_tokens; the adapter changes {side} so the file "
            "holds two tensors where the base has one, as PEFT runs it"
        )
        found = replace(found, notes=(*found.notes, note))
    return found, _with_head(adapter, head)


def _side(adapter: Adapter, module: str) -> Side:
    def part(parts: Mapping[str, T], suffix: str) -> tuple[str, T] | None:
        return next(((k, v) for k, v in parts.items() if is_module(f"{k}{suffix}", module)), None)

    return Side(
        part(adapter.replacements, ""),
        part(adapter.deltas, ".weight"),
        part(adapter.tokens, ".weight"),
    )


def _trained(side: Side, adapter: Adapter) -> bool:
    name = side.replacement[0].removesuffix(".weight") if side.replacement else ""
    return in_modules_to_save(name, adapter.settings)


def _with_head(adapter: Adapter, head: Side) -> Adapter:
    """The adapter with these parts for the output head and no others."""

    def parts(old: Mapping[str, T], new: tuple[str, T] | None, key: str) -> dict[str, T]:
        suffix = "" if key.endswith(".weight") else ".weight"
        rest = {k: v for k, v in old.items() if not is_module(f"{k}{suffix}", HEAD)}
        return rest if new is None else {**rest, key: new[1]}

    lora = head.lora and (HEAD, replace(head.lora[1], module=HEAD))
    return replace(
        adapter,
        replacements=parts(adapter.replacements, head.replacement, f"{HEAD}.weight"),
        deltas=parts(adapter.deltas, lora, HEAD),
        tokens=parts(adapter.tokens, head.tokens, HEAD),
    )


def _same(table: Side, head: Side) -> bool:
    """Whether both sides are changed alike; the table's tensors are read where both have some."""
    return (
        _both(table.replacement, head.replacement, equal)
        and _both(table.lora, head.lora, _same_delta)
        and _both(table.tokens, head.tokens, _same_rows)
    )


def _both(a: tuple[str, T] | None, b: tuple[str, T] | None, same: Callable[[T, T], bool]) -> bool:
    if a is None or b is None:
        return a is b
    return a[1] is b[1] or bool(same(a[1], b[1]))


def _same_delta(a: LoraDelta, b: LoraDelta) -> bool:
    if a.scaling != b.scaling or (a.magnitude is None) != (b.magnitude is None):
        return False
    pairs = [(a.a, b.a), (a.b, b.b)]
    if a.magnitude is not None and b.magnitude is not None:
        pairs.append((a.magnitude, b.magnitude))
    return all(np.array_equal(x, y) for x, y in pairs)


def _same_rows(a: TokenRows, b: TokenRows) -> bool:
    return a.indices == b.indices and np.array_equal(a.rows, b.rows)


def _resized(found: Resolved, adapter: Adapter) -> Resolved:
    """The base with the rows of the adapter's own tables, where their number differs."""
    table, head = _side(adapter, TABLE), _side(adapter, HEAD)
    names = found.embeddings
    sizes = {
        key: source.shape[0]
        for key, source in (x for x in (table.replacement, head.replacement) if x)
        if len(source.shape) == 2
    }
    if all(n == names.n_rows for n in sizes.values()):
        return found
    both = {*sizes.values()}
    if len(both) > 1 or table.replacement is None or (names.head and head.replacement is None):
        lacking = "embed_tokens" if table.replacement is None else "lm_head"
        raise MismatchError(
            "the adapter was trained on embeddings of another size: "
            + ", ".join(f"'{k}' has {n} rows" for k, n in sizes.items())
            + f", the base {names.n_rows}"
            + ("" if len(both) > 1 else f", and the adapter does not hold its {lacking}"),
            where=adapter.folder,
            wanted="a table of the same size for embed_tokens and for lm_head, or the base's size",
            remedy="save the resized base (base_model.save_pretrained) and give it as --base",
        )
    n = both.pop()
    tables = [t for t in (names.table, names.head) if t]
    note = f"the adapter's embeddings have {n} rows, the base's {names.n_rows}: {n} are exported"
    return replace(
        found,
        checkpoint=with_rows(found.checkpoint, tables, n),
        embeddings=replace(names, n_rows=n),
        notes=(*found.notes, note),
    )
