"""ECDSA over P-256 with SHA-256 (FIPS 186-5): verification only.

Two libraries can do it. `cryptography` is used where it is installed (in Termux
`pkg install python-cryptography`, elsewhere it comes with `pedsup[sign]`); `ecdsa`, which is pure
Python, is always there. Both refuse r or s outside [1, n-1] and encodings that are not DER.

`ecdsa` leaks the key by its timing when it signs (CVE-2024-23342). Verifying has no secret.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

Backend = Literal["cryptography", "ecdsa"]
POINT_BYTES: Final = 65
"""An uncompressed point: 0x04, x, y."""


def backend() -> Backend:
    """The library that `verify` uses here."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: F401
    except ImportError:
        return "ecdsa"
    return "cryptography"


def is_on_curve(point: bytes) -> bool:
    """Whether 65 bytes are an uncompressed point of P-256 (never the point at infinity)."""
    from ecdsa import NIST256p, VerifyingKey
    from ecdsa.errors import MalformedPointError

    if len(point) != POINT_BYTES or point[0] != 4:
        return False
    try:
        VerifyingKey.from_string(point, curve=NIST256p, valid_encodings=("uncompressed",))
    except MalformedPointError:
        return False
    return True


def verify(point: bytes, signature: bytes, message: bytes, *, by: Backend | None = None) -> bool:
    """Whether a DER signature of a message is good under a public key that is on the curve.

    Args:
        by: which library; None takes `backend()`.
    """
    if (by or backend()) == "cryptography":
        return _by_cryptography(point, signature, message)
    return _by_ecdsa(point, signature, message)


def _by_cryptography(point: bytes, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    try:
        key.verify(signature, message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _by_ecdsa(point: bytes, signature: bytes, message: bytes) -> bool:
    from ecdsa import BadSignatureError, NIST256p, VerifyingKey
    from ecdsa.der import UnexpectedDER
    from ecdsa.util import sigdecode_der

    key = VerifyingKey.from_string(point, curve=NIST256p, hashfunc=hashlib.sha256)
    try:
        return bool(key.verify(signature, message, sigdecode=sigdecode_der))
    except (BadSignatureError, UnexpectedDER):
        return False
