"""A projector before llama.cpp sees it: its fields and tensors, and what ties it to its model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pedsup_testing import forged_projector, signed_models
from pedsup_testing.forged_gguf import (
    ARRAY,
    BOOL,
    F16_TENSOR,
    F32,
    I32,
    I32_TENSOR,
    STRING,
    U32,
    Array,
    Forged,
    Row,
)
from pedsup_testing.forged_projector import WIDTH
from pedsup_testing.home import environment

from pedsup.cli.commands.patch import _made, _projector_text
from pedsup.cli.commands.tune import _prepare
from pedsup.device.available import Available
from pedsup.engine.build_probe import LIBRARY_VARIABLE
from pedsup.errors import (
    BadFileError,
    MismatchError,
    MissingDependencyError,
    PedsupError,
    ResourceError,
    UnsupportedError,
    UntrustedError,
)
from pedsup.gguf_file import read_header
from pedsup.gguf_file.projector import unchecked_projector, validate_projector
from pedsup.run.plan import plan_launch
from pedsup.run.preview import check_document, check_text
from pedsup.run.sight import require_sight
from pedsup.settings.schema import Settings
from pedsup.texts.language import translated
from pedsup.trust.identity import header_digest
from pedsup.trust.manifest import (
    DIGEST_KEY,
    MMPROJ_KEY,
    core_digest,
    manifest_document,
    manifest_path,
    mmproj_path,
    projector_origin,
)

GOOD = forged_projector.gemma4()
SIZES = ("projection_dim", "image_size", "patch_size", "embedding_length", "feed_forward_length",
         "block_count", "attention.head_count")  # fmt: skip
_PLENTY = Available(64 << 30, "a test")


def _key(name: str, kind: int, value: object) -> Forged:
    return GOOD.with_key(f"clip.vision.{name}", kind, value)


def _without(row: str) -> Forged:
    return replace(GOOD, rows=tuple(r for r in GOOD.rows if r.name != row))


def _more(*rows: Row) -> Forged:
    return replace(GOOD, rows=GOOD.rows + rows)


# Each of these ended the process in llama.cpp 0c1e57098, at loading or at the first picture.
ASSERTED: dict[str, tuple[Forged, str]] = {
    **{
        f"{key} of the type {kind}": (GOOD.with_key(key, kind, value), "the field")
        for key, kind, value in (
            ("general.name", U32, 1), ("general.description", U32, 1),
            ("clip.use_gelu", U32, 1), ("clip.use_silu", STRING, "x"),
            ("clip.has_audio_encoder", U32, 1), ("clip.has_gen_audio_encoder", U32, 1),
            ("clip.projector_type", U32, 1), ("clip.minicpmv_version", U32, 7),
            ("clip.minicpmv_query_num", STRING, "x"),
            ("clip.vision.mm_patch_merge_type", U32, 1),
            ("clip.vision.attention.layer_norm_epsilon", U32, 1),
            ("clip.vision.attention.head_count_kv", STRING, "x"),
        )
    },
    "a negative epsilon": (_key("attention.layer_norm_epsilon", F32, -1.0), "is -1.0"),
    "other K and V heads": (_key("attention.head_count_kv", U32, 1), "is 1"),
    "another head size": (_key("attention.head_dim", U32, 8), "is 8"),
    "a norm in float16": (GOOD.with_row("v.blk.0.ln1.weight", kind=F16_TENSOR), "the type F16"),
    **{
        f"{name} that does not fit": (_more(Row(name, (7,))), said)
        for name, said in (
            ("v.pre_ln.weight", "does not belong"), ("v.post_ln.weight", "does not belong"),
            ("v.blk.0.ls1.weight", "does not belong"), ("v.std_bias", "has the shape"),
            ("v.blk.0.attn_qkv.weight", "does not belong"),
            ("v.blk.0.ffn_gate_exps.weight", "does not belong"),
            ("v.blk.0.out_scale.weight", "has the shape"),
            ("v.blk.0.ffn_gate.bias", "has the shape"),
        )
    },
}  # fmt: skip

BROKEN: dict[str, tuple[Forged, str]] = {
    **ASSERTED,
    "a standard deviation of zero": (_key("image_std", ARRAY, Array(F32, [0.0] * 3)), "is [0.0"),
    "no epsilon": (GOOD.without_key("clip.vision.attention.layer_norm_epsilon"), "is missing"),
    "heads of two numbers": (_key("attention.head_count", U32, 16), "is 16"),
    "audio generation": (GOOD.with_key("clip.has_gen_audio_encoder", BOOL, True), "is True"),
    "two numbers to clamp at": (_more(Row("v.blk.0.attn_q.input_max", (2,))), "has the shape"),
    **{f"{name} of zero": (_key(name, U32, 0), "is 0") for name in SIZES},
    **{f"{name} of 2^31": (_key(name, U32, 1 << 31), "is 2147483648") for name in SIZES},
    **{f"no {name}": (GOOD.without_key(f"clip.vision.{name}"), "is missing") for name in SIZES},
    "a signed size": (_key("patch_size", I32, 4), "INT32"),
    "heads that do not divide": (_key("attention.head_count", U32, 3), "is 3"),
    "more layers than tensors": (_key("block_count", U32, 3), "v.blk.2.attn_q.weight"),
    "whole numbers as means": (_key("image_mean", ARRAY, Array(I32, [0, 0, 0])), "three numbers"),
    "two means": (_key("image_mean", ARRAY, Array(F32, [0.0, 0.0])), "three numbers"),
    "a mean that is no number": (
        _key("image_mean", ARRAY, Array(F32, [0.0, float("nan"), 0.0])), "NaN or Inf",
    ),
    "a merge of zero": (_key("projector.scale_factor", U32, 0), "is 0"),
    "no kind": (GOOD.without_key("clip.vision.projector_type"), "projector_type"),
    "another width": (_key("embedding_length", U32, 64), "has the shape"),
    "another feed-forward width": (_key("feed_forward_length", U32, 96), "has the shape"),
    "a patch of another size": (_key("patch_size", U32, 8), "v.patch_embd.weight"),
    "a square projection": (
        GOOD.with_row("mm.input_projection.weight", dims=(WIDTH, 64)), "has the shape",
    ),
    "no projection": (_without("mm.input_projection.weight"), "is missing"),
    "no table of positions": (_without("v.position_embd.weight"), "is missing"),
    "a short table of positions": (
        GOOD.with_row("v.position_embd.weight", dims=(WIDTH, 100, 2)), "has the shape",
    ),
    "whole numbers as weights": (
        GOOD.with_row("v.blk.0.attn_q.weight", kind=I32_TENSOR), "has the type I32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_forged_projector_is_refused(name: str, tmp_path: Path) -> None:
    forged, said = BROKEN[name]
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(forged.encode())
    with pytest.raises(BadFileError) as caught:
        validate_projector(path)
    assert said in str(caught.value)


def test_a_good_one_and_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(GOOD.encode())
    found = validate_projector(path)
    assert (found.kind, found.known, found.n_embd_text, found.merge) == ("gemma4v", True, 32, 3)
    assert found.most_tokens() == 280
    path.write_bytes(_key("projector_type", STRING, "pixtral").encode())
    other = validate_projector(path)
    assert not other.known
    assert "kind 'pixtral'" in translated(str(unchecked_projector(other)), "en")
    assert unchecked_projector(found) is None
    path.write_bytes(
        _more(
            Row("v.std_bias", (WIDTH,)), Row("v.std_scale", (WIDTH,)),
            Row("v.blk.1.out_scale.weight", (1,)), Row("v.blk.0.attn_q.input_max", (1,)),
            Row("mm.input_projection.output_min", (1,)),
        ).encode()
    )  # fmt: skip
    assert validate_projector(path).known
    path.write_bytes(GOOD.with_key("clip.has_vision_encoder", 7, False).encode())
    with pytest.raises(UnsupportedError, match="no vision tower"):
        validate_projector(path)
    with pytest.raises(UnsupportedError, match="architecture 'llama'"):
        validate_projector(signed_models.tiny(tmp_path / "model.gguf"))


# ---- the pair -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))


def _pair(folder: Path, forged: Forged = GOOD) -> Path:
    """A model of pedsup's with its projector: tied to each other as an export does."""
    folder.mkdir(exist_ok=True)
    source, target = signed_models.tiny(folder / "source.gguf"), folder / "model.gguf"
    core = signed_models._core(read_header(source))
    projector = mmproj_path(target)
    tied = forged.with_key(MMPROJ_KEY, STRING, projector_origin(core))
    projector.write_bytes(tied.encode())
    core["mmproj"] = {
        "name": projector.name,
        "size": projector.stat().st_size,
        "sha256": hashlib.sha256(projector.read_bytes()).hexdigest(),
        "header": header_digest(read_header(projector)),
        "quant": "F32", "vision": True, "audio": False, "tensors": {},
    }  # fmt: skip
    signed_models._write(read_header(source), target, {DIGEST_KEY: core_digest(core)})
    source.unlink()
    facts = {
        "name": target.name,
        "size": target.stat().st_size,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }
    document = manifest_document(core, facts, "2026-11-24T00:00:00+00:00")
    manifest_path(target).write_text(json.dumps(document))
    return target


def test_the_model_s_manifest_names_its_projector(tmp_path: Path) -> None:
    model = _pair(tmp_path)
    plan = plan_launch(model, Settings(strict=True), available=_PLENTY)
    assert not plan.trust.companions["projector"].unbound
    assert plan.config.projector == mmproj_path(model)
    assert (
        plan.trust.companions["projector"].expected_sha256
        == hashlib.sha256(mmproj_path(model).read_bytes()).hexdigest()
    )
    # One byte of its weights: found when they are read.
    from pedsup.trust.assess import verify_weights

    raw = bytearray(mmproj_path(model).read_bytes())
    raw[-1] ^= 1
    mmproj_path(model).write_bytes(raw)
    changed = plan_launch(model, Settings(), available=_PLENTY)
    with pytest.raises(UntrustedError, match="not the one that was exported"):
        verify_weights(changed.trust)
    # One field of its header: found at once.
    mmproj_path(model).write_bytes(GOOD.with_key("general.name", STRING, "x").encode())
    with pytest.raises(UntrustedError, match="not the projector that the model's manifest names"):
        plan_launch(model, Settings(), available=_PLENTY)
    assert plan_launch(model, Settings(mmproj="off"), available=_PLENTY).sight is None


def test_the_name_of_a_projector_cannot_look_like_a_line_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by what is in it: whoever copies it may give it any name."""
    model = _pair(tmp_path)
    mmproj_path(model).rename(tmp_path / "mmproj-a\nSigned by Dr. Who.gguf")
    plan = plan_launch(model, Settings(), available=_PLENTY)
    assert plan.config.projector is not None
    (tmp_path / "libmtmd.so").touch()
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path))  # a llama.cpp that sees
    shown = [check_text(plan), *_projector_text(model, _made(model, plan.trust, None))]
    lines = "\n".join(translated(text, "en") for text in shown).splitlines()
    assert sum("Who.gguf" in line for line in lines) == 3
    assert not [line for line in lines if line.startswith("Signed by")]


def test_a_projector_of_another_model_is_refused(tmp_path: Path) -> None:
    model = _pair(tmp_path)
    other = tmp_path / "other.gguf"
    other.write_bytes(GOOD.with_key(MMPROJ_KEY, STRING, "0" * 64).encode())
    with pytest.raises(MismatchError, match="made with another model"):
        plan_launch(model, Settings(mmproj=str(other)), available=_PLENTY)
    other.write_bytes(forged_projector.gemma4(text_width=64).encode())
    with pytest.raises(MismatchError, match="embeddings of 64 numbers"):
        plan_launch(model, Settings(mmproj=str(other)), available=_PLENTY)


def test_a_foreign_projector_runs_with_a_warning(tmp_path: Path) -> None:
    model = signed_models.tiny(tmp_path / "model.gguf")
    mmproj_path(model).write_bytes(GOOD.encode())
    plan = plan_launch(model, Settings(), available=_PLENTY)
    said = " ".join(translated(line, "en") for line in plan.trust.lines())
    assert "nothing says that this projector was made for this model" in said
    assert plan.trust.warns
    with pytest.raises(UnsupportedError, match="nothing says that this projector"):
        plan_launch(model, Settings(strict=True), available=_PLENTY)


def test_what_a_picture_costs_is_in_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _pair(tmp_path)
    plan = plan_launch(model, Settings(picture_tokens=140), available=_PLENTY)
    document = check_document(plan)
    sight = document["sight"]
    assert isinstance(sight, dict)
    assert (sight["tokens"], sight["in_use"]) == (140, True)
    assert sight["bytes"] > mmproj_path(model).stat().st_size
    assert (
        plan.fit.need.total
        > plan_launch(model, Settings(mmproj="off"), available=_PLENTY).fit.need.total
    )
    # Where llama.cpp's library lies, libmtmd says whether it sees.
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path))
    said = translated(check_text(plan), "en")
    assert "Pictures: no, this build of llama.cpp cannot see pictures" in said
    with pytest.raises(MissingDependencyError, match="libmtmd"):
        require_sight(plan.blind, plan.config)
    (tmp_path / "libmtmd.so").touch()
    assert "each takes up to 140 tokens" in translated(check_text(plan), "en")
    require_sight(plan.blind, plan.config)
    monkeypatch.delenv(LIBRARY_VARIABLE)
    mmproj_path(model).unlink()
    blind = plan_launch(model, Settings(), available=_PLENTY)
    assert "Pictures: no" in translated(check_text(blind), "en")
    with pytest.raises(UnsupportedError, match="cannot see pictures"):
        require_sight(blind.blind, blind.config)


def test_a_projector_that_nobody_asked_for_costs_no_context(tmp_path: Path) -> None:
    model = _pair(tmp_path)
    without = plan_launch(model, Settings(mmproj="off"), available=_PLENTY).fit.need.total
    little = Available(without + (1 << 20), "a test")
    plan = plan_launch(model, Settings(), available=little)
    assert plan.config.projector is None
    assert "projector" not in plan.trust.companions
    with pytest.raises(ResourceError, match="no memory for its projector"):
        require_sight(plan.blind, plan.config)
    asked = plan_launch(model, Settings(), available=little, seeing=True)
    assert asked.config.projector is not None
    assert asked.fit.verdict != "fits" or asked.config.n_ctx < plan.config.n_ctx


def test_tune_heeds_the_settings_of_the_projector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `pedsup-run` would leave alone does not stop `tune` either."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    model = _pair(tmp_path)
    mmproj_path(model).write_bytes(b"GGUF, cut")
    launch, _, bench = _prepare(model, Settings(mmproj="off"), 5)
    bench.close()
    assert launch.sight is None
    with pytest.raises(BadFileError):
        _prepare(model, Settings(), 5)


def test_a_projector_of_another_kind_runs_with_a_warning(tmp_path: Path) -> None:
    model = signed_models.tiny(tmp_path / "model.gguf")
    mmproj_path(model).write_bytes(_key("projector_type", STRING, "mlp").encode())
    plan = plan_launch(model, Settings(), available=_PLENTY)
    assert "does not know projectors of the kind 'mlp'" in str(plan.unchecked)
    assert "does not know projectors" in translated(check_text(plan), "en")
    with pytest.raises(UnsupportedError, match="a projector of the kind 'mlp'"):
        plan_launch(model, Settings(strict=True), available=_PLENTY)


def test_a_missing_projector_is_an_error_when_it_is_named(tmp_path: Path) -> None:
    model = signed_models.tiny(tmp_path / "model.gguf")
    with pytest.raises(PedsupError, match="no such file"):
        plan_launch(model, Settings(mmproj=str(tmp_path / "none.gguf")), available=_PLENTY)
