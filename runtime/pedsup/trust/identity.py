"""Which model a file is: its name, a digest that needs no full reading, and its manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from pedsup.errors import BadFileError
from pedsup.gguf_file import GGUFHeader
from pedsup.messages import Message, joined, message
from pedsup.texts.safe import label
from pedsup.trust.manifest import DIGEST_KEY, Manifest, manifest_path, read_manifest

SAMPLED: Final = 64
PIECE: Final = 4096
"""Bytes."""


@dataclass(frozen=True)
class ModelIdentity:
    """What a model file says about itself."""

    name: str
    """One short line, whatever the file says."""
    file: str
    size: int
    digest: str
    """SHA-256 of the header's bytes and the file's size: metadata, vocabulary, template, tensor
    table and, in pedsup's own files, the digest of every tensor through the manifest's."""
    manifest: Manifest | None
    problem: str | None = None
    """Why the manifest beside the file was rejected."""

    adapter: ModelIdentity | None = None
    """The adapter that runs beside the model; `digest` is then that of the pair."""

    def describe(self) -> dict[str, object]:
        """For JSON and for a transcript's first line."""
        record: dict[str, object] = {
            "name": self.name,
            "file": self.file,
            "size": self.size,
            "digest": self.digest,
        }
        if self.manifest is not None:
            # What the manifest says of the file; `pedsup-export verify` compares it with the file.
            record["manifest_file_sha256"] = self.manifest.file.sha256
            record["manifest"] = self.manifest.core_sha256
        if self.problem:
            record["manifest_problem"] = self.problem
        if self.adapter is not None:
            record["adapter"] = self.adapter.describe()
        return record

    def lines(self) -> list[Message]:
        """For people: each one line without control characters, whatever the file says."""
        lines = [
            message(
                "{name} ({file}, digest {digest})",
                name=self.name,
                file=label(self.file),
                digest=self.digest[:12],
            )
        ]
        if self.manifest is not None:
            facts = self.manifest.facts
            parts: list[str] = []
            if facts.base is not None:
                parts.append(message("base {name}", name=label(str(facts.base.name))))
            if facts.adapter is not None:
                parts.append(message("adapter {name}", name=label(str(facts.adapter.name))))
            if facts.recipe is not None:
                parts.append(label(str(facts.recipe.get("quant"))))
            parts.append(message("exported {date}", date=label(self.manifest.created)))
            lines.append(message("manifest: {facts}", facts=joined(", ", parts)))
        elif self.problem:
            lines.append(message("warning: {text}", text=self.problem))
        if self.adapter is not None:
            lines += [message("adapter: {line}", line=line) for line in self.adapter.lines()]
        return lines


def header_digest(header: GGUFHeader) -> str:
    """Hex SHA-256 of the file's size and of its bytes before the first tensor, read anew."""
    digest = hashlib.sha256(header.file_size.to_bytes(8, "little"))
    with header.path.open("rb") as file:
        left = header.data_offset
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def content_sample(header: GGUFHeader, n: int = SAMPLED) -> str:
    """Hex SHA-256 of `n` pieces of 4 KiB, evenly spread over the tensors' data, both ends included.

    Two trainings of one model have the same header and size, and a copied file may keep its time:
    only the weights differ, and in a training all of them do.
    """
    last = max(header.data_offset, header.file_size - PIECE)
    digest = hashlib.sha256()
    with header.path.open("rb", buffering=0) as file:
        for i in range(n):
            file.seek(header.data_offset + (last - header.data_offset) * i // (n - 1))
            digest.update(file.read(PIECE))
    return digest.hexdigest()


def identify(header: GGUFHeader) -> ModelIdentity:
    """The identity of a model whose header was read and checked."""
    path = header.path
    manifest, problem = _manifest(header)
    name = header.get("general.name")
    return ModelIdentity(
        name=(label(name) if isinstance(name, str) else "") or label(path.stem) or "model",
        file=path.name,
        size=header.file_size,
        digest=header_digest(header),
        manifest=manifest,
        problem=problem,
    )


def paired(model: ModelIdentity, adapter: ModelIdentity, header: GGUFHeader) -> ModelIdentity:
    """The identity of a model with an adapter beside it: another digest for every other pair.

    Args:
        header: the adapter's. Its weights are sampled too: where it has no manifest, two
            trainings have one header.
    """
    parts = [model.digest, adapter.digest, content_sample(header)]
    return replace(
        model,
        name=label(f"{model.name} + {adapter.name}"),
        digest=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        adapter=adapter,
    )


def _manifest(header: GGUFHeader) -> tuple[Manifest | None, str | None]:
    """The manifest beside the file, if it is whole and belongs to it."""
    beside = manifest_path(header.path)
    if not beside.is_file():
        return None, None
    try:
        manifest = read_manifest(beside)
    except BadFileError as error:
        return None, message(
            "the manifest beside the model is damaged: {reason}", reason=error.found
        )
    recorded = header.get(DIGEST_KEY)
    if recorded != manifest.core_sha256 or manifest.file.size != header.file_size:
        return None, message("the manifest beside the model belongs to another file")
    return manifest, None
