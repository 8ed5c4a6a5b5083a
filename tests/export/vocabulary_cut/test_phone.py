"""`plan --phone --languages`: the cut file beside the full one, sizes as an export would write."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from pedsup_testing.cut_models import N_TOKENS, Pair

from pedsup_export.cli import cli
from pedsup_export.phone.models import model_of_folder, planned_header
from pedsup_export.phone.vocabulary import cut_model, tokens_of
from pedsup_export.types.ftypes import file_type
from pedsup_export.vocabulary_cut.request import VocabularyRequest


def test_the_plan_says_what_the_languages_save() -> None:
    run = ["plan", "--phone", "galaxy-a15", "--languages", "es,en"]
    text = CliRunner().invoke(cli, run, catch_exceptions=False).output
    assert "LANGUAGES=es,en" in " ".join(text.split()) and "96000 (262144)" in text
    found = json.loads(CliRunner().invoke(cli, [*run, "--json"]).stdout)
    saved, chosen = found["vocabulary"], found["chosen"]
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


def test_the_planned_file_is_the_exported_one_but_for_its_metadata(pair: Pair) -> None:
    model = model_of_folder(pair.base, "tiny")
    cut = cut_model(model, VocabularyRequest(size=pair.vocabulary.n_tokens))
    assert tokens_of(model) == N_TOKENS and tokens_of(cut) == pair.vocabulary.n_tokens
    kind = file_type("Q4_K_M")
    saved = planned_header(model, kind).file_size - planned_header(cut, kind).file_size
    wanted = pair.full.stat().st_size - pair.cut.stat().st_size
    assert saved == pytest.approx(wanted, rel=0.1)
    assert cut_model(model, VocabularyRequest(size=10 * N_TOKENS)) is model
