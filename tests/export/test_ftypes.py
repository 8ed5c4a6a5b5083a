"""File types against llama.cpp's numbers and names."""

from __future__ import annotations

import llama_cpp
import pytest

from pedsup.errors import UsageError
from pedsup.gguf_file.file_types import FILE_TYPES
from pedsup_export.types.mixture import file_type

ASKED = "F32 F16 BF16 Q8_0 Q4_0 Q4_K_S Q4_K_M Q5_K_M Q6_K Q3_K_M Q2_K IQ4_XS"


def test_all_that_were_asked_for_are_there() -> None:
    assert sorted(FILE_TYPES) == sorted(ASKED.split())


@pytest.mark.parametrize("name", ASKED.split())
def test_numbers_are_llama_cpps(name: str) -> None:
    constant = "LLAMA_FTYPE_ALL_F32" if name == "F32" else f"LLAMA_FTYPE_MOSTLY_{name}"
    assert FILE_TYPES[name].number == getattr(llama_cpp, constant)
    assert FILE_TYPES[name].is_quantized == (name not in ("F32", "F16", "BF16"))


def test_case_and_aliases() -> None:
    assert file_type("q4_k_m").name == "Q4_K_M"
    assert file_type("Q5_K").name == "Q5_K_M"


def test_an_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        file_type("Q7_K")
    assert all(name in str(caught.value) for name in ASKED.split())
