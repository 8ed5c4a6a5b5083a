"""A base as a GGUF file, as an adapter sees it: modules by their names in transformers.

An adapter that stays a file of its own needs nothing else of its base: names and shapes are in the
tensor table, the rest in the metadata. Google's own files serve as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from pedsup.errors import UnsupportedError
from pedsup.gguf_file import ArrayValue, GGUFHeader
from pedsup.gguf_file.validate import validate_model
from pedsup.trust.identity import ModelIdentity, identify
from pedsup_export.arch import ARCHITECTURES, Architecture
from pedsup_export.arch.base import tensor_name_map

_TOP: Final = ("model.embed_tokens", "model.embed_tokens_per_layer",
               "model.per_layer_model_projection", "lm_head")  # fmt: skip
"""Modules outside of the layers, by their names in transformers."""


@dataclass(frozen=True)
class BaseFile:
    """A checked base file."""

    header: GGUFHeader
    identity: ModelIdentity
    architecture: Architecture

    @classmethod
    def open(cls, path: Path) -> BaseFile:
        """Read and check the file's header.

        Raises:
            BadFileError, UnsupportedError: it is not a model that pedsup runs.
        """
        header = validate_model(path)
        found = next((a for a in ARCHITECTURES if a.name == header.architecture), None)
        if found is None:
            raise UnsupportedError(
                f"a GGUF of the architecture '{header.architecture}'", where=path
            )
        return cls(header, identify(header), found)

    @cached_property
    def targets(self) -> Mapping[str, str]:
        """Name of a weight in transformers -> the file's tensor."""
        table = tensor_name_map(self.header.architecture, self._number("%s.block_count"))
        found = {}
        for module, (_, name) in table.mapping.items():
            if module in _TOP or module.startswith("model.layers."):
                tensor = self.header.tensors.get(f"{name}.weight")
                if tensor is not None and len(tensor.shape) == 2:
                    found[f"{module}.weight"] = tensor.name
        return found

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of a weight in transformers -> its shape there, [out, in]."""
        tensors = self.header.tensors
        return {name: tensors[t].shape[::-1] for name, t in self.targets.items()}

    def is_dead(self, name: str) -> bool:
        """Whether a weight is one that no forward pass uses."""
        config: dict[str, object] = {
            "num_hidden_layers": self._number("%s.block_count"),
            "num_kv_shared_layers": self._number("%s.attention.shared_kv_layers"),
        }
        return self.architecture.is_dead(config, name)

    def head_rows(self, tensor: str) -> int | None:
        """Rows of a head whose rotary halves llama.cpp keeps in pairs (see `plan.rows`)."""
        if self.header.architecture != "llama" or not (
            ".attn_q." in tensor or ".attn_k." in tensor
        ):
            return None
        default = self._number("%s.embedding_length") // self._number("%s.attention.head_count")
        return self._number("%s.attention.key_length") or default

    def _number(self, key: str) -> int:
        value = self.header.get(key, 0)
        if isinstance(value, ArrayValue):
            value = value.values()[0]
        return int(value)
