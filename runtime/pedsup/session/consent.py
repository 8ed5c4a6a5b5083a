"""The intended use: shown in full and acknowledged once per text, in short at every session."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pedsup import __version__
from pedsup.errors import BadFileError, OutputError, UsageError
from pedsup.files.paths import data_folder, write_private
from pedsup.files.source import read_json_object
from pedsup.files.timestamp import now
from pedsup.messages import message, reason_of
from pedsup.progress import say
from pedsup.texts.intended_use import FULL, Language
from pedsup.texts.language import translated

VARIABLE: Final = "PEDSUP_ACCEPT_INTENDED_USE"
FILE: Final = "intended-use.json"
MAX_BYTES: Final = 1 << 16
_ASK: Final = message("Type 'yes' to confirm that you have read this: ")
YES: Final = frozenset({"yes", "y", "sí", "si", "s"})


def text_digest() -> str:
    """SHA-256 of the full text in all languages: if it changes, the text is shown again."""
    joined = "\0".join(FULL[language] for language in sorted(FULL))
    return hashlib.sha256(joined.encode()).hexdigest()


def is_recorded(folder: Path | None = None) -> bool:
    """Whether this user acknowledged the present text."""
    try:
        path = (folder or data_folder()) / FILE
        record = read_json_object(path, "the acknowledgement", MAX_BYTES)
    except BadFileError:
        return False
    return record.get("text_sha256") == text_digest()


def accepted_by_environment() -> bool:
    """Whether the environment says that the text was read."""
    return os.environ.get(VARIABLE) == "1"


def require_consent(
    language: Language, *, accepted: bool, ask: Callable[[str], str] | None
) -> None:
    """Go on only if the intended use is acknowledged, now or earlier.

    Args:
        accepted: `--accept-intended-use` was given.
        ask: reads one line from the user, None when nobody is there to answer.

    Raises:
        UsageError: it was not acknowledged.
    """
    if is_recorded():
        return
    if accepted or accepted_by_environment():
        record_consent(language, "option")
        return
    if ask is None:
        raise UsageError(
            "the intended use has not been acknowledged yet",
            wanted="an acknowledgement before the first answer",
            remedy=message(
                "run pedsup-run once in a terminal, or read the text in --help and "
                "give --accept-intended-use (or set {name}=1)",
                name=VARIABLE,
            ),
        )
    say(FULL[language])
    try:
        reply = ask(translated(_ASK, language))
    except EOFError:
        reply = ""
    if reply.strip().lower() not in YES:
        raise UsageError("the intended use was not acknowledged", remedy="start again and type yes")
    record_consent(language, "terminal")


def record_consent(language: Language, how: str) -> None:
    """Remember it; a read-only home must not stop someone who has just agreed."""
    record = {
        "text_sha256": text_digest(),
        "acknowledged": now(),
        "how": how,
        "language": language,
        "version": __version__,
    }
    try:
        write_private(data_folder() / FILE, record, remedy="set XDG_DATA_HOME")
    except (OSError, OutputError) as error:
        say(
            message(
                "note: the acknowledgement could not be saved ({reason}): {folder}",
                reason=reason_of(error),
                folder=data_folder(),
            )
        )
