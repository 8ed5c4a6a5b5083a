"""The exit codes of all four commands: one number for one kind of finding, everywhere.

`docs/exit-codes.md` explains them to users; the tests hold this table, that page and the errors of
all stages together. Numbers are never used for something else, because scripts rely on them.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ends with."""

    DONE = 0
    PROBLEM = 1
    """`doctor` found a problem; with a traceback, which Python ends so too, a defect of pedsup."""
    USAGE = 2
    BAD_FILE = 3
    UNSUPPORTED = 4
    MISMATCH = 5
    OUTPUT = 6
    RESOURCE = 7
    DEPENDENCY = 8
    ENGINE = 9
    UNTRUSTED = 10
    GATE = 11
    REGRESSION = 12
    HUB = 13
    INTERRUPTED = 130
    """128 and SIGINT's number, as shells count."""
    PIPE_CLOSED = 141
    """128 and SIGPIPE's number."""
