"""The session of a run: where transcripts are kept, and which one is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pedsup import __version__
from pedsup.cli.request import RunRequest
from pedsup.crash.marker import RunMarker
from pedsup.files.paths import data_folder, from_user, make_private
from pedsup.messages import message
from pedsup.run.plan import LaunchPlan
from pedsup.session.files import find_session, new_session, resume_session
from pedsup.session.history import Session
from pedsup.settings.schema import Settings
from pedsup.texts.intended_use import SHORT

NO_HISTORY = message("give --no-history to work without a transcript, or --history-dir FOLDER")


def history_folder(settings: Settings) -> Path:
    if settings.history_dir:
        return from_user(settings.history_dir)
    return data_folder() / "sessions"


@contextmanager
def run_session(
    request: RunRequest, settings: Settings, plan: LaunchPlan, marker: RunMarker | None
) -> Iterator[Session]:
    """The session of this run, its transcript locked; an empty new one leaves no file."""
    session = open_session(request, settings, plan)
    if marker is not None:
        marker.set_session(session.id)
    path = session.transcript.path if session.transcript is not None else None
    try:
        yield session
    finally:
        session.close()
        if path is not None and not session.exchanges:
            path.unlink(missing_ok=True)


def open_session(request: RunRequest, settings: Settings, plan: LaunchPlan) -> Session:
    folder = history_folder(settings)
    if request.resume is not None:
        session = resume_session(
            find_session(folder, request.resume), model_digest=plan.identity.digest
        )
        if settings.system is not None and settings.system != session.system:
            session.set_system(settings.system)
        return session
    # A single question from a script leaves no trace, unless it continues a session.
    if not request.interactive:
        return Session(system=settings.system or "")
    return start_session(settings, plan)


def start_session(settings: Settings, plan: LaunchPlan) -> Session:
    """A session with a transcript, or without one if the settings say so."""
    if not settings.history:
        return Session(system=settings.system or "")
    folder = make_private(history_folder(settings), remedy=NO_HISTORY)
    return new_session(folder, first_line(plan), system=settings.system or "")


def first_line(plan: LaunchPlan) -> dict[str, object]:
    template = plan.header.get("tokenizer.chat_template")
    sampling, adapter = plan.sampling, plan.config.adapter
    paths = {"path": str(plan.header.path.resolve())}
    if adapter is not None:
        paths["adapter_path"] = str(adapter.resolve())
    return {
        "pedsup": __version__,
        "model": {**plan.identity.describe(), **paths},
        "trust": plan.trust.describe(),
        "template": hashlib.sha256(str(template).encode()).hexdigest(),
        "settings": {
            "n_ctx": plan.config.n_ctx,
            "threads": plan.config.n_threads,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
        },
        "intended_use": SHORT["en"],
    }
