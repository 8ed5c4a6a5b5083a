"""The guards: what they must catch, what must not alarm them, in both languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup.guards import check_answer, check_question
from pedsup.guards.dose import absolute_doses, has_weight
from pedsup.guards.phrases import plain

SHARED = Path(__file__).parents[3] / "shared" / "data"

EMERGENCIES = {
    "A 2-year-old girl is convulsing and does not wake up": "convulsions",
    "Niña de 5 años en estado epiléptico desde hace media hora": "convulsions",
    "My baby won't wake up": "unconscious or lethargic",
    "Lactante de 4 meses, hipotónico, no responde a estímulos": "unconscious or lethargic",
    "This infant is unable to breastfeed since last night": "not able to drink",
    "El niño de 3 años no puede beber y tiene los ojos hundidos": "not able to drink",
    "A 9-month-old is vomiting everything": "vomits everything",
    "Mi hija vomita todo lo que toma": "vomits everything",
    "The baby stopped breathing for a moment": "not breathing or severe distress",
    "El bebé no respira": "not breathing or severe distress",
    "Niño de 1 año con estridor en reposo": "not breathing or severe distress",
    "The newborn has blue lips": "cyanosis",
    "Recién nacida de 2 días con cianosis": "cyanosis",
    "A 6-year-old with a saturation of 85%": "cyanosis",
    "El paciente de 8 años está en shock": "shock",
    "The child has cold extremities and a capillary refill of 4 s": "shock",
    "He has anaphylaxis after penicillin": "anaphylaxis",
    "Mi hijo ingirió veneno para ratas hace una hora": "poisoning",
    "The toddler swallowed my iron tablets": "poisoning",
    "La niña de 7 años no para de sangrar": "bleeding",
    "A 3-year-old has fever and a non-blanching rash": "non-blanching rash",
    "Lactante de 10 meses con fiebre y petequias": "non-blanching rash",
    "Niño de 9 años con fiebre y rigidez de nuca": "meningism",
    "A 12 days old neonate has a fever": "fever in the first weeks",
    "Mi hija de 15 años quiere morirse": "suicide",
}
FALSE_ALARMS = [
    "What are the causes of febrile seizures?",
    "¿Cuáles son los signos de shock?",
    "A 4-year-old without seizures, no cyanosis, not in shock, drinks well",
    "Niño de 3 años, niega convulsiones, sin cianosis ni petequias",
    "The boy has a history of seizures, today he comes for vaccines",
    "Niña de 6 años con antecedente de convulsión febril, viene a control",
    "If the baby turns blue at home, what should the parents have been told?",
    "Cyanosis is absent; the 2-year-old plays and eats",
    "La cianosis fue descartada en el lactante de 5 meses",
    "Explain the pathophysiology of septic shock in general terms",
    "How is lethargy defined in the IMCI chart?",
    "Mi hijo de 7 años tiene tos desde ayer y come bien",
    "A newborn of 12 days, no fever, feeds well, is jaundiced",
    "The 5-year-old swallowed a coin of his brother's collection story for homework",
    "What is the SpO2 target of 92% based on?",
]


@pytest.mark.parametrize(("question", "sign"), EMERGENCIES.items())
def test_an_emergency_is_seen(question: str, sign: str) -> None:
    (finding,) = [f for f in check_question(question) if f.code == "guard_emergency"]
    assert sign in finding.because


@pytest.mark.parametrize("question", FALSE_ALARMS)
def test_no_alarm(question: str) -> None:
    assert check_question(question) == []


@pytest.mark.parametrize(
    ("question", "speaks"),
    [
        ("What dose of amoxicillin for a 4-year-old?", True),
        ("¿Cuántos ml de paracetamol le doy a mi hijo?", True),
        ("¿Dosis de ibuprofeno para una niña?", True),
        ("Dose of amoxicillin for a girl of 14 kg", False),
        ("Dose of ibuprofen, she weighs 12", False),
        ("La niña pesa 9,5 kilos, ¿qué dosis de hierro?", False),
        ("¿Qué dosis en mg/kg recomienda la guía?", False),
        ("How many doses of the BCG vaccine are given?", False),
        ("What is bronchiolitis?", False),
    ],
)
def test_a_dose_wants_a_weight(question: str, speaks: bool) -> None:
    codes = [f.code for f in check_question(question)]
    assert codes == (["guard_dose_no_weight"] if speaks else [])


def test_a_weight_given_earlier_counts() -> None:
    earlier = ["Niño de 4 años, pesa 16 kg, con otitis"]
    assert check_question("¿Qué dosis de amoxicilina?", earlier) == []
    assert check_answer("Dele 500 mg cada 8 horas.", "¿Qué dosis?", earlier) == []


@pytest.mark.parametrize(
    ("answer", "doses"),
    [
        ("Give 500 mg every 8 hours.", ["500 mg"]),
        ("Administre 2,5 ml por vía oral.", ["2,5 ml"]),
        ("Take 1-2 tablets daily", ["1-2 tablets"]),
        ("Give 5 ml three times a day, then 250 mg", ["5 ml", "250 mg"]),
        ("Give 15 mg/kg every 6 hours", []),
        ("Dar 50 mg por kg al día", []),
        ("The haemoglobin was 9 g/dL and the glucose 80 mg/dl", []),
        ("A litre of solution holds 2.6 g of salt", []),
        ("Ask for the weight first.", []),
    ],
)
def test_amounts_in_an_answer(answer: str, doses: list[str]) -> None:
    assert absolute_doses(plain(answer)) == doses
    found = check_answer(answer, "What now?")
    assert [f.because for f in found] == ([tuple(doses)] if doses else [])


@pytest.mark.parametrize("text", ["14 kg", "weighs 9.5", "pesa 12 kilos", "peso: 3200 g", "22 lb"])
def test_weights(text: str) -> None:
    assert has_weight(text)


@pytest.mark.parametrize("text", ["15 mg/kg", "weight unknown", "peso desconocido", "kg", "5 años"])
def test_no_weights(text: str) -> None:
    assert not has_weight(plain(text))


@given(st.text(max_size=400))
def test_any_text_is_read_and_gives_the_same_again(text: str) -> None:
    assert check_question(text) == check_question(text)
    assert check_answer(text, text) == check_answer(text, text)


def test_a_long_question_takes_no_long_time() -> None:
    """Patterns must not backtrack: 200 kB of near-misses are read in one go."""
    text = "my 3-year-old swallowed " + "a b c d e f " * 8000 + "fever " * 4000 + "9 days old "
    assert check_question(text) is not None


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data beside the checkout")
def test_rates_on_exam_questions() -> None:
    """On real exam questions the dose guard is rare, and an emergency is named in few vignettes."""
    lines = (SHARED / "perumedqa_pediatria_2018_2020.jsonl").read_text("utf-8").splitlines()
    codes = [f.code for line in lines for f in check_question(json.loads(line)["question"])]
    assert codes.count("guard_dose_no_weight") <= 0.01 * len(lines)
    assert 0.03 * len(lines) <= codes.count("guard_emergency") <= 0.08 * len(lines)
