"""The `general.*` and `pedsup.*` metadata: what this file is, shown by any llama.cpp tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pedsup
from pedsup.files.source import read_json_object
from pedsup.gguf_file import ValueType
from pedsup.optional import require
from pedsup.texts.intended_use import FULL, SHORT
from pedsup.trust.manifest import DIGEST_KEY
from pedsup_export.gguf.header import KV, TensorSlot, array, f32, header_bytes, string, u32
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef

DIGEST_PLACEHOLDER: Final = "0" * 64
DESCRIPTION: Final = string("general.description", f"{SHORT['en']} {SHORT['es']}")
INTENDED_USE: Final = (
    string("pedsup.version", pedsup.__version__),
    string("pedsup.intended_use.en", FULL["en"]),
    string("pedsup.intended_use.es", FULL["es"]),
)
_SAMPLING: Final = {
    # name: kind of entry, name in the GGUF, lowest and highest value that a sampler can use
    "top_k": (u32, "top_k", 0, 1 << 24),
    "top_p": (f32, "top_p", 0.0, 1.0),
    "min_p": (f32, "min_p", 0.0, 1.0),
    "temperature": (f32, "temp", 0.0, 100.0),
}


def general_entries(request: ExportRequest, n_params: int, file_type: int) -> list[KV]:
    """Name, licence, provenance, recommended sampling and intended use of the export."""
    size_label = require("gguf.utility", extra="export").size_label
    base, adapter = chosen_base(request), request.adapter
    name = request.name or (f"{adapter.name} on {base.name}" if adapter else base.name)
    entries = [
        string("general.type", "model"),
        string("general.name", name),
        DESCRIPTION,
        string("general.size_label", size_label(n_params, 0, 0, 0)),
        *made_entries(file_type, request.license or licence_of(base.folder), base.name),
    ]
    if base.revision:
        entries.append(string("general.base_model.0.version", base.revision))
    entries += sampling_entries(base.folder)[0]
    entries += INTENDED_USE
    if adapter:
        entries.append(string("pedsup.adapter.name", adapter.name))
    # Replaced by the real digest, of the same length, when all tensors are written.
    return [*entries, string(DIGEST_KEY, DIGEST_PLACEHOLDER)]


def made_entries(file_type: int, licence: str, base: str) -> list[KV]:
    """Who made a file, of which type, under which licence, from which base."""
    return [
        string("general.quantized_by", f"pedsup {pedsup.__version__}"),
        u32("general.quantization_version", 2),
        u32("general.file_type", file_type),
        string("general.license", licence),
        u32("general.base_model.count", 1),
        string("general.base_model.0.name", base),
        array("general.tags", ValueType.STRING, ["research-only", "not-a-medical-device"]),
    ]


def finished_header(metadata: Sequence[KV], slots: Sequence[TensorSlot], digest: str) -> bytes:
    """The header with the manifest's digest in place of the blank one; its length is the same."""
    entries = [string(DIGEST_KEY, digest) if e.key == DIGEST_KEY else e for e in metadata]
    return header_bytes(entries, slots)


def chosen_base(request: ExportRequest) -> ModelRef:
    """The base whose weights go into the file: the 4-bit one when it was chosen for the merge."""
    four_bit = request.base_4bit is not None and request.merge_base == "4bit"
    return request.base_4bit if four_bit and request.base_4bit else request.base


def licence_of(folder: Path) -> str:
    """The `license:` of the model card's front matter, 'unknown' when there is none."""
    card = folder / "README.md"
    if card.is_file():
        lines = card.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        if lines and lines[0].strip() == "---":
            for line in lines[1:200]:
                if line.strip() == "---":
                    break
                key, _, value = line.partition(":")
                if key.strip() == "license" and value.strip():
                    return value.strip().strip("'\"")
    return "unknown"


def sampling_entries(folder: Path) -> tuple[list[KV], tuple[str, ...]]:
    """`general.sampling.*` from generation_config.json, as llama.cpp's converter writes them.

    A value that no sampler can use (not finite, negative, a top-p above 1) is left out; the second
    part of the result says so.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return [], ()
    config = read_json_object(path, "generation_config.json", 1 << 20)
    entries, notes = [], []
    for key, (make, name, low, high) in _SAMPLING.items():
        value = config.get(key)
        if value is None:
            continue
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        if number is None or not low <= number <= high or (make is u32 and number != int(number)):
            notes.append(
                f"generation_config.json has {key} {value!r:.40}, wanted a "
                f"{'whole number' if make is u32 else 'number'} from {low} to {high}: left out"
            )
            continue
        key = f"general.sampling.{name}"
        entries.append(u32(key, int(number)) if make is u32 else f32(key, number))
    return entries, tuple(notes)
