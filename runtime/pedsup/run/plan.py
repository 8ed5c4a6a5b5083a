"""What is decided before llama.cpp sees a file: trust, memory, threads, context and sampling."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from pedsup.device.cores import (
    Core,
    ThreadPlan,
    allowed_cpus,
    cpu_features,
    plan_threads,
    read_cores,
)
from pedsup.device.storage import read_rate
from pedsup.engine.api import EngineConfig, SamplingConfig
from pedsup.engine.build_probe import engine_build
from pedsup.engine.drafts import draft_config
from pedsup.engine.sampler import recommended_sampling
from pedsup.engine.select import engine_kind, extra_buffers_policy
from pedsup.engine.vector_units import usable
from pedsup.errors import UsageError
from pedsup.files.paths import from_user
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.architecture import require_supported
from pedsup.gguf_file.foreign import unchecked
from pedsup.gguf_file.projector import unchecked_projector
from pedsup.gguf_file.shape import ModelShape, model_shape
from pedsup.gguf_file.validate import validate_drafter, validate_model
from pedsup.memory import Available, Fit, Host, largest_context
from pedsup.memory.estimate import estimate
from pedsup.memory.fit import assess
from pedsup.messages import Message, joined, message
from pedsup.run.sight import NO_ROOM, Sight, find_sight, with_sight
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

DEFAULT_CTX: Final = 8192
"""What a conversation takes when nothing is asked for and it fits."""
FALLBACK_CTX: Final = 2048
"""What the refusal is about when no context fits."""


@dataclass(frozen=True)
class LaunchPlan:
    """Everything decided before llama.cpp sees the file."""

    header: GGUFHeader
    trust: Trust
    shape: ModelShape
    identity: ModelIdentity
    config: EngineConfig
    threads: ThreadPlan
    sampling: SamplingConfig
    fit: Fit
    largest_ctx: int | None
    host: Host
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Where the settings came from that are no defaults."""
    lookup: Lookup = field(default_factory=Lookup)
    """What `pedsup-run tune` left for this model."""
    sight: Sight | None = None
    """The projector that was found, in use or not."""
    governed: bool = False
    """Whether threads are lowered when the device gets hot."""

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
        return NO_ROOM if self.sight is not None and self.config.projector is None else None

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
        origins: which settings were given, and where (None: those that are no default). What was
            not given is taken from what `pedsup-run tune` measured.
        seeing: a picture was given: the projector is needed.

    Raises:
        BadFileError, UnsupportedError: the file is no model that pedsup runs.
        UntrustedError: its signature or manifest is not good, or a required one is missing; or
            that of its adapter.
        UsageError: the context asked for is larger than the model's, or `--draft` makes no sense.
        MismatchError: the draft model or the adapter does not belong to the model.
        MissingDependencyError: `--draft` needs `llama-server`, which is not there.
    """
    header = validate_model(model)
    if settings.strict:
        require_supported(header)
    policy = Policy(require_signature=settings.require_signature, verify=settings.verify)
    adapter = _adapter_path(settings)
    checked = assess_pair(header, adapter, policy)
    identity, trust = checked.identity, checked.trust
    sight = find_sight(header, checked.model, trust, settings, seeing=seeing)
    shape = model_shape(header)
    _check_ctx(settings, shape, model)
    draft = draft_config(settings.draft, settings.draft_max, header)
    features, server = cpu_features(), _uses_server(settings)
    cores = read_cores(allowed_cpus())
    given = given_names(settings) if origins is None else origins
    lookup = look_up(identity.digest, device_digest(cores, features), engine_digest(server=server))
    applied = apply_tuned(settings, given, lookup)
    settings, threads = applied.settings, _threads(cores, applied)
    host = Host(_used_features(features, settings, server=server), server=server)
    config = EngineConfig(
        model=model,
        n_batch=settings.batch,
        n_ubatch=min(settings.ubatch, settings.batch),
        n_threads=threads.n_threads,
        n_threads_batch=settings.threads_batch or threads.n_threads,
        cpus=threads.cpus,
        draft=draft,
        adapter=adapter,
    )
    trust = replace(trust, drafter=_drafter_trust(config.draft.model, policy))
    config = _memory_use(applied, header, config, available, host)
    config = _seeing(config, sight, settings, header, available, host)
    if config.projector is not None and sight is not None:
        trust = replace(trust, projector=sight.trust)
    largest = largest_context(header, config, available, host)
    n_ctx = settings.ctx or min(largest or FALLBACK_CTX, DEFAULT_CTX, shape.n_ctx_train)
    config = replace(config, n_ctx=n_ctx)
    fit = _fit(header, config, available, host)
    if fit.paging is not None and not host.server:
        config = replace(config, resident=fit.paging.resident)
    return LaunchPlan(
        header=header,
        trust=trust,
        shape=shape,
        identity=identity,
        config=config,
        threads=threads,
        sampling=_sampling(header, settings),
        fit=fit,
        largest_ctx=largest,
        host=host,
        origins=applied.origins,
        lookup=applied.lookup,
        sight=sight,
        governed=_governed(settings),
    )


def _seeing(
    config: EngineConfig,
    sight: Sight | None,
    settings: Settings,
    header: GGUFHeader,
    available: Available | None,
    host: Host,
) -> EngineConfig:
    """With the projector; one that nobody asked for must not cost any context."""
    seeing = with_sight(config, sight, settings)
    if sight is None or sight.asked:
        return seeing
    wanted = settings.ctx or DEFAULT_CTX
    alone, both = (
        largest_context(header, one, available, host, at_most=wanted) for one in (config, seeing)
    )
    return seeing if both is not None and both == alone else config


def _adapter_path(settings: Settings) -> Path | None:
    return from_user(settings.adapter) if settings.adapter else None


def _drafter_trust(drafter: Path | None, policy: Policy) -> Trust | None:
    """What is known of a draft model, which llama.cpp reads too; None where there is none.

    Raises:
        UntrustedError: as for a model.
    """
    if drafter is None:
        return None
    header = validate_drafter(drafter)
    return assess_trust(header, identify(header), load_store(), policy)


def _check_ctx(settings: Settings, shape: ModelShape, model: Path) -> None:
    if settings.ctx is not None and settings.ctx > shape.n_ctx_train:
        raise UsageError(
            message("a context of {n} tokens was asked for", n=settings.ctx),
            where=model,
            wanted=message("at most {n}, which the model was trained for", n=shape.n_ctx_train),
            remedy=message("give --ctx {n} or less", n=shape.n_ctx_train),
        )


def _fit(header: GGUFHeader, config: EngineConfig, available: Available | None, host: Host) -> Fit:
    """The fit; the storage is measured (0.3 s) only where the model would run from it."""
    need = estimate(header, config, host)
    fit = assess(need, available, streamed=not host.server)
    if fit.paging is None:
        return fit
    return assess(need, available, streamed=not host.server, rate=read_rate(header.path))


def _uses_server(settings: Settings) -> bool:
    """Which engine the model will run in; the file is not loaded to find out."""
    return engine_kind(settings.engine, drafts=settings.draft != "off") == "server"


def _used_features(features: frozenset[str], settings: Settings, *, server: bool) -> frozenset[str]:
    """The processor's flags that llama.cpp was built for.

    Only repacked copies depend on them; where they are not asked for, the library is not started.
    """
    if settings.extra_buffers != "on":
        return features
    return usable(features, engine_build("server" if server else "inprocess"))


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


def _memory_use(
    applied: Applied,
    header: GGUFHeader,
    config: EngineConfig,
    available: Available | None,
    host: Host,
) -> EngineConfig:
    """Repacked copies and the mapping of the file: what was measured only while memory allows."""
    settings = applied.settings
    config = replace(config, use_mmap=settings.mmap)
    if settings.extra_buffers == "auto":
        return replace(config, extra_buffers=_automatic_buffers(header, config, available))
    config = replace(config, extra_buffers=settings.extra_buffers == "on")
    measured = {n for n in ("extra_buffers", "mmap") if applied.origins.get(n) == "tuned"}
    if not measured or assess(estimate(header, config, host), available).verdict == "fits":
        return config
    return replace(
        config,
        extra_buffers=config.extra_buffers and "extra_buffers" not in measured,
        use_mmap=config.use_mmap or "mmap" in measured,
    )


def _automatic_buffers(
    header: GGUFHeader, config: EngineConfig, available: Available | None
) -> bool:
    policy = extra_buffers_policy(
        platform.machine(),
        weight_bytes=estimate(header, config).weights,
        available_bytes=available.bytes if available else None,
    )
    return policy.enabled


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
