"""The command `pedsup-run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pedsup import __version__
from pedsup.cli.border import border
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
@click.option("--system", help="System prompt.")
@click.option("--think", type=click.Choice(["shown", "hidden", "off"]), help="The reasoning.")
@click.option("--think-budget", type=int, metavar="N", help="Most tokens of reasoning.")
@click.option("--max-tokens", type=int, metavar="N", help="Most tokens of the answer.")
@click.option("--temp", type=float, help="Temperature; 0 always takes the likeliest token.")
@click.option("--top-p", type=float, help="Draw from the likeliest tokens with this sum.")
@click.option("--top-k", type=int, help="Draw from this many of the likeliest tokens.")
@click.option("--seed", type=int, help="Same seed, same text.")
@click.option("--grammar", type=_FILE, help="GBNF file that the answer must follow.")
@click.option("--json-schema", type=_FILE, help="JSON schema file that the answer must follow.")
@click.option("--engine", type=click.Choice(["auto", "inprocess", "server"]), help="Engine.")
@click.option("--ctx", type=int, metavar="N", help="Context in tokens.")
@click.option("--threads", type=int, metavar="N", help="Threads; default: one per big core.")
@click.option("--threads-batch", type=int, metavar="N", help="Threads that read prompts.")
@click.option(
    "--pin", type=click.Choice(["auto", "on", "off"]), help="Keep the threads on the big cores."
)
@click.option("--batch", type=int, metavar="N", help="Prompt tokens per call.")
@click.option("--ubatch", type=int, metavar="N", help="Prompt tokens per compute step.")
@click.option(
    "--extra-buffers", type=click.Choice(["auto", "on", "off"]),
    help="Repack weights for faster prompts, at the cost of memory.",
)  # fmt: skip
@click.option("--mmap/--no-mmap", default=None, help="Map the file, or read it into memory.")
@click.option("--tuned/--no-tuned", default=None, help="Use what `pedsup-run tune` measured.")
@click.option(
    "--governor", type=click.Choice(["auto", "on", "off"]),
    help="Fewer threads when the device gets hot; auto: on phones.",
)  # fmt: skip
@click.option("--adapter", metavar="FILE", help="Apply this LoRA adapter (a GGUF file) to MODEL.")
@click.option(
    "--draft", metavar="HOW",
    help="Guess tokens ahead in llama-server: off, lookup, or a draft model's GGUF.",
)  # fmt: skip
@click.option("--draft-max", type=int, metavar="N", help="Most tokens guessed at once.")
@click.option("--lang", type=click.Choice(["en", "es"]), help="Language of the messages.")
@click.option("--history/--no-history", default=None, help="Keep a transcript of the session.")
@click.option("--history-dir", metavar="FOLDER", help="Where transcripts are kept.")
@click.option("--cache/--no-cache", default=None, help="Keep the read system prompt on disk.")
@click.option("--settings", "settings_file", type=_FILE, help="Settings file (TOML).")
@click.option("--allow-template", is_flag=True, default=None, help="Run an unknown template.")
@click.option("--allow-paging", is_flag=True, default=None, help="Run although memory is short.")
@click.option(
    "--require-signature", is_flag=True, default=None, help="Run only models of trusted signers."
)
@click.option("--verify", is_flag=True, default=None, help="Read and check the whole file again.")
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
