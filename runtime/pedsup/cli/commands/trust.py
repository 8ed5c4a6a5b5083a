"""`pedsup-run trust`: the keys that are trusted on this device."""

from __future__ import annotations

from pathlib import Path

import click

from pedsup.cli.command_line import Commands
from pedsup.cli.output import confirm, show
from pedsup.cli.verbs import LANG
from pedsup.errors import UsageError
from pedsup.files.timestamp import now
from pedsup.messages import Message, joined, message
from pedsup.progress import say
from pedsup.texts.safe import clean
from pedsup.trust.keys import fingerprint_lines, read_public_key
from pedsup.trust.store import TrustedKey, TrustStore, check_name, load_store

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def command() -> None:
    """Manage the keys that are trusted on this device."""


@command.command()
@click.argument("file", metavar="KEY.pub", type=click.Path(path_type=Path))
@click.option("--name", help="Whose key it is; default: the file's name.")
@click.option("--yes", is_flag=True, help="Confirm that the fingerprint is the signer's.")
@_json
@LANG
def add(file: Path, name: str | None, yes: bool, as_json: bool) -> int:
    """Trust a key, after comparing its words with the signer."""
    key = read_public_key(file)
    trusted = TrustedKey(check_name(name or file.stem), key, now())
    store = load_store().with_key(trusted)
    for line in fingerprint_lines(key):
        say(line)
    if not yes:
        confirm(
            message("Are these the words that the signer gave you through another channel? [y/N] "),
            unasked=UsageError(
                "the key was not confirmed",
                remedy="compare the words with the signer and give --yes",
            ),
            refused=UsageError(
                "the key was not added", remedy="compare the words with the signer first"
            ),
        )
    store.save()
    document = {"schema": "pedsup-trust-add/1", "added": _entry(trusted)}
    show(as_json, document, [message("trusted: {name}", name=clean(trusted.name))])
    return 0


@command.command("list")
@_json
@LANG
def list_keys(as_json: bool) -> int:
    """List the trusted keys, and the models that are known to be signed."""
    store = load_store()
    show(as_json, _document(store), _lines(store))
    return 0


@command.command()
@click.argument("key")
@_json
@LANG
def remove(key: str, as_json: bool) -> int:
    """Stop trusting a key. KEY is its name, or the start of its fingerprint.

    Models that were run with its signature are refused from then on, until they come with
    another trusted signature and `unpin` confirms the change.
    """
    store, removed = load_store().without_key(key)
    store.save()
    show(
        as_json,
        {"schema": "pedsup-trust-remove/1", "removed": _entry(removed)},
        [message("no longer trusted: {name}", name=clean(removed.name))],
    )
    return 0


@command.command()
@click.argument("model")
@_json
@LANG
def unpin(model: str, as_json: bool) -> int:
    """Forget who signed a model, so that it may come signed by someone else or unsigned."""
    load_store().without_model(model).save()
    show(
        as_json,
        {"schema": "pedsup-trust-forget/1", "unpinned": model},
        [message("'{model}' may now be signed by anybody, or unsigned", model=clean(model))],
    )
    return 0


def _entry(trusted: TrustedKey) -> dict[str, object]:
    return {
        "name": trusted.name,
        "added": trusted.added,
        "fingerprint": trusted.key.fingerprint,
        "words": {"en": trusted.key.words("en"), "es": trusted.key.words("es")},
    }


def _document(store: TrustStore) -> dict[str, object]:
    return {
        "schema": "pedsup-trust-list/1",
        "keys": [_entry(trusted) for trusted in store.keys],
        "models": [{"name": model.name, "key": model.key} for model in store.models],
    }


def _lines(store: TrustStore) -> list[Message]:
    if not store.keys and not store.models:
        return [message("No key is trusted here: pedsup-run trust add KEY.pub")]
    names = {trusted.key.fingerprint: clean(trusted.name) for trusted in store.keys}
    lines: list[Message] = []
    for trusted in store.keys:
        name, added = clean(trusted.name), clean(trusted.added)
        lines.append(message("{name}, since {date}", name=name, date=added))
        lines += [joined("", ["  ", line]) for line in fingerprint_lines(trusted.key)]
    if store.models:
        lines.append(message("Models that must stay signed:"))
        lines += [
            message(
                "  {model}: by {who} ({key})",
                model=clean(model.name),
                who=names.get(model.key) or message("a removed key"),
                key=model.key[:16],
            )
            for model in store.models
        ]
    return lines


LANG(command)  # before the verb of the verb as well as behind it
