"""The tensors of a PEFT LoRA adapter: which is what, and whether it can be trusted.

    base_model.model.PATH.lora_A.weight                         [r, in]
    base_model.model.PATH.lora_B.weight                         [out, r]
    base_model.model.PATH.lora_embedding_A                      [r, vocabulary]
    base_model.model.PATH.lora_embedding_B                      [dim, r]
    base_model.model.PATH.lora_magnitude_vector                 [out]      DoRA
    base_model.model.PATH.token_adapter.trainable_tokens_delta  [n, dim]   new rows of an embedding
    base_model.model.PATH[.modules_to_save|.base_layer].weight  the base tensor replaced

PEFT saves a trained table up to three times when the vocabulary was resized: as PATH.weight,
PATH.modules_to_save.weight (the same) and PATH.original_module.weight (the base's own); it loads
the first, and so do we. Every tensor must be one of these and be explained by the configuration;
the rest is refused by name. LoRA matrices are held as float32 (an adapter is small); tensors that
replace a base tensor stay in the file and are read by rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import sqrt
from typing import Final

import numpy as np

from pedsup.errors import BadFileError, PedsupError, UnsupportedError
from pedsup_export.adapter.config import LORA_BIAS, LoraSettings
from pedsup_export.source.floats import Float32Array
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.tensor_source import PlainSource, equal, whole

AGAIN: Final = "save the adapter again with peft's save_pretrained and copy the whole folder"
EMBEDDINGS: Final = ("embed_tokens", "lm_head")
Parts = dict[str, dict[str, str]]
"""Tensor names by role and module path; of 'whole', by base tensor name."""


def adapter_error(
    kind: type[PedsupError], found: str, file: SafetensorsFile, wanted: str
) -> PedsupError:
    """An error about the adapter's file."""
    return kind(found, where=file.path, wanted=wanted, remedy=AGAIN)


def read_checked(name: str, n_dims: int, file: SafetensorsFile) -> Float32Array:
    """A small tensor as float32, its number of axes and its values checked."""
    entry = file.entry(name)
    if len(entry.shape) != n_dims or 0 in entry.shape:
        raise BadFileError(
            f"tensor '{name}' has shape {list(entry.shape)}",
            where=file.path,
            wanted=f"{n_dims} axes, none empty",
            remedy="with DeepSpeed ZeRO-3 or FSDP gather the parameters before save_pretrained",
        )
    values = whole(PlainSource(file, entry))
    check_finite(values, name, file)
    return values


def check_finite(values: Float32Array, name: str, file: SafetensorsFile) -> None:
    if not np.isfinite(values).all():
        raise BadFileError(
            f"tensor '{name}' holds NaN or Inf",
            where=file.path,
            wanted="finite numbers",
            remedy="the training diverged: use an earlier checkpoint of the adapter",
        )


PREFIX: Final = "base_model.model."
_PATTERNS: Final = (
    ("A", re.compile(r"(.+)\.lora_A(?:\.default)?\.weight")),
    ("B", re.compile(r"(.+)\.lora_B(?:\.default)?\.weight")),
    ("embedding A", re.compile(r"(.+)\.lora_embedding_A(?:\.default)?")),
    ("embedding B", re.compile(r"(.+)\.lora_embedding_B(?:\.default)?")),
    ("magnitude", re.compile(r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?")),
    ("tokens", re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?")),
    # `.weight` or `.bias` of a module that the adapter carries whole; last, as it is the widest.
    (
        "whole",
        re.compile(
            r"((?:(?!\.lora_|\.token_adapter).)+?)"
            r"(\.modules_to_save(?:\.default)?|(?:\.token_adapter)?\.base_layer|\.original_module)?"
            r"\.(weight|bias)"
        ),
    ),
)
_COPIES: Final = ("", "modules_to_save", "base_layer", "original_module")
"""Where one tensor may stand, in the order in which PEFT's `set_peft_model_state_dict` wants it."""


@dataclass(frozen=True)
class LoraDelta:
    """The low-rank change of one module.

    Attributes:
        module: path in the base model as it was trained, e.g. 'model.layers.0.mlp.up_proj'.
        a: float32 [r, in].
        b: float32 [out, r].
        scaling: alpha / r, or as the configuration says.
        magnitude: DoRA's m, float32 [out], or None.
    """

    module: str
    a: Float32Array = field(repr=False)
    b: Float32Array = field(repr=False)
    scaling: float
    magnitude: Float32Array | None = field(default=None, repr=False)

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight that takes it: (out, in)."""
        return len(self.b), int(self.a.shape[1])

    def norm(self) -> float:
        """Frobenius norm of scaling * B A, from the two r x r Gram matrices; B A is not formed."""
        a, b = self.a.astype(np.float64), self.b.astype(np.float64)
        return abs(self.scaling) * sqrt(max(0.0, float(np.sum((b.T @ b) * (a @ a.T)))))


def sort_tensors(file: SafetensorsFile) -> Parts:
    """Which tensor is what; of copies the one that PEFT loads."""
    parts: Parts = {role: {} for role, _ in _PATTERNS}
    ranks: dict[str, int] = {}
    for name in file.tensors:
        role, key, rank = _place(name, file)
        other = parts[role].get(key)
        if other is not None and (role != "whole" or ranks[key] == rank):
            twice = f"'{name}' and '{other}' are the same tensor"
            raise adapter_error(BadFileError, twice, file, "each tensor once")
        if other is not None and {rank, ranks[key]} == {0, 1}:
            _check_copies(name, other, file)
        if other is None or rank < ranks[key]:
            parts[role][key] = name
            ranks[key] = rank
    return parts


def _place(name: str, file: SafetensorsFile) -> tuple[str, str, int]:
    """Role, module path (of 'whole', the base tensor's name) and rank among its copies."""
    if name.endswith(("lora_B.bias", "lora_B.default.bias")):
        raise UnsupportedError(
            f"tensor '{name}' is a bias of the LoRA branch (lora_bias)",
            where=file.path,
            wanted="an adapter without lora_bias",
            remedy=LORA_BIAS,
        )
    inner = name.removeprefix(PREFIX)
    for role, pattern in _PATTERNS:
        match = pattern.fullmatch(inner) if inner != name else None
        if match is None:
            continue
        if role != "whole":
            return role, match[1], 0
        stands = (match[2] or "").strip(".").removeprefix("token_adapter.").removesuffix(".default")
        return role, f"{match[1]}.{match[3]}", _COPIES.index(stands)
    raise adapter_error(
        UnsupportedError,
        f"unknown tensor '{name}' in the adapter",
        file,
        f"names that begin with '{PREFIX}' and end as PEFT's LoRA writes them",
    )


def _check_copies(name: str, other: str, file: SafetensorsFile) -> None:
    if not equal(PlainSource(file, file.entry(name)), PlainSource(file, file.entry(other))):
        raise adapter_error(
            BadFileError,
            f"'{name}' and '{other}' are one tensor and hold different numbers",
            file,
            "two equal copies",
        )


def lora_deltas(
    parts: Parts, settings: LoraSettings, file: SafetensorsFile
) -> dict[str, LoraDelta]:
    """The low-rank changes by module path.

    Raises:
        BadFileError: half of a pair is missing, a rank differs from the configuration's, an
            empty matrix, NaN or Inf.
        UnsupportedError: DoRA on an embedding, whose norms run over the vocabulary.
    """
    deltas = {}
    for kind in ("", "embedding "):
        a_names, b_names = parts[f"{kind}A"], parts[f"{kind}B"]
        _check_pairs(a_names, b_names, file)
        for module, a_name in a_names.items():
            a, b = read_checked(a_name, 2, file), read_checked(b_names[module], 2, file)
            if not a.shape[0] == b.shape[1] == settings.rank(module):
                raise adapter_error(
                    BadFileError,
                    f"'{a_name}' has rank {a.shape[0]}, its partner {b.shape[1]}, "
                    f"the configuration says {settings.rank(module)}",
                    file,
                    "the configuration that this adapter was trained with",
                )
            if kind:
                # An embedding's delta is (B A)^T: the same sums with the halves exchanged.
                a, b = np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
            magnitude = _magnitude(module, parts, settings, file, n_out=b.shape[0])
            deltas[module] = LoraDelta(module, a, b, settings.scaling(module), magnitude)
    strange = sorted(parts["magnitude"].keys() - deltas.keys())
    if strange:
        name = parts["magnitude"][strange[0]]
        raise adapter_error(
            BadFileError, f"'{name}' has no lora_A and lora_B", file, "complete modules"
        )
    return deltas


def _check_pairs(a_names: dict[str, str], b_names: dict[str, str], file: SafetensorsFile) -> None:
    lonely = sorted(a_names.keys() ^ b_names.keys())
    if lonely:
        name = a_names.get(lonely[0]) or b_names[lonely[0]]
        raise adapter_error(
            BadFileError,
            f"half of a pair is missing: '{name}' has no partner",
            file,
            "lora_A and lora_B of every module",
        )


def _magnitude(
    module: str, parts: Parts, settings: LoraSettings, file: SafetensorsFile, *, n_out: int
) -> Float32Array | None:
    """DoRA's magnitude vector of a module, or None for plain LoRA."""
    name = parts["magnitude"].get(module)
    if (name is not None) != settings.use_dora:
        raise adapter_error(
            BadFileError,
            f"use_dora is {settings.use_dora}, but module '{module}' "
            f"{'has' if name else 'lacks'} a magnitude vector",
            file,
            "configuration and tensors of one adapter",
        )
    if name is None:
        return None
    if module in parts["embedding A"]:
        raise UnsupportedError(
            f"DoRA on an embedding ('{name}')",
            where=file.path,
            remedy="merge this adapter with PEFT and export the merged folder",
        )
    values = read_checked(name, 1, file)
    if values.shape != (n_out,):
        raise adapter_error(
            BadFileError, f"'{name}' has {values.size} elements", file, f"{n_out}, as lora_B has"
        )
    return values
