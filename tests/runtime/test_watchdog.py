"""The watchdog stops loops, and leaves ordinary text alone."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedsup.chat.watchdog import MIN_SPAN, Watchdog


def first_alarm(words):
    dog, ids = Watchdog(), {}
    for n, word in enumerate(words, start=1):
        found = dog.feed(ids.setdefault(word, len(ids)), word.encode())
        if found:
            return n, found
    return None


def words(text):
    return re.findall(r"\w+|[^\w]", text)


@settings(deadline=None, max_examples=40)
@given(period=st.integers(1, 64), start=st.integers(0, 100))
def test_every_exact_loop_is_found_soon(period, start):
    loop = [f"w{i}" for i in range(period)]
    alarm = first_alarm([f"s{i}" for i in range(start)] + loop * 300)
    assert alarm is not None
    assert alarm[1] == "repetition"
    assert alarm[0] - start <= max(MIN_SPAN, 3 * period) + period


def test_a_loop_with_a_counter_is_found():
    text = "".join(f"{i}. No hay datos. " for i in range(2000))
    alarm = first_alarm(re.findall(r"\d|[^\d\s]+|\s", text))
    assert alarm is not None
    assert alarm[0] < 3000


TABLE = "| Peso (kg) | Dosis (ml) |\n| --------- | ---------- |\n" + "".join(
    f"| {kg} | {kg * 7.5 / 10:.2f} |\n" for kg in range(3, 40)
)
SIGNS = """vómitos diarrea tos tiraje sed orina llanto sueño convulsión rigidez manchas palidez
    ictericia apetito peso talla vacunas viajes contactos medicinas"""
LIST = "".join(
    f"{i}. Si el lactante de {i} meses tiene fiebre de {37 + i % 4} grados, pregunte por {sign}.\n"
    for i, sign in enumerate(SIGNS.split())
)


@pytest.mark.parametrize("text", [TABLE, LIST, "-" * 40, "0, " * 15, " \n" * 20])
def test_ordinary_repetition_is_no_loop(text):
    assert first_alarm(words(text)) is None


def test_long_varied_text_is_no_loop():
    draw = random.Random(1)
    vocabulary = [f"w{i}" for i in range(400)]
    assert first_alarm(draw.choices(vocabulary, k=5000)) is None


def test_unused_tokens():
    assert first_alarm(["a", "<unused49>", "b", "<unused49>", "<unused7>"]) is None
    assert first_alarm(["a", *["<unused49>"] * 9]) == (5, "unused")
    assert Watchdog.is_unused(b"<pad>")
    assert not Watchdog.is_unused(b"<b>")
