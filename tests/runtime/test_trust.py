"""What of a model is checked before it is loaded, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import signed_models
from pedsup_testing.lazy import needs

from pedsup.errors import BadFileError, PedsupError, UntrustedError, UsageError
from pedsup.files.paths import cache_folder, config_folder
from pedsup.files.timestamp import local
from pedsup.gguf_file import read_header
from pedsup.texts.language import translated
from pedsup.trust.assess import Policy, assess, confirm_loaded, verify_weights
from pedsup.trust.bundle import signature_path
from pedsup.trust.identity import identify
from pedsup.trust.keys import read_public_key
from pedsup.trust.manifest import manifest_path
from pedsup.trust.store import TrustedKey, load_store
from pedsup.trust.verdict import Trust

pytestmark = needs("model_signing", "pip install 'pedsup[sign]'")

Keys = tuple[Path, Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: nothing trusted, nothing remembered."""
    for variable in ("DATA", "CONFIG", "CACHE"):
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(tmp_path / variable.lower()))
    return tmp_path


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Keys]:
    """Key pairs by name."""
    made: dict[str, Keys] = {}

    def pair(name: str) -> Keys:
        if name not in made:
            made[name] = signed_models.key_pair(tmp_path_factory.mktemp("keys") / name)
        return made[name]

    return pair


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small file with its manifest, unsigned."""
    (tmp_path / "models").mkdir()
    source = signed_models.tiny(tmp_path / "source.gguf")
    return signed_models.with_manifest(source, tmp_path / "models/model.gguf")


@pytest.fixture
def signed(model: Path, keys: Callable[[str], Keys]) -> Path:
    """The same, signed by a key that is trusted."""
    sign(model, keys("lab"))
    trust_key(keys("lab"))
    return model


def sign(model: Path, pair: Keys) -> None:
    from pedsup_export.prove.sign import sign as sign_model

    sign_model(model, pair[0], None)


def trust_key(pair: Keys) -> None:
    key = TrustedKey(pair[1].stem, read_public_key(pair[1]), "2026-11-24T00:00:00Z")
    load_store().with_key(key).save()


def check(model: Path, **policy: bool) -> Trust:
    """All that happens before and after loading, without the loading."""
    header = read_header(model)
    trust = verify_weights(assess(header, identify(header), load_store(), Policy(**policy)))
    confirm_loaded(trust)
    return trust


def flip(path: Path, at: int, bit: int = 0) -> bytes:
    """Change one bit in place; returns what was there."""
    old = path.read_bytes()
    path.write_bytes(old[:at] + bytes([old[at] ^ (1 << bit)]) + old[at + 1 :])
    return old


# ---- what is said of a file ----


def test_a_signed_file_says_by_whom(signed: Path) -> None:
    trust = check(signed)
    assert (trust.signed, trust.weights, trust.warns) == ("signed", "read", False)
    assert trust.lines()[0].startswith("Signed by lab.")
    assert trust.describe()["warning"] is None
    assert check(signed).weights == "earlier"
    assert check(signed, verify=True).weights == "read"


def test_an_unsigned_file_runs_with_a_warning(model: Path) -> None:
    trust = check(model)
    assert (trust.signed, trust.weights) == ("unsigned", "read")
    assert trust.lines()[0].startswith("WARNING: this file is not signed")
    assert translated(trust.lines()[0], "es").startswith("ATENCIÓN: este archivo no está firmado")
    assert trust.describe()["warning"] == trust.lines()[0]


def test_a_file_without_a_manifest_is_not_read(model: Path) -> None:
    manifest_path(model).unlink()
    trust = check(model)
    assert (trust.signed, trust.weights) == ("unsigned", "nothing-to-compare")
    assert "nothing says what its bytes should be" in trust.lines()[0]
    assert not cache_folder().exists()


def test_a_key_that_is_not_trusted_proves_nothing(model: Path, keys: Callable[[str], Keys]) -> None:
    sign(model, keys("stranger"))
    trust = check(model)
    assert (trust.signed, trust.key, trust.warns) == ("unknown-key", None, True)
    assert trust.hint == read_public_key(keys("stranger")[1]).hint
    assert "not trusted here" in trust.lines()[0]


def test_a_required_signature(model: Path, keys: Callable[[str], Keys]) -> None:
    with pytest.raises(UntrustedError, match="not signed"):
        check(model, require_signature=True)
    sign(model, keys("lab"))
    with pytest.raises(UntrustedError, match="not trusted here"):
        check(model, require_signature=True)
    trust_key(keys("lab"))
    assert check(model, require_signature=True).signed == "signed"


# ---- one changed byte ----


def all_refused(path: Path, model: Path, *ranges: range) -> int:
    """Flip one bit of each byte of a file in turn; each is refused with a typed error.

    Args:
        ranges: which bytes; default: all.
    """
    whole = path.read_bytes()
    places = list(chain(*ranges)) if ranges else range(len(whole))
    for at in places:
        flip(path, at, bit=at % 8)
        with pytest.raises(PedsupError):
            check(model)
            pytest.fail(f"byte {at} of {path.name} was changed and nobody noticed")
        path.write_bytes(whole)
    return len(places)


def sample(path: Path, step: int) -> range:
    """Every `step`th byte of a file."""
    return range(0, path.stat().st_size, step)


def test_some_changed_bytes_of_each_file_are_refused(signed: Path) -> None:
    check(signed)
    for path in (signed, manifest_path(signed), signature_path(signed)):
        all_refused(path, signed, sample(path, path.stat().st_size // 60))


@pytest.mark.slow
def test_any_changed_byte_of_the_signature_is_refused(signed: Path) -> None:
    check(signed)
    assert all_refused(signature_path(signed), signed) > 1000


@pytest.mark.slow
def test_changed_bytes_of_the_manifest_are_refused(signed: Path) -> None:
    check(signed)
    assert all_refused(manifest_path(signed), signed, sample(manifest_path(signed), 5)) > 500


@pytest.mark.slow
def test_changed_bytes_of_the_model_are_refused(signed: Path) -> None:
    """Header, template included, and weights; the record of an earlier reading hides nothing."""
    check(signed)
    header = read_header(signed)
    assert signed_models.TEMPLATE.encode() in signed.read_bytes()[: header.data_offset]
    weights = range(header.data_offset, header.file_size, 599)
    assert all_refused(signed, signed, range(0, header.data_offset, 5), weights) > 1500


def test_without_a_signature_the_manifest_finds_damage_in_the_model(model: Path) -> None:
    check(model)
    assert all_refused(model, model, sample(model, 997)) > 100


def test_other_spellings_of_a_signature_are_refused(signed: Path) -> None:
    path = signature_path(signed)
    good = path.read_text()
    document = json.loads(good)
    spellings = {
        "a space": good.replace(",", ", ", 1),
        "another order": json.dumps(document, sort_keys=True, indent=3),
        "one more field": json.dumps({**document, "x": 1}, separators=(",", ":")),
        "a field twice": good[:-1] + ',"mediaType":"x"}',
        "two signatures": good.replace('"signatures":[', '"signatures":[{"sig":"","keyid":""},'),
        "deep": "[" * 60000,
        "large": good + " " * 70000,
        "nothing": "",
        "no text": "\udcff",
        "a number": "1e999",
    }
    for what, text in spellings.items():
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(UntrustedError):
            check(signed)
            pytest.fail(what)
    for layout in ({}, {"indent": 2}, {"separators": (",", ":")}):
        path.write_text(json.dumps(document, **layout))  # type: ignore[arg-type]
        assert check(signed).signed == "signed"


# ---- forgery ----


def test_a_signature_of_another_model_is_refused(
    signed: Path, tmp_path: Path, keys: Callable[[str], Keys]
) -> None:
    source = signed_models.tiny(tmp_path / "other.gguf", name="Other")
    other = signed_models.with_manifest(source, tmp_path / "models/other.gguf")
    sign(other, keys("lab"))
    shutil.copy(signature_path(other), signature_path(signed))
    with pytest.raises(UntrustedError, match="not the one that was signed"):
        check(signed)
    shutil.copy(manifest_path(other), manifest_path(signed))
    with pytest.raises(UntrustedError, match="was exported: it is damaged or was changed"):
        check(signed)


def test_a_stranger_s_signature_under_a_trusted_hint_is_refused(
    signed: Path, keys: Callable[[str], Keys]
) -> None:
    lab_hint = json.loads(signature_path(signed).read_text())["verificationMaterial"]
    sign(signed, keys("stranger"))
    forged = json.loads(signature_path(signed).read_text()) | {"verificationMaterial": lab_hint}
    signature_path(signed).write_text(json.dumps(forged, separators=(",", ":")))
    with pytest.raises(UntrustedError, match="another key made it"):
        check(signed)


def test_a_missing_manifest_of_a_signed_file_is_refused(signed: Path) -> None:
    manifest_path(signed).unlink()
    with pytest.raises(UntrustedError, match="together with a manifest"):
        check(signed)


def test_a_known_model_stays_signed_by_its_signer(
    signed: Path, tmp_path: Path, keys: Callable[[str], Keys]
) -> None:
    check(signed)
    signature = signature_path(signed)
    good = signature.read_bytes()
    signature.unlink()
    with pytest.raises(UntrustedError, match=r"was signed by lab .* no longer has that signature"):
        check(signed)
    sign(signed, keys("stranger"))
    with pytest.raises(UntrustedError, match="no longer has that signature"):
        check(signed)
    trust_key(keys("stranger"))
    with pytest.raises(UntrustedError, match="is signed by 'stranger' now"):
        check(signed)
    # The same name elsewhere, and another name at the same place.
    signature.write_bytes(good)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere/m.gguf"
    shutil.copy(signed, moved)
    with pytest.raises(UntrustedError, match="'Tiny'"):
        check(moved)
    source = signed_models.tiny(tmp_path / "other.gguf", name="Other")
    signature.unlink()
    signed_models.with_manifest(source, signed)
    with pytest.raises(UntrustedError, match="'Tiny'"):
        check(signed)
    load_store().without_model("Tiny").save()
    assert check(signed).signed == "unsigned"


def test_an_older_export_in_the_place_of_a_newer_one_is_said(
    signed: Path, keys: Callable[[str], Keys], tmp_path: Path
) -> None:
    """All three files are the signer's own: only what ran here before tells."""

    def exported(time: str, model: Path = signed) -> Path:
        manifest = json.loads(manifest_path(model).read_text())
        manifest_path(model).write_text(json.dumps({**manifest, "created": time}))
        signature_path(model).unlink()
        sign(model, keys("lab"))
        return model

    for time in ("2026-11-24T09:00:00Z", "2026-11-25T08:00:00+00:00", "2026-11-25T08:00:00Z"):
        assert not check(exported(time)).warns
    for _ in range(2):  # also when it has run
        trust = check(exported("2026-11-24T23:00:00Z"))
        assert trust.warns and trust.vouched and trust.signed == "signed"
        line = str(trust.lines()[1])
        assert "older" in line and local("2026-11-24T23:00:00Z") in line
        assert local("2026-11-25T08:00:00Z") in line
    assert "older" in str(trust.brief()) and len(translated(trust.brief(), "es")) <= 40
    assert replace(trust, newer="").beside("drafter", trust).brief() == trust.brief()
    # Elsewhere both versions may lie side by side, and what has no date is not compared.
    shutil.copytree(signed.parent, tmp_path / "others")
    assert not check(tmp_path / "others" / signed.name).warns
    assert not check(exported("yesterday")).warns
    # The user may mean it.
    load_store().without_model(trust.name).save()
    assert not check(exported("2026-11-24T23:00:00Z")).warns


def test_a_removed_key_no_longer_opens_what_it_signed(signed: Path) -> None:
    check(signed)
    store, _ = load_store().without_key("lab")
    store.save()
    with pytest.raises(UntrustedError, match="was signed by the key"):
        check(signed)


def test_a_renamed_model_keeps_its_signature(signed: Path, tmp_path: Path) -> None:
    """Browsers and file managers rename what they copy."""
    new = tmp_path / "models/model (1).gguf"
    for name in (lambda p: p, manifest_path, signature_path):
        name(signed).rename(name(new))
    assert check(new).signed == "signed"


# ---- the record of a full reading ----


def test_the_record_is_private_and_holds_no_path(signed: Path) -> None:
    check(signed)
    (record,) = (cache_folder() / "verified").iterdir()
    for path, mode in ((record, 0o600), (record.parent, 0o700), (cache_folder(), 0o700),
                       (config_folder() / "trust.json", 0o600)):  # fmt: skip
        assert path.stat().st_mode & 0o777 == mode, path
    assert str(signed.parent) not in record.read_text()
    assert str(signed.parent) not in (config_folder() / "trust.json").read_text()


def test_a_change_with_the_old_times_is_seen(signed: Path) -> None:
    check(signed)
    before = signed.stat()
    flip(signed, before.st_size - 1)
    os.utime(signed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert signed.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(UntrustedError, match="damaged or was changed"):
        check(signed)


def test_a_damaged_record_means_reading_again(signed: Path) -> None:
    check(signed)
    (record,) = (cache_folder() / "verified").iterdir()
    whole = record.read_bytes()
    wrong: list[Any] = [1, [], {}, {**json.loads(whole), "sha256": 5}]
    for text in (b"", b"\xff", whole[:-9], b"[" * 50000, *(json.dumps(w).encode() for w in wrong)):
        record.write_bytes(text)
        assert check(signed).weights == "read"
    assert check(signed).weights == "earlier"


def test_a_record_that_cannot_be_kept_is_said(
    signed: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "cache").write_text("a file where a folder should be")
    assert check(signed).weights == "read"
    assert "could not be saved" in capsys.readouterr().err


def test_a_file_that_changes_while_it_is_read_or_loaded_is_refused(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = read_header(signed)
    trust = assess(header, identify(header), load_store(), Policy())
    whole = signed.read_bytes()
    signed.write_bytes(whole)  # as when another app writes it
    with pytest.raises(UntrustedError, match="changed while"):
        verify_weights(trust)
    trust = check(signed)
    other = signed.with_name("swap")
    other.write_bytes(whole)
    other.replace(signed)  # the same bytes, but another file
    with pytest.raises(UntrustedError, match="changed while"):
        confirm_loaded(trust)
    signed.unlink()
    with pytest.raises(UntrustedError, match="changed while"):
        confirm_loaded(trust)


# ---- the store ----


def test_a_damaged_store_is_no_empty_store(signed: Path) -> None:
    store = config_folder() / "trust.json"
    whole = store.read_bytes()
    for text in (b"", b"{}", b"[]", whole[:-5], whole.replace(b"trust/1", b"trust/2"), b"\xff",
                 whole.replace(b"BEGIN PUBLIC", b"BEGIN PUBLIK"), b"[" * 50000):  # fmt: skip
        store.write_bytes(text)
        with pytest.raises(BadFileError, match="trusted keys is damaged"):
            load_store()


def test_keys_have_one_name_each(keys: Callable[[str], Keys]) -> None:
    lab, other = (read_public_key(keys(name)[1]) for name in ("lab", "other"))
    store = load_store().with_key(TrustedKey("lab", lab, ""))
    assert store.with_key(TrustedKey("lab", lab, "later")) == store
    for again in (TrustedKey("lab", other, ""), TrustedKey("new", lab, "")):
        with pytest.raises(UsageError, match="a key named 'lab' already exists"):
            store.with_key(again)
    assert store.without_key(lab.fingerprint[:8])[0].keys == ()
    for wrong in ("labb", lab.fingerprint[:7], ""):
        with pytest.raises(UsageError, match="no trusted key is named"):
            store.without_key(wrong)
