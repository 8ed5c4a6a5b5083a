"""The one reader from TOML and JSON to records: what it takes, and what its errors say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup.errors import BadFileError, UsageError
from pedsup.files.checks import Count, Sha256, within
from pedsup.files.records import json_record, record, toml_record
from pedsup.files.source import Source, line_of, parse_toml, parsed_json
from pedsup.texts.language import translated

SOURCE = Source("the note", "note.toml", remedy="mend it")


@dataclass(frozen=True)
class Part:
    name: str
    share: Annotated[float, within(0, 1)] = 0.5


@dataclass(frozen=True)
class Note:
    kind: Literal["1", "big"]
    count: Count = 0
    on: bool = False
    digest: Sha256 | None = None
    parts: tuple[Part, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    words: frozenset[str] = frozenset()
    limits: Mapping[Literal["low", "high"], Part] | None = None
    rest: object = None

    def __post_init__(self) -> None:
        if self.span[0] > self.span[1]:
            raise ValueError("the span ends before it begins")


def read(text: str) -> Note:
    return toml_record(Note, text, SOURCE)


def test_everything_a_record_can_hold() -> None:
    text = f"""
    kind = 1
    count = 3
    on = true
    digest = "{"ab" * 32}"
    span = [0, 2.5]
    words = ["a", "b", "a"]
    rest = {{x = [1]}}
    [[parts]]
    name = "p"
    share = 1
    [limits.low]
    name = "l"
    """
    assert read(text) == Note(
        "1", 3, True, "ab" * 32, (Part("p", 1.0),), (0.0, 2.5), frozenset("ab"),
        {"low": Part("l")}, {"x": [1]},
    )  # fmt: skip
    assert isinstance(read(text).parts[0].share, float)


@pytest.mark.parametrize(
    ("text", "found", "wanted", "line"),
    [
        ("kind = 1\ncuont = 3", "unknown key 'cuont'", "did you mean 'count'?", 2),
        ("kind = 1\nCOUNT = 3", "unknown key 'COUNT'", "did you mean 'count'?", 2),
        ("count = 3", "'kind' is missing", "one of: 1, big", None),
        ("kind = 'small'", 'kind = "small"', "one of: 1, big", 1),
        ("kind = true", "kind = true", "one of: 1, big", 1),
        ("kind = 1\n\ncount = true", "count = true", "a whole number", 3),
        ("kind = 1\ncount = 1.0", "count = 1.0", "a whole number", 2),
        ("kind = 1\ncount = -1", "count = -1", "0 or more", 2),
        ("kind = 1\non = 1", "on = 1", "true or false", 2),
        ("kind = 1\ndigest = 'AB'", 'digest = "AB"', "a SHA-256: 64 hex digits in lower case", 2),
        ("kind = 1\nspan = [1]", "span = [1]", "a list of 2 values", 2),
        ("kind = 1\nspan = [1, nan]", "span[1] = NaN", "a number", 2),
        ("kind = 1\nspan = [1, inf]", "span[1] = Infinity", "a number", 2),
        ("kind = 1\nwords = 'a'", 'words = "a"', "a list", 2),
        ("kind = 1\nparts = 3", "parts = 3", "a list", 2),
        ("kind = 1\nparts = [3]", "parts[0] = 3", "a table with name, share", 2),
        ("kind = 1\n[[parts]]\nname='a'\n[[parts]]\nshare=1", "'parts[1].name' is missing",
         "text in quotes", 4),
        ("kind = 1\n[[parts]]\nname='a'\n[[parts]]\nname='b'\nshare=2", "parts[1].share = 2",
         "from 0 to 1", 6),
        ("kind = 1\n[limits.lo]\nname='a'", "unknown key 'limits.lo'",
         "did you mean 'limits.low'?", 2),
        ("kind = 1\n[limits.low]\nnam='a'", "unknown key 'limits.low.nam'",
         "did you mean 'limits.low.name'?", 3),
        ("kind = 1\nspan = [2, 1]", "the span ends before it begins", None, None),
        (f"kind = '{'x' * 99}'", 'kind = "' + "x" * 56 + "...", "one of: 1, big", 1),
    ],
)  # fmt: skip
def test_an_error_says_where_what_and_what_instead(
    text: str, found: str, wanted: str | None, line: int | None
) -> None:
    with pytest.raises(BadFileError) as error:
        read(text)
    where = "note.toml" if line is None else f"note.toml, line {line}"
    said = error.value
    assert (said.found, said.wanted, said.where) == (found, wanted, where)
    assert said.remedy == "mend it"


def test_what_is_not_toml_or_json_is_one_error(tmp_path: Path) -> None:
    for text in ("kind: 1", "kind = 1\nkind = 2", "a = " + "[" * 5000):
        with pytest.raises(BadFileError, match=r"the note is (not valid TOML|nested too deep)"):
            read(text)
    with pytest.raises(BadFileError, match="not valid TOML"):
        toml_record(Note, b"\xff\xfe", SOURCE)
    file = tmp_path / "n.json"
    with pytest.raises(UsageError, match="the note cannot be read"):
        json_record(Note, file, Source("the note", file, UsageError), 100)
    file.write_text("[1]")
    with pytest.raises(BadFileError, match=r"the note holds \[1\]") as error:
        json_record(Note, file, Source("the note", file), 100)
    assert "a table with kind" in str(error.value)


HUGE = "0x" + "f" * 5000
"""Python reads it, and refuses to print it."""


@pytest.mark.parametrize(
    "refused",
    [
        lambda source: parsed_json(b"{", source),
        lambda source: parse_toml(b"{", source),
        lambda source: record(Note, [1], source),
    ],
)
def test_the_file_is_named_in_the_reader_s_language(refused: Callable[[Source], object]) -> None:
    with pytest.raises(BadFileError, match=r"^the manifest ") as error:
        refused(Source("the manifest", "x"))
    assert translated(error.value.found, "es").startswith("el manifiesto ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"kind = {HUGE}", "too large"),
        (f"count = {HUGE}", "too large"),
        (f"rest = {{ x = [1, {HUGE}] }}", "too large"),
        ("count = " + "9" * 5000, "too large"),
        (f"count = {1 << 63}", "too large"),
        ("kind = " + "[" * 200 + "]" * 200, "nested too deeply"),
        ("kind" + ".a" * 3000 + " = 1", "nested too deeply"),
    ],
)
def test_a_value_that_cannot_even_be_printed_is_refused_in_words(text: str, reason: str) -> None:
    with pytest.raises(BadFileError, match=rf"not valid TOML: .*{reason}") as error:
        read(text)
    assert len(str(error.value)) < 200


def test_json_has_the_same_bounds(tmp_path: Path) -> None:
    file = tmp_path / "n.json"
    for text, reason in (("[" * 200 + "]" * 200, "nested too"), ("9" * 5000, "too large")):
        file.write_text(f'{{"kind": {text}}}')
        with pytest.raises(BadFileError, match=f"is not JSON: .*{reason}"):
            json_record(Note, file, Source("the note", file), 1 << 16)
    assert read(f"kind = 1\ncount = {(1 << 63) - 1}").count == (1 << 63) - 1


def test_what_an_error_quotes_is_short() -> None:
    long = "k" * 5000
    for text in (f"{long} = 1", f"kind = 1\n[rest]\n[limits.{long}]", f"kind = '{long}'"):
        with pytest.raises(BadFileError) as error:
            read(text)
        assert len(str(error.value)) < 300
    with pytest.raises(BadFileError, match="count = -0xf"):
        record(Note, {"kind": "1", "count": -int(HUGE, 16)}, SOURCE)


def test_another_version_s_keys_can_be_left_alone() -> None:
    source = Source("the note", "n", only_known=False)
    assert record(Note, {"kind": "big", "new": 1, "parts": [{"name": "a", "x": 2}]}, source) == (
        Note("big", parts=(Part("a"),))
    )
    with pytest.raises(BadFileError, match="unknown key 'new'"):
        record(Note, {"kind": "big", "new": 1}, SOURCE)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from([*Note.__dataclass_fields__, "x"])


@given(st.dictionaries(names, values, max_size=5))
def test_any_value_is_a_record_or_one_error(value: dict[str, object]) -> None:
    try:
        note = record(Note, value, SOURCE)
    except BadFileError as error:
        assert error.found
        return
    assert note.kind in ("1", "big")
    assert type(note.count) is int and note.count >= 0
    assert type(note.on) is bool
    assert all(type(n) is float and math.isfinite(n) for n in note.span)
    assert all(isinstance(part, Part) for part in note.parts)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("a", 2), ("t.b", 9), ("t", 8), ("t.u.c", 11), ("t.u.c[2].d", 11), ("l[1].e", 15),
        ("l[1]", 14), ("l[1].q.r s", 16), ("x.hidden", None), ("text", 3),
        ("nowhere", None), ("l[7].e", None),
    ],
)  # fmt: skip
def test_the_line_of_a_key(key: str, line: int | None) -> None:
    text = (
        "# a comment\na = 1\ntext = '''\nb = 2\n[x]\nhidden = 1\n'''\n[t]\nb = 3\n"
        "[t.u]\nc = [1, 2, {d = 4}]\n[[l]]\ne = 1\n[[l]]\n'e' = 2\nq.\"r s\" = 3\n"
    )
    assert line_of(text, key) == line


def test_a_json_file_is_a_record(tmp_path: Path) -> None:
    file = tmp_path / "n.json"
    file.write_text("\ufeff" + json.dumps({"kind": "big", "span": [1, 2]}), "utf-8")
    assert json_record(Note, file, Source("the note", file), 1000).span == (1.0, 2.0)
