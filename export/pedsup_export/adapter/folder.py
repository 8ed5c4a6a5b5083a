"""A PEFT LoRA adapter folder, read without PEFT and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.files.fsio import sha256_file
from pedsup_export.adapter.config import LoraSettings, parse_config, unknown_options
from pedsup_export.adapter.tensors import AGAIN, LoraDelta, lora_deltas, sort_tensors
from pedsup_export.adapter.whole import TokenRows, replacements, token_rows
from pedsup_export.source.checkpoint import read_json
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.tensor_source import TensorSource

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An opened adapter.

    Attributes:
        deltas: low-rank changes by module path.
        replacements: whole tensors by base tensor name ('PATH.weight').
        tokens: replaced embedding rows by module path.
        warnings: options that are unknown to us, to be shown to the user.
    """

    folder: Path
    settings: LoraSettings
    deltas: Mapping[str, LoraDelta]
    replacements: Mapping[str, TensorSource]
    tokens: Mapping[str, TokenRows]
    warnings: tuple[str, ...] = ()

    @property
    def base_model_name(self) -> str | None:
        return self.settings.base_model_name_or_path

    @property
    def revision(self) -> str | None:
        return self.settings.revision

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Read and check an adapter folder.

        Raises:
            BadFileError: a file is missing or damaged, half of a pair is missing, a tensor has
                NaN or Inf, or a rank that its configuration does not give it.
            UnsupportedError: pickled weights, another PEFT method, an option or a tensor that
                cannot be merged.
        """
        _check_files(folder)
        config = read_json(folder / CONFIG, "the adapter's configuration")
        settings = parse_config(config, folder / CONFIG)
        file = SafetensorsFile(folder / WEIGHTS)
        parts = sort_tensors(file)
        deltas = lora_deltas(parts, settings, file)
        if not deltas and not parts["whole"] and not parts["tokens"]:
            raise BadFileError("the adapter holds no tensors", where=file.path, remedy=AGAIN)
        return cls(
            folder,
            settings,
            deltas,
            replacements(parts, settings, file),
            token_rows(parts, settings, file),
            unknown_options(config),
        )

    def digest(self) -> dict[str, str]:
        """Hex SHA-256 of both files, by name."""
        return {name: sha256_file(self.folder / name) for name in (CONFIG, WEIGHTS)}


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise BadFileError(
            "there is no such folder",
            where=folder,
            wanted="a PEFT adapter folder",
            remedy="check the path of the adapter",
        )
    if (folder / CONFIG).exists() and not (folder / WEIGHTS).exists():
        if any(folder.glob("*.bin")):
            raise UnsupportedError(
                "the adapter is a PyTorch pickle, which can run code when it is opened",
                where=folder,
                wanted=WEIGHTS,
                remedy="load it with peft where you trained it and save_pretrained(DIR) again",
            )
        raise BadFileError(f"{WEIGHTS} is missing", where=folder, remedy=AGAIN)
    if not (folder / CONFIG).exists():
        raise BadFileError(
            f"{CONFIG} is missing: this is not a PEFT adapter",
            where=folder,
            wanted=f"{CONFIG} and {WEIGHTS}",
            remedy=AGAIN,
        )
