"""Which file for which phone: the policy's rules, and its figures against llama.cpp."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from pedsup_testing import made_gguf, memory_probe, quantize_oracle

from pedsup.engine.api import EngineConfig
from pedsup.errors import PedsupError, ResourceError, UsageError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.file_types import FILE_TYPES
from pedsup.memory import estimate
from pedsup.memory.estimate import Host
from pedsup.phones.profiles import Phone, profile, shipped_profiles
from pedsup.phones.traffic import traffic
from pedsup_export import arch
from pedsup_export.cli import cli
from pedsup_export.gguf.header import KV, ValueType, header_bytes, string, u32
from pedsup_export.phone.advise import advise, with_memory
from pedsup_export.phone.budget import phone_budget, projector_memory, sees_beside
from pedsup_export.phone.models import (
    gemma4_models,
    model_of_config,
    model_of_folder,
    planned_header,
)
from pedsup_export.phone.policy import (
    COMFORT,
    CONTEXT,
    KL_DEFAULT_MODEL,
    MIN_SPEED,
    MIN_SPEED_LARGER,
    PERPLEXITY,
    SMALL_CONTEXT,
    TYPES,
    Candidate,
    Choice,
    Means,
    choose,
    preference,
)
from pedsup_export.types.mixture import file_type
from pedsup_maintain.synthetic import shapes

MIB, GIB = 1 << 20, 1 << 30
ROOT = Path(__file__).parents[2]
DOT = frozenset({"asimd", "asimddp"})
I8MM = DOT | {"i8mm"}


def candidate(model: str, quant: str, need: int, speed: float = 6.0) -> Candidate:
    return Candidate(
        model=model, quant=quant, larger=model == "E4B", file_bytes=need, weights=need, table=0,
        need={CONTEXT: need + MIB, SMALL_CONTEXT: need}, largest_context=None,
        decode=(speed, 2 * speed), paging=None,
    )  # fmt: skip


def every(speed: float = 6.0) -> list[Candidate]:
    """E4B from 2000 MiB up, E2B from 1000 MiB up, larger types first."""
    return [
        candidate(model, quant, (start - 50 * i) * MIB, speed)
        for model, start in (("E4B", 4000), ("E2B", 2000))
        for i, quant in enumerate(TYPES)
    ]


def name(choice: Choice) -> str | None:
    return f"{choice.chosen.model} {choice.chosen.quant}" if choice.chosen else None


# ---- the policy -----------------------------------------------------------------------------


def test_plenty_of_everything_takes_the_best() -> None:
    assert name(choose(every(), Means(64 * GIB, I8MM))) == "E4B Q8_0"


def test_a_type_above_the_usual_one_must_be_fast() -> None:
    slow = every(COMFORT - 0.01)
    choice = choose(slow, Means(64 * GIB, I8MM))
    assert name(choice) == "E4B Q4_K_M"
    assert "slower than Q4_K_M for little gain" in choice.rejected["E4B", "Q8_0"]
    assert name(choose(every(COMFORT), Means(64 * GIB, I8MM))) == "E4B Q8_0"


def test_the_larger_model_must_be_worth_the_wait() -> None:
    big = Means(64 * GIB, DOT)
    assert name(choose(every(MIN_SPEED_LARGER), big)) == "E4B Q4_K_M"
    choice = choose(every(MIN_SPEED_LARGER - 0.01), big)
    assert name(choice) == "E2B Q4_K_M"
    assert choice.rejected["E4B", "Q4_K_M"].startswith("too slow")
    assert name(choose(every(MIN_SPEED - 0.01), big)) is None


def test_four_bits_of_the_smaller_model_before_three_of_the_larger() -> None:
    found = every(4.0)
    largest_fitting_e4b = next(c for c in found if (c.model, c.quant) == ("E4B", "Q3_K_M"))
    choice = choose(found, Means(largest_fitting_e4b.need[CONTEXT], DOT))
    assert name(choice) == "E2B Q4_K_M"
    assert "under 4 bits" in choice.rejected["E4B", "Q3_K_M"]


def test_the_boundary_is_exact_and_the_small_context_comes_last() -> None:
    found = every(4.0)
    q4 = next(c for c in found if (c.model, c.quant) == ("E2B", "Q4_0"))
    assert name(choose(found, Means(q4.need[CONTEXT], DOT))) == "E2B Q4_0"
    below = choose(found, Means(q4.need[CONTEXT] - 1, DOT))
    assert name(below) == "E2B Q3_K_M" and below.context == CONTEXT
    least = min(found, key=lambda c: c.need[SMALL_CONTEXT])
    tight = choose(found, Means(least.need[SMALL_CONTEXT], DOT))
    assert (name(tight), tight.context) == ("E2B Q2_K", SMALL_CONTEXT)
    none = choose(found, Means(least.need[SMALL_CONTEXT] - 1, DOT))
    assert none.chosen is None
    assert set(none.rejected) == {(c.model, c.quant) for c in found}


def test_table_look_ups_need_a_strong_core() -> None:
    found = [candidate("E2B", "IQ4_XS", GIB), candidate("E2B", "Q4_0", GIB)]
    weak = choose(found, Means(2 * GIB, DOT))
    assert name(weak) == "E2B Q4_0"
    assert "look-ups" in weak.rejected["E2B", "IQ4_XS"]
    assert name(choose(found, Means(2 * GIB, I8MM))) == "E2B IQ4_XS"


SIZES = st.integers(200, 6000)


@given(
    needs=st.lists(SIZES, min_size=18, max_size=18),
    speeds=st.lists(st.floats(0.3, 12), min_size=18, max_size=18),
    memory=st.tuples(SIZES, SIZES),
    features=st.sampled_from([frozenset(), DOT, I8MM]),
)
@settings(max_examples=200, deadline=None)
def test_more_memory_never_gives_a_worse_choice(
    needs: list[int], speeds: list[float], memory: tuple[int, int], features: frozenset[str]
) -> None:
    found = [
        replace(c, need={CONTEXT: int(n * 1.1) * MIB, SMALL_CONTEXT: n * MIB}, decode=(v, 2 * v))
        for c, n, v in zip(every(), needs, speeds, strict=True)
    ]
    less, more = (choose(found, Means(m * MIB, features)) for m in sorted(memory))
    if less.chosen is None:
        return
    assert more.chosen is not None and more.context is not None and less.context is not None
    assert more.context >= less.context
    if more.context == less.context:
        assert preference(more.chosen, found) <= preference(less.chosen, found)


@pytest.mark.slow
@given(phone=st.sampled_from(sorted(shipped_profiles())), memory=st.lists(
    st.floats(1, 24), min_size=2, max_size=2))  # fmt: skip
@settings(max_examples=5, deadline=None)
def test_the_same_on_the_real_models(phone: str, memory: list[float]) -> None:
    less, more = (
        advise(with_memory(profile(phone), f"{gib:.2f}GB"), gemma4_models())
        for gib in sorted(memory)
    )
    if less.choice.chosen is not None:
        assert more.choice.chosen is not None
        ranks = [preference(a.choice.chosen, a.candidates) for a in (less, more)]  # type: ignore[arg-type]
        assert ranks[1] <= ranks[0]


@pytest.mark.parametrize("phone", sorted(shipped_profiles()))
def test_what_is_chosen_fits_and_every_other_has_a_reason(phone: str) -> None:
    advice = advise(profile(phone), gemma4_models())
    chosen = advice.choice.chosen
    assert chosen is not None, "no shipped phone is without an answer"
    assert chosen.need[advice.choice.context or 0] <= advice.phone.available_bytes
    assert chosen.largest_context and advice.context and advice.context <= chosen.largest_context
    pairs = {(c.model, c.quant) for c in advice.candidates}
    assert len(pairs) == 2 * len(TYPES)
    assert set(advice.choice.rejected) == pairs - {(chosen.model, chosen.quant)}
    if profile(phone).figures.memory_gb.value <= 4:
        assert chosen.model == "E2B"


# ---- the published and the measured figures ---------------------------------------------------


def test_the_perplexities_are_those_that_llama_cpp_publishes(llama_cpp_source: Path) -> None:
    source = (llama_cpp_source / "tools/quantize/quantize.cpp").read_text("utf-8")
    published = {
        kind: float(rise)
        for kind, rise in re.findall(r'\{ "(\w+)",.*?([+-][\d.]+) ppl @ Llama-3-8B', source)
    }
    assert {k: v for k, v in PERPLEXITY.items() if v is not None} == {
        k: published[k] for k in TYPES if k in published
    }
    assert [k for k in TYPES if k not in published] == ["IQ4_XS"]
    known = [v for v in PERPLEXITY.values() if v is not None]
    assert known == sorted(known)


def test_the_kl_column_is_the_committed_table() -> None:
    page = (ROOT / "docs/quantization-types.md").read_text("utf-8")
    rows = {
        cells[1].strip(): float(cells[4].split()[0])
        for line in page.splitlines()
        if len(cells := line.split("|")) > 9 and cells[4].strip()[:2] == "0."
    }
    assert {kind: rows[kind] for kind in TYPES} == KL_DEFAULT_MODEL


# ---- sizes and memory against llama.cpp -------------------------------------------------------


@pytest.mark.parametrize("model", ["E2B", "E4B"])
def test_types_and_sizes_equal_llama_cpp_s_dry_run(model: str, tmp_path: Path) -> None:
    made = made_gguf.gemma4(model)
    source = tmp_path / "m.gguf"
    made_gguf.write_sparse(source, made)
    ours = next(m for m in gemma4_models() if m.name == model)
    for quant in ("Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M"):
        header = planned_header(ours, FILE_TYPES[quant])
        theirs = quantize_oracle.chosen_types(source, FILE_TYPES[quant].number)
        assert {n: t.type.name for n, t in header.tensors.items()} == theirs
        shapes = {n: t.shape for n, t in header.tensors.items()}
        assert shapes == {n: tuple(s) for n, s in made.tensors.items()}


def test_e4b_has_the_size_that_was_exported() -> None:
    """5041 MiB of tensors and 2205 MiB of table: llama-quantize on the real shape (fact sheet)."""
    e4b = next(m for m in gemma4_models() if m.name == "E4B")
    header = planned_header(e4b, FILE_TYPES["Q4_K_M"])
    tensors = sum(t.n_bytes for t in header.tensors.values())
    assert tensors / MIB == pytest.approx(5041, abs=1)
    table = header.tensors["per_layer_token_embd.weight"]
    assert table.n_bytes / MIB == pytest.approx(2205, abs=1)
    assert e4b.n_params == pytest.approx(7.46e9, rel=0.001)


def test_the_estimate_equals_llama_cpp_s_on_the_planned_file(tmp_path: Path) -> None:
    """The very header of the candidate, written as a file of holes and loaded by llama.cpp."""
    e2b = next(m for m in gemma4_models() if m.name == "E2B")
    header = planned_header(e2b, FILE_TYPES["Q4_K_M"])
    path = write_planned(tmp_path / "planned.gguf", e2b.hyper, header)
    done = subprocess.run(
        [sys.executable, memory_probe.__file__, "reported", str(path), '{"n_ctx": 4096}'],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    real = json.loads(done.stdout)
    need = estimate(header, EngineConfig(path, n_ctx=4096))
    assert need.kv_cache / MIB == pytest.approx(real["kv_cache"], abs=0.02)
    assert need.output / MIB == pytest.approx(real["output"], abs=0.02)
    assert need.compute / MIB == pytest.approx(real["compute"], rel=0.1)
    # And the reader of real files sees the same sizes as the header in memory.
    again = estimate(read_header(path), EngineConfig(path, n_ctx=4096))
    assert (again.weights, again.table) == (need.weights, need.table)


def write_planned(path: Path, hyper: tuple[KV, ...], header: Any) -> Path:
    from pedsup_export.gguf.header import lay_out

    slots = lay_out((t.name, t.shape, t.type) for t in header.tensors.values())
    entries = (
        string("general.architecture", "gemma4"),
        *hyper,
        string("tokenizer.ggml.model", "no_vocab"),
        u32("gemma4.vocab_size", 262144),
    )
    assert hyper[0].type is ValueType.UINT32
    raw = header_bytes(entries, slots)
    path.write_bytes(raw)
    with path.open("r+b") as file:
        file.truncate(len(raw) + slots[-1].offset + slots[-1].n_bytes)
    return path


@pytest.mark.parametrize(("model", "shape"), [("E2B", shapes.E2B), ("E4B", shapes.E4B)])
def test_tensors_and_metadata_are_those_of_the_made_checkpoint(
    model: str, shape: shapes.Shape
) -> None:
    """Whose names, shapes and configuration are transformers' own (test_export_peer)."""
    config = shapes.text_config(shape)
    found, ours = arch.find(config, ""), next(m for m in gemma4_models() if m.name == model)
    stored = {t.name: t.shape for t in shapes.model_tensors(shape)}
    placed = found.tensors(config, stored, shape.vocab)
    assert {t.name: t.shape for t in ours.tensors.outputs} == {
        t.name: t.shape for t in placed.outputs
    }
    assert {e.key: e.value for e in ours.hyper} == {e.key: e.value for e in found.metadata(config)}


@pytest.mark.parametrize("model", ["E2B", "E4B"])
def test_the_shipped_shape_is_that_of_the_published_config(model: str) -> None:
    path = Path(__file__).parents[3] / "shared/gemma4" / f"gemma-4-{model}_text_config.json"
    if not path.exists():
        pytest.skip(f"the project's fact sheet is not here: {path}")
    config = json.loads(path.read_text("utf-8"))
    ours = next(m for m in gemma4_models() if m.name == model)
    theirs = model_of_config(model, config, source=str(path))
    assert {e.key: e.value for e in theirs.hyper} == {e.key: e.value for e in ours.hyper}
    assert theirs.tensors.outputs == ours.tensors.outputs


# ---- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("galaxy-a15", "galaxy-a15-5g"), ("Galaxy A15", "galaxy-a15-5g"),
        ("galaxy-a15-5g", "galaxy-a15-5g"), ("dimensity-6100+", "galaxy-a15-5g"),
        ("A54", "exynos-1380"), ("pixel 8", "tensor-g3"), ("snapdragon-695", "snapdragon-695"),
    ],
)  # fmt: skip
def test_a_phone_is_found_by_name_and_chip(asked: str, found: str) -> None:
    assert profile(asked).id == found


@pytest.mark.parametrize("asked", ["galaxy", "snapdragon", "samsung"])
def test_a_name_of_several_lists_them(asked: str) -> None:
    with pytest.raises(UsageError, match="several phones") as caught:
        profile(asked)
    assert len(str(caught.value.wanted).split(",")) >= 2


@pytest.mark.parametrize("asked", ["nokia-3310", "4", "", "gal"])
def test_an_unknown_name_lists_all(asked: str) -> None:
    with pytest.raises(UsageError, match="no phone profile") as caught:
        profile(asked)
    listed = str(caught.value.wanted).splitlines()
    assert [line.split()[0] for line in listed] == list(shipped_profiles())


@pytest.mark.parametrize(("text", "gib"), [("6GB", 6), ("6", 6), ("8 GiB", 8), ("3.5g", 3.5)])
def test_another_amount_of_memory(text: str, gib: float) -> None:
    phone = with_memory(profile("galaxy-a15"), text)
    assert phone.figures.memory_gb.value == gib
    assert phone.available_bytes == int(gib / 2 * GIB)
    assert "unverified" in phone.figures.memory_available_gb.source


@pytest.mark.parametrize("text", ["", "much", "0GB", "-4", "1e9", "400GB", "6MB"])
def test_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError, match="not an amount"):
        with_memory(profile("galaxy-a15"), text)


# ---- the command ----------------------------------------------------------------------------


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plan", *arguments], standalone_mode=False)


def test_the_plan_in_words() -> None:
    done = plan("--phone", "galaxy-a15")
    assert done.exception is None
    assert done.return_value == 0
    assert "Take E2B Q4_K_M" in done.output
    assert "PREDICTED" in done.output and "Nothing here was measured on a phone" in done.output
    assert "PHONE=galaxy-a15-5g" in done.output
    assert "Pictures do not fit" in done.output
    assert len([line for line in done.output.splitlines() if re.match(r"E[24]B ", line)]) == 18


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("phone", sorted(shipped_profiles()))
def test_the_plan_fits_a_phone_in_portrait(
    phone: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = plan("--phone", phone).output.splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if re.match(r"E[24]B ", line)]
    # Every letter of the table is explained below it.
    letters = {letter for row in rows for letter in row[-1] if row[-1] != "<=="}
    assert letters == {line[0] for line in lines if re.match(r"[a-z]   \S", line)}
    assert sum(row[-1] == "<==" for row in rows) == 1


def test_another_amount_of_memory_is_not_lost_on_the_way_to_make() -> None:
    said = plan("--phone", "pixel 8", "--memory", "6GB").output
    assert "Take E2B Q6_K" in said
    assert "make gguf BASE=... ADAPTER=... QUANT=Q6_K" in said


def test_the_plan_as_json() -> None:
    done = plan("--phone", "pixel 8", "--json")
    document = json.loads(done.output)
    assert document["schema"] == "pedsup-export-plan-phone/1"
    assert document["measured"] is False
    assert document["chosen"] == {"model": "E4B", "quant": "Q4_K_M"}
    assert any("FAT32" in note for note in document["notes"])
    seen = document["pictures"]
    assert (seen["projector_type"], seen["picture_tokens"], seen["fits"]) == ("Q8_0", 280, True)
    assert seen["context"] < next(
        c["largest_context"]
        for c in document["candidates"]
        if (c["model"], c["quant"]) == (seen["model"], seen["quant"])
    )
    rejected = [c for c in document["candidates"] if c["rejected"]]
    assert len(rejected) == len(document["candidates"]) - 1
    assert all(c["reasons"] for c in rejected)


def test_a_phone_that_nothing_suits_is_exit_code_7() -> None:
    done = plan("--phone", "galaxy-a15", "--memory", "1GB")
    assert done.return_value == 7
    assert "No type of E4B or E2B suits this phone" in done.output


def test_a_profile_of_one_s_own(tmp_path: Path) -> None:
    text = (resources.files("pedsup.phones") / "phones.toml").read_text("utf-8")
    own = tmp_path / "mine.toml"
    own.write_text("[mine]" + text.partition("[galaxy-a15-5g]")[2].partition("[snapdragon-685]")[0]
                   .replace("galaxy-a15-5g", "mine"), encoding="utf-8")  # fmt: skip
    # `make gguf PHONE=mine` would not know it.
    said = plan("--phone-profile", str(own)).output
    assert "QUANT=Q4_K_M" in said and "PHONE=" not in said
    for wrong in (["--phone", "a15", "--phone-profile", str(own)], []):
        error = plan(*wrong).exception
        assert isinstance(error, UsageError) and "one phone" in str(error)
    own.write_text("[x", encoding="utf-8")
    assert isinstance(plan("--phone-profile", str(own)).exception, PedsupError)


def test_a_base_by_name_needs_no_download() -> None:
    done = plan("--phone", "galaxy-a15", "--base", "google/gemma-4-E4B-it")
    assert done.return_value == 7
    assert "E2B" not in done.output.partition("\n\n")[2]
    assert "from storage only" in done.output


def same_phone(memory: str) -> Phone:
    return with_memory(profile("tensor-g3"), memory)


def test_a_larger_phone_gets_the_larger_context() -> None:
    contexts = [advise(same_phone(m), gemma4_models()[1:]).context for m in ("4GB", "8GB")]
    assert contexts[0] is not None and contexts[1] is not None and contexts[0] <= contexts[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "e2b"])
def test_the_planned_header_is_the_exported_file_s(
    kind: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """Of a base folder: types, shapes and offsets as written; what chose the type is said."""
    own = tmp_path / "weak.toml"
    text = (resources.files("pedsup.phones") / "phones.toml").read_text("utf-8")
    block = "[weak]" + text.partition("[galaxy-a15-5g]")[2].partition("[snapdragon-685]")[0]
    block = block.replace("galaxy-a15-5g", "weak").replace("value = 2.0", "value = 0.02")
    own.write_text(block, encoding="utf-8")

    def export(*arguments: str) -> Result:
        done = CliRunner().invoke(
            cli, ["run", "--base", str(models[kind]), *arguments], standalone_mode=False
        )
        assert done.exception is None, done.exception
        return done

    out = tmp_path / "m.gguf"
    said = export("--phone", "galaxy-a15", "--out", str(out)).output
    assert "Samsung Galaxy A15 5G (4 GB): Q8_0" in said and "not measured" in said
    written = read_header(out)
    assert written.metadata["general.file_type"] == FILE_TYPES["Q8_0"].number
    planned = planned_header(model_of_folder(models[kind], kind), FILE_TYPES["Q8_0"])
    assert {n: (t.type, t.shape, t.offset) for n, t in planned.tensors.items()} == {
        n: (t.type, t.shape, t.offset) for n, t in written.tensors.items()
    }
    config = EngineConfig(out, n_ctx=256)
    assert estimate(planned, config) == estimate(written, config)
    # The file also says what it is and whose; that is all the plan does not know.
    assert 0 < written.file_size - planned.file_size < 20_000

    dry = [*("--out", str(tmp_path / "n.gguf")), "--dry-run", "--json"]
    explicit = export("--phone", "galaxy-a15", "--quant", "Q4_0", *dry).output
    assert "warning: Q4_0 on Samsung Galaxy A15 5G" in explicit
    assert '"quant": "Q4_0"' in explicit
    unsuited = export("--phone", str(own), *dry).output
    assert "does not suit" in unsuited and '"quant": "Q4_' in unsuited


@pytest.mark.parametrize("phone", sorted(shipped_profiles()))
def test_a_phone_s_budget_fits_it_and_is_no_worse_than_its_type(phone: str) -> None:
    """Q4_K_M's read bytes where it is chosen, more where the phone has room and is fast enough."""
    found = profile(phone)
    for model in gemma4_models():
        advice = advise(found, (model,))
        chosen = advice.choice.chosen
        if chosen is None:
            continue
        budget = phone_budget(found, model)
        assert budget.read_bytes is not None and budget.why.startswith(found.id)
        header = planned_header(model, file_type(chosen.quant))
        need = estimate(header, EngineConfig(header.path, n_ctx=advice.choice.context or 0),
                        Host(found.features, server=True))  # fmt: skip
        read = traffic(header).weights
        room = found.available_bytes - (need.total - need.weights)
        assert read <= budget.read_bytes <= room
        low = found.bandwidth[0] * advice.efficiency[0]
        usual = traffic(planned_header(model, file_type("Q4_K_M"))).weights
        assert budget.read_bytes <= max(low / 5.0, usual)


def test_a_projector_that_is_asked_for_has_its_room_in_the_budget() -> None:
    phone, model = profile("exynos-1380"), gemma4_models()[0]
    text, sees = phone_budget(phone, model), phone_budget(phone, model, "BF16")
    projector = projector_memory(model, "BF16")
    assert projector > 900 * MIB > projector_memory(model, "Q8_0") > 0
    assert text.read_bytes is not None and sees.read_bytes is not None
    assert not sees_beside(phone, model, text, "BF16") and sees_beside(phone, model, text, "Q8_0")
    assert sees_beside(phone, model, sees, "BF16")
    assert sees.why.endswith("tokens of context and the projector (BF16)")
    # Everything together, as the runtime counts it, is what the phone has.
    header = planned_header(model, file_type("Q4_K_M"))
    need = estimate(header, EngineConfig(header.path, n_ctx=CONTEXT),
                    Host(phone.features, server=True))  # fmt: skip
    whole = sees.read_bytes + need.total - need.weights + projector
    assert whole == phone.available_bytes
    assert phone_budget(phone, model, "Q8_0").read_bytes == text.read_bytes
    with pytest.raises(ResourceError, match="no room for its weights") as refused:
        phone_budget(with_memory(phone, "2GB"), model, "BF16")
    assert "--mmproj off" in str(refused.value)


def test_more_memory_never_gives_a_smaller_budget() -> None:
    model, phone = gemma4_models()[0], profile("galaxy-a15")
    sizes = [phone_budget(with_memory(phone, f"{gib}GB"), model).read_bytes for gib in (8, 12, 16)]
    assert sizes == sorted(sizes)
    with pytest.raises(ResourceError, match="no room for its weights"):
        phone_budget(with_memory(phone, "0.5GB"), model)
