"""One cell of the GPU record: build a model, run the loop of `pedsup-train run`, measure."""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from pedsup.errors import UsageError
from pedsup.progress import say
from pedsup_maintain.synthetic.shapes import E4B, Shape, text_config
from pedsup_train.data.render import Rendered
from pedsup_train.model import backends
from pedsup_train.model.backends import Loaded, Runtime
from pedsup_train.model.targets import check_adapted
from pedsup_train.recipe.schema import LoraConfig, ModelConfig, Recipe, read_recipe
from pedsup_train.run.loop import fit
from pedsup_train.run.split import choose_split, room_here

if TYPE_CHECKING:
    import torch
    from transformers import Gemma4TextConfig, PreTrainedModel

SHAPES: Final = {
    "e4b": E4B,
    # The same structure in a few hundred thousand parameters, for the CPU and the tests.
    "tiny": Shape(
        n_layers=8, n_shared=4, full_every=4, vocab=512, hidden=64, feed_forward=128, n_heads=4,
        head_dim=16, global_head_dim=32, per_layer=16, sliding_window=16, context=512,
    ),
}  # fmt: skip

WARM_UP: Final = 3
"""Steps left out of the figures: allocation, kernel selection, compilation."""
MEAN_TOKENS: Final = 431


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    model: str
    """'e4b' or 'tiny' (random weights), or the folder of a real base."""
    precision: str
    """'bf16', 'fp32' or 'nf4'."""
    backend: str
    steps: int
    batch_size: int = 4
    accumulation: int = 4
    max_length: int = 768
    checkpointing: bool = True
    merge: bool = True
    """Let the run merge the forward passes of a step, as `pedsup-train run` does."""
    folder: str = ""
    """Where the random model lies (`save_random`); empty: it is made on the device."""

    @property
    def label(self) -> str:
        name = Path(self.model).name if "/" in self.model else self.model
        return (
            f"{name}, {self.precision}, {self.backend}"
            + ("" if self.checkpointing else ", no checkpointing")
            + ("" if self.merge else ", not merged")
        )


def cell_recipe(cell: Cell) -> Recipe:
    """Recipe v0.1 with the cell's model, precision, steps and sizes."""
    recipe = read_recipe("v0.1")
    return dataclasses.replace(
        recipe,
        model=ModelConfig(
            base=cell.model,
            quantization="nf4" if cell.precision == "nf4" else "none",
            dtype="float32" if cell.precision == "fp32" else "bfloat16",
            backend=cell.backend,  # type: ignore[arg-type]
        ),
        lora=LoraConfig(),
        data=dataclasses.replace(recipe.data, max_length=cell.max_length),
        train=dataclasses.replace(
            recipe.train,
            batch_size=cell.batch_size,
            accumulation=cell.accumulation,
            max_steps=cell.steps,
            gradient_checkpointing=cell.checkpointing,
            merge_batches=cell.merge,
            save_every=10**9,
        ),
    )


def random_examples(n: int, *, max_length: int, vocab: int, seed: int = 0) -> list[Rendered]:
    """Random tokens, lengths around 431 (scaled to `max_length`); loss on the last two thirds."""
    rng = random.Random(seed)
    mean = MEAN_TOKENS * max_length / 768
    items = []
    for _ in range(n):
        length = min(max_length, max(8, round(rng.lognormvariate(0, 0.35) * 0.94 * mean)))
        ids = tuple(rng.randrange(110, vocab) for _ in range(length))
        items.append(Rendered("", "", ids, length // 3))
    return items


def gemma4_config(shape: Shape) -> Gemma4TextConfig:
    """The configuration of a Gemma 4 of these sizes, as transformers takes it."""
    from transformers import Gemma4TextConfig

    return Gemma4TextConfig.from_dict(text_config(shape))


def build_random(shape: str, recipe: Recipe, device: str) -> PreTrainedModel:
    """A Gemma 4 with random weights, made on the device; its linear layers in NF4 if asked for."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, recipe.model.dtype)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(gemma4_config(SHAPES[shape]), dtype=dtype)
    if recipe.model.quantization == "nf4":
        quantize_in_place(model, dtype, device)
    return model


def quantize_in_place(model: PreTrainedModel, dtype: torch.dtype, device: str) -> None:
    """Replace the decoder's linear layers by bitsandbytes' 4-bit ones (double quantization)."""
    import bitsandbytes as bnb
    import torch

    names = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and ".layers." in f".{name}"
    ]
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        old = model.get_submodule(name)
        new = bnb.nn.Linear4bit(
            old.in_features, old.out_features, bias=False, compute_dtype=dtype,
            compress_statistics=True, quant_type="nf4", device="meta",
        )  # fmt: skip
        # The weight is quantized when it is moved to the device, and so must not be there yet.
        new.weight = bnb.nn.Params4bit(
            old.weight.data.cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4",
            module=new,
        ).to(device)  # fmt: skip
        new.weight.module = new
        setattr(parent, name.rpartition(".")[2], new)
    model.is_loaded_in_4bit = True
    if device == "cuda":
        torch.cuda.empty_cache()


def load_cell(cell: Cell, recipe: Recipe, runtime: Runtime) -> Loaded:
    """The cell's model with LoRA on it.

    Raises:
        UsageError: unsloth, which loads from a folder only, and none is named.
    """
    if cell.folder or cell.model not in SHAPES:
        base = dataclasses.replace(recipe.model, base=cell.folder or cell.model)
        return backends.load(dataclasses.replace(recipe, model=base), runtime)
    if cell.backend == "unsloth":
        raise UsageError("unsloth loads from a folder", wanted="Cell.folder")
    model = build_random(cell.model, recipe, runtime.device)
    backends.save_memory(model, runtime)
    model, targets = backends.add_lora(model, recipe)
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    return backends.Loaded(model, tokenizer, targets, check_adapted(model, targets))


def save_random(shape: str, folder: Path) -> None:
    """A random model in bfloat16 as a Hugging Face folder, with a tokenizer of four tokens."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    recipe = Recipe(model=ModelConfig(dtype="bfloat16"))
    build_random(shape, recipe, "cuda" if torch.cuda.is_available() else "cpu").save_pretrained(
        folder
    )
    tokens = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(tokens, unk_token="<unk>")),
        pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip


def measure(cell: Cell) -> dict[str, Any]:
    """Run one cell in this process; stages are said on stderr as they begin."""
    import torch

    recipe = cell_recipe(cell)
    began = time.monotonic()
    say("cell: importing")
    runtime = backends.choose_runtime(recipe)
    importing = time.monotonic() - began
    say(f"cell: loading (imports took {importing:.1f} s)")
    room = room_here(runtime, 1)
    loaded = load_cell(cell, recipe, runtime)
    loading = time.monotonic() - began - importing
    load_peak = torch.cuda.max_memory_allocated() if runtime.device == "cuda" else None
    say(f"cell: training (loading took {loading:.1f} s)")
    vocab = int(loaded.model.get_input_embeddings().weight.shape[0])
    n = cell.steps * cell.batch_size * cell.accumulation
    examples = random_examples(n, max_length=cell.max_length, vocab=vocab)
    split = choose_split(recipe, runtime, loaded.model.config, examples, room)
    with tempfile.TemporaryDirectory(prefix="pedsup-cell-") as name:
        outcome = fit(split.applied(recipe), runtime, loaded, (examples, []), Path(name))
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    return {
        **dataclasses.asdict(cell),
        **rates(outcome.history),
        "split": dataclasses.asdict(split),
        "peak_gpu_bytes": outcome.peak_gpu_bytes,
        **beyond_the_peak(runtime),
        "load_peak_gpu_bytes": load_peak,
        "weights_bytes": weights,
        "trained_parameters": loaded.n_trainable,
        "optimizer": runtime.optimizer,
        "import_s": round(importing, 1),
        "load_s": round(loading, 1),
        "torch": torch.__version__,
    }


def beyond_the_peak(runtime: Runtime) -> dict[str, int]:
    """Bytes that torch's allocator took at most, and those of this card that it did not take."""
    import torch

    if runtime.device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "reserved_gpu_bytes": torch.cuda.max_memory_reserved(),
        "outside_torch_bytes": total - free - torch.cuda.memory_reserved(),
    }


def rates(history: list[dict[str, Any]]) -> dict[str, float]:
    """Steps and (unpadded) tokens per second after the warm-up, and the median step."""
    rows = [row for row in history if "loss" in row]
    if len(rows) <= WARM_UP:
        raise ValueError(f"{len(rows)} steps, wanted more than {WARM_UP}")
    timed = rows[WARM_UP - 1 :]
    seconds = timed[-1]["elapsed_s"] - timed[0]["elapsed_s"]
    tokens = timed[-1]["num_input_tokens_seen"] - timed[0]["num_input_tokens_seen"]
    steps = [b["elapsed_s"] - a["elapsed_s"] for a, b in pairwise(timed)]
    return {
        "timed_steps": len(steps),
        "steps_per_s": len(steps) / seconds,
        "tokens_per_s": tokens / seconds,
        "median_step_s": median(steps),
        "slowest_step_s": max(steps),
        # What stands beside a step in the first one: compilation, above all.
        "first_step_s": rows[0]["elapsed_s"],
        "step_s": [round(b - a, 3) for a, b in pairwise([0.0, *(r["elapsed_s"] for r in rows)])],
    }
