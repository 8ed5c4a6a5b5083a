"""Which model a file is, and when its manifest is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from pedsup.errors import BadFileError
from pedsup.gguf_file import read_header
from pedsup.progress import report
from pedsup.trust.identity import ModelIdentity, identify
from pedsup.trust.manifest import DIGEST_KEY, core_digest, manifest_document

CORE: dict[str, Any] = {
    "base": {"name": "google/gemma-4-E4B-it", "revision": "abc"},
    "adapter": {"name": "pediatric-support-g4"},
    "recipe": {"quant": "Q4_K_M"},
    "tensors": {},
}


def model(path: Path, *, name: str = "Pediatric", digest: str | None = None) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    if digest:
        writer.add_string(DIGEST_KEY, digest)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


def manifest(path: Path, core: dict[str, Any], **file: object) -> None:
    facts = {"name": path.name, "size": path.stat().st_size, "sha256": "f" * 64, **file}
    document = manifest_document(core, facts, "2026-11-23T00:00:00Z")
    path.with_name(path.name + ".manifest.json").write_text(json.dumps(document))


def identity(path: Path) -> ModelIdentity:
    return identify(read_header(path))


def test_a_file_with_its_own_manifest_says_what_it_is(tmp_path: Path) -> None:
    path = model(tmp_path / "m.gguf", digest=core_digest(CORE))
    manifest(path, CORE)
    found = identity(path)
    assert found.problem is None
    assert found.lines()[1] == (
        "manifest: base google/gemma-4-E4B-it, adapter pediatric-support-g4, Q4_K_M, "
        "exported 2026-11-23T00:00:00Z"
    )
    assert found.describe()["manifest_file_sha256"] == "f" * 64


@pytest.mark.parametrize("change", ["another core", "another size", "no digest in the file"])
def test_the_manifest_of_another_file_is_not_believed(tmp_path: Path, change: str) -> None:
    digest = None if change == "no digest in the file" else core_digest(CORE)
    path = model(tmp_path / "m.gguf", digest=digest)
    core = {**CORE, "recipe": {"quant": "Q8_0"}} if change == "another core" else CORE
    manifest(path, core, **({"size": 1} if change == "another size" else {}))
    found = identity(path)
    assert found.manifest is None
    assert "belongs to another file" in str(found.problem)
    assert "warning" in found.lines()[1]


def test_the_digest_follows_header_and_size(tmp_path: Path) -> None:
    first = identity(model(tmp_path / "a.gguf")).digest
    assert identity(model(tmp_path / "b.gguf")).digest == first
    assert identity(model(tmp_path / "c.gguf", name="pediatric")).digest != first
    longer = read_header(tmp_path / "b.gguf")
    longer = replace(longer, file_size=longer.file_size + 32)
    assert identify(longer).digest != first


def test_names_from_a_file_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model(tmp_path / "m.gguf", name="evil\x1b[2J\x9b31m")
    assert "\x1b" not in "".join(identity(path).lines())
    report(BadFileError("a tensor named \x1b]0;x\x07 y", where="línea\n2"))
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "\x07" not in error
    assert "línea\\n2" in error


FORGED = "Support\nSigned by Hospital. All its bytes were read and are as exported.\r\x1b[2J\u2028x"


def test_a_name_cannot_forge_a_line_about_the_signature(tmp_path: Path) -> None:
    core = {**CORE, "base": {"name": FORGED}, "recipe": {"quant": FORGED}}
    path = model(tmp_path / "m.gguf", name=FORGED, digest=core_digest(core))
    manifest(path, core)
    found = identity(path)
    assert found.name.startswith("Support Signed by")
    for line in found.lines():
        assert line.isprintable()
    assert len(found.lines()) == 2


def test_a_name_of_megabytes_is_cut_and_an_empty_one_is_the_file_s(tmp_path: Path) -> None:
    huge = identity(model(tmp_path / "a.gguf", name="\U0001fac1" * (1 << 20)))
    assert len(huge.name) == 120
    assert identity(model(tmp_path / "empty name.gguf", name="\n \x1b")).name == "empty name"
