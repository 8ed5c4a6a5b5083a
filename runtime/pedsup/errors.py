"""The error classes of pedsup.

A message has four parts: what was found, where, what was wanted, what to do.
`pedsup.cli.border` is the only place that catches them for good: everything below it raises.
"""

from __future__ import annotations

from typing import Final, Self

from pedsup.escape import escaped
from pedsup.exit_codes import ExitCode
from pedsup.messages import Message, as_message, joined, message

CONTINUED: Final = "\n          "
"""Between the lines of one part: below the first, past the labels."""


class PedsupError(Exception):
    """Base of every error that a user of pedsup can cause or mend.

    Each part is a `Message`, which is shown in the reader's language. A value in it may come from a
    file: it is escaped, so that each part is one line in every language. A part of several lines is
    given as a list of them.

    Args:
        found: what was found, one sentence.
        where: the file, tensor, field or line it concerns.
        wanted: what would have been right.
        remedy: what the user can do now; a command where there is one.
    """

    exit_code: ExitCode = ExitCode.PROBLEM
    found: Message
    where: str | None
    wanted: str | None
    remedy: str | None

    def __init__(
        self,
        found: str,
        *,
        where: object | None = None,
        wanted: str | list[str] | None = None,
        remedy: str | list[str] | None = None,
    ) -> None:
        self.found = _line(found)
        super().__init__(self.found)
        self.where = _where(where) or None
        self.wanted = _part(wanted)
        self.remedy = _part(remedy)

    def __str__(self) -> str:
        return str(self.text())

    def text(self) -> Message:
        """All parts, as they are shown."""
        rows = [self.found]
        if self.where:
            rows.append(message("  where:  {where}", where=self.where))
        if self.wanted:
            rows.append(message("  wanted: {wanted}", wanted=self.wanted))
        if self.remedy:
            rows.append(message("  do:     {remedy}", remedy=self.remedy))
        return joined("\n", rows)

    def at(self, where: object) -> Self:
        """The same error, with the place that it concerns."""
        return type(self)(self.found, where=where, wanted=self.wanted, remedy=self.remedy)

    def document(self) -> dict[str, object]:
        """For another process of ours: each part as `Message.document`."""
        parts = {"found": self.found, "where": self.where, "wanted": self.wanted,
                 "remedy": self.remedy}  # fmt: skip
        return {name: as_message(part).document() for name, part in parts.items() if part}


def _line(text: object) -> Message:
    """A part of one line: an id is ours, what fills it may be anybody's."""
    return as_message(text).mapped(escaped)


def _where(place: object | None) -> Message | None:
    """A name or a path is the same in every language; a place in words is a message."""
    if isinstance(place, list):
        return joined(CONTINUED, filter(None, map(_where, place))) if place else None
    if place is None or isinstance(place, Message):
        return place and _line(place)
    return _line(joined("", [str(place)]))


def _part(lines: str | list[str] | None) -> Message | None:
    """The lines of a part, each escaped; None where nothing is given."""
    given = lines if isinstance(lines, list) else [] if lines is None else [lines]
    return joined(CONTINUED, map(_line, given)) if any(given) else None


class BadFileError(PedsupError):
    """Bytes on disk are not what their format promises (truncated, forged, damaged)."""

    exit_code = ExitCode.BAD_FILE


class UnsupportedError(PedsupError):
    """The input is well-formed, but of a kind pedsup does not handle."""

    exit_code = ExitCode.UNSUPPORTED


class MismatchError(PedsupError):
    """Two inputs do not belong together (adapter and base, model and manifest)."""

    exit_code = ExitCode.MISMATCH


class OutputError(PedsupError):
    """The result cannot be written: it exists, the folder is read-only, the disk is full."""

    exit_code = ExitCode.OUTPUT


class ResourceError(PedsupError):
    """The machine has too little memory, disk or battery for what was asked."""

    exit_code = ExitCode.RESOURCE


class MissingDependencyError(PedsupError):
    """An optional dependency is not installed; the remedy is the install command."""

    exit_code = ExitCode.DEPENDENCY


class UsageError(PedsupError):
    """The command line or a settings file asks for something that makes no sense."""

    exit_code = ExitCode.USAGE


class MissingFileError(UsageError):
    """A file that the command line names is not there."""


class ContextFullError(UsageError):
    """The conversation with its next question is longer than the context."""


class EngineError(PedsupError):
    """llama.cpp refused, crashed or was killed."""

    exit_code = ExitCode.ENGINE


class UntrustedError(PedsupError):
    """A signature, a digest or a key is not what was promised: the file must not be run."""

    exit_code = ExitCode.UNTRUSTED


class HubError(PedsupError):
    """A model or data set is not available from the hub: no network, no such name, no access."""

    exit_code = ExitCode.HUB


def from_os_error(error: OSError) -> PedsupError:
    """Turn an `OSError` into an error that names the file and a remedy."""
    import errno

    remedies = {
        errno.ENOSPC: message("free space on that disk, or choose another output folder"),
        errno.EACCES: message("check the permissions, or choose another folder"),
        errno.EROFS: message("the file system is read-only: choose another folder"),
        errno.EIO: message("the disk reported an error: copy the file from its source again"),
    }
    kind = ResourceError if error.errno == errno.ENOSPC else OutputError
    return kind(
        error.strerror or str(error),
        where=error.filename,
        remedy=remedies.get(error.errno or 0),
    )
