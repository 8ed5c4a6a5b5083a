"""Adapter folders: what PEFT writes is read, everything else is refused by name."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pedsup_testing.lazy import Lazy, lazy_names

from pedsup.errors import BadFileError, MismatchError, PedsupError, UnsupportedError
from pedsup_export.adapter.config import parse_config, pattern_key
from pedsup_export.adapter.folder import CONFIG, WEIGHTS, Adapter
from pedsup_export.adapter.match import base_name_warning, candidates, match

torch = Lazy("torch")
load_file, save_file = lazy_names("safetensors.torch", "load_file", "save_file")

P = "base_model.model.model.layers.0.self_attn."
Tensors = dict[str, Any]  # of torch.Tensor
Edit = Callable[[Tensors, dict[str, Any]], object]


def tensors_of(*modules: str, r: int = 4, out: int = 8, in_: int = 6) -> Tensors:
    torch.manual_seed(0)
    result = {}
    for module in modules:
        result[f"base_model.model.{module}.lora_A.weight"] = torch.randn(r, in_)
        result[f"base_model.model.{module}.lora_B.weight"] = torch.randn(out, r)
    return result


def write(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "g/base"}
    (folder / CONFIG).write_text(json.dumps(values | config))
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write(tmp_path / "adapter", tensors_of("model.layers.0.self_attn.q_proj"))


SHAPES = {"model.layers.0.self_attn.q_proj.weight": (8, 6), "lm_head.weight": (10, 6)}


def test_a_plain_adapter(plain: Path) -> None:
    adapter = Adapter.open(plain)
    (delta,) = adapter.deltas.values()
    stored = load_file(plain / WEIGHTS)
    assert delta.module == "model.layers.0.self_attn.q_proj"
    assert (delta.rank, delta.shape, delta.scaling) == (4, (8, 6), 2.0)
    a, b = stored[f"{P}q_proj.lora_A.weight"], stored[f"{P}q_proj.lora_B.weight"]
    assert delta.a.tobytes() == a.numpy().tobytes()
    assert delta.b.tobytes() == b.numpy().tobytes()
    exact = 2.0 * torch.linalg.norm(b.double() @ a.double())
    assert delta.norm() == pytest.approx(float(exact), rel=1e-12)
    assert adapter.base_model_name == "g/base"
    assert set(adapter.digest()) == {CONFIG, WEIGHTS}
    report = match(adapter, SHAPES)
    assert report.matched.keys() == {"model.layers.0.self_attn.q_proj.weight"}
    assert not report.unused


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_16_bit_adapters_are_read_exactly(tmp_path: Path, kind: str) -> None:
    dtype = getattr(torch, kind)
    tensors = {k: v.to(dtype) for k, v in tensors_of("m.q").items()}
    delta = Adapter.open(write(tmp_path, tensors)).deltas["m.q"]
    stored = tensors["base_model.model.m.q.lora_A.weight"].float()
    assert delta.a.tobytes() == stored.numpy().tobytes()


def test_raw_state_dict_spellings(tmp_path: Path) -> None:
    """Keys with the adapter's name in them, as dumps of a state dict have."""
    tensors = {
        k.replace(".weight", ".default.weight"): v for k, v in tensors_of("model.x.q").items()
    }
    tensors["base_model.model.lm_head.modules_to_save.default.weight"] = torch.ones(10, 6)
    adapter = Adapter.open(write(tmp_path, tensors, modules_to_save=["lm_head"]))
    assert set(adapter.deltas) == {"model.x.q"}
    assert set(adapter.replacements) == {"lm_head.weight"}


@pytest.mark.parametrize(
    ("patterns", "module"),
    [
        (["q_proj"], "model.layers.0.self_attn.q_proj"),
        (["proj"], "model.layers.0.self_attn.q_proj"),
        (["attn.q_proj"], "model.layers.0.self_attn.q_proj"),
        (["self_attn.q_proj", "q_proj"], "model.layers.0.self_attn.q_proj"),
        ([r"layers\.\d\.mlp\.(up|down)_proj"], "model.layers.3.mlp.down_proj"),
        ([r"^model\.layers\.1\..*"], "model.layers.1.mlp.up_proj"),
        ([r"model.layers.1"], "model.layers.1.mlp.up_proj"),
        ([r".*", "up_proj"], "model.layers.1.mlp.up_proj"),
        ([], "model.layers.1.mlp.up_proj"),
    ],
)  # fmt: skip
def test_patterns_match_as_in_peft(patterns: list[str], module: str) -> None:
    other = pytest.importorskip("peft.utils.other", reason="pip install 'pedsup[train]'")
    assert pattern_key(dict.fromkeys(patterns), module) == other.get_pattern_key(patterns, module)


def test_rank_and_scaling_follow_the_patterns(tmp_path: Path) -> None:
    tensors = tensors_of("m.0.q", r=2) | tensors_of("m.1.q") | tensors_of("m.2.v")
    deltas = Adapter.open(
        write(tmp_path, tensors, rank_pattern={r"0\.q": 2}, alpha_pattern={"v": 3}, use_rslora=True)
    ).deltas
    assert {k: v.scaling for k, v in deltas.items()} == {
        "m.0.q": 8 / sqrt(2), "m.1.q": 8 / 2, "m.2.v": 3 / 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (lambda t, c: t.pop(f"{P}q_proj.lora_A.weight"), BadFileError, "half of a pair"),
        (lambda t, c: t.pop(f"{P}q_proj.lora_B.weight"), BadFileError, "half of a pair"),
        (lambda t, c: t.clear(), BadFileError, "no tensors"),
        (lambda t, c: t[f"{P}q_proj.lora_A.weight"].fill_(float("nan")), BadFileError, "NaN"),
        (lambda t, c: t[f"{P}q_proj.lora_B.weight"].view(-1)[5].fill_(float("-inf")),
         BadFileError, r"q_proj\.lora_B\.weight' holds NaN or Inf"),
        (lambda t, c: c.update(r=8), BadFileError, "rank 4, its partner 4, .* says 8"),
        (lambda t, c: c.update(rank_pattern={"q_proj": 3}), BadFileError, "rank 4"),
        (lambda t, c: t.update({f"{P}q_proj.lora_A.weight": torch.zeros(0)}), BadFileError,
         r"shape \[0\]"),
        (lambda t, c: t.update({f"{P}q_proj.lora_A.weight": torch.zeros(4, 6, 1)}), BadFileError,
         "shape"),
        (lambda t, c: t.update({f"{P}q_proj.lora_A.weight": torch.zeros(4, 6).int()}),
         UnsupportedError, "I32"),
        (lambda t, c: t.update({f"{P}q_proj.lora_C.weight": torch.ones(2)}), UnsupportedError,
         r"q_proj\.lora_C\.weight"),
        (lambda t, c: t.update({"model.x.lora_A.weight": torch.ones(2, 2)}), UnsupportedError,
         r"unknown tensor 'model\.x\.lora_A"),
        (lambda t, c: t.update({f"{P}q_proj.lora_velora_embed": torch.ones(2)}), UnsupportedError,
         "lora_velora"),
        (lambda t, c: t.update({f"{P}q_proj.lora_B.bias": torch.ones(8)}), UnsupportedError,
         "lora_bias"),
        (lambda t, c: t.update({"base_model.model.model.norm.weight": torch.ones(6)}),
         UnsupportedError, "explained by nothing"),
        (lambda t, c: t.update({"base_model.model.q.bias": torch.ones(6)}), UnsupportedError,
         "explained by nothing"),
        (lambda t, c: (t.update({"base_model.model.model.norm.weight": torch.ones(6).log() / 0}),
                       c.update(modules_to_save=["norm"])), BadFileError, r"norm\.weight' holds"),
        (lambda t, c: t.update({f"{P}q_proj.lora_A.default.weight": torch.ones(4, 6)}),
         BadFileError, "same tensor"),
        (lambda t, c: c.update(use_dora=True), BadFileError, "lacks a magnitude"),
        (lambda t, c: t.update({f"{P}q_proj.lora_magnitude_vector": torch.ones(8)}), BadFileError,
         "has a magnitude"),
        (lambda t, c: (t.update({f"{P}q_proj.lora_magnitude_vector": torch.ones(9)}),
                       c.update(use_dora=True)), BadFileError, "9 elements"),
        (lambda t, c: (t.update({f"{P}q_proj.lora_magnitude_vector": torch.ones(8),
                                 f"{P}v_proj.lora_magnitude_vector": torch.ones(8)}),
                       c.update(use_dora=True)), BadFileError, "no lora_A"),
        (lambda t, c: (t.update({"base_model.model.e.lora_embedding_A": torch.ones(4, 9),
                                 "base_model.model.e.lora_embedding_B": torch.ones(6, 4),
                                 "base_model.model.e.lora_magnitude_vector": torch.ones(9)}),
                       t.pop(f"{P}q_proj.lora_A.weight"), t.pop(f"{P}q_proj.lora_B.weight"),
                       c.update(use_dora=True)), UnsupportedError, "DoRA on an embedding"),
        (lambda t, c: t.update({"base_model.model.e.token_adapter.trainable_tokens_delta":
                                torch.ones(2, 6)}), BadFileError, "0 tokens"),
        (lambda t, c: (t.update({"base_model.model.e.token_adapter.trainable_tokens_delta":
                                 torch.ones(2, 6)}), c.update(trainable_token_indices=[1])),
         BadFileError, "1 tokens"),
    ],
)  # fmt: skip
def test_bad_tensors_are_refused_by_name(
    plain: Path, edit: Edit, kind: type[PedsupError], words: str
) -> None:
    tensors, config = load_file(plain / WEIGHTS), json.loads((plain / CONFIG).read_text())
    edit(tensors, config)
    write(plain, tensors, **config)
    with pytest.raises(kind, match=words) as caught:
        Adapter.open(plain)
    assert caught.value.remedy
    assert caught.value.where


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": None}, "None"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1, 2]}, "alora"),
        ({"use_qalora": True}, "use_qalora"),
        ({"arrow_config": {"top_k": 3}}, "arrow"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "loftq"}, "loftq"),
    ],
)
def test_options_that_no_merge_can_express_are_refused_by_name(
    plain: Path, config: dict[str, Any], words: str
) -> None:
    write(plain, load_file(plain / WEIGHTS), **config)
    with pytest.raises(UnsupportedError, match=words):
        Adapter.open(plain)


@pytest.mark.parametrize(
    "config",
    [
        {"r": 0}, {"r": "4"}, {"r": True}, {"r": None}, {"lora_alpha": "8"}, {"lora_alpha": 1e300},
        {"rank_pattern": []}, {"rank_pattern": {"(": 4}}, {"rank_pattern": {"q": -1}},
        {"alpha_pattern": {"q": None}}, {"use_rslora": "yes"}, {"modules_to_save": "lm_head"},
        {"modules_to_save": [1]}, {"trainable_token_indices": [-1]},
        {"trainable_token_indices": [1, 1]}, {"trainable_token_indices": {"e": 3}},
        {"base_model_name_or_path": 3}, {"bias": 1},
    ],
)  # fmt: skip
def test_wrong_values_in_the_configuration(plain: Path, config: dict[str, Any]) -> None:
    # Empty collections mean "not set", as in PEFT.
    write(plain, load_file(plain / WEIGHTS), **config)
    if config == {"rank_pattern": []}:
        Adapter.open(plain)
        return
    with pytest.raises(BadFileError, match=next(iter(config))):
        Adapter.open(plain)


def test_unknown_options_become_warnings(plain: Path) -> None:
    write(plain, load_file(plain / WEIGHTS), use_tomorrows_idea=True, old_option=None)
    adapter = Adapter.open(plain)
    assert len(adapter.warnings) == 1
    assert "use_tomorrows_idea" in adapter.warnings[0]
    assert match(adapter, SHAPES).warnings == adapter.warnings


def test_what_peft_writes_by_default_has_no_warning(plain: Path) -> None:
    peft = pytest.importorskip("peft", reason="pip install 'pedsup[train]'")
    peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"]).save_pretrained(plain)
    assert Adapter.open(plain).warnings == ()


def test_folders_that_are_no_adapter(plain: Path, tmp_path: Path) -> None:
    def refused(folder: Path, kind: type[PedsupError], words: str) -> None:
        with pytest.raises(kind, match=words) as caught:
            Adapter.open(folder)
        assert caught.value.remedy

    refused(tmp_path / "nowhere", BadFileError, "no such folder")
    refused(tmp_path, BadFileError, "not a PEFT adapter")
    (plain / WEIGHTS).rename(plain / "aside")
    refused(plain, BadFileError, "is missing")
    (plain / "adapter_model.bin").write_bytes(b"\x80\x02")
    refused(plain, UnsupportedError, "pickle")
    shutil.copy(plain / "aside", plain / WEIGHTS)
    (plain / CONFIG).write_text("{")
    refused(plain, BadFileError, "not JSON")
    (plain / WEIGHTS).write_bytes((plain / "aside").read_bytes()[:-4])
    (plain / CONFIG).write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    refused(plain, BadFileError, "truncated")


# ---- matching -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "tensor"),
    [
        ("model.layers.0.q", "model.language_model.layers.0.q.weight"),
        ("model.language_model.layers.0.q", "model.layers.0.q.weight"),
        ("language_model.model.layers.0.q", "model.language_model.layers.0.q.weight"),
        ("model.layers.0.q", "language_model.model.layers.0.q.weight"),
        ("layers.0.q", "model.layers.0.q.weight"),
        ("model.layers.0.q.linear", "model.layers.0.q.weight"),
        ("model.layers.0.q", "model.layers.0.q.linear.weight"),
        ("model.layers.0.q.base_layer", "model.layers.0.q.weight"),
    ],
)
def test_known_spellings_match(tmp_path: Path, module: str, tensor: str) -> None:
    adapter = Adapter.open(write(tmp_path, tensors_of(module)))
    report = match(adapter, {tensor: (8, 6), "lm_head.weight": (1, 1)})
    assert report.matched.keys() == {tensor}


@pytest.mark.parametrize(
    "tensor",
    [
        "model.layers.10.q.weight", "model.layers.0.qq.weight", "x.model.layers.0.q.weight",
        "model.layers.0.q.weight_scale", "model.vision_tower.layers.0.q.weight", "q.weight",
        "model.layers.0.Q.weight",
    ],
)  # fmt: skip
def test_nothing_is_matched_by_likeness(tmp_path: Path, tensor: str) -> None:
    adapter = Adapter.open(write(tmp_path, tensors_of("model.layers.0.q")))
    with pytest.raises(MismatchError, match="no module of the adapter exists"):
        match(adapter, {tensor: (8, 6)})


@given(st.text(alphabet="abmodel.lngu_y0", min_size=1, max_size=30))
def test_a_name_is_its_own_first_candidate(path: str) -> None:
    if not path.endswith(".base_layer"):
        assert candidates(f"{path}.weight")[0] == f"{path}.weight"
    assert candidates("w") == ["w"]


def test_an_exact_name_wins_and_other_doubt_is_refused(plain: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    other = "model.language_model.layers.0.self_attn.q_proj.weight"
    third = "language_model.model.layers.0.self_attn.q_proj.weight"
    adapter = Adapter.open(plain)
    assert match(adapter, {name: (8, 6), other: (8, 6)}).matched.keys() == {name}
    with pytest.raises(MismatchError, match="may be any of"):
        match(adapter, {third: (8, 6), other: (8, 6)})


def test_two_parts_for_one_tensor_are_refused(tmp_path: Path) -> None:
    adapter = Adapter.open(write(tmp_path, tensors_of("model.layers.0.q", "layers.0.q")))
    with pytest.raises(MismatchError, match="two parts of the adapter"):
        match(adapter, {"model.layers.0.q.weight": (8, 6)})


def test_left_over_parts_are_listed_with_norm_and_reason(tmp_path: Path) -> None:
    modules = {
        "tower": "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear",
        "dead_kv": "model.language_model.layers.40.self_attn.k_proj",
        "unknown": "model.language_model.layers.99.self_attn.q_proj",
    }
    good = "model.language_model.layers.0.self_attn.q_proj"
    zero = "model.language_model.layers.41.self_attn.v_proj"
    tensors = tensors_of(good, zero, *modules.values())
    tensors[f"base_model.model.{zero}.lora_B.weight"].zero_()
    adapter = Adapter.open(write(tmp_path, tensors))
    dead = {f"model.layers.{n}.self_attn.{p}_proj.weight" for n in (40, 41) for p in "kv"}
    base = {
        "model.layers.0.self_attn.q_proj.weight": (8, 6),
        # a dead projection is left over even where the checkpoint holds it
        "model.layers.40.self_attn.k_proj.weight": (8, 6),
        "lm_head.weight": (10, 6),
    }
    report = match(adapter, base, is_dead=dead.__contains__)
    assert report.matched.keys() == {"model.layers.0.self_attn.q_proj.weight"}
    found = {u.module: u for u in report.unused}
    assert {found[m].kind: m for m in modules.values()} == modules
    assert found[zero].kind == "dead_kv"
    assert found[zero].norm == 0
    for module in modules.values():
        stored = load_file(tmp_path / WEIGHTS)
        a = stored[f"base_model.model.{module}.lora_A.weight"].double()
        b = stored[f"base_model.model.{module}.lora_B.weight"].double()
        assert found[module].norm == pytest.approx(float(torch.linalg.norm(b @ a)) * 2, rel=1e-12)
        assert found[module].reason
    assert [u.module for u in report.wrong_forward_pass] == [modules["dead_kv"]]
    tower = f"{modules['tower']}.weight"
    with_tower = match(adapter, {**base, tower: (8, 6)}, is_dead=dead.__contains__)
    assert tower in with_tower.matched, "for the projector"


def test_whole_tensors_and_token_rows_that_are_left_over(tmp_path: Path) -> None:
    tensors = tensors_of("model.layers.0.q")
    tensors["base_model.model.model.embed_vision.proj.weight"] = torch.full((3, 4), 2.0)
    tensors["base_model.model.x.token_adapter.trainable_tokens_delta"] = torch.ones(1, 4)
    folder = write(tmp_path, tensors, modules_to_save=["proj"], trainable_token_indices=[0])
    report = match(Adapter.open(folder), {"model.layers.0.q.weight": (8, 6)})
    assert {(u.module, u.kind, round(u.norm, 6)) for u in report.unused} == {
        ("model.embed_vision.proj", "tower", round(sqrt(48), 6)), ("x", "unknown", 2.0),
    }  # fmt: skip


def test_the_adapter_of_another_model(plain: Path) -> None:
    adapter = Adapter.open(plain)
    with pytest.raises(MismatchError, match=r"\[8, 6\], the base has \[16, 12\]") as caught:
        match(adapter, {"model.layers.0.self_attn.q_proj.weight": (16, 12)})
    assert "another model (trained on g/base)" in str(caught.value.remedy)
    with pytest.raises(MismatchError, match="no module of the adapter"):
        match(adapter, {"transformer.h.0.attn.c_attn.weight": (8, 6)})


@pytest.mark.parametrize("width", [5, 6])
def test_token_rows_of_another_vocabulary(tmp_path: Path, width: int) -> None:
    key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    tensors = {key: torch.ones(2, width)}
    folder = write(tmp_path, tensors, trainable_token_indices=[3, 10])
    with pytest.raises(MismatchError):
        match(Adapter.open(folder), {"model.embed_tokens.weight": (10, 6)})


@pytest.mark.parametrize(
    ("trained_on", "base", "agree"),
    [
        ("unsloth/gemma-4-e4b-it-unsloth-bnb-4bit", "google/gemma-4-E4B-it", True),
        ("google/gemma-4-E4B-it", "/models/gemma-4-E4B-it/", True),
        ("google/gemma-4-E4B-it", "google/gemma-4-E2B-it", False),
        ("google/gemma-4-E4B-it", "google/gemma-4-E4B", False),
        ("google/gemma-4-E4B-it", None, True),
        ("/x/hub/models--google--gemma-4-E4B-it/snapshots/01ab", "base", False),
        ("/x/hub/models--google--gemma-4-E4B-it/snapshots/01ab", "google/gemma-4-E4B-it", True),
        ("/x/hub/models--google--gemma-4-E4B-it/snapshots/01ab/", "gemma-4-E4B-it", True),
        (r"C:\Users\Ana María\models\gemma-4-E4B-it", "gemma-4-E4B-it", True),
        ("..\\models\\gemma-4-E4B-it\\", "google/gemma-4-E4B-it", True),
        (r"C:\models\gemma-4-E2B-it", "gemma-4-E4B-it", False),
        (None, "google/gemma-4-E4B-it", True),
    ],
)
def test_names_of_bases_are_compared_loosely(
    plain: Path, trained_on: str | None, base: str | None, agree: bool
) -> None:
    write(plain, load_file(plain / WEIGHTS), base_model_name_or_path=trained_on)
    assert (base_name_warning(Adapter.open(plain), base) is None) == agree


# ---- damage -------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
options = st.sampled_from(
    ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias",
     "modules_to_save", "trainable_token_indices", "base_model_name_or_path", "revision",
     "init_lora_weights", "target_modules", "lora_bias", "strange"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(changes=st.dictionaries(options, values, max_size=4))
def test_forged_configurations_raise_typed_errors_only(changes: dict[str, Any]) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | changes
    with contextlib.suppress(PedsupError):
        parsed = parse_config(config, Path("adapter_config.json"))
        assert np.isfinite(parsed.scaling("model.layers.0.self_attn.q_proj"))


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.lists(
        st.tuples(
            st.sampled_from(["base_model.model.", "base_model.", ""]),
            st.sampled_from(["m.q", "lm_head", "m.embed_tokens", "m", ""]),
            st.sampled_from(
                [".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B",
                 ".lora_magnitude_vector", ".weight", ".bias", ".modules_to_save.weight",
                 ".base_layer.weight", ".token_adapter.trainable_tokens_delta", ".lora_B.bias"]
            ),
            st.lists(st.sampled_from([0, 1, 4, 6]), max_size=3),
        ),
        max_size=5,
    ),
    config=st.fixed_dictionaries(
        {},
        optional={
            "use_dora": st.booleans(), "bias": st.sampled_from(["none", "all"]),
            "modules_to_save": st.just(["m"]), "trainable_token_indices": st.just([0]),
        },
    ),
)  # fmt: skip
def test_any_set_of_tensors_raises_typed_errors_only(
    tmp_path: Path, names: list[tuple[str, str, str, list[int]]], config: dict[str, Any]
) -> None:
    tensors = {a + b + c: torch.ones(shape) for a, b, c, shape in names}
    with contextlib.suppress(PedsupError):
        adapter = Adapter.open(write(tmp_path, tensors, **config))
        match(adapter, {"m.q.weight": (4, 4), "m.embed_tokens.weight": (6, 4), "m.weight": (4,)})
