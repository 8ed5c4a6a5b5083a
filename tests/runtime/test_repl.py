"""The interactive session on a pseudo-terminal, with a scripted engine."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import scripted_repl
from pedsup_testing.fake_engine import END
from pedsup_testing.pictures import private_png
from pedsup_testing.terminal import Terminal

from pedsup.session.files import find_session
from pedsup.session.history import replay
from pedsup.session.transcript import read_records

OPEN, CLOSE = "<|channel>", "<channel|>"
PROMPT = r"\n(\x1b\[\?2004h)?\x1b\[1;36m> \x1b\[0m"
DIM = "\x1b[2m"


@pytest.fixture
def start(tmp_path: Path, edge_template: str):  # type: ignore[no-untyped-def]
    """A function that starts a session on a terminal; `start.calls()` are the engine's calls."""

    def launch(script: list[list[str]], **options: Any) -> Terminal:
        config = {
            "script": script,
            "template": edge_template,
            "folder": str(tmp_path / "sessions"),
            "calls": str(tmp_path / "calls.json"),
            **options,
        }
        (tmp_path / "sessions").mkdir(exist_ok=True)
        (tmp_path / "config.json").write_text(json.dumps(config))
        path = os.pathsep.join([*sys.path])
        return Terminal(
            [sys.executable, scripted_repl.__file__, str(tmp_path / "config.json")],
            {"PYTHONPATH": path, "INPUTRC": os.devnull},
            preload=("pedsup_testing.scripted_repl",),
        )

    launch.calls = lambda: json.loads((tmp_path / "calls.json").read_text())  # type: ignore[attr-defined]
    launch.session = lambda: replay(  # type: ignore[attr-defined]
        read_records(find_session(tmp_path / "sessions", "last"))
    )
    return launch


def thought(text: str, answer: str) -> list[str]:
    """The pieces of a turn: reasoning, answer, end."""
    return [OPEN, "thought", "\n", *text, CLOSE, *answer, END]


def test_a_conversation_with_reasoning(start: Any) -> None:
    with start([thought("hmm", "Sí."), thought("ok", "No.")]) as terminal:
        greeting = terminal.expect(PROMPT)
        assert "Research only" in greeting
        assert "Scripted" in greeting
        terminal.line("¿Fiebre?")
        shown = terminal.expect(PROMPT)
        assert re.search(re.escape(DIM) + r"hmm\x1b\[0m\r\nSí\.", shown)
        terminal.line("y tos?")
        terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
        assert OPEN not in terminal.output
    assert "<|turn>model\nSí.<turn|>" in start.calls()[1]["prompt"]
    assert "hmm" not in start.calls()[1]["prompt"]
    assert [e.reasoning for e in start.session().exchanges] == ["hmm", "ok"]


def test_ctrl_c_stops_the_answer_and_not_the_program(start: Any) -> None:
    with start([["palabra "] * 400 + [END], ["ok", END]], delay_s=0.05, think="off") as terminal:
        terminal.expect(PROMPT)
        terminal.line("cuenta")
        terminal.expect("palabra palabra")
        terminal.press("C")
        terminal.expect(r"\[stopped\]")
        terminal.expect(PROMPT)
        terminal.line("sigue")
        terminal.expect("ok")
        terminal.expect(PROMPT)
        terminal.line("/quit")
        assert terminal.wait() == 0
    first, second = start.session().exchanges
    assert first.stop_reason == "interrupted"
    assert first.answer.startswith("palabra palabra")
    assert second.answer == "ok"


def test_ctrl_c_at_the_prompt_says_how_to_leave(start: Any) -> None:
    with start([["ok", END]]) as terminal:
        terminal.expect(PROMPT)
        terminal.send("half a ques")
        # Readline draws the prompt before it listens for signals; a person is slower than that.
        terminal.expect("half a ques")
        time.sleep(0.5)
        terminal.press("C")
        terminal.expect(r"Ctrl-D or /quit leaves")
        terminal.expect(PROMPT)
        terminal.line("hola")
        terminal.expect("ok")
        terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
    assert [e.user for e in start.session().exchanges] == ["hola"]


def test_several_lines(start: Any) -> None:
    with start([["a", END], ["b", END], ["c", END]], think="off") as terminal:
        terminal.expect(PROMPT)
        for message in (
            ['"""uno', "dos", 'tres"""'],
            ["cuatro\\", "cinco"],
            ['"""', "", "x", '"""'],
        ):
            for line in message:
                terminal.line(line)
            terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
    assert [e.user for e in start.session().exchanges] == ["uno\ndos\ntres", "cuatro\ncinco", "x"]


def test_reasoning_folded_off_and_on_again(start: Any) -> None:
    script = [
        thought("a" * 40, "uno"),
        ["dos", END],
        thought("b" * 10, "tres"),
    ]
    with start(script, think="hidden") as terminal:
        terminal.expect(PROMPT)
        terminal.line("1")
        shown = terminal.expect(PROMPT)
        assert "[reasoning: 40 characters]" in shown
        assert "aaaa" not in shown
        terminal.line("/reasoning")
        assert "a" * 40 in terminal.expect(PROMPT)
        terminal.line("/think off")
        terminal.expect("Reasoning: off")
        terminal.line("2")
        terminal.expect(PROMPT)
        terminal.line("/think on")
        terminal.expect("Reasoning: hidden")
        terminal.line("/think shown")
        terminal.expect("Reasoning: shown")
        terminal.line("/budget 500")
        terminal.expect("budget: 500")
        terminal.line("3")
        assert "b" * 10 in terminal.expect("tres")
        terminal.expect(PROMPT)
        terminal.line("/think maybe")
        terminal.expect(r"/think takes: /think on\|off\|shown\|hidden")
        terminal.line("/quit")
        assert terminal.wait() == 0
    prompts = [call["prompt"] for call in start.calls()]
    assert ["<|think|>" in prompt for prompt in prompts] == [True, False, True]


def test_commands(start: Any, tmp_path: Path) -> None:
    script = [["uno", END], ["dos", END]]
    with start(script, think="off") as terminal:
        terminal.expect(PROMPT)
        terminal.line("/stats")
        stats = terminal.expect(PROMPT)
        assert "seed 7" in stats
        assert stats.splitlines()[1].startswith("speed: no answer yet")
        terminal.line("/system Sé breve.")
        terminal.expect("System prompt: Sé breve.")
        terminal.line("primera")
        terminal.expect("uno")
        terminal.expect(PROMPT)
        terminal.line("/stats")
        stats = terminal.expect("session: ")
        assert stats.splitlines()[1].startswith("speed: ")
        assert "answer 1; end: complete" in stats
        assert "RssAnon" in stats
        terminal.line("/reset")
        terminal.expect("starts afresh")
        terminal.line("segunda")
        terminal.expect("dos")
        terminal.expect(PROMPT)
        copy = tmp_path / "copy.md"
        terminal.line(f"/save {copy}")
        terminal.expect("Saved: ")
        terminal.line(f"/save {copy}")
        terminal.expect("the file exists")  # an error, and the session goes on
        terminal.line("/lang es")
        terminal.expect("Los mensajes están en español")
        terminal.line("/hlep")
        terminal.expect(r"No existe ese comando: /hlep. ¿Quiso decir /help\?")
        terminal.line("/help")
        terminal.expect(r"/pensar sí\|no\|visible\|oculto")
        terminal.line("/Pensar si")
        terminal.expect("Razonamiento: visible")
        terminal.line("/guardar copia.pdf")
        terminal.expect(r"no se puede escribir en el formato '\.pdf'")
        terminal.line("/sal\t")
        terminal.expect("queda guardada")
        assert terminal.wait() == 0
    assert "primera" in copy.read_text()
    last = start.calls()[-1]["prompt"]
    assert "Sé breve." in last
    assert "segunda" in last
    assert "primera" not in last


def test_leaving_without_a_slash_is_asked_about(start: Any) -> None:
    with start([["ok", END]], think="off") as terminal:
        terminal.expect(PROMPT)
        terminal.line("Salir")
        terminal.expect(r"Leave\? \[y/N\]")
        terminal.line("n")
        terminal.expect(PROMPT)
        terminal.line("salir del hospital")  # a question, not the word alone
        terminal.expect("ok")
        terminal.expect(PROMPT)
        terminal.line("exit")
        terminal.expect(r"Leave\? \[y/N\]")
        terminal.line("y")
        assert terminal.wait() == 0
    assert [e.user for e in start.session().exchanges] == ["salir del hospital"]


def test_saving_takes_the_format_from_the_ending(start: Any, tmp_path: Path) -> None:
    with start([["uno", END]], think="off") as terminal:
        terminal.expect(PROMPT)
        terminal.line("primera")
        terminal.expect(PROMPT)
        for name in ("a.md", "b.TXT", "c.jsonl", "d"):
            terminal.line(f"/save {tmp_path / name}")
            terminal.expect("Saved: ")
            terminal.expect(PROMPT)
        terminal.line(f"/save {tmp_path / 'e.docx'}")
        terminal.expect(r"'\.docx' is not a format")
        terminal.expect(r"\.md, \.txt or \.jsonl")
        terminal.line("/quit")
        assert terminal.wait() == 0
    assert "## Question 1" in (tmp_path / "a.md").read_text()
    assert (tmp_path / "d.md").read_text() == (tmp_path / "a.md").read_text()
    assert "Question:\nprimera" in (tmp_path / "b.TXT").read_text()
    lines = (tmp_path / "c.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["type"] == "session"
    assert not (tmp_path / "e.docx").exists()


def test_without_colour_no_code_is_written(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with start([thought("hm", ["Give 500 mg."])]) as terminal:
        terminal.expect(r"\n(\x1b\[\?2004h)?> ")
        terminal.line("dosis de diazepam para un niño")
        shown = terminal.expect("no weight was given")
        assert "\x1b[0m" not in shown
        assert DIM not in shown
        terminal.press("D")


def test_a_killed_session_resumes_with_its_partial_answer(start: Any) -> None:
    with start([["palabra "] * 400], delay_s=0.05, think="off") as terminal:
        terminal.expect(PROMPT)
        terminal.line("cuenta")
        terminal.expect(r"(palabra\s+){20}")
        os.kill(terminal.pid, signal.SIGKILL)
        assert terminal.wait() == -signal.SIGKILL
    with start([["sigo", END]], think="off", resume=True) as terminal:
        greeting = terminal.expect(PROMPT)
        assert "Resumed session" in greeting
        assert "cut off" in greeting
        assert "palabra palabra" in greeting
        terminal.line("sigue")
        terminal.expect("sigo")
        terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
    first, second = start.session().exchanges
    assert first.stop_reason == "killed"
    assert first.answer.startswith("palabra palabra")
    assert second.answer == "sigo"


@pytest.mark.slow
def test_a_resumed_session_shows_its_last_two_turns_shortened(start: Any) -> None:
    long = " ".join(str(n * n) for n in range(300))
    with start([["uno", END], ["dos", END], [*long, END]], think="off") as terminal:
        for question in ("primera", "segunda", "tercera"):
            terminal.expect(PROMPT)
            terminal.line(question)
        terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
    with start([], think="off", resume=True) as terminal:
        greeting = terminal.expect(PROMPT)
        terminal.line("/reset")
        terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
    shown = greeting.replace("\r", "").partition("with 3 turns.\n")[2].splitlines()
    assert shown[:3] == ["  > segunda", "dos", "  > tercera"]
    assert "primera" not in greeting
    answer = " ".join(shown[3:-1])  # wrapped at the terminal's width
    assert answer.endswith(" [...]")
    assert long.startswith(answer.removesuffix("[...]")), "cut between words"
    assert 550 < len(answer) < 620
    # What was reset the model does not see, nor is it shown as going on.
    with start([], think="off", resume=True) as terminal:
        assert "tercera" not in terminal.expect(PROMPT)


def test_an_engine_that_dies_leaves_the_transcript_and_says_how_to_go_on(start: Any) -> None:
    with start([["half an ", "DIE"]], think="off") as terminal:
        terminal.expect(PROMPT)
        terminal.line("q")
        terminal.expect(r"Continue with --resume \S+")
        terminal.expect(r"error:(\x1b\[0m)? the engine was killed \(signal 9\)")
        assert terminal.wait() == 9
        assert "Traceback" not in terminal.output
    (only,) = start.session().exchanges
    assert (only.answer, only.stop_reason) == ("half an ", "failed")


def test_a_question_that_is_too_long_is_an_error_and_the_session_goes_on(start: Any) -> None:
    # The scripted context is 4096 characters; terminals cut a line there, so use a block.
    with start([["ok", END]], think="off") as terminal:
        terminal.expect(PROMPT)
        terminal.line('"""')
        for _ in range(60):
            terminal.line("x" * 90)
        terminal.line('"""')
        terminal.expect(r"error:(\x1b\[0m)? the conversation is 5")
        terminal.expect(PROMPT)
        terminal.line("short")
        terminal.expect("ok")
        terminal.expect(PROMPT)
        terminal.line("/quit")
        assert terminal.wait() == 0


def test_a_model_cannot_write_control_sequences_to_the_terminal(start: Any) -> None:
    with start([["a\x1b]0;evil\x07b\x1b[2Jc\u202ed\x9b1me", END]], think="off") as terminal:
        terminal.expect(PROMPT)
        terminal.line("q")
        shown = terminal.expect(PROMPT)
        assert "a]0;evilb[2Jcd1me" in shown
        terminal.press("D")
        terminal.wait()


def test_guards_stand_beside_the_answer_and_in_the_transcript(start: Any, tmp_path: Path) -> None:
    with start([thought("hm", ["Give 500 mg every 8 hours."]), ["ok", END]]) as terminal:
        terminal.expect(PROMPT)
        terminal.line("/lang es")
        terminal.expect(PROMPT)
        terminal.line("Mi hijo de 3 años convulsiona ahora, ¿qué dosis de diazepam?")
        shown = terminal.expect(PROMPT)
        places = [shown.index(part) for part in ("signo de peligro", "no da el peso", "500 mg",
                                                 "no se dio el peso")]  # fmt: skip
        assert places == sorted(places)
        terminal.line("Pesa 14 kg")
        assert "peso" not in terminal.expect(PROMPT).replace("Pesa", "")
        terminal.press("D")
        assert terminal.wait() == 0
    records = read_records(find_session(tmp_path / "sessions", "last"))
    codes = [[finding["code"] for finding in record["guards"]]
             for record in records if record["type"] == "assistant"]  # fmt: skip
    assert codes == [["guard_emergency", "guard_dose_no_weight", "guard_dose_in_answer"], []]


def test_a_question_keeps_its_first_sign_where_the_locale_is_not_installed() -> None:
    """readline takes bytes above 127 as keys with Meta there."""
    program = (
        "from pedsup.terminal.reading import terminal_reader\n"
        "print('read', ascii(terminal_reader([])('> ')))"
    )
    with Terminal([sys.executable, "-c", program], {"LC_ALL": "xx_YY.UTF-8"}) as terminal:
        terminal.expect("> ")
        time.sleep(0.5)  # readline has to set up its keys after it printed the prompt
        terminal.line("¿Qué es la fiebre? ñ")
        terminal.expect(re.escape(f"read {'¿Qué es la fiebre? ñ'!a}"))
        assert terminal.wait() == 0


def test_a_photo_is_named_as_a_person_types_it(start: Any, tmp_path: Path) -> None:
    """In quotes, as a shell wants a name with spaces; a `~` of nobody is part of a name."""
    photo = tmp_path / "la piel.png"
    photo.write_bytes(private_png())
    with start([], sees=True) as terminal:
        terminal.expect(PROMPT)
        for typed, said in (
            (str(photo), "next question: 1."),
            (f"'{photo}'", "next question: 2."),
            (f'"{photo}"', "next question: 3."),
            ("~nobody-of-this-name/a.png", "cannot be read"),
            ("'", "cannot be read"),
            (str(tmp_path), "is not a regular file"),
        ):
            terminal.line(f"/image {typed}")
            assert said in terminal.expect(PROMPT)
