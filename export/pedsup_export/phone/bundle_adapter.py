"""The part of the card's folder that is an adapter for a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from pedsup.errors import UntrustedError, UsageError
from pedsup.files.fsio import sha256_file
from pedsup.gguf_file.lora import validate_adapter
from pedsup.gguf_file.validate import validate_model
from pedsup.trust.assess import Policy
from pedsup.trust.identity import identify
from pedsup.trust.pair import assess_pair

FAT_FORBIDDEN: Final = frozenset('"*/:<>?\\|')


def check_name(model: Path) -> None:
    """Raise `UsageError` for a name that cannot stand on every SD card, or is no model's."""
    if set(model.name) & FAT_FORBIDDEN or not model.name.isascii():
        raise UsageError(
            f"the name {model.name!r} cannot stand on every SD card",
            wanted="letters without accents, digits, '-', '_' and '.'",
            remedy="rename the model and its manifest",
        )
    if not model.name.endswith(".gguf"):
        raise UsageError(f"the model's name is {model.name!r}", wanted="a name that ends in .gguf")


def beside_model(model: Path) -> tuple[Path, ...]:
    """Manifest and signature."""
    return tuple(
        path
        for path in sorted(model.parent.iterdir())
        if path.name.startswith(f"{model.name}.") and path.is_file()
    )


def plan_adapter(adapter: Path | None, model: Path | None) -> tuple[Path, ...]:
    """The adapter's files, checked against its manifest and, where both go along, the model.

    Raises:
        BadFileError, UnsupportedError: it is no adapter that pedsup runs.
        UntrustedError: it is damaged, or its manifest is another file's.
        MismatchError: it was made for another model.
    """
    if adapter is None:
        return ()
    header = validate_adapter(adapter)
    check_name(adapter)
    identity = identify(header)
    if identity.problem:
        raise UntrustedError(identity.problem, where=adapter)
    if identity.manifest and identity.manifest.file["sha256"] != sha256_file(adapter):
        raise UntrustedError(
            "the adapter is damaged or was changed: its SHA-256 is not the manifest's",
            where=adapter,
            remedy="copy it again, or make it again with pedsup-export adapter",
        )
    if model is not None and model.is_file():
        assess_pair(validate_model(model), adapter, Policy(as_before=False))
    return (adapter, *beside_model(adapter))


def write_adapter(files: tuple[Path, ...], folder: Path) -> None:
    """Copy what `plan_adapter` found, and say in ADAPTER what it is."""
    if not files:
        return
    folder.mkdir(exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    adapter = files[0]
    (folder / "ADAPTER").write_text(
        f"name={adapter.name}\nsize={adapter.stat().st_size}\n"
        f"sha256={sha256_file(folder / adapter.name)}\n",
        encoding="ascii",
        newline="\n",
    )
