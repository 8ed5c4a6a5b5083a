"""The acknowledgement of the intended use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pedsup.errors import UsageError
from pedsup.session import consent
from pedsup.texts.intended_use import FULL


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(consent.VARIABLE, raising=False)
    return tmp_path / "pedsup"


def never(_question: str) -> str:
    raise AssertionError("nobody should be asked")


def test_the_text_is_shown_once_and_the_answer_kept(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    consent.require_consent("es", accepted=False, ask=lambda _: "sí\n")
    assert FULL["es"] in capsys.readouterr().err
    record = json.loads((home / consent.FILE).read_text())
    assert (record["language"], record["how"]) == ("es", "terminal")
    consent.require_consent("es", accepted=False, ask=never)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("reply", ["", "no\n", "yesterday\n"])
def test_anything_but_yes_stops(home: Path, reply: str) -> None:
    with pytest.raises(UsageError, match="not acknowledged"):
        consent.require_consent("en", accepted=False, ask=lambda _: reply)
    assert not (home / consent.FILE).exists()


def test_end_of_input_stops() -> None:
    def closed(_question: str) -> str:
        raise EOFError

    with pytest.raises(UsageError, match="not acknowledged"):
        consent.require_consent("en", accepted=False, ask=closed)


def test_a_script_is_told_how_to_accept() -> None:
    with pytest.raises(UsageError) as caught:
        consent.require_consent("en", accepted=False, ask=None)
    assert "--accept-intended-use" in str(caught.value)
    assert consent.VARIABLE in str(caught.value)


def test_a_script_accepts_by_option_or_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consent.require_consent("en", accepted=True, ask=None)
    assert (home / consent.FILE).is_file()
    (home / consent.FILE).unlink()
    monkeypatch.setenv(consent.VARIABLE, "1")
    consent.require_consent("en", accepted=False, ask=None)
    assert (home / consent.FILE).is_file()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"text_sha256": "older text"}'])
def test_a_changed_text_or_damaged_record_asks_again(home: Path, content: str) -> None:
    home.mkdir()
    (home / consent.FILE).write_text(content)
    assert not consent.is_recorded()
    with pytest.raises(UsageError):
        consent.require_consent("en", accepted=False, ask=None)


def test_a_home_that_cannot_be_written_does_not_stop_who_agreed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nowhere")
    consent.require_consent("en", accepted=True, ask=None)
    assert "could not be saved" in capsys.readouterr().err
