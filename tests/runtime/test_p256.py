"""ECDSA on P-256: two libraries against each other, against openssl, and on hostile encodings."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pedsup_testing.signed_models import key_pair, openssl

from pedsup.errors import BadFileError, UsageError
from pedsup.trust import p256
from pedsup.trust.keys import PublicKey, parse_public_key, read_public_key

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
MESSAGE = b"model"
BACKENDS: list[p256.Backend] = ["cryptography", "ecdsa"]


def integer(value: int, *, pad: int = 0) -> bytes:
    """A DER INTEGER; `pad` zero bytes too many make it BER."""
    length = value.bit_length() // 8 + 1
    body = b"\0" * pad + value.to_bytes(length, "big", signed=True)
    return b"\x02" + bytes([len(body)]) + body


def sequence(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"\x30" + bytes([len(body)]) + body


def numbers(signature: bytes) -> tuple[int, int]:
    """r and s of a DER signature, read by hand."""
    assert signature[0] == 0x30
    n = signature[3]
    r = signature[4 : 4 + n]
    return int.from_bytes(r, "big"), int.from_bytes(signature[6 + n :], "big")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[PublicKey, bytes]:
    """A key of openssl's and its signature of MESSAGE."""
    folder = tmp_path_factory.mktemp("key")
    private, public = key_pair(folder / "k")
    (folder / "m").write_bytes(MESSAGE)
    signature = openssl("dgst", "-sha256", "-sign", private, folder / "m")
    return read_public_key(public), signature


@pytest.mark.parametrize("by", BACKENDS)
def test_a_signature_of_openssl_is_good(signed: tuple[PublicKey, bytes], by: p256.Backend) -> None:
    key, signature = signed
    assert p256.verify(key.point, signature, MESSAGE, by=by)
    assert not p256.verify(key.point, signature, MESSAGE + b" ", by=by)
    r, s = numbers(signature)
    # ECDSA as it is defined: -s is as good as s. What is signed is not changed by it.
    assert p256.verify(key.point, sequence(integer(r), integer(N - s)), MESSAGE, by=by)


@pytest.mark.parametrize("by", BACKENDS)
def test_hostile_encodings_are_refused(signed: tuple[PublicKey, bytes], by: p256.Backend) -> None:
    key, good = signed
    r, s = numbers(good)
    ir, js = integer(r), integer(s)
    hostile = {
        "r is 0": sequence(integer(0), js),
        "s is 0": sequence(ir, integer(0)),
        "both are 0": sequence(integer(0), integer(0)),
        "r is n": sequence(integer(N), js),
        "s is n": sequence(ir, integer(N)),
        "both are n": sequence(integer(N), integer(N)),
        "r + n": sequence(integer(r + N), js),
        "s + n": sequence(ir, integer(s + N)),
        "r is p": sequence(integer(P), js),
        "r - n, negative": sequence(integer(r - N), js),
        "s negative": sequence(ir, integer(-s)),
        "s is -1": sequence(ir, integer(-1)),
        "r and s are 1": sequence(integer(1), integer(1)),
        "r and s swapped": sequence(js, ir),
        "r has a zero too many": sequence(integer(r, pad=1), js),
        "s has a zero too many": sequence(ir, integer(s, pad=1)),
        "long form of a short length": b"\x30\x81" + good[1:],
        "indefinite length": b"\x30\x80" + good[2:] + b"\0\0",
        "bytes after the end": good + b"\0",
        "bytes after the end, inside": sequence(ir, js, b"\x05\x00"),
        "a third number": sequence(ir, js, integer(1)),
        "one number": sequence(ir),
        "no number": sequence(),
        "empty": b"",
        "a set": b"\x31" + good[1:],
        "octets for r": b"\x30" + good[1:2] + b"\x04" + good[3:],
        "an empty integer": sequence(b"\x02\x00", js),
        "a length past the end": good[:1] + bytes([good[1] + 1]) + good[2:],
        "raw r and s": r.to_bytes(32, "big") + s.to_bytes(32, "big"),
        "a huge r": b"\x30\x82\x04\x08\x02\x82\x04\x00" + b"\x7f" * 1024 + js[:4],
    }
    hostile |= {f"cut after {n} bytes": good[:n] for n in range(len(good))}
    for what, signature in hostile.items():
        assert not p256.verify(key.point, signature, MESSAGE, by=by), what


@given(st.integers(0, 3 * N), st.integers(0, 3 * N), st.binary(max_size=8))
def test_both_libraries_agree_on_any_numbers(r: int, s: int, tail: bytes) -> None:
    point = G
    signature = sequence(integer(r), integer(s)) + tail
    verdicts = {p256.verify(point, signature, MESSAGE, by=by) for by in BACKENDS}
    assert len(verdicts) == 1


G = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""The base point (FIPS 186): the public key of the private key 1."""


def test_a_hash_of_zero_bits_and_a_key_that_is_the_base_point() -> None:
    """r and s chosen for the private key 1 and the nonce 1: r = x(G), s = (h + r) mod n."""
    r = int.from_bytes(G[1:33], "big")
    h = int.from_bytes(hashlib.sha256(MESSAGE).digest(), "big")
    signature = sequence(integer(r % N), integer((h + r) % N))
    assert all(p256.verify(G, signature, MESSAGE, by=by) for by in BACKENDS)


@given(st.binary(max_size=80))
def test_any_bytes_get_a_verdict(signature: bytes) -> None:
    assert {p256.verify(G, signature, MESSAGE, by=by) for by in BACKENDS} == {False}


def test_points_off_the_curve_are_no_keys() -> None:
    assert p256.is_on_curve(G)
    x, y = G[1:33], G[33:]
    for point in (
        b"\x04" + y + x,
        b"\x04" + x + bytes(32),
        b"\x04" + bytes(64),
        b"\x04" + P.to_bytes(32, "big") + y,
        b"\x02" + x,
        b"\x06" + x + y,
        b"\x00",
        b"",
        G + b"\0",
        G[:-1],
    ):
        assert not p256.is_on_curve(point), point.hex()


def test_without_cryptography_the_pure_library_is_used() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pedsup.trust import p256; print(p256.backend())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ecdsa\n"


# ---- key files ----


def test_a_key_has_the_fingerprint_and_the_text_that_openssl_gives(tmp_path: Path) -> None:
    _, public = key_pair(tmp_path / "k")
    key = read_public_key(public)
    der = openssl("pkey", "-pubin", "-in", public, "-outform", "DER")
    assert key.der == der
    assert key.fingerprint == hashlib.sha256(der).hexdigest()
    assert key.pem == public.read_text()


def test_the_words_hold_the_first_128_bits() -> None:
    from mnemonic import Mnemonic

    key = PublicKey(G)
    for language, wordlist in (("en", "english"), ("es", "spanish")):
        words = key.words(language)  # type: ignore[arg-type]
        assert len(words.split()) == 12
        assert Mnemonic(wordlist).to_entropy(words).hex() == key.fingerprint[:32]


@pytest.mark.parametrize("curve", ["secp256k1", "secp384r1", "secp521r1"])
def test_keys_of_other_curves_are_refused(tmp_path: Path, curve: str) -> None:
    _, public = key_pair(tmp_path / "k", curve)
    with pytest.raises(BadFileError, match="another type or curve"):
        read_public_key(public)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path / "k")
    with pytest.raises(UsageError, match="private key"):
        read_public_key(private)


def test_one_key_has_one_text(tmp_path: Path) -> None:
    """A changed character makes another key or none, never the same key again."""
    _, public = key_pair(tmp_path / "k")
    text, key = public.read_text(), read_public_key(public)
    at = text.index("\n") + 1
    for i in range(at, text.index("\n-----END")):
        for letter in "AzQ=":
            changed = text[:i] + letter + text[i + 1 :]
            if changed != text:
                with contextlib.suppress(BadFileError):
                    assert parse_public_key(changed, where="test") != key
    for broken in ("", "x", text.replace("PUBLIC", "PUBLIK"), text[:-30], "\0" * 200):
        with pytest.raises(BadFileError):
            parse_public_key(broken, where="test")
