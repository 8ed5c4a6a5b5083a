"""Key pairs, and signing a model together with its manifest.

The signature is made by OpenSSF's model-signing in key mode; what it covers is checked before
(every tensor against the manifest) and after (by the verifier that runs on the phone).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedsup.errors import OutputError, UntrustedError, UsageError
from pedsup.files.fsio import atomic_file, partial_path, publish
from pedsup.optional import require
from pedsup.trust.bundle import read_signature, signature_path
from pedsup.trust.keys import PublicKey, parse_public_key
from pedsup.trust.manifest import manifest_path
from pedsup_export.prove.verify import verify

EXTRA = "sign"


@dataclass(frozen=True)
class KeyPair:
    """Where a new pair lies."""

    private: Path
    public: Path
    key: PublicKey
    encrypted: bool


@dataclass(frozen=True)
class SignResult:
    """A signature that was made and checked."""

    path: Path
    signature: Path
    sha256: str
    key: PublicKey


def make_keys(stem: Path, passphrase: bytes | None) -> KeyPair:
    """Write `STEM.key`, readable by its owner only, and `STEM.pub`.

    Raises:
        OutputError: one of them exists: a key is never replaced.
        MissingDependencyError: the group 'sign' is not installed.
    """
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra=EXTRA)
    serialization = require("cryptography.hazmat.primitives.serialization", extra=EXTRA)
    private, public = stem.with_name(stem.name + ".key"), stem.with_name(stem.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise OutputError(
                "this key exists already", where=path, remedy="choose another name for the new one"
            )
    made = ec.generate_private_key(ec.SECP256R1())
    protection = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    key = _public(made)
    with atomic_file(private, force=False, private=True) as file:
        file.write(pem)
    with atomic_file(public, force=False) as file:
        file.write(key.pem.encode())
    return KeyPair(private, public, key, encrypted=passphrase is not None)


def needs_passphrase(key: Path) -> bool:
    """Whether a private key file is encrypted.

    Raises:
        UsageError: it is not a private key.
    """
    text = _read_private(key).decode("ascii", "replace")
    if "PRIVATE KEY-----" not in text:
        raise UsageError(
            "this is not a private key", where=key, wanted="the .key file of `pedsup-export keygen`"
        )
    return "ENCRYPTED" in text


def sign(model: Path, key: Path, passphrase: bytes | None) -> SignResult:
    """Check a file against its manifest and sign both; `MODEL.sig` appears when it is complete.

    Raises:
        BadFileError, UntrustedError: the file is not what its manifest says; it is not signed.
        UsageError: the key cannot be read, is of another curve, or the passphrase is wrong.
        MissingDependencyError: the group 'sign' is not installed.
    """
    signing = require("model_signing.signing", extra=EXTRA)
    public = _public(_load_private(key, passphrase))
    model = model.absolute()
    target = signature_path(model)
    _require_own(target)
    target.unlink(missing_ok=True)  # of an earlier file, or by an earlier key
    report = verify(model)
    partial = partial_path(target)
    partial.unlink(missing_ok=True)  # the signer would write through a link
    config = signing.Config()
    config.use_elliptic_key_signer(private_key=key, password=passphrase)
    config.set_hashing_config(_two_files(model, manifest_path(model)))
    try:
        config.sign(model.parent, partial)
        files = read_signature(partial)
        files.require_by(public)
        if files.files().model_sha256 != report.sha256:
            raise UntrustedError(
                "the file changed between its check and its signature",
                where=model,
                remedy="let nothing write to it, and sign again",
            )
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    publish(partial, target)
    return SignResult(model, target, report.sha256, public)


def _require_own(target: Path) -> None:
    """What lies at the signature's name is replaced only if it is a signature."""
    if not target.exists():
        return
    try:
        read_signature(target)
    except UntrustedError as error:
        raise OutputError(
            "a file that is not a signature has the name of the signature",
            where=target,
            remedy="move it away, and sign again",
        ) from error


def _two_files(*paths: Path) -> Any:
    """A hashing configuration that takes these files of a folder and no other."""
    from model_signing import hashing

    class TwoFiles(hashing.Config):
        def hash(self, model_path: Any, *, files_to_hash: Iterable[Any] | None = None) -> Any:
            # One file at a time: a disk is read faster in order.
            return super().hash(model_path, files_to_hash=paths)

    config: Any = TwoFiles()  # type: ignore[no-untyped-call]
    config.use_file_serialization(max_workers=1)
    config.set_ignored_paths(paths=[], ignore_git_paths=False)
    # A model may be a link to where it lies; what is signed is what was verified.
    config.set_allow_symlinks(True)
    return config


def _load_private(path: Path, passphrase: bytes | None) -> Any:
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra=EXTRA)
    serialization = require("cryptography.hazmat.primitives.serialization", extra=EXTRA)
    try:
        private = serialization.load_pem_private_key(_read_private(path), passphrase)
    except (ValueError, TypeError) as error:
        raise UsageError(
            "the private key cannot be opened: wrong passphrase, or not a private key",
            where=path,
            wanted="the .key file of `pedsup-export keygen` and its passphrase",
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise UsageError(
            "a private key of another kind or curve",
            where=path,
            wanted="ECDSA on P-256",
            remedy="pedsup-export keygen NAME",
        )
    return private


def _read_private(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the key cannot be read: {error.strerror}",
            where=path,
            wanted="the .key file of `pedsup-export keygen`",
            remedy="check the path; pedsup-export keygen NAME makes a new pair",
        ) from error


def _public(private: Any) -> PublicKey:
    serialization = require("cryptography.hazmat.primitives.serialization", extra=EXTRA)
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return parse_public_key(pem.decode(), where="the public half of the private key")


def read_passphrase(file: Path) -> bytes:
    """The first line of a file.

    Raises:
        UsageError: the file cannot be read, or others can read it too.
    """
    try:
        mode, data = file.stat().st_mode, file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the passphrase cannot be read: {error.strerror}", where=file, remedy="check the path"
        ) from error
    if mode & 0o077 and file.is_file():
        raise UsageError(
            f"others can read this passphrase (mode {mode & 0o777:o})",
            where=file,
            remedy=f"chmod 600 {os.fspath(file)}",
        )
    line = data.split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise UsageError(
            "the passphrase is empty", where=file, wanted="it, in the first line", remedy="write it"
        )
    return line
