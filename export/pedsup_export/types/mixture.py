"""Which type each tensor gets, with the user's `--tensor-type` options checked.

The mixture itself is `pedsup.gguf_file.type_mixture`: training rounds to the same types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from pedsup.errors import UsageError
from pedsup.gguf_file import type_mixture
from pedsup.gguf_file.file_types import FILE_TYPES, FileType
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.gguf_file.type_mixture import (
    StoredTensor,
    TypeChoice,
    TypeOverride,
    why_not_quantized,
)
from pedsup.gguf_file.type_recipes import ModelShape

_ALIASES: Final = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def file_type(name: str) -> FileType:
    """The file type that a user's `--quant` means; case does not matter, llama.cpp's aliases work.

    Raises:
        UsageError: no such type; the message lists those there are.
    """
    upper = name.upper()
    found = FILE_TYPES.get(_ALIASES.get(upper, upper))
    if found is None:
        raise UsageError(
            f"unknown quantization '{name}'",
            where="--quant",
            wanted=", ".join(FILE_TYPES),
            remedy="Q4_K_M is the usual choice for a phone",
        )
    return found


REQUIRES_IMATRIX: Final = frozenset({"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M", "IQ3_XXS"})
OVERRIDE_TYPES: Final = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0"),
    *("IQ4_NL", "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
    *("IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0", "MXFP4"),
)


def parse_override(text: str) -> TypeOverride:
    """Read `PATTERN=TYPE`, as `llama-quantize --tensor-type` takes it.

    Patterns are searched in tensor names without regard to case (llama-quantize lower-cases
    them). They are Python's regular expressions; std::regex agrees with them on everything
    but POSIX classes, which are refused.

    Raises:
        UsageError: no `=`, an unknown type, or not a regular expression.
    """
    pattern, _, name = text.partition("=")
    where = f"--tensor-type {text}"
    if not pattern or name.upper() not in OVERRIDE_TYPES:
        raise UsageError(
            f"'{text}' names no tensor type",
            where=where,
            wanted="PATTERN=TYPE with a type of " + ", ".join(OVERRIDE_TYPES),
            remedy="for example --tensor-type 'ffn_down=Q6_K'",
        )
    if "[[:" in pattern:
        raise UsageError("POSIX classes are not supported", where=where, remedy="write [0-9]")
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"not a regular expression: {error}", where=where) from error
    return TypeOverride(compiled, BY_NAME[name.upper()])


def choose_types(
    tensors: Mapping[str, StoredTensor],
    *,
    file_type: FileType,
    model: ModelShape,
    has_imatrix: bool = False,
    overrides: Sequence[TypeOverride] = (),
) -> dict[str, TypeChoice]:
    """`type_mixture.choose_types`, which has the arguments; `overrides` are checked before.

    Raises:
        UsageError: an override matches no tensor that is quantized, or its type needs an
            importance matrix and there is none.
    """
    _check_overrides(tensors, file_type, has_imatrix, overrides)
    return type_mixture.choose_types(
        tensors,
        file_type=file_type,
        model=model,
        has_imatrix=has_imatrix,
        overrides=overrides,
    )


def _check_overrides(
    tensors: Mapping[str, StoredTensor],
    file_type: FileType,
    has_imatrix: bool,
    overrides: Sequence[TypeOverride],
) -> None:
    quantizable = [n for n, t in tensors.items() if not why_not_quantized(n, t.shape)]
    for override in overrides:
        where = f"--tensor-type {override.pattern.pattern}={override.type.name}"
        if not file_type.is_quantized:
            raise UsageError(
                f"{file_type.name} files hold no quantized tensor to override",
                where=where,
                remedy="choose a quantized type with --quant, or drop --tensor-type",
            )
        if not any(override.pattern.search(name) for name in quantizable):
            raise UsageError(
                "the pattern matches no tensor that is quantized",
                where=where,
                remedy="--dry-run -v lists the tensors and their types",
            )
        if override.type.name in REQUIRES_IMATRIX and not has_imatrix:
            raise UsageError(
                f"{override.type.name} is useless without an importance matrix",
                where=where,
                remedy="give --imatrix FILE, or choose a type of 3 bits or more",
            )
