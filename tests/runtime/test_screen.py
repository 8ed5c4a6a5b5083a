"""Lines as wide as the terminal, and the commands' names."""

from __future__ import annotations

import io
import textwrap
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup.chat.events import Notice
from pedsup.terminal.commands import COMMANDS, completions, find, help_text, nearest
from pedsup.terminal.render import Renderer
from pedsup.texts.intended_use import FULL, Language
from pedsup.texts.notices import GUARDS, NOTICES
from pedsup.texts.screen import Screen, Wrapper, columns, screen_of, wrapped

WORDS = st.text("abcdefghijñóçß.,", min_size=1, max_size=19)
LINES = st.lists(st.lists(WORDS, min_size=1).map(" ".join), min_size=1, max_size=5)


class Tty(io.StringIO):
    """A terminal that keeps what it is sent."""

    def isatty(self) -> bool:
        return True


def cut(text: str, places: list[int]) -> list[str]:
    ends = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


@given(LINES, st.integers(20, 60), st.lists(st.integers(0, 999)))
def test_streamed_words_are_wrapped_as_textwrap_wraps_them(
    lines: list[str], width: int, places: list[int]
) -> None:
    """However the text is cut into pieces."""
    wrapper = Wrapper(lambda: width)
    shown = "".join(map(wrapper.feed, cut("\n".join(lines), places))) + wrapper.flush()
    wanted = [textwrap.fill(line, width, break_on_hyphens=False) for line in lines]
    assert shown == "\n".join(wanted)


@given(st.text(), st.integers(1, 60), st.lists(st.integers(0, 999)))
def test_wrapping_changes_nothing_but_space(text: str, width: int, places: list[int]) -> None:
    wrapper = Wrapper(lambda: width)
    shown = "".join(map(wrapper.feed, cut(text, places))) + wrapper.flush()
    assert "".join(shown.split()) == "".join(text.split())


def test_without_a_width_text_passes_as_it_comes() -> None:
    wrapper = Wrapper(lambda: None)
    assert [wrapper.feed(piece) for piece in ("a", " b  ", "\n c")] == ["a", " b  ", "\n c"]
    assert wrapped("a b " * 50, None) == "a b " * 50


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("width", [24, 40, 60])
def test_an_item_of_a_list_is_broken_as_a_whole(language: Language, width: int) -> None:
    """The intended use on a phone: no line of its source shows as a line of its own."""
    lines = wrapped(FULL[language], width).split("\n")
    assert max(map(len, lines)) <= width
    items = FULL[language].replace("\n  ", " ").split("\n")
    wanted = [textwrap.fill(i, width, subsequent_indent="  " * i.startswith("- ")) for i in items]
    assert lines == "\n".join(wanted).split("\n")


def test_wide_characters_take_two_cells_and_accents_none() -> None:
    assert [columns(text) for text in ("niño", "nin\u0303o", "日本")] == [4, 4, 4]
    wrapper = Wrapper(lambda: 20)
    shown = wrapper.feed("日" * 9 + " 本本") + wrapper.flush()
    assert shown == "日" * 9 + "\n本本"


@given(LINES, st.integers(20, 60))
def test_lines_are_wrapped_at_their_cells(lines: list[str], width: int) -> None:
    """A sign of two cells takes the place of two signs, whatever else is in the line."""
    twice = str.maketrans({"a": "日"})
    shown = wrapped("\n".join(line.translate(twice) for line in lines), width)
    wanted = wrapped("\n".join(line.replace("a", "aa") for line in lines), width)
    assert shown.replace("日", "aa") == wanted


def test_a_path_stays_whole() -> None:
    path = "/data/data/com.termux/files/home/pedsup/model.gguf"
    assert path in wrapped(f"the model is {path} here", 40).split("\n")


@pytest.mark.parametrize(
    ("term", "no_color", "cursor", "colour"),
    [("xterm", "", True, True), ("xterm", "1", True, False), ("dumb", "", False, False),
     ("", "", False, False)],
)  # fmt: skip
def test_colour_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, term: str, no_color: str, cursor: bool, colour: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    screen = screen_of(Tty())
    assert (screen.cursor, screen.colour) == (cursor, colour)
    pipe = screen_of(io.StringIO())
    assert (pipe.cursor, pipe.colour, pipe.width()) == (False, False, None)


def test_reasoning_guards_and_warnings_look_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Tty()
    renderer = Renderer(out, out, view="shown", language="en")
    renderer.notice(Notice("guard_emergency", GUARDS["guard_emergency"]))
    renderer.reasoning("hm")
    renderer.answer("yes")
    renderer.notice(Notice("budget", NOTICES["budget"]))
    renderer.finish()
    assert out.getvalue() == (
        "\x1b[1;31m[the question names a danger sign: this\n"
        "program is not for emergencies; follow\n"
        "your local protocol and call for help\n"
        "now]\x1b[0m\n"
        "\x1b[2mhm\x1b[0m\n"
        "yes\n"
        "\x1b[33m[the reasoning reached its budget and was\nclosed]\x1b[0m\n"
    ).replace("budget and was\nclosed", "budget and\nwas closed")


def test_every_command_is_found_by_each_of_its_names() -> None:
    for command in COMMANDS:
        for name in (command.name, command.spanish, *command.aliases):
            assert find(f"/{name}") is command
            assert find(f"/{name.upper()}") is command
    names = [n for c in COMMANDS for n in (c.name, c.spanish, *c.aliases)]
    assert len(names) == len(set(names))
    assert find("/estadísticas") is find("/stats")
    assert find("/nada") is None


def test_a_value_is_understood_in_both_languages() -> None:
    think = find("/pensar")
    assert think is not None
    said = {word: think.value(word) for word in ("on", "sí", "SI", "no", "visible", "oculto", "x")}
    assert said == {
        "on": "on", "sí": "on", "SI": "on", "no": "off", "visible": "shown", "oculto": "hidden",
        "x": "x",
    }  # fmt: skip


def test_tab_and_did_you_mean() -> None:
    assert completions("/sa", "es") == ["/salir"]
    assert completions("/sa", "en") == ["/save"]
    assert completions("/think s", "en") == ["shown"]
    assert completions("/idioma ", "es") == ["en", "es"]
    assert completions("hola /sa", "es") == []
    assert completions("/xyz ", "es") == []
    assert nearest("/aiuda", "es") == "/ayuda"
    assert nearest("/hlep", "es") == "/help"
    assert nearest("/zzzzz", "es") is None


@pytest.mark.parametrize("language", ["en", "es"])
def test_help_fits_forty_columns(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = help_text(Screen(Tty(), True, False, False), language)  # type: ignore[arg-type]
    assert max(map(len, shown.splitlines())) <= 40
    for command in COMMANDS:
        assert f"/{command.said(language)}" in shown  # type: ignore[arg-type]
