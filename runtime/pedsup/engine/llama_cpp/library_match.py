"""Whether a library of llama.cpp is the one that the ctypes declarations were written for.

ctypes checks nothing: a structure that has grown by a field since is read and written at the
wrong places, silently or with a crash. The library inside llama-cpp-python was built together
with its declarations; another one, named by LLAMA_CPP_LIB_PATH, as on a phone with Termux's
libllama, is first asked who it is, then for structures whose every byte is known.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from pedsup.errors import EngineError
from pedsup.messages import Message, message

UNKNOWN_COMMIT: Final = "unknown"
"""What a build outside of a git checkout says, such as one from a release's archive."""
ROOM: Final = 4096
"""Bytes left behind each structure, should the library's be larger than ours."""


@dataclass(frozen=True)
class LibraryIdentity:
    """How a build of llama.cpp names itself; '' if it is too old to tell."""

    llama: str
    ggml: str
    commit: str

    def __str__(self) -> str:
        return (
            f"llama.cpp {self.llama or '?'}, ggml {self.ggml or '?'}, commit {self.commit or '?'}"
        )


WRITTEN_FOR: Final[Mapping[str, LibraryIdentity]] = {
    "0.3.36": LibraryIdentity("0.5.0", "0.25.3", "0c1e57098"),
}
"""llama-cpp-python's version -> the llama.cpp that its declarations describe."""

# llama.cpp, src/llama-model.cpp and src/llama-context.cpp, *_default_params: what is not 0.
_DEFAULTS: Final[Mapping[str, tuple[str, Mapping[str, int | float]]]] = {
    "llama_model_default_params": (
        "llama_model_params",
        {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1,
         "use_extra_bufts": 1},
    ),
    "llama_context_default_params": (
        "llama_context_params",
        {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1,
         "n_outputs_max_per_seq": 1, "n_threads": 4, "n_threads_batch": 4,
         "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1,
         "flash_attn_type": -1, "yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0,
         "yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0, "defrag_thold": -1.0, "type_k": 1,
         "type_v": 1, "offload_kqv": 1, "no_perf": 1, "op_offload": 1, "swa_full": 1},
    ),
}  # fmt: skip


def require_match(lib: ModuleType, *, package: str, own_folder: Path) -> None:
    """Refuse a library that does not match the declarations in `lib`.

    Args:
        lib: the imported module of declarations; no function of it was called yet.
        package: the version of llama-cpp-python that it is from.
        own_folder: where that package keeps its own library.

    Raises:
        EngineError: it does not match, or cannot be told to.
    """
    folder = Path(lib._base_path)
    if folder.resolve() == own_folder.resolve():
        return
    identity = library_identity(lib._lib)
    reason = identity_mismatch(identity, WRITTEN_FOR.get(package))
    if reason is None:
        wrong = sorted(structure_mismatches(lib))
        reason = message("other structures: {names}", names=", ".join(wrong[:5])) if wrong else None
    if reason is None:
        return
    wanted = WRITTEN_FOR.get(package)
    raise EngineError(
        message(
            "this library of llama.cpp does not match llama-cpp-python {version} ({reason})",
            version=package,
            reason=reason,
        ),
        where=f"{folder} ({identity})",
        wanted=str(wanted) if wanted else f"llama-cpp-python {' or '.join(WRITTEN_FOR)}",
        remedy="use --engine server, which needs no bindings, or unset LLAMA_CPP_LIB_PATH",
    )


def library_identity(handle: ctypes.CDLL) -> LibraryIdentity:
    """Ask a library for its versions; these functions take nothing and return a text."""
    return LibraryIdentity(
        text_from(handle, "llama_version").partition("-")[0],
        text_from(handle, "ggml_version").partition("-")[0],
        text_from(handle, "ggml_commit").removesuffix("-dirty"),
    )


def identity_mismatch(found: LibraryIdentity, wanted: LibraryIdentity | None) -> Message | None:
    """Why a library is not the wanted one; None if it is.

    The commit decides where it is known. Versions stand for many commits each, so that an
    unknown commit needs both of them, and the structures after that.
    """
    if wanted is None:
        return message("unknown declarations")
    commit = found.commit
    if len(commit) >= 7 and commit != UNKNOWN_COMMIT:
        length = min(len(commit), len(wanted.commit))
        return None if commit[:length] == wanted.commit[:length] else message("another commit")
    if (found.llama, found.ggml) != (wanted.llama, wanted.ggml):
        return message("another version")
    return None


def structure_mismatches(lib: ModuleType) -> Iterator[str]:
    """Fields that are not where the declarations say, by the values that a library gives them."""
    for function, (name, values) in _DEFAULTS.items():
        kind = getattr(lib, name)
        expected = kind(**values)
        found = _call(lib._lib, function, kind)
        yield from (f"{name}.{field}" for field in _different(kind, found, expected))
    kind, tokens = lib.llama_batch, (lib.llama_token * 1)()
    pointer = ctypes.cast(tokens, ctypes.POINTER(lib.llama_token))
    found = _call(lib._lib, "llama_batch_get_one", kind, pointer, ctypes.c_int32(1))
    expected = kind(n_tokens=1, token=pointer)
    yield from (f"llama_batch.{field}" for field in _different(kind, found, expected))


def _call(
    handle: ctypes.CDLL, function: str, kind: type[ctypes.Structure], *arguments: object
) -> ctypes.Structure:
    """Call a function that returns a structure, with room for a larger one than ours.

    Its caller passes the address where the result goes: too small, and the library would write
    over what follows. (Only so above 16 bytes: smaller ones come back in registers.)
    """
    fields = [("value", kind), ("room", ctypes.c_uint8 * ROOM)]
    roomy = type(f"_{kind.__name__}", (ctypes.Structure,), {"_fields_": fields})
    call = handle[function]  # a function object of its own: the declared one stays as it is
    call.restype = roomy
    found: ctypes.Structure = call(*arguments).value
    return found


def _different(
    kind: type[ctypes.Structure], found: ctypes.Structure, expected: ctypes.Structure
) -> list[str]:
    """The fields whose bytes differ; padding between fields has no value."""
    fields = ((name, getattr(kind, name)) for name, *_ in kind._fields_)
    a, b = bytes(found), bytes(expected)
    return [
        name
        for name, at in fields
        if a[at.offset : at.offset + at.size] != b[at.offset : at.offset + at.size]
    ]


def text_from(handle: ctypes.CDLL, function: str) -> str:
    """What a function without arguments says; '' from a library without it."""
    try:
        call = handle[function]
    except AttributeError:
        return ""
    call.restype, call.argtypes = ctypes.c_char_p, []
    raw = call()
    return raw.decode("utf-8", "replace") if raw else ""
