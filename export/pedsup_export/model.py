"""What base, adapter and tokenizer mean together: the tensors, vocabulary and changes of one model.

Nothing is decided by a name alone. The configuration, the tensors that are there and the adapter
say together which tensors the exported model has (tied or not), and how many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pedsup.errors import MismatchError
from pedsup_export import arch
from pedsup_export.adapter.embeddings import adapt_embeddings
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.match import MatchReport, match
from pedsup_export.arch import Architecture, Dropped, ModelTensors
from pedsup_export.arch.embeddings import PER_LAYER, Resolved, find_module, resolve, with_rows
from pedsup_export.gguf.header import KV
from pedsup_export.projector import Towers, find_towers, flattened
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.tokenizer.beside_adapter import choose_vocabulary
from pedsup_export.tokenizer.files import Tokenizer, load_tokenizer
from pedsup_export.tokenizer.vocab import Vocabulary


@dataclass(frozen=True)
class Model:
    """One model, ready to be planned.

    Attributes:
        checkpoint: the base; its tensors are those that the exported model has.
        notes: what the user should know of the inputs.
        matches: the adapter's changes by tensor name, None without an adapter.
        towers: what goes into a projector file, where one is wanted and the base has towers.
    """

    architecture: Architecture
    checkpoint: Checkpoint
    adapter: Adapter | None
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    tensors: ModelTensors
    hyper: tuple[KV, ...]
    notes: tuple[str, ...]
    matches: MatchReport | None = None
    towers: Towers | None = None


def open_model(
    weights: Path,
    tokenizer: Path,
    adapter: Path | None = None,
    *,
    adapter_tokenizer: bool = True,
    projector: bool = False,
) -> Model:
    """Open a base and, when given, an adapter, and bring them together.

    Args:
        weights: folder of the checkpoint.
        tokenizer: folder of the tokenizer files (of the 16-bit base, when there are two).
        adapter_tokenizer: take tokenizer files from the adapter's folder where they differ.
        projector: place the towers too.

    Raises:
        PedsupError: an input is damaged, unsupported, or does not belong to the others.
    """
    checkpoint = Checkpoint.open(weights)
    architecture = arch.find(checkpoint.config, checkpoint.folder)
    found = resolve(checkpoint, architecture)
    opened = Adapter.open(adapter) if adapter else None
    if opened is not None:
        found, opened = adapt_embeddings(found, opened)
    n_tokens = found.embeddings.n_rows
    beside = adapter if adapter_tokenizer else None
    files, vocabulary = choose_vocabulary(
        architecture.vocabulary, load_tokenizer(tokenizer), beside, n_tokens
    )
    found = _per_layer_rows(found, files)
    checkpoint, config = found.checkpoint, _config(found)
    tensors = architecture.tensors(config, checkpoint.shapes, n_tokens)
    tensors = replace(tensors, dropped=(*tensors.dropped, *found.dropped))
    hyper, notes = tuple(architecture.metadata(config)), (*found.notes, *vocabulary.notes)
    model = Model(architecture, checkpoint, opened, files, vocabulary, tensors, hyper, notes)
    if projector:
        model = _with_towers(model, config, (tokenizer, weights))
    return replace(model, matches=_match(model))


def _config(found: Resolved) -> dict[str, object]:
    """config.json with as many tokens as the embeddings have rows."""
    config = dict(found.checkpoint.config)
    return config | ({"vocab_size": found.embeddings.n_rows} if "vocab_size" in config else {})


def _with_towers(model: Model, config: Mapping[str, object], folders: tuple[Path, Path]) -> Model:
    """The model with its towers placed, if it has any that llama.cpp computes."""
    towers, notes = find_towers(model.architecture.name, config, model.checkpoint.shapes, folders)
    model = replace(model, towers=towers, notes=(*model.notes, *notes))
    if towers is None:
        return model
    return replace(
        model,
        tensors=replace(model.tensors, dropped=_still_dropped(model.tensors, towers)),
        checkpoint=flattened(model.checkpoint, towers.tensors),
    )


def _still_dropped(tensors: ModelTensors, towers: Towers) -> tuple[Dropped, ...]:
    """What neither the model nor its projector holds, and why."""
    placed = {t.source for t in towers.tensors}
    reasons = {d.source: d for d in towers.left_out}
    return tuple(reasons.get(d.source, d) for d in tensors.dropped if d.source not in placed)


def _match(model: Model) -> MatchReport | None:
    if model.adapter is None:
        return None
    outputs = (*model.tensors.outputs, *(model.towers.tensors if model.towers else ()))
    placed = {o.source for o in outputs if o.source}
    return match(
        model.adapter,
        {name: shape for name, shape in model.checkpoint.shapes.items() if name in placed},
        is_dead=lambda name: model.architecture.is_dead(model.checkpoint.config, name),
    )


def _per_layer_rows(found: Resolved, tokenizer: Tokenizer) -> Resolved:
    """Gemma 4's table of per-layer embeddings with as many rows as the token embeddings.

    llama.cpp wants that; transformers only fails where a token without a row is used.

    Raises:
        MismatchError: a token of the tokenizer has no row.
    """
    checkpoint, n = found.checkpoint, found.embeddings.n_rows
    name = find_module(checkpoint.tensors, PER_LAYER)
    if name is None or (rows := checkpoint.tensors[name].shape[0]) == n:
        return found
    lost = sorted(i for i in tokenizer.vocab.values() if rows <= i < n)
    if lost:
        raise MismatchError(
            f"{len(lost)} tokens have a row in the token embeddings, and none in '{name}', "
            f"which has {rows} rows",
            where=checkpoint.folder,
            wanted="a row for every token of the tokenizer",
            remedy="save the base with its resized embeddings as the base of the export (the "
            "adapter does not hold the rows of this table)",
        )
    return replace(found, checkpoint=with_rows(checkpoint, [name], n))
