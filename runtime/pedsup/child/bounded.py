"""Runs short commands that cannot hang: their time and their output are limited."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

OUTPUT_LIMIT: Final = 1 << 18
"""Bytes of output that are read at most."""
COMMAND_S: Final = 0.6
"""Seconds after which a command is given up."""


class Ran(NamedTuple):
    """A command that ended: its exit code (negative: by that signal) and its output."""

    code: int
    text: str


def run_bounded(
    command: Sequence[str],
    timeout_s: float = COMMAND_S,
    *,
    env: Mapping[str, str] | None = None,
) -> Ran | None:
    """Run a command; both streams in one text. None where it is absent, too slow or endless.

    Args:
        env: its environment; None: ours.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return None
    assert child.stdout is not None
    deadline = time.monotonic() + timeout_s
    try:
        output = _output(child.stdout.fileno(), deadline)
        if output is None:
            return None
        code = child.wait(max(0.01, deadline - time.monotonic()))
    except (OSError, subprocess.TimeoutExpired):
        return None
    finally:
        child.stdout.close()
        # Also ends whatever the command left running.
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return Ran(code, output.decode("utf-8", "replace"))


def _output(fd: int, deadline: float) -> bytes | None:
    """What a command prints until it ends; None where that is too late or too much."""
    output = b""
    while len(output) < OUTPUT_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None
        block = os.read(fd, 1 << 16)
        if not block:
            return output
        output += block
    return None
