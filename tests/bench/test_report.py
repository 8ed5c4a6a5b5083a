"""`pedsup-bench report`: one page for one model, whatever else lies in the folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pedsup_testing import bench_documents as made
from pedsup_testing.bench_documents import A, B
from pedsup_testing.pages import checked

from pedsup.exit_codes import ExitCode
from pedsup.trust.manifest import manifest_document
from pedsup_bench.cli import cli
from pedsup_bench.commands.run import with_digests
from pedsup_bench.overview.collect import Identity, collect
from pedsup_bench.overview.html import NEVER, not_measured, report
from pedsup_bench.speed.plan import SpeedPlan


def put(folder: Path, **documents: Any) -> Path:
    for name, document in documents.items():
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def everything(folder: Path) -> Path:
    gate = {
        **made.head("gate"), "file_type": "Q4_K_M", "passed": False, "reference": made.HOSTILE,
        "checks": [{"figure": "x", "value": None, "passed": False, "sentence": made.HOSTILE}],
    }  # fmt: skip
    core = {"tensors": {}, "base": {"name": made.HOSTILE, "files": {made.HOSTILE: B}},
            "recipe": {"quant": made.HOSTILE}}  # fmt: skip
    manifest = manifest_document(core, {"sha256": A, "size": 1000}, made.HOSTILE)
    return put(folder, a_run=made.run(), quality=made.quality(), mcqa=made.mcqa(),
               safety=made.safety(), gate=gate, manifest=manifest)  # fmt: skip


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


def test_a_page_of_everything_is_whole_and_harmless(tmp_path: Path) -> None:
    found = collect(everything(tmp_path))
    assert (found.identity, found.left_out) == (Identity(A), [])
    assert len(found.used) == 6
    page = checked(report(found))
    assert page.count("h1") == 1
    for words in ("11.0 t/s", "0.25000", "65.0%", "75.0%", "refused", "+0.1250", "recipe: quant",
                  NEVER, "Speed on a phone"):  # fmt: skip
        assert words in page.words, words
    assert "Not measured." not in page.words


def test_documents_of_another_model_are_listed_apart(tmp_path: Path) -> None:
    """Same file name, other bytes: a name proves nothing."""
    put(everything(tmp_path), other=made.quality(B), unknown=made.run(None))
    put(tmp_path, broken="{", list="[]", foreign={"schema": "x"})
    put(tmp_path, damaged={**made.mcqa(), "figures": 3})
    refused = invoke(tmp_path)
    assert isinstance(refused.exception, Exception)
    assert "several models" in str(refused.exception)
    found = collect(tmp_path, A[:8])
    why = {one.path.stem: one.why for one in found.left_out}
    assert set(why) == {"other", "unknown", "broken", "list", "foreign", "damaged"}
    assert B in why["other"]
    assert "no SHA-256" in why["unknown"]
    assert "figures" in why["damaged"]
    page = report(found)
    assert page.count("0.25000") == report(collect(tmp_path, A)).count("0.25000") > 0
    assert "other.json: of another model" in page
    assert [r.path.stem for r in collect(tmp_path, B).qualities] == ["other"]


def test_an_adapter_makes_another_model(tmp_path: Path) -> None:
    with_adapter = made.mcqa()
    with_adapter["model"]["adapter"] = {**made.head("x", B)["model"]}
    put(tmp_path, plain=made.quality(), adapted=with_adapter)
    assert collect(tmp_path, A).identity == Identity(A), "the model alone is what A names"
    assert collect(tmp_path, B).identity == Identity(A, B)
    assert [one.path.stem for one in collect(tmp_path, B).left_out] == ["plain"]


def test_a_model_is_named_by_its_file_or_by_enough_digits(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    put(tmp_path, one=made.mcqa(digest), two=made.mcqa(B))
    assert collect(tmp_path, str(model)).identity.model == digest
    for wrong, says in (("abc", "neither a file nor"), ("c" * 64, "no document is of")):
        with pytest.raises(Exception, match=says):
            collect(tmp_path, wrong)


def test_an_old_speed_run_is_known_by_its_trust_check(tmp_path: Path) -> None:
    old = made.run(None)
    old["trust"]["sha256"] = A
    for name in ("kind", "version", "program", "warnings"):
        del old[name]
    found = collect(put(tmp_path, old=old))
    assert found.identity == Identity(A)
    assert [r.path.stem for r in found.runs] == ["old"]


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    found = not_measured(collect(put(tmp_path, mcqa={**made.mcqa(), "questions": "shipped"})))
    for words in ("pedsup-bench run", "--examples", "pedsup-bench safety", "shipped questions",
                  "manifest", "gate"):  # fmt: skip
        assert any(words in sentence for sentence in found), words
    assert found[-1] == NEVER


def test_the_command_writes_once_and_says_what_it_used(tmp_path: Path) -> None:
    everything(tmp_path)
    done = invoke(tmp_path, "--json")
    assert done.exception is None, done.output
    told = json.loads(done.stdout)
    assert (told["kind"], told["sha256"], len(told["used"])) == ("bench-report", A, 6)
    page = (tmp_path / "report.html").read_bytes()
    assert invoke(tmp_path).exception is not None, "it does not replace a file unasked"
    assert (tmp_path / "report.html").read_bytes() == page
    assert invoke(tmp_path, "--force").exception is None


def test_a_folder_without_documents_says_what_to_do(bench: Any, tmp_path: Path) -> None:
    done = bench("report", tmp_path, check=False)
    assert done.returncode == ExitCode.MISMATCH
    assert "pedsup-bench run" in done.stderr
    assert bench("report", tmp_path / "none", check=False).returncode == ExitCode.USAGE


def test_a_speed_run_says_of_which_bytes_it_is(tmp_path: Path) -> None:
    """By the digest that was compared just before, or else by reading the file."""
    model = tmp_path / "m.gguf"
    model.write_bytes(b"weights")
    plan, facts = SpeedPlan(model, adapter=model), made.head("run", None)["model"]
    digest = hashlib.sha256(b"weights").hexdigest()
    assert with_digests(facts, plan, {"sha256": B})["sha256"] == B
    facts["adapter"] = dict(facts)
    found = with_digests(facts, plan, {"sha256": None, "adapter": {"sha256": None}})
    assert (found["sha256"], found["adapter"]["sha256"]) == (digest, digest)
