"""`pedsup-run forget`: erase the transcripts and caches of this device."""

from __future__ import annotations

from pathlib import Path

import click

from pedsup.cli.output import confirm, show
from pedsup.cli.run_session import history_folder
from pedsup.cli.verbs import LANG
from pedsup.errors import OutputError, UsageError
from pedsup.messages import Message, joined, message
from pedsup.progress import human_bytes, say
from pedsup.run.forget import ForgetPlan, Forgotten, Kind, execute, plan_all, plan_session
from pedsup.session.files import find_session
from pedsup.settings.load import load_settings

_KIND_TEXTS: dict[Kind, Message] = {
    "session": message("sessions"),
    "prefix cache": message("prefix cache"),
    "verified files": message("verified files"),
    "unfinished measurement": message("unfinished measurements"),
    "left by a killed engine": message("left by a killed engine"),
    "mark of a killed run": message("marks of killed runs"),
}
NOT_ERASED = message(
    "Not erased: files that you saved with /save, your settings, the trusted "
    "keys, the acknowledgement of the intended use, and what your shell's "
    "history keeps of a -p. Flash storage may keep old blocks for a while; "
    "the device's encryption protects those."
)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--session", metavar="ID", help="Only this conversation; 'last' is the latest.")
@click.option("--history-dir", metavar="FOLDER", help="Where transcripts are kept.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@LANG
def command(session: str | None, history_dir: str | None, yes: bool, as_json: bool) -> int:
    """Erase conversations and caches; without --session, all of them."""
    folder = history_folder(load_settings(None, {"history_dir": history_dir}))
    plan = plan_all(folder) if session is None else plan_session(_one(folder, session))
    if not plan.items:
        show(as_json, _document(Forgotten(())), [message("There is nothing to forget.")])
        return 0
    say(joined("\n", [message("To be erased:"), *_counts(plan)]))
    if not yes:
        confirm(
            message("Erase them for good? [y/N] "),
            unasked=UsageError("nothing was erased: it was not confirmed", remedy="give --yes"),
            refused=UsageError("nothing was erased", remedy="answer y to erase"),
        )
    done = execute(plan)
    lines = [message("Erased:"), *_counts(ForgetPlan(done.removed)), NOT_ERASED]
    show(as_json, _document(done), lines)
    for item, reason in done.left:
        say(message("not erased: {path} ({reason})", path=item.path, reason=reason))
    return OutputError.exit_code if done.left else 0


def _one(folder: Path, wanted: str) -> Path:
    path = find_session(folder, wanted)
    if path.parent != folder:
        raise UsageError(
            message("'{id}' is not the id of a session", id=wanted),
            wanted="an id, or the start of one",
        )
    return path


def _counts(plan: ForgetPlan) -> list[Message]:
    counts = [(kind, *plan.count(kind)) for kind in _KIND_TEXTS]
    return [
        message("  {kind}: 1 file, {size}", kind=_KIND_TEXTS[kind], size=human_bytes(size))
        if n == 1
        else message(
            "  {kind}: {n} files, {size}", kind=_KIND_TEXTS[kind], n=n, size=human_bytes(size)
        )
        for kind, n, size in counts
        if n
    ]


def _document(done: Forgotten) -> dict[str, object]:
    return {
        "schema": "pedsup-forget/1",
        "removed": [
            {"path": str(item.path), "kind": item.kind, "bytes": item.size} for item in done.removed
        ],
        "left": [{"path": str(item.path), "reason": reason} for item, reason in done.left],
        "note": NOT_ERASED,
    }
