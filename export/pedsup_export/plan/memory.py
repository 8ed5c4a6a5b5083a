"""How much memory an export takes."""

from __future__ import annotations

from collections.abc import Sequence

from pedsup_export.adapter.folder import Adapter
from pedsup_export.plan.export_plan import TensorPlan


def memory_estimate(tensors: Sequence[TensorPlan], threads: int, adapter: Adapter | None) -> int:
    """Expected peak in bytes beside the mapped input: interpreter, vocabulary, blocks in flight.

    Each thread holds one float32 block, its bytes as they were read, its delta and its packed
    form; as many packed blocks wait for the writer. The adapter is held in float32.
    """
    floats = max(t.rows_per_block * t.slot.shape[0] for t in tensors) * 4
    fixed = 250 << 20
    return fixed + floats * 4 * (threads + 2) + (adapter_bytes(adapter) if adapter else 0)


def adapter_bytes(adapter: Adapter) -> int:
    """Bytes of the adapter's matrices in float32."""
    return sum(d.a.nbytes + d.b.nbytes for d in adapter.deltas.values())
