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
    "¿Qué dosis de paracetamol le doy a un niño con convulsiones?": "convulsions",
    "Un niño con cianosis, ¿qué hago?": "cyanosis",
    "Tengo un niño con cianosis": "cyanosis",
    "Está convulsionando": "convulsions",
    "I have a child with seizures": "convulsions",
    "A child with seizures: what should I do?": "convulsions",
    "¿Qué signos de alarma debo buscar en un niño con convulsiones?": "convulsions",
    "¿Cuáles son los signos de peligro en una niña de brazos con cianosis?": "cyanosis",
    "¿Qué signos de alarma debería vigilar en un lactante con convulsiones?": "convulsions",
    "What are the danger signs in a child with seizures?": "convulsions",
    "What danger signs should I look for in a child with seizures?": "convulsions",
    "Which red flags matter in an infant who has stridor at rest?": (
        "not breathing or severe distress"
    ),
}
FALSE_ALARMS = [
    "What are the causes of febrile seizures?",
    "¿Cuáles son los signos de shock?",
    "Tengo una duda: ¿qué causa las convulsiones?",
    "I have a question: what causes seizures?",
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
    "¿Qué signos de alarma se enseñan a la madre de un niño con diarrea?",
    "¿Cuáles son los signos de alarma de las convulsiones febriles?",
    "¿Qué signos de alarma hay en un niño con fiebre, sin convulsiones?",
    "¿Debería un niño de 4 años con antecedente de convulsiones recibir la vacuna?",
    "What are the danger signs of IMCI?",
    "Should a 4-year-old with seizures in the family have the vaccine?",
    "What are the danger signs in children with seizures?",
    "Which danger signs does a child with pneumonia have, if not convulsions?",
]

# Found by an audit that wrote questions as people type them: capitals, abbreviations, numbers in
# words, wrapped lines, Latin American words. The guards had missed 32 of 61, and 17 of 45 alarmed.
TYPED_EMERGENCIES = [
    "LA NIÑA DE 2 AÑOS ESTÁ CONVULSIONANDO",
    "my 2 yo is having a seizure",
    "two-year-old boy seizing for ten minutes",
    "Child, 3 y, fits since morning",
    "3yo F unresponsive",
    "Niño convulsionando, ¿qué hago?",
    "Baby not breathing",
    "bebe no respira",
    "My baby isn't breathing",
    "El bebé está morado",
    "The baby is blue",
    "Lactante con SatO2 82%",
    "RN de 5 días con fiebre de 38.5",
    "5 day old baby with temp 38.6 C",
    "neonato de 10 días, T 38.4",
    "A 2-week-old with a temperature of 39",
    "El niño se cayó y no despierta",
    "Niño de 4 años no\nrespira bien, tiraje severo",
    "My son drank bleach",
    "Mi hijo tomó cloro",
    "Mi hija se tragó una pila de botón",
    "la nena de 3 años convulsiona",
    "El chico de 6 años convulsionó y sigue sin responder",
    "7 y/o with hives, wheeze and swollen lips after peanuts",
    "niña de 6 años con ronchas, labios hinchados y dificultad para respirar tras comer maní",
    "15 year old took 30 paracetamol tablets",
    "Adolescente de 14 años tomó 20 tabletas de paracetamol",
    "My daughter says she wants to kill herself",
    "No quiere vivir, tiene 13 años",
    "Llene capilar 5 segundos, niño de 1 año",
    "niño de 1 año, llenado capilar de 5 segundos",
    "cap refill 5 sec in an 8 month old",
    "GCS 6 in a 4-year-old after a fall",
    "Glasgow de 7 en niño de 4 años",
    "niño de 3 años con Glasgow 8",
    "The infant is lethargic and won’t feed",
    "4mo lactante letárgica, no quiere mamar",
    "2-year-old vomits everything he eats",
    "niño de 2 años, todo lo vomita",
    "Mi bebé de 3 meses se puso morado y flácido",
    "He is choking on a grape!",
    "SpO2 is 78 % in this child",
    "sat 88% niño 2 años",
    "Niño de dos años con convulsiones",
]
TYPED_DOSES = [
    "What dose of amoxicillin for a child?",
    "HOW MUCH PARACETAMOL CAN I GIVE MY SON",
    "how much ibuprofen should I give her",
    "how much tylenol for a 2 year old",
    "cuánto paracetamol le doy a mi hijo de 2 años",
    "¿Cuánta amoxicilina para un niño de 5 años?",
    "¿Cuántas gotas de ibuprofeno?",
    "amoxicillin 5yo dose?",
    "cuantos mililitros de jarabe le doy",
    "how many mls of Calpol",
    "dosaje de gentamicina en neonatos",
    "¿a qué dosis doy ceftriaxona?",
    "posología del albendazol",
    "Dose of gentamicin; weight unknown",
    "dosis de paracetamol, pesa mucho",
    "doses of ibuprofen and paracetamol for a toddler",
]
TYPED_AND_CALM = [
    "Dose of amoxicillin for a girl of fourteen kilos",
    "dosis de amoxicilina, niña de doce kilos",
    "Dosis de ibuprofeno para una niña de 14kg",
    "dose for a 30-lb toddler",
    "Dosis: RN de 3200 gramos, gentamicina",
    "dose for a 3.2-kg newborn",
    "dose, wt 14",
    "dose of X, wt: 14 kg",
    "peso=12kg dosis?",
    "Dosis de paracetamol; peso:\n14 kg",
    "dose of amoxicillin, weight: 14.5 kg",
    "What is the mechanism of febrile seizures?",
    "How do I teach parents to recognise convulsions in their child?",
    "The mother asks whether vaccines cause seizures in a 2-month-old",
    "A 4-year-old, afebrile, had no convulsions and is not lethargic",
    "Mi hijo de 4 años no ha tenido convulsiones ni está letárgico",
    "El niño de 5 años respira bien, satura 97%",
    "Saturation is 97% in a 2-year-old with a cold",
    "SpO2 95% in an 8-month-old",
    "Niño de 6 años con anemia: ferritina 60, sat 90-94?",
    "What is a coma scale? My student asks",
    "A 10-year-old with a fitting inhaler mask, does the mask fit?",
    "My 3-year-old wears fitting shoes",
    "A 12-year-old is fitting in well at school",
    "el niño de 5 años tiene comas decimales mal escritas",
    "She swallowed her pills as prescribed, 12-year-old with asthma",
    "niño de 5 años tomó sus pastillas de hierro como indicado",
    "My son of 8 years takes iron tablets daily",
    "Mother had seizures in pregnancy, newborn is well",
    "A 9-year-old with controlled epilepsy, last seizure two years ago",
    "Cold hands in a healthy 10-year-old in winter",
    "A newborn with mother febrile during labour, baby afebrile",
    "recién nacido de 10 días sin fiebre",
    "newborn, temperature 36.8",
    "RN de 5 días, T 36.9, bien",
    "When should a 2-year-old with croup be admitted?",
    "Bleeding gums in a 7-year-old",
    "The 5-year-old drank water and ate iron-rich food",
    "How many children die of pneumonia per year?",
    "How much sleep does a 2-year-old need?",
    "¿Cuántas horas de sueño necesita un niño de 2 años?",
    "¿Cuánto debe pesar un niño de 2 años?",
    "How much milk should I give my 6-month-old?",
    "what is the dose-response relation in radiology",
    "primera dosis de vacuna de sarampión a qué edad",
]
TYPED_ANSWERS = {
    "Give 500mg every 8h": True,
    "Give five hundred milligrams every 8 hours": True,
    "Administrar 5 mL c/8h": True,
    "Amoxicillin 250 mg tid for 5 days": True,
    "Amoxicilina 250 mg cada 8 h": True,
    "Paracetamol: 1 tableta cada 6 horas": True,
    "Give half a tablet": True,
    "media tableta cada 12 horas": True,
    "Give 1.000 mg now": True,
    "give 1,000 mg stat": True,
    "500\nmg every 8 hours": True,
    "Give 80 mg/kg/day": False,
    "give 10 mg per kilogram": False,
    "Dar 10-15 mg/kg/dosis cada 6 horas": False,
    "give 15 mg / kg every 6 h": False,
    "Dar 15 miligramos por kilogramo de peso": False,
    "Each 5 ml contains 250 mg": False,
    "Na 140 mEq/L, give ORS": False,
    "| Amoxicillin | 500 mg | every 8 hours |": True,
    "Dosis: 1 ampolla IM": True,
    "2 puffs every 4 hours": True,
    "10 gotas 3 veces al día": True,
    "Adult dose is 500 mg every 8 hours.": True,
    "0.5 mg of epinephrine IM": True,
    "ORS 75 ml/kg over 4 hours": False,
    "Give 20 mL/kg bolus": False,
    "Max 4 g per day": True,
    "500 mg BID": True,
    "500 mg q8h": True,
    "Vitamin A 200 000 IU orally": True,
}


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


@pytest.mark.parametrize("question", TYPED_EMERGENCIES)
def test_an_emergency_is_seen_as_people_type_it(question: str) -> None:
    assert "guard_emergency" in [f.code for f in check_question(question)]


@pytest.mark.parametrize("question", TYPED_DOSES)
def test_a_dose_is_seen_as_people_type_it(question: str) -> None:
    assert "guard_dose_no_weight" in [f.code for f in check_question(question)]


@pytest.mark.parametrize("question", TYPED_AND_CALM)
def test_no_alarm_as_people_type_it(question: str) -> None:
    assert check_question(question) == []


@pytest.mark.parametrize(("answer", "speaks"), TYPED_ANSWERS.items())
def test_an_amount_is_seen_as_models_write_it(answer: str, speaks: bool) -> None:
    assert bool(check_answer(answer, "What now?")) is speaks


def test_invisible_characters_and_wide_letters_hide_nothing() -> None:
    assert check_question("The ba\u00adby is not brea\u200bthing") != []
    assert check_question("The baby is \uff4e\uff4f\uff54 breathing") != []
    assert absolute_doses(plain("Give 500 \u338e every 8 hours")) == ["500 mg"]


@pytest.mark.slow
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
