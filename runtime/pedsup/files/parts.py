"""A file in parts that messengers carry: each says of what it is a part, and can be checked alone.

    magic 16 | u32 length of the head | head: JSON | the bytes
    head  {"name", "size", "sha256"} of the whole file; "part", "parts"; "begin", "length" and
          "part_sha256" of the bytes that follow

Parts are joined in whatever order they are given, under whatever names a messenger gave them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from pedsup.errors import BadFileError, MismatchError, OutputError, ResourceError, UsageError
from pedsup.files.fsio import (
    atomic_file,
    fsync_folder,
    lock_or_refuse,
    open_partial,
    partial_path,
    publish,
    refuse_existing,
    sync_file,
)
from pedsup.files.json_file import parse_json
from pedsup.messages import message, reason_of

MAGIC: Final = b"pedsup-part/1\r\n\0"
_LENGTH: Final = struct.Struct("<I")
MAX_HEAD: Final = 4096
MAX_PARTS: Final = 10_000
_BLOCK: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]*")
"""A name that stays in its folder and hides nothing."""
MAX_NAME: Final = 200
"""Bytes of it: file systems take 255, and the partial file has a longer one."""
MAX_SAID: Final = 20
"""Missing parts that an error lists."""
_AGAIN: Final = message("get this part again from where it came from")


@dataclass(frozen=True)
class PartHead:
    """What a part says of itself and of its whole."""

    name: str
    size: int
    sha256: str
    part: int
    """From 1."""
    parts: int
    begin: int
    length: int
    part_sha256: str

    @property
    def whole(self) -> tuple[str, int, str, int]:
        """What all parts of one file have in common."""
        return self.name, self.size, self.sha256, self.parts


@dataclass(frozen=True)
class Part:
    """A part on the disk, its head checked and its bytes not yet."""

    path: Path
    head: PartHead
    data_at: int


def read_part(path: Path) -> Part:
    """The head of a part.

    Raises:
        BadFileError: it is no part, cut, or its head cannot be.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(len(MAGIC) + _LENGTH.size)
            if len(raw) < len(MAGIC) + _LENGTH.size or not raw.startswith(MAGIC):
                raise BadFileError(
                    "this is not a part of a split file",
                    where=path,
                    wanted="a file of `pedsup-export split`",
                    remedy="leave it out",
                )
            (length,) = _LENGTH.unpack(raw[len(MAGIC) :])
            head = _head(parse_json(file.read(min(length, MAX_HEAD))))
            size = os.fstat(file.fileno()).st_size
    except (ValueError, LookupError, TypeError) as error:
        raise BadFileError(
            message("the head of this part is damaged: {reason}", reason=reason_of(error)),
            where=path,
            remedy=_AGAIN,
        ) from error
    data_at = len(MAGIC) + _LENGTH.size + length
    if size != data_at + head.length:
        raise BadFileError(
            message(
                "part {part} of {parts} has {size} bytes",
                part=head.part,
                parts=head.parts,
                size=size,
            ),
            where=path,
            wanted=f"{data_at + head.length} bytes",
            remedy=_AGAIN,
        )
    return Part(path, head, data_at)


def _head(document: Any) -> PartHead:
    fields = PartHead.__annotations__
    head = PartHead(**{name: document[name] for name in fields})
    numbers = (head.size, head.part, head.parts, head.begin, head.length)
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise ValueError("a number in it cannot be")
    if not 1 <= head.part <= head.parts <= MAX_PARTS or head.begin + head.length > head.size:
        raise ValueError("its place in the whole cannot be")
    if not all(
        isinstance(d, str) and _SHA256.fullmatch(d) for d in (head.sha256, head.part_sha256)
    ):
        raise ValueError("a digest that is none")
    if not isinstance(head.name, str) or not _can_be_joined(head.name):
        raise ValueError("its name cannot be a file's")
    return head


def _can_be_joined(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and len(os.fsencode(name)) <= MAX_NAME


def write_parts(path: Path, folder: Path, part_bytes: int, *, force: bool = False) -> list[Path]:
    """Split a file: parts of at most `part_bytes`, heads included, each whole or not there.

    Raises:
        UsageError: there would be too many parts, or the file's name is not one that `join` takes.
        OutputError: a part exists.
    """
    if not _can_be_joined(path.name):
        raise UsageError(
            "the parts could not be joined: the file's name is hidden, too long or not plain",
            where=path,
            wanted=message("a name of at most {n} bytes without a dot in front", n=MAX_NAME),
            remedy="rename the file",
        )
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        room = part_bytes - len(MAGIC) - _LENGTH.size - MAX_HEAD
        n = max(1, -(-size // room)) if room > 0 else 0
        if not 1 <= n <= MAX_PARTS:
            raise UsageError(
                message("parts of {size} bytes for a file of {total}", size=part_bytes, total=size),
                wanted=message(
                    "at most {count} parts of more than {size} bytes",
                    count=MAX_PARTS,
                    size=MAX_HEAD,
                ),
                remedy="give a larger --size",
            )
        digest = hashlib.sha256()
        for block in _blocks(file, 0, size):
            digest.update(block)
        width = max(2, len(str(n)))
        names = [f"{path.name}.part{i:0{width}d}of{n:0{width}d}" for i in range(1, n + 1)]
        for name in names:
            refuse_existing(folder / name, force=force)
        whole = (path.name, size, digest.hexdigest())
        for i, name in enumerate(names):
            begin = i * room
            length = min(room, size - begin)
            own = hashlib.sha256()
            for block in _blocks(file, begin, length):
                own.update(block)
            head = PartHead(*whole, i + 1, n, begin, length, own.hexdigest())
            with atomic_file(folder / name) as out:
                raw = json.dumps(asdict(head), ensure_ascii=False).encode()
                out.write(MAGIC + _LENGTH.pack(len(raw)) + raw)
                for block in _blocks(file, begin, length):
                    out.write(block)
    return [folder / name for name in names]


def _blocks(file: BinaryIO, begin: int, length: int) -> Iterator[bytes]:
    file.seek(begin)
    while length:
        block = file.read(min(_BLOCK, length))
        if not block:
            raise OutputError("the file was cut while it was read", where=file.name)
        length -= len(block)
        yield block


@dataclass(frozen=True)
class JoinPlan:
    """Parts that make a whole, in their order."""

    parts: tuple[Part, ...]
    out: Path

    @property
    def size(self) -> int:
        return self.parts[0].head.size

    @property
    def sha256(self) -> str:
        return self.parts[0].head.sha256


def plan_join(paths: Sequence[Path], out: Path | None, *, force: bool) -> JoinPlan:
    """Check that the parts are all there, once each, and of one file.

    Args:
        out: the file to make; None: under its own name, in the folder of the first part.

    Raises:
        BadFileError: one of them is no part, or damaged.
        MismatchError: missing, doubled or foreign parts; each is named.
        OutputError: the file exists.
        ResourceError: there is no room for it.
    """
    parts = [read_part(path) for path in paths]
    first = parts[0].head
    foreign = [part.path.name for part in parts if part.head.whole != first.whole]
    if foreign:
        raise MismatchError(
            message("parts of another file: {names}", names=", ".join(foreign)),
            where=parts[0].path,
            wanted=message(
                "parts of {name} ({digest}) only", name=first.name, digest=first.sha256[:16]
            ),
            remedy="leave them out, and join them by themselves",
        )
    found: dict[int, Part] = {}
    for part in sorted(parts, key=lambda part: part.head.part):
        twin = found.setdefault(part.head.part, part)
        if twin is not part and twin.head != part.head:
            raise MismatchError(
                message("part {part} is there twice, with different bytes", part=part.head.part),
                where=f"{twin.path}, {part.path}",
                remedy="get this part again",
            )
    missing = [str(n) for n in range(1, first.parts + 1) if n not in found]
    if missing:
        missing[MAX_SAID:] = ["..."] if len(missing) > MAX_SAID else []
        raise MismatchError(
            message("parts are missing: {numbers}", numbers=", ".join(missing)),
            where=first.name,
            wanted=message("all {parts} parts", parts=first.parts),
            remedy="get these parts as well",
        )
    _require_seamless(list(found.values()))
    target = out if out is not None else parts[0].path.with_name(first.name)
    refuse_existing(target, force=force)
    free = shutil.disk_usage(target.parent).free
    if free < first.size:
        raise ResourceError(
            message("the disk has {size} bytes free", size=free),
            where=target.parent,
            wanted=message("{size} bytes for the joined file", size=first.size),
            remedy="free space there",
        )
    return JoinPlan(tuple(found.values()), target)


def _require_seamless(parts: Sequence[Part]) -> None:
    at = 0
    for part in parts:
        if part.head.begin != at:
            raise BadFileError(
                message(
                    "part {part} does not begin where the one before it ends", part=part.head.part
                ),
                where=part.path,
                remedy=_AGAIN,
            )
        at += part.head.length
    if at != parts[0].head.size:
        raise BadFileError("the parts do not add up", where=parts[-1].path, remedy=_AGAIN)


def join(plan: JoinPlan, on_bytes: Any = lambda n: None) -> Path:
    """Write the whole file; it takes its name when its SHA-256 is right.

    Raises:
        BadFileError: a part is damaged; it is named.
    """
    partial = partial_path(plan.out)
    whole = hashlib.sha256()
    with os.fdopen(open_partial(partial, os.O_RDWR), "r+b") as out:
        lock_or_refuse(out, plan.out)
        out.truncate(0)
        try:
            for part in plan.parts:
                own = hashlib.sha256()
                with part.path.open("rb") as file:
                    for block in _blocks(file, part.data_at, part.head.length):
                        own.update(block)
                        whole.update(block)
                        out.write(block)
                        on_bytes(len(block))
                if own.hexdigest() != part.head.part_sha256:
                    raise BadFileError(
                        message("part {part} is damaged", part=part.head.part),
                        where=part.path,
                        remedy=_AGAIN,
                    )
            if whole.hexdigest() != plan.sha256:
                raise BadFileError(
                    "the joined file is not the one that was split",
                    where=plan.out,
                    wanted=f"SHA-256 {plan.sha256}",
                    remedy="split the file and send it again",
                )
            out.flush()
            sync_file(out.fileno())
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        publish(partial, plan.out)
    fsync_folder(plan.out.parent)
    return plan.out
