"""From a model file and settings to a loaded model: a plan first, then the loading."""

from __future__ import annotations

import platform
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from pedsup.chat.template import ChatTemplate
from pedsup.chat.turn import TurnSettings
from pedsup.cores import Core, ThreadPlan, allowed_cpus, cpu_features, plan_threads, read_cores
from pedsup.engine.api import Engine, EngineConfig, SamplingConfig
from pedsup.engine.sampler import recommended_sampling
from pedsup.engine.select import engine_kind, extra_buffers_policy, open_engine
from pedsup.errors import UsageError
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.validate import validate_drafter, validate_model
from pedsup.governor.engine import Governor, govern
from pedsup.identity import ModelIdentity, identify
from pedsup.intended_use import Language
from pedsup.language import local
from pedsup.memory import Available, Fit, Host, largest_context, require_fit
from pedsup.memory.estimate import depth_share, estimate
from pedsup.memory.fit import assess
from pedsup.memory.shape import ModelShape, model_shape
from pedsup.memory.storage import read_rate
from pedsup.paths import cache_folder
from pedsup.prefix_cache import ModelIdentity as FileIdentity
from pedsup.prefix_cache import PrefixCache
from pedsup.progress import say
from pedsup.render import clean
from pedsup.settings import Origin, Settings, given_names
from pedsup.trust.assess import Policy, Trust, confirm_loaded, verify_weights
from pedsup.trust.assess import assess as assess_trust
from pedsup.trust.store import load_store
from pedsup.tuning.apply import Applied, apply_tuned
from pedsup.tuning.drafts import Memory, with_drafts
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
    governed: bool = False
    """Whether threads are lowered when the device gets hot."""

    @property
    def tuned(self) -> Tuned | None:
        """The measured choice that is valid here."""
        return self.lookup.tuned


@dataclass(frozen=True)
class LoadedModel:
    """A model that answers."""

    engine: Engine
    template: ChatTemplate
    identity: ModelIdentity
    config: EngineConfig
    threads: ThreadPlan
    sampling: SamplingConfig
    load_s: float
    prefix: PrefixCache | None = None
    governor: Governor | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    trust: Trust | None = None
    """None for a model that came by another way than `load`."""

    def lines(self, language: Language) -> list[str]:
        """Which model this is and who vouches for it; said at the start of each session."""
        trust = self.trust.lines(language) if self.trust is not None else []
        identity = [local(line, language) for line in self.identity.lines()]
        return [*identity, *map(clean, trust)]


def plan_launch(
    model: Path,
    settings: Settings,
    *,
    available: Available | None,
    origins: Mapping[str, Origin] | None = None,
) -> LaunchPlan:
    """Check the file and decide threads, context and sampling; nothing is loaded.

    Args:
        origins: which settings were given, and where (None: those that are no default). What was
            not given is taken from what `pedsup-run tune` measured.

    Raises:
        BadFileError, UnsupportedError: the file is no model that pedsup runs.
        UntrustedError: its signature or manifest is not good, or a required one is missing.
        UsageError: the context asked for is larger than the model's, or `--draft` makes no sense.
        MismatchError: the draft model does not belong to the model.
    """
    header = validate_model(model)
    identity = identify(header)
    policy = Policy(require_signature=settings.require_signature, verify=settings.verify)
    trust = assess_trust(header, identity, load_store(), policy)
    shape = model_shape(header)
    _check_ctx(settings, shape, model)
    features, server = cpu_features(), _uses_server(settings)
    host, cores = Host(features, server=server), read_cores(allowed_cpus())
    given = given_names(settings) if origins is None else origins
    lookup = look_up(identity.digest, device_digest(cores, features), engine_digest(server=server))
    applied = apply_tuned(settings, given, lookup)
    settings, threads = applied.settings, _threads(cores, applied)
    config = EngineConfig(
        model=model,
        n_batch=settings.batch,
        n_ubatch=min(settings.ubatch, settings.batch),
        n_threads=threads.n_threads,
        n_threads_batch=settings.threads_batch or threads.n_threads,
        cpus=threads.cpus,
    )
    applied, config = with_drafts(applied, header, config, Memory(host, available))
    trust = replace(trust, drafter=drafter_trust(config.draft.model, policy))
    config = _memory_use(applied, header, config, available, host)
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
        governed=_governed(settings),
    )


def drafter_trust(drafter: Path | None, policy: Policy) -> Trust | None:
    """What is known of a draft model, which llama.cpp reads too; None where there is none.

    Raises:
        UntrustedError: as for a model.
    """
    if drafter is None:
        return None
    header = validate_drafter(drafter)
    return assess_trust(header, identify(header), load_store(), policy)


def load(plan: LaunchPlan, settings: Settings) -> LoadedModel:
    """Load a planned model.

    Raises:
        ResourceError: it does not fit; the remedy names the next smaller option.
        UnsupportedError: it has no chat template, or one that is not known.
        UntrustedError: its bytes are not those that were signed or exported.
        EngineError: llama.cpp cannot load it.
    """
    check_fit(plan, settings)
    if plan.fit.paging is not None:
        say(plan.fit.paging.text)
    if plan.lookup.dropped and settings.tuned:
        say(f"what tune measured is used without its draft: {plan.lookup.dropped}")
    source = plan.header.get("tokenizer.chat_template")
    if not isinstance(source, str) or not source:
        # Before the minutes of loading, not after.
        ChatTemplate.from_model(None)
    trust = verify_weights(plan.trust)
    confirm_loaded(trust)  # a file with nothing to compare may have been replaced since the plan
    started = time.monotonic()
    engine = open_engine(plan.config, settings.engine)
    governor = None
    if plan.governed and plan.config.n_threads > 1:
        drafts = plan.config.draft.kind != "off"
        engine = govern(engine, plan.config.n_threads, depth_share(plan.header), drafts=drafts)
        governor = engine.governor
    try:
        confirm_loaded(trust)
        template = ChatTemplate.from_engine(engine, allow_unknown=settings.allow_template)
    except BaseException:
        engine.close()
        raise
    return LoadedModel(
        engine=engine,
        template=template,
        identity=plan.identity,
        config=plan.config,
        threads=plan.threads,
        sampling=plan.sampling,
        load_s=time.monotonic() - started,
        prefix=_prefix_cache(plan, settings),
        governor=governor,
        origins=plan.origins,
        trust=trust,
    )


def check_fit(plan: LaunchPlan, settings: Settings) -> None:
    """Refuse a model that does not fit and that may not run from storage.

    Raises:
        ResourceError: the remedy names the next smaller option.
    """
    require_fit(
        plan.header,
        plan.config,
        plan.fit.available,
        plan.host,
        allow_paging=settings.allow_paging,
        rate=plan.fit.paging.rate if plan.fit.paging else None,
    )


def turn_settings(
    loaded: LoadedModel,
    settings: Settings,
    *,
    grammar: str | None = None,
    json_schema: str | None = None,
) -> TurnSettings:
    """How each turn is generated."""
    return TurnSettings(
        sampling=loaded.sampling,
        think=settings.think != "off" and loaded.template.supports_thinking,
        think_budget=settings.think_budget,
        max_tokens=settings.max_tokens,
        grammar=grammar,
        json_schema=json_schema,
    )


def _check_ctx(settings: Settings, shape: ModelShape, model: Path) -> None:
    if settings.ctx is not None and settings.ctx > shape.n_ctx_train:
        raise UsageError(
            f"a context of {settings.ctx} tokens was asked for",
            where=model,
            wanted=f"at most {shape.n_ctx_train}, which the model was trained for",
            remedy=f"give --ctx {shape.n_ctx_train} or less",
        )


def _fit(header: GGUFHeader, config: EngineConfig, available: Available | None, host: Host) -> Fit:
    """The fit; the storage is measured (0.3 s) only where the model would run from it."""
    need = estimate(header, config, host)
    fit = assess(need, available, streamed=not host.server)
    if fit.paging is None:
        return fit
    return assess(need, available, streamed=not host.server, rate=read_rate(header.path))


def _prefix_cache(plan: LaunchPlan, settings: Settings) -> PrefixCache | None:
    """What must leave no trace leaves none here either."""
    if not (settings.cache and settings.history):
        return None
    identity = FileIdentity.of(plan.header, plan.identity.digest)
    return PrefixCache(cache_folder() / "prefix", plan.config, identity)


def _uses_server(settings: Settings) -> bool:
    """Which engine the model will run in; the file is not loaded to find out."""
    return engine_kind(settings.engine) == "server"


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
