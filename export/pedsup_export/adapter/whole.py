"""What an adapter replaces: rows of tokens, and whole tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pedsup.errors import BadFileError, UnsupportedError
from pedsup_export.adapter.config import LoraSettings
from pedsup_export.adapter.tensors import (
    EMBEDDINGS,
    Parts,
    adapter_error,
    check_finite,
    read_checked,
)
from pedsup_export.source.floats import Float32Array
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.tensor_source import PlainSource, TensorSource, n_rows


@dataclass(frozen=True)
class TokenRows:
    """Rows of an embedding that the adapter replaces: `rows[i]` is token `indices[i]`."""

    module: str
    indices: tuple[int, ...]
    rows: Float32Array = field(repr=False)

    def norm(self) -> float:
        """Frobenius norm of the new rows."""
        return float(np.linalg.norm(self.rows.astype(np.float64)))


def token_rows(parts: Parts, settings: LoraSettings, file: SafetensorsFile) -> dict[str, TokenRows]:
    """The replaced embedding rows by module path (`trainable_token_indices`)."""
    result = {}
    for module, name in parts["tokens"].items():
        rows = read_checked(name, 2, file)
        # PEFT takes a module when its path ends with the key.
        listed = settings.trainable_token_indices.items()
        wanted = next((tokens for end, tokens in listed if module.endswith(end)), ())
        if len(wanted) != rows.shape[0]:
            raise adapter_error(
                BadFileError,
                f"'{name}' holds {rows.shape[0]} rows, the configuration names "
                f"{len(wanted)} tokens for it",
                file,
                "trainable_token_indices of this adapter",
            )
        result[module] = TokenRows(module, wanted, rows)
    return result


def replacements(
    parts: Parts, settings: LoraSettings, file: SafetensorsFile
) -> dict[str, TensorSource]:
    """Whole tensors by base tensor name: modules_to_save, trained biases, saved embeddings."""
    result: dict[str, TensorSource] = {}
    for base_name, name in parts["whole"].items():
        if not _explained(base_name, settings):
            raise adapter_error(
                UnsupportedError,
                f"tensor '{name}' is explained by nothing in the configuration",
                file,
                "modules_to_save, bias or an embedding",
            )
        source = PlainSource(file, file.entry(name))
        step = max(1, (1 << 22) // max(1, source.entry.n_bytes // max(1, n_rows(source))))
        for lo in range(0, n_rows(source), step):
            check_finite(source.rows(lo, min(lo + step, n_rows(source))), name, file)
        result[base_name] = source
    return result


def _explained(base_name: str, settings: LoraSettings) -> bool:
    module, _, kind = base_name.rpartition(".")
    if kind == "bias" and settings.bias != "none":
        return True
    if module.rpartition(".")[2] in EMBEDDINGS:
        return True  # PEFT saves them unasked when they are adapted or were resized
    return in_modules_to_save(module, settings)


def in_modules_to_save(module: str, settings: LoraSettings) -> bool:
    """Whether a module was trained whole.

    PEFT takes a module when its path ends with an entry; its parts are then saved below it.
    """
    parents = [module]
    while "." in parents[-1]:
        parents.append(parents[-1].rpartition(".")[0])
    return any(path.endswith(entry) for entry in settings.modules_to_save for path in parents)
