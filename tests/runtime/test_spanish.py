"""Spanish in `pedsup-run`: every message has it, and a life of the program shows no English."""

from __future__ import annotations

import ast
import copy
import errno
import io
import json
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Formatter
from typing import Final, NamedTuple

import click
import pytest
from pedsup_testing.home import environment
from pedsup_testing.messages import Found, messages, placeholders
from pedsup_testing.signed_models import key_pair, tiny
from pedsup_testing.terminal import Terminal

from pedsup.child.death import _DEATHS
from pedsup.cli.main import main
from pedsup.cli.main import run as run_command
from pedsup.cli.verbs import VERBS, load_verb
from pedsup.engine.api import EngineConfig
from pedsup.engine.llama_server.process import explain_death
from pedsup.errors import BadFileError, ContextFullError, PedsupError, ResourceError
from pedsup.gguf_file.validate import validate_model
from pedsup.memory import Available, Room
from pedsup.memory.estimate import IN_PROCESS, estimate
from pedsup.messages import from_document, joined, message
from pedsup.progress import report
from pedsup.texts.intended_use import SHORT
from pedsup.texts.language import (
    _Current,
    catalogue,
    current_language,
    detect_language,
    error_text,
    file_of,
    set_language,
    translated,
)

PACKAGE: Final = file_of("es").parents[1]
FOR_PROGRAMS: Final = (
    "serve/chat_request.py", "serve/completions.py", "serve/content.py", "serve/fields.py",
    "serve/web.py",  # OpenAI's
    "questions/", "phones/", "gguf_file/type_mixture.py",  # of the stages, which speak English
    "chat/templates/sandbox.py",  # what a hostile template tried, in Python's words
    "chat/templates/known.py", "chat/templates/worker.py", "engine/build_probe.py",  # code
    "guards/",  # what is looked for in a question, in both languages
    "texts/intended_use.py",  # has both languages beside each other
)  # fmt: skip
OLD_CLICK: Final = "command line of click 8.1"
"""A section of the catalogue: what click said in versions that pedsup still runs with."""
ENGLISH: Final = re.compile(
    r"\b(?:the|of|and|is|are|was|were|not|with|for|from|this|that|which|by|to|it|its|be|has|have|"
    r"what|does|can|cannot|give|at|most|than|only|there|none|yes|true|false|unknown)\b",
    re.IGNORECASE,
)
NAMES: Final = re.compile(r"--[\w-]+|\[[a-z|]+\]|\S*/\S*|\w+\.(?:gguf|pub|json)\S*|pedsup-run \w+")
"""Options, their values, paths and commands are what they are in every language."""

Run = Callable[..., "Ran"]


def english_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if ENGLISH.search(NAMES.sub(" ", line))]


def click_messages() -> Iterator[str]:
    """The texts that click gives to gettext."""
    for path in Path(click.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("_", "ngettext"):
                yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant))


def commands() -> Iterator[click.Command]:
    """Every command of pedsup-run."""
    todo: list[click.Command] = [run_command, *map(load_verb, VERBS)]
    while todo:
        command = todo.pop()
        yield command
        if isinstance(command, click.Group):
            todo += command.commands.values()


def metavars(command: click.Command) -> set[str]:
    """Words in capitals that stand for values in a command's help."""
    context = click.Context(command)
    shown = {param.make_metavar(context).strip("[]") for param in command.params}
    own = {getattr(param, "metavar", None) or "" for param in command.params}
    kinds = {command.options_metavar or "", getattr(command, "subcommand_metavar", None) or ""}
    return shown | own | kinds


def fields(text: str) -> set[str]:
    """Values in a text of click's, which writes `{name!r}`."""
    return {name for _, name, _, _ in Formatter().parse(text) if name}


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
    _Current.words = _Current.language = None


@pytest.fixture(scope="module")
def found() -> Found:
    assert all((PACKAGE / file).exists() for file in FOR_PROGRAMS)
    return messages(PACKAGE, left_out=FOR_PROGRAMS)


@pytest.fixture(scope="module")
def sections() -> dict[str, dict[str, str]]:
    read: dict[str, dict[str, str]] = json.loads(file_of("es").read_text("utf-8"))
    return read


def test_every_text_of_the_source_is_a_message(found: Found) -> None:
    assert found.faults == []


def test_every_message_of_the_source_is_in_the_catalogue(found: Found) -> None:
    assert len({said.msgid for said in found.said}) > 600  # the reader of the source finds them
    known = catalogue("es")
    missing = [said for said in found.said if said.needed and said.msgid not in known]
    assert missing == [], "give each a Spanish text in runtime/pedsup/texts/es.json"


def test_the_reader_of_the_source_finds_what_goes_round_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        'raise UsageError(f"no {thing} is here", remedy="look elsewhere")\n'
        'say(f"{n} files were read")\n'
        'text = "a sentence of the program"\n'
        'x = message(f"{n} of it")\n'
        'y = message("{n} files", m=1)\n'
        'z = message("by {who}", who="nobody at all")\n'
        'ok = message("{n} files", n=f"{n:.1f}")\n'
    )
    read = messages(tmp_path)
    assert [fault.partition(": ")[0] for fault in read.faults] == [
        f"a.py:{line}" for line in (1, 2, 3, 4, 5, 6)
    ]
    said = {said.msgid for said in read.said}
    assert said == {"look elsewhere", "{n} files", "by {who}"}


def test_no_entry_of_the_catalogue_is_without_use(
    found: Found, sections: dict[str, dict[str, str]]
) -> None:
    used = {said.msgid for said in found.said}
    used |= set(click_messages()) | {metavar for verb in commands() for metavar in metavars(verb)}
    used |= {os.strerror(number) for number in errno.errorcode}
    unused = {
        msgid for section, entries in sections.items() if section != OLD_CLICK for msgid in entries
    } - used
    assert unused == set()


def test_both_languages_of_a_text_have_the_same_values(
    sections: dict[str, dict[str, str]],
) -> None:
    assert placeholders("{a} of {b}") == {"a", "b"}
    of_click = {*sections["command line"], *sections[OLD_CLICK]}
    for english, spanish in catalogue("es").items():
        assert spanish.strip(), english
        if english in of_click:  # fewer values may do: "{name} {filename!r} is a directory."
            assert fields(spanish) <= fields(english)
        elif "{" in english and not english.startswith('{"'):
            assert placeholders(english) == placeholders(spanish), english
            assert not re.search(r"\{[^}]*[!:.\[]", spanish + english), "only plain {names}"


def test_no_text_stands_twice() -> None:
    read = json.loads(file_of("es").read_text("utf-8"), object_pairs_hook=list)
    keys = [english for _, section in read for english, _ in section]
    assert len(keys) == len(set(keys))


def test_a_message_keeps_what_it_was_made_from() -> None:
    reason = message("the tensor '{name}' is missing", name="a{b}\n")
    whole = message("the manifest beside the model is damaged: {reason}", reason=reason)
    assert whole == "the manifest beside the model is damaged: the tensor 'a{b}\n' is missing"
    spanish = "el manifiesto junto al modelo está dañado: falta el tensor 'a{b}\n'"
    assert translated(whole, "es") == spanish
    assert from_document(json.loads(json.dumps(whole.document()))) == whole
    assert translated(from_document(whole.document()) or "", "es") == spanish
    assert translated(pickle.loads(pickle.dumps(whole)), "es") == spanish
    assert translated(copy.deepcopy(whole), "es") == spanish
    assert str(translated(whole, "en")) == whole
    assert translated(joined("; ", [reason, "total"]), "es") == "falta el tensor 'a{b}\n'; total"
    assert translated(message("total"), "es") == "total"
    assert translated("weights", "es") == "pesos", "a literal is its own id"
    assert translated("weights") == "weights", "no program but pedsup-run speaks Spanish"


@pytest.mark.parametrize("document", [
    None, [], "x", {}, {"msgid": 1}, {"msgid": "a", "values": []},
    {"msgid": "{a}", "values": {"b": 1}},
    {"msgid": "{a.__class__}", "values": {"a": "x"}}, {"msgid": "{a[0]}", "values": {"a": "x"}},
    {"msgid": "{a!r}", "values": {"a": "x"}}, {"msgid": "{a:>99}", "values": {"a": "x"}},
    {"msgid": "{", "values": {"a": "x"}}, {"msgid": "{a}", "values": {"a": [1]}},
    {"msgid": "{a}", "values": {"a": {"msgid": 1}}},
    {"msgid": "{a}" * 20000, "values": {"a": "x" * 20000}},
    {"msgid": "{a}" * 300, "values": {"a": {"msgid": "{b}" * 300, "values": {"b": "x" * 300}}}},
])  # fmt: skip
def test_a_document_of_no_message_is_none(document: object) -> None:
    assert from_document(document) is None


def test_values_make_no_lines_of_their_own_in_either_language() -> None:
    hostile = message("the tensor '{name}' is missing", name="x'\n  do:     rm \x1b[2J")
    error = BadFileError(hostile, where="a\nSigned by lab.", wanted=[message("a name"), "b\nc"])
    english, spanish = str(error), error_text(error, "es")
    assert english == (
        "the tensor 'x'\\n  do:     rm \\x1b[2J' is missing\n  where:  a\\nSigned by lab.\n"
        "  wanted: a name\n          b\\nc"
    )
    assert spanish == (
        "falta el tensor 'x'\\n  do:     rm \\x1b[2J'\n  dónde:       a\\nSigned by lab.\n"
        "  se esperaba: un nombre\n          b\\nc"
    )


def test_an_error_in_spanish_keeps_its_values() -> None:
    error = ContextFullError(
        message("the conversation is {n} tokens long with this question", n=2438),
        where="/tmp/the file of mine.gguf",
        wanted=message("fewer than the context of {n} tokens", n=1024),
        remedy="ask a shorter question, start afresh (/reset) or give a larger --ctx",
    )
    assert error_text(error, "es") == (
        "con esta pregunta la conversación tiene 2438 tokens\n"
        "  dónde:       /tmp/the file of mine.gguf\n"
        "  se esperaba: menos que el contexto de 1024 tokens\n"
        "  qué hacer:   haga una pregunta más corta, empiece de nuevo (/reset) o dé un --ctx más "
        "grande"
    )


@pytest.mark.parametrize("rate", [None, 1e6])
@pytest.mark.parametrize("mapped", [True, False])
def test_too_little_memory_is_said_in_spanish_with_what_it_costs(
    smollm2: Path, rate: float | None, mapped: bool
) -> None:
    header = validate_model(smollm2)
    config = EngineConfig(smollm2, n_ctx=512, n_ubatch=128, use_mmap=mapped)
    need = estimate(header, config, IN_PROCESS).total
    group = message("the memory limit of the group {name}", name="/a b")
    available = Available(need - (1 << 20), group)
    with pytest.raises(ResourceError) as refused:
        Room(header, available).require(config, rate=rate)
    said = error_text(refused.value, "es")
    assert english_in(said) == []
    figures = re.compile(r"--\S+|/a b|[\d.]+ (?:MiB|MB/s|tokens)")
    assert sorted(figures.findall(said)) == sorted(figures.findall(str(refused.value)))


@pytest.mark.parametrize("code", [*(-number for number in _DEATHS), -1, -99, 3])
def test_every_death_of_the_engine_is_said_in_spanish(code: int) -> None:
    assert english_in(error_text(explain_death(code, ""), "es")) == []


def test_reported_errors_follow_the_language_of_the_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    detect_language(["--lang", "es", "model.gguf"])
    try:
        assert current_language() == "es"
        report(PedsupError("no such file", where="x\x1b[2J"))
        set_language("en")
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


def test_results_fit_the_terminal_of_a_phone(
    run: Run, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = key_pair(tmp_path / "lab")
    assert run("trust", "add", key, "--yes").returncode == 0
    narrow: dict[str, list[str]] = {}
    for words in (["--check", "--allow-template", model], ["trust", "list"],
                  ["tune", "--dry-run", model], ["forget", "--yes"], ["sessions"]):  # fmt: skip
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        done = run(*words, COLUMNS="40")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [x for x in lines if len(x) > 40 and " " in x.strip()] == [], words
        narrow[str(words[0])] = done.stdout.split()
    assert "Borradores: ninguno" in " ".join(narrow["--check"])
    assert narrow["--check"].count("MiB") >= 2
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    whole = run("--check", model, COLUMNS="40").stdout
    assert max(map(len, whole.splitlines())) > 60, "a pipe has no width"


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


@pytest.mark.slow
def test_an_answer_its_notices_and_its_copy_are_in_spanish(tmp_path: Path, smollm2: Path) -> None:
    env = {**environment(tmp_path), "LANG": "es_MX.UTF-8"}
    copy = tmp_path / "copia.md"
    arguments = [sys.executable, "-m", "pedsup", str(smollm2), "--max-tokens", "4", "--ctx", "512",
                 "--threads", "1"]  # fmt: skip
    with Terminal(arguments, env) as terminal:
        terminal.expect("> ")
        terminal.line("Mi hijo convulsiona, ¿qué dosis de diazepam le doy?")
        terminal.expect("un signo de peligro")
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
    assert "> [la pregunta menciona un signo de peligro" in text


def test_english_speakers_see_what_they_saw(run: Run, model: Path) -> None:
    done = run("--check", model, LANG="C")
    assert "Memory for a context of" in done.stdout
    assert "Usage: pedsup-run" in run("--help", LANG="C").stdout
