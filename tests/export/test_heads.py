"""Embeddings and output head in every spelling: the file's logits are transformers' and PEFT's."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pedsup_testing import oracle
from pedsup_testing.lazy import Lazy, lazy_names
from pedsup_testing.slowly import slow_but

from pedsup.errors import BadFileError, MismatchError
from pedsup.gguf_file import read_header
from pedsup_export.plan.export_plan import ExportPlan
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.publish import execute

torch = Lazy("torch")
LoraConfig, PeftModel, get_peft_model = lazy_names(
    "peft", "LoraConfig", "PeftModel", "get_peft_model"
)
load_file, save_file = lazy_names("safetensors.torch", "load_file", "save_file")
AutoModelForCausalLM, AutoTokenizer = lazy_names(
    "transformers", "AutoModelForCausalLM", "AutoTokenizer"
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TOKENS = list(range(110, 150))
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CLOSE = 2e-5
"""Mean KL of two float32 implementations; a wrong head gives 0.1 and more."""


def plan_of(base: Path, out: Path, adapter: Path | None = None, **options: Any):
    request = ExportRequest(
        base=ModelRef(base, base.name),
        adapter=ModelRef(adapter, adapter.name) if adapter else None,
        out=out,
        quant="F32",
        **options,
    )
    return make_plan(request)


def hf_logits(model: Any, tokens: list[int] = TOKENS) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor([tokens])).logits[0].numpy()


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def check(
    base: Path, tmp_path: Path, adapter: Path | None = None, want: np.ndarray | None = None
) -> ExportPlan:
    """Export in F32 and compare the logits with transformers', or with `want`."""
    if want is None:
        model = load(base)
        want = hf_logits(PeftModel.from_pretrained(model, adapter) if adapter else model)
    plan, inputs = plan_of(base, tmp_path / "m.gguf", adapter)
    execute(plan, inputs)
    assert oracle.mean_kl(want, oracle.logits(tmp_path / "m.gguf", TOKENS)) < CLOSE
    return plan


def has_head(plan: ExportPlan) -> bool:
    return any(t.slot.name == "output.weight" for t in plan.tensors)


@pytest.fixture(params=slow_but(["llama"], ["llama", "e4b"]))
def base(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path: Path) -> Path:
    """A tied base that a test may change."""
    return Path(shutil.copytree(models[request.param], tmp_path / "base"))


@pytest.fixture
def llama(models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models["llama"], tmp_path / "base"))


def rewrite(base: Path, *, tied: bool | None = True, **tensors: torch.Tensor | None) -> None:
    """Set `tie_word_embeddings` (None removes it) and put or take the two tensors."""
    weights = load_file(base / "model.safetensors")
    for short, tensor in tensors.items():
        name = TABLE if short == "table" else HEAD
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    edit(base / "config.json", tie_word_embeddings=tied)


def edit(path: Path, **values: Any) -> None:
    config = json.loads(path.read_text())
    config.update(values)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def table_of(base: Path) -> torch.Tensor:
    return load_file(base / "model.safetensors")[TABLE]


def other_head(base: Path) -> torch.Tensor:
    torch.manual_seed(3)
    table = table_of(base)
    return table + 0.05 * torch.randn(table.shape)


# ---- bases --------------------------------------------------------------------------------


def test_an_untied_head_of_its_own(base: Path, tmp_path: Path) -> None:
    rewrite(base, tied=False, head=other_head(base))
    assert has_head(check(base, tmp_path))


def test_a_stored_copy_of_a_tied_head_is_left_out(base: Path, tmp_path: Path) -> None:
    rewrite(base, head=table_of(base).clone())
    plan = check(base, tmp_path)
    assert not has_head(plan)
    assert [d.source for d in plan.dropped if "copy" in d.reason] == [HEAD]


def test_two_tensors_that_differ_are_not_tied_whatever_config_says(
    base: Path, tmp_path: Path
) -> None:
    rewrite(base, head=other_head(base))
    plan = check(base, tmp_path)
    assert has_head(plan)
    assert any("both are stored and differ" in w for w in plan.warnings)


def test_a_tied_tensor_stored_under_the_head_s_name(base: Path, tmp_path: Path) -> None:
    rewrite(base, head=table_of(base).clone(), table=None)
    assert not has_head(check(base, tmp_path))


def shard(base: Path, *, listed: str) -> None:
    """One shard and an index that names a tensor more than it holds."""
    (base / "model.safetensors").rename(base / "a.safetensors")
    names = [*load_file(base / "a.safetensors"), listed]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_tied_head_that_only_the_index_names(base: Path, tmp_path: Path) -> None:
    shard(base, listed=HEAD)
    assert not has_head(check(base, tmp_path))


@pytest.mark.parametrize("listed", [False, True])
def test_an_untied_head_that_is_missing_is_refused(
    base: Path, tmp_path: Path, listed: bool
) -> None:
    rewrite(base, tied=False)
    if listed:
        shard(base, listed=HEAD)
    words = r"no 'lm_head' weight(.|\n)*index names" if listed else "no 'lm_head' weight"
    with pytest.raises(BadFileError, match=words):
        plan_of(base, tmp_path / "m.gguf")


def test_what_a_silent_configuration_means_depends_on_the_architecture(
    base: Path, tmp_path: Path
) -> None:
    """transformers ties a Gemma 4 by default, and a llama not."""
    rewrite(base, tied=None)
    if "Gemma4" in (base / "config.json").read_text():
        assert not has_head(check(base, tmp_path))
    else:
        with pytest.raises(BadFileError, match="lm_head"):
            plan_of(base, tmp_path / "m.gguf")


def test_a_multimodal_checkpoint_is_tied_by_its_outer_configuration(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """`text_config` may say otherwise: transformers asks the model's own configuration."""
    base = Path(shutil.copytree(models["multimodal"], tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = False
    (base / "config.json").write_text(json.dumps(config))
    plan, _ = plan_of(base, tmp_path / "m.gguf")
    assert not has_head(plan)
    config["tie_word_embeddings"] = False
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadFileError, match="lm_head"):
        plan_of(base, tmp_path / "m.gguf")


# ---- adapters -----------------------------------------------------------------------------


def train(base_model: Any, folder: Path, **options: Any) -> Path:
    """An adapter whose every trainable parameter was moved."""
    options.setdefault("target_modules", ["q_proj"])
    model = get_peft_model(base_model, LoraConfig(r=8, task_type="CAUSAL_LM", **options))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


ADAPTERS: dict[str, tuple[dict[str, Any], bool]] = {
    # options, whether the file then has a head of its own on a tied base
    "table whole": ({"modules_to_save": ["embed_tokens"]}, True),
    "head whole": ({"modules_to_save": ["lm_head"]}, True),
    "both whole": ({"modules_to_save": ["embed_tokens", "lm_head"]}, True),
    "table whole, kept tied": (
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, False),
    "lora on the table": ({"target_modules": ["q_proj", "embed_tokens"]}, True),
    "lora on the head": ({"target_modules": ["q_proj", "lm_head"]}, True),
    "lora on the table, kept tied": (
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, False),
    "token rows": ({"trainable_token_indices": [110, 131]}, False),
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    slow_but(["head whole", "table whole, kept tied", "lora on the table", "token rows"], ADAPTERS),
)
def test_an_adapter_of_a_tied_base_is_exported_as_peft_runs_it(
    case: str, llama: Path, tmp_path: Path
) -> None:
    options, own_head = ADAPTERS[case]
    adapter = train(load(llama), tmp_path / "adapter", **options)
    plan = check(llama, tmp_path, adapter)
    assert has_head(plan) == own_head
    assert any("holds two tensors" in w for w in plan.warnings) == own_head


@pytest.mark.slow
@pytest.mark.parametrize("case", ["head whole", "table whole, kept tied", "token rows"])
def test_the_same_on_gemma4(case: str, models: dict[str, Path], tmp_path: Path) -> None:
    options, own_head = ADAPTERS[case]
    adapter = train(load(models["e4b"]), tmp_path / "adapter", **options)
    assert has_head(check(models["e4b"], tmp_path, adapter)) == own_head


@pytest.mark.parametrize(
    ("case", "stored"),
    slow_but(
        {("lora on the head", "own")},
        product(["table whole", "lora on the head", "token rows"], ["copy", "own"]),
    ),
)
def test_the_same_where_the_base_stores_a_head(
    case: str, stored: str, llama: Path, tmp_path: Path
) -> None:
    """A copy of a tied head, and an untied head."""
    head = table_of(llama).clone() if stored == "copy" else other_head(llama)
    rewrite(llama, tied=stored == "copy", head=head)
    adapter = train(load(llama), tmp_path / "adapter", **ADAPTERS[case][0])
    assert has_head(check(llama, tmp_path, adapter)) == (stored == "own" or ADAPTERS[case][1])


def test_tables_that_are_said_to_be_tied_and_differ_are_refused(
    llama: Path, tmp_path: Path
) -> None:
    adapter = train(load(llama), tmp_path / "adapter", **ADAPTERS["both whole"][0])
    edit(adapter / "adapter_config.json", ensure_weight_tying=True)
    with pytest.raises(BadFileError, match="ensure_weight_tying"):
        plan_of(llama, tmp_path / "m.gguf", adapter)


# ---- added tokens -------------------------------------------------------------------------

ADDED = ["<|es|>", "<|en|>", "<|dx|>", "<|tx|>"]


def resized(base: Path, tmp_path: Path, **options: Any) -> tuple[Path, np.ndarray]:
    """An adapter trained after four tokens were added, and PEFT's own logits."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ADDED})
    torch.manual_seed(5)
    model = load(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    plain = {k: v.clone() for k, v in model.state_dict().items()}
    folder = train(model, tmp_path / "adapter", **options)
    tokenizer.save_pretrained(folder)
    again = load(base)
    again.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    again.load_state_dict(plain)
    return folder, hf_logits(PeftModel.from_pretrained(again, folder))


GROWN: dict[str, dict[str, Any]] = {
    "whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "only resized": {},
    "lora": {"target_modules": ["q_proj", "embed_tokens"]},
    "token rows": {"trainable_token_indices": [768, 769, 770, 771]},
}


@pytest.mark.parametrize(
    ("case", "tied"),
    slow_but({("lora", False), ("token rows", True)}, product(GROWN, [True, False])),
)
def test_added_tokens_are_exported_with_the_adapter_s_tokenizer(
    tied: bool, case: str, llama: Path, tmp_path: Path
) -> None:
    options = GROWN[case]
    if not tied:
        rewrite(llama, tied=False, head=other_head(llama))
        if options.get("target_modules"):
            options = {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}
    adapter, want = resized(llama, tmp_path, **options)
    plan = check(llama, tmp_path, adapter, want)
    header = read_header(tmp_path / "m.gguf")
    assert header.metadata["tokenizer.ggml.tokens"].values()[768:] == ADDED
    assert header.metadata["tokenizer.ggml.token_type"].values()[768:] == [3] * 4
    assert header.metadata["llama.vocab_size"] == 772
    assert any("'<|es|>', '<|en|>'" in w for w in plan.warnings)


def test_added_tokens_of_which_one_table_is_missing_are_refused(
    llama: Path, tmp_path: Path
) -> None:
    rewrite(llama, tied=False, head=other_head(llama))
    adapter, _ = resized(llama, tmp_path, modules_to_save=["embed_tokens", "lm_head"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    kept = {n: t for n, t in tensors.items() if ".lm_head." not in n}
    save_file(kept, adapter / "adapter_model.safetensors")
    with pytest.raises(MismatchError, match="has 772 rows, the base 768, and the"):
        plan_of(llama, tmp_path / "m.gguf", adapter)


def test_copies_of_one_table_that_differ_are_refused(llama: Path, tmp_path: Path) -> None:
    rewrite(llama, tied=False, head=other_head(llama))
    adapter, _ = resized(llama, tmp_path, modules_to_save=["embed_tokens", "lm_head"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(n for n in tensors if "lm_head.modules_to_save" in n)
    tensors[name][3, 5] += 1
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(BadFileError, match="hold different numbers"):
        plan_of(llama, tmp_path / "m.gguf", adapter)


def test_gemma4_s_per_layer_rows_of_added_tokens_are_missed(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT saves the token embeddings of added tokens, and not their per-layer embeddings."""
    base = models["e4b"]
    adapter, _ = resized(base, tmp_path, modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(MismatchError, match="4 tokens have a row in the token embeddings"):
        plan_of(base, tmp_path / "m.gguf", adapter)


# ---- padded tables ------------------------------------------------------------------------


def test_padded_embeddings(base: Path, tmp_path: Path) -> None:
    model = load(base)
    model.resize_token_embeddings(832, mean_resizing=False)
    padded = tmp_path / "padded"
    model.save_pretrained(padded)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, padded / name)
    plan = check(padded, tmp_path)
    header = read_header(tmp_path / "m.gguf")
    tokens = header.metadata["tokenizer.ggml.tokens"].values()
    assert (len(tokens), tokens[768], tokens[831]) == (832, "[PAD768]", "[PAD831]")
    assert header.metadata["tokenizer.ggml.token_type"].values()[768:] == [5] * 64
    assert any("64 of 832 rows" in w for w in plan.warnings)


def test_padded_token_embeddings_beside_unpadded_per_layer_ones(
    models: dict[str, Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(models["e4b"], tmp_path / "base"))
    torch.manual_seed(2)
    rows = 0.05 * torch.randn(64, table_of(base).shape[1])
    rewrite(base, table=torch.cat([table_of(base), rows]))
    edit(base / "config.json", vocab_size=832)
    check(base, tmp_path)


def test_rows_that_config_does_not_announce_are_refused_with_its_real_number(
    base: Path, tmp_path: Path
) -> None:
    rewrite(base, table=torch.cat([table_of(base), table_of(base)[:64]]))
    with pytest.raises(MismatchError, match=r"832 rows, config\.json gives .* vocab_size of 768"):
        plan_of(base, tmp_path / "m.gguf")


def test_an_added_token_without_a_row_is_left_out(base: Path, tmp_path: Path) -> None:
    """As in Gemma 3's text models, whose tokenizer has an image token more than the weights."""
    document = json.loads((base / "tokenizer.json").read_text())
    document["added_tokens"].append(
        {"id": 768, "content": "<image>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
    )  # fmt: skip
    (base / "tokenizer.json").write_text(json.dumps(document))
    plan, _ = plan_of(base, tmp_path / "m.gguf")
    tokens = next(e.value for e in plan.metadata if e.key == "tokenizer.ggml.tokens")
    assert len(tokens) == 768
    assert any("'<image>'" in w and "left out" in w for w in plan.warnings)
