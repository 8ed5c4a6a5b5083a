"""The GGUF header: metadata and tensor table, with every size checked before it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    magic "GGUF" | u32 version | u64 n_tensors | u64 n_kv
    n_kv     x ( string key | u32 value type | value )
    n_tensors x ( string name | u32 n_dims | n_dims x u64 | u32 ggml type | u64 offset )
    padding to `general.alignment` | tensor data

No count from the file sizes an allocation before it was compared with the bytes that are
there; arrays are walked, not copied, and read again when asked for. What a file must be beyond
its format, before llama.cpp may see it, is checked by `pedsup.gguf_file.validate`.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from pedsup.errors import BadFileError, MissingFileError
from pedsup.files.fsio import work_folder
from pedsup.files.json_file import NO_FILE
from pedsup.gguf_file.cursor import AGAIN, Cursor
from pedsup.gguf_file.limits import MAX_KEYS, MAX_TENSORS, VERSIONS
from pedsup.gguf_file.metadata import MetadataReader, alignment_of
from pedsup.gguf_file.tensor_table import TensorInfo, check_layout, read_table
from pedsup.gguf_file.values import ValueType
from pedsup.messages import Message, message, reason_of

MAGIC: Final = b"GGUF"
MIN_SIZE: Final = 24
MODEL_FILE: Final = message("a GGUF model file")
_OTHERS: Final[dict[bytes, Message]] = {
    b"version https://git-lfs": message("a Git LFS pointer: run `git lfs pull` in that folder"),
    b"lmgg": message("a GGML file of 2023: convert the model again"),
    b"tjgg": message("a GGJT file of 2023: convert the model again"),
    b"PK\x03\x04": message("a zip archive: unpack it"),
    b"\x1f\x8b": message("a gzip archive: unpack it with gunzip"),
    b"(\xb5/\xfd": message("a zstd archive: unpack it with unzstd"),
    b"<": message("a web page: download the file itself"),
}


@dataclass(frozen=True)
class GGUFHeader:
    """A checked header. `metadata` values are int, float, bool, str or `ArrayValue`."""

    path: Path
    version: int
    metadata: dict[str, object]
    value_types: dict[str, ValueType]
    tensors: dict[str, TensorInfo]
    alignment: int
    data_offset: int
    """Byte of the file where tensor data starts."""
    file_size: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, padding apart."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    def full_key(self, key: str) -> str:
        """The key with `%s` replaced by the architecture's name."""
        return key.replace("%s", self.architecture)

    def get(self, key: str, default: Any = None) -> Any:
        """Metadata by full key, or by `%s` for the architecture's name: `get('%s.block_count')`."""
        return self.metadata.get(self.full_key(key), default)


def read_header(path: str | Path, wanted: Message = MODEL_FILE) -> GGUFHeader:
    """Read and check the header of a GGUF file; tensor data is not touched.

    Raises:
        BadFileError: it is not a GGUF, it is truncated, or a count, length, type, dimension,
            alignment or offset in it cannot be right.
    """
    path = Path(path)
    with open_regular(path, wanted) as file:
        return parse_header(file, os.fstat(file.fileno()).st_size, path)


def open_regular(path: Path, wanted: Message = MODEL_FILE) -> BinaryIO:
    """Open a file that a user named, without waiting for the writer of a pipe.

    Raises:
        MissingFileError: it does not exist.
        BadFileError: it is not a regular file, or cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = message("check the path")
        if (work_folder(path) / path.name).exists():  # a job that only looks has a folder, too
            remedy = message(
                "a patch in place was interrupted: run the same `pedsup-run patch` again"
            )
        raise MissingFileError("no such file", where=path, remedy=remedy) from error
    except (OSError, ValueError) as error:
        raise BadFileError(
            message("the file cannot be opened: {reason}", reason=reason_of(error)),
            where=path,
            remedy="check the path and its permissions",
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadFileError("this is not a regular file", where=path, wanted=wanted, remedy=NO_FILE)
    return os.fdopen(fd, "rb")


def parse_header(file: BinaryIO, size: int, path: Path) -> GGUFHeader:
    """`read_header` for an open file of `size` bytes; `path` is for the messages."""
    cursor = Cursor(file, size, path)
    version, n_tensors, n_kv = _read_prefix(cursor)
    reader = MetadataReader(cursor)
    reader.read(n_kv)
    alignment = alignment_of(cursor, reader)
    tensors = read_table(cursor, n_tensors)
    data_offset = check_layout(cursor, tensors, alignment)
    return GGUFHeader(
        path, version, reader.values, reader.types, tensors, alignment, data_offset, size
    )


def _require_magic(cursor: Cursor) -> None:
    start = bytes(cursor.data[:MIN_SIZE])
    if start.startswith(MAGIC):
        return
    shown = repr(start[:4])
    what = next((name for magic, name in _OTHERS.items() if start.startswith(magic)), None)
    found = (
        message("the file starts with {bytes}, it is {what}", bytes=shown, what=what)
        if what
        else message("the file starts with {bytes}", bytes=shown)
    )
    raise cursor.bad(found, "a GGUF model (b'GGUF')")


def _read_prefix(cursor: Cursor) -> tuple[int, int, int]:
    """Version, number of tensors, number of keys."""
    if cursor.size < MIN_SIZE:
        raise BadFileError(
            message("a file of {n} bytes", n=cursor.size),
            where=cursor.path,
            wanted="a GGUF model",
            remedy=AGAIN,
        )
    cursor.need(MIN_SIZE)
    _require_magic(cursor)
    cursor.skip(4)
    version = cursor.u32()
    if not version & 0xFFFF:
        (swapped,) = struct.unpack(">I", version.to_bytes(4, "little"))
        raise cursor.bad(
            message(
                "GGUF version {n} with its bytes in reverse order: a big-endian file", n=swapped
            ),
            "a little-endian file: convert it with `gguf-convert-endian FILE little`",
            at=4,
        )
    if version not in VERSIONS:
        wanted = message("version {versions}", versions=" or ".join(map(str, VERSIONS)))
        raise cursor.bad(message("GGUF version {n}", n=version), wanted, at=4)
    n_tensors, n_kv = cursor.u64(), cursor.u64()
    if n_tensors > MAX_TENSORS or n_kv > MAX_KEYS:
        raise cursor.bad(
            message("{n} tensors and {m} metadata keys announced", n=n_tensors, m=n_kv),
            message("at most {n} tensors and {m} keys", n=MAX_TENSORS, m=MAX_KEYS),
            at=8,
        )
    return version, n_tensors, n_kv
