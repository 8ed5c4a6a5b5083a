"""What base, adapter and tokenizer mean together: the tensors, vocabulary and changes of one model.

Nothing is decided by a name alone. The configuration, the tensors that are there and the adapter
say together which tensors the exported model has (tied or not), and how many tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pedsup.errors import MismatchError
from pedsup_export import arch
from pedsup_export.adapter.embeddings import adapt_embeddings
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.match import MatchReport, match
from pedsup_export.arch import Architecture, Dropped, ModelTensors, OutputTensor
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
        matches: the adapter's changes by tensor name, None without an adapter.
        notes: what the user should know of the inputs.
        towers: what goes into a projector file, where one is wanted and the base has towers.
    """

    architecture: Architecture
    checkpoint: Checkpoint
    adapter: Adapter | None
    matches: MatchReport | None
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    tensors: ModelTensors
    hyper: tuple[KV, ...]
    notes: tuple[str, ...]
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
        adapter: folder of the adapter.
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
    config = dict(found.checkpoint.config)
    config |= {"vocab_size": n_tokens} if "vocab_size" in config else {}
    shapes = {name: source.shape for name, source in found.checkpoint.tensors.items()}
    tensors = architecture.tensors(config, shapes, n_tokens)
    tensors = replace(tensors, dropped=(*tensors.dropped, *found.dropped))
    checkpoint, towers, notes = found.checkpoint, None, (*found.notes, *vocabulary.notes)
    if projector:
        towers, more = find_towers(architecture.name, config, shapes, (tokenizer, weights))
        notes = (*notes, *more)
    if towers is not None:
        tensors = replace(tensors, dropped=_still_dropped(tensors, towers))
        checkpoint = flattened(checkpoint, towers.tensors)
    outputs = (*tensors.outputs, *(towers.tensors if towers else ()))
    return Model(
        architecture,
        checkpoint,
        opened,
        _match(opened, checkpoint, architecture, outputs) if opened else None,
        files,
        vocabulary,
        tensors,
        tuple(architecture.metadata(config)),
        notes,
        towers,
    )


def _still_dropped(tensors: ModelTensors, towers: Towers) -> tuple[Dropped, ...]:
    """What neither the model nor its projector holds, and why."""
    placed = {t.source for t in towers.tensors}
    reasons = {d.source: d for d in towers.left_out}
    return tuple(reasons.get(d.source, d) for d in tensors.dropped if d.source not in placed)


def _match(
    adapter: Adapter,
    checkpoint: Checkpoint,
    architecture: Architecture,
    outputs: tuple[OutputTensor, ...],
) -> MatchReport:
    placed = {o.source for o in outputs if o.source}
    config: dict[str, object] = dict(checkpoint.config)
    return match(
        adapter,
        {name: s.shape for name, s in checkpoint.tensors.items() if name in placed},
        is_dead=lambda name: architecture.is_dead(config, name),
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
