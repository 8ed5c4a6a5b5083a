"""Public keys: read from a PEM file, and named so that two people can compare them by voice."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, MissingFileError, UsageError
from pedsup.files.json_file import read_bounded
from pedsup.messages import Message, message, reason_of
from pedsup.texts.intended_use import Language
from pedsup.trust import p256

MAX_BYTES: Final = 1 << 16
PEM_BEGIN: Final = "-----BEGIN PUBLIC KEY-----"
PEM_END: Final = "-----END PUBLIC KEY-----"
SPKI_P256: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""DER of SubjectPublicKeyInfo (RFC 5480) for id-ecPublicKey on prime256v1, up to the point."""
_WORDLISTS: Final[dict[Language, str]] = {"en": "english", "es": "spanish"}


@dataclass(frozen=True)
class PublicKey:
    """A point of P-256, checked to be on the curve."""

    point: bytes

    @property
    def der(self) -> bytes:
        """SubjectPublicKeyInfo in DER: there is one encoding only."""
        return SPKI_P256 + self.point

    @property
    def pem(self) -> str:
        """As openssl and `cryptography` write it."""
        text = base64.b64encode(self.der).decode()
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        return "\n".join([PEM_BEGIN, *lines, PEM_END, ""])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER in hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def hint(self) -> str:
        """How a model-signing bundle names its key: SHA-256 of the PEM text in hex."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    def words(self, language: Language = "en") -> str:
        """The first 128 bits of the fingerprint as twelve words of BIP-39."""
        from mnemonic import Mnemonic

        entropy = bytes.fromhex(self.fingerprint)[:16]
        return str(Mnemonic(_WORDLISTS[language]).to_mnemonic(entropy))


def fingerprint_lines(key: PublicKey) -> list[Message]:
    """A key's fingerprint in hex and in words, for people to compare, and its name in a .sig.

    The last is what pedsup-run calls a key that it does not know.
    """
    return [
        message("fingerprint  {hex}", hex=key.fingerprint),
        message("in words     {words}", words=key.words("en")),
        message("en palabras  {words}", words=key.words("es")),
        message("in the .sig  {id}", id=key.hint[:16]),
    ]


def read_public_key(path: Path) -> PublicKey:
    """Read a public key file.

    Raises:
        UsageError: it is a private key.
        MissingFileError: it is not there.
        BadFileError: it cannot be read, or is not a public key on P-256.
    """
    if not path.exists():
        raise MissingFileError("no such file", where=path, remedy="check the path of the key")
    raw = read_bounded(path, "the key", MAX_BYTES)
    return parse_public_key(raw.decode("ascii", "replace"), where=path)


def parse_public_key(text: str, *, where: object) -> PublicKey:
    """The key of a PEM text. Raises as `read_public_key`."""
    if "PRIVATE KEY" in text:
        raise UsageError(
            "this is a private key, which must stay where it was made",
            where=where,
            wanted="the public key, .pub",
            remedy="give the .pub file; if the private key has left its owner's hands, make "
            "a new pair",
        )
    body = text.strip()
    if len(text) > MAX_BYTES or not (body.startswith(PEM_BEGIN) and body.endswith(PEM_END)):
        raise _no_key("not a PEM public key", where)
    try:
        encoded = "".join(body[len(PEM_BEGIN) : -len(PEM_END)].split())
        der = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _no_key(
            message("the key's base64 is damaged ({reason})", reason=reason_of(error)), where
        ) from error
    if not der.startswith(SPKI_P256):
        raise _no_key("a key of another type or curve", where)
    point = der[len(SPKI_P256) :]
    key = PublicKey(point)
    # One key has one text: trailing bits that base64 ignores would make two.
    if not p256.is_on_curve(point) or "".join(key.pem.splitlines()[1:-1]) != encoded:
        raise _no_key("the key is not a point on the curve", where)
    return key


def _no_key(found: str, where: object) -> BadFileError:
    return BadFileError(
        found,
        where=where,
        wanted="an ECDSA public key on P-256 in PEM (-----BEGIN PUBLIC KEY-----)",
        remedy="ask the signer for the .pub file again; `pedsup-export keygen` makes such keys",
    )
