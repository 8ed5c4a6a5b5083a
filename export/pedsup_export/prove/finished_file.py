"""One reading of a finished file: its digest, every tensor's, and the rows for the proof.

Several threads read the file past the page cache, block after block; each passes its
block on in the order of the file, first to the digest of the whole, then to its tensor's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, UntrustedError
from pedsup.files.direct_io import DirectFile
from pedsup.gguf_file import GGUFHeader
from pedsup.progress import byte_bar
from pedsup.trust.manifest import TensorFacts
from pedsup_export.source.turnstile import StoppedError, Turnstile

COPY: Final = "copy the file and its manifest again from where they were exported"


def differs(what: str, found: object, wanted: object, path: Path) -> UntrustedError:
    """An error that names what was found and what the manifest wants."""
    return UntrustedError(
        f"{what} differs from the manifest: {found}",
        where=path,
        wanted=str(wanted),
        remedy=COPY,
    )


@dataclass(frozen=True)
class Wanted:
    """What a manifest says of a file."""

    tensors: Mapping[str, TensorFacts]
    sha256: str


def require_digests(found: Digests, wanted: Wanted, path: Path) -> None:
    """Compare every tensor's digest and that of the whole file.

    Raises:
        UntrustedError: one differs.
    """
    for name, digest in found.tensors.items():
        if digest != (tensor := wanted.tensors[name].sha256):
            raise differs(f"tensor '{name}'", digest, tensor, path)
    if found.whole != wanted.sha256:
        raise differs("the whole file", found.whole, wanted.sha256, path)


BLOCK = 4 << 20
READERS = 4
"""One reads while two compute digests; a disk likes more than one request."""

OnBytes = Callable[[str, int, memoryview], None]
"""Told a tensor's name, a position in it and its bytes from there on, in order."""


@dataclass(frozen=True)
class Digests:
    """Hex SHA-256 of a file and of its tensors, by name."""

    whole: str
    tensors: dict[str, str]


def read_finished(
    file: DirectFile, header: GGUFHeader, on_bytes: OnBytes = lambda *_: None
) -> Digests:
    """Read a GGUF file once from its first byte to its last.

    Args:
        on_bytes: called by one thread at a time.

    Raises:
        BadFileError: the file is shorter than its header was told.
    """
    return _Reading(file, header, on_bytes).run()


class _Reading:
    def __init__(self, file: DirectFile, header: GGUFHeader, on_bytes: OnBytes) -> None:
        self._file, self._size, self._on_bytes = file, header.file_size, on_bytes
        self._tensors = sorted(header.tensors.values(), key=lambda t: t.offset)
        self._data = header.data_offset
        self._found: dict[str, str] = {}
        self._whole = hashlib.sha256()
        self._tensor = hashlib.sha256()
        self._next = 0
        """The first tensor that is not complete."""
        self._turns = Turnstile(0), Turnstile(0)

    def run(self) -> Digests:
        with byte_bar(self._size, "verify") as bar, ThreadPoolExecutor(READERS) as pool:

            def read(at: int) -> None:
                try:
                    self._block(at)
                except BaseException:
                    self.stop()
                    raise
                bar.update(min(BLOCK, self._size - at))

            try:
                futures = [pool.submit(read, at) for at in range(0, self._size, BLOCK)]
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            errors = [e for f in futures if (e := f.exception()) is not None]
        for error in errors:
            if not isinstance(error, StoppedError):
                raise error
        return Digests(self._whole.hexdigest(), self._found)

    def stop(self) -> None:
        for turn in self._turns:
            turn.stop()

    def _block(self, at: int) -> None:
        n_bytes = min(BLOCK, self._size - at)
        octets = self._file.read(at, n_bytes)
        if len(octets) < n_bytes:
            raise BadFileError("the file was cut while it was read", where=self._file.path)
        for turn, use in zip(self._turns, (self._use_whole, self._use_tensors), strict=True):
            turn.enter(at)
            use(at, octets)
            turn.leave(at + BLOCK)

    def _use_whole(self, _at: int, octets: memoryview) -> None:
        self._whole.update(octets)

    def _use_tensors(self, at: int, octets: memoryview) -> None:
        """Bytes between tensors are padding, or the header."""
        while self._next < len(self._tensors):
            tensor = self._tensors[self._next]
            first = self._data + tensor.offset
            begin, end = max(at, first), min(at + len(octets), first + tensor.n_bytes)
            if begin < end:
                part = octets[begin - at : end - at]
                self._tensor.update(part)
                self._on_bytes(tensor.name, begin - first, part)
            if at + len(octets) < first + tensor.n_bytes:
                return
            self._found[tensor.name] = self._tensor.hexdigest()
            self._tensor = hashlib.sha256()
            self._next += 1
