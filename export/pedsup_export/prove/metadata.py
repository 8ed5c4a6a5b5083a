"""Whether a file tells its runtime what base and adapter give: tokenizer, sizes, sampling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from pedsup.errors import MismatchError
from pedsup.gguf_file import ArrayValue, GGUFHeader, ValueType
from pedsup_export.gguf.header import KV

PREFIXES: Final = ("tokenizer.", "general.sampling.")
"""Of the keys that decide what any model computes, beside those of its architecture."""


def check_entries(header: GGUFHeader, entries: Iterable[KV], prefixes: tuple[str, ...]) -> None:
    """Hold the metadata whose keys begin so against those planned again.

    Raises:
        MismatchError: a key is missing, additional or has another value.
    """
    planned = {e.key: e for e in entries if e.key.startswith(prefixes)}
    found = {key for key in header.metadata if key.startswith(prefixes)}
    odd = sorted(planned.keys() ^ found)
    odd += [k for k, e in planned.items() if k in found and not _same(e, header.metadata[k])]
    if odd:
        raise MismatchError(
            f"{len(odd)} entries of the metadata are not what base and adapter give: "
            f"{', '.join(odd[:5])}"[:400],
            where=header.path,
            wanted="the same tokenizer, chat template, sizes and sampling",
            remedy="give base and adapter as they were when the file was exported, with their "
            "tokenizer files; if you did, export it again",
        )


def _same(entry: KV, found: Any) -> bool:
    if entry.type is not ValueType.ARRAY:
        return not isinstance(found, ArrayValue) and _plain(entry.value, entry.type) == found
    if not isinstance(found, ArrayValue) or found.element is not entry.element:
        return False
    return [_plain(value, found.element) for value in entry.value] == found.values()


def _plain(value: Any, kind: ValueType) -> Any:
    """A planned value as a reader of the file gets it."""
    if kind is ValueType.FLOAT32:
        return float(np.float32(value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
