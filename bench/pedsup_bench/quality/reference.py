"""Where the reference's log-probabilities come from: its model, or a file of them.

The file has the format of `llama-perplexity --kl-divergence-base` and can be exchanged with it:

    "_logits_" | u32 n_ctx | i32 n_vocab | i32 n_chunk | i32 tokens[n_chunk * n_ctx]
    n_chunk x (n_ctx - 1 - n_ctx/2) rows of: f32 scale | f32 lowest | u16 code[n_vocab, padded even]

with ln p = scale * code + lowest, and everything below the largest minus 16 nats at `lowest`.
Source: `log_softmax` and `perplexity` in tools/perplexity/perplexity.cpp, llama.cpp 0c1e57098.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pedsup.errors import BadFileError, MismatchError
from pedsup.files.fsio import sync_file
from pedsup_bench.quality.divergence import Float64, log_softmax
from pedsup_bench.quality.logits import ROWS, LogitModel
from pedsup_bench.report.texts import scored_from

MAGIC: Final = b"_logits_"
HEADER: Final = struct.Struct("<8sIii")
REACH: Final = np.float32(16.0)
"""How many nats below the largest logit the file still distinguishes."""
SMALLEST_STEP: Final = np.float32(1e-30)
"""Its reciprocal is still a float32."""
MAX_VOCAB: Final = 1 << 22


class Reference(Protocol):
    """Log-probabilities of a window's scored positions, in slices."""

    floor: float
    """Log-probabilities at or below it are not known and count as probability 0."""

    @property
    def removed(self) -> Float64 | None:
        """[rows] probability of cut tokens at the rows yielded last; None if it is not known."""

    def log_probs(self, chunk: int, window: Sequence[int]) -> Iterator[Float64]:
        """Yield float64 [rows, n_vocab] for positions n_ctx/2, ..., n_ctx - 2 of window `chunk`."""


class LiveReference:
    """The reference model itself, run window by window beside the judged one."""

    floor = -math.inf

    def __init__(self, model: LogitModel) -> None:
        self._model = model
        self.removed: Float64 | None = None

    def log_probs(self, chunk: int, window: Sequence[int]) -> Iterator[Float64]:
        del chunk
        for rows in self._model.window_logits(window[:-1], scored_from(len(window))):
            removed = self._model.removed
            self.removed = np.zeros(len(rows)) if removed is None else removed
            yield log_softmax(rows)


class LogitFile:
    """A file of reference log-probabilities that may still be incomplete.

    Raises:
        BadFileError: not such a file, or of an impossible size.
    """

    floor = -float(REACH)
    removed: Float64 | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            head = file.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            raise self._bad("no reference logits", "a file of llama-perplexity or of ours")
        sizes: tuple[int, int, int] = HEADER.unpack(head)[1:]
        self.n_ctx, self.n_vocab, self.n_chunk = sizes
        size, most = path.stat().st_size, self.data_offset + self.n_chunk * self.chunk_bytes
        if not (2 < self.n_ctx < 1 << 24 and 1 < self.n_vocab < MAX_VOCAB and self.n_chunk > 0):
            raise self._bad("impossible sizes in the header", "sizes above zero")
        if not self.data_offset <= size <= most:
            raise self._bad(f"{size} bytes", f"from {self.data_offset} to {most}")
        self.complete_chunks = (size - self.data_offset) // self.chunk_bytes

    @property
    def rows(self) -> int:
        """Scored positions per window."""
        return self.n_ctx - 1 - scored_from(self.n_ctx)

    @property
    def chunk_bytes(self) -> int:
        return self.rows * row_codes(self.n_vocab) * 2

    @property
    def data_offset(self) -> int:
        return HEADER.size + 4 * self.n_chunk * self.n_ctx

    def tokens(self) -> NDArray[np.int32]:
        """int32 [n_chunk, n_ctx], before the first of each window is replaced by bos."""
        flat = np.fromfile(
            self.path, dtype="<i4", count=self.n_chunk * self.n_ctx, offset=HEADER.size
        )
        return flat.reshape(self.n_chunk, self.n_ctx)

    def require(self, tokens: Sequence[int], n_ctx: int, n_vocab: int) -> None:
        """Raise `MismatchError` unless the file was made of this text, window and vocabulary."""
        wanted = (n_ctx, n_vocab, list(tokens))
        if (self.n_ctx, self.n_vocab, self.tokens().ravel().tolist()) != wanted:
            raise MismatchError(
                "the reference logits are of another text, window or vocabulary",
                where=f"{self.path}: {self.n_chunk} windows of {self.n_ctx}",
                wanted=f"{len(tokens) // n_ctx} windows of {n_ctx}, {n_vocab} tokens in all",
                remedy="delete the file to make it again, or give the text it was made of",
            )

    def log_probs(self, chunk: int, window: Sequence[int]) -> Iterator[Float64]:
        del window
        data = np.memmap(
            self.path, dtype="<u2", mode="r", shape=(self.rows, row_codes(self.n_vocab)),
            offset=self.data_offset + chunk * self.chunk_bytes,
        )  # fmt: skip
        for at in range(0, self.rows, ROWS):
            yield decode_rows(data[at : at + ROWS], self.n_vocab)

    def _bad(self, found: str, wanted: str) -> BadFileError:
        return BadFileError(found, where=self.path, wanted=wanted, remedy="delete it and run again")


def start_file(path: Path, tokens: Sequence[int], n_ctx: int, n_vocab: int) -> None:
    """Write the header and the tokens; log-probabilities are appended window by window."""
    n_chunk = len(tokens) // n_ctx
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, n_ctx, n_vocab, n_chunk))
        file.write(np.asarray(tokens[: n_chunk * n_ctx], dtype="<i4").tobytes())


def append_chunk(path: Path, model: LogitModel, window: Sequence[int]) -> None:
    """Run the reference on one window and append it; durable when this returns."""
    with path.open("ab") as file:
        for rows in model.window_logits(window[:-1], scored_from(len(window))):
            file.write(encode_rows(rows).tobytes())
        file.flush()
        sync_file(file.fileno())


def drop_partial_chunk(path: Path) -> int:
    """Cut off a window that was not finished; the number of whole ones."""
    file = LogitFile(path)
    os.truncate(path, file.data_offset + file.complete_chunks * file.chunk_bytes)
    return file.complete_chunks


def row_codes(n_vocab: int) -> int:
    """16-bit units of one row: two float32 and the codes, padded to an even count."""
    return 2 * ((n_vocab + 1) // 2) + 4


def encode_rows(logits: NDArray[np.float32]) -> NDArray[np.uint16]:
    """[rows, n_vocab] logits as [rows, row_codes] 16-bit units, in llama.cpp's float32 steps."""
    top = logits.max(axis=-1, keepdims=True)
    low = np.maximum(logits.min(axis=-1, keepdims=True), top - REACH)
    total = np.exp(logits - top).astype(np.float64).sum(axis=-1, keepdims=True)
    log_total = np.log(total).astype(np.float32)
    scale = (top - low) / np.float32(65535)
    # All logits equal (or as good as): every code is then 0.
    safe = np.where(scale > SMALLEST_STEP, scale, np.float32(1))
    codes = np.rint((np.float32(1) / safe) * (np.maximum(logits, low) - low))
    out = np.zeros((len(logits), row_codes(logits.shape[1])), dtype="<u2")
    out[:, 0:2] = scale.astype("<f4").view("<u2")
    out[:, 2:4] = (low - top - log_total).astype("<f4").view("<u2")
    out[:, 4 : 4 + logits.shape[1]] = np.clip(codes, 0, 65535).astype("<u2")
    return out


def decode_rows(units: NDArray[np.uint16], n_vocab: int) -> Float64:
    """[rows, row_codes] 16-bit units as [rows, n_vocab] log-probabilities."""
    numbers = np.ascontiguousarray(units[:, :4]).view("<f4").astype(np.float64)
    log_p: Float64 = numbers[:, :1] * units[:, 4 : 4 + n_vocab] + numbers[:, 1:2]
    return log_p
