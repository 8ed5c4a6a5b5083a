"""How the examples of an optimizer step are shared out over forward passes.

A step has `batch_size x accumulation` examples, and the loss is their mean over target tokens. So
the gradient does not depend on how many of them one forward pass takes; its time does. A pass of
four examples of an E4B waits for Python, which starts 20,000 kernels for it, as for sixteen. On a
GPU the passes of a step are therefore merged as far as its memory goes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pedsup.optional import require
from pedsup_train.data.render import Rendered
from pedsup_train.model.backends import Runtime
from pedsup_train.model.sharding import is_sharded
from pedsup_train.recipe.schema import Recipe
from pedsup_train.run.memory import CONTEXT, Batch, Estimate, estimate


@dataclass(frozen=True)
class Split:
    """One step of one process: `passes` forward passes of `batch_size` examples."""

    batch_size: int
    passes: int

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with its step split in this way."""
        train = replace(recipe.train, batch_size=self.batch_size, accumulation=self.passes)
        return replace(recipe, train=train)


def predict(
    recipe: Recipe, runtime: Runtime, config: Any, examples: Sequence[Rendered]
) -> Estimate:
    """The peak for the examples that need most: the longest, padded to the longest of them."""
    by_length = sorted(examples, key=lambda item: len(item.input_ids), reverse=True)
    longest = by_length[: recipe.train.batch_size]
    answers = sum(len(item.input_ids) - item.n_prompt for item in longest)
    batch = Batch(len(longest), len(longest[0].input_ids), answers)
    return estimate(recipe, runtime, config, batch)


def choose_split(
    recipe: Recipe, runtime: Runtime, config: Any, examples: Sequence[Rendered], room: int | None
) -> Split:
    """The policy: as few passes as `room` holds, by the predicted peak.

    The recipe's own split stays where there is nothing to gain or the prediction does not hold:
    without a GPU, under FSDP, with `train.merge_batches` off, in float32, with eager attention, for
    a base with parts that are not counted, and with unsloth for any base but a Gemma 4.

    Args:
        config: of the base, as transformers reads it.
        room: bytes that this process may take of its GPU, the CUDA context included; None: no GPU.
    """
    train, model = recipe.train, recipe.model
    own = Split(train.batch_size, train.accumulation)
    known = (
        model.dtype != "float32"
        and model.attention != "eager"
        and (runtime.backend != "unsloth" or "gemma4" in config.model_type)
    )
    if room is None or not train.merge_batches or is_sharded() or not known:
        return own
    for passes in (n for n in range(1, own.passes) if own.passes % n == 0):
        split = Split(own.batch_size * own.passes // passes, passes)
        found = predict(split.applied(recipe), runtime, config, examples)
        if found.uncounted:
            return own
        if found.needed <= room:
            return split
    return own


def room_here(runtime: Runtime, processes: int) -> int | None:
    """Bytes of the GPU for this process; None without one.

    Of several processes each takes the smallest card as a whole: all must split a step alike, and
    what is free changes while the others start. None for those of several hosts, which do not see
    each other's cards.
    """
    torch = require("torch", extra="train")
    if runtime.device != "cuda" or processes > int(os.environ.get("LOCAL_WORLD_SIZE", processes)):
        return None
    if processes > 1:
        count = range(torch.cuda.device_count())
        return min(int(torch.cuda.get_device_properties(i).total_memory) for i in count)
    # The context is there by the time this is measured, and the prediction counts it too.
    return int(torch.cuda.mem_get_info()[0]) + CONTEXT
