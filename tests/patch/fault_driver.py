"""Driver of the fault sweeps of patching: see `pedsup_testing.faults`."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pedsup_testing import versions
from pedsup_testing.faults import Job, Report, finish, sweep

from pedsup.errors import MissingFileError
from pedsup.files.fsio import work_folder
from pedsup.files.parts.join import join, plan_join
from pedsup.files.parts.split import write_parts
from pedsup.gguf_file.header import read_header
from pedsup.patch import copying, payload
from pedsup.patch.apply import apply
from pedsup.patch.plan import ApplyRequest, open_plan
from pedsup.trust.manifest import manifest_path
from pedsup_export.patch import make
from pedsup_export.patch.make import make_patch
from pedsup_export.patch.plan import PatchRequest, plan_patch

LONG = "Tiny, with a name that moves every tensor up or down"
STRIDE = 1
Pair = tuple[bytes, bytes]


def pair(path: Path) -> Pair:
    return path.read_bytes(), manifest_path(path).read_bytes()


def run(old: Path, patch: Path, *, in_place: bool = False, undo: bool = False) -> None:
    with open_plan(ApplyRequest(old, patch, in_place=in_place, undo=undo)) as plan:
        apply(plan)


def _files(root: Path, before: str, after: str) -> tuple[Path, Path, Path]:
    root.mkdir()
    old = versions.version(root / "old.gguf", 2, name=before)
    new = versions.version(root / "new.gguf", 3, name=after)
    patch = root / "v.patch"
    make_patch(plan_patch(PatchRequest(old, new, patch)))
    return old, new, patch


def _fresh(folder: Path, source: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (source, manifest_path(source)):
        shutil.copyfile(path, folder / path.name)


def beside(root: Path) -> Report:
    """The old file is always there; the new one is whole or absent; the next run makes it."""
    old, new, patch = _files(root, "Tiny", LONG)
    work = root / "work"
    mine, made = work / "old.gguf", work / "new.gguf"
    before, after = pair(old), pair(new)

    def check(kind: str) -> None:
        assert pair(mine) == before, "the old file changed"
        if made.exists():
            assert pair(made) == after, "a new file that is not whole under its name"
            made.unlink()
        run(mine, patch)
        assert pair(made) == after
        assert not work_folder(made).exists(), "left-overs"

    return sweep(Job(work, lambda: _fresh(work, old), lambda: run(mine, patch), check, STRIDE,
                     each_call=True))  # fmt: skip


def in_place(root: Path, before: str, after: str, *, undo: bool) -> Report:
    """Under the name stands the old file, the new one, or nothing; then both ways are open."""
    old, new, patch = _files(root, before, after)
    work = root / "work"
    mine = work / "old.gguf"
    was, becomes = pair(old), pair(new)
    goal = was if undo else becomes

    def begin() -> None:
        _fresh(work, old)
        if undo:
            _interrupt(mine, patch)

    def check(kind: str) -> None:
        if mine.exists():
            assert mine.read_bytes() in (was[0], becomes[0]), "half a file under the name"
        else:
            assert work_folder(mine).is_dir()
            with contextlib.suppress(MissingFileError):
                read_header(mine)
        again = work.with_name("again")
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(work, again)
        _other_way(again / "old.gguf", patch)
        if undo and mine.exists():
            assert pair(mine) == was
        else:
            run(mine, patch, in_place=True, undo=undo)
        assert pair(mine) == goal
        if not work_folder(mine).exists():
            return
        assert mine.exists(), "left-overs without the model"

    def _other_way(copy: Path, patch: Path) -> None:
        """Go the way that was not being gone: the other file comes out, whole."""
        if work_folder(copy).is_dir() and not copy.exists():
            run(copy, patch, in_place=True, undo=not undo)
            assert pair(copy) == (becomes if undo else was)

    def job() -> None:
        run(mine, patch, in_place=True, undo=undo)

    return sweep(Job(work, begin, job, check, STRIDE, each_call=True))


def _interrupt(mine: Path, patch: Path) -> None:
    """A patch in place that stopped before its last steps."""
    from pedsup.patch.in_place import InPlace

    whole = InPlace._steps

    def part(job: InPlace, fd: int, journal: Any, done: int, goal: int, advance: Any) -> None:
        whole(job, fd, journal, done, goal * 2 // 3, advance)
        raise InterruptedError

    InPlace._steps = part  # type: ignore[method-assign]
    try:
        with contextlib.suppress(InterruptedError):
            run(mine, patch, in_place=True)
    finally:
        InPlace._steps = whole  # type: ignore[method-assign]


def joined(root: Path) -> Report:
    """The joined file is whole or absent, and the parts stay."""
    root.mkdir()
    source = versions.version(root / "old.gguf", 2)
    work = root / "work"
    parts = write_parts(source, root, 20_000)

    def prepare() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()

    def job() -> None:
        join(plan_join(parts[::-1], work / "joined.gguf", force=False))

    def check(kind: str) -> None:
        out = work / "joined.gguf"
        if out.exists():
            assert out.read_bytes() == source.read_bytes()
            out.unlink()
        job()
        assert out.read_bytes() == source.read_bytes()
        assert [path.name for path in work.iterdir()] == ["joined.gguf"]

    return sweep(Job(work, prepare, job, check))


def making(root: Path) -> Report:
    """The patch is whole or absent."""
    root.mkdir()
    old = versions.version(root / "old.gguf", 2)
    new = versions.version(root / "new.gguf", 3, name=LONG)
    work = root / "work"
    out = work / "v.patch"

    def prepare() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()

    def job() -> None:
        make_patch(plan_patch(PatchRequest(old, new, out, force=True)))

    prepare()
    job()
    whole = out.read_bytes()

    def check(kind: str) -> None:
        assert not out.exists() or out.read_bytes() == whole
        job()
        assert out.read_bytes() == whole
        assert [path.name for path in work.iterdir()] == ["v.patch"]

    return sweep(Job(work, prepare, job, check))


JOBS: dict[str, Callable[[Path], Report]] = {
    "making": making,
    "beside": beside,
    "in place": partial(in_place, before="Tiny", after="Tiny", undo=False),
    "in place, longer": partial(in_place, before="Tiny", after=LONG, undo=False),
    "in place, shorter": partial(in_place, before=LONG, after="Tiny", undo=False),
    "undo": partial(in_place, before="Tiny", after="Tiny", undo=True),
    "undo, longer": partial(in_place, before="Tiny", after=LONG, undo=True),
    "undo, shorter": partial(in_place, before=LONG, after="Tiny", undo=True),
    "join": joined,
}


def main(config: dict[str, str]) -> None:
    global STRIDE
    STRIDE = int(config["stride"])
    make.PIECE = payload.PIECE = 5000  # type: ignore[misc]
    copying.SPARE = 0  # type: ignore[misc]
    name = config["job"]
    finish({name: JOBS[name](Path(config["root"]) / "sweep")})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
