"""What an architecture module provides, and the helpers that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pedsup.errors import BadFileError, MismatchError, UnsupportedError
from pedsup.optional import require
from pedsup_export.gguf.header import KV
from pedsup_export.tokenizer.files import Tokenizer
from pedsup_export.tokenizer.vocab import Vocabulary

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the GGUF and where it comes from. `shape` is row-major, as in safetensors."""

    name: str
    shape: Shape
    source: str | None
    """Name in the checkpoint; None for a tensor that the architecture itself computes."""
    values: np.ndarray | None = field(default=None, compare=False)
    """float32 values of a computed tensor."""
    head_rows: int | None = None
    """Rows per attention head whose two rotary halves must be interleaved (llama's q and k)."""
    shift: float = 0.0
    """Added to every value in float32 (Gemma 3's norms, stored as what they differ from one)."""
    kept_rows: np.ndarray | None = field(default=None, compare=False)
    """int64, ascending: the source's rows that the tensor has, where its vocabulary is cut."""
    arrange: Callable[[np.ndarray], np.ndarray] | None = field(default=None, compare=False)
    """From the whole source in float32 to the whole tensor; for small tensors only."""
    may_be_infinite: bool = False
    """A bound: an infinite one bounds nothing."""

    @property
    def ggml_shape(self) -> Shape:
        """The same shape in ggml's order; a scalar becomes one element."""
        return tuple(reversed(self.shape)) or (1,)


@dataclass(frozen=True)
class Dropped:
    """A tensor of the checkpoint that the GGUF does not hold, and why."""

    source: str
    shape: Shape
    reason: str


@dataclass(frozen=True)
class ModelTensors:
    """All tensors of a model. `counted` are dropped ones that llama.cpp's mixture still counts."""

    outputs: tuple[OutputTensor, ...]
    dropped: tuple[Dropped, ...] = ()
    counted: tuple[OutputTensor, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """The functions of one architecture module."""

    name: str
    """llama.cpp's name, `general.architecture`."""
    hf_names: tuple[str, ...]
    metadata: Callable[[Mapping[str, object]], list[KV]]
    """config.json -> hyperparameter entries."""
    tensors: Callable[[Mapping[str, object], Mapping[str, Shape] | None, int], ModelTensors]
    """config.json, shapes by name (`placing.place`), rows of the token embeddings -> tensors."""
    vocabulary: Callable[[Tokenizer, int], Vocabulary]
    """Tokenizer files, rows of the token embeddings -> vocabulary fields."""
    tied_by_default: bool
    """Whether transformers ties the output head when config.json says nothing."""
    is_dead: Callable[[Mapping[str, object], str], bool] = lambda config, name: False
    """Whether a tensor of the checkpoint is one that no forward pass uses."""


def unsupported(found: str, wanted: str) -> UnsupportedError:
    """The error for what llama.cpp, or pedsup, has nothing for in a config.json."""
    return UnsupportedError(found, where="config.json of the base", wanted=wanted)


class Config:
    """Typed access to config.json with errors that name the field."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values

    def integer(self, key: str, *, low: int = 1, high: int = 1 << 31, default: Any = None) -> int:
        """A whole number in [low, high]."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(key, value, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number that a float32 can hold."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3e38:
            raise self._bad(key, value, "a finite number")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._bad(key, value, "true or false")
        return value

    def one_of(self, key: str, wanted: tuple[str, ...], *, default: str, what: str) -> None:
        """Refuse a value that llama.cpp's graph does not have.

        Raises:
            UnsupportedError: another value; `what` says what it is.
        """
        value = self._get(key, default)
        if value not in wanted:
            raise unsupported(
                f"{what} {value!r} ('{key}')",
                wanted=f"{' or '.join(map(repr, wanted))}: llama.cpp computes nothing else",
            )

    def mapping(self, key: str) -> dict[str, object]:
        """An object, {} when it is missing."""
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self._bad(key, value, "an object")
        return value

    def _get(self, key: str, default: object) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    @staticmethod
    def _bad(key: str, value: Any, wanted: str) -> BadFileError:
        return BadFileError(
            f"'{key}' is {value!r}",
            where="config.json of the base",
            wanted=wanted,
            remedy="use the config.json that belongs to the weights",
        )


def tensor_name_map(architecture: str, n_layers: int) -> Any:
    """gguf-py's `TensorNameMap` of one architecture."""
    gguf = require("gguf", extra="export")
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    return gguf.get_tensor_name_map(kind, n_layers)


def name_map(
    architecture: str, n_layers: int, suffixes: tuple[str, ...] = (".weight", ".bias")
) -> Callable[[str], str | None]:
    """gguf-py's table from Hugging Face names to GGUF names for one architecture."""
    table = tensor_name_map(architecture, n_layers)

    def look_up(name: str) -> str | None:
        found = table.get_name(name, try_suffixes=suffixes)
        return None if found is None else str(found)

    return look_up


def unmapped(names: list[str], architecture: str) -> UnsupportedError:
    """The error for checkpoint tensors that no rule places."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return UnsupportedError(
        f"{len(names)} tensors of the base have no place in a {architecture} GGUF: {shown}",
        wanted="a base of the plain architecture",
        remedy="check that the folder holds the base model and nothing else",
    )


def check_shape(name: str, found: Shape, wanted: Shape) -> None:
    """Raise `MismatchError` when a checkpoint tensor is not as config.json says."""
    if found != wanted:
        raise MismatchError(
            f"tensor '{name}' has the shape {list(found)}",
            wanted=f"{list(wanted)} by config.json",
            remedy="use the config.json that belongs to the weights",
        )


def check_required(outputs: list[OutputTensor], required: set[str]) -> None:
    """Raise `BadFileError` when tensors without which llama.cpp cannot run are missing."""
    missing = sorted(required - {o.name for o in outputs})
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise BadFileError(
            f"the base lacks {len(missing)} tensors: {shown}",
            wanted="a whole checkpoint",
            remedy="download the base again: a shard may be missing from its index",
        )
