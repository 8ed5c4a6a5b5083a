"""What calibration statistics are made of: groups of matrices with one input, and the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import numpy as np

from pedsup.files.checks import Check, at_least

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SIXTEEN_BITS: Final = ("F32", "F16", "BF16")
SixteenBit: TypeAlias = Annotated[
    str, Check[str](SIXTEEN_BITS.__contains__, f"one of: {', '.join(SIXTEEN_BITS)}")
]
Positive: TypeAlias = Annotated[int, at_least(1)]


@dataclass(frozen=True)
class InputGroup:
    """Matrices that multiply the same input: queries, keys and values of a layer, say."""

    names: tuple[str, ...]
    n_columns: int
    run: int
    """Columns per run of second moments; 0 where only the diagonal is kept."""

    @property
    def owner(self) -> str:
        return self.names[0]

    @property
    def n_bytes(self) -> int:
        return 4 * self.n_columns * (self.run + 1)


@dataclass(frozen=True)
class Record:
    """What the statistics were made of, and what was found; goes into file and manifest."""

    model: str
    """The 16-bit file's name."""
    architecture: str
    texts: tuple[Mapping[str, object], ...]
    """Name, SHA-256, tokens and sketch (`pedsup.questions.texts.sketch`) of each text."""
    tokens: Positive
    window: Positive
    types: Mapping[str, SixteenBit]
    """Tensor -> the type it has in the 16-bit file."""
    fingerprints: Mapping[str, str]
    sensitivities: Mapping[str, Annotated[float, at_least(0)]] = field(default_factory=dict)
    """Tensor -> KL per unit of relative output error; `NAME@rows` for look-ups in a table."""
    versions: Mapping[str, str] = field(default_factory=dict)
