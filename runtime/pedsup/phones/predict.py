"""What a file would do on a phone: speed from bytes over bandwidth, fit from the estimate.

    tokens/s = efficiency * bandwidth / bytes read per token

Decoding is bound by memory; reading a prompt is bound by arithmetic, of which the profiles hold no
sourced figure, so it is not predicted. A prediction is a range and is always called one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from pedsup.device.available import Available
from pedsup.engine.api import EngineConfig
from pedsup.gguf_file import GGUFHeader
from pedsup.memory import Host, Room
from pedsup.phones.profiles import Phone
from pedsup.phones.traffic import traffic

EFFICIENCY: Final = (0.4, 0.8)
"""Share of the memory bandwidth that decoding reaches: an assumption, not measured on a phone."""


@dataclass(frozen=True)
class Prediction:
    """Predicted, never measured. Speeds in tokens/s as (low, high), sizes in bytes."""

    phone: str
    model: str
    n_ctx: int
    depth: int
    bytes_per_token: int
    ceiling: tuple[float, float]
    """At the low and the high end of the bandwidth."""
    decode: tuple[float, float]
    efficiency: tuple[float, float]
    verdict: str
    """'fits', 'pages' (works from storage, slowly) or 'refused'."""
    memory_needed: int
    memory_available: int
    largest_n_ctx: int | None
    paging_decode: float | None
    """Ceiling in tokens/s while weights are read again from storage for each token."""
    cold_load_s: float
    """Reading the weights once from storage."""

    def to_json(self) -> dict[str, object]:
        return {"measured": False, **asdict(self)}


def predict(
    header: GGUFHeader,
    phone: Phone,
    *,
    n_ctx: int = 4096,
    depth: int = 512,
    efficiency: tuple[float, float] = EFFICIENCY,
) -> Prediction:
    """Predict decoding at `depth` tokens and the fit of a context of `n_ctx` tokens."""
    per_token = traffic(header).decode(depth)
    low, high = phone.bandwidth
    ceiling = low / per_token, high / per_token
    config = EngineConfig(header.path, n_ctx=n_ctx, n_threads=phone.big_cores)
    available = Available(phone.available_bytes, f"the profile {phone.id}")
    # On a phone llama.cpp runs as Termux's llama-server, in a process of its own.
    room = Room(header, available, Host(phone.features, server=True))
    fit = room.fit(config, rate=phone.storage_bytes_per_s)
    return Prediction(
        phone=phone.id,
        model=header.path.name,
        n_ctx=n_ctx,
        depth=depth,
        bytes_per_token=per_token,
        ceiling=ceiling,
        decode=(ceiling[0] * efficiency[0], ceiling[1] * efficiency[1]),
        efficiency=efficiency,
        verdict=fit.verdict,
        memory_needed=fit.need.total,
        memory_available=phone.available_bytes,
        largest_n_ctx=room.largest_context(config),
        paging_decode=fit.paging.speed if fit.paging is not None else None,
        cold_load_s=fit.need.weights / phone.storage_bytes_per_s,
    )
