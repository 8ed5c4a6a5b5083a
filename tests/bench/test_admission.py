"""The trust check of every command that opens a model: refused, warned of, or let through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pedsup_testing import signed_models

from pedsup.errors import UntrustedError
from pedsup.gguf_file import read_header
from pedsup.trust.identity import identify
from pedsup.trust.keys import read_public_key
from pedsup.trust.manifest import manifest_path
from pedsup.trust.store import KnownModel, TrustedKey, load_store
from pedsup_bench.admission import admit, admit_all, reference_notes
from pedsup_export.prove.sign import sign

UNTRUSTED = 10
COMMANDS = ("run", "quality", "mcqa", "gate", "safety", "predict")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    return tmp_path


@pytest.fixture
def exported(home: Path) -> Path:
    """A tiny model with its manifest, as an export leaves it."""
    return signed_models.with_manifest(signed_models.tiny(home / "t.gguf"), home / "m.gguf")


def test_an_unsigned_file_is_let_through_with_a_warning(exported: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    trust = admit(exported)
    assert trust.describe()["signed"] == "unsigned"
    assert trust.weights == "read"
    said = capsys.readouterr()
    assert said.out == ""
    assert "m.gguf: WARNING: this file is not signed" in said.err
    assert admit(exported).weights == "earlier", "all bytes are read once per file"


def test_a_changed_weight_is_refused(exported: Path) -> None:
    raw = bytearray(exported.read_bytes())
    raw[-1] ^= 1
    exported.write_bytes(raw)
    with pytest.raises(UntrustedError, match="not the one that was exported"):
        admit(exported)
    assert admit(exported, weights=False).weights == "unread"


def test_a_signature_that_the_settings_require_is_required(exported: Path, home: Path) -> None:
    settings = home / "config" / "pedsup" / "settings.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("require_signature = true\n")
    with pytest.raises(UntrustedError, match="not signed"):
        admit(exported)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_file_whose_manifest_does_not_fit(
    command: str,
    exported: Path,
    home: Path,
    bench,  # type: ignore[no-untyped-def]
) -> None:
    other = signed_models.tiny(home / "other.gguf", name="Another model")
    manifest_path(other).write_bytes(manifest_path(exported).read_bytes())
    more = ["--reference", exported] if command in ("quality", "gate") else []
    done = bench(command, other, *more, check=False)
    assert done.returncode == UNTRUSTED, done.stderr
    assert "belongs to another file" in done.stderr
    assert done.stdout == ""


def test_a_reference_is_checked_too(exported: Path, home: Path, bench) -> None:  # type: ignore[no-untyped-def]
    other = signed_models.tiny(home / "other.gguf")
    manifest_path(other).write_text("{}")
    done = bench("mcqa", exported, "--reference", other, check=False)
    assert done.returncode == UNTRUSTED
    assert "other.gguf.manifest.json" in done.stderr


def test_a_reference_of_a_signed_model_needs_no_signature(exported: Path, home: Path) -> None:
    """Both have one name, and the signed one was run: only the model itself must stay signed."""
    private, public = signed_models.key_pair(home / "lab")
    sign(exported, private, None)
    reference = signed_models.with_manifest(home / "t.gguf", home / "reference.gguf")
    key = read_public_key(public)
    store = load_store().with_key(TrustedKey("lab", key, ""))
    store.with_model(KnownModel.of(identify(read_header(exported)).name, exported, key)).save()
    admit_all(exported, reference)
    with pytest.raises(UntrustedError, match="was signed by lab"):
        admit(reference)


@pytest.mark.slow
def test_the_document_says_who_vouches_for_the_file(bench, smollm2: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = bench("safety", smollm2, "--limit", 1, "--max-tokens", 2, "--ctx", 512, "--threads", 1,
                 "--json")  # fmt: skip
    document = json.loads(done.stdout)
    assert document["trust"]["signed"] == "unsigned"
    assert len(document["answers"]) == 1
    assert "WARNING: this file is not signed" in done.stderr


def test_a_quantized_reference_is_warned_of(home: Path, smollm2: Path) -> None:
    plain = signed_models.tiny(home / "plain.gguf")
    assert reference_notes(smollm2, plain) == []
    (note,) = reference_notes(plain, smollm2)
    assert "quantized itself (" in note and "Q4_1" in note
