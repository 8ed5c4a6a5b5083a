"""What is known of a model file and who vouches for it, as data and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from pedsup.files.timestamp import local
from pedsup.messages import Message, joined, message
from pedsup.texts.safe import label
from pedsup.trust.store import TrustedKey, TrustStore
from pedsup.trust.verified import FileState

Signed = Literal["signed", "by-adapter", "by-model", "unsigned", "unknown-key"]
"""'by-adapter', 'by-model': not signed itself, and named by its digest in what is signed."""
Companion = Literal["drafter", "adapter", "projector"]
"""What llama.cpp loads beside a model."""
Weights = Literal["unread", "read", "earlier", "nothing-to-compare"]
UNBOUND: Final = message("WARNING: nothing says that this projector was made for this model.")


@dataclass(frozen=True)
class Trust:
    """What is known of a file; `weights` is 'unread' or 'earlier' until `verify_weights`."""

    path: Path
    name: str
    header_sha256: str
    state: FileState
    signed: Signed
    key: TrustedKey | None
    """The trusted key that signed it."""
    hint: str | None
    """How the signature names its key."""
    expected_sha256: str | None
    """SHA-256 of the whole file, from the signature or else from the manifest."""
    weights: Weights
    store: TrustStore
    blocks: tuple[bytes, ...] | None = None
    """Digests of the file's blocks, to compare again; None where its times are proof enough."""
    companions: Mapping[Companion, Trust] = field(default_factory=dict)
    """What is known of the files that llama.cpp loads beside it."""
    unbound: bool = False
    """For an adapter or a projector: nothing tells which model it was made for."""
    created: str = ""
    """When it was exported, as its manifest says."""
    newer: str = ""
    """When a later export was made that ran at this place, signed by the same key."""

    def beside(self, kind: Companion, its: Trust) -> Trust:
        return replace(self, companions={**self.companions, kind: its})

    def describe(self) -> dict[str, object]:
        """For JSON and for a transcript's first line."""
        return {
            "signed": self.signed,
            "key": self.key.key.fingerprint if self.key else None,
            "key_name": self.key.name if self.key else None,
            "sha256": self.expected_sha256,
            "weights": self.weights,
            "warning": " ".join(self.lines()) if self.warns else None,
            **{
                kind: self.companions[kind].describe() if kind in self.companions else None
                for kind in _COMPANIONS
            },
        }

    def lines(self) -> list[Message]:
        """For people; the first line says who vouches for the file, or warns that nobody does."""
        if self.key is not None:
            first = _VOUCHES[self.signed].filled(name=self.key.name)
        elif self.signed == "unknown-key":
            first = message(
                "WARNING: this file is signed by a key that is not trusted here ({hint}); the "
                "signature cannot be checked (pedsup-run trust add KEY.pub).",
                hint=(self.hint or "")[:16],
            )
        else:
            first = message(
                "WARNING: this file is not signed: nobody vouches for where it comes from."
            )
        lines = [joined(" ", [first, _READ[self.weights]])]
        if self.newer:
            lines.append(
                message(
                    "WARNING: this file is older than one that ran here before: it was exported "
                    "{date}, the other one {newer}.",
                    date=local(self.created),
                    newer=local(self.newer),
                )
            )
        if self.unbound:
            lines.append(
                message("WARNING: nothing says that this adapter was made for this model.")
            )
        for kind, prefix in _COMPANIONS.items():
            if (its := self.companions.get(kind)) is not None:
                said = [UNBOUND] if kind == "projector" and its.unbound else its.lines()
                name = prefix.filled(name=label(its.path.name))
                lines += [joined(" ", [name, line]) for line in said]
        return lines

    def brief(self) -> Message:
        """One line of 40 columns: who vouches, or the first warning; `lines` says all."""
        if self.signed == "unknown-key":
            return message("WARNING: signed by an unknown key (/model).")
        if self.signed == "unsigned":
            return message("WARNING: not signed (/model).")
        if self.newer or (self.vouched and any(one.newer for one in self.companions.values())):
            return message("WARNING: older than before (/model).")
        if self.unbound:
            return message("WARNING: adapter of another model? (/model)")
        if self.warns:
            return message("WARNING: a second file is not signed (/model).")
        if self.signed == "signed" and self.key is not None:
            return message("Signed by {name}.", name=self.key.name)
        return message("Named in a signed adapter (/model).")

    @property
    def vouched(self) -> bool:
        """Whether trusted keys vouch for every file, whatever else is to be said of it."""
        own = self.signed in ("signed", "by-adapter", "by-model")
        return own and all(one.vouched for one in self.companions.values())

    @property
    def warns(self) -> bool:
        own = not self.vouched or self.unbound or bool(self.newer)
        return own or any(one.warns for one in self.companions.values())


_VOUCHES: Final[dict[Signed, Message]] = {
    "signed": message("Signed by {name}."),
    "by-adapter": message("Named by its digest in the adapter that {name} signed."),
    "by-model": message("Named by its digest in the model that {name} signed."),
}
_COMPANIONS: Final[dict[Companion, Message]] = {
    "drafter": message("Its draft model, {name}:"),
    "adapter": message("Its adapter, {name}:"),
    "projector": message("Its projector, {name}:"),
}
_READ: Final[dict[Weights, Message]] = {
    "unread": message("Its bytes are compared before it is loaded."),
    "read": message("All its bytes were read and are as exported."),
    "earlier": message("It was read in full earlier and has not changed since."),
    "nothing-to-compare": message("It has no manifest: nothing says what its bytes should be."),
}
