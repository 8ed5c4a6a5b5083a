"""The server engine's state file: our token list, then llama-server's own state.

"PEDSUPS1" | u32 count | count x i32 token | state
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError
from pedsup.files.fsio import atomic_file
from pedsup.messages import as_message, message

MAGIC: Final = b"PEDSUPS1"
_COUNT: Final = struct.Struct("<I")


def pack_state(tokens: Sequence[int], state: Path, path: Path) -> None:
    """Write `tokens` and the content of `state` to `path`, atomically."""
    with atomic_file(path, private=True) as out, state.open("rb") as source:
        out.write(MAGIC + _COUNT.pack(len(tokens)))
        out.write(struct.pack(f"<{len(tokens)}i", *tokens))
        shutil.copyfileobj(source, out, 1 << 20)


def unpack_state(path: Path, target: Path, limit: int) -> list[int]:
    """Check a state file, put the server's part of it at `target`; its tokens.

    Raises:
        BadFileError: it is another kind of file, is truncated, or has more than `limit` tokens.
    """
    with path.open("rb") as source:
        head = source.read(len(MAGIC) + _COUNT.size)
        if head[: len(MAGIC)] != MAGIC or len(head) < len(MAGIC) + _COUNT.size:
            raise bad_state(path, "not a state file of this engine")
        (count,) = _COUNT.unpack(head[len(MAGIC) :])
        if count > limit:
            raise bad_state(path, message("{n} tokens for a context of {m}", n=count, m=limit))
        raw = source.read(4 * count)
        if len(raw) != 4 * count:
            raise bad_state(path, "truncated")
        with target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    return list(struct.unpack(f"<{count}i", raw))


def bad_state(path: Path, reason: str) -> BadFileError:
    return BadFileError(
        message(
            "llama-server does not accept the saved state: {reason}", reason=as_message(reason)
        ),
        where=path,
        wanted="a state written by the same engine, model and settings",
        remedy="delete the file: it is only a cache",
    )
