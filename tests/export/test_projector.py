"""The projector beside a model: llama.cpp's bytes, the adapter in it, tied to its model.

Oracles: llama.cpp's own converter with `--mmproj`, after PEFT's own merge where there is an
adapter.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pedsup_testing import towers
from pedsup_testing.home import environment
from safetensors.numpy import load_file, save_file

from pedsup.cli.commands.patch import command as patch_command
from pedsup.errors import MismatchError, OutputError, PedsupError, UntrustedError, UsageError
from pedsup.files.fsio import sha256_file
from pedsup.files.journal import LineJournal
from pedsup.gguf_file import read_header
from pedsup.gguf_file.header import GGUFHeader
from pedsup.gguf_file.projector import DEFAULT_TOKENS, validate_projector
from pedsup.memory.picture import projector_bytes
from pedsup.progress import human_bytes
from pedsup.run.plan import plan_launch
from pedsup.settings.schema import Settings
from pedsup.trust.identity import header_digest
from pedsup.trust.manifest import (
    MMPROJ_KEY,
    manifest_path,
    mmproj_path,
    projector_origin,
    read_manifest,
)
from pedsup_export.allocation.budget import Budget
from pedsup_export.cli import cli
from pedsup_export.patch.make import make_patch
from pedsup_export.patch.plan import PatchRequest, plan_patch
from pedsup_export.phone.bundle import BundleRequest, plan_bundle, write_bundle
from pedsup_export.plan.export_plan import Calibration
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.write import stream as stream_module
from pedsup_export.write.publish import execute
from pedsup_export.write.render import plan_text
from pedsup_export.write.unchanged import unchanged

ROOT = Path(__file__).parents[2]
ConvertWith = Callable[..., Path]
FAMILIES = ("gemma4", "gemma3")


@dataclass(frozen=True)
class Case:
    """A base, an adapter of its towers, and what was exported of them."""

    base: Path
    adapter: Path
    out: Path
    request: ExportRequest

    @property
    def projector(self) -> Path:
        return mmproj_path(self.out)


def request_for(base: Path, out: Path, adapter: Path | None = None, **more: Any) -> ExportRequest:
    return ExportRequest(
        base=ModelRef(base, base.name),
        adapter=ModelRef(adapter, adapter.name) if adapter else None,
        out=out,
        **{"quant": "Q8_0", "mmproj": "BF16", **more},
    )


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Each family exported once, with an adapter; do not write to these files."""
    made = {}
    for family in FAMILIES:
        root = tmp_path_factory.mktemp(family)
        base = getattr(towers, family)(root / "base")
        adapter = towers.lora(root / "adapter", base, towers.TARGETS[family])
        request = request_for(base, root / "m.gguf", adapter)
        execute(*make_plan(request))
        made[family] = Case(base, adapter, request.out, request)
    return made


@pytest.fixture
def pair(cases: dict[str, Case], tmp_path: Path) -> Path:
    """A copy of Gemma 3's model and projector that a test may change; the model's path."""
    for path in cases["gemma3"].out.parent.glob("*m.gguf*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "m.gguf"


def tensors(header: GGUFHeader) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    data = header.path.read_bytes()[header.data_offset :]
    return {
        t.name: (t.type.name, t.shape, data[t.offset : t.offset + t.n_bytes])
        for t in header.tensors.values()
    }


def compare(mine: Path, theirs: Path) -> None:
    """Names, order, types, shapes and bytes of all tensors; every entry that they have."""
    ours, wanted = read_header(mine), read_header(theirs)
    assert list(ours.tensors) == list(wanted.tensors)
    found, expected = tensors(ours), tensors(wanted)
    for name in [n for n in found if "per_dim_scale" in n]:
        # torch's softplus is not rounded correctly, and how depends on the processor.
        a, b = (np.frombuffer(x.pop(name)[2], np.float32) for x in (found, expected))
        np.testing.assert_array_max_ulp(a, b, maxulp=1)
    assert found == expected
    own = {"general.name"}
    for key, value in wanted.metadata.items():
        if key not in own:
            assert _plain(ours.metadata[key]) == _plain(value), key
    assert {k for k in ours.metadata if k.startswith("clip.")} <= wanted.metadata.keys()


def _plain(value: Any) -> Any:
    return value.values() if hasattr(value, "values") else value


# ---- the bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_with_an_adapter_it_is_the_converter_s_after_peft_s_merge(
    family: str, cases: dict[str, Case], convert: ConvertWith, tmp_path: Path
) -> None:
    case = cases[family]
    whole = towers.merged(tmp_path / "merged", case.base, case.adapter)
    compare(case.projector, convert(whole, "bf16", "--mmproj"))
    header = read_header(case.projector)
    assert (header.architecture, header.get("general.type")) == ("clip", "mmproj")
    core = read_manifest(manifest_path(case.out)).core
    changed = {n for n, t in core["mmproj"]["tensors"].items() if t["adapted"]}  # type: ignore[index]
    shares = core["adapter"]["shares"]  # type: ignore[index]
    assert changed and changed <= shares.keys()
    assert all(share > 0.5 for share in shares.values())


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("gemma3", "Q8_0"),  # rows of 72 are not of whole blocks: F16, as the converter falls back
        pytest.param("gemma3", "F16", marks=pytest.mark.slow),
        pytest.param("gemma4", "F16", marks=pytest.mark.slow),
        pytest.param("gemma4", "Q8_0", marks=pytest.mark.slow),
    ],
)
def test_the_other_types_are_the_converter_s_too(
    family: str, kind: str, cases: dict[str, Case], convert: ConvertWith, tmp_path: Path
) -> None:
    request = request_for(cases[family].base, tmp_path / "m.gguf", mmproj=kind)
    execute(*make_plan(request))
    compare(mmproj_path(request.out), convert(cases[family].base, kind.lower(), "--mmproj"))


def test_without_one_the_model_is_as_before(cases: dict[str, Case], tmp_path: Path) -> None:
    """Only the manifest's digest in the header tells the two models apart."""
    case = cases["gemma4"]
    off = request_for(case.base, tmp_path / "m.gguf", mmproj=None)
    execute(*make_plan(off))
    assert not mmproj_path(off.out).exists()
    manifest = read_manifest(manifest_path(off.out))
    assert "mmproj" not in manifest.core
    assert any("tower" in d["reason"] for d in manifest.core["dropped"])  # type: ignore[attr-defined]
    execute(*make_plan(request_for(case.base, tmp_path / "on.gguf")))
    assert tensors(read_header(off.out)) == tensors(read_header(tmp_path / "on.gguf"))
    with pytest.raises(MismatchError, match="deltas of the adapter have no tensor"):
        make_plan(replace(case.request, mmproj=None))


# ---- the plan ---------------------------------------------------------------------------------


def changed_base(base: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_what_llama_cpp_does_not_compute_is_said_in_the_plan(
    cases: dict[str, Case], tmp_path: Path
) -> None:
    base = cases["gemma4"].base
    other = changed_base(
        base, tmp_path / "a", lambda c: c["audio_config"].update(attention_chunk_size=16)
    )
    plan, _ = make_plan(request_for(other, tmp_path / "m.gguf"))
    assert plan.projector is not None
    assert plan.projector.vision and not plan.projector.audio
    assert not any(t.slot.name.startswith(("a.", "mm.a.")) for t in plan.projector.tensors)
    assert any("no audio tower" in w and "attention_chunk_size" in w for w in plan.warnings)
    assert sum("attention_chunk_size" in d.reason for d in plan.dropped) > 40

    other = changed_base(
        base, tmp_path / "b", lambda c: c["vision_config"].update(pooling_kernel_size=2)
    )
    plan, _ = make_plan(request_for(other, tmp_path / "m.gguf"))
    assert plan.projector is None
    assert any("no projector" in w and "pooling_kernel_size" in w for w in plan.warnings)

    plain = Path(shutil.copytree(base, tmp_path / "c"))
    (plain / "processor_config.json").unlink()
    plan, _ = make_plan(request_for(plain, tmp_path / "m.gguf"))
    assert plan.projector is None
    assert any("no processor_config.json" in w for w in plan.warnings)


def test_damaged_towers_are_refused(cases: dict[str, Case], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cases["gemma3"].base, tmp_path / "base"))
    request = request_for(folder, tmp_path / "m.gguf")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    weights = load_torch(folder / "model.safetensors")
    name = "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"
    for value in (None, weights[name][:, :-1].contiguous()):
        left = {n: w for n, w in weights.items() if n != name}
        save_torch(left | ({} if value is None else {name: value}), folder / "model.safetensors")
        with pytest.raises(PedsupError, match=r"lack 1 tensors|has the shape"):
            make_plan(request)


def test_the_command_and_its_plan(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["gemma4"]
    words = ["run", "--base", str(case.base), "--out", str(tmp_path / "m.gguf"), "--dry-run"]
    text = CliRunner().invoke(cli, words).output
    assert "mmproj-m.gguf" in text and "vision and audio, BF16" in text
    done = CliRunner().invoke(cli, [*words, "--mmproj-type", "Q8_0", "--json"])
    plan = json.loads(done.stdout)["mmproj"]
    assert (plan["quant"], plan["audio"], plan["name"]) == ("Q8_0", True, "mmproj-m.gguf")
    assert plan["output_bytes"] > sum(t["bytes"] for t in plan["tensors"])
    assert not list(tmp_path.iterdir())
    # A budget is the model file's: what the projector needs beside it is said.
    made, _ = make_plan(case.request)
    beside = made.projector
    assert beside is not None
    assert beside.output_bytes == case.projector.stat().st_size
    written = validate_projector(case.projector)
    assert beside.memory_bytes == projector_bytes(written, DEFAULT_TOKENS)
    chosen = replace(made, calibration=Calibration("of a test", tmp_path, 1),
                     request=replace(made.request, budget=Budget(n_bytes=3 * 10**9)))  # fmt: skip
    needed = (human_bytes(beside.output_bytes), human_bytes(beside.memory_bytes))
    assert [size in plan_text(chosen).partition("\nbudget ")[2] for size in needed] == [True, True]
    assert "\nbudget " not in plan_text(replace(chosen, projector=None))
    assert "mmproj" not in CliRunner().invoke(cli, [*words, "--mmproj", "off"]).output
    refused = CliRunner().invoke(cli, [*words, "--mmproj", "off", "--mmproj-type", "F16"])
    assert isinstance(refused.exception, UsageError)


# ---- one pass, resumed, up to date ------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_export_goes_on_and_gives_the_same_files(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases["gemma3"]
    request = replace(case.request, out=tmp_path / "m.gguf")
    append, done = LineJournal.append, list[str]()

    def killed(self: LineJournal[Any], row: dict[str, Any], **how: bool) -> None:
        append(self, row, **how)
        done.append(row["tensor"])
        if sum(name.startswith("v.") for name in done) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LineJournal, "append", killed)
        execute(*make_plan(request))
    assert not request.out.exists() and not mmproj_path(request.out).exists()
    made, rows = set[str](), stream_module.make_rows

    def counted(tensor: Any, *rest: Any) -> Any:
        made.add(tensor.slot.name)
        return rows(tensor, *rest)

    monkeypatch.setattr(stream_module, "make_rows", counted)
    execute(*make_plan(request))
    assert made.isdisjoint(done)
    assert request.out.read_bytes() == case.out.read_bytes()
    assert mmproj_path(request.out).read_bytes() == case.projector.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "m.gguf", "m.gguf.manifest.json", "mmproj-m.gguf"
    ]  # fmt: skip


@pytest.mark.slow
def test_up_to_date_is_a_matter_of_both_files(pair: Path, cases: dict[str, Case]) -> None:
    request = replace(cases["gemma3"].request, out=pair, force=True)
    report = unchanged(*make_plan(request))
    assert report is not None and report.projector is not None and report.projector.checked
    assert unchanged(*make_plan(replace(request, mmproj="F16"))) is None
    mmproj_path(pair).unlink()
    assert unchanged(*make_plan(request)) is None


def test_what_is_there_is_not_overwritten(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["gemma3"]
    request = replace(case.request, out=tmp_path / "m.gguf")
    mmproj_path(request.out).write_bytes(b"a picture of somebody's cat")
    with pytest.raises(OutputError):
        execute(*make_plan(request))
    with pytest.raises(OutputError, match="pedsup did not write"):
        execute(*make_plan(replace(request, force=True)))
    shutil.copy(case.projector, mmproj_path(request.out))
    execute(*make_plan(replace(request, force=True)))


# ---- whether they belong together -------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_each_names_the_other_and_both_are_proved(family: str, cases: dict[str, Case]) -> None:
    case = cases[family]
    manifest, header = read_manifest(manifest_path(case.out)), read_header(case.projector)
    facts = manifest.facts.mmproj
    assert facts is not None and facts.header == header_digest(header)
    assert (facts.name, facts.size) == (case.projector.name, case.projector.stat().st_size)
    assert header.get(MMPROJ_KEY) == projector_origin(manifest.core)
    base, adapter = (ModelRef(p, p.name) for p in (case.base, case.adapter))
    report = verify(case.out, base=base, adapter=adapter)
    assert report.remade and report.projector is not None and report.projector.checked
    assert report.projector.shares and report.projector.n_tensors == len(header.tensors)


@pytest.mark.slow
def test_another_adapter_of_the_towers_is_found(cases: dict[str, Case], tmp_path: Path) -> None:
    """Both text models have the same bytes: only the projectors tell the adapters apart."""
    case = cases["gemma3"]
    other = Path(shutil.copytree(case.adapter, tmp_path / "other"))
    weights = load_file(other / "adapter_model.safetensors")
    for name in weights:
        if "vision_tower" in name and "lora_B" in name:
            weights[name] = -weights[name]
    save_file(weights, other / "adapter_model.safetensors")
    request = replace(case.request, out=tmp_path / "m.gguf", adapter=ModelRef(other, "other"))
    execute(*make_plan(request))
    assert tensors(read_header(request.out)) == tensors(read_header(case.out))
    with pytest.raises(MismatchError, match="this adapter is not the one") as caught:
        verify(request.out, base=request.base, adapter=case.request.adapter)
    # Only the file that differs is named.
    assert str(caught.value.where).startswith("adapter_model.safetensors, SHA-256 ")
    assert str(caught.value.wanted).startswith("adapter_model.safetensors, SHA-256 ")
    # Neither takes the other's.
    shutil.copy(case.projector, mmproj_path(request.out))
    with pytest.raises(UntrustedError):
        verify(request.out)


def patched(old: Path, patch: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `pedsup-run patch` says."""
    assert patch_command.callback is not None
    patch_command.callback(
        old=old, patch=patch, out=None, in_place=False, undo=False, dry_run=False, as_json=False
    )
    return capsys.readouterr().out


def test_an_update_of_the_text_alone_keeps_the_projector(
    cases: dict[str, Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The projector on the phone, under its old name, serves the new model."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    base, lab, phone = cases["gemma3"].base, tmp_path / "lab", tmp_path / "phone"
    adapters = [towers.lora(tmp_path / f"a{n}", base, r".*language_model.*\.q_proj", seed=n)
                for n in (1, 2)]  # fmt: skip
    old, new = phone / "v0.2.gguf", lab / "v0.3.gguf"
    for out, adapter, name in zip((old, new), adapters, ("Ped 0.2", "Ped 0.3"), strict=True):
        execute(*make_plan(request_for(base, out, adapter, name=name)))
    assert old.read_bytes() != new.read_bytes()
    assert mmproj_path(old).read_bytes() == mmproj_path(new).read_bytes()
    plan = plan_patch(PatchRequest(old, new, lab / "p.patch"))
    assert (plan.projector, plan.keeps_projector) == (None, True)
    make_patch(plan)
    assert f"keep it: {mmproj_path(old)}" in patched(old, lab / "p.patch", capsys)
    here = phone / "v0.3.gguf"
    launch = plan_launch(here, Settings(strict=True, mmproj=None), available=None)
    assert launch.sight is not None
    assert launch.sight.projector.header.path == mmproj_path(old)
    assert launch.sight.trust.expected_sha256 == sha256_file(mmproj_path(new))
    report = verify(here, base=ModelRef(base, base.name), adapter=ModelRef(adapters[1], "a2"))
    assert report.projector is not None and report.projector.checked
    # With changed towers the projector is another one: it is refused, and the patch says so.
    seeing = cases["gemma3"]
    plan = plan_patch(PatchRequest(old, seeing.out, lab / "q.patch"))
    assert (plan.projector, plan.keeps_projector) == (seeing.projector.name, False)
    make_patch(plan)
    assert "its projector is not here" in patched(old, lab / "q.patch", capsys)
    shutil.copy(mmproj_path(old), phone / seeing.projector.name)
    with pytest.raises(MismatchError, match="made with another model"):
        plan_launch(phone / seeing.out.name, Settings(), available=None)


def test_a_missing_a_damaged_and_a_foreign_projector(
    pair: Path, cases: dict[str, Case], tmp_path: Path
) -> None:
    projector = mmproj_path(pair)
    with pytest.raises(UsageError, match="this is a projector"):
        verify(projector)
    octets = bytearray(projector.read_bytes())
    octets[-40] ^= 1
    projector.write_bytes(octets)
    with pytest.raises(UntrustedError, match="differs from the manifest"):
        verify(pair)
    shutil.copy(cases["gemma4"].projector, projector)
    with pytest.raises(UntrustedError, match="was made with another model"):
        verify(pair)
    projector.unlink()
    report = verify(pair)
    assert report.projector is not None and "not here" in report.projector.note
    # A model that was exported without one, and a file that bears the name of its projector.
    out = tmp_path / "plain" / "m.gguf"
    execute(*make_plan(request_for(cases["gemma3"].base, out, mmproj=None)))
    shutil.copy(cases["gemma3"].projector, mmproj_path(out))
    report = verify(out)
    assert report.projector is not None and not report.projector.checked
    assert "does not belong to this model" in report.projector.note


def test_a_renamed_pair_is_still_one(pair: Path) -> None:
    """Name and place are not identity: the model's new name, or the exported one, is looked for."""
    for path in (pair, manifest_path(pair)):
        path.rename(path.with_name(path.name.replace("m.gguf", "renamed.gguf")))
    model = pair.with_name("renamed.gguf")
    assert verify(model).projector == replace_path(verify(model).projector, mmproj_path(pair))
    mmproj_path(pair).rename(mmproj_path(model))
    report = verify(model).projector
    assert report is not None and report.checked and report.path == mmproj_path(model)


def replace_path(report: Any, path: Path) -> Any:
    return replace(report, path=path, checked=True)


def test_the_signature_covers_both(pair: Path) -> None:
    pytest.importorskip("model_signing", reason="pip install 'pedsup[sign]'")
    from pedsup_export.prove.sign import make_keys, sign

    keys = make_keys(pair.with_name("lab"), None)
    sign(pair, keys.private, None)
    assert verify(pair, key=keys.key).signer == keys.key
    octets = bytearray(mmproj_path(pair).read_bytes())
    octets[-40] ^= 1
    mmproj_path(pair).write_bytes(octets)
    with pytest.raises(UntrustedError):
        verify(pair, key=keys.key)


# ---- on the way to the phone ------------------------------------------------------------------


def test_it_goes_to_the_phone_with_its_model(pair: Path, tmp_path: Path) -> None:
    def no_wheels(_: Path, out: Path, __: Path | None) -> None:
        (out / "pedsup-0-py3-none-any.whl").write_bytes(b"")

    request = BundleRequest(tmp_path / "card" / "pedsup", ROOT, pair)
    plan = plan_bundle(request)
    assert plan.projector is not None and plan.projector.size == mmproj_path(pair).stat().st_size
    write_bundle(plan, no_wheels)
    folder = request.out / "models"
    assert (folder / "mmproj-m.gguf").read_bytes() == mmproj_path(pair).read_bytes()
    assert f"sha256={plan.projector.sha256}" in (folder / "MMPROJ").read_text()
    assert " models/mmproj-m.gguf" in (request.out / "SHA256SUMS").read_text()
    with pytest.raises(PedsupError, match="the projector has"):
        plan_bundle(replace(request, force=True, largest_file=1 << 16))
    mmproj_path(pair).unlink()
    assert plan_bundle(replace(request, force=True)).projector is None
