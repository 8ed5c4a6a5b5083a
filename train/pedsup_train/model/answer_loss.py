"""The loss of the answers, without the logits of the whole batch.

A causal model computes logits for all tokens before it takes their loss. With Gemma 4's vocabulary
of 262,144, a batch of 4 x 755 tokens has 3 GiB of them in float32, several times over. Only
answers have a loss. So logits are computed for the tokens of the answers, a few hundred at a time,
and again in the backward pass (torch's own checkpointing): the same values, in a tenth of the
memory.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from pedsup.optional import require
from pedsup_train.data.render import IGNORE

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithPast

CHUNK_BYTES: Final = 1 << 28
"""Of float32 logits at a time: 256 tokens of Gemma 4's vocabulary."""


def use_answer_loss(model: PreTrainedModel) -> None:
    """Let `model(..., labels=...)` return the loss alone, computed in pieces.

    Calls without labels are left as they are. `probe.check_loss` compares the two.

    Args:
        model: a causal language model of transformers, with a body `model` and an output head.
    """
    original, body = model.forward, model.model
    head = model.get_output_embeddings()
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    output = require("transformers.modeling_outputs", extra="train").CausalLMOutputWithPast

    @functools.wraps(original)
    def forward(
        *args: object,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        if labels is None:
            return original(*args, **kwargs)
        hidden = body(*args, **kwargs).last_hidden_state
        return output(loss=answer_loss(hidden, labels, head, softcap, num_items_in_batch))

    model.forward = forward


def answer_loss(
    hidden: Tensor,
    labels: Tensor,
    head: Module,
    softcap: float | None,
    count: Tensor | int | None = None,
) -> Tensor:
    """Cross-entropy of the labelled tokens, summed and divided by `count`.

    Args:
        hidden: [batch, n, width], the body's last hidden states.
        labels: int64 [batch, n]; -100 has no loss. Token i + 1 is predicted from state i.
        head: the output projection.
        softcap: Gemma's `final_logit_softcapping` c: logits become `c * tanh(logits / c)`.
        count: tokens to divide by (those of all batches of a step); None: those of this batch.
    """
    torch = require("torch", extra="train")
    checkpoint = require("torch.utils.checkpoint", extra="train").checkpoint

    def piece(states: Tensor, wanted: Tensor) -> Tensor:
        logits = head(states)
        if softcap:
            logits = torch.tanh(logits / softcap) * softcap
        loss: Tensor = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
        return loss

    targets = labels[:, 1:]
    answered = targets != IGNORE
    if not answered.any():
        # Of a process that has no example left in the last step of an epoch: one token without a
        # loss, so that the backward pass is that of the other processes.
        answered[0, 0] = True
    states, targets = hidden[:, :-1][answered], targets[answered]
    size = max(1, CHUNK_BYTES // (4 * head.out_features))
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(states.split(size), targets.split(size), strict=True):
        total = total + checkpoint(piece, part, wanted, use_reentrant=False)
    return total / (max(1, targets.numel()) if count is None else count)
