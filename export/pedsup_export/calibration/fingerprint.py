"""A digest of a matrix that can be made of blocks of rows in any order.

The sum, modulo 2^256, of SHA-256 over each row's number and bytes. Statistics hold it for every
matrix they were made of; an export makes it of the rows that it rounds, block by block on several
threads, so that what was calibrated is known to be what is rounded.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODULUS: Final = 1 << 256


def of_rows(rows: NDArray[np.uint8], first: int) -> int:
    """The share of rows `first`, `first` + 1, ...: uint8 [n, row bytes], C-contiguous."""
    total = 0
    for i, row in enumerate(rows):
        digest = hashlib.sha256((first + i).to_bytes(8, "little"))
        digest.update(row)
        total += int.from_bytes(digest.digest(), "little")
    return total % MODULUS


def text(fingerprint: int) -> str:
    """64 hexadecimal digits."""
    return f"{fingerprint:064x}"
