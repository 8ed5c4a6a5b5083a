"""The peak of GPU memory that a run will need, as a sum of stated terms, before a weight is loaded.

A step has two candidates for its highest moment. Both have the weights, the adapter and, of every
layer, its input (checkpointing) or all that its backward pass needs:

- **the loss**: logits of one chunk of answers (`answer_loss.CHUNK_BYTES`), a few times over;
- **the backward pass of a layer**: what that layer keeps, computed again, and its gradients.

Loading has a third: the whole base, with the per-layer table of a Gemma 4 before that moves to the
memory of the computer. The terms hold for the transformers backend, in bf16 and NF4 on H100s
(docs/train.md, "Memory").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pedsup.optional import require
from pedsup_train.model import base_source
from pedsup_train.model.answer_loss import CHUNK_BYTES
from pedsup_train.model.backends import Runtime
from pedsup_train.model.layer_memory import (
    HeldWeights,
    LayerShape,
    held_weights,
    layer_shapes,
    meta_model,
)
from pedsup_train.model.sharding import is_sharded
from pedsup_train.model.targets import plan_targets, text_config
from pedsup_train.recipe.schema import Recipe

MIB: Final = 1 << 20
CUBLAS: Final = 64 * MIB
"""Its workspace on Hopper (two of 32 MiB), which torch's allocator counts; measured."""
CONTEXT: Final = 800 * MIB
"""The driver's context and the kernels' code, not counted by torch: 775 to 789 MiB of an H100."""
FRAGMENTS: Final = 0.06
"""Share of what torch's allocator holds beyond what is in use: 3 to 6 % for 16 examples of an E4B
on an H100."""
LOGIT_COPIES: Final = 3.0
"""Chunk-sized float32 tensors alive at once: log-softmax, its gradient and that of the loss."""
SOFTCAP_COPIES: Final = 1.0
"""Those of `c * tanh(x / c)` besides."""
EIGHT_BIT_STATE: Final = 2 * (1 + 4 / 256)
"""Bytes a parameter of 8-bit AdamW: two states, one float32 for 256 of each (bitsandbytes)."""


@dataclass(frozen=True)
class Batch:
    """The largest batch of a run."""

    size: int
    length: int
    """Tokens of its longest example, to which the others are padded."""
    answers: int
    """Tokens with a loss."""

    @property
    def tokens(self) -> int:
        return self.size * self.length


@dataclass(frozen=True)
class Term:
    """One part of the peak."""

    name: str
    n_bytes: int
    formula: str


@dataclass(frozen=True)
class Estimate:
    """The predicted peak of one process on its GPU."""

    batch: Batch
    terms: tuple[Term, ...]
    """Of the highest moment of a step; the sum is that of `torch.cuda.max_memory_allocated`."""
    loading: int
    """Bytes while the base is loaded."""
    moment: str
    """Which moment of a step is the highest."""
    notes: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()
    """Matrices of the layers whose activations are in no term: the peak is higher."""

    @property
    def training(self) -> int:
        """Bytes that torch will have allocated at the highest moment of a step."""
        return sum(term.n_bytes for term in self.terms)

    @property
    def peak(self) -> int:
        """Bytes that torch will have allocated at most."""
        return max(self.training, self.loading)

    @property
    def needed(self) -> int:
        """Bytes that must be free on the card: the peak, what the allocator wastes, the context."""
        return round(self.peak * (1 + FRAGMENTS)) + CONTEXT


def estimate(recipe: Recipe, runtime: Runtime, config: Any, batch: Batch) -> Estimate:
    """Predict the peak of a run with a `config` whose weights need not be here."""
    torch = require("torch", extra="train")
    # A run without a GPU here is predicted for one that has bfloat16, as the recipe's `auto` takes.
    on_gpu = runtime.device == "cuda" or recipe.model.dtype != "auto"
    dtype = runtime.dtype if on_gpu else "bfloat16"
    element = int(getattr(torch, dtype).itemsize)
    model = meta_model(config)
    targets = plan_targets(model, recipe.lora.targets)
    layers = tuple(layer_shapes(model, targets))
    packed = recipe.model.quantization == "nf4" or base_source.is_prequantized(config)
    base = held_weights(model, element, nf4=packed, skipped=_skipped(config))
    by_name = dict(model.named_modules())
    rank = recipe.lora.r
    n_lora = sum(
        rank * (by_name[name].in_features + by_name[name].out_features) for name in targets.names
    )
    unsloth = runtime.backend == "unsloth"
    fixed = [*_weights(base, table=unsloth), *_adapter(recipe, n_lora)]
    fixed.append(Term("cuBLAS", CUBLAS, "its workspace"))
    loss = _loss(config, batch, element)
    kept, step = _activations(recipe, layers, batch, element)
    moment, last = max((("the loss", loss), ("a layer's backward pass", step)),
                       key=lambda pair: pair[1].n_bytes)  # fmt: skip
    loading = base.linear + base.other + base.table
    uncounted = tuple(sorted({name for layer in layers for name in layer.uncounted}))
    notes = _notes(recipe, runtime, uncounted)
    return Estimate(batch, (*fixed, kept, last), loading, moment, notes, uncounted)


def _skipped(config: Any) -> tuple[str, ...]:
    """Parts of the names of modules that a checkpoint in 4 bit leaves in 16."""
    stored = base_source.is_prequantized(config) and config.quantization_config
    if not stored:
        return ()
    values = stored if isinstance(stored, dict) else vars(stored)
    return tuple(values.get("llm_int8_skip_modules") or ())


def _weights(base: HeldWeights, *, table: bool) -> list[Term]:
    terms = [
        Term("projections", base.linear, "0.516 bytes a weight in NF4, else those of the type"),
        Term("embeddings, norms", base.other, "bytes of the type x weights"),
    ]
    if base.table and table:
        terms.append(Term("per-layer table", base.table, "bytes of the type x weights"))
    return terms


def _adapter(recipe: Recipe, n: int) -> list[Term]:
    eight = recipe.train.optimizer == "adamw_8bit"
    states = round(n * (EIGHT_BIT_STATE if eight else 8))
    terms = [
        Term("adapter", 4 * n, f"{n:,} parameters x 4 bytes"),
        Term("optimizer", states, f"x {EIGHT_BIT_STATE if eight else 8:.3g} bytes"),
    ]
    if recipe.train.accumulation > 1:
        terms.append(Term("gradients", 4 * n, "x 4 bytes, from one batch to the next"))
    return terms


def _loss(config: Any, batch: Batch, element: int) -> Term:
    text = text_config(config)
    capped = bool(getattr(text, "final_logit_softcapping", None))
    row = 4 * int(text.vocab_size)
    chunk = min(CHUNK_BYTES, batch.answers * row)
    copies = LOGIT_COPIES + SOFTCAP_COPIES * capped
    return Term(
        "logits",
        round(copies * chunk) + batch.answers * element * int(text.hidden_size),
        f"{copies:g} x {chunk // row:,} answer tokens x {text.vocab_size:,} x 4 bytes",
    )


def _activations(
    recipe: Recipe, layers: tuple[LayerShape, ...], batch: Batch, element: int
) -> tuple[Term, Term]:
    """What is kept of the whole forward pass, and what one layer's backward pass adds."""
    n, dropout = batch.tokens, recipe.lora.dropout > 0
    # The tokens' part and the hidden state's part of Gemma 4's inputs to each layer.
    kept = sum(2 * element * layer.per_layer for layer in layers)
    each = [layer.kept_bytes(element, dropout) for layer in layers]
    gradients = max(layer.gradient_bytes(element) for layer in layers)
    if not recipe.train.gradient_checkpointing:
        term = Term("activations", n * (kept + sum(each)), f"all layers, {n:,} tokens")
        return term, Term("gradients of a layer", n * gradients, f"{n:,} tokens")
    kept += sum(element * layer.hidden for layer in layers)
    return (
        Term("checkpoints", n * kept, f"the input of {len(layers)} layers, {n:,} tokens"),
        Term("one layer", n * max(
            layer.kept_bytes(element, dropout) + layer.gradient_bytes(element) for layer in layers
        ), f"what its backward pass needs, {n:,} tokens"),
    )  # fmt: skip


def _notes(recipe: Recipe, runtime: Runtime, uncounted: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if uncounted:
        notes.append(f"what {', '.join(uncounted)} need is not counted: it will take more")
    if runtime.backend == "unsloth":
        notes.append(
            "unsloth has a loss of its own: close for Gemma 4 in the record, not for others"
        )
    if is_sharded():
        notes.append("under FSDP: this is one whole model, the shares are not predicted")
    if recipe.train.quantize != "none":
        notes.append("the scales of train.quantize are not counted (1 to 3 % in the record)")
    if recipe.model.attention == "eager":
        notes.append("eager attention keeps its whole matrix, which is not counted")
    if recipe.model.dtype == "float32":
        notes.append("in float32 the terms were not compared with a measurement")
    return tuple(notes)
