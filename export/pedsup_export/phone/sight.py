"""Whether a phone has room for the projector too, and what a picture costs there. Predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from pedsup.device.available import Available
from pedsup.engine.api import EngineConfig
from pedsup.gguf_file.projector import DEFAULT_TOKENS, Projector, projector_of
from pedsup.memory.estimate import Host
from pedsup.memory.fit import Room
from pedsup.memory.picture import projector_bytes
from pedsup.phones.profiles import Phone
from pedsup.progress import human_bytes
from pedsup_export.gguf.header import header_bytes, lay_out, string
from pedsup_export.phone.models import PhoneModel, planned_header, unwritten_header
from pedsup_export.phone.policy import Candidate
from pedsup_export.types.mixture import file_type

USUAL: Final = "BF16"
KINDS: Final = (USUAL, "Q8_0")
"""Types of the projector's matrices that are tried, the exporter's default first."""


@dataclass(frozen=True)
class Sight:
    """What seeing takes on one phone, beside the file that is advised. Bytes and tokens."""

    model: str
    quant: str
    projector_type: str
    file_bytes: int
    """Of the projector, about: the model's name and licence in it are not known yet."""
    memory: int
    """Of its towers, buffers and one picture."""
    picture_tokens: int
    """That a picture takes of the context, at most."""
    audio: bool
    """Whether an audio tower, which pedsup does not use, is a part of the figures."""
    fits: bool
    """Whether the context that was asked for still fits."""
    context: int | None
    """The largest that fits beside all that; None where none does."""


@cache
def planned_projector(model: PhoneModel, kind: str) -> Projector | None:
    """What an export of the model's projector to `kind` would write; None without towers.

    Raises:
        BadFileError: `pedsup-run` would refuse the file.
    """
    towers = model.towers
    if towers is None or not towers.vision:
        return None
    slots = lay_out((t.name, t.ggml_shape, towers.type_of(t, kind)) for t in towers.tensors)
    entries = (string("general.architecture", "clip"), *towers.entries)
    path = Path(f"mmproj-{model.name}-{kind}.gguf")
    return projector_of(unwritten_header(path, entries, slots, len(header_bytes(entries, slots))))


def sight(
    model: PhoneModel,
    candidate: Candidate,
    phone: Phone,
    context: int,
    kinds: Sequence[str] = KINDS,
) -> Sight | None:
    """What seeing takes with a candidate; None where the model sees nothing.

    The first type of `kinds` that leaves a context of `context` tokens, else the one that leaves
    the largest, else the smallest of them.
    """
    found = [s for kind in kinds if (s := _sight(model, candidate, phone, context, kind))]
    fitting = [s for s in found if s.fits]
    return fitting[0] if fitting else max(found, key=_room, default=None)


def _room(found: Sight) -> tuple[int, int]:
    return found.context or 0, -found.memory


def _sight(
    model: PhoneModel, candidate: Candidate, phone: Phone, context: int, kind: str
) -> Sight | None:
    projector = planned_projector(model, kind)
    if projector is None:
        return None
    memory = projector_bytes(projector, DEFAULT_TOKENS)
    header = planned_header(model, file_type(candidate.quant))
    left = Available(max(0, phone.available_bytes - memory), f"the profile {phone.id}")
    config = EngineConfig(header.path, n_threads=phone.big_cores)
    largest = Room(header, left, Host(phone.features, server=True)).largest_context(config)
    return Sight(
        model=candidate.model,
        quant=candidate.quant,
        projector_type=kind,
        file_bytes=projector.header.file_size,
        memory=memory,
        picture_tokens=projector.most_tokens(DEFAULT_TOKENS),
        audio=projector.audio,
        # A model may be trained for less than what is asked for.
        fits=largest is not None and largest >= min(context, candidate.largest_context or context),
        context=largest,
    )


def sight_text(found: Sight | None, phone: Phone, usual: int | None) -> str:
    """A few sentences for people.

    Args:
        usual: tokens of context that `pedsup-run` takes by itself without pictures.
    """
    if found is None:
        return "Pictures: none. This base has no vision tower that can be exported."
    size = (f"the projector ({found.projector_type}, a file of {human_bytes(found.file_bytes)}) "
            f"takes {human_bytes(found.memory)} of memory with one picture")  # fmt: skip
    if found.context is None:
        return (
            f"Pictures do not fit: {size} beside the model, and the phone leaves "
            f"{human_bytes(phone.available_bytes)} for both. For text alone, --mmproj off saves "
            "the file."
        )
    option = "" if found.projector_type == USUAL else f" with --mmproj-type {found.projector_type}"
    verdict = "fit" if found.fits else f"fit only with a context of {found.context} tokens"
    asked = found.context < (usual or 0)
    return (
        f"Pictures {verdict}{option}: {size}, and up to {found.context} tokens of context fit "
        f"beside it. A picture takes up to {found.picture_tokens} of them. How long seeing takes "
        "is not predicted."
        + (" pedsup-run sees only when it is given --image or --mmproj." if asked else "")
    )
