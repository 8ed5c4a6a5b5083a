"""The shipped pairs: schema, balance, and no dose in any of them."""

import json
import re
from collections import Counter
from importlib import resources

import pytest

FIELDS = {"id", "lang", "topic", "question", "answer", "source", "licence"}
DOSE = re.compile(
    r"\d[\d.,]*\s*(?:mg|mcg|µg|ug|g|ml|mL|cc|UI|IU|U|meq|mmol|gotas?|drops?|tabletas?|tablets?"
    r"|comprimidos?|cucharad\w*|(?:tea|table)spoons?)\b(?!\w)|\b(?:mg|mcg|µg|ml|UI|IU)\s*/",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    text = (resources.files("pedsup_train") / "data" / "demo_pairs.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_schema(pairs: list[dict[str, str]]) -> None:
    for pair in pairs:
        assert set(pair) - {"parallel"} == FIELDS
        assert all(isinstance(v, str) and v == v.strip() and v for v in pair.values())
        assert pair["source"] == "written for pedsup" and pair["licence"] == "CC0-1.0"
        assert re.fullmatch(rf"demo-{pair['lang']}-\d{{3}}", pair["id"])
        assert 100 <= len(pair["answer"]) <= 400, pair["id"]
        assert pair["question"].endswith("?")


def test_about_a_hundred_half_spanish_and_all_different(pairs: list[dict[str, str]]) -> None:
    assert Counter(pair["lang"] for pair in pairs) == {"en": 50, "es": 50}
    for field in ("id", "question", "answer"):
        assert len({pair[field].casefold() for pair in pairs}) == len(pairs)


def test_parallel_pairs_stand_in_both_languages(pairs: list[dict[str, str]]) -> None:
    languages: dict[str, set[str]] = {}
    for pair in pairs:
        if "parallel" in pair:
            languages.setdefault(pair["parallel"], set()).add(pair["lang"])
    assert len(languages) == 25
    assert all(found == {"en", "es"} for found in languages.values())


def test_spanish_is_spanish(pairs: list[dict[str, str]]) -> None:
    for pair in pairs:
        assert pair["question"].startswith("¿") == (pair["lang"] == "es")


def test_no_doses(pairs: list[dict[str, str]]) -> None:
    assert DOSE.search("paracetamol 15 mg/kg") and DOSE.search("2,5 ml cada 8 horas")
    for pair in pairs:
        assert not DOSE.search(pair["question"] + " " + pair["answer"]), pair["id"]


def test_a_professional_or_an_emergency_is_named(pairs: list[dict[str, str]]) -> None:
    """Nearly every answer points to a professional, to urgent care or says that it is teaching."""
    words = re.compile(
        r"profession|clinician|health|medical|urgent|emergenc|specialist|surg|educat|refer|doctor"
        r"|hospital|certified|profesional|salud|médic|urgenc|urgente|educativ|docente|centro|dentist"
        r"|equipo|certificad|programa|notific|ayuda|screening|imaging|reported|resuscitation|ultrasound",
        re.IGNORECASE,
    )
    without = [p["id"] for p in pairs if not words.search(p["answer"])]
    assert len(without) <= 8, without
