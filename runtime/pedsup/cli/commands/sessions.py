"""`pedsup-run sessions`: the conversations that are kept, and a search through them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from pedsup.cli.output import print_document
from pedsup.cli.run_session import history_folder
from pedsup.cli.verbs import LANG
from pedsup.files.timestamp import local
from pedsup.messages import message
from pedsup.progress import print_result
from pedsup.session.listing import Summary, search, summaries
from pedsup.settings.load import load_settings
from pedsup.texts.language import translated
from pedsup.texts.screen import Screen, screen_of

DEFAULT: Final = 20


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("words", nargs=-1, metavar="[WORDS]...")
@click.option(
    "-n", "limit", type=click.IntRange(1, 1000), default=DEFAULT,
    help="How many conversations to show.",
)  # fmt: skip
@click.option("--history-dir", metavar="FOLDER", help="Where transcripts are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@LANG
def command(words: tuple[str, ...], limit: int, history_dir: str | None, as_json: bool) -> int:
    """List the conversations that are kept, the last one first; with WORDS: those that hold them.

    Continue one with --resume and the beginning of its id.
    """
    folder = history_folder(load_settings(None, {"history_dir": history_dir}))
    rows, more = _found(folder, " ".join(words), limit)
    if as_json:
        document = {
            "schema": "pedsup-sessions/1",
            "sessions": [_described(row, excerpt) for row, excerpt in rows],
            "more": more,
        }
        print_document(document)
        return 0
    screen = screen_of(sys.stdout)
    for row, excerpt in rows:
        _show(screen, row, excerpt)
    if not rows:
        print_result(message("No conversation was found."))
        return 0
    if more:
        print_result(message("There are more: give words to search for, or a larger -n."))
    hint = message("Continue one: pedsup-run --resume ID")
    print_result(hint)
    return 0


def _found(folder: Path, words: str, limit: int) -> tuple[list[tuple[Summary, str]], bool]:
    if not words.strip():
        rows, more = summaries(folder, limit)
        return [(row, "") for row in rows], more
    hits, more = search(folder, words, limit)
    return [(hit.summary, hit.excerpt) for hit in hits], more


def _show(screen: Screen, row: Summary, excerpt: str) -> None:
    """Its id and when it was last written; below it how it begins, or what was found."""
    text = excerpt or row.title
    if not row.readable:
        text = translated(message("(damaged)"))
    elif not text:
        text = translated(message("(no question yet)"))
    width = screen.width()
    line = f"  {' '.join(text.split())}"
    if not excerpt and width is not None and len(line) > width:
        line = line[: width - 1] + "\u2026"
    print(f"{screen.styled(row.id, 'title')}  {local(row.changed)}")
    print(screen.wrapped(line, "  "))


def _described(row: Summary, excerpt: str) -> dict[str, object]:
    document = {
        "id": row.id,
        "changed": row.changed,
        "title": row.title,
        "turns": row.turns,
        "model": row.model,
        "readable": row.readable,
    }
    return {**document, "excerpt": excerpt} if excerpt else document
