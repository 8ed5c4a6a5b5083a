"""`--json` of all four commands begins with one envelope, which docs/ describes."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from pedsup_testing import programs
from pedsup_testing.lazy import Lazy

from pedsup import __version__
from pedsup.files.envelope import enveloped
from pedsup_export.cli import cli as export
from pedsup_train.cli import _print

jsonschema = Lazy("jsonschema")

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs/json-envelope.schema.json").read_text("utf-8"))


def checked(text: str, program: str, kind: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(text)
    jsonschema.validate(document, SCHEMA)
    assert document["program"] == {"name": program, "version": __version__}
    assert document["schema"] == f"pedsup-{kind}/{document['version']}"
    assert document["kind"] == kind
    return document


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))


@pytest.mark.slow
def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    ("command", "arguments", "program", "kind", "field"),
    [
        ("pedsup", ["trust", "list", "--json"], "pedsup-run", "trust-list", "keys"),
        ("pedsup", ["forget", "--yes", "--json"], "pedsup-run", "forget", "removed"),
        ("pedsup", ["doctor", "--json"], "pedsup-run", "doctor", "findings"),
        ("pedsup_bench", ["phones", "--json"], "pedsup-bench", "bench-phones", "phones"),
    ],
)
def test_a_document_begins_with_the_envelope(
    command: str, arguments: list[str], program: str, kind: str, field: str
) -> None:
    """The document's own fields stand beside it, where they always stood."""
    done = programs.run(command, *arguments)
    assert field in checked(done.stdout, program, kind)


def test_the_exporter_s_documents(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="pip install 'pedsup[sign]'")
    name = str(tmp_path / "k")
    done = CliRunner().invoke(export, ["keygen", name, "--no-passphrase", "--json"])
    assert "fingerprint" in checked(done.stdout, "pedsup-export", "export-keygen"), done.output


def test_the_trainer_s_documents(capsys: pytest.CaptureFixture[str]) -> None:
    _print("data", {"train": {}}, True, str)
    assert checked(capsys.readouterr().out, "pedsup-train", "train-data")["train"] == {}


def test_a_document_s_own_warnings_stay() -> None:
    found = enveloped({"schema": "pedsup-x/2", "warnings": ["w"], "a": 1}, "pedsup-run")
    assert (found["warnings"], found["version"], found["a"]) == (["w"], 2, 1)


def printers(place: Path, is_bare: Callable[[ast.Call], bool]) -> list[str]:
    tree = ast.parse(place.read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [f"{place.name}:{call.lineno}" for call in calls if is_bare(call)]


def test_no_document_is_printed_without_it() -> None:
    """Every `json_text` of a document is of an enveloped one, or of the bench's own head."""

    def is_bare(call: ast.Call) -> bool:
        if getattr(call.func, "id", "") != "json_text":
            return False
        inner = call.args[0]
        name = getattr(inner, "id", "") or getattr(getattr(inner, "func", None), "id", "")
        return name not in ("enveloped", "whole")

    roots = ("runtime/pedsup/cli", "export/pedsup_export", "train/pedsup_train")
    files = [file for root in roots for file in (ROOT / root).rglob("*.py")]
    assert [place for file in files for place in printers(file, is_bare)] == []
