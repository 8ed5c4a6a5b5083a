"""Who drafts for a model, as the configuration says."""

from __future__ import annotations

from pedsup.engine.api import EngineConfig
from pedsup.engine.drafts.api import Drafter
from pedsup.engine.drafts.assistant import AssistantDrafter
from pedsup.engine.drafts.fit import require_drafter
from pedsup.engine.drafts.lookup import PromptLookup
from pedsup.engine.drafts.model import ModelDrafter
from pedsup.engine.drafts.verify import Verifier
from pedsup.engine.kv_cache import KVCache
from pedsup.engine.native import Native
from pedsup.errors import UsageError
from pedsup.gguf_file.rules import ASSISTANT
from pedsup.gguf_file.validate import validate_drafter, validate_model


def make_verifier(target: Native, cache: KVCache, config: EngineConfig) -> Verifier:
    """The decoding loop for a loaded model with the drafter asked for.

    Raises:
        UsageError: the kind 'model' without a file.
        MismatchError: the draft model does not belong to the model.
        EngineError: llama.cpp cannot load it.
    """
    # A draft and the token before it are one compute step: see KVCache.drop_unnoted.
    n_max = min(config.draft.n_max, min(config.n_ubatch, config.n_batch) - 1)
    return Verifier(target, cache, make_drafter(target, config), n_max)


def make_drafter(target: Native, config: EngineConfig) -> Drafter:
    """The drafter of a configuration; the draft model is loaded."""
    if config.draft.kind == "lookup":
        return PromptLookup()
    path = config.draft.model
    if path is None:
        raise UsageError("no draft model was given", wanted="a GGUF", remedy="--draft lookup")
    header = validate_drafter(path)
    require_drafter(validate_model(config.model), header)
    if header.architecture == ASSISTANT:
        return AssistantDrafter(target, path, config)
    return ModelDrafter(target, path, config)
