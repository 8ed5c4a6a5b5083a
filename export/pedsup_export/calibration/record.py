"""What calibration statistics are made of: groups of matrices with one input, and the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


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
    n_tokens: int
    window: int
    types: Mapping[str, str]
    """Tensor -> the type it has in the 16-bit file."""
    fingerprints: Mapping[str, str]
    sensitivities: Mapping[str, float] = field(default_factory=dict)
    """Tensor -> KL per unit of relative output error; `NAME@rows` for look-ups in a table."""
    versions: Mapping[str, str] = field(default_factory=dict)
