"""The predicted peak of GPU memory against the peaks that H100s measured (docs/train.md).

All cells: LoRA r 16 on the seven projections with dropout, 8-bit AdamW, bf16 compute, batches that
reach 768 (or the length given) tokens. `torch.cuda.max_memory_allocated` in MiB.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from pedsup.errors import UsageError
from pedsup_maintain.synthetic.shapes import E2B, E4B, Shape, text_config
from pedsup_train.model.backends import Runtime
from pedsup_train.recipe.schema import Recipe, read_recipe
from pedsup_train.run.memory import Batch, Estimate, estimate
from pedsup_train.run.memory_report import Card, find_card, memory_document, memory_lines

torch = pytest.importorskip("torch", reason="pip install 'pedsup[train]'")

WITHIN = 0.10


NANO = Shape(
    n_layers=12, n_shared=6, full_every=6, hidden=512, feed_forward=768, n_heads=4, n_kv_heads=2,
    head_dim=64, global_head_dim=128, per_layer=64, vocab=8192,
)  # fmt: skip
TINY = Shape(
    n_layers=8, n_shared=4, full_every=4, hidden=64, feed_forward=128, n_heads=4, n_kv_heads=2,
    head_dim=16, global_head_dim=32, per_layer=16, vocab=512,
)  # fmt: skip


def gemma4(shape: Shape) -> Any:
    from transformers import Gemma4TextConfig

    return Gemma4TextConfig.from_dict(text_config(shape))


def smollm2() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True,
    )  # fmt: skip


SHAPES = {"e4b": E4B, "e2b": E2B, "nano": NANO}


@functools.cache
def config(model: str) -> Any:
    return smollm2() if model == "smollm2" else gemma4(SHAPES[model])


def recipe(precision: str, batch: int, accumulation: int, *, checkpointing: bool = True) -> Recipe:
    quantization = "nf4" if precision == "nf4" else "none"
    return read_recipe(
        "v0.1",
        [f"model.quantization={quantization}", "model.dtype=bfloat16",
         f"train.batch_size={batch}", f"train.accumulation={accumulation}",
         f"train.gradient_checkpointing={str(checkpointing).lower()}"],
    )  # fmt: skip


def predict(model: str, settings: Recipe, length: int, backend: Any = "transformers") -> Estimate:
    runtime = Runtime(backend, "cuda", "bfloat16", "adamw_bnb_8bit")
    size = settings.train.batch_size
    batch = Batch(size, length, round(0.66 * size * length))
    return estimate(settings, runtime, config(model), batch)


RANDOM_LENGTHS = [
    # model, precision, batch, accumulation, backend, training peak, peak of loading: make
    # train-gpu-record (torch 2.11, two of them the run before it), lengths up to 768.
    ("e4b", "bf16", 4, 4, "transformers", 11046.6, 14234.6),
    ("e4b", "nf4", 4, 4, "transformers", 5426.0, 8668.8),
    ("e4b", "bf16", 8, 2, "transformers", 12631.8, None),
    ("e4b", "nf4", 8, 2, "transformers", 7045.2, None),
    ("e4b", "bf16", 16, 1, "transformers", 15861.0, None),
    ("e4b", "nf4", 16, 1, "transformers", 10279.4, None),
    ("smollm2", "bf16", 4, 4, "transformers", 1251.1, 275.3),
    ("smollm2", "nf4", 4, 4, "transformers", 1101.4, None),
    ("e4b", "bf16", 4, 4, "unsloth", 16290.8, 14401.0),
    ("e4b", "nf4", 4, 4, "unsloth", 10668.6, 8778.7),
    ("e4b", "nf4", 16, 1, "unsloth", 15498.8, 8778.7),
    # Another machine and day: one process of 8 x 1.
    ("e4b", "nf4", 8, 1, "transformers", 6913.1, None),
]
FULL_BATCHES = [
    # model, precision, batch, length, checkpointing, peak: all examples of that length. One process
    # measured them in turn; what the models before had left (54 MiB of SmolLM2, then 768 of the
    # E2B's embeddings) is taken off: it is the first figure of each model less its weights.
    ("smollm2", "bf16", 4, 768, True, 1232.7),
    ("smollm2", "bf16", 16, 768, True, 1567.6),
    ("smollm2", "bf16", 4, 768, False, 4055.9),
    ("smollm2", "bf16", 4, 1024, True, 1267.8),
    ("e2b", "bf16", 4, 768, True, 6021.7 - 54),
    ("e2b", "bf16", 8, 768, True, 7008.0 - 54),
    ("e2b", "bf16", 2, 768, False, 14240.9 - 54),
    ("e4b", "nf4", 4, 768, True, 6151.4 - 822),
    ("e4b", "nf4", 16, 768, True, 11075.2 - 822),
    ("e4b", "nf4", 4, 1024, True, 6622.6 - 822),
    ("e4b", "nf4", 2, 768, False, 18933.7 - 822),
]


def test_a_run_that_was_not_looked_at_when_the_terms_were_chosen() -> None:
    """Recipe v0.1 in full (375 steps) on a Gemma 4 of 30 M parameters, without checkpointing: the
    longest 16 examples are padded to 682 tokens and have 8,009 tokens of answers."""
    settings = recipe("bf16", 16, 1, checkpointing=False)
    runtime = Runtime("transformers", "cuda", "bfloat16", "adamw_bnb_8bit")
    found = estimate(settings, runtime, config("nano"), Batch(16, 682, 8009))
    assert found.training == pytest.approx(4_761_236_992, rel=WITHIN)


@pytest.mark.parametrize(("model", "precision", "batch", "accumulation", "backend", "peak", "load"),
                         RANDOM_LENGTHS)  # fmt: skip
def test_the_gpu_record(
    model: str, precision: str, batch: int, accumulation: int, backend: str, peak: float,
    load: float | None,
) -> None:  # fmt: skip
    found = predict(model, recipe(precision, batch, accumulation), 768, backend)
    assert found.training / 2**20 == pytest.approx(peak, rel=WITHIN)
    if load is not None:
        assert found.loading / 2**20 == pytest.approx(load, rel=WITHIN)


@pytest.mark.parametrize(("model", "precision", "batch", "length", "checkpointing", "peak"),
                         FULL_BATCHES)  # fmt: skip
def test_full_batches(
    model: str, precision: str, batch: int, length: int, checkpointing: bool, peak: float
) -> None:
    settings = recipe(precision, batch, 1, checkpointing=checkpointing)
    assert predict(model, settings, length).training / 2**20 == pytest.approx(peak, rel=WITHIN)


def test_the_weights_are_counted_as_bitsandbytes_and_torch_hold_them() -> None:
    """A tiny Gemma 4 in NF4: the bytes of every tensor of the real, packed layers."""
    bnb = pytest.importorskip("bitsandbytes", reason="pip install 'pedsup[train]'")
    from transformers import AutoModelForCausalLM

    from pedsup_train.model.layer_memory import held_weights, meta_model

    tiny = gemma4(TINY)
    head = 512 * 64
    model = AutoModelForCausalLM.from_config(tiny, dtype=torch.bfloat16)
    packed = plain = table = 0
    for name, parameter in model.named_parameters():
        n = parameter.numel()
        owner = model.get_submodule(name.rpartition(".")[0])
        if "embed_tokens_per_layer" in name:
            table += 2 * n
        elif isinstance(owner, torch.nn.Linear) and n != head:
            weight = bnb.nn.Params4bit(
                parameter.data.float(), requires_grad=False, quant_type="nf4",
                compress_statistics=True,
            ).to("cpu")  # fmt: skip
            state = weight.quant_state
            parts = (weight.data, state.absmax, state.state2.absmax)
            packed += sum(t.numel() * t.element_size() for t in parts)
        else:
            plain += 2 * n
    found = held_weights(meta_model(tiny), 2, nf4=True, skipped=())
    assert (found.linear, found.other, found.table) == (packed, plain, table)


def test_what_backward_keeps_of_a_layer_is_what_torch_keeps() -> None:
    """Llama in float32 without dropout: the bytes of autograd's saved tensors, twice as many tokens
    less once, against the count."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    from pedsup_train.model.layer_memory import layer_shapes
    from pedsup_train.model.targets import plan_targets

    config = LlamaConfig(
        hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).requires_grad_(False)
    targets = plan_targets(model, tuple(recipe("bf16", 1, 1).lora.targets))
    layers = list(layer_shapes(model, targets))
    wanted = sum(layer.kept_bytes(4, dropout=False) for layer in layers)
    lora = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=list(targets.names)))

    def kept(n: int) -> int:
        frozen = {p.untyped_storage().data_ptr() for p in lora.parameters()}
        storages: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in frozen:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = lora.base_model.model.model(torch.arange(n)[None] % 64)  # alive until counted
        del out
        return sum(storages.values())

    found = (kept(512) - kept(256)) / 256
    assert wanted == pytest.approx(found, rel=0.2)


def test_what_a_card_has_room_for() -> None:
    found = predict("e4b", recipe("nf4", 4, 4), 768)
    twelve, eight = find_card("12GiB"), find_card("8 GB")
    assert twelve == Card("a card of 12GiB", 12 << 30)
    assert eight is not None and eight.n_bytes == 8 * 10**9
    assert memory_document(found, twelve, 4)["fits"] is True
    assert memory_document(found, eight, 4)["fits"] is False
    text = "\n".join(memory_lines(found, eight, 4))
    assert "does NOT fit a card of 8 GB" in text and "a smaller base: loading needs most" in text
    assert sum(t["bytes"] for t in memory_document(found, None, 4)["terms"]) == found.training
    for wrong in ("twelve", "12 parsecs", "-1GiB", "0"):
        with pytest.raises(UsageError, match="--gpu-memory"):
            find_card(wrong)
