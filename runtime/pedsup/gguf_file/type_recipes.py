"""The recipes of llama.cpp's file types: which type each role of tensor gets, layer by layer.

This is a port of `llama_tensor_get_type_impl` of llama-quant.cpp (llama.cpp 0c1e57098) for our
twelve file types; `type_mixture.py` says which tensors it is asked about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pedsup.gguf_file.file_types import FileType
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType


@dataclass(frozen=True)
class ModelShape:
    """The hyperparameters that llama.cpp's mixture looks at."""

    arch: str
    n_layer: int
    """`<arch>.block_count`."""
    n_head: int
    """Attention heads of the first layer (`llama_hparams::n_gqa` looks at layer 0)."""
    n_head_kv: int
    """Key and value heads of the first layer."""
    n_expert: int = 0

    @property
    def n_gqa(self) -> int:
        """Query heads that share one key head, as `llama_hparams::n_gqa()` computes it."""
        return self.n_head // self.n_head_kv if self.n_head_kv else 0

    @property
    def is_llama_70b(self) -> bool:
        """`LLM_TYPE_70B`, for which llama.cpp has a rule of its own."""
        return self.arch == "llama" and self.n_layer == 80 and self.n_head != self.n_head_kv


class Role(Enum):
    """`tensor_category` of llama-quant.cpp, found by name."""

    OUTPUT = auto()
    TOKEN_EMBD = auto()
    ATTN_V = auto()
    """Also attn_qkv and attn_kv_b: `category_is_attn_v`."""
    ATTN_K = auto()
    ATTN_OUTPUT = auto()
    FFN_DOWN = auto()
    OTHER = auto()
    """Queries, gates, ups: the file's default type in all our recipes."""


_ROLE_PARTS: Final = (
    # In the order in which tensor_get_category looks.
    ("attn_qkv.weight", Role.ATTN_V),
    ("attn_kv_b.weight", Role.ATTN_V),
    ("attn_v.weight", Role.ATTN_V),
    ("attn_k.weight", Role.ATTN_K),
    ("attn_output.weight", Role.ATTN_OUTPUT),
    ("ffn_down", Role.FFN_DOWN),
)


def _role(name: str) -> Role:
    if name == "output.weight":
        return Role.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return Role.TOKEN_EMBD
    return next((role for part, role in _ROLE_PARTS if part in name), Role.OTHER)


def _use_more_bits(i: int, n: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


class Recipe:
    """`llama_tensor_get_type_impl`: the recipe of one file type, with its layer counters.

    `choose` must be called once per quantizable tensor in `llama_cpp_order`. An override keeps
    llama.cpp from calling its rule, and so from counting: the caller must not call either.
    """

    def __init__(
        self, file_type: FileType, model: ModelShape, has_imatrix: bool, names: Sequence[str]
    ) -> None:
        self.file_type, self.model, self.has_imatrix = file_type, model, has_imatrix
        roles = [_role(name) for name in names]
        self.tied = Role.OUTPUT not in roles
        self.n_attn_v = roles.count(Role.ATTN_V)
        self.i_attn_v = self.i_ffn_down = 0

    def choose(self, name: str, n_per_row: int) -> tuple[GGMLType, str]:
        """The type that the recipe wants, whatever the row length, and the reason."""
        role = _role(name)
        default = self.file_type.default
        if role is Role.OUTPUT or (role is Role.TOKEN_EMBD and self.tied):
            wanted = self._output(n_per_row)
        elif role is Role.TOKEN_EMBD:
            wanted = default.name
        elif role is Role.ATTN_V:
            wanted = self._attn_v(self.i_attn_v)
            self.i_attn_v += 1
        elif role is Role.FFN_DOWN:
            wanted = self._ffn_down(self._layer(name))
            self.i_ffn_down += 1
        elif role is Role.ATTN_K:
            wanted = "Q8_0" if self.model.n_expert == 8 else default.name
        elif role is Role.ATTN_OUTPUT:
            wanted = self._attn_output()
        else:
            wanted = default.name
        recipe = self.file_type.name
        reason = f"{recipe}: {role.name.lower()}" if wanted != default.name else recipe
        return BY_NAME[wanted], reason

    def _layer(self, name: str) -> int:
        # Experts of one layer are several tensors, so a counter does not give the layer.
        if self.model.n_expert > 1 and (block := re.match(r"blk\.(\d+)\.", name)):
            return int(block[1])
        return self.i_ffn_down

    def _output(self, n_per_row: int) -> str:
        if n_per_row % self.file_type.default.block_size or self.file_type.name == "Q8_0":
            return "Q8_0"
        return "Q6_K"

    def _attn_v(self, i: int) -> str:
        gqa4 = self.model.n_gqa >= 4
        more = _use_more_bits(i, self.n_attn_v)
        rules: dict[str, Callable[[], str | None]] = {
            "Q2_K": lambda: "Q4_K" if gqa4 else "Q3_K",
            "Q3_K_M": lambda: "Q5_K" if i < 2 else "Q4_K",
            "IQ4_XS": lambda: "Q5_K" if gqa4 else None,
            "Q4_K_S": lambda: "Q5_K" if i < 4 else None,
            "Q4_K_M": lambda: "Q6_K" if more else None,
            "Q5_K_M": lambda: "Q6_K" if more else None,
        }
        wanted = self._apply(rules)
        if self.model.is_llama_70b and wanted in ("Q3_K", "Q4_K"):
            wanted = "Q5_K"
        return "Q8_0" if self.model.n_expert == 8 else wanted

    def _ffn_down(self, i: int) -> str:
        n = self.model.n_layer
        first_eighth = i < n // 8
        more = _use_more_bits(i, n)
        rules: dict[str, Callable[[], str | None]] = {
            "Q2_K": lambda: "Q3_K",
            "Q3_K_M": lambda: "Q5_K" if i < n // 16 else "Q4_K",
            "IQ4_XS": lambda: "Q5_K" if first_eighth and not self.has_imatrix else None,
            "Q4_0": lambda: "Q4_1" if first_eighth and self.has_imatrix else None,
            "Q4_K_S": lambda: "Q5_K" if first_eighth else None,
            "Q4_K_M": lambda: "Q6_K" if more else None,
            "Q5_K_M": lambda: "Q6_K" if more else None,
        }
        return self._apply(rules)

    def _attn_output(self) -> str:
        if self.model.n_expert == 8:
            eight = dict.fromkeys(("Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_XS"), "Q5_K")
            return eight.get(self.file_type.name, self.file_type.default.name)
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}.get(
            self.file_type.name, self.file_type.default.name
        )

    def _apply(self, rules: Mapping[str, Callable[[], str | None]]) -> str:
        rule = rules.get(self.file_type.name)
        return (rule() if rule else None) or self.file_type.default.name
