"""The command `pedsup-run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pedsup import __version__
from pedsup.cli.border import border
from pedsup.cli.options import setting_options
from pedsup.cli.verbs import VERBS, load_verb, verbs_help
from pedsup.exit_codes import ExitCode
from pedsup.texts.intended_use import FULL
from pedsup.texts.language import listen, local, spoken

if TYPE_CHECKING:
    from pedsup.cli.app import RunRequest

_HELP = frozenset({"-h", "--help"})
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=verbs_help() + "\b\nIntended use\n" + FULL["en"],
)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("-p", "--prompt", help="Ask once, print the answer and leave.")
@click.option("--json", "as_json", is_flag=True, help="Ask once; print one JSON document.")
@click.option("--check", is_flag=True, help="Print what the model will take; load nothing.")
@click.option(
    "--resume", is_flag=False, flag_value="last", metavar="[ID]",
    help="Continue a session: the last one, or the one whose id begins so, or a file.",
)  # fmt: skip
@click.option("--serve", is_flag=True, help="Serve a page and OpenAI's protocol on this device.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port for --serve; 0: any free one.")
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
    # Imports jinja2 and more: not for --help and --version.
    from pedsup.cli.app import RunRequest

    names = ("model", "prompt", "as_json", "check", "resume", "grammar", "json_schema",
             "settings_file", "accept_intended_use", "serve", "port")  # fmt: skip
    own = {name: options.pop(name) for name in names}
    return RunRequest(**own, overrides=options)


def main() -> NoReturn:
    """Entry point of the console script."""
    border(_in_own_language)


def _in_own_language() -> int:
    """The program; what click and Ctrl-C say is said here where that is not English."""
    try:
        return _program()
    except click.ClickException as error:
        if spoken() == "en":
            raise
        from pedsup.cli.command_line import readable
        from pedsup.cli.spanish_help import usage_text

        print(usage_text(readable(error)), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if spoken() == "en":
            raise
        print(local("interrupted"), file=sys.stderr)
        return ExitCode.INTERRUPTED


def _program() -> int:
    # Whatever is written, by us or by a child: for its owner only.
    os.umask(0o077)
    words = sys.argv[1:]
    listen(words)
    # A verb without its own verb shows its help unasked.
    if words and (words[0] in VERBS or not _HELP.isdisjoint(words)) and spoken() == "es":
        from pedsup.cli.spanish_help import speak_spanish

        speak_spanish()
    if words and words[0] in VERBS:
        verb = load_verb(words[0])
        done = verb.main(words[1:], prog_name=f"pedsup-run {words[0]}", standalone_mode=False)
        return done if isinstance(done, int) else 0
    # The work happens outside of click, which would make exit code 1 of a broken pipe.
    parsed = run.main(prog_name="pedsup-run", standalone_mode=False)
    if isinstance(parsed, int):  # --help and --version
        return parsed
    from pedsup.cli.app import execute

    return execute(parsed)


if __name__ == "__main__":
    main()
