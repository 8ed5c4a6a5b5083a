"""How a model gets into the memory that there is: copies, mapping, projector and context."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from typing import Final

from pedsup.device.storage import read_rate
from pedsup.engine.api import EngineConfig
from pedsup.engine.select import extra_buffers_policy
from pedsup.gguf_file.shape import model_shape
from pedsup.memory import Fit, Room
from pedsup.run.sight import Sight, with_sight
from pedsup.tuning.apply import Applied

DEFAULT_CTX: Final = 8192
"""What a conversation takes when nothing is asked for and it fits."""
FALLBACK_CTX: Final = 2048
"""What the refusal is about when no context fits."""


@dataclass(frozen=True)
class MemoryUse:
    """What was chosen, and how it fits."""

    room: Room
    config: EngineConfig
    fit: Fit
    largest_ctx: int | None


def choose_memory_use(
    room: Room, base: EngineConfig, applied: Applied, sight: Sight | None
) -> MemoryUse:
    """Everything of a configuration that depends on the memory.

    Args:
        base: what does not depend on it.
        sight: the projector that was found.
    """
    settings = applied.settings
    wanted = settings.ctx or DEFAULT_CTX
    alone = replace(_copies(room, base, applied), n_ctx=wanted)
    config = with_sight(alone, sight, settings)
    largest = room.largest_context(config)
    if sight is not None and not sight.asked:
        without = room.largest_context(alone)
        if costs_context(without, largest, wanted):
            config, largest = alone, without
    n_ctx_train = model_shape(room.header).n_ctx_train
    n_ctx = settings.ctx or min(largest or FALLBACK_CTX, DEFAULT_CTX, n_ctx_train)
    config = replace(config, n_ctx=n_ctx)
    fit = room.fit(config)
    if fit.paging is not None:
        # The storage is measured (0.3 s) only where the model would run from it.
        fit = room.fit(config, rate=read_rate(room.header.path))
    if fit.paging is not None and not room.host.server:
        config = replace(config, resident=fit.paging.resident)
    return MemoryUse(room, config, fit, largest)


def costs_context(without: int | None, largest: int | None, wanted: int) -> bool:
    """Whether a projector that nobody asked for leaves less than the context that is wanted.

    Args:
        without: the largest context without it, `largest` with it; None if none fits.
    """
    return largest is None or min(largest, wanted) < min(without or 0, wanted)


def _copies(room: Room, base: EngineConfig, applied: Applied) -> EngineConfig:
    """Repacked copies and the mapping of the file: what was measured only while memory allows."""
    settings = applied.settings
    config = replace(base, use_mmap=settings.mmap)
    if settings.extra_buffers == "auto":
        return replace(config, extra_buffers=_automatic_buffers(room, config))
    config = replace(config, extra_buffers=settings.extra_buffers == "on")
    measured = {n for n in ("extra_buffers", "mmap") if applied.origins.get(n) == "tuned"}
    if not measured or room.fits(config):
        return config
    return replace(
        config,
        extra_buffers=config.extra_buffers and "extra_buffers" not in measured,
        use_mmap=config.use_mmap or "mmap" in measured,
    )


def _automatic_buffers(room: Room, config: EngineConfig) -> bool:
    policy = extra_buffers_policy(
        platform.machine(),
        weight_bytes=room.need(config).weights,
        available_bytes=room.available.bytes if room.available else None,
    )
    return policy.enabled
