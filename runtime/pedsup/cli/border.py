"""The single place where errors become an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

import click

from pedsup.cli.command_line import fit_help_to_phones, readable
from pedsup.errors import PedsupError, from_os_error
from pedsup.exit_codes import ExitCode
from pedsup.files import standard_streams
from pedsup.progress import report
from pedsup.texts.language import translated


def border(program: Callable[[], int | None]) -> NoReturn:
    """Run a command and leave the process with its exit code, without a traceback.

    A `PedsupError` exits with its own code, an operating-system error on a file with that of an
    output, a full disk with that of a resource (`pedsup.exit_codes`).
    """
    standard_streams.prepare()
    code = _exit_code(program)
    # What is still buffered may not get out (a full disk, a reader that is gone): say it here,
    # once, and not at the interpreter's end.
    code = code or _exit_code(standard_streams.finish)
    if code:
        standard_streams.abandon_stdout()
    sys.exit(code)


def _exit_code(program: Callable[[], int | None]) -> int:
    """What a program ends with; what it raised is said."""
    fit_help_to_phones()
    try:
        return program() or ExitCode.DONE
    except click.ClickException as error:
        readable(error).show()
        return error.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except PedsupError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        print(translated("interrupted"), file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout is gone: nothing more can be said there.
        return ExitCode.PIPE_CLOSED
    except OSError as error:
        known = from_os_error(error)
        report(known)
        return known.exit_code
