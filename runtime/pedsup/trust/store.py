"""Which keys this user trusts, and which models came signed by them before.

    ~/.config/pedsup/trust.json, readable by its owner only:
    {"schema": "pedsup-trust/1",
     "keys": [{"name", "added", "pem"}],
     "models": [{"name", "path_sha256", "key"}]}      key: a fingerprint

A model that was once run with a good signature is expected to stay signed by that key, under the
same name or at the same path: otherwise whoever can replace the file could just leave the
signature out.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

from pedsup.errors import BadFileError, PedsupError, UsageError
from pedsup.files.paths import config_folder, write_private
from pedsup.files.records import json_record
from pedsup.files.source import Source
from pedsup.messages import Message, message, reason_of
from pedsup.trust.keys import PublicKey, parse_public_key

SCHEMA: Final = "pedsup-trust/1"
FILE: Final = "trust.json"
MAX_BYTES: Final = 1 << 24
MAX_NAME: Final = 64


@dataclass(frozen=True)
class TrustedKey:
    """A key under the name that the user gave it."""

    name: str
    key: PublicKey
    added: str


@dataclass(frozen=True)
class KnownModel:
    """A model that was run with a good signature."""

    name: str
    path_sha256: str
    """Of the resolved path: the store need not say where files are."""
    key: str
    """The fingerprint of the key that had signed it."""

    @classmethod
    def of(cls, name: str, path: Path, key: PublicKey) -> KnownModel:
        return cls(name, path_digest(path), key.fingerprint)


@dataclass(frozen=True)
class _KeyEntry:
    name: str
    added: str
    pem: str


@dataclass(frozen=True)
class _Document:
    schema: Literal["pedsup-trust/1"]
    keys: tuple[_KeyEntry, ...]
    models: tuple[KnownModel, ...]


@dataclass(frozen=True)
class TrustStore:
    """The user's decisions; a change makes a new store, `save` writes it."""

    path: Path
    keys: tuple[TrustedKey, ...] = ()
    models: tuple[KnownModel, ...] = ()

    def by_hint(self, hint: str) -> TrustedKey | None:
        return next((trusted for trusted in self.keys if trusted.key.hint == hint), None)

    def known(self, name: str, path: Path) -> list[KnownModel]:
        """Earlier signed models of this name or at this path."""
        where = path_digest(path)
        return [m for m in self.models if m.name == name or m.path_sha256 == where]

    def with_key(self, trusted: TrustedKey) -> TrustStore:
        """The store with one more key.

        Raises:
            UsageError: the name is taken by another key, or the key is there under another name.
        """
        for other in self.keys:
            if other.key == trusted.key and other.name == trusted.name:
                return self
            if other.name == trusted.name or other.key == trusted.key:
                raise UsageError(
                    message("a key named '{name}' already exists", name=other.name),
                    where=self.path,
                    wanted="a new key under a new name",
                    remedy=f"pedsup-run trust remove {other.name}",
                )
        return replace(self, keys=(*self.keys, trusted))

    def without_key(self, wanted: str) -> tuple[TrustStore, TrustedKey]:
        """The store without the key of this name, or whose fingerprint begins so.

        Raises:
            UsageError: no key, or more than one, matches.
        """
        found = [k for k in self.keys if k.name == wanted] or [
            k for k in self.keys if len(wanted) >= 8 and k.key.fingerprint.startswith(wanted)
        ]
        if len(found) != 1:
            raise _unknown(
                message("{n} keys are named '{name}'", n=len(found), name=wanted)
                if found
                else message("no trusted key is named '{name}'", name=wanted),
                {k.name for k in self.keys},
                message("a key that was added before"),
            )
        return replace(self, keys=tuple(k for k in self.keys if k != found[0])), found[0]

    def with_model(self, model: KnownModel) -> TrustStore:
        """The store that expects this model to stay signed."""
        return self if model in self.models else replace(self, models=(*self.models, model))

    def without_model(self, name: str) -> TrustStore:
        """The store without expectations about this name. Raises `UsageError` if it has none."""
        left = tuple(m for m in self.models if m.name != name)
        if len(left) == len(self.models):
            raise _unknown(
                message("no model is known as '{name}'", name=name),
                {m.name for m in self.models},
                message("a model that was run with a signature"),
            )
        return replace(self, models=left)

    def save(self) -> None:
        """Write it, whole or not at all."""
        document = {
            "schema": SCHEMA,
            "keys": [{"name": k.name, "added": k.added, "pem": k.key.pem} for k in self.keys],
            "models": [asdict(model) for model in self.models],
        }
        write_private(
            self.path, document, remedy="set XDG_CONFIG_HOME to a folder that can be written"
        )


def load_store(path: Path | None = None) -> TrustStore:
    """The user's trust store; empty when there is none.

    Raises:
        BadFileError: it is damaged. It is then not treated as empty, which would trust more.
    """
    path = path or config_folder() / FILE
    if not path.exists():
        return TrustStore(path)
    source = Source("the list of trusted keys", path, only_known=False)
    try:
        document = json_record(_Document, path, source, MAX_BYTES)
        keys = tuple(
            TrustedKey(entry.name, parse_public_key(entry.pem, where=path), entry.added)
            for entry in document.keys
        )
    except PedsupError as error:
        raise BadFileError(
            message("the list of trusted keys is damaged ({reason})", reason=reason_of(error)),
            where=path,
            remedy="remove the file and add the keys again: pedsup-run trust add KEY.pub",
        ) from error
    return TrustStore(path, keys, document.models)


def _unknown(found: Message, names: set[str], otherwise: Message) -> UsageError:
    known = message("one of: {names}", names=", ".join(sorted(names)))
    return UsageError(found, wanted=known if names else otherwise, remedy="pedsup-run trust list")


def path_digest(path: Path) -> str:
    """SHA-256 of a resolved path."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()


def check_name(name: str) -> str:
    """A name for a key. Raises `UsageError` unless it is short and printable."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(
            message("the name {name} is not valid", name=repr(name)),
            wanted=message("1 to {n} printable characters", n=MAX_NAME),
            remedy="--name",
        )
    return name
