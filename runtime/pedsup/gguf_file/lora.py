"""Whether a GGUF LoRA adapter is one that llama.cpp can apply, and to which model.

llama.cpp checks names and shapes of an adapter, leaves some of its parts out without a word, and
ends the process for others. Here every part must be one that it applies. Source:
`llama_adapter_lora_init_impl` in llama-adapter.cpp, `build_lora_mm` and `build_inp_embd` in
llama-graph.cpp, models/gemma4.cpp; llama.cpp 0c1e57098.

    general.type = "adapter" | adapter.type = "lora" | adapter.lora.alpha
    NAME.lora_a  [n_in, r]       NAME is a matrix of the model, [n_in, n_out]
    NAME.lora_b  [r, n_out]      it becomes NAME + alpha / r * (b a)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, MismatchError, UnsupportedError
from pedsup.gguf_file.architecture import EMBEDDING, require_supported
from pedsup.gguf_file.cursor import AGAIN
from pedsup.gguf_file.finite import require_finite
from pedsup.gguf_file.header import GGUFHeader, read_header
from pedsup.gguf_file.tensor_table import TensorInfo
from pedsup.gguf_file.values import ValueType
from pedsup.messages import as_message, message

ADAPTER: Final = "adapter"
"""`general.type` of an adapter."""
ALPHA: Final = "adapter.lora.alpha"
KIND: Final = "adapter.type"
INVOCATION: Final = "adapter.alora.invocation_tokens"
A, B = ".lora_a", ".lora_b"
TYPES: Final = ("F32", "F16", "BF16", "Q8_0")
MAX_RANK: Final = 4096
LEFT_OUT: Final = frozenset({"per_layer_model_proj.weight", "per_layer_token_embd.weight"})
"""Matrices of Gemma 4 whose product llama.cpp computes without an adapter's part."""
_WANTED: Final = message("a LoRA adapter as llama.cpp's convert_lora_to_gguf.py writes it")


@dataclass(frozen=True)
class Pair:
    """The two halves of one matrix's change."""

    target: str
    """The model's tensor."""
    a: TensorInfo
    b: TensorInfo

    @property
    def rank(self) -> int:
        return self.b.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The target's shape in ggml's order. llama.cpp keeps the embeddings' halves exchanged."""
        if self.target == EMBEDDING:
            return self.b.shape[1], self.a.shape[1]
        return self.a.shape[0], self.b.shape[1]


def is_adapter(header: GGUFHeader) -> bool:
    """Whether a file says that it is an adapter and not a model."""
    return bool(header.get("general.type") == ADAPTER)


def validate_adapter(path: str | Path) -> GGUFHeader:
    """Check an adapter file for everything that llama.cpp relies on; its header.

    Raises:
        BadFileError: it is damaged or forged.
        UnsupportedError: it is well-formed, but not a LoRA adapter that pedsup runs.
    """
    header = read_header(path, message("a GGUF adapter file"))
    if not is_adapter(header):
        raise UnsupportedError(
            "this GGUF file is not an adapter",
            where=header.path,
            wanted=_WANTED,
            remedy="give a model as MODEL and its adapter with --adapter; "
            "pedsup-export adapter makes one",
        )
    require_supported(header)
    _check_metadata(header)
    pairs(header)
    return header


def pairs(header: GGUFHeader) -> tuple[Pair, ...]:
    """The adapter's changes in the order of the file.

    Raises:
        BadFileError: half of a pair is missing, or a shape or type cannot be.
        UnsupportedError: a tensor that is not part of a pair.
    """
    targets: dict[str, dict[str, TensorInfo]] = {}
    for tensor in header.tensors.values():
        name, suffix = tensor.name[: -len(A)], tensor.name[-len(A) :]
        if suffix not in (A, B):
            raise UnsupportedError(
                message("llama.cpp does not apply the adapter's tensor '{name}'", name=tensor.name),
                where=header.path,
                wanted="low-rank changes of matrices only",
                remedy="merge this adapter into the model: pedsup-export run",
            )
        targets.setdefault(name, {})[suffix] = tensor
    if not targets:
        raise _bad(header, "the adapter holds no tensors", _WANTED)
    found = []
    for target, halves in targets.items():
        if len(halves) < 2:
            raise _bad(
                header,
                message("half of the change of '{name}' is missing", name=target),
                f"{target}{A} + {B}",
            )
        found.append(_checked(header, Pair(target, halves[A], halves[B])))
    return tuple(found)


def require_fits(adapter: GGUFHeader, model: GGUFHeader) -> None:
    """Raise `MismatchError` when `adapter` cannot be applied to `model` as a whole.

    Args:
        adapter, model: headers of `validate_adapter` and of a model that was validated too.
    """
    if adapter.architecture != model.architecture:
        raise _mismatch(
            adapter,
            message("it is for the architecture {name}", name=adapter.architecture),
            message("{name}, the model's", name=model.architecture),
        )
    tied = "output.weight" not in model.tensors
    for pair in pairs(adapter):
        tensor = model.tensors.get(pair.target)
        if tensor is None:
            raise _mismatch(
                adapter,
                message("it changes '{name}', which the model does not have", name=pair.target),
                message("its base"),
            )
        if pair.target in LEFT_OUT or (tied and pair.target == EMBEDDING):
            raise MismatchError(
                message(
                    "llama.cpp cannot apply the adapter's change of '{name}'", name=pair.target
                ),
                where=adapter.path,
                wanted="changes of the layers' projections",
                remedy="merge this adapter into the model: pedsup-export run",
            )
        if tensor.shape != pair.shape:
            raise _mismatch(
                adapter,
                message("it changes '{name}' as {shape}", name=pair.target, shape=list(pair.shape)),
                message("{shape}, the model's shape", shape=list(tensor.shape)),
            )


def require_applicable(path: Path, model: GGUFHeader) -> None:
    """All checks of an adapter file before llama.cpp opens it, weights included.

    Raises:
        BadFileError, UnsupportedError: as `validate_adapter`, or a weight is not a number.
        MismatchError: as `require_fits`.
    """
    adapter = validate_adapter(path)
    require_fits(adapter, model)
    require_finite(adapter)


def _check_metadata(header: GGUFHeader) -> None:
    kind, alpha = header.get(KIND), header.get(ALPHA)
    if kind != "lora" or header.value_types[KIND] is not ValueType.STRING:
        raise UnsupportedError(
            message("an adapter of the type {found}", found=f"{kind!r:.60}"),
            where=header.path,
            wanted=_WANTED,
        )
    if header.value_types.get(ALPHA) is not ValueType.FLOAT32 or not 0 < alpha < 1e6:
        raise _bad(
            header,
            message("the field '{key}' is {value}", key=ALPHA, value=f"{alpha!r:.60}"),
            message("a FLOAT32 above 0"),
        )
    if header.get(INVOCATION) is not None:
        raise UnsupportedError(
            "the adapter is to be switched on by certain tokens (aLoRA)",
            where=header.path,
            wanted="an adapter that is always on",
        )


def _checked(header: GGUFHeader, pair: Pair) -> Pair:
    for half in (pair.a, pair.b):
        if len(half.shape) != 2 or half.type.name not in TYPES:
            raise _bad(
                header,
                message(
                    "tensor '{name}' {problem}",
                    name=half.name,
                    problem=message("is {found}", found=f"{half.type.name} {list(half.shape)}"),
                ),
                message("a matrix of the type {names}", names=", ".join(TYPES)),
            )
    rank = pair.a.shape[0] if pair.target == EMBEDDING else pair.a.shape[1]
    if rank != pair.rank or rank > MAX_RANK:
        raise _bad(
            header,
            message(
                "the halves of the change of '{name}' have the ranks {first} and {second}",
                name=pair.target,
                first=rank,
                second=pair.rank,
            ),
            message("the same rank, at most {n}", n=MAX_RANK),
        )
    return pair


def _bad(header: GGUFHeader, found: str, wanted: str) -> BadFileError:
    return BadFileError(found, where=header.path, wanted=wanted, remedy=AGAIN)


def _mismatch(adapter: GGUFHeader, found: str, wanted: str) -> MismatchError:
    return MismatchError(
        message("the adapter does not belong to the model: {reason}", reason=as_message(found)),
        where=adapter.path,
        wanted=wanted,
        remedy="give the model that this adapter was made for",
    )
