"""What an export says it was made from is what it was made from: killed, resumed, replaced."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import tiny_models
from pedsup_testing.slowly import slow_but

from pedsup.errors import MismatchError
from pedsup.files.journal import LineJournal
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.write import publish as export_module
from pedsup_export.write import stream as stream_module
from pedsup_export.write.output import Entry, open_journal
from pedsup_export.write.publish import execute

WEIGHTS = "adapter_model.safetensors"
BASE = "model.safetensors"


class KilledError(Exception):
    """Stands for the signal: nothing is cleaned up but what a `finally` does."""


@pytest.fixture
def inputs(models: dict[str, Path], adapters: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies that a test may change, and a further-trained adapter of the same shapes."""
    copies = {
        "base": Path(shutil.copytree(models["llama"], tmp_path / "base")),
        "adapter": Path(shutil.copytree(adapters["llama"], tmp_path / "adapter")),
    }
    copies["other"] = tiny_models.lora(tmp_path / "other", models["llama"], seed=2)
    return copies


def request(inputs: dict[str, Path], out: Path) -> ExportRequest:
    return ExportRequest(
        base=ModelRef(inputs["base"], "base"), adapter=ModelRef(inputs["adapter"], "adapter"),
        out=out, quant="Q8_0",
    )  # fmt: skip


def interrupt(
    monkeypatch: pytest.MonkeyPatch, after: int, then: Callable[[], None] | None = None
) -> None:
    """Break the export after so many tensors, or do something at that moment."""
    append, count = LineJournal.append, [0]

    def counted(self: LineJournal[Entry], row: dict[str, object], **how: bool) -> None:
        append(self, row, **how)
        count[0] += 1
        if count[0] == after:
            if then is None:
                raise KilledError
            then()

    monkeypatch.setattr(LineJournal, "append", counted)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def other_weights(path: Path) -> None:
    """The same header and size, other numbers at the end: a checkpoint trained a little longer."""
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data), 97):
        data[at] ^= 1
    path.unlink()
    path.write_bytes(data)


def resumed(monkeypatch: pytest.MonkeyPatch, made: ExportRequest) -> list[str]:
    """Finish the export; which tensors were made by this run."""
    made_now, rows = set[str](), stream_module.make_rows

    def counted(tensor, *args):  # type: ignore[no-untyped-def]
        made_now.add(tensor.slot.name)
        return rows(tensor, *args)

    monkeypatch.setattr(stream_module, "make_rows", counted)
    execute(*make_plan(made))
    return sorted(made_now)


@pytest.mark.parametrize("what", ["nothing", "adapter", "base"])
def test_a_resume_goes_on_only_with_the_same_contents(
    what: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = request(inputs, tmp_path / "m.gguf")
    with monkeypatch.context() as patch:
        interrupt(patch, after=8)
        with pytest.raises(KilledError):
            execute(*make_plan(made))
    if what == "adapter":
        shutil.copyfile(inputs["other"] / WEIGHTS, inputs["adapter"] / WEIGHTS)
    elif what == "base":
        # Only its second half differs: what was made from the first half must go, too.
        other_weights(inputs["base"] / BASE)
    n_made = len(resumed(monkeypatch, made))
    manifest = read_manifest(manifest_path(made.out))
    n_tensors = len(manifest.tensors)
    assert n_made == n_tensors - 8 if what == "nothing" else n_made >= n_tensors - 8
    if what == "adapter":
        assert n_made == n_tensors
    files = manifest.core["adapter"]["files"] | manifest.core["base"]["files"]
    assert files[WEIGHTS] == sha256(inputs["adapter"] / WEIGHTS)
    assert files[BASE] == sha256(inputs["base"] / BASE)
    again = replace(made, out=tmp_path / "again" / "m.gguf")
    execute(*make_plan(again))
    assert made.out.read_bytes() == again.out.read_bytes()


def test_a_base_that_differs_where_it_was_read_starts_the_resume_anew(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    made = request(inputs, tmp_path / "m.gguf")
    n_tensors = len(make_plan(made)[0].tensors)
    with monkeypatch.context() as patch:
        interrupt(patch, after=n_tensors - 1)
        with pytest.raises(KilledError):
            execute(*make_plan(made))
    other_weights(inputs["base"] / BASE)
    assert len(resumed(monkeypatch, made)) == n_tensors
    assert "starting over" in capsys.readouterr().err


def test_the_manifest_names_the_adapter_that_was_merged(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another adapter and another base take their names by rename while the export runs."""
    made = request(inputs, tmp_path / "m.gguf")
    wanted = {name: sha256(folder / name) for name, folder in
              ((WEIGHTS, inputs["adapter"]), (BASE, inputs["base"]))}  # fmt: skip
    base2 = Path(shutil.copytree(inputs["base"], tmp_path / "base2"))
    other_weights(base2 / BASE)

    def swap() -> None:
        (inputs["other"] / WEIGHTS).replace(inputs["adapter"] / WEIGHTS)
        (base2 / BASE).replace(inputs["base"] / BASE)

    plan, opened = make_plan(made)
    with monkeypatch.context() as patch:
        interrupt(patch, after=4, then=swap)
        execute(plan, opened)
    core = read_manifest(manifest_path(made.out)).core
    assert core["adapter"]["files"][WEIGHTS] == wanted[WEIGHTS]
    assert core["base"]["files"][BASE] == wanted[BASE]
    assert sha256(inputs["adapter"] / WEIGHTS) != wanted[WEIGHTS]


def test_an_adapter_that_is_replaced_while_it_is_opened_is_refused(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pedsup_export.plan import planner as plan_module

    opened = plan_module.Adapter.open

    def swapped(folder: Path):  # type: ignore[no-untyped-def]
        (inputs["other"] / WEIGHTS).replace(folder / WEIGHTS)
        return opened(folder)

    monkeypatch.setattr(plan_module.Adapter, "open", swapped)
    with pytest.raises(MismatchError, match="changed or replaced while it was read"):
        make_plan(request(inputs, tmp_path / "m.gguf"))


def test_a_base_that_is_changed_in_place_is_refused(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = request(inputs, tmp_path / "m.gguf")

    def write() -> None:
        with (inputs["base"] / BASE).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x3f")

    plan, opened = make_plan(made)
    with monkeypatch.context() as patch:
        interrupt(patch, after=4, then=write)
        with pytest.raises(MismatchError, match=r"while it was read|not what base and"):
            execute(plan, opened)
    assert not made.out.exists()
    execute(*make_plan(made))  # the advice: the same command again
    core = read_manifest(manifest_path(made.out)).core
    assert core["base"]["files"][BASE] == sha256(inputs["base"] / BASE)


def test_the_proof_tells_an_adapter_from_one_that_is_like_it(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor of a slightly other adapter: its share is nearly 1, its bytes are not the same."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(inputs["adapter"] / WEIGHTS)
    name = next(n for n in weights if "layers.1.mlp.up_proj.lora_B" in n)
    weights[name] = weights[name] * 1.05
    save_file(weights, inputs["other"] / WEIGHTS)
    made = request(inputs, tmp_path / "m.gguf")
    execute(*make_plan(replace(made, adapter=ModelRef(inputs["other"], "adapter"))))
    # A manifest that names the wrong adapter, as the attack made it: only the bytes can tell.
    monkeypatch.setattr("pedsup_export.prove.remake._check_sources", lambda *_: None)
    with pytest.raises(MismatchError, match=r"'blk\.1\.ffn_up\.weight' are not what base and"):
        verify(made.out, base=made.base, adapter=made.adapter)
    assert verify(made.out, base=made.base, adapter=ModelRef(inputs["other"], "a")).remade


def test_the_importance_matrix_is_part_of_what_a_resume_is_bound_to(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    first = make_plan(request(inputs, tmp_path / "m.gguf"))[0]
    changed = replace(first, sources={**first.sources, "imatrix": {"i.gguf": "0" * 64}})
    other = replace(first, sources={**first.sources, "imatrix": {"i.gguf": "1" * 64}})
    assert len({first.digest, changed.digest, other.digest}) == 3


def test_the_journal_is_of_one_plan_and_survives_a_torn_line(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j", "plan")
    journal.start()
    journal.append(vars(Entry("a", "1", "2")))
    with journal.path.open("a") as file:
        file.write(json.dumps({"tensor": "b", "sha256": "3"})[:-5])
    assert journal.read() == [Entry("a", "1", "2")]
    assert open_journal(journal.path, "another").read() == []
    journal.append(vars(Entry("b", "3", "4")))  # not behind the torn line, which would hide it
    assert journal.read() == [Entry("a", "1", "2"), Entry("b", "3", "4")]


def test_the_output_is_locked_against_another_plan(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exports with different plans to one output: the second is refused, the first whole."""
    from pedsup.errors import OutputError

    made = request(inputs, tmp_path / "m.gguf")
    refused = []

    def second() -> None:
        with pytest.raises(OutputError, match="another process is writing") as error:
            export_module.execute(*make_plan(replace(made, quant="Q4_K_M")))
        refused.append(error)

    with monkeypatch.context() as patch:
        interrupt(patch, after=4, then=second)
        execute(*make_plan(made))
    assert refused
    assert verify(made.out, base=made.base, adapter=made.adapter).remade


@pytest.mark.parametrize("which", slow_but(["one"], ["all", "one"]))
def test_a_change_below_the_last_bit_is_not_proved(
    which: str, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not exactly zero, and yet no weight of the merge differs from the base's."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(inputs["adapter"] / WEIGHTS)
    weights = {
        n: w * (1e-30 if "lora_B" in n and (which == "all" or "layers.1.mlp.up" in n) else 1)
        for n, w in weights.items()
    }
    save_file(weights, inputs["adapter"] / WEIGHTS)
    made = request(inputs, tmp_path / "m.gguf")
    if which == "all":
        with pytest.raises(MismatchError, match="too small to alter any weight"):
            execute(*make_plan(made))
        assert not made.out.exists()
        made = replace(made, allow_no_effect=True)
    result = execute(*make_plan(made))
    names = {share.name for share in result.shares}
    assert "blk.1.ffn_up.weight" not in names
    assert (which == "one") is bool(names)
    if which == "one":
        assert "of 1 of 28 tensors is too small" in capsys.readouterr().err
    report = verify(made.out, base=made.base, adapter=made.adapter)
    assert report.remade and report.shares is not None
    assert {share.name for share in report.shares} == names


@pytest.mark.parametrize("what", ["tokens", "template", "sampling", "adapter's template"])
def test_verify_tells_another_tokenizer(what: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    """The same tensors, but other words for them: not what base and adapter give."""

    def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads(path.read_text(encoding="utf-8"))
        change(document)
        path.write_text(json.dumps(document), encoding="utf-8")

    def swap(document: dict[str, Any]) -> None:
        vocab = document["model"]["vocab"]
        a, b = list(vocab)[700:702]
        vocab[a], vocab[b] = vocab[b], vocab[a]

    def shout(config: dict[str, Any]) -> None:
        config["chat_template"] = config["chat_template"].replace("trim", "upper")

    names = ("tokenizer.json", "tokenizer_config.json")
    made = request(inputs, tmp_path / "m.gguf")
    if what == "adapter's template":
        for name in names:
            shutil.copy(inputs["base"] / name, inputs["adapter"])
        edit(inputs["adapter"] / names[1], shout)
    execute(*make_plan(made))
    assert verify(made.out, base=made.base, adapter=made.adapter).remade
    if what == "tokens":
        edit(inputs["base"] / names[0], swap)
    elif what == "template":
        edit(inputs["base"] / names[1], shout)
    elif what == "sampling":
        path = inputs["base"] / "generation_config.json"
        path.write_text(json.dumps({"temperature": 0.125}))
    else:
        # The base's, by the option, is another file; each verifies as what it is.
        theirs = replace(made, out=tmp_path / "n.gguf", tokenizer="base")
        execute(*make_plan(theirs))
        assert verify(theirs.out, base=made.base, adapter=made.adapter).remade
        for name in names:
            (inputs["adapter"] / name).unlink()
    with pytest.raises(MismatchError, match="of the metadata are not what base and adapter"):
        verify(made.out, base=made.base, adapter=made.adapter)
