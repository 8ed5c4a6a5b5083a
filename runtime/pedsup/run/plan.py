"""What is decided before llama.cpp sees a file: trust, memory, threads, context and sampling."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pedsup.device.cores import (
    Core,
    ThreadPlan,
    allowed_cpus,
    cpu_features,
    plan_threads,
    read_cores,
)
from pedsup.engine.api import DraftConfig, EngineConfig, SamplingConfig
from pedsup.engine.build_probe import engine_build, library_sees
from pedsup.engine.drafts import draft_config
from pedsup.engine.limits import check_context
from pedsup.engine.llama_cpp.mtmd import CANNOT_SEE
from pedsup.engine.sampler import recommended_sampling
from pedsup.engine.select import EngineKind, engine_kind
from pedsup.engine.vector_units import usable
from pedsup.files.paths import from_user
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.architecture import require_supported
from pedsup.gguf_file.foreign import unchecked
from pedsup.gguf_file.projector import unchecked_projector
from pedsup.gguf_file.shape import ModelShape, model_shape
from pedsup.gguf_file.validate import validate_model, validate_model_or_drafter
from pedsup.memory import Available, Host, Room
from pedsup.messages import Message, joined
from pedsup.run.memory_use import MemoryUse, choose_memory_use
from pedsup.run.sight import NO_ROOM, Sight, find_sight
from pedsup.settings.load import Origin, given_names
from pedsup.settings.schema import Settings
from pedsup.trust.assess import Policy
from pedsup.trust.assess import assess as assess_trust
from pedsup.trust.identity import ModelIdentity, identify
from pedsup.trust.pair import assess_pair
from pedsup.trust.store import load_store
from pedsup.trust.verdict import Trust
from pedsup.tuning.apply import Applied, apply_tuned
from pedsup.tuning.fingerprint import device_digest, engine_digest
from pedsup.tuning.store import Lookup, Tuned, look_up


@dataclass(frozen=True)
class LaunchPlan(MemoryUse):
    """Everything decided before llama.cpp sees the file."""

    trust: Trust
    shape: ModelShape
    identity: ModelIdentity
    threads: ThreadPlan
    sampling: SamplingConfig
    origins: Mapping[str, Origin]
    """Where the settings came from that are not defaults."""
    lookup: Lookup
    """What `pedsup-run tune` left for this model."""
    sight: Sight | None
    """The projector that was found, in use or not."""
    governed: bool
    """Whether threads are lowered when the device gets hot."""

    @property
    def header(self) -> GGUFHeader:
        return self.room.header

    @property
    def unchecked(self) -> Message | None:
        """What nobody checked of a model, or of a projector, of a kind that is not known."""
        found = [unchecked(self.header)]
        if self.sight is not None and self.config.projector is not None:
            found.append(unchecked_projector(self.sight.projector))
        said = [line for line in found if line is not None]
        return joined("\n", said) if said else None

    @property
    def blind(self) -> Message | None:
        """Why the model does not see although it has a projector."""
        if self.sight is None:
            return None
        if self.config.projector is None:
            return NO_ROOM
        return None if self.room.host.server or library_sees() else CANNOT_SEE

    @property
    def tuned(self) -> Tuned | None:
        """The measured choice that is valid here."""
        return self.lookup.tuned


def plan_launch(
    model: Path,
    settings: Settings,
    *,
    available: Available | None,
    origins: Mapping[str, Origin] | None = None,
    seeing: bool = False,
) -> LaunchPlan:
    """Check the file and decide threads, context and sampling; nothing is loaded.

    Args:
        origins: which settings were given, and where (None: those that differ from the default).
            The others are taken from what `pedsup-run tune` measured.
        seeing: a picture was given, so the projector is needed.

    Raises:
        BadFileError, UnsupportedError: the file is not a model that pedsup runs.
        UntrustedError: its signature or manifest is not good, or a required one is missing; or
            that of its adapter.
        UsageError: the context asked for is larger than the model's, or `--draft` makes no sense.
        MismatchError: the draft model or the adapter does not belong to the model.
        MissingDependencyError: `--draft` needs `llama-server`, which is not there.
    """
    files = _checked_files(model, settings, seeing=seeing)
    given = given_names(settings) if origins is None else origins
    device = _device(settings, given, files.identity)
    room = Room(files.header, available, device.host)
    use = choose_memory_use(room, _base_config(files, device), device.applied, files.sight)
    return _launch(files, device, use)


@dataclass(frozen=True)
class _Files:
    """The files of a launch, checked, and what they are."""

    header: GGUFHeader
    shape: ModelShape
    identity: ModelIdentity
    trust: Trust
    draft: DraftConfig
    adapter: Path | None
    sight: Sight | None

    def trust_of(self, config: EngineConfig) -> Trust:
        """The trust in what is loaded: a projector that was left out does not count."""
        if self.sight is None or config.projector is None:
            return self.trust
        return self.trust.beside("projector", self.sight.trust)


def _checked_files(model: Path, settings: Settings, *, seeing: bool) -> _Files:
    header = validate_model(model)
    if settings.strict:
        require_supported(header)
    policy = Policy(require_signature=settings.require_signature, verify=settings.verify)
    adapter = from_user(settings.adapter) if settings.adapter else None
    checked = assess_pair(header, adapter, policy)
    sight = find_sight(header, checked.model, checked.trust, settings, seeing=seeing)
    shape = model_shape(header)
    if settings.ctx is not None:
        check_context(settings.ctx, shape.n_ctx_train, model)
    draft = draft_config(settings.draft, settings.draft_max, header)
    trust = checked.trust
    if draft.model is not None:
        trust = trust.beside("drafter", _drafter_trust(draft.model, policy))
    return _Files(header, shape, checked.identity, trust, draft, adapter, sight)


@dataclass(frozen=True)
class _Device:
    """What the device is, and the settings with what was measured on it."""

    host: Host
    applied: Applied
    threads: ThreadPlan


def _device(settings: Settings, given: Mapping[str, Origin], identity: ModelIdentity) -> _Device:
    features, kind = cpu_features(), engine_kind(settings.engine, drafts=settings.draft != "off")
    server = kind == "server"
    cores = read_cores(allowed_cpus())
    lookup = look_up(identity.digest, device_digest(cores, features), engine_digest(server=server))
    applied = apply_tuned(settings, given, lookup)
    used = _used_features(features, applied.settings, kind)
    return _Device(Host(used, server=server), applied, _threads(cores, applied))


def _base_config(files: _Files, device: _Device) -> EngineConfig:
    """What does not depend on the memory."""
    settings, threads = device.applied.settings, device.threads
    return EngineConfig(
        model=files.header.path,
        n_batch=settings.batch,
        n_ubatch=min(settings.ubatch, settings.batch),
        n_threads=threads.n_threads,
        n_threads_batch=settings.threads_batch or threads.n_threads,
        cpus=threads.cpus,
        draft=files.draft,
        adapter=files.adapter,
    )


def _launch(files: _Files, device: _Device, use: MemoryUse) -> LaunchPlan:
    applied = device.applied
    return LaunchPlan(
        **vars(use),
        trust=files.trust_of(use.config),
        shape=files.shape,
        identity=files.identity,
        threads=device.threads,
        sampling=_sampling(files.header, applied.settings),
        origins=applied.origins,
        lookup=applied.lookup,
        sight=files.sight,
        governed=_governed(applied.settings),
    )


def _drafter_trust(drafter: Path, policy: Policy) -> Trust:
    """What is known of a draft model, which llama.cpp reads too. Raises as for a model."""
    header = validate_model_or_drafter(drafter)
    return assess_trust(header, identify(header), load_store(), policy)


def _used_features(
    features: frozenset[str], settings: Settings, kind: EngineKind
) -> frozenset[str]:
    """The processor's flags that llama.cpp was built for.

    Only repacked copies depend on them; where they are not asked for, the library is not started.
    """
    if settings.extra_buffers != "on":
        return features
    return usable(features, engine_build(kind))


def _threads(cores: tuple[Core, ...], applied: Applied) -> ThreadPlan:
    """Given, measured or planned; the affinity mask follows `pin`."""
    settings = applied.settings
    planned = plan_threads(cores)
    if settings.threads is None:
        return planned if settings.pin != "off" else replace(planned, cpus=None)
    evidence: Literal["tuned", "asked for"] = (
        "tuned" if applied.origins.get("threads") == "tuned" else "asked for"
    )
    return ThreadPlan(settings.threads, planned.cpus if settings.pin == "on" else None, evidence)


def _governed(settings: Settings) -> bool:
    """Phones and tablets: a laptop has a fan, and clocks that rise and fall by themselves."""
    arm = platform.machine().lower().startswith(("aarch64", "arm"))
    return settings.governor == "on" or (settings.governor == "auto" and arm)


def _sampling(header: GGUFHeader, settings: Settings) -> SamplingConfig:
    """The model's own recommendation under what the user asked for."""
    sampling = recommended_sampling(header)
    given = {
        "temperature": settings.temp,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        # A random seed is drawn here, once, so that it can be told and used again.
        "seed": secrets.randbits(31) if settings.seed is None else settings.seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(sampling, **changes)  # type: ignore[arg-type]
