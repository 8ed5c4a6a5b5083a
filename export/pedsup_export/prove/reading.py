"""A file read once: its header and digests held against manifest and inputs, its rows proved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from pedsup.errors import MismatchError
from pedsup.files.direct_io import DirectFile
from pedsup.gguf_file import ArrayValue, GGUFHeader, ValueType
from pedsup.optional import require
from pedsup.trust.manifest import TensorFacts
from pedsup_export.gguf.header import KV
from pedsup_export.prove.finished_file import Wanted, differs, read_finished, require_digests
from pedsup_export.prove.proof import AdapterShare, Proof, Sample, require_present

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


def check_table(header: GGUFHeader, size: int, tensors: Mapping[str, TensorFacts]) -> None:
    """Hold a file's size and its table of tensors against the manifest.

    Raises:
        UntrustedError: they differ.
    """
    if header.file_size != size:
        raise differs("the size", header.file_size, size, header.path)
    if header.tensors.keys() != tensors.keys():
        odd = sorted(header.tensors.keys() ^ tensors.keys())
        raise differs("the list of tensors", odd[:5], "the same names", header.path)
    for tensor in header.tensors.values():
        wanted = tensors[tensor.name]
        if (tensor.type.name, list(tensor.shape)) != (wanted.type, wanted.shape):
            found = f"{tensor.type.name} {list(tensor.shape)}"
            raise differs(f"tensor '{tensor.name}'", found, wanted, header.path)


def read_and_compare(
    header: GGUFHeader, wanted: Wanted, proof: Proof | None
) -> tuple[str, tuple[AdapterShare, ...] | None]:
    """Read the file once: compare all digests with the manifest, and its rows with the inputs.

    Returns:
        The digest of the whole file, and the adapter's shares where there is a proof.

    Raises:
        UntrustedError: a digest differs.
        MismatchError: a tensor is not what the inputs give, or the adapter is not in it.
    """
    file = DirectFile(header.path)
    # Each thread of the proof multiplies on its own: a BLAS with threads of its own would spin.
    blas = require("threadpoolctl", extra="export").threadpool_limits(1, user_api="blas")
    with blas, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        samples = _Samples(proof, pool)
        found = read_finished(file, header, samples.take)
        require_digests(found, wanted, header.path)
        if proof is None:
            return found.whole, None
        shares = samples.shares()
    require_present(shares, header.path)
    return found.whole, shares


class _Samples:
    """The sampled rows of each tensor, proved in the background as soon as they were read."""

    def __init__(self, proof: Proof | None, pool: ThreadPoolExecutor) -> None:
        self._proof, self._pool = proof, pool
        tensors = proof.plan.tensors if proof is not None else ()
        self._tensors = {t.slot.name: t for t in tensors}
        self._sample: Sample | None = None
        self._futures: dict[str, Future[AdapterShare | None]] = {}

    def take(self, name: str, at: int, octets: memoryview) -> None:
        """See `read_finished`."""
        tensor = self._tensors.get(name)
        if self._proof is None or tensor is None:
            return
        if self._sample is None:
            self._sample = Sample(tensor, self._proof.inputs)
        self._sample.take(at, octets)
        if at + len(octets) == tensor.slot.n_bytes:
            self._futures[name] = self._pool.submit(self._proof.prove, self._sample)
            self._sample = None

    def shares(self) -> tuple[AdapterShare, ...]:
        """The adapter's shares in the order of the file.

        Raises:
            MismatchError: a tensor is not what the inputs give.
        """
        found = [self._futures[name].result() for name in self._tensors]
        return tuple(share for share in found if share is not None)
