"""Journals of measurements in the cache, and what identifies a measured file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pedsup import __version__
from pedsup.files.journal import LineJournal
from pedsup.files.paths import cache_folder
from pedsup.gguf_file import read_header
from pedsup.session.prefix_cache import StateKey

Item = TypeVar("Item")


def open_journal(
    kind: str, key: object, parse: Callable[[object], Item], folder: Path | None = None
) -> LineJournal[Item]:
    """The journal of a measurement; its name is the digest of all that decides its content.

    That is also this version: another one may score otherwise, and goes on with none of it.

    Args:
        kind: the folder below the cache.
        key: model, texts, settings; anything that JSON can hold.
        parse: one item from one line's value; BadFileError or ValueError if it is not valid.
    """
    folder = folder or cache_folder() / kind
    folder.mkdir(parents=True, exist_ok=True)
    known = json.dumps([__version__, key], sort_keys=True)
    digest = hashlib.sha256(known.encode()).hexdigest()
    return LineJournal(folder / f"{digest[:32]}.jsonl", parse)


def pair_identity(model: Path, adapter: Path | None) -> dict[str, object]:
    """`file_identity` of a model, and of the adapter applied to it."""
    if adapter is None:
        return file_identity(model)
    return {**file_identity(model), "adapter": file_identity(adapter)}


def file_identity(path: Path) -> dict[str, object]:
    """What distinguishes one model file from another without reading all of it.

    Size, time of change, and SHA-256 of the header (metadata and tensor table) and of 64 pieces of
    the weights.
    """
    return asdict(StateKey.of(read_header(path)))
