"""The signature beside a model: OpenSSF model-signing's format, key mode.

    model.gguf.sig   a Sigstore bundle (JSON) with a DSSE envelope
      verificationMaterial.publicKey.hint    which key: SHA-256 of its PEM
      dsseEnvelope.payload                   base64 of an in-toto statement (JSON):
        subject[0].digest.sha256             SHA-256 of the resources' digests in their order
        predicate.resources                  name and SHA-256 of model.gguf and of its manifest
      dsseEnvelope.signatures[0].sig         ECDSA of the pre-authentication encoding of the payload

Sources: the Sigstore bundle 0.3, https://github.com/secure-systems-lab/dsse (protocol.md), the
in-toto statement v1, and model-signing's predicate `https://model_signing/signature/v1.0`.
`model_signing verify key` takes the same files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError, UntrustedError
from pedsup.files.fsio import sha256_file
from pedsup.files.json_file import parse_json, read_bounded
from pedsup.messages import message, reason_of
from pedsup.trust import p256
from pedsup.trust.keys import PublicKey
from pedsup.trust.manifest import Manifest, manifest_path

MAX_BYTES: Final = 1 << 16
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
MANIFEST_SUFFIX: Final = manifest_path(Path("x")).name[1:]
LAYOUTS: Final[tuple[Callable[[object], str], ...]] = (
    partial(json.dumps, separators=(",", ":")),
    json.dumps,
    partial(json.dumps, indent=2),
)
"""How JSON may be laid out: model-signing's own way, and the common ones. Anything else is a
change that means nothing, and a signature that was changed is refused whatever the change."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
COPY: Final = message("copy the model, its manifest and its .sig again from where they came from")


def signature_path(model: Path) -> Path:
    return model.with_name(model.name + ".sig")


@dataclass(frozen=True)
class SignedFiles:
    """What a signature says: two files by name and SHA-256."""

    model_name: str
    model_sha256: str
    manifest_sha256: str


@dataclass(frozen=True)
class Signature:
    """A signature file that was read, but not verified."""

    path: Path
    hint: str
    payload: bytes
    signature: bytes

    def is_by(self, key: PublicKey) -> bool:
        return self.hint == key.hint and p256.verify(
            key.point, self.signature, pre_authentication(self.payload)
        )

    def require_by(self, key: PublicKey) -> None:
        """Raise `UntrustedError` if another key, or nobody, made it."""
        if not self.is_by(key):
            raise UntrustedError(
                "the signature is not valid: it was changed, or another key made it",
                where=self.path,
                wanted=message("a signature by the key {key}", key=key.fingerprint[:16]),
                remedy=COPY,
            )

    def files(self) -> SignedFiles:
        """The signed statement, checked for its shape.

        Raises:
            UntrustedError: it is not a statement about one model and its manifest.
        """
        try:
            return _files(parse_json(self.payload))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _bad(
                self.path,
                message(
                    "the signed statement is not about a model ({reason})", reason=reason_of(error)
                ),
            ) from error


def pre_authentication(payload: bytes) -> bytes:
    """DSSE's PAE: what is signed, type and lengths included."""
    head = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} "
    return head.encode() + payload


def read_signature(path: Path) -> Signature:
    """Read a signature file, unverified. Raises `UntrustedError` if it is not such a bundle."""
    try:
        raw = read_bounded(path, "the signature", MAX_BYTES)
    except BadFileError as error:
        raise _bad(path, error.found) from error
    try:
        text = raw.decode("utf-8")
        return _parse(path, parse_json(text), text)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _bad(
            path, message("not a model-signing signature ({reason})", reason=reason_of(error))
        ) from error


def signed_files(
    signature: Signature, manifest: Manifest | None, key: PublicKey | None
) -> SignedFiles:
    """What is signed, compared with the manifest beside the model.

    Args:
        key: who must have signed; None finds damage only, and proves nothing.

    Raises:
        UntrustedError: another signer, no manifest or not the one that was signed, or the signature
            is of no model.
    """
    if key is not None:
        signature.require_by(key)
    files = signature.files()
    if manifest is None:
        raise UntrustedError(
            "the model is signed together with a manifest, which is not here",
            where=signature.path,
            wanted=message("a manifest with the SHA-256 {digest}", digest=files.manifest_sha256),
            remedy=COPY,
        )
    found = sha256_file(manifest.path)
    if found != files.manifest_sha256:
        raise UntrustedError(
            "the manifest is not the one that was signed",
            where=manifest.path,
            wanted=message(
                "SHA-256 {wanted}, not {found}", wanted=files.manifest_sha256, found=found
            ),
            remedy=COPY,
        )
    if manifest.file.sha256 != files.model_sha256:
        raise UntrustedError(
            "the signature and the manifest name different files",
            where=signature.path,
            remedy=COPY,
        )
    return files


def _parse(path: Path, document: Any, text: str) -> Signature:
    """Every field has one possible place and one possible spelling."""
    envelope, material = document["dsseEnvelope"], document["verificationMaterial"]
    hint = material["publicKey"]["hint"]
    (signed,) = envelope["signatures"]
    payload, signature = _base64(envelope["payload"]), _base64(signed["sig"])
    expected = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": envelope["payload"],
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": signed["sig"], "keyid": ""}],
        },
    }
    if document != expected:
        raise ValueError("unknown fields or values")
    if not any(layout(document) == text for layout in LAYOUTS):
        raise ValueError("the JSON was rewritten")
    if not _SHA256.fullmatch(hint):
        raise ValueError("the key's hint is not a SHA-256 digest")
    return Signature(path, hint, payload, signature)


def _base64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 with bits left over")
    return raw


def _files(statement: Any) -> SignedFiles:
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != PREDICATE_TYPE:
        raise ValueError("another type of statement")
    predicate = statement["predicate"]
    serialization = predicate["serialization"]
    if serialization["method"] != "files" or serialization["hash_type"] != "sha256":
        raise ValueError("not SHA-256 of whole files")
    digests: dict[str, str] = {}
    for resource in predicate["resources"]:
        name, digest = resource["name"], resource["digest"]
        if resource["algorithm"] != "sha256" or not _SHA256.fullmatch(digest):
            raise ValueError("a digest that is not SHA-256")
        if not isinstance(name, str) or "/" in name or name in digests:
            raise ValueError(message("a file named {name}", name=repr(name)))
        digests[name] = digest
    (subject,) = statement["subject"]
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values()))
    if subject["digest"] != {"sha256": root.hexdigest()}:
        raise ValueError("its digests do not add up to the subject's")
    (manifest,) = (name for name in digests if name.endswith(MANIFEST_SUFFIX))
    (model,) = (name for name in digests if name != manifest)
    if manifest != model + MANIFEST_SUFFIX:
        raise ValueError("the manifest is named after another model")
    return SignedFiles(model, digests[model], digests[manifest])


def _bad(path: Path, found: str) -> UntrustedError:
    return UntrustedError(
        found,
        where=path,
        wanted="the .sig that `pedsup-export sign` wrote for this file",
        remedy=COPY,
    )
