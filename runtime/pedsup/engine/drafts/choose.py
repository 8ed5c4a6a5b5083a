"""Who drafts for a model, as the configuration says."""

from __future__ import annotations

from typing import Any

from pedsup.engine.api import EngineConfig
from pedsup.engine.drafts.api import Drafter
from pedsup.engine.drafts.lookup import PromptLookup
from pedsup.engine.drafts.verify import Verifier
from pedsup.engine.kv_cache import KVCache


def make_verifier(lib: Any, model: Any, ctx: Any, cache: KVCache, config: EngineConfig) -> Verifier:
    drafter: Drafter = PromptLookup()
    return Verifier(lib, ctx, cache, drafter, min(config.draft.n_max, config.n_ubatch - 1))
