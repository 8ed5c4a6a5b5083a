"""`pedsup-export keygen` and `sign`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pedsup.errors import UsageError
from pedsup.trust.keys import fingerprint_lines
from pedsup_export.cli.options import FILE, json_option, passphrase_file_option, show
from pedsup_export.prove.sign import (
    KeyPair,
    SignResult,
    make_keys,
    needs_passphrase,
    read_passphrase,
)
from pedsup_export.prove.sign import sign as sign_model


@click.command()
@click.argument("name", type=click.Path(path_type=Path))
@click.option("--no-passphrase", is_flag=True, help="Leave the private key unencrypted.")
@passphrase_file_option
@json_option
def keygen(name: Path, no_passphrase: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a key pair for signing: NAME.key (private) and NAME.pub (public)."""
    if no_passphrase and passphrase_file:
        raise UsageError("--no-passphrase and --passphrase-file exclude each other")
    passphrase = None if no_passphrase else _passphrase(passphrase_file, new=True)
    pair = make_keys(name, passphrase)
    document = {
        "private": str(pair.private),
        "public": str(pair.public),
        "encrypted": pair.encrypted,
        "fingerprint": pair.key.fingerprint,
        "words": {"en": pair.key.words("en"), "es": pair.key.words("es")},
    }
    show("keygen", document, _keys_text(pair), as_json)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", type=FILE, required=True, help="Private key of `keygen`.")
@passphrase_file_option
@json_option
def sign(file: Path, key: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Check a file against its manifest and sign both: FILE.sig appears beside it."""
    passphrase = _passphrase(passphrase_file, new=False) if needs_passphrase(key) else None
    result = sign_model(file, key, passphrase)
    document = {
        "path": str(result.path),
        "signature": str(result.signature),
        "sha256": result.sha256,
        "fingerprint": result.key.fingerprint,
    }
    show("sign", document, _signed_text(result), as_json)


def _keys_text(pair: KeyPair) -> str:
    """What was made and how two people compare it."""
    lines = [
        f"private key  {pair.private}"
        + ("" if pair.encrypted else "  (NOT encrypted: whoever copies it can sign as you)"),
        f"public key   {pair.public}",
        *fingerprint_lines(pair.key),
        "Keep the private key off the phone, and a copy of it in a safe place. Give the public key",
        "to those who run your models, and tell them its words by another way, such as by voice.",
    ]
    return "\n".join(lines)


def _signed_text(result: SignResult) -> str:
    """What was signed, by which key."""
    return (
        f"signed       {result.path}\n"
        f"signature    {result.signature}\n"
        f"sha256       {result.sha256}\n" + "\n".join(fingerprint_lines(result.key))
    )


def _passphrase(file: Path | None, *, new: bool) -> bytes:
    """From a file, or asked for on the terminal; a new one twice."""
    if file is not None:
        return read_passphrase(file)
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for the passphrase", remedy="give --passphrase-file FILE"
        )
    answer: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True)
    return answer.encode()
