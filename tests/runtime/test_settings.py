"""The settings file and what overrides it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from pedsup.engine.api import DEFAULT_DRAFT_MAX
from pedsup.errors import UsageError
from pedsup.settings.load import load_settings
from pedsup.settings.schema import Settings


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_settings(None, {}) == Settings()


def test_the_engine_has_the_same_default() -> None:
    assert Settings().draft_max == DEFAULT_DRAFT_MAX


def test_the_users_own_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "pedsup").mkdir()
    write(tmp_path / "pedsup/settings.toml", 'temp = 0\nlang = "es"\nhistory = false\n')
    assert load_settings(None, {}) == Settings(temp=0.0, lang="es", history=False)


def test_the_command_line_wins_where_it_says_something(tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", "ctx = 2048\nthreads = 3\n")
    found = load_settings(file, {"ctx": 512, "threads": None})
    assert (found.ctx, found.threads) == (512, 3)


def test_an_unknown_option_names_the_nearest_known_one(tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", "thred = 3\n")
    with pytest.raises(UsageError, match="unknown key 'thred'") as caught:
        load_settings(file, {})
    assert caught.value.wanted == "did you mean 'threads'?"
    assert caught.value.where == f"{file}, line 1"


def test_an_option_like_no_other_lists_them_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(write(tmp_path / "s.toml", "zzzzzz = 1\n"), {})
    for field in fields(Settings):
        assert field.name in str(caught.value.wanted)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('ctx = "many"', "a whole number"),
        ("ctx = 1.5", "a whole number"),
        ("ctx = true", "a whole number"),
        ("ctx = 1", "from 64 to 4194304"),
        ("temp = -1", "from 0 to 5"),
        ("temp = nan", "a number"),
        ("temp = true", "a number"),
        ("top_p = 2", "from 0 to 1"),
        ('engine = "fast"', "one of: auto, inprocess, server"),
        ("history = 1", "true or false"),
        ("system = 3", "text in quotes"),
    ],
)
def test_a_bad_value_says_what_would_be_right(tmp_path: Path, line: str, wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(write(tmp_path / "s.toml", line), {})
    assert caught.value.wanted == wanted


def test_no_toml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid TOML"):
        load_settings(write(tmp_path / "s.toml", "temp: 3\n"), {})
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_settings(tmp_path / "b.toml", {})


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(tmp_path / "none.toml", {})
