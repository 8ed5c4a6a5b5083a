"""Configurations, tokenizers and adapters as they are met: used, or named with what is left out."""

from __future__ import annotations

import codecs
import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from pedsup_testing import tiny_models
from pedsup_testing.lazy import Lazy, lazy_names

from pedsup.errors import BadFileError, MismatchError, UnsupportedError
from pedsup_export.cli import cli
from pedsup_export.plan.export_plan import ExportPlan
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.publish import execute

torch = Lazy("torch")
load_file, save_file = lazy_names("safetensors.torch", "load_file", "save_file")
AutoTokenizer = Lazy("transformers", name="AutoTokenizer")

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ m['role'] }} :: {{ m['content'] }}{% endfor %}"
)


@pytest.fixture
def base(models: dict[str, Path], tmp_path: Path) -> Path:
    # Of the name that the adapter's configuration gives it.
    return Path(shutil.copytree(models["llama"], tmp_path / "llama"))


@pytest.fixture
def adapter(adapters: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapters["llama"], tmp_path / "adapter"))


def plan_of(base: Path, adapter: Path | None = None, **options: Any) -> ExportPlan:
    request = ExportRequest(
        base=ModelRef(base, base.name),
        adapter=ModelRef(adapter, adapter.name) if adapter else None,
        out=base.parent / "m.gguf",
        quant="Q8_0",
        **options,
    )
    return make_plan(request)[0]


def edit(path: Path, **values: Any) -> None:
    """Set values of a JSON file; None removes one."""
    config = json.loads(path.read_text()) if path.exists() else {}
    config.update(values)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def value(plan: ExportPlan, key: str) -> Any:
    return next((e.value for e in plan.metadata if e.key == key), None)


# ---- numbers of special tokens --------------------------------------------------------------


@pytest.mark.parametrize("number", [768, 100_000, -1])
def test_a_pad_token_that_is_none_is_left_out_with_a_word(base: Path, number: int) -> None:
    edit(base / "tokenizer_config.json", pad_token=None)
    edit(base / "config.json", pad_token_id=number)
    plan = plan_of(base)
    assert value(plan, "tokenizer.ggml.padding_token_id") is None
    assert any("config.json has 'pad_token_id'" in w for w in plan.warnings)


def test_no_pad_token_at_all(base: Path) -> None:
    edit(base / "tokenizer_config.json", pad_token=None)
    edit(base / "config.json", pad_token_id=None)
    plan = plan_of(base)
    assert value(plan, "tokenizer.ggml.padding_token_id") is None
    assert plan.warnings == ()


def test_an_end_token_outside_the_vocabulary_is_refused(base: Path) -> None:
    edit(base / "tokenizer_config.json", eos_token=None)
    edit(base / "config.json", eos_token_id=768)
    with pytest.raises(BadFileError, match="'eos_token_id' is 768") as caught:
        plan_of(base)
    assert str(base / "config.json") == caught.value.where
    assert "eos_token of tokenizer_config.json" in str(caught.value.remedy)


# ---- generation settings --------------------------------------------------------------------


def test_generation_settings_that_no_sampler_can_use_are_left_out(base: Path) -> None:
    (base / "generation_config.json").write_text(
        '{"temperature": NaN, "top_p": 1.5, "top_k": -1, "min_p": Infinity}'
    )
    plan = plan_of(base)
    assert not [e.key for e in plan.metadata if e.key.startswith("general.sampling")]
    assert [w.split()[2] for w in plan.warnings] == ["top_k", "top_p", "min_p", "temperature"]


def test_generation_settings_at_the_edges_are_kept(base: Path) -> None:
    (base / "generation_config.json").write_text(
        '{"temperature": 0, "top_p": 1, "top_k": 64.0, "min_p": 0.0}'
    )
    plan = plan_of(base)
    found = {e.key: e.value for e in plan.metadata if e.key.startswith("general.sampling")}
    assert found == {"general.sampling.temp": 0, "general.sampling.top_p": 1,
                     "general.sampling.top_k": 64, "general.sampling.min_p": 0}  # fmt: skip
    assert plan.warnings == ()


# ---- arithmetic that llama.cpp does not have ------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, "'gelu' \\('hidden_act'\\)"),
        ("e4b", {"hidden_activation": "gelu"}, "'gelu' \\('hidden_activation'\\)"),
        ("e4b", {"hidden_activation": "silu"}, "'silu'"),
        ("e4b", {"attention_bias": True}, "attention_bias"),
        ("e4b", {"use_bidirectional_attention": "all"}, "looks ahead"),
    ],
)
def test_arithmetic_that_llama_cpp_does_not_have_is_refused(
    models: dict[str, Path], tmp_path: Path, kind: str, values: dict[str, Any], words: str
) -> None:
    base = Path(shutil.copytree(models[kind], tmp_path / "base"))
    edit(base / "config.json", **values)
    with pytest.raises(UnsupportedError, match=words):
        plan_of(base)


@pytest.mark.parametrize("name", ["gelu_pytorch_tanh", "gelu_new", "gelu_fast"])
def test_the_names_of_tanh_gelu_are_one_function(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 101)
    assert torch.allclose(ACT2FN[name](x), ACT2FN["gelu_pytorch_tanh"](x), atol=1e-6)
    base = Path(shutil.copytree(models["e4b"], tmp_path / "base"))
    edit(base / "config.json", hidden_activation=name)
    plan_of(base)


def test_what_llama_cpp_would_not_load_is_refused_while_it_is_a_plan(base: Path) -> None:
    """Two equal tokens end llama.cpp's process; the error names the input, not our partial file."""
    document = json.loads((base / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    byte = vocabulary.pop("<0x41>")
    vocabulary["A byte token less"] = byte
    (base / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(BadFileError) as caught:
        plan_of(base)
    assert "tokenizer.json" in str(caught.value.where)
    assert "nothing has been written" in str(caught.value.remedy)


# ---- templates ------------------------------------------------------------------------------


def put_template(base: Path, place: str, text: str) -> None:
    if place == "chat_template.jinja":
        (base / place).write_text(text)
    elif place == "list":
        edit(base / "tokenizer_config.json",
             chat_template=[{"name": "default", "template": text}])  # fmt: skip
    else:
        edit(base / place, chat_template=text)


PLACES = ["chat_template.jinja", "tokenizer_config.json", "list"]


@pytest.mark.parametrize("place", [*PLACES, "chat_template.json"])
def test_a_template_is_found_in_every_place(base: Path, place: str) -> None:
    edit(base / "tokenizer_config.json", chat_template=None)
    put_template(base, place, TEMPLATE)
    plan = plan_of(base)
    assert value(plan, "tokenizer.chat_template") == TEMPLATE
    assert plan.warnings == ()
    if place in PLACES:  # a processor's file is for models with images in transformers
        assert AutoTokenizer.from_pretrained(base).chat_template in (
            TEMPLATE, {"default": TEMPLATE}
        )  # fmt: skip


def test_of_two_templates_transformers_choice_is_exported_and_said(base: Path) -> None:
    put_template(base, "chat_template.jinja", TEMPLATE)
    plan = plan_of(base)
    assert value(plan, "tokenizer.chat_template") == TEMPLATE
    assert AutoTokenizer.from_pretrained(base).chat_template == TEMPLATE
    assert any("tokenizer_config.json has another chat template" in w for w in plan.warnings)


def test_named_templates_beside_the_default(base: Path) -> None:
    edit(base / "tokenizer_config.json", chat_template=None)
    put_template(base, "chat_template.jinja", TEMPLATE)
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates/tool_use.jinja").write_text("tools")
    plan = plan_of(base)
    named = AutoTokenizer.from_pretrained(base).chat_template
    assert named == {"default": TEMPLATE, "tool_use": "tools"}
    assert value(plan, "tokenizer.chat_template") == TEMPLATE
    assert value(plan, "tokenizer.chat_template.tool_use") == "tools"
    assert value(plan, "tokenizer.chat_templates") == ["tool_use"]


def test_a_template_that_is_no_text_is_refused(base: Path) -> None:
    edit(base / "tokenizer_config.json", chat_template=[{"name": "default"}])
    with pytest.raises(BadFileError, match="neither a text nor a list"):
        plan_of(base)


# ---- files of Windows programs --------------------------------------------------------------


def test_byte_order_marks_and_crlf_change_nothing(base: Path, adapter: Path) -> None:
    edit(base / "tokenizer_config.json", chat_template=None)
    (base / "chat_template.jinja").write_text(TEMPLATE + "\n{# end #}")
    (base / "generation_config.json").write_text('{\n"top_k": 64\n}')
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    plain = plan_of(base, adapter)
    for path in (*base.iterdir(), *adapter.iterdir()):
        if path.suffix in (".json", ".jinja", ".md"):
            text = path.read_text(encoding="utf-8").replace("\n", "\r\n")
            path.write_bytes(codecs.BOM_UTF8 + text.encode())
    marked = plan_of(base, adapter)
    assert marked.metadata == plain.metadata
    assert value(marked, "general.license") == "apache-2.0"
    assert marked.tensors == plain.tensors


def test_utf_16_is_named(base: Path) -> None:
    text = (base / "config.json").read_text()
    (base / "config.json").write_bytes(text.encode("utf-16"))
    with pytest.raises(BadFileError, match="UTF-16: save it as UTF-8"):
        plan_of(base)


# ---- the tokenizer beside an adapter --------------------------------------------------------


def copy_tokenizer(base: Path, adapter: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, adapter / name)


def test_an_adapter_s_own_template_and_end_token_are_exported_and_said(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    copy_tokenizer(base, adapter)
    edit(adapter / "tokenizer_config.json", chat_template=None, eos_token="<turn|>")
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    plan = plan_of(base, adapter)
    assert value(plan, "tokenizer.chat_template") == TEMPLATE
    assert value(plan, "tokenizer.ggml.eos_token_id") == 106
    (note,) = (w for w in plan.warnings if "from the adapter's folder" in w)
    assert "eos '<turn|>' for '<eos>'" in note
    assert "the chat template" in note
    execute(*make_plan(plan.request))
    core = json.loads((tmp_path / "m.gguf.manifest.json").read_text())["core"]
    assert note in core["warnings"]
    assert "adapter/tokenizer_config.json" in core["tokenizer"]
    of_base = plan_of(base, adapter, tokenizer="base")
    assert value(of_base, "tokenizer.ggml.eos_token_id") == 1
    assert not of_base.warnings


def test_a_base_without_a_template_gets_the_adapter_s(base: Path, adapter: Path) -> None:
    edit(base / "tokenizer_config.json", chat_template=None)
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    plan = plan_of(base, adapter)
    assert value(plan, "tokenizer.chat_template") == TEMPLATE
    assert any("which the base lacks" in w for w in plan.warnings)


def test_the_same_tokenizer_saved_again_is_not_mentioned(base: Path, adapter: Path) -> None:
    AutoTokenizer.from_pretrained(base).save_pretrained(adapter)
    assert (adapter / "chat_template.jinja").exists()
    plan = plan_of(base, adapter)
    assert plan.warnings == ()
    assert plan.metadata == plan_of(base, adapter, tokenizer="base").metadata


def test_a_tokenizer_without_a_template_keeps_the_base_s_and_says_so(
    base: Path, adapter: Path
) -> None:
    copy_tokenizer(base, adapter)
    edit(adapter / "tokenizer_config.json", chat_template=None)
    plan = plan_of(base, adapter)
    assert value(plan, "tokenizer.chat_template") == tiny_models.CHAT_TEMPLATE
    assert any("without a chat template" in w for w in plan.warnings)


def test_a_damaged_tokenizer_beside_the_adapter_names_the_way_out(
    base: Path, adapter: Path
) -> None:
    (adapter / "tokenizer.json").write_text("{")
    with pytest.raises(BadFileError, match=r"tokenizer\.json") as caught:
        plan_of(base, adapter)
    assert "--tokenizer base" in str(caught.value.remedy)
    plan_of(base, adapter, tokenizer="base")


# ---- adapters without an effect -------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": 0},
        {"lora_alpha": 0, "use_rslora": True},
        {"lora_alpha": 1e-60},
        {"alpha_pattern": {".*": 0}},
    ],
)
def test_an_adapter_that_changes_nothing_is_refused(
    base: Path, adapter: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    edit(adapter / "adapter_config.json", **config)
    with pytest.raises(MismatchError, match="the adapter changes nothing") as caught:
        plan_of(base, adapter)
    assert "--allow-no-effect" in str(caught.value.remedy)
    plan = plan_of(base, adapter, allow_no_effect=True)
    assert not any(t.adapted for t in plan.tensors)
    assert any("is exactly zero" in w for w in plan.warnings)


def test_an_untrained_adapter_is_refused(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    zero = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in tensors.items()}
    save_file(zero, adapter / "adapter_model.safetensors")
    with pytest.raises(MismatchError, match="changes nothing"):
        plan_of(base, adapter)


def test_a_table_that_was_saved_unchanged_changes_nothing(base: Path, adapter: Path) -> None:
    edit(adapter / "adapter_config.json", modules_to_save=["norm"], lora_alpha=0)
    tensors = load_file(adapter / "adapter_model.safetensors")
    norm = load_file(base / "model.safetensors")["model.norm.weight"]
    tensors["base_model.model.model.norm.weight"] = norm
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(MismatchError, match="changes nothing"):
        plan_of(base, adapter)
    tensors["base_model.model.model.norm.weight"] = norm * 2
    save_file(tensors, adapter / "adapter_model.safetensors")
    plan = plan_of(base, adapter)
    assert [t.slot.name for t in plan.tensors if t.adapted] == ["output_norm.weight"]


def test_modules_of_zero_are_counted_and_not_called_adapted(base: Path, adapter: Path) -> None:
    edit(adapter / "adapter_config.json", alpha_pattern={"q_proj": 0})
    plan = plan_of(base, adapter)
    assert {t.slot.name for t in plan.tensors if t.adapted and "attn_q" in t.slot.name} == set()
    assert sum(t.adapted for t in plan.tensors) == 24
    assert any("4 of 28 tensors is exactly zero" in w for w in plan.warnings)


@pytest.mark.parametrize("alpha", [16_000, -32, 0.01])
def test_an_absurd_scaling_is_said(base: Path, adapter: Path, alpha: float) -> None:
    edit(adapter / "adapter_config.json", lora_alpha=alpha)
    assert any("the adapter's scaling (alpha / r) is" in w for w in plan_of(base, adapter).warnings)


def test_the_option_that_allows_it_is_there() -> None:
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    (names,) = [p.opts for p in command.params if p.name == "allow_no_effect"]
    assert names == ["--allow-no-effect"]


# ---- advice ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lora_bias_is_refused_with_advice_that_works(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT refuses to merge it too where the base has no biases, so that is not advised."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = models["llama"]
    adapter = tiny_models.lora(tmp_path / "adapter", base, lora_bias=True)
    with pytest.raises(UnsupportedError, match="lora_bias") as caught:
        plan_of(Path(shutil.copytree(base, tmp_path / "base")), adapter)
    assert str(caught.value.remedy).startswith("train again with lora_bias=False")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    with pytest.raises((ValueError, RuntimeError, AttributeError)):
        model.merge_and_unload()
