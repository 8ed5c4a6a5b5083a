"""One pass over all tensors: blocks of rows are made on several threads, written in order.

At most `threads + 3` blocks exist at once, so memory does not grow with the model. Workers
read, merge and quantize (numpy and ggml release the interpreter lock); the calling thread
writes and hashes. A journal beside the partial file names every tensor that is complete, with
its SHA-256, so that a killed export goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pedsup.direct_io import DirectFile, sha256_range
from pedsup.optional import require
from pedsup_export.gguf_out import header_bytes, padded
from pedsup_export.plan import ExportPlan, Inputs, TensorPlan
from pedsup_export.quantize import quantize_rows
from pedsup_export.rows import blocks, final_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Advance = Callable[[int], object]


@dataclass
class Journal:
    """The record of complete tensors, one JSON line each, after a line with the plan's digest."""

    path: Path

    def read(self, plan_digest: str) -> dict[str, str]:
        """Name -> SHA-256 of the tensors that were complete; {} for another plan or none."""
        if not self.path.is_file():
            return {}
        done: dict[str, str] = {}
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
            if json.loads(lines[0]) != {"plan": plan_digest}:
                return {}
            for line in lines[1:-1]:  # what follows the last newline was torn by the kill
                entry = json.loads(line)
                done[entry["tensor"]] = entry["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}
        return done

    def start(self, plan_digest: str) -> None:
        """Begin anew."""
        self.path.write_text(json.dumps({"plan": plan_digest}) + "\n", encoding="utf-8")

    def add(self, tensor: str, sha256: str) -> None:
        """Record a tensor whose bytes were handed to the system."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"tensor": tensor, "sha256": sha256}) + "\n")


def stream(
    plan: ExportPlan, inputs: Inputs, file: BinaryIO, journal: Journal, advance: Advance
) -> dict[str, str]:
    """Write header and tensors to `file`; SHA-256 of each tensor's bytes, by name.

    Args:
        file: open for reading and writing, locked by the caller.
        advance: told how many output bytes were finished.
    """
    header = header_bytes(plan.metadata, plan.slots)
    done = _resume(plan, file, journal, len(header))
    if not done:
        file.truncate(0)
        journal.start(plan.digest)
        file.seek(0)
        file.write(header)
    advance(sum(t.slot.n_bytes for t in plan.tensors[: len(done)]))
    todo = plan.tensors[len(done) :]
    if todo:
        file.seek(len(header) + todo[0].slot.offset)
        file.truncate()
    blas = require("threadpoolctl", extra="export").threadpool_limits(1, user_api="blas")
    # One worker more than cores: while one waits for the disk the others compute. Each multiplies
    # on its own, so BLAS must not start threads too.
    workers = plan.request.threads + 1
    with blas, ThreadPoolExecutor(workers, thread_name_prefix="quantize") as pool:
        made = _in_order(pool, plan, inputs, todo)
        for tensor in todo:
            done[tensor.slot.name] = _write_tensor(file, tensor, made, advance)
            file.flush()
            journal.add(tensor.slot.name, done[tensor.slot.name])
    file.truncate(len(header) + plan.slots[-1].offset + plan.slots[-1].n_bytes)
    return done


def _resume(plan: ExportPlan, file: BinaryIO, journal: Journal, start: int) -> dict[str, str]:
    """The leading tensors whose bytes in the partial file still have the recorded digest."""
    recorded = journal.read(plan.digest)
    size = os.fstat(file.fileno()).st_size
    partial, kept = DirectFile(Path(file.name)), dict[str, str]()
    for slot in plan.slots:
        expected = recorded.get(slot.name)
        if expected is None or start + slot.offset + slot.n_bytes > size:
            break
        if sha256_range(partial, start + slot.offset, slot.n_bytes) != expected:
            break
        kept[slot.name] = expected
    return kept


def _in_order(
    pool: ThreadPoolExecutor, plan: ExportPlan, inputs: Inputs, todo: tuple[TensorPlan, ...]
) -> Iterator[NDArray[np.uint8]]:
    """Packed blocks of all tensors in file order, a few of them under way at any time."""

    def make(tensor: TensorPlan, lo: int, hi: int) -> NDArray[np.uint8]:
        rows = final_rows(tensor, inputs, lo, hi, plan.request.merge_dtype)
        if inputs.calibrated is not None:
            slot = tensor.slot
            return inputs.calibrated.pack(rows, slot.type, slot.name, lo, tensor.n_rows)
        importance = None
        if inputs.imatrix is not None:
            importance = inputs.imatrix.for_tensor(tensor.slot.name, tensor.slot.shape)
        # A message counts rows from the block's first one.
        name = tensor.slot.name if lo == 0 else f"{tensor.slot.name} from row {lo} on"
        return quantize_rows(rows, tensor.slot.type, importance, name=name)

    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    try:
        for tensor in todo:
            for lo, hi in blocks(tensor):
                waiting.append(pool.submit(make, tensor, lo, hi))
                if len(waiting) > plan.request.threads + 2:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _write_tensor(
    file: BinaryIO, tensor: TensorPlan, made: Iterator[NDArray[np.uint8]], advance: Advance
) -> str:
    digest = hashlib.sha256()
    for _ in blocks(tensor):
        packed = next(made).data.cast("B")
        file.write(packed)
        digest.update(packed)
        advance(len(packed))
    file.write(b"\0" * (padded(tensor.slot.n_bytes) - tensor.slot.n_bytes))
    return digest.hexdigest()
