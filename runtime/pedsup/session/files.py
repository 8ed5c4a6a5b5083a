"""Starts the transcripts of sessions, finds them by name and opens them again."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pedsup.errors import MismatchError, UsageError
from pedsup.files.timestamp import now
from pedsup.messages import message
from pedsup.session.history import Session, replay
from pedsup.session.transcript import MAX_LINE, SUFFIX, Record, Transcript


def new_session(folder: Path, header: Mapping[str, object], *, system: str = "") -> Session:
    """Start a session with a transcript in `folder`; `header` fills its first line."""
    identity = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    first = {"id": identity, "created": now(), **header}
    session = Session(
        id=identity, transcript=Transcript.create(folder / (identity + SUFFIX), first)
    )
    if system:
        session.set_system(system)
    return session


def resume_session(path: Path, *, model_digest: str | None = None) -> Session:
    """Open a session again; an unfinished answer is closed as 'killed' with its partial text.

    Raises:
        OutputError: another session has it open.
        BadFileError: the transcript is damaged before its last line.
        MismatchError: it was held with another model.
    """
    transcript, records = Transcript.reopen(path)
    try:
        _check_model(path, records[0], model_digest)
        session = replay(records)
    except BaseException:
        transcript.close()
        raise
    # A copied transcript holds the id of the original: the file's own name decides.
    session.id, session.transcript = path.stem, transcript
    session.close_killed()
    return session


def find_session(folder: Path, wanted: str) -> Path:
    """The transcript that `--resume` means: 'last', an id or its beginning, or a path.

    Raises:
        UsageError: no session matches, or several do.
    """
    if "/" in wanted or wanted.endswith(SUFFIX):
        return Path(wanted)
    found = sorted(folder.glob("*" + SUFFIX)) if folder.is_dir() else []
    # A kill in the first write leaves an empty file, or one without a whole line: no session yet.
    found = [path for path in found if _has_begun(path)]
    if wanted == "last":
        if found:
            return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
        raise UsageError("there is no session to resume", where=folder, remedy="leave --resume out")
    matches = [path for path in found if path.name.startswith(wanted)]
    if len(matches) != 1:
        raise UsageError(
            message("no session is named '{id}'", id=wanted)
            if not matches
            else message("{n} sessions are named '{id}...'", n=len(matches), id=wanted),
            where=folder,
            wanted=message(
                "the beginning of one id: {ids}", ids=", ".join(p.stem for p in found[-5:])
            )
            if found
            else "the beginning of one id",
            remedy="give --resume without an id for the last session",
        )
    return matches[0]


def _has_begun(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(MAX_LINE).endswith(b"\n")


def _check_model(path: Path, first: Record, digest: str | None) -> None:
    model = first.get("model")
    recorded = model.get("digest") if isinstance(model, dict) else None
    if digest is not None and recorded is not None and recorded != digest:
        name = model.get("name") if isinstance(model, dict) else None
        raise MismatchError(
            "this conversation was held with another model",
            where=path,
            wanted=message(
                "{who} ({digest}...)",
                who=name if isinstance(name, str) and name else message("the model"),
                digest=str(recorded)[:16],
            ),
            remedy="run it with that model file, or start a new session without --resume",
        )
