"""Models to choose from: Gemma 4's and Gemma 3's published shapes, or the one of a base folder.

A candidate file is described by the header it would have: the same tensors, types and metadata that
the export would write. Size, memory and traffic are then asked of the functions that answer for
real files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Final

from pedsup.gguf_file import ArrayValue, GGUFHeader, TensorInfo, ValueType
from pedsup.gguf_file.file_types import FileType
from pedsup.gguf_file.limits import DEFAULT_ALIGNMENT
from pedsup_export import arch
from pedsup_export.arch import ModelTensors, gemma3
from pedsup_export.gguf.header import (
    KV,
    TensorSlot,
    header_bytes,
    lay_out,
    packed_numbers,
    string,
)
from pedsup_export.model import open_model
from pedsup_export.phone import published
from pedsup_export.plan.stored import mixture_shape, stored_tensor
from pedsup_export.projector import Towers, place_towers
from pedsup_export.types.mixture import choose_types

GEMMA4_MERGES: Final = 514906
GEMMA4_VOCABULARY: Final = 15_776_467
"""Bytes of llama.cpp's ggml-vocab-gemma-4.gguf, which is Gemma 4's tokenizer and nothing else."""
GEMMA3_VOCABULARY: Final = 6_510_246
"""Bytes of the tokenizer's entries in a published GGUF of Gemma 3 270M; they hold no merges."""


@dataclass(frozen=True, eq=False)
class PhoneModel:
    """A model that could be exported: its GGUF tensors, without their types yet.

    Compared by identity, so that a header is made once for it.
    """

    name: str
    architecture: str
    hyper: tuple[KV, ...] = field(repr=False)
    tensors: ModelTensors = field(repr=False)
    dtypes: Mapping[str, str] = field(repr=False)
    """Checkpoint tensor -> type name there."""
    n_merges: int
    vocabulary_bytes: int
    source: str
    folder: Path | None = None
    """Where its tokenizer is; None for a published shape."""
    towers: Towers | None = field(default=None, repr=False)
    """What its projector would hold; None where it sees nothing."""

    @property
    def n_params(self) -> int:
        """Weights of the file."""
        return sum(prod(tensor.shape) for tensor in self.tensors.outputs)


def model_of_config(
    name: str, config: Mapping[str, object], *, source: str, towers: Towers | None = None
) -> PhoneModel:
    """A Gemma by its `config.json` alone, with the vocabulary of its kind."""
    architecture = arch.find(config, source)
    third = architecture.name == gemma3.NAME
    nested = config.get("text_config")
    text = nested if isinstance(nested, Mapping) else config
    tensors = architecture.tensors(config, None, int(str(text["vocab_size"])))
    return PhoneModel(
        name=name,
        architecture=architecture.name,
        hyper=tuple(architecture.metadata(config)),
        tensors=tensors,
        dtypes={t.source: "BF16" for t in tensors.outputs if t.source},
        n_merges=0 if third else GEMMA4_MERGES,
        vocabulary_bytes=GEMMA3_VOCABULARY if third else GEMMA4_VOCABULARY,
        source=source,
        towers=towers,
    )


@cache
def gemma4_models() -> tuple[PhoneModel, ...]:
    """E4B and E2B, the larger one first."""
    return tuple(
        model_of_config(
            name,
            config,
            source="Gemma 4's published shape",
            towers=place_towers("gemma4", config, published.GEMMA4_PROCESSOR, None),
        )
        for name, config in published.GEMMA4.items()
    )


@cache
def gemma3_model(name: str) -> PhoneModel:
    """A Gemma 3 or MedGemma of a published shape, by its name in `published.GEMMA3`."""
    config, towers = published.GEMMA3[name], None
    if "vision_config" in config:
        towers = place_towers("gemma3", config, published.GEMMA3_PROCESSOR, None)
    return model_of_config(name, config, source="Gemma 3's published shape", towers=towers)


def published_model(base: str) -> PhoneModel | None:
    """The model that a hub id names, where its published shape is known; None for another.

    Nothing is fetched: 'google/medgemma-1.5-4b-it' is enough to plan with.
    """
    words = base.lower()
    # First, because 'medgemma-4b' has 'gemma-4' in it.
    found = next(
        (name for name in published.GEMMA3 if name.lower().replace(" ", "-") in words), None
    )
    if found is not None:
        return gemma3_model(found)
    known = [m for m in gemma4_models() if "gemma-4" in words and m.name.lower() in words]
    return known[0] if len(known) == 1 else None


def model_of_folder(folder: Path, name: str, *, projector: bool = False) -> PhoneModel:
    """The model of a base folder, from its config, checkpoint headers and tokenizer.

    Args:
        projector: its towers too.

    Raises:
        BadFileError, UnsupportedError: the folder is not a base that can be exported.
    """
    model = open_model(folder, folder, projector=projector)
    arrays = {e.key: len(e.value) for e in model.vocabulary.entries if e.type is ValueType.ARRAY}
    return PhoneModel(
        name=name,
        architecture=model.architecture.name,
        hyper=model.hyper,
        tensors=model.tensors,
        dtypes={name: source.dtype_name for name, source in model.checkpoint.tensors.items()},
        n_merges=arrays.get("tokenizer.ggml.merges", 0),
        vocabulary_bytes=len(header_bytes(model.vocabulary.entries, ())),
        source=str(folder),
        folder=folder,
        towers=model.towers,
    )


@cache
def planned_header(model: PhoneModel, kind: FileType) -> GGUFHeader:
    """The header of the file that an export of `model` to `kind` would write."""
    outputs = {t.name: t for t in model.tensors.outputs}
    choices = choose_types(
        {
            t.name: stored_tensor(t, kind, model.dtypes.get(t.source or "", "F32"), "float32")
            for t in (*model.tensors.outputs, *model.tensors.counted)
        },
        file_type=kind,
        model=mixture_shape(model.hyper),
    )
    slots = lay_out(
        (name, outputs[name].ggml_shape, choice.type)
        for name, choice in choices.items()
        if name in outputs
    )
    start = len(header_bytes(model.hyper, slots)) + model.vocabulary_bytes
    path = Path(f"{model.name}-{kind.name}.gguf")
    entries = (string("general.architecture", model.architecture), *model.hyper)
    header = unwritten_header(path, entries, slots, start)
    # Its length is all that is asked of it.
    header.metadata["tokenizer.ggml.merges"] = ArrayValue(
        ValueType.STRING, model.n_merges, path, 0, 0, b""
    )
    return header


def unwritten_header(
    path: Path, entries: Sequence[KV], slots: Sequence[TensorSlot], start: int
) -> GGUFHeader:
    """A header as the reader would give it, of a file whose data would begin at `start`."""
    return GGUFHeader(
        path=path,
        version=3,
        metadata={entry.key: _value(entry) for entry in entries},
        value_types={entry.key: entry.type for entry in entries},
        tensors={s.name: TensorInfo(s.name, s.shape, s.type, s.offset) for s in slots},
        alignment=DEFAULT_ALIGNMENT,
        data_offset=start,
        file_size=start + slots[-1].offset + slots[-1].n_bytes,
    )


def _value(entry: KV) -> Any:
    """A metadata value as the reader would give it; an array as one in memory."""
    if entry.type is not ValueType.ARRAY:
        return entry.value
    assert entry.element is not None, "hyperparameter arrays have an element type"
    packed = packed_numbers(entry.element, entry.value)
    return ArrayValue(entry.element, len(entry.value), Path("planned"), 0, len(packed), packed)
