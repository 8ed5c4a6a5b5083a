"""`pedsup-run forget`: erase the transcripts and caches of this device."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pedsup.cli.app import history_folder
from pedsup.cli.verbs import LANG
from pedsup.errors import OutputError, UsageError
from pedsup.files.envelope import enveloped
from pedsup.files.standard_streams import json_text
from pedsup.progress import human_bytes, say
from pedsup.run.forget import CACHES, ForgetPlan, Forgotten, Kind, execute, plan_all, plan_session
from pedsup.session.history import find_session
from pedsup.settings.load import load_settings
from pedsup.texts.language import local

_KINDS: tuple[Kind, ...] = (
    "session", *dict.fromkeys(CACHES.values()), "left by a killed engine", "mark of a killed run",
)  # fmt: skip
NOT_ERASED = (
    "Not erased: files that you saved with /save, your settings, the trusted keys, the "
    "acknowledgement of the intended use, and what your shell remembers of a -p. Flash storage "
    "may keep old blocks for a while: the encryption of the device protects those."
)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--session", metavar="ID", help="Only this conversation; 'last' is the latest.")
@click.option("--history-dir", metavar="FOLDER", help="Where transcripts are kept.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@LANG
def command(session: str | None, history_dir: str | None, yes: bool, as_json: bool) -> int:
    """Erase conversations and caches; without --session, all of them."""
    folder = history_folder(load_settings(None, {"history_dir": history_dir}))
    plan = plan_all(folder) if session is None else plan_session(_one(folder, session))
    if not plan.items:
        _show(as_json, _document(Forgotten(())), "There is nothing to forget.")
        return 0
    say(_plan_text(plan))
    _confirm(yes)
    done = execute(plan)
    _show(as_json, _document(done), _done_text(done))
    for item, reason in done.left:
        say(f"not erased: {item.path} ({reason})")
    return OutputError.exit_code if done.left else 0


def _one(folder: Path, wanted: str) -> Path:
    path = find_session(folder, wanted)
    if path.parent != folder:
        raise UsageError(f"'{wanted}' is no id of a session", wanted="an id, or its beginning")
    return path


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing was erased: it was not confirmed", remedy="give --yes")
    print(local("Erase them for good? [y/N] "), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes", "s", "sí", "si"}:
        raise UsageError("nothing was erased", remedy="answer y (s) to erase")


def _counts(plan: ForgetPlan) -> list[str]:
    counts = [(kind, *plan.count(kind)) for kind in _KINDS]
    return [f"  {kind}: {n} files, {human_bytes(size)}" for kind, n, size in counts if n]


def _plan_text(plan: ForgetPlan) -> str:
    return "\n".join(["To be erased:", *_counts(plan)])


def _done_text(done: Forgotten) -> str:
    return "\n".join(["Erased:", *_counts(ForgetPlan(done.removed)), NOT_ERASED])


def _document(done: Forgotten) -> dict[str, object]:
    return {
        "schema": "pedsup-forget/1",
        "removed": [
            {"path": str(item.path), "kind": item.kind, "bytes": item.size} for item in done.removed
        ],
        "left": [{"path": str(item.path), "reason": reason} for item, reason in done.left],
        "note": NOT_ERASED,
    }


def _show(as_json: bool, document: dict[str, object], text: str) -> None:
    print(json_text(enveloped(document, "pedsup-run")) if as_json else local(text), flush=True)
