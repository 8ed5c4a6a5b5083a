"""Write the parts of a patch file in their order: payload, index, and the prefix in front."""

from __future__ import annotations

import hashlib
import json
import lzma
import zlib
from typing import BinaryIO

from pedsup.patch.index import MAGIC, PREFIX
from pedsup_export.patch.pack import deflated


class PatchWriter:
    """Writes the payload, then the index, then the prefix in front."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._payload = hashlib.sha256()
        self._size = file.write(bytes(PREFIX.size))
        self._index = b""

    def write(self, data: bytes) -> int:
        """Append to the payload."""
        self._payload.update(data)
        self._size += self._file.write(data)
        return len(data)

    def xz(self, data: bytes) -> list[int]:
        """Append a part that is unpacked as one; its packed and unpacked length."""
        return [self.write(lzma.compress(data, preset=6)), len(data)]

    def finish(self, document: dict[str, object]) -> None:
        """Append the index and write the prefix."""
        document["payload_sha256"] = self._payload.hexdigest()
        raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        self._index = deflated(raw, zlib.Z_DEFAULT_STRATEGY)
        self._size += self._file.write(self._index)
        digest = hashlib.sha256(self._index).digest()
        self._file.seek(0)
        self._file.write(PREFIX.pack(MAGIC, len(self._index), len(raw), self._size, digest))
        self._file.flush()

    def whole(self) -> tuple[int, str]:
        """Size and the index's SHA-256, which identifies the patch."""
        return self._size, hashlib.sha256(self._index).hexdigest()
