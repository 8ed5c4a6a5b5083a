"""One table of exit codes: the page, the errors of all stages, and what the commands end with."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pedsup_testing import programs

from pedsup.cli.command_line import readable
from pedsup.errors import ContextFullError, MissingFileError, PedsupError
from pedsup.exit_codes import ExitCode

ROOT = Path(__file__).parents[1]
PACKAGES = ("pedsup", "pedsup_export", "pedsup_train", "pedsup_bench")


def kinds(base: type[PedsupError] = PedsupError) -> Iterator[type[PedsupError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_the_page_lists_every_code_and_no_other() -> None:
    page = (ROOT / "docs/exit-codes.md").read_text("utf-8")
    listed = [int(n) for n in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    assert listed == [int(code) for code in ExitCode]


def test_other_pages_speak_of_codes_that_are_there() -> None:
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]
    said = {int(n) for page in pages for n in re.findall(r"[Ee]xit code (?:is )?(\d+)",
                                                         page.read_text("utf-8"))}  # fmt: skip
    assert said
    assert said <= {int(code) for code in ExitCode}


def test_one_kind_of_error_has_one_code() -> None:
    """Read from the source, so that no module with an error of its own is forgotten."""
    for name in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
            source = Path(str(module.module_finder.path), f"{module.name.rsplit('.')[-1]}.py")  # type: ignore[union-attr]
            if source.is_file() and "PedsupError)" in source.read_text("utf-8"):
                importlib.import_module(module.name)
    own = {kind: kind.__dict__["exit_code"] for kind in kinds() if "exit_code" in kind.__dict__}
    assert all(isinstance(code, ExitCode) for code in own.values())
    assert len(set(own.values())) == len(own)
    rest = set(ExitCode) - set(own.values())
    assert rest == {ExitCode.DONE, ExitCode.PROBLEM, ExitCode.INTERRUPTED, ExitCode.PIPE_CLOSED}
    # Kinds without a number of their own have that of their kind's kind.
    assert {MissingFileError, ContextFullError} <= set(kinds()) - set(own)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    program, *words = arguments
    return programs.run(str(program), *words, env={**os.environ, "COLUMNS": "45"})


@pytest.mark.parametrize(
    "command",
    [("pedsup",), ("pedsup", "verify"), ("pedsup_export", "verify"), ("pedsup_bench", "run"),
     ("pedsup_export", "sign", "--key", "none.key"), ("pedsup", "verify", "--key", "none.pub")],
    ids=" ".join,
)  # fmt: skip
def test_a_path_that_is_not_there_is_a_wrong_command_line(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(*command, tmp_path / "none.gguf")
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "no such file" in done.stderr.lower()
    assert "do:" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["pedsup trust", "pedsup_export", "pedsup_bench"])
def test_help_on_a_narrow_terminal_is_not_cut(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == ExitCode.DONE
    assert "..." not in done.stdout.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (click.IntRange(1, 64), "100", "100 is not in the range 1–64."),
        (click.IntRange(1, 64), "x", "'x' is not a valid integer."),
        (click.IntRange(1), "0", "0 is not in the range ≥ 1."),
        (click.FloatRange(5, 3600), "1", "1.0 is not in the range 5–3600."),
    ],
)
def test_a_range_is_written_as_people_do(kind: click.ParamType, value: str, message: str) -> None:
    command = click.Command("x", params=[click.Option(["--n"], type=kind)])
    with pytest.raises(click.BadParameter) as caught:
        command.main(["--n", value], standalone_mode=False)
    found = readable(caught.value)
    assert found.message == message
    assert found.format_message() == f"Invalid value for '--n': {message}"


def test_a_limit_of_the_settings_is_a_plain_number() -> None:
    done = run("pedsup", "x.gguf", "--ctx", "1")
    assert done.returncode == ExitCode.USAGE
    assert "from 64 to 4194304" in done.stderr


@pytest.mark.parametrize(
    ("program", "word", "near"),
    [("pedsup", "verfy", "verify"), ("pedsup_export", "verfy", "verify"),
     ("pedsup_bench", "qualty", "quality"), ("pedsup_train", "rn", "run")],
)  # fmt: skip
def test_a_misspelt_command_is_told_its_name(program: str, word: str, near: str) -> None:
    done = run(program, word)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert re.search(rf"[Dd]id you mean\s+'(pedsup-run\s+)?{near}'\?", done.stderr), done.stderr
