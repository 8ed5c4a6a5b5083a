"""The command `pedsup-run`."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import click

from pedsup import __version__
from pedsup.cli.border import border
from pedsup.cli.options import setting_options
from pedsup.cli.request import RunRequest
from pedsup.cli.verbs import VERBS, load_verb, verbs_help
from pedsup.errors import UsageError
from pedsup.messages import message
from pedsup.texts.intended_use import FULL
from pedsup.texts.language import current_language, detect_language, translated

_FILE = click.Path(path_type=Path, dir_okay=False)


def _epilog() -> str:
    """The other commands and the intended use, in the current language."""
    intended_use = f"\b\n{translated('Intended use')}\n{FULL[current_language()]}"
    return f"{verbs_help()}\n\n{intended_use}"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_epilog(),
)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("-p", "--prompt", help="Ask once, print the answer and leave.")
@click.option(
    "--image", "images", multiple=True, type=_FILE,
    help="A photo for the question (JPEG or PNG); may be given several times.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Ask once; print one JSON document.")
@click.option("--check", is_flag=True, help="Print what the model needs; load nothing.")
@click.option(
    "--resume", is_flag=False, flag_value="last", metavar="[ID]",
    help="Continue a session: the last one, one given by the start of its id, or a file.",
)  # fmt: skip
@click.option(
    "--serve", is_flag=True, help="Serve a web page and an OpenAI-compatible API on this device."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port for --serve; 0 takes any free one."
)
@setting_options
@click.option("--grammar", type=_FILE, help="GBNF file that the answer must follow.")
@click.option("--json-schema", type=_FILE, help="JSON schema file that the answer must follow.")
@click.option("--settings", "settings_file", type=_FILE, help="Settings file (TOML).")
@click.option("--accept-intended-use", is_flag=True, help="Acknowledge the intended use below.")
@click.version_option(__version__, prog_name="pedsup-run")
def run(**options: Any) -> RunRequest:
    """Hold a conversation with MODEL (a GGUF file), offline.

    Research only, not a medical device. Without -p, and with text on standard input, that text
    is the question; on a terminal an interactive session starts.
    """
    own = {f.name: options.pop(f.name) for f in fields(RunRequest) if f.name in options}
    return RunRequest(**own, overrides=options)


def main() -> NoReturn:
    border(_program)


def _program() -> int:
    # Whatever is written, by us or by a child: for its owner only.
    os.umask(0o077)
    words = sys.argv[1:]
    detect_language(words)
    spanish = current_language() == "es"
    language, words = _language_first(words)
    if words and words[0] in VERBS:
        verb = load_verb(words[0])
        if spanish:
            verb = _translated(verb)
        name, own = f"pedsup-run {words[0]}", [*language, *words[1:]]
        done = verb.main(own, prog_name=name, standalone_mode=False)
        return done if isinstance(done, int) else 0
    _refuse_misspelt(words)
    command = run
    if spanish:
        command = _translated(run)
        command.epilog = _epilog()
    # The work happens outside of click, which would make exit code 1 of a broken pipe.
    parsed = command.main(prog_name="pedsup-run", standalone_mode=False)
    if isinstance(parsed, int):  # --help and --version
        return parsed
    # Imports jinja2 and more: not for --help and --version.
    from pedsup.cli.app import execute

    return execute(parsed)


def _language_first(words: list[str]) -> tuple[list[str], list[str]]:
    """`--lang es`, the one option that may stand before a verb, and what follows it."""
    n = 2 if words[:1] == ["--lang"] else int(bool(words) and words[0].startswith("--lang="))
    return words[:n], words[n:]


def _refuse_misspelt(words: list[str]) -> None:
    """`pedsup-run doctr`: a verb written wrong, not a model that is missing."""
    if not words or Path(words[0]).exists():
        return
    from difflib import get_close_matches

    for verb in get_close_matches(words[0], VERBS, n=1, cutoff=0.75):
        raise UsageError(
            "no such command or file",
            where=words[0],
            remedy=message("did you mean '{name}'?", name=f"pedsup-run {verb}"),
        )


def _translated(command: click.Command) -> click.Command:
    """The command, and click itself, in the current language."""
    from pedsup.cli.translated_help import translate_click, translated_command

    translate_click()
    return translated_command(command)


if __name__ == "__main__":
    main()
