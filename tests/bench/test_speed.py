"""Speed runs: ceilings, the document and its schema, comparison, and the report."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from xml.etree import ElementTree

import pytest

from pedsup.exit_codes import ExitCode
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup.gguf_file import read_header
from pedsup.phones.traffic import traffic
from pedsup_bench.commands.compare import compare_documents, compare_table
from pedsup_bench.report import svg
from pedsup_bench.speed.bandwidth import measure_bandwidth
from pedsup_bench.speed.measure import entry
from pedsup_bench.speed.plan import SpeedPlan


def test_traffic_counts_the_table_by_rows_and_the_tied_embedding_whole(tiny_ggufs) -> None:
    header = read_header(tiny_ggufs["gemma4"])
    found = traffic(header)
    table = header.tensors["per_layer_token_embd.weight"]
    embedding = header.tensors["token_embd.weight"]
    everything = sum(t.n_bytes for t in header.tensors.values())
    assert found.weights == everything - table.n_bytes
    assert found.rows == table.shape[0] * 4 + embedding.shape[0] * 4
    # 8 layers, all 4 that share read the cache of the last of their kind. Per position and
    # layer: 2 KV heads x head size x (K and V) x 2 bytes; heads of 64 (sliding) and 128.
    sliding, full = 2 * 64 * 2 * 2, 2 * 128 * 2 * 2
    assert found.cache(10) == 10 * (6 * sliding + 2 * full)
    assert found.cache(1000) == 16 * 6 * sliding + 1000 * 2 * full
    assert found.decode(10) == found.weights + found.rows + found.cache(10)


def test_traffic_of_the_real_smollm2(smollm2) -> None:
    """All tensors but the rows of the (tied) embedding: the file without its header."""
    header = read_header(smollm2)
    found = traffic(header)
    assert found.weights == sum(t.n_bytes for t in header.tensors.values())
    # 30 layers, 3 KV heads of 64, K and V in float16
    assert found.cache(100) == 100 * 30 * 3 * 64 * 2 * 2
    assert found.prompt(512, 512) == pytest.approx(found.weights / 512 + found.rows)
    assert found.prompt(513, 512) == pytest.approx(found.weights * 2 / 513 + found.rows)


def test_bandwidth_is_that_of_memory() -> None:
    """Within two orders of magnitude of any machine; one pass per sample."""
    found = measure_bandwidth(1, size=32 << 20, passes=3)
    assert len(found) == 3
    assert 1e8 < max(found) < 1e12


def test_entry_has_median_spread_and_share_of_the_ceiling() -> None:
    made = entry([10.0, 11.0, 9.0], "tokens/s", 20.0)
    assert made is not None
    assert (made["median"], made["low"], made["high"], made["of_ceiling"]) == (10.0, 9.0, 11.0, 0.5)
    assert made["spread"] == pytest.approx(1.4826)
    assert made["higher_is_better"]
    assert entry([], "s") is None


def test_plan_travels_as_json(tmp_path) -> None:
    plan = SpeedPlan(tmp_path / "m.gguf", depths=(0, 700), n_decode=20, cgroups=("a",))
    assert record(SpeedPlan, json.loads(json.dumps(plan.to_json())), Source("p", "p")) == plan
    assert plan.n_ctx >= 720


@pytest.fixture(scope="module")
def run_document(tiny_quantized, tmp_path_factory):  # type: ignore[no-untyped-def]
    from pedsup_bench.speed.measure import measure
    from pedsup_bench.speed.progress import foresee

    plan = SpeedPlan(
        tiny_quantized["llama"], n_threads=1, prompts=(16, 64), depths=(0, 64), n_decode=8,
        repeats=3, loads=1, first_prompt=16, sustained=0.3,
    )  # fmt: skip
    works = []

    def watched(header, plan):  # type: ignore[no-untyped-def]
        works.append(foresee(header, plan))
        return works[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pedsup_bench.speed.measure.foresee", watched)
        document = measure(plan)
    assert works[0].left() == 0, "every step foreseen was done, and no other"
    return {**document, "limits": None}


def test_document_follows_the_published_schema(run_document) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install 'pedsup[bench]'")
    file = resources.files("pedsup_bench") / "schema" / "run.schema.json"
    schema = json.loads(file.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(json.dumps(run_document)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**run_document, "measured": False}, schema)


def test_figures_are_there_and_possible(run_document) -> None:
    figures = run_document["figures"]
    # Where the file system keeps pages in spite of being asked, no load is called cold.
    assert {"load_cold", "load_uncertain"} & set(figures)
    wanted = {"load_warm", "first_token_warm", "rss_anon_warm", "rss_file_warm",
              "prompt_16", "prompt_64", "decode_0", "decode_64"}  # fmt: skip
    assert wanted <= set(figures)
    assert figures["decode_0"]["n"] == 3
    assert all(f["low"] <= f["median"] <= f["high"] for f in figures.values())
    assert figures["rss_file_warm"]["median"] > run_document["model"]["size"] / 2
    assert run_document["sustained"]["samples"]
    assert run_document["device"]["cores"]


def test_compare_finds_a_slow_down_and_exits_as_documented(run_document, bench, tmp_path) -> None:
    slow = json.loads(json.dumps(run_document))
    for name in ("decode_0", "decode_64"):
        f = slow["figures"][name]
        steady = [100.0, 101.0, 99.0]
        run_document["figures"][name].update(samples=steady, median=100.0)
        f.update(samples=[x / 2 for x in steady], median=50.0)
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(run_document))
    b.write_text(json.dumps(slow))
    done = bench("compare", a, b, check=False)
    assert done.returncode == ExitCode.REGRESSION
    assert f"exit code {ExitCode.REGRESSION}" in " ".join(bench("compare", "--help").stdout.split())
    for tolerance in ("nan", "inf", "-0.1", "1"):
        lax = bench("compare", a, b, "--tolerance", tolerance, check=False)
        assert lax.returncode == ExitCode.USAGE, "within it nothing would ever be worse"
    assert "decode at depth 0 -50.0%" in done.stderr
    same = bench("compare", a, a, "--json")
    verdicts = {row["verdict"] for row in json.loads(same.stdout)["figures"].values()}
    assert "worse" not in verdicts
    assert "better" not in verdicts


def test_too_few_samples_are_said_once_with_how_many_more(run_document) -> None:
    """Not 'unclear' a dozen times."""
    quick = json.loads(json.dumps(run_document))
    for f in quick["figures"].values():
        f.update(samples=f["samples"][:1], n=1)
    found = compare_documents(run_document, quick, tolerance=0.05, normalise=False)
    assert {row["verdict"] for row in found["figures"].values()} == {"too few samples"}
    said = compare_table(found)
    assert "unclear" not in said
    assert said.count("No verdict for") == 1
    assert "each needs 3 samples in both runs" in said
    assert "2 more after" in said
    assert "--repeats 3 --loads 3" in said


def test_normalising_divides_the_machine_out(run_document) -> None:
    other = json.loads(json.dumps(run_document))
    other["bandwidth"]["best"] *= 2
    for f in other["figures"].values():
        if f["unit"] != "B":
            factor = 2 if f["higher_is_better"] else 0.5
            f["samples"] = [x * factor for x in f["samples"]]
    found = compare_documents(run_document, other, tolerance=0.05, normalise=True)
    ratios = [r["ratio"] for r in found["figures"].values()]
    assert ratios == pytest.approx([1.0] * len(ratios))
    raw = compare_documents(run_document, other, tolerance=0.05, normalise=False)
    assert any("bandwidth differs" in warning for warning in raw["warnings"])


def test_report_is_one_page_without_outside_parts(run_document) -> None:
    from pedsup_bench.speed.html import report

    page = report(run_document)
    seen: list[tuple[str, dict[str, str | None]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    Parser().feed(page)
    assert not [tag for tag, attrs in seen if tag == "script" or "src" in attrs or "href" in attrs]
    assert [tag for tag, _ in seen].count("svg") >= 3
    assert "not a medical device" in page.lower()


def test_bars_are_drawn_to_scale() -> None:
    drawing = svg.bars("t", [svg.Bar("a", 10, "10"), svg.Bar("b", 5, "5", mark=20)])
    rects = [r for r in ElementTree.fromstring(drawing).iter() if r.tag.endswith("rect")]
    widths = [float(r.attrib["width"]) for r in rects[1:]]
    assert widths[0] == pytest.approx(2 * widths[1], rel=1e-3)


def test_damaged_model_gives_no_traceback(bench, tmp_path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    done = bench("run", path, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    again = bench("compare", path, path, check=False)
    assert again.returncode == 3
    unknown = bench("run", path, "--nothing", check=False)
    assert unknown.returncode == 2


@pytest.mark.slow
def test_side_by_side_with_llama_bench(tiny_quantized, native_tool, bench, tmp_path) -> None:
    out = tmp_path / "run.json"
    bench(
        "run", tiny_quantized["llama"], "--quick", "--threads", 1, "--against", "llama-bench",
        "--out", out, PEDSUP_LLAMA_BENCH=str(native_tool("llama-bench")),
    )  # fmt: skip
    rows = json.loads(out.read_text("utf-8"))["against"]
    assert {row["test"] for row in rows} == {"prompt_32", "prompt_128", "decode_0"}
    assert all(row["ratio"] > 0 and row["ratio_same_build"] > 0 for row in rows)
    assert all(len(row["ours_same_build"]) == len(row["samples"]) for row in rows)


def test_ratios_are_of_rounds_and_the_median_of_them() -> None:
    from pedsup_bench.speed.llama_bench import _row

    row = _row("prompt_32", [[10.0, 30.0, 10.0], [20.0, 40.0, 8.0]], [20.0, 40.0, 10.0])
    assert (row["ratio"], row["ratio_same_build"]) == (0.75, 1.0)
    assert _row("prompt_32", [[10.0]], [20.0])["ratio_same_build"] is None


def test_the_schema_in_the_docs_is_the_packaged_one() -> None:
    from pathlib import Path

    packaged = resources.files("pedsup_bench") / "schema" / "run.schema.json"
    docs = Path(__file__).parents[2] / "docs" / "bench-run.schema.json"
    assert docs.read_text("utf-8") == packaged.read_text("utf-8")


def test_the_server_engine_s_memory_is_counted(tiny_quantized, native_tool, monkeypatch) -> None:
    """On a phone the model lives in a `llama-server` child: its memory is the model's."""
    from pedsup_bench.speed.child import measured_load

    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", str(native_tool("llama-server")))
    plan = SpeedPlan(tiny_quantized["llama"], n_threads=1, first_prompt=16)
    own = measured_load(plan)
    server = measured_load(replace(plan, engine="server"))
    # Two programs and two copies of the C library, but the model once.
    assert server["rss_anon"] > 0.5 * own["rss_anon"]
    assert server["rss_file"] > own["rss_file"]
