"""Signing and verifying, with OpenSSF's model-signing and openssl as the oracles."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pedsup_testing import signed_models
from pedsup_testing.lazy import needs
from pedsup_testing.terminal import Terminal

from pedsup.errors import OutputError, UntrustedError, UsageError
from pedsup.trust.bundle import read_signature, signature_path, signed_files
from pedsup.trust.keys import read_public_key
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_export.cli import cli
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.sign import make_keys, read_passphrase, sign
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.publish import execute

pytestmark = needs("model_signing", "pip install 'pedsup[sign]'")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    source = signed_models.tiny(tmp_path / "source.gguf")
    return signed_models.with_manifest(source, tmp_path / "models/model.gguf")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return signed_models.key_pair(tmp_path / "lab")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def model_signing_verifies(model: Path, public: Path) -> None:
    """The oracle: raises ValueError when it does not."""
    from model_signing import verifying

    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.set_ignore_unsigned_files(True).verify(model.parent, signature_path(model))


def test_model_signing_accepts_what_we_sign(model: Path, pair: tuple[Path, Path]) -> None:
    (model.parent / "notes.txt").write_text("not signed, and not in the way")
    result = sign(model, pair[0], None)
    assert result.sha256 == verify(model, key=read_public_key(pair[1])).sha256
    model_signing_verifies(model, pair[1])
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"model\.gguf"):
        model_signing_verifies(model, pair[1])


@pytest.mark.slow
def test_we_accept_what_model_signing_s_own_program_signs(
    model: Path, pair: tuple[Path, Path]
) -> None:
    subprocess.run(
        [sys.executable, "-m", "model_signing", "sign", "key", str(model.parent),
         "--private_key", str(pair[0]), "--signature", str(signature_path(model))],
        check=True, capture_output=True,
    )  # fmt: skip
    key = read_public_key(pair[1])
    signature = read_signature(signature_path(model))
    found = signed_files(signature, read_manifest(manifest_path(model)), key)
    assert found.model_name == "model.gguf"
    assert verify(model, key=key).signer == key


def test_openssl_accepts_the_signature(
    model: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """The pre-authentication encoding written out by hand, by DSSE's protocol.md."""
    sign(model, pair[0], None)
    signature = read_signature(signature_path(model))
    kind = b"application/vnd.in-toto+json"
    (tmp_path / "sig").write_bytes(signature.signature)
    pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(signature.payload), signature.payload)
    done = signed_models.openssl(
        "dgst", "-sha256", "-verify", pair[1], "-signature", tmp_path / "sig", stdin=pae
    )
    assert done == b"Verified OK\n"


def test_the_statement_names_both_files_and_their_digests(
    model: Path, pair: tuple[Path, Path]
) -> None:
    sign(model, pair[0], None)
    statement = json.loads(read_signature(signature_path(model)).payload)
    digests = {r["name"]: r["digest"] for r in statement["predicate"]["resources"]}
    for path in (model, manifest_path(model)):
        line = signed_models.openssl("dgst", "-sha256", "-r", path).decode()
        assert digests.pop(path.name) == line.split()[0]
    assert digests == {}


@pytest.mark.slow
def test_a_new_export_takes_the_old_signature_away(
    models: dict[str, Path], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Otherwise the new file would be refused for a signature that is not its own."""
    out = tmp_path / "model.gguf"
    request = ExportRequest(base=ModelRef(models["llama"], "llama"), out=out, quant="Q8_0")
    execute(*make_plan(request))
    sign(out, pair[0], None)
    model_signing_verifies(out, pair[1])
    execute(*make_plan(replace(request, quant="Q4_0", force=True)))
    assert not signature_path(out).exists()
    sign(out, pair[0], None)
    assert verify(out, key=read_public_key(pair[1])).signer is not None


# ---- keys ----


def test_a_new_pair_is_openssl_s(tmp_path: Path) -> None:
    pair = make_keys(tmp_path / "lab", b"geheim")
    assert pair.private.stat().st_mode & 0o777 == 0o600
    text = signed_models.openssl(
        "pkey", "-in", pair.private, "-passin", "pass:geheim", "-pubout"
    ).decode()
    assert text == pair.public.read_text()
    assert b"prime256v1" in signed_models.openssl("pkey", "-pubin", "-in", pair.public, "-text")
    for again in (None, b"x"):
        with pytest.raises(OutputError, match="exists already"):
            make_keys(tmp_path / "lab", again)


def test_the_commands_from_key_to_verdict(model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("una frase larga\n")
    refused = run("keygen", tmp_path / "lab", "--passphrase-file", secret)
    assert isinstance(refused.exception, UsageError)
    secret.chmod(0o600)
    made = json.loads(run("keygen", tmp_path / "lab", "--passphrase-file", secret, "--json").stdout)
    assert made["encrypted"]
    assert len(made["words"]["es"].split()) == 12
    done = run("sign", model, "--key", made["private"], "--passphrase-file", secret, "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["fingerprint"] == made["fingerprint"]
    assert run("verify", model, "--key", made["public"]).stdout.startswith("ok: 20 tensors")
    document = json.loads(run("verify", model, "--key", made["public"], "--json").stdout)
    assert document["signed_by"] == made["fingerprint"]
    assert json.loads(run("verify", model, "--json").stdout)["signed_by"] is None


@pytest.mark.slow
def test_a_passphrase_is_asked_for_on_the_terminal(model: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "pedsup_export"]
    with Terminal([*program, "keygen", str(tmp_path / "lab")], {}) as terminal:
        terminal.expect("Passphrase: ")
        terminal.line("tres tristes tigres")
        terminal.expect("[Rr]epeat for confirmation: ")
        terminal.line("tres tristes tigres")
        terminal.expect("en palabras")
        assert terminal.wait() == 0
        assert "tigres" not in terminal.output
    with Terminal(
        [*program, "sign", str(model), "--key", str(tmp_path / "lab.key")], {}
    ) as terminal:
        terminal.expect("Passphrase: ")
        terminal.line("tres tristes tigres")
        terminal.expect("signature ")
        assert terminal.wait() == 0
    model_signing_verifies(model, tmp_path / "lab.pub")


# ---- refused ----


@pytest.mark.parametrize("what", ["model", "manifest"])
def test_a_damaged_file_is_not_signed(model: Path, pair: tuple[Path, Path], what: str) -> None:
    sign(model, pair[0], None)
    path = model if what == "model" else manifest_path(model)
    path.write_bytes(path.read_bytes().replace(b"Tiny" if what == "model" else b"base", b"Tine"))
    with pytest.raises(UntrustedError):
        sign(model, pair[0], None)
    # Nor does the old signature stay, or half of a new one.
    assert sorted(p.suffix for p in model.parent.iterdir()) == [".gguf", ".json"]


def test_wrong_keys_are_refused(model: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    sign(model, pair[0], None)
    other = read_public_key(signed_models.key_pair(tmp_path / "other")[1])
    with pytest.raises(UntrustedError, match="another key made it"):
        verify(model, key=other)
    signature_path(model).unlink()
    with pytest.raises(UntrustedError, match="not signed"):
        verify(model, key=read_public_key(pair[1]))
    encrypted = make_keys(tmp_path / "secret", b"right")
    p384, _ = signed_models.key_pair(tmp_path / "p384", "secp384r1")
    for key, phrase in ((encrypted.private, b"wrong"), (encrypted.private, None), (pair[1], None),
                        (p384, None), (pair[0], b"none is needed"), (tmp_path / "no", None),
                        (model, None)):  # fmt: skip
        with pytest.raises(UsageError):
            sign(model, key, phrase)
        assert not signature_path(model).exists()


def test_a_passphrase_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text("abc\r\nmore\n")
    with pytest.raises(UsageError, match="others can read"):
        read_passphrase(file)
    file.chmod(0o600)
    assert read_passphrase(file) == b"abc"
    file.write_text("\n")
    with pytest.raises(UsageError, match="empty"):
        read_passphrase(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_passphrase(tmp_path / "none")
