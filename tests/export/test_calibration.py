"""Statistics against llama-imatrix and transformers, and an export that is rounded with them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pedsup_testing import tiny_models

from pedsup.errors import (
    BadFileError,
    MismatchError,
    OutputError,
    PedsupError,
    UnsupportedError,
    UsageError,
)
from pedsup.gguf_file import read_header
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_bench.report import overlap
from pedsup_export.allocation.budget import Budget
from pedsup_export.allocation.choose import Allocation
from pedsup_export.allocation.command import save as save_allocation
from pedsup_export.calibration import collect, command, sensitivity, store, text, work
from pedsup_export.cli import cli
from pedsup_export.plan.calibrated import make_plan
from pedsup_export.plan.export_plan import ExportPlan, Inputs
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.remake import MadeWith
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.types.imatrix import read_imatrix
from pedsup_export.write.publish import execute
from pedsup_export.write.render import verified_text

WINDOW = 64
SENTENCES = tiny_models.TEXT.split(". ")


def request_for(base: Path, adapter: Path | None, out: Path, **options: Any) -> ExportRequest:
    plain = ExportRequest(
        base=ModelRef(base, base.name),
        adapter=ModelRef(adapter, adapter.name) if adapter else None,
        out=out,
        threads=1,
    )
    return replace(plain, **options)


def write_text(path: Path, n_sentences: int = 60, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    path.write_text(". ".join(SENTENCES[i] for i in rng.integers(0, len(SENTENCES), n_sentences)))
    return path


@pytest.fixture(scope="module")
def merge(
    models: dict[str, Path], adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("merge") / "merge.gguf"
    execute(*make_plan(request_for(models["e4b"], adapters["e4b"], out, quant="F32")))
    return out


@pytest.fixture(scope="module")
def calibrated(merge: Path) -> Iterator[tuple[Path, Path]]:
    """The statistics of the merge, and the text."""
    words, out = write_text(merge.parent / "text.txt"), merge.parent / "stats.gguf"
    command.execute(command.make_plan(asked(merge, out, words)))
    yield out, words


def asked(merge: Path, out: Path, words: Path, **options: Any) -> command.CalibrationRequest:
    plain = command.CalibrationRequest(
        merge, out, (words,), window=WINDOW, threads=1, sensitivity_windows=1
    )
    return replace(plain, **options)


@pytest.mark.slow
def test_importances_are_those_of_llama_imatrix(
    calibrated: tuple[Path, Path], merge: Path, native_tool: Any, tmp_path: Path
) -> None:
    stats, words = calibrated
    theirs = tmp_path / "theirs.gguf"
    subprocess.run(
        [native_tool("llama-imatrix"), "-m", merge, "-f", words, "-o", theirs, "-c", str(WINDOW),
         "-b", str(WINDOW), "--output-format", "gguf", "-t", "1", "--no-ppl", "-fa", "off"],
        check=True, capture_output=True,
    )  # fmt: skip
    ours, oracle = read_imatrix(stats), read_imatrix(theirs)
    assert ours.importances.keys() == oracle.importances.keys()
    assert ours.chunk_count == oracle.chunk_count
    for name, values in oracle.importances.items():
        np.testing.assert_allclose(ours.importances[name], values, rtol=1e-4, err_msg=name)


def test_second_moments_are_those_of_transformers(
    calibrated: tuple[Path, Path], models: dict[str, Path], adapters: dict[str, Path]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    stats = store.read(calibrated[0])
    base = AutoModelForCausalLM.from_pretrained(
        models["e4b"], dtype=torch.float32, attn_implementation="eager"
    )
    model = PeftModel.from_pretrained(base, adapters["e4b"]).merge_and_unload()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(models["e4b"] / "tokenizer.json"))
    tokens = tokenizer.encode(calibrated[1].read_text())
    windows = text.cut(tokens, WINDOW, 2, None)
    wanted = {"blk.2.ffn_down.weight": model.model.layers[2].mlp.down_proj,
              "blk.5.attn_output.weight": model.model.layers[5].self_attn.o_proj}  # fmt: skip
    sums: dict[str, Any] = {}
    for name, module in wanted.items():

        def add(_module: Any, inputs: Any, name: str = name) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + x.T @ x

        module.register_forward_pre_hook(add)
    with torch.no_grad():
        model(input_ids=torch.tensor(windows), use_cache=False)
    assert stats.record.tokens == len(windows) * WINDOW
    for name in wanted:
        oracle = (sums[name] / stats.record.tokens).numpy()
        (found,) = stats.products(stats.group_of[name])
        scale = np.sqrt(np.outer(np.diag(oracle), np.diag(oracle)))
        assert np.abs((found - oracle) / scale).max() < 0.02, name


@pytest.mark.slow
def test_little_memory_and_a_killed_run_give_the_same_file(
    calibrated: tuple[Path, Path], merge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats, words = calibrated
    out = tmp_path / "again.gguf"
    monkeypatch.setattr(collect, "CHECKPOINT_SECONDS", 0.0)
    real, calls = collect._add_window, [0]

    def dies(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 7:
            raise KeyboardInterrupt
        real(*arguments)

    small = asked(merge, out, words, memory=3 << 20)
    monkeypatch.setattr(collect, "_add_window", dies)
    with pytest.raises(KeyboardInterrupt):
        command.execute(command.make_plan(small))
    assert not out.exists()
    before = calls[0]
    command.execute(command.make_plan(small))
    first, second = store.read(stats), store.read(out)
    parts = len(work.ranges(first.groups, small.memory))
    windows = first.record.tokens // WINDOW
    assert parts > 1
    assert calls[0] - before == parts * windows - 6
    assert first.data_sha256 == second.data_sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.gguf"]


@pytest.mark.slow
@pytest.mark.parametrize(("dies_at", "later"), [(2, 6 << 20), (9, 1 << 20), (9, 1 << 30)])
def test_a_killed_run_goes_on_where_more_or_less_memory_is_free_now(
    calibrated: tuple[Path, Path], merge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    dies_at: int, later: int,
) -> None:  # fmt: skip
    stats, words = calibrated
    wanted = asked(merge, tmp_path / "again.gguf", words, memory=None)
    monkeypatch.setattr(collect, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(command, "_half_of_free_memory", lambda: 4 << 20)
    real, done = collect._add_window, []

    def adds(model: Any, window: Any, sums: Any, groups: Any) -> None:
        if len(done) == dies_at:
            monkeypatch.setattr(collect, "_add_window", real)
            raise KeyboardInterrupt
        real(model, window, sums, groups)
        done.append(groups)

    monkeypatch.setattr(collect, "_add_window", adds)
    with pytest.raises(KeyboardInterrupt):
        command.execute(command.make_plan(wanted))
    monkeypatch.setattr(command, "_half_of_free_memory", lambda: later)
    again: list[Any] = []

    def counts(model: Any, window: Any, sums: Any, groups: Any) -> None:
        real(model, window, sums, groups)
        again.append(groups)

    monkeypatch.setattr(collect, "_add_window", counts)
    command.execute(command.make_plan(wanted))
    first, second = store.read(stats), store.read(wanted.out)
    assert first.data_sha256 == second.data_sha256
    windows = first.record.tokens // WINDOW
    whole = len(done) // windows * windows
    finished = {g for groups in done[:whole] for g in groups}
    assert not finished & {g for groups in again for g in groups}
    under_way = done[-1]
    assert sum(g.n_bytes for g in under_way) <= 4 << 20
    kept = sum(g.n_bytes for g in under_way) <= later * 3 // 2
    assert kept is (later > 1 << 20)
    assert again.count(under_way) == (whole + windows - len(done) if kept else 0)


@pytest.mark.slow
def test_an_export_is_rounded_with_them_and_says_so(
    calibrated: tuple[Path, Path], models: dict[str, Path], adapters: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    stats, words = calibrated
    files = []
    for name in ("a.gguf", "b.gguf"):
        wanted = request_for(
            models["e4b"], adapters["e4b"], tmp_path / name, calibrated=stats, name="x",
            threads=1 if name == "a.gguf" else 3,
        )  # fmt: skip
        execute(*make_plan(wanted))
        files.append(tmp_path / name)
    data = [f.read_bytes()[read_header(f).data_offset :] for f in files]
    assert data[0] == data[1]  # whatever the number of threads
    report = verify(files[0], base=ModelRef(models["e4b"], "b"),
                    adapter=ModelRef(adapters["e4b"], "a"))  # fmt: skip
    assert report.manifest.core["recipe"]["calibrated"]["texts"][0]["name"] == words.name
    said = verified_text(report)
    assert "--imatrix" not in said and "give the --calibrated statistics" in said
    with pytest.raises(MismatchError, match="without an importance matrix"):
        verify(files[0], base=ModelRef(models["e4b"], "b"), made_with=MadeWith(imatrix=stats),
               adapter=ModelRef(adapters["e4b"], "a"))  # fmt: skip
    again = verify(files[0], base=ModelRef(models["e4b"], "b"),
                   made_with=MadeWith(calibrated=stats),
                   adapter=ModelRef(adapters["e4b"], "a"))  # fmt: skip
    assert again.remade and "are the same bytes" in verified_text(again)
    other = tmp_path / "other.gguf"
    other.write_bytes(_with_other_moments(stats))
    with pytest.raises(MismatchError, match="not those that the file was rounded with"):
        verify(files[0], base=ModelRef(models["e4b"], "b"), made_with=MadeWith(calibrated=other),
               adapter=ModelRef(adapters["e4b"], "a"))  # fmt: skip
    recipe = json.loads(manifest_path(files[0]).read_text())
    assert json.dumps(recipe).count(store.read(stats).data_sha256) == 1
    # What a judge of the file sees of the text.
    assert overlap.found(overlap.sketches_of(files[0]), {"mine": words.read_text()})
    assert not overlap.found(overlap.sketches_of(files[0]), dict(text.judging_texts()))
    plain = tmp_path / "plain.gguf"
    execute(*make_plan(request_for(models["e4b"], adapters["e4b"], plain)))
    with pytest.raises(MismatchError, match="without calibration statistics"):
        verify(plain, base=ModelRef(models["e4b"], "b"), made_with=MadeWith(calibrated=stats),
               adapter=ModelRef(adapters["e4b"], "a"))  # fmt: skip
    assert plain.stat().st_size == pytest.approx(files[0].stat().st_size, rel=0.01)


@pytest.mark.slow
def test_a_budget_is_kept_saved_and_given_again(
    calibrated: tuple[Path, Path], models: dict[str, Path], adapters: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    stats, _ = calibrated
    like = make_plan(request_for(models["e4b"], adapters["e4b"], tmp_path / "x.gguf"))[0]
    kept = tmp_path / "kept.json"
    wanted = request_for(
        models["e4b"], adapters["e4b"], tmp_path / "b.gguf", calibrated=stats,
        budget=Budget(like="Q4_K_M"), save_allocation=kept,
    )  # fmt: skip
    plan, _ = make_plan(wanted)
    assert plan.calibration is not None
    assert plan.calibration.predicted_kl is not None
    assert plan.calibration.predicted_kl > 0
    # The same budget with other types than llama.cpp's: by its own measure better.
    assert plan.calibration.predicted_share is not None
    assert 0 < plan.calibration.predicted_share < 1
    # The header names the types; alignment is all that may be above.
    assert plan.output_bytes <= like.output_bytes + 32 * len(plan.tensors)
    again, _ = make_plan(replace(wanted, budget=None, save_allocation=None, allocation=kept))
    assert [t.slot.type for t in again.tensors] == [t.slot.type for t in plan.tensors]
    with pytest.raises(UsageError, match="budget leaves"):
        make_plan(replace(wanted, budget=Budget(n_bytes=100_000)))


@pytest.mark.slow
def test_a_phone_is_a_budget_of_what_is_read(
    calibrated: tuple[Path, Path], models: dict[str, Path], adapters: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    kept = tmp_path / "kept.json"
    run = ["run", "--base", models["e4b"], "--adapter", adapters["e4b"], "--out",
           tmp_path / "x.gguf", "--calibrated", calibrated[0], "--phone", "galaxy-a15",
           "--dry-run", "--threads", "1"]  # fmt: skip
    words = [str(word) for word in run]
    text = CliRunner().invoke(cli, [*words, "--save-allocation", str(kept)]).stdout
    assert "read per token, of at most" in text and "what Q8_0 reads" in text
    assert "are only looked up" in text and kept.is_file()
    found = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    calibration, tensors = found["calibration"], found["tensors"]
    assert calibration["read_per_token"] <= calibration["read_budget"]
    table = {"per_layer_token_embd.weight"}
    assert calibration["read_per_token"] == sum(
        t["bytes"] for t in tensors if t["name"] not in table
    )
    # An explicit type or budget wins: the phone is then no budget.
    for more in (["--quant", "Q4_K_M"], ["--budget", "Q4_K_M"]):
        other = json.loads(CliRunner().invoke(cli, [*words, "--json", *more]).stdout)
        assert other["calibration"]["read_budget"] is None


def test_statistics_of_another_model_or_adapter_are_refused(
    calibrated: tuple[Path, Path], models: dict[str, Path], adapters: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    stats, _ = calibrated
    out = tmp_path / "x.gguf"
    cases = [
        (request_for(models["llama"], None, out), "of a gemma4 model"),
        (request_for(models["e2b"], adapters["e2b"], out), "columns for"),
        (request_for(models["e4b"], None, out), "other weights"),
    ]
    for wanted, message in cases:
        with pytest.raises(MismatchError, match=message):
            make_plan(replace(wanted, calibrated=stats))


def test_weights_that_change_after_the_first_check_are_noticed(
    calibrated: tuple[Path, Path], models: dict[str, Path], adapters: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    _, inputs = make_plan(
        request_for(models["e4b"], adapters["e4b"], tmp_path / "x.gguf", calibrated=calibrated[0])
    )
    assert inputs.calibrated is not None
    rows = np.zeros((512, 256), np.float32)
    with pytest.raises(MismatchError, match="other weights"):
        inputs.calibrated.identify(rows, "blk.7.ffn_up.weight", 0, 512)


@pytest.mark.slow
def test_the_statistics_that_the_manifest_names_are_those_that_were_used(
    calibrated: tuple[Path, Path], models: dict[str, Path], adapters: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Others of the same size take their name after the plan, or are written over them."""
    stats = tmp_path / "stats.gguf"
    wanted = request_for(
        models["e4b"], adapters["e4b"], tmp_path / "a.gguf", calibrated=stats, force=True
    )

    def planned() -> tuple[ExportPlan, Inputs]:
        stats.unlink(missing_ok=True)
        shutil.copyfile(calibrated[0], stats)
        return make_plan(wanted)

    shutil.copyfile(calibrated[0], stats)
    other = tmp_path / "other.gguf"
    other.write_bytes(_with_other_moments(stats))
    store.read(other)  # it is well-formed
    execute(*planned())
    digest, whole = _digest(stats), wanted.out.read_bytes()
    plan, inputs = planned()
    other.replace(stats)
    execute(plan, inputs)
    assert wanted.out.read_bytes() == whole
    recipe = read_manifest(manifest_path(wanted.out)).core["recipe"]["calibrated"]
    assert recipe["sha256"] == digest != _digest(stats)
    changed = stats.read_bytes()
    plan, inputs = planned()
    stats.write_bytes(changed)
    with pytest.raises(MismatchError, match="changed or replaced while it was read"):
        execute(plan, inputs)
    assert wanted.out.read_bytes() == whole


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _with_other_moments(path: Path, value: float | None = None) -> bytes:
    """The same header but for the digest of the data; more weight on the diagonals, or a value."""
    header, raw = read_header(path), bytearray(path.read_bytes())
    for name, info in header.tensors.items():
        if name.endswith(store.PRODUCTS):
            at = header.data_offset + info.offset
            part = np.frombuffer(raw[at : at + info.n_bytes], "<f4").copy()
            moments = part.reshape(-1, info.shape[1], info.shape[0])
            diagonal = np.einsum("ijj->ij", moments)  # a view
            diagonal[:, ::3] = diagonal[:, ::3] * 50 + 1 if value is None else value
            raw[at : at + info.n_bytes] = part.tobytes()
    old = str(header.metadata["pedsup.calibration.data_sha256"]).encode()
    new = hashlib.sha256(raw[header.data_offset :]).hexdigest().encode()
    return bytes(raw).replace(old, new)


def test_well_formed_statistics_with_absurd_values_are_refused(
    calibrated: tuple[Path, Path], models: dict[str, Path], adapters: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    stats = tmp_path / "stats.gguf"
    stats.write_bytes(_with_other_moments(calibrated[0], 3e38))
    wanted = request_for(models["e4b"], adapters["e4b"], tmp_path / "a.gguf", calibrated=stats)
    with pytest.raises(BadFileError, match=r"hold .*e\+3"):
        execute(*make_plan(wanted))
    raw = calibrated[0].read_bytes()
    assert raw.count(b'"F32"') > 1
    stats.write_bytes(raw.replace(b'"F32"', b'"F8_"', 1))
    with pytest.raises(BadFileError, match=r"types\..*F8_"):
        store.read(stats)


@pytest.mark.parametrize("what", ["cut", "bit", "nan", "imatrix"])
def test_damaged_statistics_are_refused(
    calibrated: tuple[Path, Path], tmp_path: Path, what: str
) -> None:
    raw = bytearray(calibrated[0].read_bytes())
    path = tmp_path / "bad.gguf"
    header = read_header(calibrated[0])
    at = header.data_offset + header.tensors["blk.0.ffn_down.weight.in_prod"].offset
    if what == "cut":
        del raw[-100:]
    elif what == "bit":
        raw[at + 9] ^= 1
    elif what == "nan":
        raw[at : at + 4] = np.float32(np.nan).tobytes()
    else:
        start = raw.find(b"pedsup.calibration.record")
        raw[start : start + 6] = b"xedsup"
    path.write_bytes(raw)
    with pytest.raises(BadFileError):
        store.read(path)


def test_text_that_cannot_be_used_is_refused(merge: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.gguf"
    short = write_text(tmp_path / "short.txt", 3)
    with pytest.raises(UsageError, match="tokens"):
        command.execute(command.make_plan(asked(merge, out, short)))
    judged = write_text(tmp_path / "judged.txt", 30, seed=5)
    with pytest.raises(UsageError, match="share"):
        command.make_plan(asked(merge, out, judged, judged=(judged,)))
    (name, content), *_ = text.judging_texts()
    leaked = tmp_path / "leaked.txt"
    leaked.write_text("Some words before. " + content[300:900])
    with pytest.raises(UsageError, match="share"):
        command.make_plan(asked(merge, out, leaked))
    assert "judging text" in name
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "?"}\n')
    with pytest.raises(BadFileError, match="dialogue"):
        command.make_plan(asked(merge, out, bad))


def test_a_quantized_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "q.gguf"
    execute(*make_plan(request_for(models["llama"], None, out, quant="Q8_0")))
    with pytest.raises(UnsupportedError, match="--quant BF16"):
        command.make_plan(asked(out, tmp_path / "s.gguf", write_text(tmp_path / "t.txt")))


def test_the_shipped_dialogues_stand_in_no_judging_text() -> None:
    shipped = text.read_texts(())
    assert len(shipped[0].dialogues) >= 16
    text.refuse_overlap(shipped, text.judging_texts())


@pytest.mark.parametrize(("columns", "kind"), [(32, "Q8_0")])
def test_the_loss_of_rounded_inputs_is_that_of_ggml_s_blocks(columns: int, kind: str) -> None:
    import gguf

    rng = np.random.default_rng(3)
    x = (rng.standard_normal((16, 512)) * rng.lognormal(0, 2, 512)).astype(np.float32)
    x[3, :32] = 0
    type_ = gguf.GGMLQuantizationType[kind]
    again = gguf.dequantize(gguf.quantize(x, type_), type_)
    oracle = np.square(x - again, dtype=np.float64).sum() / np.square(x, dtype=np.float64).sum()
    # The file type keeps its scale in 16 bits, the rounded inputs nearly so.
    assert sensitivity.rounding_loss(x, columns) == pytest.approx(oracle, rel=0.02)
    assert sensitivity.rounding_loss(np.zeros((2, 256), np.float32), 256) == 0


def test_sensitivities_come_with_the_loss_of_rounded_inputs(calibrated: tuple[Path, Path]) -> None:
    statistics = store.read(calibrated[0])
    found = statistics.record.sensitivities
    widths = {name: group.n_columns for name, group in statistics.group_of.items()}
    assert widths.keys() <= found.keys()
    for name, width in widths.items():
        losses = [found.get(name + sensitivity.ACTIVATIONS[n]) for n in (32, 256)]
        assert [loss is None for loss in losses] == [width % n > 0 for n in (32, 256)], name
        known = [loss for loss in losses if loss is not None]
        assert known == sorted(known) and all(0 < loss < 0.01 for loss in known), name


def test_a_larger_disturbance_set_never_loses_a_matrix() -> None:
    names = [f"blk.{i}.{k}.weight" for i in range(40) for k in ("attn_q", "ffn_up", "ffn_down")]
    sets = sensitivity.noise_sets([*names, "token_embd.weight", "token_embd.weight@rows"])
    assert sorted(n for s in sets for n in s) == sorted(
        [*names, "token_embd.weight", "token_embd.weight@rows"]
    )
    assert len(sets) <= sensitivity.MAX_SETS + 2


def test_every_refusal_is_ours(merge: Path, tmp_path: Path) -> None:
    with pytest.raises(PedsupError):
        store.read(merge)
    with pytest.raises(PedsupError):
        command.make_plan(asked(tmp_path / "none.gguf", tmp_path / "s", tmp_path / "t.txt"))


def test_only_statistics_are_replaced_by_statistics(
    calibrated: tuple[Path, Path], merge: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.gguf"
    notes.write_bytes(b"notes that must stay")
    for out in (notes, merge):
        before = out.read_bytes()
        with pytest.raises(OutputError, match="holds no calibration statistics"):
            command.make_plan(asked(merge, out, calibrated[1], force=True))
        assert out.read_bytes() == before
    command.make_plan(asked(merge, calibrated[0], calibrated[1], force=True))
    with pytest.raises(OutputError, match="holds no saved choice"):
        save_allocation(notes, Allocation({}, 1, 0.0), "0" * 64, force=True)
    save_allocation(tmp_path / "a.json", Allocation({}, 1, 0.0), "0" * 64, force=True)
    save_allocation(tmp_path / "a.json", Allocation({}, 2, 0.0), "0" * 64, force=True)
