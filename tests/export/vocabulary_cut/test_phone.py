"""`plan --phone --languages`: the cut file beside the full one, sizes as an export would write."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from pedsup_testing.cut_models import N_TOKENS, Pair

from pedsup_export.cli import cli
from pedsup_export.phone.models import model_of_folder, planned_header
from pedsup_export.phone.vocabulary import GEMMA4, cost_lines, cut_model, language_costs, tokens_of
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef
from pedsup_export.types.mixture import file_type
from pedsup_export.vocabulary_cut.languages import parse_languages
from pedsup_export.vocabulary_cut.request import VocabularyRequest


def test_the_plan_says_what_the_languages_save() -> None:
    run = ["plan", "--phone", "galaxy-a15", "--languages", "es,en"]
    text = CliRunner().invoke(cli, run, catch_exceptions=False).output
    assert "LANGUAGES=es,en" in " ".join(text.split()) and "96000 (262144)" in text
    found = json.loads(CliRunner().invoke(cli, [*run, "--json"]).stdout)
    saved, chosen = found["vocabulary"], found["chosen"]
    assert 0 < saved["lost_by_word_list"]["en"] < 0.01
    assert re.search(r"es +0\.\d\d% of tokens fall to smaller pieces", text)
    assert chosen is not None
    for figure in ("file_bytes", "memory_bytes", "read_per_token"):
        assert saved["cut"][figure] < saved["full"][figure]
    e4b = next(c for c in found["candidates"] if (c["model"], c["quant"]) == ("E4B", "Q4_K_M"))
    assert e4b["file_bytes"] < 3.3 * (1 << 30)


def test_an_e4b_reads_an_eighth_less() -> None:
    def read(*more: str) -> int:
        run = ["plan", "--phone", "galaxy-a15", "--json", *more]
        found = json.loads(CliRunner().invoke(cli, run).stdout)["candidates"]
        e4b = [c for c in found if (c["model"], c["quant"]) == ("E4B", "Q4_K_M")]
        return int(e4b[0]["read_per_token"])

    assert read("--languages", "es,en") < 0.89 * read()


@pytest.mark.slow
def test_the_planned_file_is_the_exported_one_but_for_its_metadata(pair: Pair) -> None:
    model = model_of_folder(pair.base, "tiny")
    cut = cut_model(model, VocabularyRequest(size=pair.vocabulary.n_tokens))
    assert tokens_of(model) == N_TOKENS and tokens_of(cut) == pair.vocabulary.n_tokens
    kind = file_type("Q4_K_M")
    saved = planned_header(model, kind).file_size - planned_header(cut, kind).file_size
    wanted = pair.full.stat().st_size - pair.cut.stat().st_size
    assert saved == pytest.approx(wanted, rel=0.1)
    assert cut_model(model, VocabularyRequest(size=10 * N_TOKENS)) is model


def test_the_cost_for_each_language_falls_with_the_size() -> None:
    languages = parse_languages("en,es,qu")[:2]
    sizes = sorted(GEMMA4[frozenset({"en", "es"})])
    middle = [(a + b) // 2 for a, b in pairwise(sizes)]
    shares = [
        [cost.share for cost in language_costs(VocabularyRequest(languages, size), None)]
        for size in sorted([*sizes, *middle])
    ]
    for one in zip(*shares, strict=True):
        assert None not in one and list(one) == sorted(one, reverse=True)
    assert language_costs(VocabularyRequest(languages, 10), None)[0].share is None


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["gemma4"], indirect=True)  # the word list takes 30 s
def test_the_cost_of_a_base_is_that_of_its_export(pair: Pair) -> None:
    """A folder's own tokenizer; a language without a word list says so."""
    request = VocabularyRequest(parse_languages("es,qu"), pair.vocabulary.n_tokens + 256)
    spanish, quechua = language_costs(request, pair.base)
    plan, _ = make_plan(
        ExportRequest(base=ModelRef(pair.base, "tiny"), out=Path("x.gguf"), vocabulary=request)
    )
    assert plan.cut is not None and spanish.share == plan.cut.lost["es"] > 0
    assert quechua.share is None and "no word list" in cost_lines((quechua,))[0]
