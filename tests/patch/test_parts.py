"""`pedsup-export split` and `pedsup-run join`: any order, and whatever is wrong has a name."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from pedsup.errors import BadFileError, MismatchError, OutputError, PedsupError, UsageError
from pedsup.files.parts.head import MAGIC
from pedsup.files.parts.join import join, plan_join
from pedsup.files.parts.split import write_parts
from pedsup_export.cli import cli

SIZE = 100_001
PART = 30_000


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "model v0.3.patch"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    (tmp_path / "sent").mkdir()
    return write_parts(whole, tmp_path / "sent", PART)


def joined(parts: list[Path], out: Path | None = None) -> Path:
    return join(plan_join(parts, out, force=False))


def test_any_order_and_any_names(whole: Path, parts: list[Path], tmp_path: Path) -> None:
    assert len(parts) == 4
    assert all(part.stat().st_size <= PART for part in parts)
    renamed = [part.rename(part.with_name(f"DOC-{n}.bin")) for n, part in enumerate(parts)]
    random.Random(2).shuffle(renamed)
    out = joined([*renamed, renamed[0]])  # a part that was sent twice does no harm
    assert out == tmp_path / "sent" / whole.name
    assert out.read_bytes() == whole.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        joined(renamed)


def test_the_command_splits_by_what_messengers_take(whole: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["split", str(whole), "--size", "15MB", "--out", str(tmp_path / "s"), "--json"]
    )
    assert done.exit_code == 0, done.output
    (part,) = json.loads(done.output)["parts"]
    assert Path(part).name == "model v0.3.patch.part01of01"
    assert joined([Path(part)]).read_bytes() == whole.read_bytes()


def test_parts_of_two_splits_of_one_file_are_told_apart(
    whole: Path, parts: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "again").mkdir()
    smaller = write_parts(whole, tmp_path / "again", PART // 2)
    with pytest.raises(MismatchError, match=r"split twice, into 4 parts and into 10") as error:
        plan_join([*parts[:2], smaller[5]], None, force=False)
    assert smaller[5].name in str(error.value) and "another file" not in str(error.value)
    others = write_parts(whole, tmp_path, PART - 1)  # as many parts, at other places
    with pytest.raises(BadFileError, match="does not begin where") as gap:
        plan_join([*parts[:2], *others[2:]], None, force=False)
    assert "get all parts of one split" in str(gap.value)


def test_missing_parts_are_named(parts: list[Path]) -> None:
    with pytest.raises(MismatchError, match="missing: 1, 3"):
        plan_join([parts[3], parts[1]], None, force=False)


def rewritten(part: Path, **fields: object) -> Path:
    """A part whose head says something else, with its bytes as they are."""
    raw, begin = part.read_bytes(), len(MAGIC) + 4
    (length,) = struct.unpack("<I", raw[len(MAGIC) : begin])
    text = json.dumps(json.loads(raw[begin : begin + length]) | fields).encode()
    part.write_bytes(MAGIC + struct.pack("<I", len(text)) + text + raw[begin + length :])
    return part


def test_a_forged_number_of_parts_is_said_in_short(parts: list[Path]) -> None:
    rewritten(parts[0], parts=10_000)
    with pytest.raises(MismatchError, match=r"missing: 2, 3, .*, 21, \.\.\.") as error:
        plan_join(parts[:1], None, force=False)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/b", ".x", "", "a\nb", "a\0", "ñ" * 150, "x" * 201, 3, None, ["x"]]
)
def test_a_name_that_no_file_here_can_have(parts: list[Path], name: object) -> None:
    rewritten(parts[0], name=name)
    with pytest.raises(BadFileError, match="name"):
        plan_join(parts[:1], None, force=False)


@pytest.mark.parametrize("name", [".x", "x" * 201])
def test_what_could_not_be_joined_is_not_split(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match="could not be joined"):
        write_parts(tmp_path / name, tmp_path, PART)
    longest = tmp_path / ("x" * 200)
    longest.write_bytes(b"x")
    sent = write_parts(longest, tmp_path, PART)
    longest.unlink()
    assert joined(sent).read_bytes() == b"x"


def test_foreign_parts_are_named(parts: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.patch"
    other.write_bytes(b"other" * 9000)
    foreign = write_parts(other, tmp_path, PART)[0]
    with pytest.raises(MismatchError, match=r"another file: other\.patch\.part01of02"):
        plan_join([*parts, foreign], None, force=False)


def test_two_different_parts_of_one_number_are_named(parts: list[Path]) -> None:
    raw = parts[1].read_bytes()
    (length,) = struct.unpack("<I", raw[len(MAGIC) : len(MAGIC) + 4])
    begin = len(MAGIC) + 4
    head = json.loads(raw[begin : begin + length])
    head["part_sha256"] = "0" * 64
    text = json.dumps(head).encode()
    twin = parts[1].with_name("twin")
    twin.write_bytes(MAGIC + struct.pack("<I", len(text)) + text + raw[begin + length :])
    with pytest.raises(MismatchError, match="part 2 is there twice"):
        plan_join([*parts, twin], None, force=False)


def test_a_damaged_part_is_named_and_nothing_is_left(parts: list[Path], tmp_path: Path) -> None:
    raw = bytearray(parts[2].read_bytes())
    raw[-5] ^= 1
    parts[2].write_bytes(raw)
    with pytest.raises(BadFileError, match="part 3 is damaged") as refused:
        joined(parts, tmp_path / "out.patch")
    assert parts[2].name in str(refused.value)
    assert not [p for p in tmp_path.iterdir() if "out.patch" in p.name]


def test_every_cut_and_every_changed_head_is_refused(parts: list[Path], tmp_path: Path) -> None:
    raw = parts[0].read_bytes()
    bad = tmp_path / "bad"
    changed = [raw[:at] + bytes([raw[at] ^ 16]) + raw[at + 1 :] for at in range(0, 400, 3)]
    for data in (*(raw[:at] for at in (0, 5, 18, 200, len(raw) - 1)), raw + b"x", *changed):
        bad.write_bytes(data)
        with pytest.raises(PedsupError):
            joined([bad, *parts[1:]], tmp_path / "out.patch")
    assert not (tmp_path / "out.patch").exists()


@pytest.mark.parametrize(
    "change",
    [{"name": "../x"}, {"name": ".x"}, {"name": 3}, {"size": 1 << 70}, {"size": -1}, {"part": 0},
     {"part": 9}, {"parts": 1 << 40}, {"begin": 90_000}, {"length": True}, {"sha256": "x"},
     {"part_sha256": None}],
)  # fmt: skip
def test_a_hostile_head_is_refused(
    parts: list[Path], change: dict[str, object], tmp_path: Path
) -> None:
    raw = parts[0].read_bytes()
    begin = len(MAGIC) + 4
    (length,) = struct.unpack("<I", raw[begin - 4 : begin])
    text = json.dumps({**json.loads(raw[begin : begin + length]), **change}).encode()
    parts[0].write_bytes(MAGIC + struct.pack("<I", len(text)) + text + raw[begin + length :])
    with pytest.raises(PedsupError):
        joined(parts)
    assert not (tmp_path / "x").exists()


def test_parts_that_are_too_small_are_refused(whole: Path, tmp_path: Path) -> None:
    for size in (0, 100, 4120):
        with pytest.raises(UsageError):
            write_parts(whole, tmp_path / "sent", size)
