"""What a phone's memory and speed leave for weights: the budget of `run --calibrated --phone`."""

from __future__ import annotations

from pedsup.engine.api import EngineConfig
from pedsup.errors import ResourceError
from pedsup.gguf_file.projector import DEFAULT_TOKENS
from pedsup.memory.estimate import Host, estimate
from pedsup.memory.picture import projector_bytes
from pedsup.phones.profiles import Phone
from pedsup.phones.traffic import traffic
from pedsup.progress import human_bytes
from pedsup_export.allocation.budget import Budget
from pedsup_export.phone.advise import DEPTH, efficiency_of
from pedsup_export.phone.models import PhoneModel, planned_header
from pedsup_export.phone.policy import COMFORT, CONTEXT, MIN_SPEED, SMALL_CONTEXT, USUAL
from pedsup_export.phone.sight import planned_projector
from pedsup_export.types.mixture import file_type

BEST = "Q8_0"
"""More than its bytes gain nothing that can be measured."""


def phone_budget(phone: Phone, model: PhoneModel, projector: str | None = None) -> Budget:
    """Bytes of weights that may be read for each token: the policy's rules without its types.

    As much as memory leaves beside a context of `CONTEXT` tokens (`SMALL_CONTEXT` where that leaves
    less than two thirds of Q4_K_M), and no more than decoding at `COMFORT` tokens/s reads at the
    low end of the prediction. What Q4_K_M reads is allowed down to `MIN_SPEED`, as for the types.

    Args:
        projector: type of a projector that must fit beside them with a picture; None for text.

    Raises:
        ResourceError: memory leaves nothing.
    """
    read = _read(model, USUAL)
    sight = projector_memory(model, projector)
    rooms = {n: _room(phone, model, n) - sight for n in (CONTEXT, SMALL_CONTEXT)}
    context = CONTEXT if rooms[CONTEXT] * 3 >= read * 2 else SMALL_CONTEXT
    beside = traffic(planned_header(model, file_type(USUAL))).cache(DEPTH)
    low = phone.bandwidth[0] * efficiency_of(phone)[0]
    quick, slow = (int(low / speed) - beside for speed in (COMFORT, MIN_SPEED))
    patient = max(quick, min(read, slow))
    bounds = {
        f"its memory beside {context} tokens of context"
        + (f" and the projector ({projector})" if sight else ""): rooms[context],
        f"{COMFORT:g} tokens/s" if patient == quick else "what Q4_K_M reads": patient,
        f"what {BEST} reads": _read(model, BEST),
    }
    why, n_bytes = min(bounds.items(), key=lambda item: item[1])
    if n_bytes <= 0:
        raise ResourceError(
            f"{model.name} leaves no room for its weights on {phone.name}",
            wanted=f"more than the {human_bytes(phone.available_bytes)} of memory that it has",
            remedy="take a smaller base: pedsup-export plan --phone lists what fits"
            + ("; --mmproj off leaves the projector out" if sight else ""),
        )
    return Budget(read_bytes=n_bytes, why=f"{phone.id}: {why}")


def projector_memory(model: PhoneModel, kind: str | None) -> int:
    """Bytes of a projector in memory with a picture; 0 without one."""
    found = planned_projector(model, kind) if kind is not None else None
    return projector_bytes(found, DEFAULT_TOKENS) if found is not None else 0


def sees_beside(phone: Phone, model: PhoneModel, budget: Budget, projector: str | None) -> bool:
    """Whether a projector fits beside the weights of a budget, with a small context."""
    room = _room(phone, model, SMALL_CONTEXT) - (budget.read_bytes or 0)
    return projector_memory(model, projector) <= room


def _read(model: PhoneModel, quant: str) -> int:
    """Bytes of weights that decoding reads."""
    return traffic(planned_header(model, file_type(quant))).weights


def _room(phone: Phone, model: PhoneModel, n_ctx: int) -> int:
    """Memory that is left for weights beside everything else, bytes."""
    header = planned_header(model, file_type(USUAL))
    config = EngineConfig(header.path, n_ctx=n_ctx, n_threads=phone.big_cores)
    need = estimate(header, config, Host(phone.features, server=True))
    return phone.available_bytes - (need.total - need.weights)
