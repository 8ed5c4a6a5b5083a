"""Spanish in `pedsup-run`: every message has it, and a life of the program shows no English."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click
import pytest
from pedsup_testing.home import environment
from pedsup_testing.messages import VALUE, Message, messages
from pedsup_testing.signed_models import tiny
from pedsup_testing.terminal import Terminal

from pedsup.cli.main import main
from pedsup.cli.verbs import VERBS
from pedsup.engine.api import EngineConfig
from pedsup.engine.llama_server.process import _DEATHS, explain_death
from pedsup.errors import ContextFullError, PedsupError, ResourceError
from pedsup.gguf_file.header import _OTHERS
from pedsup.gguf_file.validate import validate_model
from pedsup.memory import Available, require_fit
from pedsup.memory.estimate import IN_PROCESS, estimate
from pedsup.progress import report
from pedsup.texts.intended_use import SHORT
from pedsup.texts.language import _Spoken, listen, local, spoken, use
from pedsup.texts.spanish import FILE, OWN, catalogue, described, spanish

PACKAGE: Final = FILE.parents[1]
NAME: Final = re.compile(r"\{[a-z]\w*\}")
FOR_PROGRAMS: Final = (
    "serve/chat_request.py", "serve/fields.py", "serve/web.py",  # OpenAI's protocol
    "questions/", "phones/",  # of the stages, which speak English
    "chat/templates/sandbox.py",  # what a hostile template tried, in Python's words
)  # fmt: skip
SHOWN: Final = {
    "run/preview.py": {"check_text", "_tuning", "_rows"},
    "run/stats.py": {"stats_text", "_governor_lines", "_drafts"},
    "trust/identity.py": {"lines", "_manifest"},
    "memory/paging.py": {"text"},
    "memory/fit.py": {"_no_smaller", "_smaller_option"},
    "cli/commands/forget.py": {"_confirm", "_counts", "_plan_text", "_done_text"},
    "cli/commands/trust.py": {"_text"},
    "tuning/plan.py": {"label", "lines", "make_plan"},
    "tuning/bench.py": {"_death"},
    "tuning/store.py": {"look_up"},
    "run/forget.py": {"_erase"},
    "files/checks.py": {"within", "at_least"},
    "files/records.py": {"_wanted"},
    "files/source.py": {"problem"},
}
"""Functions whose every text is shown to the user."""
ENGLISH: Final = re.compile(
    r"\b(?:the|of|and|is|are|was|were|not|with|for|from|this|that|which|by|to|it|its|be|has|have|"
    r"what|does|can|cannot|give|at|most|than|only|there)\b",
    re.IGNORECASE,
)
NAMES: Final = re.compile(r"--[\w-]+|\[[a-z|]+\]|\S*/\S*|\w+\.(?:gguf|pub|json)\S*|pedsup-run \w+")
"""Options, their values, paths and commands are what they are in every language."""

Run = Callable[..., "Ran"]


def is_code(message: Message) -> bool:
    """A lone word or an option is a name, not a sentence."""
    body = message.template.replace(VALUE, "").strip()
    return " " not in body or body.startswith("--") or body.startswith("pedsup-run")


def english_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if ENGLISH.search(NAMES.sub(" ", line))]


class Ran(NamedTuple):
    """A run of the program that ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Run the program's `main` where the locale is Spanish; a process for each would take long."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    mask = os.umask(0o077)

    def call(*arguments: object, **more: str) -> Ran:
        for name, value in {"LANG": "es_PE.UTF-8", "LC_ALL": "", **more}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(click.Context, "formatter_class", click.HelpFormatter)
        monkeypatch.setattr(sys, "argv", ["pedsup-run", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        code = left.value.code
        assert isinstance(code, int)
        return Ran(code, *capsys.readouterr())

    yield call
    os.umask(mask)
    forget_language()


def forget_language() -> None:
    """As in a process that has not begun to speak."""
    _Spoken.words = _Spoken.chosen = None


def test_every_message_of_the_source_is_in_the_catalogue() -> None:
    assert all((PACKAGE / file).exists() for file in (*FOR_PROGRAMS, *SHOWN))
    known = {NAME.sub(VALUE, english).strip() for english, _ in catalogue()}
    found = messages(PACKAGE, SHOWN)
    assert len(found) > 600  # the reader of the source still finds them
    missing = [
        message
        for message in found
        if message.template.strip() not in known
        and not is_code(message)
        and not message.place.startswith(FOR_PROGRAMS)
    ]
    assert missing == [], "give each a Spanish text in runtime/pedsup/texts/spanish.json"


def test_texts_in_tables_are_in_the_catalogue() -> None:
    known = {english for english, _ in catalogue()}
    deaths = {text for pair in _DEATHS.values() for text in pair}
    summaries = {verb.summary for verb in VERBS.values()}
    assert {*deaths, *summaries, *_OTHERS.values()} - known == set()
    errors = ("ENOENT", "EACCES", "ENOSPC", "EROFS", "EIO", "EISDIR", "EEXIST", "EADDRINUSE")
    assert {os.strerror(getattr(errno, name)) for name in errors} - known == set()


def test_both_languages_of_a_text_have_the_same_values() -> None:
    for english, translated in catalogue():
        assert sorted(NAME.findall(english)) == sorted(NAME.findall(translated)), english
        assert not re.search(r"\}\{", english), f"nothing parts two values: {english}"
        assert translated.strip(), english


def test_no_text_stands_twice() -> None:
    sections = json.loads(FILE.read_text("utf-8"), object_pairs_hook=list)
    keys = [english for _, section in sections for english, _ in section]
    assert len(keys) == len(set(keys))


def test_names_of_the_users_own_are_left_alone() -> None:
    assert "name" in OWN
    assert spanish("trusted: total") == "se confía en: total"
    assert spanish("Models that must stay signed:") == "Modelos que deben seguir firmados:"
    assert spanish("a line of nobody's") == "a line of nobody's"
    assert spanish("  total {name}; {") == "  total {name}; {"
    assert local("total") == "total", "no program but pedsup-run speaks Spanish"


def test_an_error_in_spanish_keeps_its_values() -> None:
    error = ContextFullError(
        "the conversation is 2438 tokens long with this question",
        where="/tmp/the file of mine.gguf",
        wanted="fewer than the context of 1024 tokens",
        remedy="ask a shorter question, start afresh (/reset) or give a larger --ctx",
    )
    assert described(error) == (
        "con esta pregunta la conversación tiene 2438 tokens\n"
        "  dónde:       /tmp/the file of mine.gguf\n"
        "  se esperaba: menos que el contexto de 1024 tokens\n"
        "  qué hacer:   haga una pregunta más corta, empiece de nuevo (/reset) o dé un --ctx mayor"
    )


@pytest.mark.parametrize("rate", [None, 1e6])
@pytest.mark.parametrize("mapped", [True, False])
def test_too_little_memory_is_said_in_spanish_with_what_it_costs(
    smollm2: Path, rate: float | None, mapped: bool
) -> None:
    header = validate_model(smollm2)
    config = EngineConfig(smollm2, n_ctx=512, n_ubatch=128, use_mmap=mapped)
    need = estimate(header, config, IN_PROCESS).total
    available = Available(need - (1 << 20), "the memory limit of the group /a b")
    with pytest.raises(ResourceError) as refused:
        require_fit(header, config, available, rate=rate)
    said = described(refused.value)
    assert english_in(said) == []
    figures = re.compile(r"--\S+|/a b|[\d.]+ (?:MiB|MB/s|tokens)")
    assert sorted(figures.findall(said)) == sorted(figures.findall(str(refused.value)))


@pytest.mark.parametrize("code", [*(-number for number in _DEATHS), -1, 3])
def test_every_death_of_the_engine_is_said_in_spanish(code: int) -> None:
    assert english_in(described(explain_death(code, ""))) == []


def test_reported_errors_follow_the_language_of_the_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listen(["--lang", "es", "model.gguf"])
    try:
        assert spoken() == "es"
        report(PedsupError("no such file", where="x\x1b[2J"))
        use("en")
        report(PedsupError("no such file", where="x"))
    finally:
        forget_language()
    assert capsys.readouterr().err == (
        "error: no existe ese archivo\n  dónde:       x\\x1b[2J\nerror: no such file\n  where:  x\n"
    )


@pytest.mark.parametrize("verb", ["", *VERBS, "trust add", "trust list", "trust remove"])
def test_help_is_in_spanish(run: Run, verb: str) -> None:
    done = run(*verb.split(), "--help", COLUMNS="46")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Uso: " in done.stdout
    assert "Opciones:" in done.stdout
    assert english_in(done.stdout) == []


def test_wrong_words_of_a_command_line_are_answered_in_spanish(run: Run) -> None:
    for words in (["--chek"], ["--ctx", "abc", "m.gguf"], ["--think", "x"], ["trust"],
                  ["trust", "lst"], ["trust", "add"], ["a.gguf", "b.gguf"], ["-p"],
                  ["tune", "--seconds", "1", "m.gguf"], ["--port", "70000"]):  # fmt: skip
        done = run(*words)
        assert done.returncode == 2, words
        assert "Uso: " in done.stderr or words == ["-p"]
        assert english_in(done.stderr + done.stdout) == [], words


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny(tmp_path / "modelo.gguf")


def test_the_verbs_speak_spanish(run: Run, tmp_path: Path, model: Path) -> None:
    for words in (["--check", model], ["tune", "--dry-run", model], ["doctor", model],
                  ["trust", "list"], ["forget", "--yes"], ["verify", model],
                  ["trust", "unpin", "x"], ["--resume"], ["nada.gguf"], [tmp_path]):  # fmt: skip
        done = run(*words)
        assert english_in(done.stdout + done.stderr) == [], words
        assert done.stdout + done.stderr != "", words


def test_damaged_files_are_named_in_spanish(run: Run, model: Path) -> None:
    whole = model.read_bytes()
    for damaged in (b"", b"<html>", whole[:40], whole[:-200], whole + b"x", whole[:4] + b"\0" * 60):
        model.write_bytes(damaged)
        done = run("--check", model)
        assert done.returncode == 3
        assert "error: " in done.stderr
        assert english_in(done.stderr) == []


def test_the_settings_file_chooses_spanish_even_where_it_is_wrong(
    run: Run, tmp_path: Path, model: Path
) -> None:
    folder = tmp_path / "config" / "pedsup"
    folder.mkdir(parents=True)
    (folder / "settings.toml").write_text('lang = "es"\nnonsense = 1\n', "utf-8")
    done = run("--check", model, LANG="C")
    assert "clave desconocida 'nonsense'" in done.stderr
    assert "ajuste" in run("doctor", model, LANG="C").stdout
    assert "unknown key" in run("--check", model, "--lang", "en", LANG="C").stderr


def test_json_is_the_same_in_both_languages(run: Run, model: Path) -> None:
    for words in (["--check", "--json", model], ["trust", "list", "--json"],
                  ["forget", "--json", "--yes"]):  # fmt: skip
        here, there = (json.loads(run(*words, LANG=lang).stdout) for lang in ("es_PE", "C"))
        for document in (here, there):
            document.pop("available", None)
        assert here == there, words


def test_a_whole_session_is_in_spanish(tmp_path: Path, smollm2: Path) -> None:
    env = {**environment(tmp_path), "LANG": "es_MX.UTF-8", "PEDSUP_ACCEPT_INTENDED_USE": ""}
    arguments = [sys.executable, "-m", "pedsup", str(smollm2), "--max-tokens", "4", "--ctx", "512",
                 "--threads", "1"]  # fmt: skip
    copy = tmp_path / "copia.md"
    said = []
    with Terminal([*arguments, "--governor", "on"], env) as terminal:
        said.append(terminal.expect("lo ha leído: "))
        terminal.line("sí")
        for line in ("/help", "/stats", "/think", "/budget", "/budget x", "/reasoning", "/system",
                     "/lang", "/hlep", "/reset", f"/save {copy}", f"/save {copy}", "/save /no/x",
                     "/quit"):  # fmt: skip
            said.append(terminal.expect(r"\n> |^> "))
            terminal.line(line)
        said.append(terminal.expect("/quit"))
        assert terminal.wait() == 0
    assert english_in("".join(said)) == []
    assert english_in(copy.read_text("utf-8").replace(SHORT["en"], "")) == []


def test_an_answer_its_notices_and_its_copy_are_in_spanish(tmp_path: Path, smollm2: Path) -> None:
    env = {**environment(tmp_path), "LANG": "es_MX.UTF-8"}
    copy = tmp_path / "copia.md"
    arguments = [sys.executable, "-m", "pedsup", str(smollm2), "--max-tokens", "4", "--ctx", "512",
                 "--threads", "1"]  # fmt: skip
    with Terminal(arguments, env) as terminal:
        terminal.expect("> ")
        terminal.line("Mi hijo convulsiona, ¿qué dosis de diazepam le doy?")
        terminal.expect("un signo de urgencia")
        terminal.expect("se alcanzó el límite de tokens")
        terminal.expect("\n> ")
        terminal.line("/stats")
        stats = terminal.expect("sesión: ")
        terminal.line(f"/save {copy}")
        terminal.expect("Guardado: ")
        terminal.line("/quit")
        terminal.expect("queda guardada")
        assert terminal.wait() == 0
    assert "fin: límite de tokens" in stats
    assert english_in(stats) == []
    text = copy.read_text("utf-8")
    assert "## Pregunta 1" in text
    assert "> [la pregunta contiene un signo de urgencia" in text


def test_english_speakers_see_what_they_saw(run: Run, model: Path) -> None:
    done = run("--check", model, LANG="C")
    assert "Memory for a context of" in done.stdout
    assert "Usage: pedsup-run" in run("--help", LANG="C").stdout
