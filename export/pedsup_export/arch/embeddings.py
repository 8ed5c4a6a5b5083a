"""Input embeddings and output head of a checkpoint: one tensor or two, and how many tokens.

The rules are those of transformers 5.23 (`PreTrainedModel.tie_weights`): `tie_word_embeddings`
says that both share one tensor; it may be stored under either name; and two stored tensors that
differ are not tied, whatever the configuration says. A file name or a tensor name alone decides
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pedsup.errors import BadFileError, MismatchError
from pedsup_export.arch.base import Architecture, Config, Dropped
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.source.tensor_source import ResizedSource, equal

TABLE: Final = "embed_tokens"
HEAD: Final = "lm_head"
PER_LAYER: Final = "embed_tokens_per_layer"
COPY: Final = "a copy of the token embeddings, to which the output head is tied"


@dataclass(frozen=True)
class Embeddings:
    """How a checkpoint stores its embeddings.

    Attributes:
        table: name of the token embeddings.
        head: name of the output head; None when it is the table itself.
        tied_by_config: whether the configuration ties both, as PEFT asks it.
        n_rows: rows of the table, that is tokens of the model.
    """

    table: str
    head: str | None
    tied_by_config: bool
    n_rows: int


@dataclass(frozen=True)
class Resolved:
    """A checkpoint whose tensors are those that the model has; what was left out; warnings."""

    checkpoint: Checkpoint
    embeddings: Embeddings
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()


def is_module(name: str, module: str) -> bool:
    """Whether tensor `name` is the weight of a module of that last name, under any prefix."""
    return f".{name}".endswith(f".{module}.weight")


def find_module(names: Iterable[str], module: str) -> str | None:
    """The tensor of a module of that last name: the shortest, as towers have longer ones."""
    return min((n for n in names if is_module(n, module)), key=len, default=None)


def tied_by_config(config: Mapping[str, Any], architecture: Architecture) -> bool:
    """`tie_word_embeddings` where transformers looks: at the top, for a text model in its part."""
    text = config.get("text_config") or {}
    names = config.get("architectures") or []
    nested = any(str(n).endswith("ForCausalLM") for n in names)
    for part in (text, config) if nested else (config,):
        if (value := part.get("tie_word_embeddings")) is not None:
            return Config(part).flag("tie_word_embeddings", default=value is True)
    return architecture.tied_by_default


def resolve(checkpoint: Checkpoint, architecture: Architecture) -> Resolved:
    """Decide by configuration and tensors together which embeddings the model has.

    Raises:
        BadFileError: the head or the table of an untied model is missing, or both of a tied one.
        MismatchError: the table has another number of rows than the configuration says.
    """
    tensors = dict(checkpoint.tensors)
    tied = tied_by_config(checkpoint.config, architecture)
    table, head = find_module(tensors, TABLE), find_module(tensors, HEAD)
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
    if table is None and head is not None and tied:
        # Only the head was stored of the tensor that both share.
        table, head = _table_name(tensors), None
        tensors[table] = tensors.pop(find_module(tensors, HEAD) or "")
    elif table is not None and head is not None and tied:
        if equal(tensors[table], tensors[head]):
            dropped = (Dropped(head, tensors.pop(head).shape, COPY),)
            head = None
        else:
            notes = (
                f"config.json ties '{head}' to the token embeddings, but both are stored and "
                "differ: both are exported, as transformers loads them",
            )
    if table is None or (head is None and not tied):
        raise _missing(checkpoint, HEAD if table is not None else TABLE, tied)
    shape = tensors[table].shape
    _check_rows(checkpoint, [n for n in (table, head) if n], tensors)
    found = Embeddings(table, head, tied, shape[0])
    return Resolved(replace(checkpoint, tensors=tensors), found, dropped, notes)


def _table_name(names: Iterable[str]) -> str:
    layer = next((n for n in names if "layers.0." in n and "tower" not in n), "model.layers.0.")
    return f"{layer.partition('layers.0.')[0]}{TABLE}.weight"


def _missing(checkpoint: Checkpoint, module: str, tied: bool) -> BadFileError:
    listed = find_module(checkpoint.listed, module)
    return BadFileError(
        f"the base has no '{module}' weight"
        + (f": the index names '{listed}', and no shard holds it" if listed else ""),
        where=checkpoint.folder,
        wanted="the token embeddings or the output head, which are tied by config.json" if tied
        else "both token embeddings and output head: config.json does not tie them "
        "(tie_word_embeddings)",
        remedy="download the base again; if this model shares one tensor for both, set "
        "tie_word_embeddings to true in its config.json"
        if module == HEAD else "download the base again: a shard may be missing",
    )  # fmt: skip


def _check_rows(checkpoint: Checkpoint, names: list[str], tensors: Mapping[str, Any]) -> None:
    nested = checkpoint.config.get("text_config")
    text = Config(nested if isinstance(nested, Mapping) and nested else checkpoint.config)
    for name in names:
        shape = tensors[name].shape
        if len(shape) != 2 or 0 in shape:
            raise BadFileError(
                f"tensor '{name}' has the shape {list(shape)}",
                where=checkpoint.folder,
                wanted="[tokens, hidden size]",
                remedy="download the base again",
            )
        n = text.integer("vocab_size", high=1 << 24, default=shape[0])
        if shape[0] != n:
            raise MismatchError(
                f"tensor '{name}' has {shape[0]} rows, config.json gives the model "
                f"a vocab_size of {n}",
                where=checkpoint.folder / "config.json",
                wanted="one row for each token",
                remedy="use the config.json that belongs to the weights",
            )


def with_rows(checkpoint: Checkpoint, names: Iterable[str], n: int) -> Checkpoint:
    """The checkpoint with `n` rows in the tables `names`: zeros behind, or the last left out."""
    tensors = dict(checkpoint.tensors)
    for name in names:
        if tensors[name].shape[0] != n:
            tensors[name] = ResizedSource(tensors[name], n)
    return replace(checkpoint, tensors=tensors)


def untied(found: Resolved) -> Resolved:
    """A model of two tensors where there was one: the head begins as the table."""
    tensors = dict(found.checkpoint.tensors)
    tensors[f"{HEAD}.weight"] = tensors[found.embeddings.table]
    return replace(
        found,
        checkpoint=replace(found.checkpoint, tensors=tensors),
        embeddings=replace(found.embeddings, head=f"{HEAD}.weight"),
    )
