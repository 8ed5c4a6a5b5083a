"""What came from a file and is printed is one line, and drives no terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup.errors import BadFileError, PedsupError
from pedsup.escape import escaped, escaped_lines
from pedsup.progress import report, say
from pedsup.trust.manifest import core_digest, manifest_document, read_manifest

FORGED = "x\nSigned by Dr. Quispe\x1b[2K\u202e"


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(text) == text or not text.isprintable()


def test_it_is_shown_as_a_programmer_would_type_it() -> None:
    assert escaped(FORGED) == r"x\nSigned by Dr. Quispe\x1b[2K\u202e"
    assert escaped_lines(FORGED) == "x\nSigned by Dr. Quispe\\x1b[2K\\u202e"
    assert escaped("tos, 38 °C, año: ≥ 3") == "tos, 38 °C, año: ≥ 3"
    assert escaped("a\udcff") == r"a\udcff"


@pytest.mark.parametrize("part", ["found", "where", "wanted", "remedy"])
def test_no_part_of_an_error_has_lines_of_its_own(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"found": "f", "where": "w", "wanted": "x", "remedy": "r", part: FORGED}
    error = PedsupError(parts.pop("found"), **parts)
    report(error)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 4
    assert "\nSigned" not in said and "\x1b" not in said and "\u202e" not in said


def test_several_lines_are_said_to_be_several(capsys: pytest.CaptureFixture[str]) -> None:
    report(BadFileError("two", where=["one", FORGED]))
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  where:  one",
        r"          x\nSigned by Dr. Quispe\x1b[2K\u202e",
    ]


def test_progress_drives_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("reading \x1b]0;title\x07 now")
    assert capsys.readouterr().err == "reading \\x1b]0;title\\x07 now\n"


HEX = "0" * 64


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file.sha256", HEX + "\nSigned by X"), ("file.sha256", "A" * 64),
        ("file.sha256", "0" * 63),
        ("file.size", -1), ("file.size", True), ("file.size", "1\n2"),
        ("core.tensors.a", {"sha256": HEX + "\n"}), ("core.tensors.a", {"sha256": 1}),
        ("core.tensors.a\nSigned by X", {"sha256": "b"}),
        ("core.tensors.a", {"sha256": HEX, "bytes": "x\n"}),
        ("core_sha256", HEX + "\n"),
    ],
)  # fmt: skip
def test_a_manifest_s_digests_are_digests(field: str, value: object, tmp_path: Path) -> None:
    core = {"tensors": {"a": {"sha256": HEX, "bytes": 1, "type": "F32"}}}
    document = manifest_document(core, {"name": "m", "size": 1, "sha256": HEX}, "now")
    path = tmp_path / "m.gguf.manifest.json"
    path.write_text(json.dumps(document))
    assert read_manifest(path).file.sha256 == HEX
    *sections, name = field.split(".")
    node = document
    for section in sections:
        node = node[section]
    node[name] = value
    if field != "core_sha256":
        document["core_sha256"] = core_digest(document["core"])
    path.write_text(json.dumps(document))
    with pytest.raises(BadFileError) as error:
        read_manifest(path)
    assert escaped(field) in error.value.found
    assert "\n" not in error.value.found
