"""From a launch plan to a loaded model that answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from pedsup.chat.events import TurnSettings
from pedsup.chat.templates.template import ChatTemplate
from pedsup.crash.marker import RunMarker
from pedsup.device.cores import ThreadPlan
from pedsup.engine.api import Engine, EngineConfig, SamplingConfig
from pedsup.engine.proxy import checked, passed_on
from pedsup.engine.select import open_engine
from pedsup.files.paths import cache_folder
from pedsup.governor.engine import Governor, govern
from pedsup.memory.estimate import depth_share
from pedsup.messages import Message, message
from pedsup.progress import say
from pedsup.run.plan import LaunchPlan
from pedsup.session.conversation import Conversation, View
from pedsup.session.history import Session
from pedsup.session.prefix_cache import PrefixCache, StateKey
from pedsup.settings.load import Origin
from pedsup.settings.schema import Settings
from pedsup.texts.safe import clean
from pedsup.trust.assess import confirm_loaded, verify_weights, watch
from pedsup.trust.identity import ModelIdentity
from pedsup.trust.verdict import Trust


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
    """None for a model that was not loaded by `load`."""

    def conversation(
        self,
        session: Session,
        view: View,
        *,
        traceless: bool = False,
        marker: RunMarker | None = None,
        warm_for: tuple[str, bool] | None = None,
    ) -> Conversation[View]:
        """A conversation with the model; a traceless one keeps no system prompt on the disk."""
        prefix = None if traceless else self.prefix
        return Conversation(
            self.engine, self.template, session, view, prefix, marker, self.governor,
            warm_for=warm_for,
        )  # fmt: skip

    def lines(self) -> list[Message]:
        """Which model this is and who vouches for it; said at the start of each session."""
        trust = self.trust.lines() if self.trust is not None else []
        return [*self.identity.lines(), *(line.mapped(clean) for line in trust)]


def load(plan: LaunchPlan, settings: Settings) -> LoadedModel:
    """Load a planned model.

    Raises:
        ResourceError: it does not fit; the remedy names the next smaller option.
        UnsupportedError: it has no chat template, or one that is not known.
        UntrustedError: its bytes are not those that were signed or exported.
        EngineError: llama.cpp cannot load it.
    """
    check_fit(plan, settings)
    _say_what_to_expect(plan)
    allow = settings.allow_template
    with ExitStack() as opened:
        # Before the minutes of loading, where the file says enough.
        if (template := ChatTemplate.from_header(plan.header, allow_unknown=allow)) is not None:
            opened.callback(template.close)
        trust = _verified(plan)
        started = time.monotonic()
        engine, governor = _governed(open_engine(plan.config, settings.engine), plan)
        opened.callback(engine.close)
        confirm_loaded(trust)
        template = template or ChatTemplate.from_engine(engine, allow_unknown=allow)
        engine = _watched(engine, trust)
        opened.pop_all()
    if engine.build is not None and (warning := engine.build.warning()):
        say(warning)
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


def _verified(plan: LaunchPlan) -> Trust:
    trust = verify_weights(plan.trust)
    confirm_loaded(trust)  # a file with nothing to compare may have been replaced since the plan
    return trust


def _say_what_to_expect(plan: LaunchPlan) -> None:
    if plan.unchecked is not None:
        say(plan.unchecked.mapped(clean))
    if plan.fit.paging is not None:
        say(plan.fit.paging.text)


def check_template(plan: LaunchPlan, settings: Settings) -> None:
    """Refuse a chat template that `load` would refuse, where the file says enough.

    Raises:
        UnsupportedError: there is none, or one that is not known.
        BadFileError: it is not a valid template.
    """
    found = ChatTemplate.from_header(plan.header, allow_unknown=settings.allow_template)
    if found is not None:
        found.close()


def check_fit(plan: LaunchPlan, settings: Settings) -> None:
    """Refuse a model that does not fit and that may not run from storage.

    Raises:
        ResourceError: the remedy names the next smaller option.
    """
    rate = plan.fit.paging.rate if plan.fit.paging else None
    plan.room.require(plan.config, allow_paging=settings.allow_paging, rate=rate)


def turn_settings(
    loaded: LoadedModel,
    settings: Settings,
    *,
    grammar: str | None = None,
    json_schema: str | None = None,
) -> TurnSettings:
    return TurnSettings(
        sampling=loaded.sampling,
        think=settings.think != "off" and loaded.template.supports_thinking,
        think_budget=settings.think_budget,
        max_tokens=settings.max_tokens,
        grammar=grammar,
        json_schema=json_schema,
    )


def _governed(engine: Engine, plan: LaunchPlan) -> tuple[Engine, Governor | None]:
    """The engine, under a governor where the plan wants one."""
    if not plan.governed or plan.config.n_threads == 1:
        return engine, None
    drafts = plan.config.draft.kind != "off"
    return govern(engine, plan.config.n_threads, depth_share(plan.header), drafts=drafts)


def _watched(engine: Engine, trust: Trust) -> Engine:
    """The engine, which ends when a byte of the model turns out to be another one."""
    watches = watch(
        trust, lambda error: say(message("warning: {what}: this session ends", what=error.found))
    )
    if not watches:
        return engine

    def check() -> None:
        for one in watches:
            one.require_unchanged()

    def close() -> None:
        for one in watches:
            one.close()

    return passed_on(engine, checked(check), close)


def _prefix_cache(plan: LaunchPlan, settings: Settings) -> PrefixCache | None:
    """The cache of the system prompt; None if the session must leave no trace."""
    if not (settings.cache and settings.history):
        return None
    key = StateKey.of(plan.header, plan.identity.digest)
    return PrefixCache(cache_folder() / "prefix", plan.config, key)
