"""An adapter in the folder for the phone, checked as a phone will check it."""

from __future__ import annotations

import shutil
from pathlib import Path

from pedsup.errors import UntrustedError
from pedsup.files.fsio import sha256_file
from pedsup.gguf_file.finite import require_finite
from pedsup.gguf_file.lora import validate_adapter
from pedsup.gguf_file.validate import validate_model
from pedsup.trust.assess import Policy
from pedsup.trust.identity import identify
from pedsup.trust.pair import assess_pair
from pedsup_export.phone.card import beside, require_model_name, write_entry


def plan_adapter(adapter: Path | None, model: Path | None) -> tuple[Path, ...]:
    """The adapter's files, checked against its manifest and, where both go along, the model."""
    if adapter is None:
        return ()
    header = validate_adapter(adapter)
    require_finite(header)
    require_model_name(adapter)
    identity = identify(header)
    if identity.problem:
        raise UntrustedError(identity.problem, where=adapter)
    if identity.manifest and identity.manifest.file.sha256 != sha256_file(adapter):
        raise UntrustedError(
            "the adapter is damaged or was changed: its SHA-256 is not the manifest's",
            where=adapter,
            remedy="copy it again, or make it again with pedsup-export adapter",
        )
    if model is not None and model.is_file():
        assess_pair(validate_model(model), adapter, Policy(as_before=False))
    return (adapter, *beside(adapter))


def write_adapter(files: tuple[Path, ...], folder: Path) -> None:
    """Copy the adapter and the files beside it, and write down what it is."""
    if not files:
        return
    folder.mkdir(exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    adapter = files[0]
    size, sha256 = adapter.stat().st_size, sha256_file(folder / adapter.name)
    write_entry(folder / "ADAPTER", name=adapter.name, size=size, sha256=sha256)
