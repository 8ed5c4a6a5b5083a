"""Joins the parts of a file, in whatever order they are given."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pedsup.errors import BadFileError, MismatchError, ResourceError
from pedsup.files.fsio import atomic_file, refuse_existing
from pedsup.files.parts.head import AGAIN, Part, blocks, read_part
from pedsup.messages import message

MAX_SAID: Final = 20
"""How many missing parts an error lists."""


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
        BadFileError: one of them is not a part, or is damaged.
        MismatchError: missing, doubled or foreign parts; each is named.
        OutputError: the file exists.
        ResourceError: the disk has too little space.
    """
    parts = [read_part(path) for path in paths]
    first = parts[0].head
    whole = _in_order(parts)
    _require_seamless(whole)
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
    return JoinPlan(whole, target)


def _in_order(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts in order. Raises `MismatchError`: one is missing, foreign, or in two versions."""
    _require_one_file(parts)
    first = parts[0].head
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
    return tuple(found.values())


def _require_one_file(parts: Sequence[Part]) -> None:
    first = parts[0].head
    others = [part for part in parts if part.head.whole != first.whole]
    foreign = [part.path.name for part in others]
    if others and all(part.head.of == first.of for part in others):
        raise MismatchError(
            message(
                "the file {name} was split twice, into {n} parts and into {m}, and these are "
                "parts of both", name=first.name, n=first.parts, m=others[0].head.parts,
            ),
            where=parts[0].path,
            wanted=message("all parts of one of the two, not these: {names}",
                           names=", ".join(foreign)),
            remedy="leave out the parts of one of the two; get those that are missing of the other",
        )  # fmt: skip
    if foreign:
        raise MismatchError(
            message("parts of another file: {names}", names=", ".join(foreign)),
            where=parts[0].path,
            wanted=message(
                "parts of {name} ({digest}) only", name=first.name, digest=first.sha256[:16]
            ),
            remedy="leave them out, and join them by themselves",
        )


def _require_seamless(parts: Sequence[Part]) -> None:
    at = 0
    for part in parts:
        if part.head.begin != at:
            raise BadFileError(
                message(
                    "part {part} does not begin where the one before it ends", part=part.head.part
                ),
                where=part.path,
                remedy="the file was split twice, with other sizes: get all parts of one split",
            )
        at += part.head.length
    if at != parts[0].head.size:
        raise BadFileError("the parts do not add up", where=parts[-1].path, remedy=AGAIN)


def join(plan: JoinPlan, on_bytes: Callable[[int], object] = lambda n: None) -> Path:
    """Write the whole file; it takes its name when its SHA-256 is right.

    Raises:
        BadFileError: a part is damaged; it is named.
    """
    with atomic_file(plan.out) as out:
        _write_whole(plan, out, on_bytes)
    return plan.out


def _write_whole(plan: JoinPlan, out: BinaryIO, on_bytes: Callable[[int], object]) -> None:
    whole = hashlib.sha256()
    for part in plan.parts:
        own = hashlib.sha256()
        with part.path.open("rb") as file:
            for block in blocks(file, part.data_at, part.head.length):
                own.update(block)
                whole.update(block)
                out.write(block)
                on_bytes(len(block))
        if own.hexdigest() != part.head.part_sha256:
            raise BadFileError(
                message("part {part} is damaged", part=part.head.part),
                where=part.path,
                remedy=AGAIN,
            )
    if whole.hexdigest() != plan.sha256:
        raise BadFileError(
            "the joined file is not the one that was split",
            where=plan.out,
            wanted=f"SHA-256 {plan.sha256}",
            remedy="split the file and send it again",
        )
