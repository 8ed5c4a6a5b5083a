"""`pedsup-export patch` and `pedsup-run patch`: the new file, or the old one as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import versions
from pedsup_testing.home import environment

from pedsup.cli.commands.patch import command as patch_command
from pedsup.errors import (
    BadFileError,
    MismatchError,
    MissingFileError,
    OutputError,
    PedsupError,
    ResourceError,
    UntrustedError,
    UsageError,
)
from pedsup.files.fsio import work_folder
from pedsup.patch import copying, payload
from pedsup.patch import in_place as changing
from pedsup.patch.apply import apply, check
from pedsup.patch.index import MAGIC, MAX_INDEX, PREFIX, read_index
from pedsup.patch.plan import ApplyRequest, open_plan
from pedsup.trust.manifest import core_digest, manifest_path, mmproj_path
from pedsup_export.patch import make
from pedsup_export.patch.make import make_patch
from pedsup_export.patch.pack import deflated
from pedsup_export.patch.plan import PatchRequest, plan_patch

NAMES = {"same": "Tiny", "longer": "Tiny, version two, with a name that moves every tensor"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    # Several pieces in a tensor of a few kilobytes.
    monkeypatch.setattr(make, "PIECE", 1000)
    monkeypatch.setattr(payload, "PIECE", 1000)
    # A test machine may have less free than a phone must keep.
    monkeypatch.setattr(copying, "SPARE", 0)


def patch_of(old: Path, new: Path, out: Path) -> Path:
    return make_patch(plan_patch(PatchRequest(old, new, out, threads=2))).path


Made = tuple[Path, Path, Path]


@pytest.fixture(params=["same", "longer", "shorter"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """Old file, new file in another folder, patch; the new header as long, longer or shorter."""
    names = {"same": ("same", "same"), "longer": ("same", "longer"), "shorter": ("longer", "same")}
    return _make(tmp_path, *names[request.param])


def _make(tmp_path: Path, before: str = "same", after: str = "same") -> Made:
    """Copies of what was made once for all tests."""
    master = tmp_path.parent / f"versions-{before}-{after}"
    if not master.exists():
        for folder in ("phone", "lab"):
            (master / folder).mkdir(parents=True)
        old = versions.version(master / "phone/v0.2.gguf", 2, name=NAMES[before])
        new = versions.version(master / "lab/v0.3.gguf", 3, name=NAMES[after])
        patch_of(old, new, master / "v0.3.patch")
    shutil.copytree(master, tmp_path, dirs_exist_ok=True)
    return tmp_path / "phone/v0.2.gguf", tmp_path / "lab/v0.3.gguf", tmp_path / "v0.3.patch"


def run(old: Path, patch: Path, **options: Any) -> None:
    with open_plan(ApplyRequest(old, patch, **options)) as plan:
        apply(plan)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def is_new(model: Path, new: Path) -> bool:
    same = model.read_bytes() == new.read_bytes()
    return same and manifest_path(model).read_bytes() == manifest_path(new).read_bytes()


def test_the_new_file_is_made_beside_the_old_one(made: Made) -> None:
    old, new, patch = made
    before = contents(old.parent)
    run(old, patch)
    target = old.with_name("v0.3.gguf")
    assert is_new(target, new)
    assert contents(old.parent).items() > before.items()
    assert len(contents(old.parent)) == len(before) + 2
    # The same command again, or one for the new file itself: nothing is left to do.
    whole = contents(old.parent)
    for model, more in ((old, {}), (target, {}), (target, {"in_place": True})):
        with open_plan(ApplyRequest(model, patch, **more)) as plan:
            assert (plan.ready, plan.final) == (True, target)
            check(plan)
            assert apply(plan) is not None
    with (
        pytest.raises(UsageError, match="new version already"),
        open_plan(ApplyRequest(target, patch, out=target.with_name("other.gguf"))),
    ):
        pass
    assert contents(old.parent) == whole
    # Another file of that name is not replaced.
    target.write_bytes(old.read_bytes())
    with pytest.raises(OutputError, match="exists"):
        run(old, patch)


def test_the_new_file_takes_the_place_of_the_old_one(made: Made) -> None:
    old, new, patch = made
    run(old, patch, in_place=True)
    assert is_new(old, new)
    assert set(contents(old.parent)) == {old.name, manifest_path(old).name}
    # Nothing is left to take back.
    with open_plan(ApplyRequest(old, patch, undo=True)) as plan:
        for ask in (check, apply):
            with pytest.raises(UsageError, match="no interrupted patch"):
                ask(plan)
    # The same command again, as a script may give it: nothing is left to do.
    run(old, patch, in_place=True)
    assert is_new(old, new)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_name_and_a_projector_that_are_the_old_version_s_are_named(
    tmp_path: Path, in_place: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    old, _new, patch = _make(tmp_path)
    left = mmproj_path(old)
    left.touch()

    def said(*, as_json: bool = False) -> str:
        # Not through click, which keeps an English --help for the tests of the Spanish one.
        assert patch_command.callback is not None
        patch_command.callback(
            old=old, patch=patch, out=None, in_place=in_place, undo=False, dry_run=False,
            as_json=as_json,
        )  # fmt: skip
        return capsys.readouterr().out

    for _ in range(2):  # the second time there is nothing to do
        lines = said()
        assert ("the new version was exported as v0.3.gguf\n" in lines) is in_place
        wanted = f"{left} is the old one's: delete it" if in_place else f"does not use {left}\n"
        assert wanted in lines
    document = json.loads(said(as_json=True))
    assert (document["exported_as"], document["old_projector"]) == ("v0.3.gguf", str(left))
    left.unlink()
    assert "no projector" not in said()


@pytest.mark.parametrize("more", [{"in_place": True}, {"in_place": True, "undo": True}])
def test_a_missing_file_is_not_called_an_interrupted_patch(
    tmp_path: Path, more: dict[str, bool]
) -> None:
    old, _new, patch = _make(tmp_path)
    with pytest.raises(MissingFileError, match="no such file") as caught:
        run(old.with_name("none.gguf"), patch, **more)
    assert caught.value.remedy == "check the path"


def test_what_is_unchanged_costs_a_line_of_the_index(tmp_path: Path) -> None:
    old, _new, patch = _make(tmp_path)
    index, file = read_index(patch)
    file.close()
    kept = [entry for entry in index.tensors if entry.how == "same"]
    assert [entry.name for entry in kept] == [versions.KEPT]
    assert kept[0].packed == 0
    assert index.literal.unpacked < 600 < old.stat().st_size


def test_a_tensor_of_another_type_is_taken_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = versions.version(tmp_path / "v0.2.gguf", 2)
    monkeypatch.setitem(versions._TYPES, "blk.0.attn_q.weight", versions.Q8_0_TENSOR)
    new = versions.version(tmp_path / "v0.3.gguf", 3)
    patch = patch_of(old, new, tmp_path / "p.patch")
    run(old, patch, out=tmp_path / "made.gguf")
    assert is_new(tmp_path / "made.gguf", new)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="new tensors"):
        run(old, patch, in_place=True)
    assert contents(tmp_path) == before


def test_a_patch_for_another_file_is_refused_at_once(made: Made, tmp_path: Path) -> None:
    old, _new, patch = made
    other = versions.version(tmp_path / "phone/other.gguf", 4)
    before = contents(old.parent)
    for options in ({}, {"in_place": True}, {"out": tmp_path / "x.gguf"}):
        with pytest.raises(MismatchError, match="for another file"):
            run(other, patch, **options)
    assert contents(old.parent) == before
    assert not list(old.parent.glob(".*"))


@pytest.mark.parametrize("in_place", [False, True])
def test_an_old_file_that_is_damaged_is_refused(made: Made, in_place: bool) -> None:
    old, _new, patch = made
    data = bytearray(old.read_bytes())
    data[-700] ^= 1
    old.write_bytes(data)
    before = contents(old.parent)
    with pytest.raises(MismatchError, match="not what it was"):
        run(old, patch, in_place=in_place)
    assert contents(old.parent) == before
    assert not list(old.parent.glob(".*"))


def test_a_check_writes_nothing(made: Made) -> None:
    old, _new, patch = made
    before = contents(old.parent)
    with open_plan(ApplyRequest(old, patch)) as plan:
        check(plan)
        assert plan.as_dict()["tensors"]["same"] == 1
    assert contents(old.parent) == before


def test_options_that_exclude_each_other(made: Made) -> None:
    old, _new, patch = made
    for options in (
        {"in_place": True, "out": old.with_name("x.gguf")},
        {"out": old},
        {"undo": True},
    ):
        with pytest.raises(UsageError):
            run(old, patch, **options)
    assert not list(old.parent.glob(".*"))


def test_a_file_with_a_second_name_is_not_changed_in_place(made: Made) -> None:
    old, _new, patch = made
    os.link(old, old.with_name("second.gguf"))
    with pytest.raises(OutputError, match="second name"):
        run(old, patch, in_place=True)
    assert not list(old.parent.glob(".*"))


def test_a_full_disk_is_said_before_writing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    old, _new, patch = made
    monkeypatch.setattr(copying, "SPARE", 1 << 60)
    with pytest.raises(ResourceError, match="free"):
        run(old, patch)
    assert not list(old.parent.glob(".*"))


# ---- damaged, forged and hostile patches


def test_every_byte_of_a_patch_counts(tmp_path: Path) -> None:
    """A flipped bit anywhere is an error, never another file; so is a cut anywhere."""
    old, _new, patch = _make(tmp_path)
    whole, before = patch.read_bytes(), contents(old.parent)
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        for bad in (whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :], whole[:at]):
            patch.write_bytes(bad)
            with pytest.raises(BadFileError):
                run(old, patch)
    assert contents(old.parent) == before
    assert not list(old.parent.glob(".*"))


def forge(patch: Path, change: Callable[[dict[str, Any], bytearray], object]) -> None:
    """Change index and payload, with digests that fit what is changed: only sense can refuse it."""
    raw = patch.read_bytes()
    _, packed, _, _, _ = PREFIX.unpack(raw[: PREFIX.size])
    document = json.loads(zlib.decompress(raw[-packed:], -15))
    body = bytearray(raw[PREFIX.size : -packed])
    change(document, body)
    document["payload_sha256"] = hashlib.sha256(body).hexdigest()
    text = json.dumps(document).encode()
    index = deflated(text)
    size = PREFIX.size + len(body) + len(index)
    head = PREFIX.pack(MAGIC, len(index), len(text), size, hashlib.sha256(index).digest())
    patch.write_bytes(head + body + index)


def entry(document: dict[str, Any], n: int) -> list[Any]:
    return [e for e in document["tensors"] if e[1] == "delta"][n]


def _swap_payloads(document: dict[str, Any], body: bytearray) -> None:
    at = [document[k][0] for k in ("literal", "manifest")]
    begin = sum(at) + (document["signature"] or [0])[0]
    lengths = [e[4] for e in document["tensors"]]
    first, second = [i for i, e in enumerate(document["tensors"]) if e[1] == "delta"][:2]
    parts, place = [], begin
    for length in lengths:
        parts.append(bytes(body[place : place + length]))
        place += length
    parts[first], parts[second] = parts[second], parts[first]
    for i in (first, second):
        document["tensors"][i][4] = len(parts[i])
    body[begin:] = b"".join(parts)


def _bomb(document: dict[str, Any], body: bytearray) -> None:
    """The first piece of a tensor unpacks to 64 MiB."""
    begin = document["literal"][0] + document["manifest"][0]
    for e in document["tensors"]:
        if e[1] == "delta":
            bomb = deflated(bytes(64 << 20), 2)
            made = struct.pack("<BI", 1, len(bomb)) + bomb
            body[begin : begin + e[4]] = made
            e[4] = len(made)
            return
        begin += e[4]


def _header_bomb(document: dict[str, Any], body: bytearray) -> None:
    document["header"] = [[0, 4096]] * 60_000


def _loose(document: dict[str, Any], body: bytearray) -> None:
    """Bytes that nothing needs, which would be read into memory at once."""
    at = document["literal"][0] + document["manifest"][0]
    body[at:at] = bytes(1 << 20)
    document["manifest"][0] += 1 << 20


HOSTILE: dict[str, Callable[[dict[str, Any], bytearray], object]] = {
    "reordered tensors": lambda d, b: d["tensors"].reverse(),
    "swapped payloads": _swap_payloads,
    "a bomb in a piece": _bomb,
    "a bomb of header copies": _header_bomb,
    "a bomb in xz": lambda d, b: d["manifest"].__setitem__(1, 8 << 20),
    "a tensor left out": lambda d, b: d["tensors"].pop(0),
    "a tensor twice": lambda d, b: d["tensors"].append(d["tensors"][0]),
    "another name": lambda d, b: entry(d, 0).__setitem__(0, "blk.9.attn_q.weight"),
    "another digest of the new tensor": lambda d, b: entry(d, 0).__setitem__(2, "0" * 64),
    "another digest of the old tensor": lambda d, b: entry(d, 0).__setitem__(3, "0" * 64),
    "a change that is called none": lambda d, b: entry(d, 0).__setitem__(1, "same"),
    "a kind that there is not": lambda d, b: entry(d, 0).__setitem__(1, "more"),
    "a length below zero": lambda d, b: entry(d, 0).__setitem__(4, -1),
    "a length of a bool": lambda d, b: entry(d, 0).__setitem__(4, True),
    "a length beyond the file": lambda d, b: entry(d, 0).__setitem__(4, 1 << 60),
    "a file of another size": lambda d, b: d["new"].__setitem__("size", d["new"]["size"] + 1),
    "an endless file": lambda d, b: d["new"].__setitem__("size", 1 << 61),
    "a name in another folder": lambda d, b: d["new"].__setitem__("name", "../x.gguf"),
    "a name of nothing": lambda d, b: d["new"].__setitem__("name", ".gguf"),
    "another schema": lambda d, b: d.__setitem__("schema", "pedsup-patch/9"),
    "no old file": lambda d, b: d.pop("old"),
    "copies from beyond the header": lambda d, b: d["header"].__setitem__(0, [1 << 25, 64]),
    "a header of copies only": lambda d, b: d.__setitem__("header", d["header"][:1]),
    "text where numbers are": lambda d, b: d.__setitem__("literal", "xx"),
    "a part without its lengths": lambda d, b: d.__setitem__("literal", []),
    "a tensor of nothing": lambda d, b: d["tensors"].__setitem__(0, []),
    "a list in place of a table": lambda d, b: d.__setitem__("new", []),
    "a part packed to more than it holds": _loose,
    "bytes behind the tensors": lambda d, b: b.extend(b"more"),
}


UNUSED_IN_PLACE = "another digest of the old tensor"
"""In place the old file is compared as a whole."""


@pytest.mark.parametrize(
    ("what", "in_place"),
    [(w, place) for w in HOSTILE for place in (False, True) if not place or w != UNUSED_IN_PLACE],
)
def test_a_hostile_patch_is_refused_and_nothing_is_left(
    tmp_path: Path, what: str, in_place: bool
) -> None:
    old, _new, patch = _make(tmp_path)
    forge(patch, HOSTILE[what])
    before = contents(old.parent)
    with pytest.raises(PedsupError) as refused:
        run(old, patch, in_place=in_place)
    assert type(refused.value) in (BadFileError, MismatchError, UntrustedError)
    assert contents(old.parent) == before
    assert not list(old.parent.glob(".*"))


def test_forging_itself_leaves_a_good_patch(tmp_path: Path) -> None:
    old, new, patch = _make(tmp_path)
    forge(patch, lambda d, b: None)
    run(old, patch)
    assert is_new(old.with_name("v0.3.gguf"), new)


@pytest.mark.parametrize("name", [".v0.3.gguf", "v0.3.bin", "a\nb.gguf", "x" * 200 + ".gguf"])
def test_a_name_that_a_patch_may_not_give_is_said_when_it_is_made(
    tmp_path: Path, name: str
) -> None:
    old, new, _patch = _make(tmp_path)
    other = new.with_name(name)
    new.rename(other)
    with pytest.raises(UsageError, match="would refuse a patch"):
        patch_of(old, other, tmp_path / "q.patch")


def test_a_header_of_too_many_copies_is_sent_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "MAX_COPIES", 1)
    old, new, _patch = _make(tmp_path, after="longer")
    patch = patch_of(old, new, tmp_path / "whole.patch")
    index, file = read_index(patch)
    file.close()
    assert [at for at, _ in index.copies] == [-1]
    run(old, patch)
    assert is_new(old.with_name("v0.3.gguf"), new)


def test_an_index_larger_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.patch"
    for packed, unpacked, size in (
        (4, MAX_INDEX + 1, 68),
        (1 << 31, 8, 68),
        (0, 8, 68),
        (4, 0, 68),
    ):
        path.write_bytes(PREFIX.pack(MAGIC, packed, unpacked, size, bytes(32)) + b"1234")
        with pytest.raises(BadFileError):
            read_index(path)
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BadFileError, match="not a patch"):
        read_index(path)


def test_a_forged_new_file_does_not_take_the_name(tmp_path: Path) -> None:
    """A patch whose differences and digests agree, but not with the manifest that it brings."""
    old, new, patch = _make(tmp_path)
    document = json.loads(manifest_path(new).read_text())
    document["file"]["sha256"] = "0" * 64
    assert core_digest(document["core"]) == document["core_sha256"]
    manifest_path(new).write_text(json.dumps(document))
    patch.unlink()
    patch_of(old, new, patch)
    before = contents(old.parent)
    for in_place in (False, True):
        with pytest.raises(UntrustedError, match="not the one that was exported"):
            run(old, patch, in_place=in_place)
        assert contents(old.parent) == before
    assert not work_folder(old).exists()


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """In place, with the second write to the model refused."""
    old, new, patch = _make(tmp_path)
    write, calls = copying.write_at, iter(range(100))

    def failing(fd: int, data: bytes, at: int) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "full")
        write(fd, data, at)

    with monkeypatch.context() as patched:
        patched.setattr(changing, "write_at", failing)
        with pytest.raises(OSError, match="full"):
            run(old, patch, in_place=True)
    assert not old.exists()
    return old, new, patch


@pytest.mark.parametrize("options", [{"in_place": True}, {"undo": True}])
def test_a_file_that_took_the_name_meanwhile_is_left(
    interrupted: Made, options: dict[str, bool]
) -> None:
    old, new, patch = interrupted
    taken = versions.version(old, 7).read_bytes()
    with pytest.raises(OutputError, match="taken the name"):
        run(old, patch, **options)
    assert old.read_bytes() == taken
    old.unlink()
    run(old, patch, in_place=True)
    assert is_new(old, new)


@pytest.mark.parametrize(("done", "at"), [(1 << 40, 0), (0, 1 << 50), (0, (1 << 64) - 1)])
def test_a_forged_journal_writes_nothing(interrupted: Made, done: int, at: int) -> None:
    old, _new, patch = interrupted
    model = work_folder(old) / old.name
    before = model.read_bytes()
    head = struct.pack("<8sQQQQ", b"PEDUNDO1", 99, done, at, 4)
    forged = head + hashlib.sha256(head + b"XXXX").digest() + b"XXXX"
    (work_folder(old) / "undo.1").write_bytes(forged)
    for options in ({"in_place": True}, {"undo": True}):
        with pytest.raises(OutputError, match="does not fit the file"):
            run(old, patch, **options)
    assert model.read_bytes() == before
