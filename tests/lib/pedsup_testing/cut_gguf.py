"""Cut the vocabulary of a GGUF that pedsup cannot export: for measuring, and for maintainers.

    python -m pedsup_testing.cut_gguf FULL.gguf CUT.gguf --languages es,en --vocabulary 96k

The choice, the metadata and the map are the exporter's own; the kept rows are copied as they are.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from pedsup.gguf_file import GGUFHeader, ValueType, read_header
from pedsup.gguf_file.values import ArrayValue
from pedsup_export.gguf.header import KV, header_bytes, lay_out, padded
from pedsup_export.vocabulary_cut.cut import TABLES, VocabularyCut
from pedsup_export.vocabulary_cut.plan import cut_tokens, texts_to_keep
from pedsup_export.vocabulary_cut.request import VocabularyRequest, vocabulary_request
from pedsup_export.vocabulary_cut.token_list import token_list
from pedsup_testing.token_encoder import encoder_of


def entries_of(header: GGUFHeader) -> list[KV]:
    """The metadata as the writer takes it."""
    found = []
    for key, value in header.metadata.items():
        if isinstance(value, ArrayValue):
            found.append(KV(key, ValueType.ARRAY, value.values(), value.element))
        else:
            found.append(KV(key, header.value_types[key], value))
    return found


def choose(source: Path, request: VocabularyRequest) -> VocabularyCut:
    """The cut of a file's own vocabulary."""
    entries = entries_of(read_header(source))
    tokens = token_list(entries)
    return cut_tokens(request, tokens, encoder_of(tokens), texts_to_keep(request, entries))


def write(source: Path, target: Path, cut: VocabularyCut) -> None:
    """The cut file."""
    header = read_header(source)
    entries = cut.entries(entries_of(header))
    slots = lay_out(
        (t.name, (t.shape[0], cut.n_tokens) if t.name in TABLES else t.shape, t.type)
        for t in header.tensors.values()
    )
    with target.open("wb") as file:
        file.write(header_bytes(entries, slots))
        for slot, tensor in zip(slots, header.tensors.values(), strict=True):
            data = np.fromfile(
                source, np.uint8, tensor.n_bytes, offset=header.data_offset + tensor.offset
            )
            if slot.name in TABLES:
                data = data.reshape(tensor.shape[1], -1)[cut.rows].ravel()
            assert len(data) == slot.n_bytes
            file.write(data.tobytes() + b"\0" * (padded(slot.n_bytes) - slot.n_bytes))


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--languages")
@click.option("--vocabulary")
@click.option("--keep-text", multiple=True, type=click.Path(path_type=Path))
def main(
    source: Path, target: Path, languages: str, vocabulary: str, keep_text: tuple[Path, ...]
) -> None:
    """Write TARGET, SOURCE with fewer tokens."""
    request = vocabulary_request(languages, vocabulary, keep_text)
    assert request is not None
    cut = choose(source, request)
    write(source, target, cut)
    click.echo(f"{cut.n_tokens} tokens, {target.stat().st_size} bytes, lost {cut.lost}")


if __name__ == "__main__":
    main()
