"""From a model file and settings to a loaded model: a plan first, then the loading."""

from __future__ import annotations

import importlib.util
import platform
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pedsup.chat.template import ChatTemplate
from pedsup.chat.turn import TurnSettings
from pedsup.cores import ThreadPlan, allowed_cpus, cpu_features, plan_threads, read_cores
from pedsup.engine.api import Engine, EngineConfig, SamplingConfig
from pedsup.engine.sampler import recommended_sampling
from pedsup.engine.select import extra_buffers_policy, open_engine
from pedsup.errors import UsageError
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.identity import ModelIdentity, identify
from pedsup.memory import Available, Fit, Host, largest_context, require_fit
from pedsup.memory.estimate import estimate
from pedsup.memory.fit import assess
from pedsup.memory.shape import ModelShape, model_shape
from pedsup.memory.storage import read_rate
from pedsup.paths import cache_folder
from pedsup.prefix_cache import ModelIdentity as FileIdentity
from pedsup.prefix_cache import PrefixCache
from pedsup.progress import say
from pedsup.settings import Settings

DEFAULT_CTX: Final = 8192
"""What a conversation takes when nothing is asked for and it fits."""
FALLBACK_CTX: Final = 2048
"""What the refusal is about when no context fits."""


@dataclass(frozen=True)
class LaunchPlan:
    """Everything decided before llama.cpp sees the file."""

    header: GGUFHeader
    shape: ModelShape
    identity: ModelIdentity
    config: EngineConfig
    threads: ThreadPlan
    sampling: SamplingConfig
    fit: Fit
    largest_ctx: int | None
    host: Host


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


def plan_launch(model: Path, settings: Settings, *, available: Available | None) -> LaunchPlan:
    """Read the header and decide threads, context and sampling; nothing is loaded.

    Raises:
        BadFileError, UnsupportedError: the file is no model that pedsup runs.
        UsageError: the context asked for is larger than the model's.
    """
    header = read_header(model)
    shape = model_shape(header)
    _check_ctx(settings, shape, model)
    host = Host(cpu_features(), server=_uses_server(settings))
    threads = plan_threads(read_cores(allowed_cpus()), asked=settings.threads)
    config = EngineConfig(
        model=model,
        n_batch=settings.batch,
        n_ubatch=min(settings.ubatch, settings.batch),
        n_threads=threads.n_threads,
        n_threads_batch=threads.n_threads,
        cpus=threads.cpus,
    )
    extra = _extra_buffers(settings, header, config, available)
    config = replace(config, extra_buffers=extra)
    largest = largest_context(header, config, available, host)
    n_ctx = settings.ctx or min(largest or FALLBACK_CTX, DEFAULT_CTX, shape.n_ctx_train)
    config = replace(config, n_ctx=n_ctx)
    fit = _fit(header, config, available, host)
    if fit.paging is not None and not host.server:
        config = replace(config, resident=fit.paging.resident)
    return LaunchPlan(
        header=header,
        shape=shape,
        identity=identify(header),
        config=config,
        threads=threads,
        sampling=_sampling(header, settings),
        fit=fit,
        largest_ctx=largest,
        host=host,
    )


def load(plan: LaunchPlan, settings: Settings) -> LoadedModel:
    """Load a planned model.

    Raises:
        ResourceError: it does not fit; the remedy names the next smaller option.
        UnsupportedError: it has no chat template, or one that is not known.
        EngineError: llama.cpp cannot load it.
    """
    check_fit(plan, settings)
    if plan.fit.paging is not None:
        say(plan.fit.paging.text)
    source = plan.header.get("tokenizer.chat_template")
    if not isinstance(source, str) or not source:
        # Before the minutes of loading, not after.
        ChatTemplate.from_model(None)
    started = time.monotonic()
    engine = open_engine(plan.config, settings.engine)
    try:
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
    return PrefixCache(cache_folder() / "prefix", plan.config, FileIdentity.of(plan.header))


def _uses_server(settings: Settings) -> bool:
    """Which engine 'auto' will most likely take; the file is not loaded to find out."""
    if settings.engine == "auto":
        return importlib.util.find_spec("llama_cpp") is None
    return settings.engine == "server"


def _extra_buffers(
    settings: Settings, header: GGUFHeader, config: EngineConfig, available: Available | None
) -> bool:
    if settings.extra_buffers != "auto":
        return settings.extra_buffers == "on"
    policy = extra_buffers_policy(
        platform.machine(),
        weight_bytes=estimate(header, config).weights,
        available_bytes=available.bytes if available else None,
    )
    return policy.enabled


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
